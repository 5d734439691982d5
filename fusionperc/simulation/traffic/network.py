"""Street networks: plans of `streets`, turned by SUMO's `netconvert` into lanes, junctions, traffic lights, sidewalks
and crossings; and the ways through them.

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

from fusionperc.simulation.traffic.streets import COMFORTABLE_LATERAL_MPS2, ISLAND_KEY, MARGIN_M, write_plan

NETWORK_FILE = "town.net.xml"

LaneKind = Literal["sidewalk", "parking", "driving"]
Turn = Literal["left", "right", "straight"]

#: SUMO's letters for the direction of a connection; partial turns are turns from this angle on.
_TURNS: dict[str, Turn] = {"l": "left", "r": "right", "s": "straight", "t": "left", "L": "left", "R": "right"}
_TURN_RAD = 0.6
#: SUMO's letters for the right of way of a connection: minor, equal, stop, all-way stop.
_GIVES_WAY = ("m", "=", "s", "w")


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
class Link:
    """A way over a junction.

    Attributes:
        lane, next_lane: the lanes it joins, counted from the kerb of its edge and of the next one.
        next_edge: name of the edge it leads to.
        turn: by the change of heading.
        path_m: its centre line (N, 2).
        gives_way: whether those who take it must yield or stop for others.
    """

    lane: int
    next_edge: str
    next_lane: int
    turn: Turn
    path_m: NDArray[np.float64]
    gives_way: bool


@dataclass(frozen=True)
class Network:
    """A street network as SUMO built it.

    Attributes:
        file: the `.net.xml`.
        size_m: side lengths of the map; all streets lie within [MARGIN_M, size - MARGIN_M] roughly.
        edges: by name.
        links: the ways a vehicle may take from the end of an edge, by the edge's name.
        junctions, walking_areas: outlines (N, 2).
        crossings: centre lines (N, 2) and widths.
        signalled: names of edges that end at a traffic light.
        islands: circles that roundabouts go around: x, y, radius.
        ring_edges: names of the roundabouts' edges.
    """

    file: Path
    size_m: tuple[float, float]
    edges: dict[str, Edge]
    links: dict[str, tuple[Link, ...]]
    junctions: tuple[NDArray[np.float64], ...]
    walking_areas: tuple[NDArray[np.float64], ...]
    crossings: tuple[tuple[NDArray[np.float64], float], ...]
    signalled: tuple[str, ...]
    islands: tuple[tuple[float, float, float], ...]
    ring_edges: tuple[str, ...]

    def successors(self, edge: str) -> list[str]:
        """Names of the edges a vehicle may drive on to, sorted."""
        return sorted({link.next_edge for link in self.links[edge]})


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
    write_plan(seed, folder)
    arguments = [
        "--node-files", "town.nod.xml", "--edge-files", "town.edg.xml", "--output-file", NETWORK_FILE,
        "--crossings.guess", "--crossings.guess.speed-threshold", "16", "--walkingareas", "--no-turnarounds",
        "--offset.disable-normalization", "--junctions.corner-detail", "8", "--junctions.internal-link-detail", "12",
        "--junctions.limit-turn-speed", str(COMFORTABLE_LATERAL_MPS2), "--tls.cycle.time", "50", "--seed", str(seed),
        "--no-warnings",
    ]  # fmt: skip
    run_sumo_tool("netconvert", arguments, folder)
    return read_network(folder / NETWORK_FILE)


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
    junctions = [_points(j.attrib["shape"]) for j in root.iter("junction") if j.get("type") != "internal"]
    corners = np.concatenate([lane.shape_m for edge in edges.values() for lane in edge.lanes])
    east, north = np.ceil(corners.max(axis=0) + MARGIN_M)
    rings = {
        e.attrib["id"]: p.attrib["value"]
        for e in root.iter("edge")
        for p in e.iter("param")
        if p.get("key") == ISLAND_KEY
    }
    connections = [link for link in root.iter("connection") if link.get("to") in edges]
    return Network(
        file=path,
        size_m=(float(east), float(north)),
        edges=edges,
        links=_read_links(root, edges),
        junctions=tuple(shape for shape in junctions if len(shape) >= 3),
        walking_areas=tuple(walking),
        crossings=tuple(crossings),
        signalled=tuple(sorted({link.attrib["from"] for link in connections if link.get("tl")})),
        islands=tuple(
            (float(x), float(y), float(r)) for x, y, r in (text.split() for text in sorted({*rings.values()}))
        ),
        ring_edges=tuple(sorted(rings)),
    )


def _read_links(root: ElementTree.Element, edges: dict[str, Edge]) -> dict[str, tuple[Link, ...]]:
    """Ways over junctions between driving lanes; a way may consist of several of SUMO's internal lanes."""
    inner = {
        lane.attrib["id"]: _points(lane.attrib["shape"])
        for edge in root.iter("edge")
        if edge.get("function") == "internal"
        for lane in edge.findall("lane")
    }
    onwards = {
        f"{c.attrib['from']}_{c.attrib['fromLane']}": c.get("via")
        for c in root.iter("connection")
        if c.attrib["from"].startswith(":")
    }
    links: dict[str, list[Link]] = {name: [] for name in edges}
    for connection in root.iter("connection"):
        source, target = connection.attrib["from"], connection.attrib["to"]
        lane, next_lane = int(connection.attrib["fromLane"]), int(connection.attrib["toLane"])
        if source not in edges or target not in edges or edges[source].lanes[lane].kind != "driving":
            continue
        parts = []
        via = connection.get("via")
        while via is not None:
            parts.append(inner[via])
            via = onwards.get(via)
        path = np.concatenate(parts) if parts else np.zeros((0, 2))
        turn = _turn(connection.attrib["dir"], edges[source].lanes[lane], edges[target].lanes[next_lane])
        links[source].append(Link(lane, target, next_lane, turn, path, connection.attrib["state"] in _GIVES_WAY))
    return {name: tuple(ways) for name, ways in links.items()}


def _turn(direction: str, lane: Lane, next_lane: Lane) -> Turn:
    """SUMO's direction, except that slight bends go straight on."""
    before, after = lane.shape_m[-1] - lane.shape_m[-2], next_lane.shape_m[1] - next_lane.shape_m[0]
    cross, dot = before[0] * after[1] - before[1] * after[0], float(before @ after)
    return _TURNS[direction] if abs(np.arctan2(cross, dot)) > _TURN_RAD else "straight"


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
