"""A plan as a picture: from above with everything around, and on the front camera's picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fusionperc.visualization.plots import save_figure
from fusionperc.visualization.projection import project_segments
from fusionperc.visualization.scene import BACKGROUND, CLASS_COLOURS

Array = NDArray[np.float64]
_TEXT_COLOUR, _ROAD_COLOUR = "#c9d1d9", "#4b5563"
_AHEAD_M, _BEHIND_M, _ASIDE_M = 50.0, 15.0, 30.0


@dataclass(frozen=True)
class Trajectory:
    """Poses (T, 3) x, y, yaw with the ego's box (T, 4, 2) at each, and a colour."""

    name: str
    pose_m: Array
    boxes_m: Array
    colour: str


@dataclass(frozen=True)
class Outline:
    """An object of a class: corners (4, 2), and the places (n, 2) where it goes."""

    name: str
    corners_m: Array
    way_m: Array


@dataclass(frozen=True)
class PlanView:
    """What is drawn; all in the ego frame, metres. The picture (H, W, 3) is the front camera's, black where absent.

    The first trajectory is drawn with its boxes; `drivable` are rings (n, 2).
    """

    title: str
    trajectories: tuple[Trajectory, ...]
    outlines: tuple[Outline, ...]
    drivable: tuple[Array, ...]
    image: NDArray[np.uint8]
    intrinsics: torch.Tensor
    camera_T_ego: torch.Tensor


def draw_plan(view: PlanView, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    figure = Figure(figsize=(15, 8), dpi=90, facecolor=BACKGROUND, layout="constrained")
    figure.suptitle(view.title, color=_TEXT_COLOUR, fontsize=11)
    above, front = figure.subplots(1, 2, width_ratios=(1, 1.25))
    for axes in (above, front):
        axes.set_facecolor(BACKGROUND)
    _draw_above(above, view)
    _draw_front(front, view)
    legend = above.legend(loc="lower left", fontsize=9, facecolor=BACKGROUND, edgecolor=_ROAD_COLOUR)
    for text in legend.get_texts():
        text.set_color(_TEXT_COLOUR)
    save_figure(figure, path)


def _turned(xy_m: Array) -> Array:
    """Ahead is up, left is left."""
    return np.stack([-xy_m[..., 1], xy_m[..., 0]], -1)


def _draw_above(axes, view: PlanView) -> None:  # type: ignore[no-untyped-def]
    axes.add_collection(LineCollection([_turned(ring) for ring in view.drivable], colors=_ROAD_COLOUR, linewidths=1))
    for outline in view.outlines:
        colour = CLASS_COLOURS[outline.name]
        corners = _turned(np.concatenate([outline.corners_m, outline.corners_m[:1]]))
        axes.plot(corners[:, 0], corners[:, 1], color=colour, linewidth=1.2)
        way = _turned(outline.way_m)
        if len(way) > 1 and float(np.linalg.norm(way[-1] - way[0])) > 0.5:
            axes.plot(way[:, 0], way[:, 1], ".-", color=colour, linewidth=0.7, markersize=3)
    for number, trajectory in enumerate(view.trajectories):
        place = _turned(trajectory.pose_m)
        axes.plot(place[:, 0], place[:, 1], "o-", color=trajectory.colour, markersize=3, label=trajectory.name)
        shown = trajectory.boxes_m if number == 0 else trajectory.boxes_m[-1:]
        boxes = [_turned(np.concatenate([box, box[:1]])) for box in shown]
        axes.add_collection(LineCollection(boxes, colors=trajectory.colour, linewidths=0.8, alpha=0.8))
    axes.set(xlim=(-_ASIDE_M, _ASIDE_M), ylim=(-_BEHIND_M, _AHEAD_M), aspect="equal", xticks=[], yticks=[])


def _draw_front(axes, view: PlanView) -> None:  # type: ignore[no-untyped-def]
    axes.imshow(view.image)
    height, width = view.image.shape[:2]
    for trajectory in view.trajectories:
        points = np.concatenate([trajectory.pose_m[:, :2], np.zeros((len(trajectory.pose_m), 1))], 1)
        segments = np.stack([points[:-1], points[1:]], 1).astype(np.float32)
        lines, _ = project_segments(view.intrinsics, view.camera_T_ego, segments)
        axes.add_collection(LineCollection(list(lines - 0.5), colors=trajectory.colour, linewidths=2))
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
