"""Drives: SUMO traffic around one recording car, as smooth functions of time.

`simulate_traffic` lays out a town, lets SUMO drive and walk in it, picks the ego among the cars, and furnishes the
roadside along its route. The result answers where the ego and every object is at any instant of the drive.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from fusionperc.simulation.sensors.rig import world_T_ego
from fusionperc.simulation.traffic.casting import choose_ego
from fusionperc.simulation.traffic.flows import RATE_HZ, num_frames, record_traffic
from fusionperc.simulation.traffic.motion import (
    FILTER_MARGIN_S,
    Track,
    ego_rear_axle,
    tracks_of,
    without_apparitions,
    without_overlaps,
)
from fusionperc.simulation.traffic.network import build_network
from fusionperc.simulation.traffic.roadside import Standing, furnish
from fusionperc.simulation.traffic.route import Route, route_of
from fusionperc.simulation.traffic.sizes import EGO_WHEELBASE_M, draw_colour
from fusionperc.simulation.world.town import KERB_HEIGHT_M, Town, build_town

logger = logging.getLogger(__name__)

#: A drive can be asked about times up to this much before its start and after its end (past sweeps need it).
TIME_MARGIN_S = 0.6
#: The recording starts this long before the drive.
LEAD_S = TIME_MARGIN_S + FILTER_MARGIN_S
_MOVING_MPS = 0.25
#: Two steps of a walker.
STRIDE_M = 1.5
#: Traffic appears and disappears only this far from the ego.
_APPEARS_M = 90.0
#: How far the ego's body pitches and rolls on its springs for each m/s^2 along and across.
_DIVE_RAD_PER_MPS2, _LEAN_RAD_PER_MPS2 = 0.004, 0.006

#: kind -> (nuScenes category, mesh model).
_CATEGORIES: dict[str, tuple[str, str]] = {
    "car": ("vehicle.car", "car"),
    "suv": ("vehicle.car", "suv"),
    "van": ("vehicle.car", "van"),
    "truck": ("vehicle.truck", "truck"),
    "tractor": ("vehicle.truck", "tractor"),
    "bus": ("vehicle.bus.rigid", "bus"),
    "bendy_front": ("vehicle.bus.bendy", "bendy_front"),
    "bendy_rear": ("vehicle.bus.bendy", "bendy_rear"),
    "trailer": ("vehicle.trailer", "trailer"),
    "construction": ("vehicle.construction", "excavator"),
    "motorcycle": ("vehicle.motorcycle", "motorcycle"),
    "motorcycle_parked": ("vehicle.motorcycle", "motorcycle"),
    "scooter": ("vehicle.motorcycle", "scooter"),
    "bicycle": ("vehicle.bicycle", "bicycle"),
    "bicycle_parked": ("vehicle.bicycle", "bicycle"),
    "pedestrian": ("human.pedestrian.adult", "pedestrian"),
    "child": ("human.pedestrian.child", "child"),
    "worker": ("human.pedestrian.construction_worker", "worker"),
    "cone": ("movable_object.trafficcone", "cone"),
    "barrier": ("movable_object.barrier", "barrier"),
}


_PEOPLE = ("pedestrian", "child", "worker")
_ON_KERB = (*_PEOPLE, "cone", "barrier", "construction")


@dataclass(frozen=True)
class Actor:
    """One annotated object at one instant, upright.

    Attributes:
        instance: unique and stable within the drive, from 0.
        category: full nuScenes category name.
        model: which parametric mesh (a key of `fusionperc.simulation.world.models.MODELS`).
        center_m: geometric centre, world frame.
        yaw_rad: heading, counter-clockwise from world +x, in (-pi, pi].
        size_lwh_m: length (along the heading), width, height.
        velocity_mps: world axes.
        attribute: nuScenes attribute name, "" for cones and barriers.
        colour: base albedo, linear RGB in [0, 1].
        phase_rad: walking phase.
    """

    instance: int
    category: str
    model: str
    center_m: tuple[float, float, float]
    yaw_rad: float
    size_lwh_m: tuple[float, float, float]
    velocity_mps: tuple[float, float]
    attribute: str
    colour: tuple[float, float, float]
    phase_rad: float


@dataclass(frozen=True)
class EgoState:
    """The ego's rear-axle ground point (nuScenes' ego origin), its attitude and its motion, world frame.

    Pitch is positive nose down, roll positive to the right. Speed and acceleration are along the heading; steering is
    the front wheels' angle, positive to the left.
    """

    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    pitch_rad: float
    roll_rad: float
    speed_mps: float
    acceleration_mps2: float
    yaw_rate_radps: float
    steering_rad: float

    @property
    def world_T_ego(self) -> NDArray[np.float64]:
        """Pose (4, 4)."""
        return world_T_ego(
            self.x_m, self.y_m, self.yaw_rad, z_m=self.z_m, pitch_rad=self.pitch_rad, roll_rad=self.roll_rad
        )


@dataclass(frozen=True)
class _Cast:
    """Time-independent facts of the drive's objects, moving ones first; arrays are (N, ...)."""

    kinds: tuple[str, ...]
    size_lwh_m: NDArray[np.float64]
    colours: tuple[tuple[float, float, float], ...]
    phase_rad: NDArray[np.float64]
    standing_xy_m: NDArray[np.float64]
    standing_yaw_rad: NDArray[np.float64]


class TrafficDrive:
    """One drive: the ego and every object as smooth functions of time, in seconds from the drive's start.

    Attributes:
        town: the streets and what stands along them.
        duration_s: the drive's length.
        route: where the ego is to go.
    """

    def __init__(self, staged: Staged, duration_s: float) -> None:
        tracks, standing, rng = staged.tracks, staged.standing, staged.rng
        self.town = staged.town
        self.duration_s = duration_s
        self.route = staged.route
        self._ego = CubicSpline(staged.times_s, np.column_stack([staged.ego_m, staged.ego_yaw_rad]))
        columns = [np.column_stack([track.center_m, track.yaw_rad, track.distance_m]) for track in tracks]
        times_s = staged.times_s
        self._movers = CubicSpline(times_s, np.stack(columns, axis=1) if columns else np.zeros((len(times_s), 0, 4)))
        self._there_s = times_s[
            np.array([(track.first, track.last) for track in tracks], dtype=np.int64).reshape(-1, 2)
        ]
        kinds = (*(track.kind for track in tracks), *(item.kind for item in standing))
        sizes = [*(track.size_lwh_m for track in tracks), *(item.size_lwh_m for item in standing)]
        self._cast = _Cast(
            kinds=kinds,
            size_lwh_m=np.array(sizes).reshape(-1, 3),
            colours=_draw_colours(tracks, kinds, rng),
            phase_rad=rng.uniform(0, 2 * np.pi, len(kinds)),
            standing_xy_m=np.array([item.center_m for item in standing]).reshape(-1, 2),
            standing_yaw_rad=np.array([item.yaw_rad for item in standing]),
        )

    @property
    def route_m(self) -> NDArray[np.float64]:
        """(N, 2) centre line of the lanes that the ego drives along, and some way further, world frame."""
        return self.route.line_m

    def _check(self, time_s: float) -> None:
        if not -TIME_MARGIN_S - 1e-6 <= time_s <= self.duration_s + TIME_MARGIN_S + 1e-6:
            raise ValueError(
                f"time_s = {time_s} is outside the drive; ask within"
                f" [-{TIME_MARGIN_S}, {self.duration_s + TIME_MARGIN_S}]"
            )

    def ego_at(self, time_s: float) -> EgoState:
        """The ego at a time in [-0.6, duration + 0.6].

        Raises:
            ValueError: the time is outside.
        """
        self._check(time_s)
        x, y, yaw = self._ego(time_s)
        vx, vy, yaw_rate = self._ego(time_s, 1)
        ax, ay, _ = self._ego(time_s, 2)
        cos, sin = np.cos(yaw), np.sin(yaw)
        speed, acceleration = float(vx * cos + vy * sin), float(ax * cos + ay * sin)
        terrain = self.town.terrain
        to_x, to_y = terrain.slope_at(x, y)
        return EgoState(
            x_m=float(x),
            y_m=float(y),
            z_m=float(terrain.height_at(x, y)),
            yaw_rad=_wrapped(float(yaw)),
            # The body follows the ground, and leans on its springs.
            pitch_rad=float(-np.arctan(to_x * cos + to_y * sin)) - _DIVE_RAD_PER_MPS2 * acceleration,
            roll_rad=float(np.arctan(to_y * cos - to_x * sin)) + _LEAN_RAD_PER_MPS2 * speed * float(yaw_rate),
            speed_mps=speed,
            acceleration_mps2=acceleration,
            yaw_rate_radps=float(yaw_rate),
            steering_rad=float(np.arctan(EGO_WHEELBASE_M * yaw_rate / max(speed, 0.5))),
        )

    def standing(self) -> list[Actor]:
        """The objects that never move, by instance."""
        count = self._movers(0.0).shape[0]
        return [actor for actor in self.actors_at(0.0, math.inf) if actor.instance >= count]

    def actors_at(self, time_s: float, radius_m: float = 80.0) -> list[Actor]:
        """Every object (not the ego) whose centre lies within `radius_m` of the ego at a time, by instance.

        Raises:
            ValueError: the time is outside [-0.6, duration + 0.6].
        """
        self._check(time_s)
        poses = self._movers(time_s)
        rates = self._movers(time_s, 1)
        count = len(poses)
        xy = np.concatenate([poses[:, :2], self._cast.standing_xy_m])
        yaw = np.concatenate([poses[:, 2], self._cast.standing_yaw_rad])
        near = np.linalg.norm(xy - self._ego(time_s)[:2], axis=1) <= radius_m
        near[:count] &= (self._there_s[:, 0] <= time_s + 1e-6) & (time_s - 1e-6 <= self._there_s[:, 1])
        near = np.flatnonzero(near)
        ground = ground_m(self.town, [self._cast.kinds[index] for index in near], xy[near])
        actors = []
        for index, base in zip(near.tolist(), ground.tolist(), strict=True):
            moves = index < count
            walked = float(poses[index, 3]) * 2 * np.pi / STRIDE_M if moves else 0.0
            actors.append(
                make_actor(
                    instance=index,
                    kind=self._cast.kinds[index],
                    place_m=(float(xy[index, 0]), float(xy[index, 1]), base),
                    yaw_rad=float(yaw[index]),
                    size_lwh_m=self._cast.size_lwh_m[index],
                    velocity_mps=(float(rates[index, 0]), float(rates[index, 1])) if moves else None,
                    colour=self._cast.colours[index],
                    phase_rad=float(self._cast.phase_rad[index] + walked),
                )
            )
        return actors


def make_actor(
    *,
    instance: int,
    kind: str,
    place_m: tuple[float, float, float],
    yaw_rad: float,
    size_lwh_m: NDArray[np.float64],
    velocity_mps: tuple[float, float] | None,
    colour: tuple[float, float, float],
    phase_rad: float,
) -> Actor:
    """An actor of a kind (key of `sizes`) on the ground at `place_m`; one without a velocity never moves."""
    category, model = _CATEGORIES[kind]
    length, width, height = size_lwh_m.tolist()
    return Actor(
        instance=instance,
        category=category,
        model=model,
        center_m=(place_m[0], place_m[1], place_m[2] + height / 2),
        yaw_rad=_wrapped(yaw_rad),
        size_lwh_m=(length, width, height),
        velocity_mps=velocity_mps or (0.0, 0.0),
        attribute=_attribute(kind, velocity_mps is not None, float(np.hypot(*(velocity_mps or (0.0, 0.0))))),
        colour=colour,
        phase_rad=phase_rad % (2 * np.pi),
    )


def ground_m(town: Town, kinds: Sequence[str], xy_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height (N,) of the ground under objects at (N, 2); vehicles near a kerb have their wheels on the road."""
    height = town.height_at(xy_m[:, 0], xy_m[:, 1]).astype(np.float64)
    road = town.terrain.height_at(xy_m[:, 0], xy_m[:, 1])
    on_kerb = np.array([kind in _ON_KERB for kind in kinds], dtype=bool) | (height - road > 0.99 * KERB_HEIGHT_M)
    return np.where(on_kerb, height, road)


def _wrapped(angle_rad: float) -> float:
    return float(-((-angle_rad + np.pi) % (2 * np.pi)) + np.pi)


def _attribute(kind: str, moves: bool, speed_mps: float) -> str:
    if kind in ("cone", "barrier"):
        return ""
    if kind in _PEOPLE:
        return "pedestrian.moving" if speed_mps > _MOVING_MPS else "pedestrian.standing"
    if kind.startswith(("motorcycle", "bicycle", "scooter")):
        return "cycle.without_rider" if kind.endswith("_parked") else "cycle.with_rider"
    if not moves:
        return "vehicle.parked"
    return "vehicle.moving" if speed_mps > _MOVING_MPS else "vehicle.stopped"


def simulate_traffic(town_seed: int, drive_seed: int, duration_s: float, folder: Path) -> TrafficDrive:
    """One drive of `duration_s` in town `town_seed`; SUMO runs, and leaves its files, in `folder`.

    Deterministic: the same seeds and duration give the same drive.

    Raises:
        ImportError: SUMO is not installed.
        RuntimeError: SUMO failed, or no car of the recording kind was on the road.
        ValueError: the duration is not positive.
    """
    staged = stage_traffic(town_seed, drive_seed, duration_s, folder)
    return TrafficDrive(staged, duration_s)


@dataclass(frozen=True)
class Staged:
    """What a drive is made of.

    Attributes:
        town: the streets and what stands along them.
        sumo_seed: of SUMO's run and its demand.
        times_s: (T,) of the recorded frames, from the drive's start.
        ego: name of the recording car.
        ego_m, ego_yaw_rad: its rear axle's ground point (T, 2) and heading (T,).
        route: where it is to go.
        tracks: of everybody else, without those who would touch another or come out of nothing.
        standing: what never moves.
        rng: for what is still to be drawn.
    """

    town: Town
    sumo_seed: int
    times_s: NDArray[np.float64]
    ego: str
    ego_m: NDArray[np.float64]
    ego_yaw_rad: NDArray[np.float64]
    route: Route
    tracks: list[Track]
    standing: list[Standing]
    rng: np.random.Generator


def stage_traffic(town_seed: int, drive_seed: int, duration_s: float, folder: Path) -> Staged:
    """Lays out the town, records its traffic, chooses the ego and furnishes the roadside; see `simulate_traffic`."""
    if duration_s <= 0:
        raise ValueError(f"duration_s = {duration_s} must be positive")
    folder.mkdir(parents=True, exist_ok=True)
    network = build_network(town_seed, folder)
    town = build_town(network, town_seed)
    rng = np.random.default_rng((town_seed, drive_seed, 41))
    sumo_seed = int(rng.integers(2**31))
    span = duration_s + 2 * LEAD_S
    movers = record_traffic(network, sumo_seed, span, folder)
    frames = num_frames(span)
    ego = choose_ego(network, movers, frames, rng)
    position, yaw = ego_rear_axle(ego)
    tracks = [track for mover in movers for track in tracks_of(mover, frames)]
    tracks = without_overlaps(without_apparitions(tracks, position, _APPEARS_M), protected=ego.name)
    standing = furnish(town, tracks, position, rng)
    others = [track for track in tracks if track.name != ego.name]
    logger.debug(
        "town %d drive %d: ego %s, %d moving, %d standing", town_seed, drive_seed, ego.name, len(others), len(standing)
    )
    times = np.arange(frames) / RATE_HZ - LEAD_S
    return Staged(town, sumo_seed, times, ego.name, position, yaw, route_of(network, ego), others, standing, rng)


def _draw_colours(
    tracks: list[Track], kinds: tuple[str, ...], rng: np.random.Generator
) -> tuple[tuple[float, float, float], ...]:
    """A colour each; the rear of an articulated bus has its front's."""
    colours = [draw_colour(kind, rng) for kind in kinds]
    index = {track.name: k for k, track in enumerate(tracks)}
    for k, track in enumerate(tracks):
        if track.kind == "bendy_rear":
            colours[k] = colours[index[track.name.removesuffix("+towed")]]
    return tuple(colours)
