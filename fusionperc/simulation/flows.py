"""Traffic demand for SUMO and its trajectories: who drives and walks where, and the recorded positions at 10 Hz."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.network import Network, line_length, run_sumo_tool
from fusionperc.simulation.sizes import EGO_SIZE_LWH_M, draw_size

#: Recorded positions a second.
RATE_HZ = 10.0
_WARM_UP_S = 22.0
#: Share of each kind among the vehicles, and its SUMO vehicle class.
_MIX: dict[str, tuple[float, str]] = {
    "car": (0.66, "passenger"),
    "truck": (0.09, "truck"),
    "bus": (0.06, "bus"),
    "trailer": (0.05, "trailer"),
    "motorcycle": (0.06, "motorcycle"),
    "bicycle": (0.05, "bicycle"),
    "construction": (0.03, "truck"),
}
#: Body styles among the cars.
_CARS = {"car": 0.7, "suv": 0.2, "van": 0.1}
_TOP_SPEED_MPS = {"bicycle": 6.0, "construction": 6.5, "bus": 12.0, "trailer": 11.0}
#: Metres of driving lane a vehicle, of sidewalk a walker.
_LANE_PER_VEHICLE_M = 46.0
_SIDEWALK_PER_WALKER_M = 22.0
#: Clear space between a towing truck and its trailer.
HITCH_GAP_M = 0.9


@dataclass(frozen=True)
class Mover:
    """A recorded road user.

    Attributes:
        name: SUMO's id.
        kind: key of `sizes`, "ego" for cars fit to record, "trailer" for a truck that tows one.
        size_lwh_m: of the (towing) vehicle itself.
        trailer_lwh_m: of the trailer it tows, or None.
        front_m: (T, 2) front bumper (pedestrians: position) at `RATE_HZ`.
        heading_rad: (T,) heading as SUMO gives it, counter-clockwise from +x.
    """

    name: str
    kind: str
    size_lwh_m: tuple[float, float, float]
    trailer_lwh_m: tuple[float, float, float] | None
    front_m: NDArray[np.float64]
    heading_rad: NDArray[np.float64]


def record_traffic(network: Network, seed: int, span_s: float, folder: Path) -> list[Mover]:
    """Runs SUMO in `folder` and returns everyone present during the whole span after the warm-up.

    The span has round(span_s * RATE_HZ) + 1 frames. Order and content depend on the seed alone.
    """
    rng = np.random.default_rng((seed, 37))
    riders = _draw_riders(network, rng)
    walkers = _draw_walkers(network, rng)
    _write_routes(folder / "town.rou.xml", network, riders, walkers, rng)
    end = _WARM_UP_S + span_s
    arguments = [
        "--net-file", network.file.name, "--route-files", "town.rou.xml", "--step-length", str(1 / RATE_HZ),
        "--begin", "0", "--end", f"{end + 0.25:.2f}", "--seed", str(seed % 2**31), "--fcd-output", "fcd.xml",
        "--device.fcd.begin", f"{_WARM_UP_S:.2f}", "--fcd-output.attributes", "x,y,angle", "--precision", "3",
        "--lanechange.duration", "3", "--time-to-teleport", "-1", "--collision.action", "none",
        "--collision.mingap-factor", "0", "--no-step-log", "--no-warnings", "--max-depart-delay", "10",
        "--pedestrian.striping.stripe-width", "0.75", "--default.speeddev", "0.1",
    ]  # fmt: skip
    run_sumo_tool("sumo", arguments, folder)
    frames = round(span_s * RATE_HZ) + 1
    tracks = _read_fcd(folder / "fcd.xml", frames)
    movers = []
    for name, kind, size, trailer in [*riders, *walkers]:
        if name in tracks:
            xya = tracks[name]
            movers.append(Mover(name, kind, size, trailer, xya[:, :2], np.unwrap(np.pi / 2 - np.radians(xya[:, 2]))))
    return movers


_Rider = tuple[str, str, tuple[float, float, float], tuple[float, float, float] | None]


def _draw_riders(network: Network, rng: np.random.Generator) -> list[_Rider]:
    lane_m = sum(
        line_length(lane.shape_m) for e in network.edges.values() for lane in e.lanes if lane.kind == "driving"
    )
    kinds = list(_MIX)
    shares = np.array([_MIX[kind][0] for kind in kinds])
    riders: list[_Rider] = []
    for index in range(round(lane_m / _LANE_PER_VEHICLE_M)):
        kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        if kind == "car" and index % 3 == 0:
            riders.append((f"ego{index}", "ego", EGO_SIZE_LWH_M, None))
            continue
        if kind == "car":
            kind = str(rng.choice(list(_CARS), p=list(_CARS.values())))
        towing = kind == "trailer"
        size = draw_size("tractor" if towing else kind, rng)
        riders.append((f"v{index}", kind, size, draw_size("trailer", rng) if towing else None))
    return riders


def _draw_walkers(network: Network, rng: np.random.Generator) -> list[_Rider]:
    paths_m = sum(line_length(e.lanes[0].shape_m) for e in network.edges.values())
    count = round(paths_m / _SIDEWALK_PER_WALKER_M)
    return [(f"p{index}", "pedestrian", draw_size("pedestrian", rng), None) for index in range(count)]


def _write_routes(
    path: Path, network: Network, riders: list[_Rider], walkers: list[_Rider], rng: np.random.Generator
) -> None:
    names = sorted(network.edges)
    lines = ["<routes>"]
    for name, kind, size, trailer in riders:
        length = size[0] + (HITCH_GAP_M + trailer[0] if trailer else 0.0)
        width = max(size[1], trailer[1] if trailer else 0.0)
        group = _MIX[kind][1] if kind in _MIX else "passenger"
        top = _TOP_SPEED_MPS.get(kind, 13.9)
        route = [names[rng.integers(len(names))]]
        while len(route) < 14:
            options = network.successors[route[-1]]
            if not options:
                break
            route.append(options[rng.integers(len(options))])
        lines.append(
            f'<vehicle id="{name}" depart="{rng.uniform(0, 4):.1f}" departPos="random" departLane="best"'
            f' departSpeed="0" type="t{name}"><route edges="{" ".join(route)}"/></vehicle>'
        )
        lines.insert(
            1,
            f'<vType id="t{name}" vClass="{group}" length="{length:.2f}" width="{width:.2f}" maxSpeed="{top}"'
            f' minGap="2.2" accel="{1.2 if length > 6 else 2.2}" decel="3.5" emergencyDecel="7" sigma="0.3"'
            # Nobody slides sideways while standing.
            ' lcMaxSpeedLatStanding="0" lcMaxSpeedLatFactor="0.25"/>',
        )
    for name, _, _, _ in walkers:
        first, second, third = (names[k] for k in rng.integers(len(names), size=3))
        pace = float(np.clip(rng.normal(1.35, 0.2), 0.8, 1.9))
        lines.insert(
            1,
            f'<vType id="t{name}" vClass="pedestrian" maxSpeed="{pace:.2f}" width="0.6" length="0.5" minGap="0.35"/>',
        )
        lines.append(
            f'<person id="{name}" type="t{name}" depart="4.0" departPos="random"><walk from="{first}" to="{second}"/>'
            f'<walk from="{second}" to="{third}"/></person>'
        )
    # SUMO reads the file once, in order of departure.
    head = [line for line in lines if line.startswith(("<routes", "<vType"))]
    body = sorted((line for line in lines if line not in set(head)), key=_departure)
    path.write_text("\n".join([*head, *body, "</routes>"]))


def _departure(line: str) -> float:
    found = re.search(r'depart="([\d.]+)"', line)
    return float(found.group(1)) if found else 0.0


_RECORD = re.compile(r'<(?:vehicle|person) id="([^"]+)" x="([^"]+)" y="([^"]+)" angle="([^"]+)"')


def _read_fcd(path: Path, frames: int) -> dict[str, NDArray[np.float64]]:
    """(T, 3) x, y and compass angle in degrees of everyone present in all of the last `frames` frames."""
    steps = path.read_text().split("<timestep ")[1:]
    steps = steps[:frames]
    if len(steps) < frames:
        raise RuntimeError(f"SUMO recorded {len(steps)} of {frames} frames")
    records = [_RECORD.findall(step) for step in steps]
    present = set.intersection(*({record[0] for record in frame} for frame in records))
    tracks: dict[str, list[tuple[float, float, float]]] = {name: [] for name in present}
    for frame in records:
        for name, x, y, angle in frame:
            if name in tracks:
                tracks[name].append((float(x), float(y), float(angle)))
    return {name: np.array(track) for name, track in tracks.items()}
