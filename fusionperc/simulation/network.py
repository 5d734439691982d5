"""Street networks: a perturbed grid of curved streets, turned by SUMO's `netconvert` into lanes, junctions, traffic
lights, sidewalks and crossings.

Every street carries, from its kerb inwards, a sidewalk, on most streets a strip for parking (a lane nobody may drive
on), and one or two driving lanes a direction.

Source: Lopez et al., "Microscopic Traffic Simulation using SUMO", ITSC 2018.
"""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LaneKind = Literal["sidewalk", "parking", "driving"]

SIDEWALK_WIDTH_M = 2.8
PARKING_WIDTH_M = 3.0
DRIVING_WIDTH_M = 3.4
#: Ground between the outermost streets and the map's border.
MARGIN_M = 70.0
_SIZE_NODES = 4
_SPACING_M = 88.0
_JITTER_M = 11.0


@dataclass(frozen=True)
class Lane:
    """One lane of an edge: its centre line (N, 2) in driving direction and its width."""

    kind: LaneKind
    shape_m: NDArray[np.float64]
    width_m: float


@dataclass(frozen=True)
class Edge:
    """One direction of a street between two junctions; lanes from the kerb (right) to the middle (left)."""

    name: str
    lanes: tuple[Lane, ...]
    length_m: float

    def lane(self, kind: LaneKind) -> Lane | None:
        """The lane of a kind nearest to the kerb, or None."""
        return next((lane for lane in self.lanes if lane.kind == kind), None)


@dataclass(frozen=True)
class Network:
    """A street network as SUMO built it.

    Attributes:
        file: the `.net.xml`.
        size_m: side lengths of the map; all streets lie within [MARGIN_M, size - MARGIN_M] roughly.
        edges: by name.
        successors: edges a vehicle may drive on to.
        junctions, walking_areas: outlines (N, 2).
        crossings: centre lines (N, 2) and widths.
        signalled: corner points of approaches with a traffic light.
    """

    file: Path
    size_m: tuple[float, float]
    edges: dict[str, Edge]
    successors: dict[str, tuple[str, ...]]
    junctions: tuple[NDArray[np.float64], ...]
    walking_areas: tuple[NDArray[np.float64], ...]
    crossings: tuple[tuple[NDArray[np.float64], float], ...]
    signalled: tuple[str, ...]


def run_sumo_tool(name: str, arguments: list[str], folder: Path) -> None:
    """Runs one of SUMO's programs in a folder.

    Raises:
        ImportError: SUMO is not installed.
        RuntimeError: the program failed; the message carries its last lines.
    """
    try:
        import sumo
    except ImportError as error:
        raise ImportError("the traffic simulator SUMO is missing: pip install eclipse-sumo (extra `sim`)") from error
    command = [str(Path(sumo.SUMO_HOME) / "bin" / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"{name} failed with status {done.returncode}: {(done.stderr or done.stdout)[-600:].strip()}"
        )


def build_network(seed: int, folder: Path) -> Network:
    """Lays out the streets of town `seed` and lets `netconvert` build the network inside `folder`."""
    rng = np.random.default_rng((seed, 11))
    nodes = _node_positions(rng)
    streets = _streets(rng)
    _write_nodes(folder / "town.nod.xml", nodes, rng)
    _write_edges(folder / "town.edg.xml", nodes, streets, rng)
    arguments = [
        "--node-files", "town.nod.xml", "--edge-files", "town.edg.xml", "--output-file", "town.net.xml",
        "--crossings.guess", "--walkingareas", "--no-turnarounds", "--offset.disable-normalization",
        "--default.junctions.radius", "7", "--junctions.corner-detail", "8", "--junctions.internal-link-detail", "12",
        "--junctions.limit-turn-speed", "3.2", "--tls.cycle.time", "44", "--seed", str(seed), "--no-warnings",
    ]  # fmt: skip
    run_sumo_tool("netconvert", arguments, folder)
    return read_network(folder / "town.net.xml")


def _node_positions(rng: np.random.Generator) -> dict[tuple[int, int], NDArray[np.float64]]:
    jitter = rng.uniform(-_JITTER_M, _JITTER_M, (_SIZE_NODES, _SIZE_NODES, 2))
    return {
        (i, j): np.array([i, j]) * _SPACING_M + MARGIN_M + _JITTER_M + jitter[i, j]
        for i in range(_SIZE_NODES)
        for j in range(_SIZE_NODES)
    }


def _streets(rng: np.random.Generator) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The grid's streets less a few interior ones; every junction keeps at least three arms where it had them."""
    last = _SIZE_NODES - 1
    streets = [((i, j), (i + 1, j)) for i in range(last) for j in range(_SIZE_NODES)]
    streets += [((i, j), (i, j + 1)) for i in range(_SIZE_NODES) for j in range(last)]
    degree: dict[tuple[int, int], int] = {}
    for a, b in streets:
        degree[a] = degree.get(a, 0) + 1
        degree[b] = degree.get(b, 0) + 1
    for index in rng.permutation(len(streets))[:5]:
        a, b = streets[index]
        if degree[a] > 3 and degree[b] > 3:
            degree[a] -= 1
            degree[b] -= 1
            streets[index] = (a, a)
    return [street for street in streets if street[0] != street[1]]


def _write_nodes(path: Path, nodes: dict[tuple[int, int], NDArray[np.float64]], rng: np.random.Generator) -> None:
    lines = ["<nodes>"]
    for (i, j), (x, y) in nodes.items():
        inner = 0 < i < _SIZE_NODES - 1 and 0 < j < _SIZE_NODES - 1
        kind = "traffic_light" if rng.random() < (0.6 if inner else 0.25) else "priority"
        lines.append(f'<node id="n{i}_{j}" x="{x:.2f}" y="{y:.2f}" type="{kind}"/>')
    path.write_text("\n".join([*lines, "</nodes>"]))


def _write_edges(
    path: Path,
    nodes: dict[tuple[int, int], NDArray[np.float64]],
    streets: list[tuple[tuple[int, int], tuple[int, int]]],
    rng: np.random.Generator,
) -> None:
    wide = {(axis, int(rng.integers(_SIZE_NODES))) for axis in (0, 1)}
    lines = ["<edges>"]
    for a, b in streets:
        axis = 0 if a[1] == b[1] else 1
        is_main = (axis, a[1] if axis == 0 else a[0]) in wide
        has_parking = bool(rng.random() < 0.85)
        speed = 13.9 if is_main else float(rng.choice([9.7, 11.1, 12.5]))
        points = _curve(nodes[a], nodes[b], bulge_m=float(rng.uniform(-9, 9)))
        widths = [("pedestrian", SIDEWALK_WIDTH_M)]
        widths += [("", PARKING_WIDTH_M)] if has_parking else []
        lanes = "".join(
            f'<lane index="{index}" width="{width}" '
            + (f'allow="{allow}" speed="{1.6 if allow else 0.1}"/>' if allow else 'disallow="all"/>')
            for index, (allow, width) in enumerate(widths)
        )
        driving = 2 if is_main else 1
        lanes += "".join(
            f'<lane index="{len(widths) + k}" width="{DRIVING_WIDTH_M}" disallow="pedestrian"/>' for k in range(driving)
        )
        for start, end, shape in ((a, b, points), (b, a, points[::-1])):
            text = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape)
            name = f"e{start[0]}{start[1]}_{end[0]}{end[1]}"
            lines.append(
                f'<edge id="{name}" from="n{start[0]}_{start[1]}" to="n{end[0]}_{end[1]}"'
                f' priority="{3 if is_main else 1}"'
                f' numLanes="{len(widths) + driving}" speed="{speed}" shape="{text}" spreadType="right">{lanes}</edge>'
            )
    path.write_text("\n".join([*lines, "</edges>"]))


def _curve(a: NDArray[np.float64], b: NDArray[np.float64], bulge_m: float) -> NDArray[np.float64]:
    """(9, 2) points of a parabola from a to b that leaves the straight line by `bulge_m` in the middle."""
    t = np.linspace(0, 1, 9)[:, None]
    along = b - a
    left = np.array([-along[1], along[0]]) / np.hypot(*along)
    points: NDArray[np.float64] = a + along * t + left * bulge_m * 4 * t * (1 - t)
    return points


def _points(text: str) -> NDArray[np.float64]:
    return np.array([[float(v) for v in pair.split(",")[:2]] for pair in text.split()], dtype=np.float64)


def _lane_kind(lane: ElementTree.Element) -> LaneKind:
    if lane.get("allow") == "pedestrian":
        return "sidewalk"
    return "parking" if lane.get("disallow") == "all" else "driving"


def read_network(path: Path) -> Network:
    """Reads what the simulator needs from a `.net.xml`."""
    root = ElementTree.parse(path).getroot()
    edges: dict[str, Edge] = {}
    walking, crossings = [], []
    for element in root.iter("edge"):
        lanes = element.findall("lane")
        function = element.get("function", "normal")
        if function == "walkingarea":
            walking.append(_points(lanes[0].attrib["shape"]))
        elif function == "crossing":
            crossings.append((_points(lanes[0].attrib["shape"]), float(lanes[0].get("width", "4"))))
        elif function == "normal":
            parts = tuple(
                Lane(_lane_kind(lane), _points(lane.attrib["shape"]), float(lane.get("width", "3.2"))) for lane in lanes
            )
            edges[element.attrib["id"]] = Edge(element.attrib["id"], parts, float(lanes[-1].attrib["length"]))
    successors: dict[str, set[str]] = {name: set() for name in edges}
    signalled = set()
    for link in root.iter("connection"):
        source, target = link.attrib["from"], link.attrib["to"]
        if source in edges and target in edges and edges[source].lanes[int(link.attrib["fromLane"])].kind == "driving":
            successors[source].add(target)
            if link.get("tl"):
                signalled.add(source)
    junctions = [_points(j.attrib["shape"]) for j in root.iter("junction") if j.get("type") != "internal"]
    extent = _SPACING_M * (_SIZE_NODES - 1) + 2 * (MARGIN_M + _JITTER_M)
    return Network(
        file=path,
        size_m=(extent, extent),
        edges=edges,
        successors={name: tuple(sorted(targets)) for name, targets in successors.items()},
        junctions=tuple(shape for shape in junctions if len(shape) >= 3),
        walking_areas=tuple(walking),
        crossings=tuple(crossings),
        signalled=tuple(sorted(signalled)),
    )


def offset_line(shape_m: NDArray[np.float64], left_m: float) -> NDArray[np.float64]:
    """The line (N, 2) moved to its left by `left_m` (vertex normals; for gentle curves)."""
    tangent = np.gradient(shape_m, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    moved: NDArray[np.float64] = shape_m + left_m * np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return moved


def resample_line(
    shape_m: NDArray[np.float64], stations_m: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (N, 2) and headings (N,) of a line at arc lengths `stations_m`."""
    steps = np.linalg.norm(np.diff(shape_m, axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    points = np.stack([np.interp(stations_m, length, shape_m[:, k]) for k in (0, 1)], axis=1)
    heading = np.unwrap(np.arctan2(*np.diff(shape_m, axis=0).T[::-1]))
    middles = (length[1:] + length[:-1]) / 2
    return points, np.interp(stations_m, middles, heading)


def line_length(shape_m: NDArray[np.float64]) -> float:
    """Arc length of a line (N, 2)."""
    return float(np.linalg.norm(np.diff(shape_m, axis=0), axis=1).sum())
