"""What stands beside the streets of a town: plots with houses, parks, walls and waste land, trees, poles, furniture.

Everything is placed along the sidewalks, on their far side, and in the blocks between the streets; nothing stands on a
sidewalk or on the road. Some streets are canyons, others lie open to a hundred metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from fusionperc.simulation.traffic.network import Edge, line_length, resample_line

Array = NDArray[np.float64]
Colour = tuple[float, float, float]
Place = tuple[float, float]

#: Free ground between sidewalk and buildings, at least.
MIN_VERGE_M = 4.5

HouseForm = Literal["block", "setback", "gabled", "balconies", "arcade", "bays", "shed"]
TreeForm = Literal["round", "tall", "cone", "wide", "palm", "bush"]
ClutterKind = Literal[
    "hedge", "wall", "fence", "railing", "bin", "wheelie bins", "post box", "bench", "shelter", "hydrant", "bollard",
    "column", "cabinet", "meter", "rock", "planter", "billboard", "skip", "kiosk", "stack",
]  # fmt: skip


@dataclass(frozen=True)
class Building:
    """A house on a rectangle; its +y side faces the street. `style` picks the facade's window pattern, `form` its
    shape, `variant` details of that."""

    center_m: Place
    yaw_rad: float
    size_lwh_m: tuple[float, float, float]
    colour: Colour
    style: int
    form: HouseForm = "block"
    variant: int = 0


@dataclass(frozen=True)
class Tree:
    """Trunk and crown, or a bush without a trunk; `height_m` is the crown's top."""

    position_m: Place
    trunk_radius_m: float
    height_m: float
    crown_radius_m: float
    colour: Colour
    form: TreeForm = "round"


@dataclass(frozen=True)
class Pole:
    """A street lamp (with an arm towards `yaw_rad`), a traffic light or a sign (facing back along `yaw_rad`; with
    `reach_m` they hang on an arm to the left of it)."""

    kind: Literal["lamp", "signal", "sign"]
    position_m: Place
    yaw_rad: float
    height_m: float
    reach_m: float = 0.0


@dataclass(frozen=True)
class Clutter:
    """Street furniture, walls, fences: a thing in an upright box that stands on the ground."""

    kind: ClutterKind
    position_m: Place
    yaw_rad: float
    size_lwh_m: tuple[float, float, float]
    colour: Colour

    def footprint_points(self) -> Array:
        """(N, 2) places at most half a metre apart that cover its length."""
        count = max(int(np.ceil(self.size_lwh_m[0] / 0.5)), 1)
        along = (np.arange(count) + 0.5) / count - 0.5
        direction = np.array([np.cos(self.yaw_rad), np.sin(self.yaw_rad)])
        points: Array = np.array(self.position_m) + along[:, None] * self.size_lwh_m[0] * direction
        return points


@dataclass(frozen=True)
class Lot:
    """A parking lot beside a street: rows of bays on both sides of an aisle along x, which points along `yaw_rad`."""

    position_m: tuple[float, float]
    yaw_rad: float
    size_m: tuple[float, float]

    def bays(self) -> tuple[Array, Array]:
        """(N, 2) middles and (N,) headings of the bays, noses to the aisle's far side."""
        length, depth = self.size_m
        along = (np.arange(int(length / BAY_M[1])) + 0.5) * BAY_M[1] - length / 2
        forward = np.array([np.cos(self.yaw_rad), np.sin(self.yaw_rad)])
        left = np.array([-forward[1], forward[0]])
        rows = [
            np.array(self.position_m) + along[:, None] * forward + side * (depth - BAY_M[0]) / 2 * left
            for side in (-1, 1)
        ]
        headings = np.repeat([self.yaw_rad - np.pi / 2, self.yaw_rad + np.pi / 2], len(along))
        return np.concatenate(rows), headings


@dataclass(frozen=True)
class Furnishing:
    """All that `furnish_plots` placed."""

    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    poles: tuple[Pole, ...]
    clutter: tuple[Clutter, ...]
    lots: tuple[Lot, ...]


#: Length and width of a parking bay, width of the aisle between two rows.
BAY_M, _AISLE_M = (5.2, 2.7), 6.0
#: Share of open plots that are parking lots.
_LOT_SHARE = 0.45
_FACADES = (
    (0.55, 0.50, 0.44), (0.50, 0.28, 0.22), (0.62, 0.60, 0.56), (0.42, 0.44, 0.48), (0.66, 0.56, 0.40),
    (0.70, 0.68, 0.62), (0.34, 0.30, 0.27),
)  # fmt: skip
#: Share of plots with a house on a street, its number of storeys, the share of street trees.
_CHARACTERS = ((0.95, (3, 8), 0.35), (0.65, (1, 4), 0.6), (0.25, (1, 3), 0.75))
_CHARACTER_SHARES = (0.35, 0.4, 0.25)
_HOUSE_FORMS: tuple[HouseForm, ...] = ("block", "setback", "balconies", "arcade", "bays", "gabled", "shed")
_TREE_FORMS: tuple[TreeForm, ...] = ("round", "tall", "wide", "cone", "palm")
#: What stands singly along the far edge of a sidewalk: kind, size, weight.
_FURNITURE: tuple[tuple[ClutterKind, tuple[float, float, float], float], ...] = (
    ("bin", (0.5, 0.5, 1.0), 3), ("wheelie bins", (1.9, 0.7, 1.1), 2), ("post box", (0.5, 0.45, 1.3), 1),
    ("bench", (1.7, 0.6, 0.85), 2), ("shelter", (3.6, 1.3, 2.5), 1), ("hydrant", (0.35, 0.35, 0.8), 2),
    ("bollard", (0.16, 0.16, 0.95), 4), ("column", (1.2, 1.2, 3.2), 0.7), ("cabinet", (1.1, 0.45, 1.3), 2.5),
    ("meter", (0.25, 0.2, 1.45), 2.5), ("planter", (1.4, 0.6, 1.2), 2), ("billboard", (2.6, 0.3, 3.0), 1),
    ("skip", (3.4, 1.7, 1.4), 0.6), ("kiosk", (2.6, 2.0, 2.6), 0.5), ("stack", (1.3, 1.0, 1.1), 1),
)  # fmt: skip


_ENCLOSURES: tuple[ClutterKind, ...] = ("hedge", "wall", "fence", "railing")
_LAWN_THINGS: tuple[tuple[ClutterKind, tuple[float, float, float]], ...] = (
    ("rock", (1.2, 0.9, 0.8)),
    ("bench", (1.7, 0.6, 0.85)),
    ("stack", (2.0, 1.2, 1.3)),
)


def furnish_plots(
    edges: tuple[Edge, ...],
    signalled: tuple[str, ...],
    streets: BaseGeometry,
    size_m: tuple[float, float],
    rng: np.random.Generator,
) -> Furnishing:
    """Places everything.

    Args:
        edges: the streets; plots lie to their right.
        signalled: edges that end at a traffic light.
        streets: road and sidewalks, which stay free.
        size_m: side lengths of the map.
        rng: decides.
    """
    site = _Site(streets, size_m, rng)
    for edge in edges:
        built, storeys, trees = _CHARACTERS[rng.choice(len(_CHARACTERS), p=_CHARACTER_SHARES)]
        _line_with_plots(site, edge, built, storeys)
        _line_with_trees(site, edge, trees)
        _line_with_poles(site, edge, edge.name in signalled)
        _line_with_furniture(site, edge)
    _fill_blocks(site)
    return Furnishing(
        tuple(site.buildings), tuple(site.trees), tuple(site.poles), tuple(site.clutter), tuple(site.lots)
    )


@dataclass
class _Site:
    """What is placed so far, and whether something more would fit."""

    streets: BaseGeometry
    size_m: tuple[float, float]
    rng: np.random.Generator
    buildings: list[Building] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    poles: list[Pole] = field(default_factory=list)
    clutter: list[Clutter] = field(default_factory=list)
    lots: list[Lot] = field(default_factory=list)
    _outlines: list[Polygon] = field(default_factory=list)
    _circles: list[tuple[float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shapely.prepare(self.streets)

    def claim(self, center: Array, yaw_rad: float, length_m: float, width_m: float, clearance_m: float) -> bool:
        """Takes a rectangle that keeps `clearance_m` from the streets and overlaps nothing; False if it cannot."""
        outline = rectangle(center, yaw_rad, length_m, width_m)
        low, high = outline.bounds[:2], outline.bounds[2:]
        if min(low) < 1 or high[0] > self.size_m[0] - 1 or high[1] > self.size_m[1] - 1:
            return False
        if self.streets.intersects(outline.buffer(clearance_m, quad_segs=2) if clearance_m else outline):
            return False
        reach = float(np.hypot(length_m, width_m)) / 2
        circles = np.array(self._circles).reshape(-1, 3)
        near = np.flatnonzero(np.hypot(*(circles[:, :2] - center).T) < circles[:, 2] + reach)
        if any(outline.intersects(self._outlines[k]) for k in near.tolist()):
            return False
        self._outlines.append(outline)
        self._circles.append((float(center[0]), float(center[1]), reach))
        return True

    def put(self, kind: ClutterKind, center: Array, yaw_rad: float, size: tuple[float, float, float]) -> bool:
        """Places a thing where it fits; a hand's breadth from the streets."""
        if not self.claim(center, yaw_rad, size[0] + 0.1, size[1] + 0.1, 0.05):
            return False
        colour = np.clip(np.array(_COLOURS.get(kind, (0.4, 0.4, 0.4))) * self.rng.uniform(0.7, 1.25, 3), 0, 1)
        self.clutter.append(Clutter(kind, _place(center), float(yaw_rad), size, _rgb(colour)))
        return True

    def plant(self, center: Array, form: TreeForm, crown_m: float) -> None:
        """Plants a tree or bush whose trunk has half a metre of room."""
        rng = self.rng
        if not self.claim(center, 0.0, 1.0, 1.0, 0.1):
            return
        green = np.array([0.10, 0.20, 0.05]) * rng.uniform(0.6, 1.5) * rng.uniform(0.8, 1.25, 3)
        tall = {"round": 2.0, "tall": 3.6, "cone": 3.2, "wide": 1.1, "palm": 1.0, "bush": 1.2}[form] * crown_m
        trunk = {"tall": 1.6, "wide": 3.0, "palm": 5.0, "bush": 0.0, "cone": 1.0}.get(form, 2.2)
        height = trunk + tall + float(rng.uniform(0, 1.2 if trunk else 0.3))
        radius = 0.0 if form == "bush" else 0.07 + 0.05 * crown_m * float(rng.uniform(0.8, 1.2))
        self.trees.append(Tree(_place(center), radius, height, crown_m, _rgb(np.clip(green, 0, 1)), form))


_COLOURS: dict[ClutterKind, Colour] = {
    "hedge": (0.09, 0.17, 0.05), "wall": (0.45, 0.36, 0.30), "fence": (0.30, 0.24, 0.18),
    "railing": (0.12, 0.13, 0.13), "bin": (0.10, 0.22, 0.12), "wheelie bins": (0.10, 0.20, 0.12),
    "post box": (0.55, 0.12, 0.06), "hydrant": (0.6, 0.10, 0.06), "column": (0.55, 0.5, 0.45),
    "planter": (0.10, 0.20, 0.06), "billboard": (0.5, 0.45, 0.35), "skip": (0.55, 0.4, 0.06),
    "stack": (0.42, 0.30, 0.18),
}  # fmt: skip


def rectangle(center: Array, yaw_rad: float, length_m: float, width_m: float) -> Polygon:
    """A turned rectangle's outline."""
    along = np.array([np.cos(yaw_rad), np.sin(yaw_rad)])
    left = np.array([-along[1], along[0]])
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return Polygon([center + along * sx * length_m / 2 + left * sy * width_m / 2 for sx, sy in signs])


def _place(point: NDArray[np.floating[Any]]) -> Place:
    return float(point[0]), float(point[1])


def _rgb(values: Array) -> Colour:
    return float(values[0]), float(values[1]), float(values[2])


def _beside(edge: Edge, station_m: float, behind_m: float) -> tuple[Array, float]:
    """A point `behind_m` behind the sidewalk of an edge, and the street's heading there."""
    path = edge.lanes[0]
    point, heading = resample_line(path.shape_m, np.array([station_m]))
    yaw = float(heading[0])
    return point[0] + (path.width_m / 2 + behind_m) * np.array([np.sin(yaw), -np.cos(yaw)]), yaw


def _line_with_plots(site: _Site, edge: Edge, built: float, storeys: tuple[int, int]) -> None:
    rng = site.rng
    length = line_length(edge.lanes[0].shape_m)
    station = float(rng.uniform(0, 6))
    while station < length:
        front = float(rng.uniform(9, 26))
        middle = min(station + front / 2, length)
        if rng.random() < built:
            _house_plot(site, edge, middle, front, storeys, is_dense=built > 0.7)
        elif rng.random() >= _LOT_SHARE or not _parking_lot(site, edge, middle, front):
            _open_plot(site, edge, middle, front)
        station += front + float(rng.uniform(0.5, 6))


def _house_plot(
    site: _Site, edge: Edge, middle_m: float, front_m: float, storeys: tuple[int, int], *, is_dense: bool
) -> None:
    """A house at the street or, outside the dense quarters, behind a front garden with its hedge or wall."""
    rng = site.rng
    deep = float(rng.uniform(8, 16))
    verge = MIN_VERGE_M + float(rng.uniform(0, 2.5) if is_dense else rng.uniform(1.0, 12.0))
    center, yaw = _beside(edge, middle_m, verge + deep / 2)
    floors = int(rng.integers(storeys[0], storeys[1] + 1))
    shares = (0.22, 0.2, 0.2, 0.2, 0.18, 0.0, 0.0) if is_dense else (0.15, 0.05, 0.12, 0.05, 0.13, 0.35, 0.15)
    form = _HOUSE_FORMS[rng.choice(len(_HOUSE_FORMS), p=shares)]
    _build(site, center, yaw, (front_m, deep), min(floors, 2) if form in ("gabled", "shed") else floors, form)
    if verge > MIN_VERGE_M + 2.5 and rng.random() < 0.7:
        kind: ClutterKind = _ENCLOSURES[rng.integers(4)]
        _enclose(site, edge, middle_m, front_m, kind, float(rng.choice([0.5, MIN_VERGE_M])))
        for _ in range(int(rng.integers(0, 4))):
            spot, _ = _beside(edge, middle_m + float(rng.uniform(-0.45, 0.45)) * front_m, float(rng.uniform(5, verge)))
            site.plant(spot, "bush", float(rng.uniform(0.5, 1.0)))


def _build(
    site: _Site, center: Array, yaw_rad: float, size_m: tuple[float, float], floors: int, form: HouseForm
) -> None:
    rng = site.rng
    if not site.claim(center, yaw_rad, *size_m, MIN_VERGE_M - 0.5):
        # On a bend or beside a neighbour there may be room for a narrower house.
        size_m = (0.6 * size_m[0], 0.8 * size_m[1])
        if not site.claim(center, yaw_rad, *size_m, MIN_VERGE_M - 0.5):
            return
    colour = np.clip(np.array(_FACADES[rng.integers(len(_FACADES))]) * rng.uniform(0.8, 1.15), 0, 1)
    height = 3.0 * floors + float(rng.uniform(0.3, 1.6))
    site.buildings.append(
        Building(
            _place(center),
            yaw_rad,
            (*size_m, height),
            _rgb(colour),
            int(rng.integers(3)),
            form,
            int(rng.integers(1000)),
        )
    )


def _enclose(site: _Site, edge: Edge, middle_m: float, front_m: float, kind: ClutterKind, behind_m: float) -> None:
    """A hedge, wall or fence along a plot's front, in straight pieces, with a gap for the gate."""
    rng = site.rng
    height = {"hedge": rng.uniform(0.8, 2.0), "wall": rng.uniform(0.6, 2.2), "railing": 1.1}.get(kind, 1.6)
    width = {"hedge": 0.8, "wall": 0.3}.get(kind, 0.12)
    gate = float(rng.uniform(-0.4, 0.4)) * front_m
    for piece in np.arange(-front_m / 2, front_m / 2 - 2.0, 4.0):
        if abs(piece + 2.0 - gate) < 2.0:
            continue
        spot, yaw = _beside(edge, middle_m + float(piece) + 2.0, behind_m + width / 2)
        site.put(kind, spot, yaw, (3.95, width, float(height)))


def _parking_lot(site: _Site, edge: Edge, middle_m: float, front_m: float) -> bool:
    """Two rows of bays; False where it does not fit."""
    size = (max(front_m, 4 * BAY_M[1]), 2 * BAY_M[0] + _AISLE_M)
    center, yaw = _beside(edge, middle_m, 1.5 + size[1] / 2)
    if not site.claim(center, yaw, *size, 0.3):
        return False
    site.lots.append(Lot(_place(center), yaw, size))
    return True


def _open_plot(site: _Site, edge: Edge, middle_m: float, front_m: float) -> None:
    """A park, waste land with a few stones behind a fence, or an open lawn."""
    rng = site.rng
    use = rng.random()
    if use < 0.6:
        kind: ClutterKind = _ENCLOSURES[rng.integers(4)]
        if rng.random() < 0.4:
            _enclose(site, edge, middle_m, front_m, kind, float(rng.choice([0.5, MIN_VERGE_M])))
    count = int(rng.integers(1, 6)) if use < 0.75 else 0
    forms: tuple[TreeForm, ...] = (*_TREE_FORMS[:4], "bush", "bush", "bush")
    for _ in range(count):
        along = float(rng.uniform(-0.5, 0.5)) * front_m
        spot, yaw = _beside(edge, middle_m + along, float(rng.uniform(MIN_VERGE_M, 22.0)))
        form = forms[rng.integers(len(forms))]
        site.plant(spot, form, float(rng.uniform(0.5, 1.4) if form == "bush" else rng.uniform(1.6, 3.6)))
    if rng.random() < 0.5:
        spot, yaw = _beside(edge, middle_m, float(rng.uniform(MIN_VERGE_M, 12.0)))
        thing, size = _LAWN_THINGS[rng.integers(len(_LAWN_THINGS))]
        site.put(thing, spot, yaw + float(rng.uniform(-0.4, 0.4)), size)


def _line_with_trees(site: _Site, edge: Edge, share: float) -> None:
    """A row of one kind of tree 1.4 m behind the sidewalk."""
    rng = site.rng
    form = _TREE_FORMS[rng.integers(len(_TREE_FORMS))]
    crown = {"round": 2.2, "tall": 1.3, "wide": 3.6, "cone": 1.4, "palm": 1.7}[form]
    length = line_length(edge.lanes[0].shape_m)
    for station in np.arange(float(rng.uniform(2, 9)), length, float(rng.uniform(8.0, 14.0))):
        spot, _ = _beside(edge, float(station), 1.4)
        if rng.random() < share:
            site.plant(spot, form, crown * float(rng.uniform(0.7, 1.3)))


def _line_with_poles(site: _Site, edge: Edge, is_signalled: bool) -> None:
    """Lamps every 29 m, a traffic light or sign at the end, some of them on an arm over the road."""
    rng = site.rng
    length = line_length(edge.lanes[0].shape_m)
    over_road = sum(lane.width_m for lane in edge.lanes[:-1]) + edge.lanes[-1].width_m / 2
    for station in np.arange(7.0, length, 29.0):
        spot, yaw = _beside(edge, float(station), 0.35)
        if site.claim(spot, yaw, 0.3, 0.3, 0.05):
            site.poles.append(Pole("lamp", _place(spot), yaw + np.pi / 2, float(rng.choice([5.5, 7.5, 9.0])), 1.6))
    ends: list[tuple[Literal["signal", "sign"], float]] = [("signal" if is_signalled else "sign", length - 2.0)]
    ends += [("sign", float(rng.uniform(0.2, 0.8)) * length) for _ in range(int(rng.integers(0, 3)))]
    for kind, station in ends:
        spot, yaw = _beside(edge, station, 0.35)
        if station > 1 and site.claim(spot, yaw, 0.3, 0.3, 0.05):
            hangs = rng.random() < (0.6 if kind == "signal" else 0.15)
            height = 6.2 if hangs else 3.6 if kind == "signal" else float(rng.uniform(2.3, 3.0))
            site.poles.append(Pole(kind, _place(spot), yaw, height, over_road if hangs else 0.0))


def _line_with_furniture(site: _Site, edge: Edge) -> None:
    rng = site.rng
    length = line_length(edge.lanes[0].shape_m)
    weights = np.array([weight for _, _, weight in _FURNITURE])
    station = float(rng.uniform(1, 9))
    while station < length:
        kind, size, _ = _FURNITURE[rng.choice(len(_FURNITURE), p=weights / weights.sum())]
        count = int(rng.integers(3, 7)) if kind in ("bollard", "meter") else 1
        scale = float(rng.uniform(0.9, 1.12))
        scaled = (size[0] * scale, size[1] * scale, size[2] * scale)
        for k in range(count):
            spot, yaw = _beside(
                edge, station + 1.6 * k, 0.2 + scaled[1] / 2 + float(rng.uniform(0, 0.3)) * (count == 1)
            )
            site.put(kind, spot, yaw, scaled)
        station += 1.6 * count + float(rng.uniform(3, 13))


def _fill_blocks(site: _Site) -> None:
    """Trees, sheds, houses and walls in the blocks and around the town, 20 m and more from the streets."""
    rng = site.rng
    far = site.streets.buffer(17.0, quad_segs=4)
    shapely.prepare(far)
    steps = [np.arange(6.0, side - 6.0, 13.0) for side in site.size_m]
    for x in steps[0]:
        for y in steps[1]:
            spot = np.array([x, y]) + rng.uniform(-5, 5, 2)
            use, yaw = rng.random(), float(rng.uniform(0, np.pi))
            if far.intersects(shapely.Point(spot)):
                continue
            if use < 0.26:
                site.plant(spot, _TREE_FORMS[rng.integers(4)], float(rng.uniform(1.8, 4.2)))
            elif use < 0.34:
                site.plant(spot, "bush", float(rng.uniform(0.8, 1.8)))
            elif use < 0.42:
                site.put(
                    ("wall", "fence", "hedge")[rng.integers(3)], spot, yaw, (9.0, 0.4, float(rng.uniform(1.2, 2.4)))
                )
            elif use < 0.50:
                size = (float(rng.uniform(10, 30)), float(rng.uniform(9, 18)))
                _build(site, spot, yaw, size, int(rng.integers(1, 9)), _HOUSE_FORMS[rng.integers(len(_HOUSE_FORMS))])
