"""NAVSIM's PDM score over four seconds, where map and agents are known.

PDMS = NC * DAC * (5 TTC + 5 EP + 2 C) / 12. Source: NAVSIM `docs/metrics.md`, `pdm_scorer.py` (arXiv 2406.15349).
Deviates: the plan is taken as it is, straight between waypoints, without a tracking controller; objects move as
recorded; progress is along the recorded path and relative to what was driven, as there is no PDM-Closed planner to
compare with; a hit from the side is the ego's fault only where the ego is off the drivable area, as lanes are not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from fusionperc.evaluation.planning_comfort import Motion, is_comfortable
from fusionperc.evaluation.planning_protocols import off_road, progress
from fusionperc.evaluation.planning_scene import (
    FINE_STEP_S,
    PEDESTRIANS,
    STATIC,
    VEHICLES,
    Array,
    PlanningScene,
    between_steps,
    ego_rectangles,
    with_start,
)
from fusionperc.geometry import EGO_CENTER_AHEAD_M

_STANDING_MPS = 5e-2
#: How far ahead time to collision looks, in steps of 0.1 s.
_LOOK_AHEAD = (0, 3, 6, 9)


@dataclass(frozen=True)
class PdmTerms:
    """NC (1, 0.5 for a static object, 0), DAC, TTC, C and EP in [0, 1], and the score."""

    no_collision: float
    drivable: float
    time_to_collision: float
    comfort: float
    progress: float

    @property
    def score(self) -> float:
        weighted = (5 * self.time_to_collision + 5 * self.progress + 2 * self.comfort) / 12
        return self.no_collision * self.drivable * weighted


def pdm(plan: Array, scene: PlanningScene) -> PdmTerms | None:
    """The terms of a plan of eight waypoints; None where the plan, the recording or the map does not reach that far."""
    outside = off_road(plan, scene)
    if outside is None or len(plan) < 8 or not scene.has_four_seconds:
        return None
    share = progress(plan, scene)
    return PdmTerms(
        no_collision=_no_collision(plan, scene),
        drivable=float(not outside.any()),
        time_to_collision=float(not _soon_collides(plan, scene)),
        comfort=float(is_comfortable(Motion.of(plan, scene.surroundings))),
        # Where the ego hardly moved any plan made its way.
        progress=1.0 if share is None else share,
    )


def _speeds(path: Array) -> Array:
    """(F,) at each fine frame, that of the step that leads there."""
    step = np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1) / FINE_STEP_S
    speed: Array = np.concatenate([step[:1], step])
    return speed


def _no_collision(plan: Array, scene: PlanningScene) -> float:
    """1 without a collision at the ego's fault, 0.5 with a static object, 0 with a road user."""
    path = between_steps(with_start(plan))
    boxes, speed = ego_rectangles(path), _speeds(path)
    outside = off_road(plan, scene)
    worst = 1.0
    for classes, value in ((VEHICLES + PEDESTRIANS, 0.0), (STATIC, 0.5)):
        met = scene.hits(plan, scene.of_classes(classes))
        # What is met from the start on is not met by the plan; of the others the first contact decides.
        for index in np.flatnonzero(met[:, 1:].any(1) & ~met[:, 0]):
            frame = int(met[index].argmax())
            is_off = outside is not None and bool(outside[frame - 1])
            if _is_at_fault(boxes[frame], float(speed[frame]), scene, int(index), frame, is_off):
                worst = min(worst, value)
    return worst


def _is_at_fault(box: Array, speed: float, scene: PlanningScene, index: int, frame: int, is_off: bool) -> bool:
    """A standing ego is never at fault; one that hits what stands, or with its front, is; from the side if off road."""
    if speed < _STANDING_MPS:
        return False
    pose = scene.fine_pose[index]
    other = np.linalg.norm(pose[frame, :2] - pose[frame - 1, :2]) / FINE_STEP_S
    if other < _STANDING_MPS:
        return True
    front = shapely.linestrings(box[[0, 3]])
    return bool(shapely.intersects(front, scene.fine_polygons[index, frame])) or is_off


def _soon_collides(plan: Array, scene: PlanningScene) -> bool:
    """Whether, going straight on at its speed from any moment, the ego would meet within 0.9 s what is ahead of it."""
    path = between_steps(with_start(plan))
    speed = _speeds(path)
    heading = np.stack([np.cos(path[:, 2]), np.sin(path[:, 2])], 1)
    agents = scene.of_classes(VEHICLES + PEDESTRIANS + STATIC) & ~scene.hits(plan, scene.of_classes(
        VEHICLES + PEDESTRIANS + STATIC))[:, 0]  # fmt: skip
    last = len(path) - 1
    for ahead in _LOOK_AHEAD:
        frames = np.arange(1, last + 1 - ahead)
        frames = frames[speed[frames] >= _STANDING_MPS]
        moved = path[frames].copy()
        moved[:, :2] += heading[frames] * (speed[frames] * ahead * FINE_STEP_S)[:, None]
        ego = shapely.polygons(ego_rectangles(moved))
        center = path[frames, :2] + EGO_CENTER_AHEAD_M * heading[frames]
        with np.errstate(invalid="ignore"):
            offset = scene.fine_pose[agents][:, frames + ahead, :2] - center[None]
            is_ahead = (offset * heading[frames][None]).sum(-1) > 0
            near = is_ahead & (np.linalg.norm(offset, axis=-1) < 40)
        polygons = scene.fine_polygons[agents][:, frames + ahead]
        boxes = np.broadcast_to(ego[None], near.shape)
        if near.any() and shapely.intersects(boxes[near], polygons[near]).any():
            return True
    return False
