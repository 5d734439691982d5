"""Open-loop planning scores: one function a protocol, each as its authors compute it, with what deviates.

All take a plan and a scene and return a `Score` of that one sample. Deviations that all share: only samples with one
key frame before and six after them are scored (UniAD keeps the others, as errors of zero); objects and the ego are
interpolated to exactly 0.5, 1.0, ... 3.0 s (the originals take the n-th next key frame, whatever its time); objects
are those of the ten detection classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from fusionperc.evaluation.planning_comfort import Motion, is_comfortable
from fusionperc.evaluation.planning_scene import (
    COARSE,
    FINE,
    NUM_STEPS,
    PEDESTRIANS,
    REPORTED_STEPS,
    STEP_S,
    VEHICLES,
    Array,
    PlanningScene,
    Raster,
    between_steps,
    ego_rectangles,
    lidar_positions,
    with_start,
)
from fusionperc.geometry import EGO_LENGTH_M, EGO_WIDTH_M, LIDAR_AHEAD_M

Flags = NDArray[np.bool_]
#: A step shorter than this says nothing of the heading (BEV-Planner).
_HEADING_STEP_M = 1.0
#: With less than this on the way, the share of it that was made says nothing.
_LEAST_PROGRESS_M = 1.0


@dataclass(frozen=True)
class Score:
    """One plan under one protocol, at 1, 2 and 3 s.

    Attributes:
        l2_m: distance from where the ego went.
        collision: 0 or 1 (means of these where the protocol averages over time).
        truth_collision: the same of where the ego went, counted without any exception.
        off_road: 0 or 1; None without a map or where the protocol has no such term.
        comfort: 0 or 1, None where the protocol has no such term.
        progress: share of the way made of what the ego made in 3 s, at most 1; None where it hardly moved.
    """

    l2_m: Array
    collision: Array
    truth_collision: Array
    off_road: Array | None = None
    comfort: float | None = None
    progress: float | None = None


def uniad(plan: Array, scene: PlanningScene) -> Score:
    """UniAD: values at t; vehicles only, unseen ones too; an ego box that never turns, in cells of 0.5 m.

    Source: UniAD `planning_head_plugin/planning_metrics.py`, `occflow_label.py` (arXiv 2212.10156). A step at which the
    ground truth's own box "collides" counts as none of the plan's. Deviates: OpenCV draws in axes (forward, left).
    """
    distance = _lidar_distance(plan, scene)
    plan_hits, truth_hits = _raster_hits(plan, scene, scene.uniad_occupancy)
    return Score(distance[_AT], (plan_hits & ~truth_hits)[_AT].astype(float), truth_hits[_AT].astype(float))


def st_p3(plan: Array, scene: PlanningScene) -> Score:
    """ST-P3: means over all steps up to t; vehicles and pedestrians annotated as more than 40 % visible.

    Source: ST-P3 `stp3/metrics.py`, `evaluate.py`, visibility filter of its default configuration (arXiv 2207.07601).
    """
    return _running_mean(plan, scene, scene.st_p3_occupancy)


def vad(plan: Array, scene: PlanningScene) -> Score:
    """VAD: means over all steps up to t; vehicles and pedestrians annotated now and, without a gap, until then.

    Source: VAD `planner/metric_stp3.py`, `VAD.py` (arXiv 2303.12077).
    """
    return _running_mean(plan, scene, scene.vad_occupancy)


def bev_planner(plan: Array, scene: PlanningScene) -> Score:
    """BEV-Planner: mean distance, any hit up to t; the ego box turns with the trajectory, in cells of 0.1 m.

    The heading is that of the last step of at least 1 m. A hit at a step at which the ground truth hits counts as none.
    Off-road is its CCR, meeting the road's boundary up to t. Source: BEV-Planner `planner_head/metric_stp3.py` (arXiv
    2312.03031). Deviates: the boundary is the exact rim of the drivable area, not a raster of map elements.
    """
    distance = np.linalg.norm(plan[:NUM_STEPS, :2] - scene.future[:NUM_STEPS, :2], axis=1)
    boxes, truth_boxes = (_headed(path[:NUM_STEPS]) for path in (plan, scene.future))
    hits, truth_hits = (_turned_hits(path, scene.bev_planner_occupancy) for path in (boxes, truth_boxes))
    boundary = scene.boundary
    off_road = None
    if boundary is not None:
        off_road = _up_to(shapely.intersects(shapely.polygons(ego_rectangles(boxes)), boundary))[_AT].astype(float)
    collision = _up_to(hits & ~truth_hits)[_AT].astype(float)
    return Score(_means(distance)[_AT], collision, _up_to(truth_hits)[_AT].astype(float), off_road)


def fusionperc(plan: Array, scene: PlanningScene) -> Score:
    """Ours, the default: exact boxes, any hit up to t.

    The ego's oriented box (4.084 x 1.85 m, centre 1.486 m ahead of the ego frame) turns with the plan's own yaw; every
    annotated vehicle, cyclist and pedestrian is an exact polygon, seen or not; both are looked at every 0.1 s from
    0.1 s on, straight between waypoints. Nothing is excused where the ground truth collides: that is reported beside.
    Distances are at t. Off-road: a corner of the box off the map's drivable area, up to t. Comfort: nuPlan's bounds
    over three seconds. Progress: way made along where the ego went.
    """
    agents = scene.of_classes(VEHICLES + PEDESTRIANS)
    hits, truth_hits = (
        _up_to(scene.hits(path[:NUM_STEPS], agents)[:, 1:].any(0))[_FINE_AT].astype(float)
        for path in (plan, scene.future)
    )
    distance = np.linalg.norm(plan[:NUM_STEPS, :2] - scene.future[:NUM_STEPS, :2], axis=1)
    off = off_road(plan[:NUM_STEPS], scene)
    return Score(
        distance[_AT],
        hits,
        truth_hits,
        None if off is None else _up_to(off)[_FINE_AT].astype(float),
        float(is_comfortable(Motion.of(plan[:NUM_STEPS], scene.surroundings))),
        progress(plan[:NUM_STEPS], scene),
    )


#: In the order of tables; the last is the default.
PROTOCOLS: dict[str, Callable[[Array, PlanningScene], Score]] = {
    "uniad": uniad,
    "st_p3": st_p3,
    "vad": vad,
    "bev_planner": bev_planner,
    "fusionperc": fusionperc,
}
DEFAULT_PROTOCOL = "fusionperc"


def off_road(plan: Array, scene: PlanningScene) -> Flags | None:
    """(F,) whether a corner of the ego's box is off the drivable area, every 0.1 s from 0.1 s on; None: no map."""
    area = scene.surroundings.drivable
    if area is None:
        return None
    shapely.prepare(area)
    corners = ego_rectangles(between_steps(with_start(plan)))[1:]
    outside: Flags = ~shapely.intersects_xy(area, corners[..., 0], corners[..., 1]).all(-1)
    return outside


def progress(plan: Array, scene: PlanningScene) -> float | None:
    """Way made along the ego's recorded path, as a share of what the ego made in the same time, in [0, 1]."""
    made = float(np.linalg.norm(np.diff(with_start(scene.future[: len(plan)])[:, :2], axis=0), axis=1).sum())
    if made < _LEAST_PROGRESS_M:
        return None
    path = shapely.remove_repeated_points(shapely.linestrings(with_start(scene.future[: len(plan)])[:, :2]), 1e-3)
    share: float = float(shapely.line_locate_point(path, shapely.points(plan[-1, :2]))) / made
    return min(1.0, share)


_AT = list(REPORTED_STEPS)
_FINE_AT = [round((step + 1) * STEP_S / 0.1) - 1 for step in REPORTED_STEPS]


def _up_to(flags: Flags) -> Flags:
    return np.logical_or.accumulate(flags)


def _means(values: Array) -> Array:
    means: Array = np.cumsum(values) / np.arange(1, len(values) + 1)
    return means


def _lidar_distance(plan: Array, scene: PlanningScene) -> Array:
    truth = lidar_positions(scene.future[:NUM_STEPS])
    distance: Array = np.linalg.norm(lidar_positions(plan[:NUM_STEPS]) - truth, axis=1)
    return distance


def _running_mean(plan: Array, scene: PlanningScene, occupancy: list[Flags]) -> Score:
    hits, truth_hits = _raster_hits(plan, scene, occupancy)
    counted = (hits & ~truth_hits).astype(float)
    return Score(_means(_lidar_distance(plan, scene))[_AT], _means(counted)[_AT], _means(truth_hits.astype(float))[_AT])


def _raster_hits(plan: Array, scene: PlanningScene, occupancy: list[Flags]) -> tuple[Flags, Flags]:
    """(6,) each, of the plan and of the truth: whether the ego's cells, shifted but never turned, are occupied."""
    paths = (lidar_positions(path[:NUM_STEPS]) for path in (plan, scene.future))
    hits, truth_hits = (
        np.array([_shifted_hit(position, cells) for position, cells in zip(path, occupancy, strict=True)])
        for path in paths
    )
    return hits, truth_hits


def _ego_cells(raster: Raster) -> NDArray[np.int64]:
    """(n, 2) cells whose centres lie in the ego's box at the origin, counted as ST-P3 does: 32 of 0.5 m."""
    first = -raster.half_m + raster.cell_m / 2
    low = np.array([-EGO_LENGTH_M / 2 + 0.5, -EGO_WIDTH_M / 2])
    high = np.array([EGO_LENGTH_M / 2 + 0.5, EGO_WIDTH_M / 2])
    start, stop = np.ceil((low - first) / raster.cell_m), np.floor((high - first) / raster.cell_m)
    rows, columns = (np.arange(a, b + 1) for a, b in zip(start.astype(int), stop.astype(int), strict=True))
    cells: NDArray[np.int64] = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    return cells


def _shifted_hit(position_m: Array, occupied: Flags) -> bool:
    """Cells are moved by a fraction of one and then cut down to whole ones, and held inside the raster."""
    cells = (_EGO_CELLS + position_m / COARSE.cell_m).astype(int).clip(0, COARSE.cells - 1)
    return bool(occupied[cells[:, 0], cells[:, 1]].any())


_EGO_CELLS = _ego_cells(COARSE)


def _headed(path: Array) -> Array:
    """The path with the headings that BEV-Planner reads off it: of each step of at least 1 m, else the last known."""
    steps = np.diff(with_start(path)[:, :2], axis=0)
    yaw, headed = 0.0, path.copy()
    for place, step in enumerate(steps):
        if np.linalg.norm(step) >= _HEADING_STEP_M:
            yaw = float(np.arctan2(step[1], step[0]))
        headed[place, 2] = yaw
    return headed


def _turned_hits(path: Array, occupancy: list[Flags]) -> Flags:
    """(6,) whether a cell whose centre lies in the turned box is occupied."""
    first = -FINE.half_m + FINE.cell_m / 2
    hits = []
    for corners, occupied in zip(ego_rectangles(path) - np.array([LIDAR_AHEAD_M, 0.0]), occupancy, strict=True):
        low = np.floor((corners.min(0) - first) / FINE.cell_m).astype(int)
        high = np.ceil((corners.max(0) - first) / FINE.cell_m).astype(int)
        rows, columns = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
        cells = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        place = first + cells * FINE.cell_m
        kept = cells[shapely.intersects_xy(shapely.polygons(corners), place[:, 0], place[:, 1])]
        kept = kept.clip(0, FINE.cells - 1)
        hits.append(bool(occupied[kept[:, 0], kept[:, 1]].any()))
    return np.array(hits)


__all__ = ["DEFAULT_PROTOCOL", "PROTOCOLS", "Score", "off_road", "progress"]
