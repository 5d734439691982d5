"""Boxes of what moves, made of moving surfaces alone: no annotation is asked.

Points that lie together and move alike are one object. It heads where it goes. LiDAR sees the sides that face it: from
there the box reaches as far back as an object of its kind does, and its kind is told by its extent and its speed.

Source: the idea, that a detector can learn from what is found by its motion, is MODEST's (You et al., CVPR 2022).
Deviates: boxes of usual sizes instead of the points' extent; headings from motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fusionperc.data.motion import clusters
from fusionperc.measurements import Surfaces
from fusionperc.types import CLASSES, Boxes

#: An object has so many points; this share of them is known to move, at such a speed at least.
_FEWEST, _MOVING_SHARE, _SLOWEST_MPS = 5, 0.5, 0.8
#: Nor does it hang in the air: its lowest point is below this. What looks small and fast must show so many points.
_LOWEST_M, _FEWEST_FAST = 1.2, 12
#: What is wider or longer than this is no person and no cycle.
_VEHICLE_WIDTH_M, _VEHICLE_LENGTH_M = 1.3, 2.6
#: What is higher or longer than this is no car; what is longer than a lorry is a bus.
_CAR_HEIGHT_M, _CAR_LENGTH_M, _TRUCK_LENGTH_M = 2.5, 6.0, 9.0
#: What is longer or faster than this does not walk; what is faster than a bicycle has an engine.
_PERSON_LENGTH_M, _WALK_MPS, _CYCLE_MPS = 1.3, 2.5, 7.0
#: Usual length, width and height, m: nuScenes' means as the anchors of PointPillars (Lang et al., CVPR 2019) there.
_USUAL_M = {
    "car": (4.6, 1.95, 1.73),
    "truck": (6.93, 2.51, 2.84),
    "bus": (11.1, 2.94, 3.47),
    "motorcycle": (2.11, 0.77, 1.47),
    "bicycle": (1.7, 0.6, 1.28),
    "pedestrian": (0.73, 0.67, 1.77),
}


def moving_objects(surfaces: Surfaces) -> Boxes:
    """The objects that the surfaces of one sample belong to, attributes unknown.

    Args:
        surfaces: of one sample.
    """
    found = _objects(surfaces.xyz_m.numpy(), surfaces.moves.numpy(), surfaces.velocity_mps.numpy())
    found.sort(key=lambda one: -one.points)
    kept: list[_Object] = []
    for one in found:
        if not any(other.holds(one.center_m) for other in kept):
            kept.append(one)
    if not kept:
        return Boxes.empty()
    return Boxes(
        center_m=torch.tensor(np.array([one.center_m for one in kept], dtype=np.float32)),
        size_lwh_m=torch.tensor(np.array([one.size_m for one in kept], dtype=np.float32)),
        yaw_rad=torch.tensor([one.yaw_rad for one in kept], dtype=torch.float32),
        velocity_mps=torch.tensor(np.array([one.velocity_mps for one in kept], dtype=np.float32)),
        class_index=torch.tensor([CLASSES.index(one.kind) for one in kept]),
        attribute_index=torch.full((len(kept),), -1),
    )


@dataclass(frozen=True)
class _Object:
    center_m: NDArray[np.float32]
    size_m: NDArray[np.float32]
    velocity_mps: NDArray[np.float32]
    kind: str
    points: int

    @property
    def yaw_rad(self) -> float:
        return float(np.arctan2(self.velocity_mps[1], self.velocity_mps[0]))

    def holds(self, center_m: NDArray[np.float32]) -> bool:
        """Whether a place on the ground is inside."""
        away = _axes(self.velocity_mps) @ (center_m[:2] - self.center_m[:2])
        return bool((np.abs(away) < self.size_m[:2] / 2).all())


def _objects(xyz_m: NDArray[np.float32], moves: NDArray[np.int8], velocity_mps: NDArray[np.float32]) -> list[_Object]:
    """One for each cluster of points that may move, of which enough do."""
    may = moves != 0
    xyz_m, moves, velocity_mps = xyz_m[may], moves[may], velocity_mps[may]
    if not (moves == 1).any():
        return []
    cluster = clusters(xyz_m[:, :2])
    objects = []
    for number in np.unique(cluster[moves == 1]):
        members = cluster == number
        known = velocity_mps[members]
        known = known[~np.isnan(known).any(1)]
        if members.sum() < _FEWEST or (moves[members] == 1).mean() < _MOVING_SHARE or not len(known):
            continue
        velocity: NDArray[np.float32] = np.median(known, 0)
        if np.linalg.norm(velocity) < _SLOWEST_MPS or xyz_m[members, 2].min() > _LOWEST_M:
            continue
        one = _boxed(xyz_m[members], velocity)
        if one.kind not in ("motorcycle", "bicycle") or one.points >= _FEWEST_FAST:
            objects.append(one)
    return objects


def _boxed(xyz_m: NDArray[np.float32], velocity_mps: NDArray[np.float32]) -> _Object:
    """The object of these points; the sensor, at the ego's place, sees the sides that face it."""
    axes = _axes(velocity_mps)
    along = xyz_m[:, :2] @ axes.T
    low, high, top_m = along.min(0), along.max(0), float(xyz_m[:, 2].max())
    kind = _kind(high - low, top_m, float(np.linalg.norm(velocity_mps)))
    size = np.maximum(np.array([*(high - low), top_m]), np.array(_USUAL_M[kind]))
    hidden = size[:2] - (high - low)
    # The rest is on the far side; on both where the sensor looks along.
    low = low - np.where(high < 0, hidden, np.where(low > 0, 0, hidden / 2))
    center = axes.T @ (low + size[:2] / 2)
    return _Object(
        np.array([*center, size[2] / 2], np.float32), size.astype(np.float32), velocity_mps, kind, len(xyz_m)
    )


def _kind(extent_m: NDArray[np.float32], top_m: float, speed_mps: float) -> str:
    """The class whose usual shape and speed fit."""
    length_m, width_m = extent_m
    if width_m < _VEHICLE_WIDTH_M and length_m < _VEHICLE_LENGTH_M:
        if speed_mps > _CYCLE_MPS:
            return "motorcycle"
        return "bicycle" if speed_mps > _WALK_MPS or length_m > _PERSON_LENGTH_M else "pedestrian"
    if top_m < _CAR_HEIGHT_M and length_m < _CAR_LENGTH_M:
        return "car"
    return "truck" if length_m < _TRUCK_LENGTH_M else "bus"


def _axes(velocity_mps: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2, 2) rows: unit vectors along the motion, and to its left."""
    x, y = velocity_mps / np.linalg.norm(velocity_mps)
    return np.array([[x, y], [-y, x]], dtype=np.float32)
