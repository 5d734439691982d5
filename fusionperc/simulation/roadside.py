"""What stands along the ego's route: parked vehicles, road works with cones, barriers and machines, standing people."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.motion import Track, boxes_overlap
from fusionperc.simulation.network import Edge, Lane, line_length, resample_line
from fusionperc.simulation.sizes import draw_size
from fusionperc.simulation.town import Town

Array = NDArray[np.float64]
_REACH_M = 62.0
#: Parking starts and ends this far from a junction.
_CORNER_M = 7.0
#: What parks, as a deck of cards dealt without replacement: no drive is short of a rarer kind.
_PARKED = {
    "car": 7, "suv": 2, "van": 1, "truck": 3, "bus": 1, "trailer": 2, "motorcycle_parked": 2, "bicycle_parked": 2,
}  # fmt: skip
#: Length of kerb each takes.
_ROOM_M = {
    "car": 5.6, "suv": 5.8, "van": 6.4, "truck": 9.0, "bus": 13.2, "trailer": 13.6,
    "motorcycle_parked": 3.4, "bicycle_parked": 3.4,
}  # fmt: skip


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
    deck: list[str] = field(default_factory=list)

    def deal(self, room_m: float) -> str | None:
        """The next kind to park that fits into `room_m`; None if none of the deck does."""
        if len(self.deck) < 8:
            cards = [kind for kind, count in _PARKED.items() for _ in range(count)]
            self.deck += [cards[k] for k in self.rng.permutation(len(cards))]
        for index, kind in enumerate(self.deck):
            if _ROOM_M[kind] <= room_m:
                return self.deck.pop(index)
        return None

    def put(self, kind: str, line: Lane, station_m: float, right_m: float, turn_rad: float = 0.0) -> bool:
        """Places one thing `right_m` to the right of a lane's centre; False where it would touch something."""
        point, heading = resample_line(line.shape_m, np.array([station_m]))
        yaw = float(heading[0])
        center = point[0] + right_m * np.array([np.sin(yaw), -np.cos(yaw)])
        size = draw_size(kind, self.rng)
        if self._is_free(center, yaw + turn_rad, np.array(size[:2])):
            self.placed.append(Standing(kind, (float(center[0]), float(center[1])), yaw + turn_rad, size))
            return True
        return False

    def _is_free(self, center: Array, yaw_rad: float, size_m: Array) -> bool:
        grown = size_m + 0.12
        yaw = np.array(yaw_rad)
        near = np.linalg.norm(self.moving_center_m - center, axis=1) < 16.0
        others = [(self.moving_center_m[near], self.moving_yaw_rad[near], self.moving_size_m[near])]
        others.append((self.points_m, np.zeros(len(self.points_m)), np.full((len(self.points_m), 2), 0.5)))
        centers = np.array([item.center_m for item in self.placed]).reshape(-1, 2)
        sizes = np.array([item.size_lwh_m[:2] for item in self.placed]).reshape(-1, 2)
        others.append((centers, np.array([item.yaw_rad for item in self.placed]), sizes))
        return not any(bool(boxes_overlap(center, yaw, grown, *other).any()) for other in others)


def furnish(town: Town, tracks: list[Track], route_m: Array, rng: np.random.Generator) -> list[Standing]:
    """Fills kerbs and verges within sight of the ego's route (T, 2) without touching any track or another thing."""
    stride = 2
    site = _Site(
        town=town,
        rng=rng,
        moving_center_m=np.concatenate([track.center_m[::stride] for track in tracks]),
        moving_yaw_rad=np.concatenate([track.yaw_rad[::stride] for track in tracks]),
        moving_size_m=np.concatenate(
            [np.tile(track.size_lwh_m[:2], (len(track.yaw_rad[::stride]), 1)) for track in tracks]
        ),
        points_m=np.array([tree.position_m for tree in town.trees] + [pole.position_m for pole in town.poles]).reshape(
            -1, 2
        ),
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
    return site.placed


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
        if site.rng.random() < 0.30:
            station += float(site.rng.uniform(2, 7))
            continue
        kind = site.deal(length - _CORNER_M - station)
        if kind is None:
            break
        room = _ROOM_M[kind]
        if kind.endswith("_parked"):
            for k in range(int(site.rng.integers(1, 3))):
                site.put(kind, strip, station + 1.0 + 1.1 * k, 0.3, np.pi / 2 + float(site.rng.normal(0, 0.15)))
            station += room
            continue
        site.put(kind, strip, station + room / 2, float(site.rng.uniform(0.0, 0.12)), float(site.rng.normal(0, 0.015)))
        station += room + float(site.rng.uniform(0.0, 0.8))


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
                site.put("pedestrian", path, station + 0.95 * k + float(site.rng.uniform(0, 3)), right, turn)
