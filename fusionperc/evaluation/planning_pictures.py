"""Pictures of the plans that went worst, to find out why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.evaluation.planning import PERCEPTRON, TRUTH, PlannerScores, PlanningResult
from fusionperc.evaluation.planning_scene import (
    Array,
    PlanningScene,
    ego_rectangles,
    rectangles,
    with_start,
)
from fusionperc.evaluation.planning_situations import situations_of
from fusionperc.types import CLASSES, COMMANDS
from fusionperc.visualization.plan_view import Outline, PlanView, Trajectory, draw_plan

_COLOURS = {TRUTH: "#ffffff", PERCEPTRON: "#4cc9ff"}
_MODEL_COLOUR = "#ff9e3d"


def draw_worst(
    result: PlanningResult,
    planner: str,
    scenes: Sequence[PlanningScene],
    drives: NuScenesDrives,
    output: Path,
    count: int,
) -> list[Path]:
    """Draws a planner's worst samples: those that hit something first, then by distance at 3 s.

    Args:
        result, scenes: as scored.
        planner: name of the planner.
        drives: where the samples' front pictures are.
        output: folder of the files worst_<rank>.png.
        count: how many.
    """
    scores = {item.planner.name: item for item in result.scores}
    mine = scores[planner]
    badness = [(score.collision[2], score.l2_m[2]) for score in mine.samples["fusionperc"]]
    order = sorted(range(len(scenes)), key=lambda place: badness[place], reverse=True)[:count]
    paths = []
    for rank, place in enumerate(order):
        path = output / f"worst_{rank}.png"
        draw_plan(_view(scenes[place], mine, scores, result, drives, place), path)
        paths.append(path)
    return paths


def _view(
    scene: PlanningScene,
    mine: PlannerScores,
    scores: dict[str, PlannerScores],
    result: PlanningResult,
    drives: NuScenesDrives,
    place: int,
) -> PlanView:
    around = scene.surroundings
    score = mine.samples["fusionperc"][place]
    command = around.route_command if result.command_source == "route" else around.endpoint_command
    title = (
        f"{around.scene} {around.token[:8]}  {', '.join(sorted(situations_of(scene)))}  command "
        f"{COMMANDS[command] if command >= 0 else 'unknown'} ({result.command_source})  {mine.planner.name}: L2 at 3 s "
        f"{score.l2_m[2]:.2f} m{', hits' if score.collision[2] else ''}"
    )
    named = [
        (mine.planner.name, _MODEL_COLOUR),
        *((name, colour) for name, colour in _COLOURS.items() if name in scores),
    ]
    trajectories = []
    for name, colour in named:
        plan = with_start(scores[name].planner.plans[around.token])[:7]
        trajectories.append(Trajectory(name, plan, ego_rectangles(plan), colour))
    front = drives.read(drives.sample_tokens.index(around.token), sensors=("camera",))
    return PlanView(
        title=title,
        trajectories=tuple(trajectories),
        outlines=tuple(_outlines(scene)),
        drivable=_rings(scene),
        image=front.images[0].permute(1, 2, 0).numpy(),
        intrinsics=front.intrinsics[0],
        camera_T_ego=front.camera_T_ego[0],
    )


def _outlines(scene: PlanningScene) -> list[Outline]:
    """Objects now, and where those that move will be in three seconds."""
    found = []
    for index, name in enumerate(CLASSES[int(k)] for k in scene.class_index):
        now, later = scene.pose[index, 0], scene.pose[index, 6]
        if np.isfinite(now).all():
            corners = rectangles(now, scene.size_m[index, 0], scene.size_m[index, 1])
            way: Array = scene.pose[index, :7, :2]
            found.append(Outline(name, corners, way[np.isfinite(way).all(-1)]))
        elif np.isfinite(later).all():
            corners = rectangles(later, scene.size_m[index, 0], scene.size_m[index, 1])
            found.append(Outline(name, corners, np.zeros((0, 2))))
    return found


def _rings(scene: PlanningScene) -> tuple[Array, ...]:
    """Outlines of the drivable area; none without a map."""
    area = scene.surroundings.drivable
    if area is None:
        return ()
    parts = [part for part in shapely.get_parts(area) if part.geom_type == "Polygon"]
    rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    return tuple(np.asarray(ring.coords)[:, :2] for ring in rings)
