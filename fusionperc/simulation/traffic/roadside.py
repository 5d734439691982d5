"""What stands along the ego's route: parked vehicles, road works with cones, barriers and machines, standing people."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.traffic.motion import Track, boxes_overlap
from fusionperc.simulation.traffic.network import Edge, Lane, line_length, resample_line
from fusionperc.simulation.traffic.sizes import draw_size
from fusionperc.simulation.world.plots import Lot
from fusionperc.simulation.world.town import Town

Array = NDArray[np.float64]
_REACH_M = 62.0
#: Parking starts and ends this far from a junction.
_CORNER_M = 7.0
#: What parks, as a deck of cards dealt without replacement: no drive is short of a rarer kind.
_PARKED = {
    "car": 14, "suv": 4, "van": 2, "truck": 2, "bus": 1, "trailer": 1, "motorcycle_parked": 2, "bicycle_parked": 2,
}  # fmt: skip
#: What stands on parking lots, and its share.
_LOT_KINDS = {"car": 0.68, "suv": 0.22, "van": 0.10}
#: Kerb that a parked vehicle takes beyond its length, and what a group of cycles takes.
_GAP_M, _CYCLES_M = 0.9, 3.4

_Size = tuple[float, float, float]


@dataclass(frozen=True)
class Standing:
    """A thing that does not move; kinds are keys of `sizes`."""

    kind: str
    center_m: tuple[float, float]
    yaw_rad: float
    size_lwh_m: tuple[float, float, float]


@dataclass
class _Site:
    """Placed things so far and everything they must not touch."""

    town: Town
    rng: np.random.Generator
    moving_center_m: Array
    moving_yaw_rad: Array
    moving_size_m: Array
    points_m: Array
    placed: list[Standing] = field(default_factory=list)
    deck: list[tuple[str, _Size]] = field(default_factory=list)

    def deal(self, room_m: float) -> tuple[str, _Size] | None:
        """The next one to park that fits into `room_m`; None if none of the deck does."""
        if len(self.deck) < 8:
            cards = [kind for kind, count in _PARKED.items() for _ in range(count)]
            self.deck += [(cards[k], draw_size(cards[k], self.rng)) for k in self.rng.permutation(len(cards))]
        for index, (kind, size) in enumerate(self.deck):
            if _room_m(kind, size) <= room_m:
                return self.deck.pop(index)
        return None

    def put(
        self, kind: str, line: Lane, station_m: float, right_m: float, turn_rad: float = 0.0, size: _Size | None = None
    ) -> bool:
        """Places one thing `right_m` to the right of a lane's centre; False where it would touch something."""
        point, heading = resample_line(line.shape_m, np.array([station_m]))
        yaw = float(heading[0])
        center = point[0] + right_m * np.array([np.sin(yaw), -np.cos(yaw)])
        return self.place(kind, center, yaw + turn_rad, size)

    def place(self, kind: str, center_m: Array, yaw_rad: float, size: _Size | None = None) -> bool:
        """Places one thing at (2,); False where it would touch something."""
        size = size or draw_size(kind, self.rng)
        if self._is_free(center_m, yaw_rad, np.array(size[:2])):
            self.placed.append(Standing(kind, (float(center_m[0]), float(center_m[1])), yaw_rad, size))
            return True
        return False

    def _is_free(self, center: Array, yaw_rad: float, size_m: Array) -> bool:
        grown = size_m + 0.12
        yaw = np.array(yaw_rad)
        near = np.linalg.norm(self.moving_center_m - center, axis=1) < 16.0
        others = [(self.moving_center_m[near], self.moving_yaw_rad[near], self.moving_size_m[near])]
        points = self.points_m[np.linalg.norm(self.points_m - center, axis=1) < 16.0]
        others.append((points, np.zeros(len(points)), np.full((len(points), 2), 0.5)))
        centers = np.array([item.center_m for item in self.placed]).reshape(-1, 2)
        sizes = np.array([item.size_lwh_m[:2] for item in self.placed]).reshape(-1, 2)
        others.append((centers, np.array([item.yaw_rad for item in self.placed]), sizes))
        return not any(bool(boxes_overlap(center, yaw, grown, *other).any()) for other in others)


def furnish(town: Town, tracks: list[Track], route_m: Array, rng: np.random.Generator) -> list[Standing]:
    """Fills kerbs and verges within sight of the ego's route (T, 2) without touching any track or another thing."""
    passing = [(track, slice(track.first, track.last + 1, 2)) for track in tracks]
    site = _Site(
        town=town,
        rng=rng,
        moving_center_m=np.concatenate([track.center_m[there] for track, there in passing]),
        moving_yaw_rad=np.concatenate([track.yaw_rad[there] for track, there in passing]),
        moving_size_m=np.concatenate(
            [np.tile(track.size_lwh_m[:2], (len(track.yaw_rad[there]), 1)) for track, there in passing]
        ),
        points_m=town.obstacle_points(),
    )
    close = []
    for edge in town.edges:
        middle = edge.lanes[0].shape_m
        distance = np.linalg.norm(middle[:, None] - route_m[None, ::5], axis=2).min()
        if distance < _REACH_M:
            close.append((float(distance), edge))
    close.sort(key=lambda item: (item[0], item[1].name))
    for index, (_, edge) in enumerate(close):
        _works_on_verge(site, edge, chance=0.75)
        parking = edge.lane("parking")
        if parking is not None:
            _fill_parking(site, parking, works_at=0.25 + 0.5 * float(rng.random()) if index % 4 != 3 else None)
        _standing_people(site, edge)
    for lot in town.lots:
        if np.linalg.norm(route_m[::5] - lot.position_m, axis=1).min() < _REACH_M:
            _fill_lot(site, lot)
    return site.placed


def _room_m(kind: str, size: _Size) -> float:
    return _CYCLES_M if kind.endswith("_parked") else size[0] + _GAP_M


def _fill_parking(site: _Site, strip: Lane, works_at: float | None) -> None:
    """Parked vehicles from end to end of a strip, with road works (18 m) at a fraction of its length."""
    length = line_length(strip.shape_m)
    works = works_at * length if works_at is not None and length > 50 else np.inf
    station = _CORNER_M
    done_works = False
    while station < length - _CORNER_M:
        if not done_works and station > works - 9 and station + 19 < length - _CORNER_M:
            _works_on_strip(site, strip, station + 0.5)
            station += 20.0
            done_works = True
            continue
        if site.rng.random() < 0.22:
            station += float(site.rng.uniform(2, 7))
            continue
        dealt = site.deal(length - _CORNER_M - station)
        if dealt is None:
            break
        kind, size = dealt
        room = _room_m(kind, size)
        if kind.endswith("_parked"):
            for k in range(int(site.rng.integers(1, 3))):
                site.put(kind, strip, station + 1.0 + 1.1 * k, 0.3, np.pi / 2 + float(site.rng.normal(0, 0.15)))
            station += room
            continue
        right, turn = float(site.rng.uniform(0.0, 0.12)), float(site.rng.normal(0, 0.015))
        site.put(kind, strip, station + room / 2, right, turn, size)
        station += room + float(site.rng.uniform(0.0, 0.8))


def _fill_lot(site: _Site, lot: Lot) -> None:
    """Cars in most bays, a few of them backwards."""
    rng = site.rng
    kinds, shares = list(_LOT_KINDS), list(_LOT_KINDS.values())
    filled = float(rng.uniform(0.4, 0.95))
    for center, heading in zip(*lot.bays(), strict=True):
        if rng.random() < filled:
            backwards = np.pi * float(rng.random() < 0.2)
            kind = str(rng.choice(kinds, p=shares))
            site.place(kind, center + rng.normal(0, 0.15, 2), float(heading) + backwards + float(rng.normal(0, 0.03)))


def _works_on_strip(site: _Site, strip: Lane, start_m: float) -> None:
    """Road works on a parking strip: a taper of cones, barriers along the traffic, cones, perhaps a machine."""
    half = strip.width_m / 2
    for k in range(3):
        site.put("cone", strip, start_m + 1.3 * k, half - 0.3 - (strip.width_m - 0.6) * k / 2)
    has_machine = site.rng.random() < 0.45
    if has_machine and site.put("construction", strip, start_m + 8.0, 0.12):
        for k in range(3):
            site.put("barrier", strip, start_m + 13.0 + 1.7 * k, -half + 0.5 + 0.8 * k, 0.15)
    else:
        for k in range(4):
            site.put("barrier", strip, start_m + 5.4 + 2.8 * k, -half + 0.35, np.pi / 2)
    for _ in range(int(site.rng.integers(0, 3))):
        place, turn = float(site.rng.uniform(4.5, 14.0)), float(site.rng.uniform(-np.pi, np.pi))
        site.put("worker", strip, start_m + place, float(site.rng.uniform(-0.2, half - 0.4)), turn)
    for k in range(3):
        site.put("cone", strip, start_m + 15.6 + 1.1 * k, -half + 0.4 + (strip.width_m - 0.8) * k / 2)


def _works_on_verge(site: _Site, edge: Edge, chance: float) -> None:
    """A machine behind the sidewalk, fenced off by a row of barriers or cones."""
    path = edge.lanes[0]
    length = line_length(path.shape_m)
    if site.rng.random() > chance or length < 40:
        return
    start = float(site.rng.uniform(6, length - 24))
    edge_right = path.width_m / 2
    if site.rng.random() < 0.4:
        site.put("construction", path, start + 8, edge_right + 2.6, float(site.rng.normal(0, 0.2)))
    for _ in range(int(site.rng.integers(0, 2))):
        place, turn = float(site.rng.uniform(0, 12)), float(site.rng.uniform(-np.pi, np.pi))
        site.put("worker", path, start + place, edge_right + float(site.rng.uniform(1.4, 2.6)), turn)
    for k in range(int(site.rng.integers(4, 8))):
        site.put("barrier", path, start + 2.75 * k, edge_right + 0.45, np.pi / 2 + float(site.rng.normal(0, 0.05)))
    for k in range(int(site.rng.integers(2, 6))):
        site.put("cone", path, start - 1.5 - 1.6 * k, edge_right + float(site.rng.uniform(0.3, 0.9)))


def _standing_people(site: _Site, edge: Edge) -> None:
    path = edge.lanes[0]
    for station in np.arange(3.0, line_length(path.shape_m) - 3.0, 16.0):
        if site.rng.random() < 0.55:
            right = path.width_m / 2 + 0.45 + float(site.rng.uniform(0, 0.4))
            for k in range(int(site.rng.integers(1, 3))):
                turn = float(site.rng.uniform(-np.pi, np.pi))
                kind = "child" if site.rng.random() < 0.08 else "pedestrian"
                site.put(kind, path, station + 0.95 * k + float(site.rng.uniform(0, 3)), right, turn)
