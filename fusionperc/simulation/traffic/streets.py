"""Street plans: an irregular, gently warped grid with T junctions, bends, roundabouts and roads of up to three lanes a
direction, written as the node and edge files that SUMO's `netconvert` reads.

Every street carries, from its kerb inwards, a sidewalk, on most streets a strip for parking (a lane nobody may drive
on), and one to three driving lanes a direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDEWALK_WIDTH_M = 2.8
PARKING_WIDTH_M = 3.0
DRIVING_WIDTH_M = 3.4
#: Ground between the outermost streets and the map's border.
MARGIN_M = 70.0
_SIZE_NODES = 4
_SPACING_M = (80.0, 124.0)
_JITTER_M = 2.0
#: Long waves that bend whole rows of streets; most towns have gentle ones.
_WARP_M, _WARP_LENGTH_M = 6.0, 290.0
#: Parameter of a roundabout's edges in the network file.
ISLAND_KEY = "island"
#: A roundabout: radius of its island, width of its lane.
_ISLAND_M, _RING_WIDTH_M = 15.0, 5.0
_ROUNDABOUT_CHANCE = 0.7
#: Drivers slow down for bends to this lateral acceleration.
COMFORTABLE_LATERAL_MPS2 = 2.2

Array = NDArray[np.float64]
_Cell = tuple[int, int]


@dataclass(frozen=True)
class _Node:
    """A junction: its place, SUMO's type of it, the radius of its corners."""

    position_m: Array
    kind: str
    radius_m: float = 7.0


@dataclass(frozen=True)
class _Street:
    """A street between two junctions: its middle line (N, 2) and what it carries; a ring is one-way."""

    name: str
    start: str
    end: str
    shape_m: Array
    lanes: int
    speed_mps: float
    has_parking: bool
    ring_center_m: Array | None = None

    @property
    def is_ring(self) -> bool:
        """Whether it is part of a roundabout."""
        return self.ring_center_m is not None


def write_plan(seed: int, folder: Path) -> None:
    """Writes `town.nod.xml` and `town.edg.xml` of town `seed`."""
    rng = np.random.default_rng((seed, 11))
    grid = _Grid(rng)
    nodes = {cell: grid.place(cell) for cell in grid.cells}
    mains = [(axis, int(row)) for axis in (0, 1) for row in rng.permutation(_SIZE_NODES)[: 1 + int(rng.random() < 0.5)]]
    lanes = {main: 2 + int(rng.random() < 0.2) for main in mains}
    streets = _streets(grid, nodes, lanes, rng)
    junctions = _junctions(nodes, streets, lanes, rng)
    streets = _without_bend_nodes(streets, junctions)
    quiet = [c for c in nodes if all(0 < k < _SIZE_NODES - 1 for k in c) and not _is_on(c, lanes)]
    if quiet and rng.random() < _ROUNDABOUT_CHANCE:
        streets = _with_roundabout(_name(quiet[rng.integers(len(quiet))]), streets, junctions)
    _write_nodes(folder / "town.nod.xml", junctions)
    _write_edges(folder / "town.edg.xml", streets)


def _name(cell: _Cell) -> str:
    return f"n{cell[0]}{cell[1]}"


def _is_on(cell: _Cell, lanes: dict[tuple[int, int], int]) -> bool:
    """Whether a main road passes a junction; axis 0 runs east, along a row."""
    return (0, cell[1]) in lanes or (1, cell[0]) in lanes


class _Grid:
    """Rows and columns at irregular distances, bent by long waves; `warp` keeps collinear streets collinear."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.cells: list[_Cell] = [(i, j) for i in range(_SIZE_NODES) for j in range(_SIZE_NODES)]
        gaps = rng.uniform(*_SPACING_M, (2, _SIZE_NODES - 1))
        self._lines = np.concatenate([np.zeros((2, 1)), np.cumsum(gaps, axis=1)], axis=1) + MARGIN_M + _WARP_M
        self._jitter = rng.uniform(-_JITTER_M, _JITTER_M, (_SIZE_NODES, _SIZE_NODES, 2))
        self._amplitude_m = _WARP_M * rng.random(2) ** 3
        self._phase = rng.uniform(0, 2 * np.pi, 2)

    def place(self, cell: _Cell) -> Array:
        """The junction's place before warping."""
        i, j = cell
        place: Array = np.array([self._lines[0, i], self._lines[1, j]]) + self._jitter[i, j]
        return place

    def warp(self, points_m: Array) -> Array:
        """Points (N, 2) moved by the waves."""
        wave = np.sin(2 * np.pi * points_m[:, ::-1] / _WARP_LENGTH_M + self._phase)
        moved: Array = np.add(points_m, self._amplitude_m * wave)
        return moved


def _streets(
    grid: _Grid, nodes: dict[_Cell, Array], lanes: dict[tuple[int, int], int], rng: np.random.Generator
) -> list[_Street]:
    """The grid's streets less up to three small interior ones; every junction keeps three arms where it had them."""
    last = _SIZE_NODES - 1
    pairs: list[tuple[_Cell, _Cell]] = [((i, j), (i + 1, j)) for i in range(last) for j in range(_SIZE_NODES)]
    pairs += [((i, j), (i, j + 1)) for i in range(_SIZE_NODES) for j in range(last)]
    degree = {cell: sum(cell in pair for pair in pairs) for cell in nodes}
    gone: set[int] = set()
    for index in rng.permutation(len(pairs)).tolist():
        a, b = pairs[index]
        if len(gone) < 3 and _lanes_between(a, b, lanes) == 1 and degree[a] > 3 and degree[b] > 3:
            degree[a] -= 1
            degree[b] -= 1
            gone.add(index)
    streets = []
    for a, b in (pair for index, pair in enumerate(pairs) if index not in gone):
        count = _lanes_between(a, b, lanes)
        speed = float(rng.choice([15.3, 16.7])) if count > 1 else float(rng.choice([9.7, 11.1, 12.5, 13.9]))
        has_parking = bool(rng.random() < (0.6 if count > 1 else 0.85))
        bulge = float(rng.uniform(-8, 8)) if rng.random() < 0.12 else 0.0
        shape = grid.warp(_curve(nodes[a], nodes[b], bulge))
        streets.append(_Street(f"e{a[0]}{a[1]}_{b[0]}{b[1]}", _name(a), _name(b), shape, count, speed, has_parking))
    return streets


def _lanes_between(a: _Cell, b: _Cell, lanes: dict[tuple[int, int], int]) -> int:
    return lanes.get((0, a[1]) if a[1] == b[1] else (1, a[0]), 1)


def _junctions(
    nodes: dict[_Cell, Array], streets: list[_Street], lanes: dict[tuple[int, int], int], rng: np.random.Generator
) -> dict[str, _Node]:
    junctions = {}
    for cell in nodes:
        inner = all(0 < k < _SIZE_NODES - 1 for k in cell)
        chance = 0.75 if _is_on(cell, lanes) else 0.45 if inner else 0.15
        kind = "traffic_light" if rng.random() < chance else "priority"
        name = _name(cell)
        place = next(s.shape_m[0] if s.start == name else s.shape_m[-1] for s in streets if name in (s.start, s.end))
        junctions[name] = _Node(place, kind)
    return junctions


def _without_bend_nodes(streets: list[_Street], junctions: dict[str, _Node]) -> list[_Street]:
    """Joins the two streets of a junction with two arms to one street with a rounded bend; drops its node."""
    for name in list(junctions):
        arms = [street for street in streets if name in (street.start, street.end)]
        if len(arms) != 2:
            continue
        first, second = arms
        before = first.shape_m if first.end == name else first.shape_m[::-1]
        after = second.shape_m if second.start == name else second.shape_m[::-1]
        joined = _Street(
            name=f"{first.name}_{second.name[1:]}",
            start=first.start if first.end == name else first.end,
            end=second.end if second.start == name else second.start,
            shape_m=_rounded(before, after, cut_m=40.0),
            lanes=min(first.lanes, second.lanes),
            speed_mps=min(first.speed_mps, second.speed_mps),
            has_parking=first.has_parking,
        )
        streets = [street for street in streets if street not in arms] + [joined]
        del junctions[name]
    return streets


def _rounded(before_m: Array, after_m: Array, cut_m: float) -> Array:
    """Two lines that meet, their last and first `cut_m` replaced by a curve close to a circle's arc."""
    start = _cut(before_m[::-1], cut_m)[::-1]
    end = _cut(after_m, cut_m)
    corner = before_m[-1]
    # A cubic Bezier curve with these handles is a quarter circle within 0.03 % of its radius.
    handle = 0.5523
    t = np.linspace(0, 1, 17)[1:-1, None]
    control = start[-1], start[-1] + handle * (corner - start[-1]), end[0] + handle * (corner - end[0]), end[0]
    arc = sum(c * (1 - t) ** (3 - k) * t**k * control[k] for k, c in enumerate((1, 3, 3, 1)))
    return np.concatenate([start, np.asarray(arc), end])


def _cut(shape_m: Array, from_start_m: float) -> Array:
    """The line (N, 2) without its first `from_start_m` metres."""
    station = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(shape_m, axis=0), axis=1))])
    first = np.array([[np.interp(from_start_m, station, shape_m[:, k]) for k in (0, 1)]])
    return np.concatenate([first, shape_m[station > from_start_m + 0.5]])


def _with_roundabout(name: str, streets: list[_Street], junctions: dict[str, _Node]) -> list[_Street]:
    """Replaces a junction by a one-way ring, counter-clockwise around an island, on which its arms end."""
    center = junctions.pop(name).position_m
    arms: list[tuple[float, str]] = []
    kept = []
    for street in streets:
        if name not in (street.start, street.end):
            kept.append(street)
            continue
        ends_here = street.end == name
        outwards = street.shape_m[::-1] if ends_here else street.shape_m
        shape = _cut(outwards, _ISLAND_M)
        angle = float(np.arctan2(*(shape[0] - center)[::-1]))
        ring_node = f"{name}_{len(arms)}"
        shape[0] = center + _ISLAND_M * np.array([np.cos(angle), np.sin(angle)])
        junctions[ring_node] = _Node(shape[0], "priority", radius_m=5.0)
        arms.append((angle, ring_node))
        ends = (street.start, ring_node) if ends_here else (ring_node, street.end)
        shape = shape[::-1] if ends_here else shape
        kept.append(_Street(street.name, *ends, shape, street.lanes, street.speed_mps, street.has_parking))
    arms.sort()
    speed = float(np.sqrt(COMFORTABLE_LATERAL_MPS2 * (_ISLAND_M + _RING_WIDTH_M / 2)))
    for k, (angle, start) in enumerate(arms):
        to, end = arms[(k + 1) % len(arms)]
        turn = np.linspace(angle, to if to > angle else to + 2 * np.pi, 13)
        shape = center + _ISLAND_M * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        kept.append(_Street(f"r{start[1:]}", start, end, shape, 1, speed, False, center))
    return kept


def _write_nodes(path: Path, junctions: dict[str, _Node]) -> None:
    lines = [
        f'<node id="{name}" x="{node.position_m[0]:.2f}" y="{node.position_m[1]:.2f}" type="{node.kind}"'
        f' radius="{node.radius_m}"/>'
        for name, node in junctions.items()
    ]
    path.write_text("\n".join(["<nodes>", *lines, "</nodes>"]))


def _write_edges(path: Path, streets: list[_Street]) -> None:
    lines = ["<edges>"]
    for street in streets:
        widths = [("pedestrian", SIDEWALK_WIDTH_M)]
        widths += [("", PARKING_WIDTH_M)] if street.has_parking else []
        lanes = "".join(
            f'<lane index="{index}" width="{width}" '
            + (f'allow="{allow}" speed="1.6"/>' if allow else 'disallow="all" speed="0.1"/>')
            for index, (allow, width) in enumerate(widths)
        )
        width = _RING_WIDTH_M if street.is_ring else DRIVING_WIDTH_M
        lanes += "".join(
            f'<lane index="{len(widths) + k}" width="{width}" disallow="pedestrian"/>' for k in range(street.lanes)
        )
        speed = min(street.speed_mps, _bend_speed_mps(street)) if not street.is_ring else street.speed_mps
        priority = 4 if street.is_ring else min(street.lanes, 2)
        directions = [("", street.start, street.end, street.shape_m)]
        if not street.is_ring:
            directions.append(("b", street.end, street.start, street.shape_m[::-1]))
        for suffix, start, end, shape in directions:
            text = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape)
            lines.append(
                f'<edge id="{street.name}{suffix}" from="{start}" to="{end}" priority="{priority}"'
                f' numLanes="{len(widths) + street.lanes}" speed="{speed:.2f}" shape="{text}" spreadType="right">'
                f"{lanes}{_island(street)}</edge>"
            )
    for ring in sorted({street.start.split("_")[0] for street in streets if street.is_ring}):
        parts = [street for street in streets if street.is_ring and street.start.startswith(ring)]
        lines.append(
            f'<roundabout nodes="{" ".join(part.start for part in parts)}"'
            f' edges="{" ".join(part.name for part in parts)}"/>'
        )
    path.write_text("\n".join([*lines, "</edges>"]))


def _island(street: _Street) -> str:
    """The circle a ring goes around, as a note that `netconvert` hands on: x, y, radius."""
    if street.ring_center_m is None:
        return ""
    x, y = street.ring_center_m
    return f'<param key="{ISLAND_KEY}" value="{x:.2f} {y:.2f} {_ISLAND_M}"/>'


def _bend_speed_mps(street: _Street) -> float:
    """Speed at which the tightest bend of a street is driven comfortably, on the inner side too."""
    steps = np.diff(street.shape_m, axis=0)
    heading = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    length = np.linalg.norm(steps, axis=1)
    curvature = np.abs(np.diff(heading)) / ((length[1:] + length[:-1]) / 2)
    radius = 1 / max(float(curvature.max()), 1e-3) - street.lanes * DRIVING_WIDTH_M
    return float(np.sqrt(COMFORTABLE_LATERAL_MPS2 * max(radius, 5.0)))


def _curve(a: Array, b: Array, bulge_m: float) -> Array:
    """(13, 2) points of a parabola from a to b that leaves the straight line by `bulge_m` in the middle."""
    t = np.linspace(0, 1, 13)[:, None]
    along = b - a
    left = np.array([-along[1], along[0]]) / np.hypot(*along)
    points: Array = a + along * t + left * bulge_m * 4 * t * (1 - t)
    return points
