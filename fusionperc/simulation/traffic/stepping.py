"""Traffic in steps, around an ego that is steered from outside: the ground for closed-loop driving.

    with SteppedTraffic(folder) as traffic:
        actors = traffic.reset(town_seed=0, drive_seed=3)
        x_m, y_m, yaw_rad = traffic.ego_start
        while driving:
            x_m, y_m, yaw_rad = drive_on(actors, traffic.route, x_m, y_m, yaw_rad)
            actors = traffic.step(x_m, y_m, yaw_rad)

Others brake for the ego, follow it and give way to it as to any car. SUMO runs inside the process (libsumo), so a
process can step one traffic at a time.

Source: Lopez et al., "Microscopic Traffic Simulation using SUMO", ITSC 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import numpy as np

from fusionperc.simulation.traffic.drive import LEAD_S, STRIDE_M, Actor, Staged, ground_m, make_actor, stage_traffic
from fusionperc.simulation.traffic.flows import (
    DEMAND_FILE,
    MODEL_OPTIONS,
    RATE_HZ,
    TOWED,
    WARM_UP_S,
    RoadUser,
    write_demand,
)
from fusionperc.simulation.traffic.motion import AXLE_SHARE, TOWED_AXLE_SHARE, WALK_MPS, Array
from fusionperc.simulation.traffic.network import NETWORK_FILE
from fusionperc.simulation.traffic.route import Route
from fusionperc.simulation.traffic.sizes import EGO_REAR_AXLE_TO_FRONT_M, draw_colour
from fusionperc.simulation.world.town import Town

#: Traffic moves in steps of this length.
STEP_S = 1 / RATE_HZ
#: The ego is chosen as one that drives on for this long.
_STAGED_S = 10.0
#: Walkers turn round at most this fast.
_TURN_RADPS = 2.5
#: Place the car exactly there, on the street or off it, and keep its route as well as may be.
_KEEP_ROUTE = 2


@dataclass
class _Body:
    """Something that moves, drawn along by the point at its front: a vehicle's axle only rolls, walkers turn.

    Attributes:
        actor: number of the actor.
        kind: key of `sizes`.
        size_lwh_m: (3,).
        colour, phase_rad: as an actor has them.
        to_axle_m, to_center_m, to_rear_m: from the point that draws it; 0 for walkers.
        lead_m, center_m: where that point and the centre are.
        yaw_rad, velocity_mps, walked_m: heading, velocity over the last step, path so far.
    """

    actor: int
    kind: str
    size_lwh_m: Array
    colour: tuple[float, float, float]
    phase_rad: float
    to_axle_m: float
    to_center_m: float
    to_rear_m: float
    lead_m: Array
    center_m: Array
    yaw_rad: float
    velocity_mps: Array
    walked_m: float = 0.0

    def drawn_to(self, lead_m: Array) -> None:
        """Moves the body along with its front."""
        if self.to_axle_m > 0:
            axle = self.lead_m - self.to_axle_m * _direction(self.yaw_rad)
            self.yaw_rad = float(np.arctan2(*(lead_m - axle)[::-1]))
            center = lead_m - self.to_center_m * _direction(self.yaw_rad)
        else:
            step = lead_m - self.lead_m
            length = float(np.hypot(*step))
            lead_m = center = self.lead_m + step * min(1.0, WALK_MPS * STEP_S / max(length, 1e-9))
            if length > 0.3 * STEP_S:
                turn = np.angle(np.exp(1j * (np.arctan2(step[1], step[0]) - self.yaw_rad)))
                self.yaw_rad += float(np.clip(turn, -_TURN_RADPS * STEP_S, _TURN_RADPS * STEP_S))
        self.velocity_mps = (center - self.center_m) / STEP_S
        self.walked_m += float(np.hypot(*(center - self.center_m)))
        self.lead_m, self.center_m = lead_m, center

    @property
    def rear_m(self) -> Array:
        """Where it draws what it tows."""
        return self.lead_m - self.to_rear_m * _direction(self.yaw_rad)


def _direction(yaw_rad: float) -> Array:
    return np.array([np.cos(yaw_rad), np.sin(yaw_rad)])


class SteppedTraffic:
    """The traffic of `simulate_traffic`, a step at a time, with the ego moved from outside.

    Attributes:
        town: where it drives; known after `reset`, as are the others.
        route: where the ego is to go.
        ego_start: the ego's rear axle ground point and heading, x, y, yaw, world frame, at time 0.
        time_s: since `reset`.
    """

    town: Town
    route: Route
    ego_start: tuple[float, float, float]
    time_s: float

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sumo = _load_sumo()
        self._runs = False
        self._staged: tuple[tuple[int, int], Staged] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends SUMO's run; `reset` starts another one."""
        if self._runs:
            self._sumo.close()
            self._runs = False

    def reset(self, town_seed: int, drive_seed: int) -> list[Actor]:
        """Starts the traffic of a town and a drive anew; returns everyone there, except the ego, at time 0.

        Raises:
            RuntimeError: another traffic is being stepped in this process, SUMO failed, or there is no car to steer.
        """
        self.close()
        if self._sumo.isLoaded():
            raise RuntimeError("this process is stepping another traffic: close that one first")
        if self._staged is None or self._staged[0] != (town_seed, drive_seed):
            drawn = stage_traffic(town_seed, drive_seed, _STAGED_S, self._folder)
            self._staged = ((town_seed, drive_seed), drawn)
        staged = self._staged[1]
        self.town, self.route = staged.town, staged.route
        self._ego = staged.ego
        self._users = {user.name: user for user in write_demand(self.town.network, staged.sumo_seed, self._folder)}
        self._rng = np.random.default_rng((town_seed, drive_seed, 47))
        self._bodies: dict[str, list[_Body]] = {}
        self._num_actors = len(staged.standing)
        self._standing = self._stand(staged)
        self._start(staged.sumo_seed)
        frame = round(LEAD_S * RATE_HZ)
        yaw = float(staged.ego_yaw_rad[frame])
        x_m, y_m = staged.ego_m[frame].tolist()
        self.ego_start = (x_m, y_m, yaw)
        self.time_s = 0.0
        return self._actors()

    def step(self, x_m: float, y_m: float, yaw_rad: float) -> list[Actor]:
        """Puts the ego's rear axle somewhere and lets the others drive on by `STEP_S`.

        Args:
            x_m, y_m: ground point under the ego's rear axle at the end of the step, world frame.
            yaw_rad: its heading then, counter-clockwise from world +x.

        Returns:
            Everyone there except the ego, by instance; instances stay the same from `reset` on.

        Raises:
            RuntimeError: before `reset`, or the ego has reached the end of its route.
        """
        if not self._runs:
            raise RuntimeError("no traffic is running: call reset() first")
        if self._ego not in self._sumo.vehicle.getIDList():
            raise RuntimeError("the ego is at the end of its route: call reset()")
        front = np.array([x_m, y_m]) + EGO_REAR_AXLE_TO_FRONT_M * _direction(yaw_rad)
        compass_deg = float(np.degrees(np.pi / 2 - yaw_rad))
        self._sumo.vehicle.moveToXY(self._ego, "", -1, float(front[0]), float(front[1]), compass_deg, _KEEP_ROUTE)
        self._advance()
        self.time_s += STEP_S
        return self._actors()

    def _start(self, seed: int) -> None:
        """Runs the traffic up to time 0; bodies settle in the lead."""
        arguments = ["--net-file", str(self._folder / NETWORK_FILE), "--route-files", str(self._folder / DEMAND_FILE)]
        self._sumo.start(["sumo", *arguments, *MODEL_OPTIONS, "--begin", "0", "--seed", str(seed)])
        self._runs = True
        for _ in range(round(WARM_UP_S * RATE_HZ)):
            self._sumo.simulationStep()
        for _ in range(round(LEAD_S * RATE_HZ) + 1):
            self._advance()

    def _advance(self) -> None:
        self._sumo.simulationStep()
        present = dict.fromkeys([*self._sumo.vehicle.getIDList(), *self._sumo.person.getIDList()])
        present.pop(self._ego, None)
        self._bodies = {name: bodies for name, bodies in self._bodies.items() if name in present}
        for name in sorted(present):
            user = self._users[name]
            of = self._sumo.person if user.is_walker else self._sumo.vehicle
            lead = np.array(of.getPosition(name)[:2])
            if name not in self._bodies:
                self._bodies[name] = self._enter(user, lead, float(np.pi / 2 - np.radians(of.getAngle(name))))
            for body in self._bodies[name]:
                body.drawn_to(lead)
                lead = body.rear_m

    def _enter(self, user: RoadUser, lead_m: Array, yaw_rad: float) -> list[_Body]:
        """The bodies of someone who has just appeared: straight behind one another."""
        length = user.size_lwh_m[0]
        if user.is_walker:
            return [self._body(user.kind, user.size_lwh_m, (0.0, 0.0, 0.0), lead_m, yaw_rad)]
        kind = "car" if user.kind == "ego" else user.kind
        bodies = [self._body(kind, user.size_lwh_m, (AXLE_SHARE * length, length / 2, length), lead_m, yaw_rad)]
        if user.towed_lwh_m is not None:
            towed, gap = TOWED[user.kind]
            reach = user.towed_lwh_m[0]
            along = (gap + TOWED_AXLE_SHARE * reach, gap + reach / 2, gap + reach)
            bodies.append(self._body(towed, user.towed_lwh_m, along, bodies[0].rear_m, yaw_rad))
            if towed == "bendy_rear":
                bodies[1].colour = bodies[0].colour
        return bodies

    def _body(
        self,
        kind: str,
        size_lwh_m: tuple[float, float, float],
        along_m: tuple[float, float, float],
        lead_m: Array,
        yaw_rad: float,
    ) -> _Body:
        self._num_actors += 1
        return _Body(
            actor=self._num_actors - 1,
            kind=kind,
            size_lwh_m=np.array(size_lwh_m),
            colour=draw_colour(kind, self._rng),
            phase_rad=float(self._rng.uniform(0, 2 * np.pi)),
            to_axle_m=along_m[0],
            to_center_m=along_m[1],
            to_rear_m=along_m[2],
            lead_m=lead_m,
            center_m=lead_m - along_m[1] * _direction(yaw_rad),
            yaw_rad=yaw_rad,
            velocity_mps=np.zeros(2),
        )

    def _stand(self, staged: Staged) -> list[Actor]:
        things = staged.standing
        places = np.array([thing.center_m for thing in things]).reshape(-1, 2)
        ground = ground_m(self.town, [thing.kind for thing in things], places)
        return [
            make_actor(
                instance=index,
                kind=thing.kind,
                place_m=(*thing.center_m, base),
                yaw_rad=thing.yaw_rad,
                size_lwh_m=np.array(thing.size_lwh_m),
                velocity_mps=None,
                colour=draw_colour(thing.kind, self._rng),
                phase_rad=float(self._rng.uniform(0, 2 * np.pi)),
            )
            for index, (thing, base) in enumerate(zip(things, ground.tolist(), strict=True))
        ]

    def _actors(self) -> list[Actor]:
        bodies = sorted((body for bodies in self._bodies.values() for body in bodies), key=lambda body: body.actor)
        places = np.array([body.center_m for body in bodies]).reshape(-1, 2)
        ground = ground_m(self.town, [body.kind for body in bodies], places)
        moving = [
            make_actor(
                instance=body.actor,
                kind=body.kind,
                place_m=(float(body.center_m[0]), float(body.center_m[1]), base),
                yaw_rad=body.yaw_rad,
                size_lwh_m=body.size_lwh_m,
                velocity_mps=(float(body.velocity_mps[0]), float(body.velocity_mps[1])),
                colour=body.colour,
                phase_rad=body.phase_rad + body.walked_m * 2 * np.pi / STRIDE_M,
            )
            for body, base in zip(bodies, ground.tolist(), strict=True)
        ]
        return [*self._standing, *moving]


def _load_sumo() -> ModuleType:
    try:
        import libsumo
    except ImportError as error:
        raise ImportError("SUMO as a library is missing: pip install libsumo (extra `sim`)") from error
    module: ModuleType = libsumo
    return module
