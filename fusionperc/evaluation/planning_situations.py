"""What the ego does at a key frame, read off the recorded tracks: so that scores can be told apart by situation.

Nothing here is known to a planner. The same rules hold for real and simulated drives, with or without a map; several
situations may hold at once.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import shapely

from fusionperc.evaluation.planning_comfort import EgoState
from fusionperc.evaluation.planning_scene import (
    NUM_STEPS,
    PEDESTRIANS,
    STEP_S,
    VEHICLES,
    Array,
    PlanningScene,
    with_start,
)
from fusionperc.geometry import EGO_CENTER_AHEAD_M, EGO_LENGTH_M, EGO_WIDTH_M

Situation = Literal[
    "following", "stopping", "standing", "starting", "turning", "yielding", "lane change", "free driving"
]
SITUATIONS: tuple[Situation, ...] = get_args(Situation)

_STANDING_MPS, _STOPPED_MPS = 0.3, 1.0
#: Change of heading over the next three seconds that is a turn.
_TURN_RAD = 0.25
#: To the side by more than this within three seconds, but heading as before: another lane.
_LANE_CHANGE_M, _SAME_HEADING_RAD = 1.5, 0.1
#: A leader is in the ego's way, at most this far ahead in time (and this near at walking pace), heading as it does.
_FOLLOWING_S, _FOLLOWING_M, _ALIKE_RAD = 2.5, 12.0, 0.6
#: The ego's way is as wide as its box and this much more.
_MARGIN_M = 0.3
_MOVES_MPS = 0.5
#: Whoever passes over the ego's way within this time, less far ahead, before the ego comes, goes first.
_CROSSING_RAD, _YIELD_M = 0.6, 30.0
_SLOW_MPS, _BRAKING_MPS = 3.5, 1.0
#: The drive ends before the way does.
_BEYOND_M = 15.0


def situations_of(scene: PlanningScene) -> set[Situation]:
    """The situations of a key frame; "free driving" is driving with none of the others."""
    path = with_start(scene.future[:NUM_STEPS])
    step = np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1) / STEP_S
    speed = max(0.0, EgoState.of(scene.surroundings).speed_mps)
    found: set[Situation] = set()
    if speed <= _STANDING_MPS:
        found.add("starting" if step.max() > _STOPPED_MPS else "standing")
    elif step.min() < _STOPPED_MPS:
        found.add("stopping")
    turned = float(np.unwrap(path[:, 2])[-1])
    if step.max() > _STANDING_MPS and abs(turned) > _TURN_RAD:
        found.add("turning")
    elif abs(path[-1, 1]) > _LANE_CHANGE_M and abs(turned) < _SAME_HEADING_RAD and _swerves(path):
        found.add("lane change")
    way = _way(scene)
    if speed > _STANDING_MPS and _follows(scene, way, speed):
        found.add("following")
    slows = speed < _SLOW_MPS or step.min() < speed - _BRAKING_MPS
    if slows and _yields(scene, way):
        found.add("yielding")
    if not found and speed > _STANDING_MPS:
        found.add("free driving")
    return found


def _swerves(path: Array) -> bool:
    """The heading goes out and comes back: a bend of the road does not."""
    yaw = np.unwrap(path[:, 2])
    return bool(np.abs(yaw).max() > abs(yaw[-1]) + 0.03)


def _way(scene: PlanningScene) -> shapely.LineString:
    """The line that the ego's centre drives along for the rest of the drive, and straight on from there."""
    pose = scene.surroundings.ego_path_m.double().numpy()
    heading = np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], 1)
    center = pose[:, :2] + EGO_CENTER_AHEAD_M * heading
    moved = np.concatenate([[True], np.linalg.norm(np.diff(center, axis=0), axis=1) > 1e-2])
    return shapely.LineString(np.concatenate([center[moved], center[-1:] + _BEYOND_M * heading[-1:]]))


def _follows(scene: PlanningScene, way: shapely.LineString, speed: float) -> bool:
    """A vehicle is in the way, near, and heads along it."""
    vehicles = scene.of_classes(VEHICLES) & np.isfinite(scene.pose[:, 0]).all(-1)
    reach = max(_FOLLOWING_M, _FOLLOWING_S * speed) + EGO_LENGTH_M / 2
    for (x, y, yaw), length_m in zip(scene.pose[vehicles, 0], scene.size_m[vehicles, 0], strict=True):
        place = shapely.Point(x, y)
        if way.distance(place) > EGO_WIDTH_M / 2 + _MARGIN_M:
            continue
        station = way.project(place)
        is_near = 0.0 < station < reach + length_m / 2
        if is_near and abs(_difference(yaw, _heading(way, station))) < _ALIKE_RAD:
            return True
    return False


def _yields(scene: PlanningScene, way: shapely.LineString) -> bool:
    """Someone moves over the way ahead of the ego within three seconds, across it, before the ego is there."""
    corridor = way.buffer(EGO_WIDTH_M / 2 + _MARGIN_M, cap_style="flat")
    agents = scene.of_classes(VEHICLES + PEDESTRIANS)
    frames = 1 + round(NUM_STEPS * STEP_S / 0.1)
    center = scene.fine_pose[:, :frames]
    step = np.linalg.norm(np.diff(center[..., :2], axis=1), axis=-1) / 0.1
    ego = with_start(scene.future[:NUM_STEPS])
    driven = np.interp(
        np.arange(frames) * 0.1, np.arange(len(ego)) * STEP_S,
        np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(ego[:, :2], axis=0), axis=1))]),
    )  # fmt: skip
    for index in np.flatnonzero(agents):
        known = np.isfinite(center[index]).all(-1)
        if not known.any() or not np.nanmax(step[index], initial=0.0) > _MOVES_MPS:
            continue
        for frame in np.flatnonzero(known)[::2]:
            place = shapely.Point(center[index, frame, :2])
            if not shapely.intersects(corridor, place):
                continue
            station = way.project(place)
            across = abs(_difference(center[index, frame, 2], _heading(way, station)))
            is_across = _CROSSING_RAD < across < np.pi - _CROSSING_RAD
            if is_across and 1.0 < station - driven[frame] - EGO_LENGTH_M / 2 < _YIELD_M:
                return True
    return False


def _heading(way: shapely.LineString, station_m: float) -> float:
    a, b = way.interpolate(max(0.0, station_m - 0.5)), way.interpolate(station_m + 0.5)
    return float(np.arctan2(b.y - a.y, b.x - a.x))


def _difference(a: float, b: float) -> float:
    return float((a - b + np.pi) % (2 * np.pi) - np.pi)
