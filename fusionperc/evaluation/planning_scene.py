"""One key frame to score plans on: footprints, objects' polygons and rasters, made once for all planners.

A plan is (T, 3): x, y, yaw of the ego frame's origin at `FUTURE_TIMES_S`[:T], in the key frame's ego frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from fusionperc.data.sample import FUTURE_TIMES_S, Surroundings
from fusionperc.geometry import EGO_CENTER_AHEAD_M, EGO_LENGTH_M, EGO_WIDTH_M, LIDAR_AHEAD_M
from fusionperc.types import CLASSES

Array = NDArray[np.float64]

STEP_S = 0.5
#: Steps of a plan that the protocols of nuScenes report: 1, 2 and 3 s.
REPORTED_STEPS = (1, 3, 5)
NUM_STEPS = 6
#: Between waypoints and between key frames everything moves straight on; hits are looked for this often.
FINE_STEP_S = 0.1
_FINE = round(STEP_S / FINE_STEP_S)

VEHICLES = tuple(
    CLASSES.index(name) for name in ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle", "bicycle")
)
PEDESTRIANS = (CLASSES.index("pedestrian"),)
STATIC = tuple(CLASSES.index(name) for name in ("traffic_cone", "barrier"))


def rectangles(pose_m: Array, length_m: Array | float, width_m: Array | float, ahead_m: float = 0.0) -> Array:
    """(..., 4, 2) corners of boxes at poses (..., 3), their centres `ahead_m` along the heading; front left first."""
    cos, sin = np.cos(pose_m[..., 2]), np.sin(pose_m[..., 2])
    forward = np.stack([cos, sin], -1)[..., None, :]
    left = np.stack([-sin, cos], -1)[..., None, :]
    along = np.array([0.5, -0.5, -0.5, 0.5]) * np.asarray(length_m)[..., None] + ahead_m
    aside = np.array([0.5, 0.5, -0.5, -0.5]) * np.asarray(width_m)[..., None]
    corners: Array = pose_m[..., None, :2] + along[..., None] * forward + aside[..., None] * left
    return corners


def ego_rectangles(plan: Array) -> Array:
    """(..., 4, 2) corners of the ego's box at poses (..., 3) of the ego frame."""
    return rectangles(plan, EGO_LENGTH_M, EGO_WIDTH_M, EGO_CENTER_AHEAD_M)


def between_steps(pose_m: Array) -> Array:
    """(..., 1 + 5 N, 3) every `FINE_STEP_S` of poses (..., 1 + N, 3) every `STEP_S`, straight in between.

    NaN where one of the neighbours is; a known pose stays.
    """
    low, high = pose_m[..., :-1, None, :], pose_m[..., 1:, None, :]
    share = (np.arange(_FINE) / _FINE)[:, None]
    turn = (high[..., 2:] - low[..., 2:] + np.pi) % (2 * np.pi) - np.pi
    step = np.concatenate([high[..., :2] - low[..., :2], turn], -1)
    fine = low + share * step
    fine[..., 0, :] = low[..., 0, :]
    joined: Array = np.concatenate(
        [fine.reshape(*pose_m.shape[:-2], _FINE * (pose_m.shape[-2] - 1), 3), pose_m[..., -1:, :]], -2
    )
    return joined


def with_start(plan: Array) -> Array:
    """The plan with the present pose in front, (1 + T, 3)."""
    return np.concatenate([np.zeros((1, 3)), plan])


def lidar_positions(plan: Array) -> Array:
    """(T, 2) where the LiDAR will be, relative to where it is: the older protocols' trajectories are the LiDAR's."""
    heading = np.stack([np.cos(plan[:, 2]), np.sin(plan[:, 2])], 1)
    moved: Array = plan[:, :2] + LIDAR_AHEAD_M * (heading - np.array([1.0, 0.0]))
    return moved


@dataclass(frozen=True)
class Raster:
    """A grid around the LiDAR in which occupancy is drawn: half side and cell in metres; index 0 forward, 1 left."""

    half_m: float
    cell_m: float

    @property
    def cells(self) -> int:
        return round(2 * self.half_m / self.cell_m)

    def occupied(self, corners_m: Array) -> NDArray[np.bool_]:
        """(X, Y) of boxes with corners (N, 4, 2) in the ego frame, drawn as ST-P3 and UniAD draw them.

        Corners are rounded to cell corners and OpenCV fills the polygon with its rim, which makes a box up to a cell
        larger on each side.
        """
        in_lidar = corners_m - np.array([LIDAR_AHEAD_M, 0.0])
        pixels = np.round((in_lidar + self.half_m) / self.cell_m).astype(np.int32)
        image = np.zeros((self.cells, self.cells), dtype=np.uint8)
        for polygon in pixels:
            cv2.fillPoly(image, [np.ascontiguousarray(polygon[:, ::-1])], (1,))
        return image.astype(bool)


COARSE = Raster(50.0, 0.5)
FINE = Raster(50.0, 0.1)


class PlanningScene:
    """A key frame's future, ready to score plans on.

    Args:
        surroundings: as read; at least one key frame must lie before it and six after it.

    Attributes:
        future: (8, 3) where the ego went; the first six are known.
        pose: (A, 9, 3) objects at 0 s and `FUTURE_TIMES_S`.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.future: Array = surroundings.ego_future_m.double().numpy()
        objects = surroundings.objects
        self.pose: Array = objects.pose_m.double().numpy()
        self.size_m: Array = objects.size_lwh_m.double().numpy()
        self.class_index = objects.class_index.numpy()
        self.visibility = objects.visibility.numpy()

    @staticmethod
    def is_scorable(surroundings: Surroundings) -> bool:
        """One key frame before, six after, all with known ego poses; annotated."""
        known = bool(surroundings.ego_future_m[:NUM_STEPS].isfinite().all())
        return (
            surroundings.is_labelled and surroundings.num_past >= 1 and surroundings.num_future >= NUM_STEPS and known
        )

    @property
    def has_four_seconds(self) -> bool:
        return bool(np.isfinite(self.future).all()) and self.surroundings.num_future >= len(FUTURE_TIMES_S)

    def corners(self, keep: NDArray[np.bool_], step: int) -> Array:
        """(n, 4, 2) of the objects of a mask (A,) that are annotated `step` * 0.5 s ahead."""
        known = keep & np.isfinite(self.pose[:, step]).all(-1)
        return rectangles(self.pose[known, step], self.size_m[known, 0], self.size_m[known, 1])

    def of_classes(self, classes: tuple[int, ...]) -> NDArray[np.bool_]:
        """(A,) which objects are of these classes."""
        return np.isin(self.class_index, classes)

    @cached_property
    def uniad_occupancy(self) -> list[NDArray[np.bool_]]:
        """Vehicles, also unseen ones, at each of six steps."""
        vehicles = self.of_classes(VEHICLES)
        return [COARSE.occupied(self.corners(vehicles, step)) for step in range(1, NUM_STEPS + 1)]

    @cached_property
    def st_p3_occupancy(self) -> list[NDArray[np.bool_]]:
        """Vehicles and pedestrians that are annotated as at least 40 % visible then."""
        agents = self.of_classes(VEHICLES + PEDESTRIANS)
        return [
            COARSE.occupied(self.corners(agents & (self.visibility[:, step] != 1), step))
            for step in range(1, NUM_STEPS + 1)
        ]

    @cached_property
    def vad_occupancy(self) -> list[NDArray[np.bool_]]:
        """Vehicles and pedestrians annotated now, for as long as they are without a gap."""
        agents = self.of_classes(VEHICLES + PEDESTRIANS)
        lasting = np.cumprod(np.isfinite(self.pose).all(-1), axis=1).astype(bool)
        return [COARSE.occupied(self.corners(agents & lasting[:, step], step)) for step in range(1, NUM_STEPS + 1)]

    @cached_property
    def bev_planner_occupancy(self) -> list[NDArray[np.bool_]]:
        """Vehicles and pedestrians in cells of 0.1 m."""
        agents = self.of_classes(VEHICLES + PEDESTRIANS)
        return [FINE.occupied(self.corners(agents, step)) for step in range(1, NUM_STEPS + 1)]

    @cached_property
    def boundary(self) -> Any:
        """The rim of the drivable area, None without a map; that of the cut-out itself is beyond any plan."""
        area = self.surroundings.drivable
        if area is None:
            return None
        shapely.prepare(area)
        return area.boundary

    @cached_property
    def fine_pose(self) -> Array:
        """(A, 41, 3) every 0.1 s."""
        return between_steps(self.pose)

    @cached_property
    def fine_polygons(self) -> NDArray[Any]:
        """(A, 41) exact polygons of the objects every 0.1 s; None where not annotated."""
        pose = self.fine_pose
        known = np.isfinite(pose).all(-1)
        polygons = np.full(known.shape, None, dtype=object)
        length, width = (np.broadcast_to(self.size_m[:, k, None], known.shape)[known] for k in (0, 1))
        polygons[known] = shapely.polygons(rectangles(pose[known], length, width))
        return polygons

    def hits(self, plan: Array, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(A, F) whether the ego's box meets each object of a mask, every 0.1 s from now to the plan's end."""
        path = between_steps(with_start(plan))
        frames = len(path)
        center = rectangles(path, 0.0, 0.0, EGO_CENTER_AHEAD_M)[:, 0]
        reach = (np.hypot(self.size_m[:, 0], self.size_m[:, 1]) + np.hypot(EGO_LENGTH_M, EGO_WIDTH_M)) / 2
        with np.errstate(invalid="ignore"):
            apart = np.linalg.norm(self.fine_pose[:, :frames, :2] - center[None], axis=-1)
            near = keep[:, None] & (apart <= reach[:, None])
        met = np.zeros(near.shape, dtype=bool)
        if near.any():
            ego = np.broadcast_to(shapely.polygons(ego_rectangles(path))[None], near.shape)
            met[near] = shapely.intersects(ego[near], self.fine_polygons[:, :frames][near])
        return met
