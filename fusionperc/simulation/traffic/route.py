"""Routes: the streets a car drives along as one line, with the turns on its way."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import LineString, Point

from fusionperc.simulation.traffic.flows import Mover
from fusionperc.simulation.traffic.network import Edge, Link, Network, Turn, line_length, resample_line

Array = NDArray[np.float64]
_STEP_M = 1.0
#: A vehicle's route goes on for this long after the last street it is seen on.
_AHEAD_M = 100.0
#: Changing lanes takes this much of a street.
_CHANGE_M = 24.0
#: A place driven along in another heading counts as so much further away.
_WRONG_WAY_M = 30.0
#: Passing a roundabout turns by more than this, or goes straight on.
_TURN_RAD = 0.8


@dataclass(frozen=True)
class Junction:
    """A junction on a route (a roundabout is one): the stations between which it is passed, and which way."""

    start_m: float
    end_m: float
    turn: Turn
    is_signalled: bool


@dataclass(frozen=True)
class LaneUse:
    """Lanes used of a street, counted from its kerb, one after the other, and the stations where they change."""

    lanes: tuple[int, ...]
    changes_m: tuple[float, ...] = ()

    def then(self, lane: int, station_m: float) -> LaneUse:
        """Changes to another lane too."""
        return LaneUse((*self.lanes, lane), (*self.changes_m, station_m))


@dataclass(frozen=True)
class Route:
    """Where a car is to go.

    Attributes:
        edges: names of the streets, in order.
        line_m: (N, 2) centre line of the lanes, world frame, a point a metre.
        junctions: in order.
    """

    edges: tuple[str, ...]
    line_m: Array
    junctions: tuple[Junction, ...]

    def stations_of(self, points_m: Array, yaw_rad: Array | None = None) -> tuple[Array, Array]:
        """Where points (N, 2) are on the route, at best at places driven along in about the headings (N,) given.

        Returns:
            Station (N,) of the nearest place, and how far (N,) the point is to the left of it.
        """
        tangent = np.gradient(self.line_m, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        offset = points_m[:, None] - self.line_m[None]
        distance = np.linalg.norm(offset, axis=2)
        if yaw_rad is not None:
            agrees = np.stack([np.cos(yaw_rad), np.sin(yaw_rad)], axis=1) @ tangent.T
            distance += _WRONG_WAY_M * (agrees < 0.3)
        index = distance.argmin(axis=1)
        row = np.arange(len(points_m))
        along = (offset[row, index] * tangent[index]).sum(axis=1)
        left = tangent[index, 0] * offset[row, index, 1] - tangent[index, 1] * offset[row, index, 0]
        return index * _STEP_M + along, left

    def headings(self, stations_m: Array) -> Array:
        """Headings (N,) of the line at stations (N,), unwrapped."""
        return resample_line(self.line_m, stations_m)[1]

    def next_turn(self, station_m: float, within_m: float) -> Turn:
        """Which way the junction goes that is being passed or begins within so many metres; "straight" if none."""
        for junction in self.junctions:
            if junction.start_m - within_m <= station_m <= junction.end_m:
                return junction.turn
        return "straight"


def route_of(network: Network, mover: Mover) -> Route:
    """A recorded vehicle's way from the street it starts on to `_AHEAD_M` beyond its last one; lanes as driven."""
    driven: dict[int, LaneUse] = {}
    place = 0
    edges = mover.user.edges
    for name, front_m in zip(mover.lanes, mover.front_m, strict=True):
        edge, _, number = name.rpartition("_")
        if edge not in network.edges:
            continue
        place = edges.index(edge, place)
        lane = int(number)
        if place not in driven:
            driven[place] = LaneUse((lane,))
        elif lane != driven[place].lanes[-1]:
            station = LineString(network.edges[edge].lanes[lane].shape_m).project(Point(front_m))
            driven[place] = driven[place].then(lane, station)
    first = min(driven, default=0)
    first -= mover.lanes[0].startswith(":") and first > 0
    last = max(driven, default=first)
    further = 0.0
    while last + 1 < len(edges) and further < _AHEAD_M:
        last += 1
        further += network.edges[edges[last]].length_m
    return plan_route(network, edges[first : last + 1], {k - first: use for k, use in driven.items()})


def plan_route(network: Network, edges: tuple[str, ...], lanes: dict[int, LaneUse]) -> Route:
    """The line along `edges`.

    Args:
        network: the streets.
        edges: names of streets, each leading to the next.
        lanes: lanes to use, by place in `edges`; elsewhere the one come upon, and the nearest to it that leads on.
    """
    parts: list[Array] = []
    passages: list[tuple[int, Link, str]] = []
    kerb = next(k for k, lane in enumerate(network.edges[edges[0]].lanes) if lane.kind == "driving")
    use = lanes.get(0, LaneUse((kerb,)))
    for place, (edge, following) in enumerate(pairwise(edges)):
        wanted = lanes[place + 1].lanes[0] if place + 1 in lanes else None
        link = _link(network, edge, following, use.lanes[-1], wanted)
        if place == 0 and 0 not in lanes:
            use = LaneUse((link.lane,))
        elif link.lane != use.lanes[-1]:
            use = use.then(link.lane, network.edges[edge].length_m / 2)
        parts.append(_along(network.edges[edge], use))
        passages.append((len(parts), link, edge))
        parts.append(link.path_m)
        use = lanes.get(place + 1, LaneUse((link.next_lane,)))
    parts.append(_along(network.edges[edges[-1]], use))
    starts = np.cumsum([0.0, *(_joint_length(parts, k) for k in range(len(parts)))])
    line = np.concatenate(parts)
    line = line[np.concatenate([[True], np.linalg.norm(np.diff(line, axis=0), axis=1) > 0.05])]
    points, headings = resample_line(line, np.arange(0.0, line_length(line), _STEP_M))
    return Route(edges, points, _junctions(network, passages, starts, headings))


def _joint_length(parts: list[Array], index: int) -> float:
    """Length of a part and of the gap to the next one."""
    gap = float(np.linalg.norm(parts[index + 1][0] - parts[index][-1])) if index + 1 < len(parts) else 0.0
    return line_length(parts[index]) + gap


def _link(network: Network, edge: str, following: str, lane: int, next_lane: int | None) -> Link:
    """The way on that ends on a lane of the next street, if that is given, and begins nearest to a lane of this one."""
    ways = [link for link in network.links[edge] if link.next_edge == following]
    if not ways:
        raise ValueError(f"no way leads from street {edge} to street {following}: the route must follow the network")
    return min(ways, key=lambda link: (next_lane not in (None, link.next_lane), abs(link.lane - lane), link.lane))


def _along(edge: Edge, use: LaneUse) -> Array:
    """The line along an edge, passing from one lane to another where they are changed."""
    if not use.changes_m:
        return edge.lanes[use.lanes[0]].shape_m
    length = min(line_length(edge.lanes[lane].shape_m) for lane in use.lanes)
    bounds = [-_CHANGE_M, *use.changes_m, length + _CHANGE_M]
    parts = []
    for lane, (begin, end) in zip(use.lanes, pairwise(bounds), strict=True):
        # A lane left again at once is touched in the middle.
        half = min(_CHANGE_M, end - begin) / 2
        stations = np.clip(np.linspace(begin + half, end - half, 13), 0.0, length)
        parts.append(resample_line(edge.lanes[lane].shape_m, stations)[0])
    return np.concatenate(parts)


def _junctions(
    network: Network, passages: list[tuple[int, Link, str]], starts: Array, headings: Array
) -> tuple[Junction, ...]:
    """One junction a passage, those of a roundabout joined to one."""
    found: list[Junction] = []
    for part, link, edge in passages:
        start, end = float(starts[part]), float(starts[part + 1])
        on_ring = edge in network.ring_edges
        if on_ring and found:
            start = found[-1].start_m
            found.pop()
        turn = link.turn
        if on_ring or link.next_edge in network.ring_edges:
            before, after = (int(np.clip(s / _STEP_M, 0, len(headings) - 1)) for s in (start - 2, end + 2))
            turned = headings[after] - headings[before]
            turn = "left" if turned > _TURN_RAD else "right" if turned < -_TURN_RAD else "straight"
        found.append(Junction(start, end, turn, edge in network.signalled))
    return tuple(found)
