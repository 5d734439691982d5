"""Traffic demand for SUMO and its trajectories: who drives and walks where, and the recorded positions at 10 Hz."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.traffic.network import Network, line_length, run_sumo_tool
from fusionperc.simulation.traffic.sizes import EGO_SIZE_LWH_M, draw_size

#: Recorded positions a second.
RATE_HZ = 10.0
#: Traffic drives this long before anything is recorded.
WARM_UP_S = 22.0
DEMAND_FILE = "town.rou.xml"

_Size = tuple[float, float, float]

#: Share of each kind among the vehicles, and its SUMO vehicle class.
_MIX: dict[str, tuple[float, str]] = {
    "car": (0.66, "passenger"),
    "truck": (0.09, "truck"),
    "bus": (0.05, "bus"),
    "bendy_front": (0.02, "bus"),
    "tractor": (0.05, "trailer"),
    "motorcycle": (0.03, "motorcycle"),
    "scooter": (0.03, "motorcycle"),
    "bicycle": (0.04, "bicycle"),
    "construction": (0.03, "truck"),
}
#: Body styles among the cars.
_CARS = {"car": 0.7, "suv": 0.2, "van": 0.1}
#: What a kind tows, and the clear space between the two.
TOWED: dict[str, tuple[str, float]] = {"tractor": ("trailer", 0.9), "bendy_front": ("bendy_rear", 0.2)}
_TOP_SPEED_MPS = {
    "bicycle": 6.0, "scooter": 11.0, "construction": 6.5, "bus": 13.5, "bendy_front": 13.0, "tractor": 12.5,
}  # fmt: skip
#: Metres of driving lane a vehicle, of sidewalk a walker.
_LANE_PER_VEHICLE_M = 54.0
_SIDEWALK_PER_WALKER_M = 22.0
_CHILD_SHARE = 0.08
#: Chance that someone has stopped to deliver on the kerb lane of a road that has more lanes, and who it is.
_DELIVERY_CHANCE = 0.5
_DELIVERY_KINDS = ("van", "van", "truck", "car")
_ROUTE_EDGES = 18
#: A walker who moves further in one frame has started anew elsewhere.
_JUMP_M = 3.0

#: How SUMO moves traffic: without collisions' after-effects, teleports or loss of late departures' order.
MODEL_OPTIONS = [
    "--step-length", str(1 / RATE_HZ), "--lanechange.duration", "3", "--time-to-teleport", "-1",
    "--collision.action", "none", "--collision.mingap-factor", "0", "--no-step-log", "--no-warnings",
    "--max-depart-delay", "10", "--pedestrian.striping.stripe-width", "0.75",
]  # fmt: skip


@dataclass(frozen=True)
class RoadUser:
    """Who takes part in the traffic, and where to.

    Attributes:
        name: SUMO's id.
        kind: key of `sizes`, or "ego" for cars fit to record.
        size_lwh_m: of the (towing) vehicle itself.
        towed_lwh_m: of what it tows, or None.
        edges: the streets it drives along, one after the other, or walks to, one far from the other.
        stands_at: the lane of its only street, and the station on it, where it stands all the time; None if it moves.
    """

    name: str
    kind: str
    size_lwh_m: _Size
    towed_lwh_m: _Size | None
    edges: tuple[str, ...]
    stands_at: tuple[int, float] | None = None

    @property
    def is_walker(self) -> bool:
        """Whether it goes on foot."""
        return self.kind in ("pedestrian", "child")

    @property
    def length_m(self) -> float:
        """Overall length, of what it tows too."""
        return self.size_lwh_m[0] + (TOWED[self.kind][1] + self.towed_lwh_m[0] if self.towed_lwh_m else 0.0)


@dataclass(frozen=True)
class Mover:
    """A recorded road user, without interruption.

    Attributes:
        user: who it is.
        name: unique among movers: a road user who was away for a while is several of them.
        first: frame of the recording at which it appears.
        front_m: (T, 2) front bumper (walkers: position) at `RATE_HZ`.
        heading_rad: (T,) heading as SUMO gives it, counter-clockwise from +x.
        lanes: (T,) SUMO's name of the lane it is on.
    """

    user: RoadUser
    name: str
    first: int
    front_m: NDArray[np.float64]
    heading_rad: NDArray[np.float64]
    lanes: tuple[str, ...]


def record_traffic(network: Network, seed: int, span_s: float, folder: Path) -> list[Mover]:
    """Runs SUMO in `folder` and returns everyone present during some of the span after the warm-up.

    The span has `num_frames(span_s)` frames. Order and content depend on the seed alone.
    """
    users = write_demand(network, seed, folder)
    arguments = [
        "--net-file", network.file.name, "--route-files", DEMAND_FILE, *MODEL_OPTIONS, "--begin", "0",
        "--end", f"{WARM_UP_S + span_s + 0.25:.2f}", "--seed", str(seed % 2**31), "--fcd-output", "fcd.xml",
        "--device.fcd.begin", f"{WARM_UP_S:.2f}", "--fcd-output.attributes", "x,y,angle,lane,edge", "--precision", "3",
    ]  # fmt: skip
    run_sumo_tool("sumo", arguments, folder)
    return _read_fcd(folder / "fcd.xml", users, num_frames(span_s))


def num_frames(span_s: float) -> int:
    """Frames of a recording, both ends counted."""
    return round(span_s * RATE_HZ) + 1


def write_demand(network: Network, seed: int, folder: Path) -> list[RoadUser]:
    """Draws who takes part in the traffic and writes it as SUMO's route file, `DEMAND_FILE`."""
    rng = np.random.default_rng((seed, 37))
    users = [*_draw_vehicles(network, rng), *_draw_deliveries(network, rng), *_draw_walkers(network, rng)]
    lines = [_vehicle_type(user, rng) for user in users]
    departures = [4.0 if user.is_walker else round(float(rng.uniform(0.1, 4)), 1) for user in users]
    departures = [0.0 if user.stands_at else time for user, time in zip(users, departures, strict=True)]
    # SUMO reads the file once, in order of departure.
    for index in sorted(range(len(users)), key=lambda k: (departures[k], k)):
        lines.append(_departure(users[index], departures[index]))
    (folder / DEMAND_FILE).write_text("\n".join(["<routes>", *lines, "</routes>"]))
    return users


def _draw_vehicles(network: Network, rng: np.random.Generator) -> list[RoadUser]:
    lane_m = sum(
        line_length(lane.shape_m) for e in network.edges.values() for lane in e.lanes if lane.kind == "driving"
    )
    kinds = list(_MIX)
    shares = np.array([_MIX[kind][0] for kind in kinds])
    users = []
    for index in range(round(lane_m / _LANE_PER_VEHICLE_M)):
        kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        edges = _draw_route(network, rng)
        if kind == "car" and index % 2 == 0:
            users.append(RoadUser(f"ego{index}", "ego", EGO_SIZE_LWH_M, None, edges))
            continue
        if kind == "car":
            kind = str(rng.choice(list(_CARS), p=list(_CARS.values())))
        towed = draw_size(TOWED[kind][0], rng) if kind in TOWED else None
        users.append(RoadUser(f"v{index}", kind, draw_size(kind, rng), towed, edges))
    return users


def _draw_deliveries(network: Network, rng: np.random.Generator) -> list[RoadUser]:
    """Vehicles that stand on the kerb lane, and make others change lanes."""
    users = []
    for name in sorted(network.edges):
        edge = network.edges[name]
        driving = [index for index, lane in enumerate(edge.lanes) if lane.kind == "driving"]
        if len(driving) > 1 and edge.length_m > 50 and rng.random() < _DELIVERY_CHANCE:
            kind = str(rng.choice(_DELIVERY_KINDS))
            place = (driving[0], round(edge.length_m * float(rng.uniform(0.45, 0.7)), 1))
            users.append(RoadUser(f"d{name}", kind, draw_size(kind, rng), None, (name,), place))
    return users


def _draw_route(network: Network, rng: np.random.Generator) -> tuple[str, ...]:
    """A random walk over the streets; going straight on is as likely as turning."""
    names = sorted(set(network.edges) - set(network.ring_edges))
    route = [names[rng.integers(len(names))]]
    while len(route) < _ROUTE_EDGES:
        options = network.successors(route[-1])
        if not options:
            break
        straight = {link.next_edge for link in network.links[route[-1]] if link.turn == "straight"}
        weight = np.array([2.0 if name in straight else 1.0 for name in options])
        route.append(options[rng.choice(len(options), p=weight / weight.sum())])
    return tuple(route)


def _draw_walkers(network: Network, rng: np.random.Generator) -> list[RoadUser]:
    names = sorted(network.edges)
    paths_m = sum(line_length(e.lanes[0].shape_m) for e in network.edges.values())
    users = []
    for index in range(round(paths_m / _SIDEWALK_PER_WALKER_M)):
        kind = "child" if rng.random() < _CHILD_SHARE else "pedestrian"
        stops = tuple(names[k] for k in rng.integers(len(names), size=3))
        users.append(RoadUser(f"p{index}", kind, draw_size(kind, rng), None, stops))
    return users


def _vehicle_type(user: RoadUser, rng: np.random.Generator) -> str:
    """SUMO's description of how someone drives or walks."""
    if user.is_walker:
        pace = float(np.clip(rng.normal(1.1 if user.kind == "child" else 1.35, 0.2), 0.8, 1.9))
        return (
            f'<vType id="t{user.name}" vClass="pedestrian" maxSpeed="{pace:.2f}" width="0.6" length="0.5"'
            ' minGap="0.35"/>'
        )
    group = _MIX[user.kind][1] if user.kind in _MIX else "passenger"
    width = max(user.size_lwh_m[1], user.towed_lwh_m[1] if user.towed_lwh_m else 0.0)
    heavy = user.length_m > 6.5
    accel = float(rng.uniform(0.8, 1.1) if heavy else rng.uniform(1.1, 1.8))
    factor = float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.15))
    return (
        f'<vType id="t{user.name}" vClass="{group}" length="{user.length_m:.2f}" width="{width:.2f}"'
        f' maxSpeed="{_TOP_SPEED_MPS.get(user.kind, 16.0)}" speedFactor="{factor:.3f}" carFollowModel="IDM"'
        f' accel="{accel:.2f}" decel="2.0" emergencyDecel="5" tau="{rng.uniform(1.0, 1.6):.2f}" minGap="2.2"'
        # Nobody slides sideways while standing; the impatient overtake.
        f' lcMaxSpeedLatStanding="0" lcMaxSpeedLatFactor="0.25" lcSpeedGain="{rng.uniform(1, 4):.2f}"/>'
    )


def _departure(user: RoadUser, time_s: float) -> str:
    if user.is_walker:
        walks = "".join(f'<walk from="{a}" to="{b}"/>' for a, b in pairwise(user.edges))
        return f'<person id="{user.name}" type="t{user.name}" depart="{time_s}" departPos="random">{walks}</person>'
    if user.stands_at is not None:
        lane, place = user.stands_at
        return (
            f'<vehicle id="{user.name}" depart="0" departPos="{place}" departLane="{lane}" departSpeed="0"'
            f' type="t{user.name}"><route edges="{user.edges[0]}"/>'
            f'<stop lane="{user.edges[0]}_{lane}" endPos="{place}" duration="100000"/></vehicle>'
        )
    return (
        f'<vehicle id="{user.name}" depart="{time_s}" departPos="random" departLane="best" departSpeed="0"'
        f' type="t{user.name}"><route edges="{" ".join(user.edges)}"/></vehicle>'
    )


_RECORD = re.compile(
    r'<(?:vehicle|person) id="([^"]+)" x="([^"]+)" y="([^"]+)" angle="([^"]+)" (?:lane|edge)="([^"]*)"'
)


def _read_fcd(path: Path, users: list[RoadUser], frames: int) -> list[Mover]:
    """Everyone's uninterrupted stretches among the first `frames` frames, in the order of `users`."""
    steps = path.read_text().split("<timestep ")[1 : frames + 1]
    if len(steps) < frames:
        raise RuntimeError(f"SUMO recorded {len(steps)} of {frames} frames")
    rows: dict[str, list[tuple[float, float, float, float]]] = {user.name: [] for user in users}
    lanes: dict[str, list[str]] = {user.name: [] for user in users}
    for frame, step in enumerate(steps):
        for name, x, y, angle, lane in _RECORD.findall(step):
            rows[name].append((frame, float(x), float(y), float(angle)))
            lanes[name].append(lane)
    movers = []
    for user in users:
        if not rows[user.name]:
            continue
        table = np.array(rows[user.name])
        jumps = (np.diff(table[:, 0]) > 1) | (np.linalg.norm(np.diff(table[:, 1:3], axis=0), axis=1) > _JUMP_M)
        bounds = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(table)]
        for part, (start, end) in enumerate(pairwise(bounds)):
            frame, x, y, angle = table[start:end].T
            name = user.name if part == 0 else f"{user.name}#{part}"
            heading = np.unwrap(np.pi / 2 - np.radians(angle))
            way = tuple(lanes[user.name][start:end])
            movers.append(Mover(user, name, int(frame[0]), np.stack([x, y], axis=1), heading, way))
    return movers
