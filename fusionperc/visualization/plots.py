"""Drawings on paper: the bird's-eye-view panel, and a sheet of everything as one PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fusionperc.files import whole_file
from fusionperc.visualization.open3d_view import View, render
from fusionperc.visualization.scene import (
    BACKGROUND,
    CLASS_COLOURS,
    GROUND_TRUTH_COLOUR,
    RADAR_COLOUR,
    Picture,
    SceneDrawing,
)

#: Order of the pictures on a sheet: ahead above, behind below, the ego's left side on the left.
_PLACES = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
_TEXT_COLOUR = "#c9d1d9"
_DOTS_PER_INCH = 100
#: All in pixels of the sheet.
_PICTURE_PX = (800, 450)
_GAP_PX = 8
_TITLE_PX = 56
_LEGEND_PX = 64
_LOWER_PX = 950


def draw_sheet(scene: SceneDrawing, path: Path, title: str = "") -> None:
    """Writes one PNG: six pictures with boxes, the 3D view, the bird's-eye view, the legend; whole or not at all."""
    picture_width, picture_height = _PICTURE_PX
    width = 3 * picture_width + 4 * _GAP_PX
    height = _TITLE_PX + 2 * (picture_height + _GAP_PX) + _LOWER_PX + _GAP_PX + _LEGEND_PX
    figure = Figure(figsize=(width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH, facecolor=BACKGROUND)

    def panel(left_px: int, top_px: int, width_px: int, height_px: int) -> Axes:
        box = (left_px / width, 1 - (top_px + height_px) / height, width_px / width, height_px / height)
        return figure.add_axes(box, facecolor=BACKGROUND)

    figure.text(_GAP_PX * 2 / width, 1 - _TITLE_PX / 2 / height, title, color=_TEXT_COLOUR, fontsize=18, va="center")
    pictures = {picture.name: picture for picture in scene.pictures if picture is not None}
    for place, name in enumerate(_PLACES):
        left = _GAP_PX + (place % 3) * (picture_width + _GAP_PX)
        top = _TITLE_PX + (place // 3) * (picture_height + _GAP_PX)
        draw_picture(panel(left, top, picture_width, picture_height), pictures.get(name), name)
    top = _TITLE_PX + 2 * (picture_height + _GAP_PX)
    view_width = width - _LOWER_PX - 3 * _GAP_PX
    _draw_image(panel(_GAP_PX, top, view_width, _LOWER_PX), render(scene, View.looking(view_width, _LOWER_PX)))
    draw_bev(panel(view_width + 2 * _GAP_PX, top, _LOWER_PX, _LOWER_PX), scene)
    _draw_legend(figure, scene, _LEGEND_PX / 2 / height)
    save_figure(figure, path)


def draw_bev(axes: Axes, scene: SceneDrawing) -> None:
    """The scene from above: ahead is up, the ego's left is left."""
    for points in scene.points:
        # Areas in square points; a pixel has 0.72 points at this resolution. Smaller here than in 3D: all lie close.
        area = (0.45 * points.size_px) ** 2
        axes.scatter(-points.xyz_m[:, 1], points.xyz_m[:, 0], c=points.rgb, s=area, marker="o", linewidths=0)
    for lines in scene.lines:
        segments = np.stack([-lines.segments_m[..., 1], lines.segments_m[..., 0]], axis=-1)
        # A list and not an array: the collection's signature asks for a sequence.
        axes.add_collection(LineCollection(list(segments), colors=lines.rgb.tolist(), linewidths=lines.width_px))
    limit = scene.range_m
    for radius in range(20, int(limit) + 1, 20):
        place = radius * math.sqrt(0.5)
        axes.text(place, -place, f" {radius} m", color="#8b949e", fontsize=10, va="top", clip_on=True)
    for label in scene.labels:
        x, y, _ = label.position_m
        if max(abs(x), abs(y)) < limit:
            axes.text(-y + 1.0, x + 1.0, label.text, color=label.colour, fontsize=8, clip_on=True)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#30363d")


def draw_picture(axes: Axes, picture: Picture | None, name: str) -> None:
    """One camera with its boxes; a note where it is absent."""
    if picture is None:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "absent", color="#8b949e", fontsize=14, ha="center", va="center", transform=axes.transAxes)
    else:
        _draw_image(axes, picture.image)
        for lines in picture.lines:
            # Pixel centres lie at index + 0.5; the axes count them from the centre of the first.
            segments = list(lines.segments_px - 0.5)
            axes.add_collection(LineCollection(segments, colors=lines.rgb.tolist(), linewidths=0.8 * lines.width_px))
        for u, v, text, colour in picture.labels:
            axes.text(u, v - 4, text, color=colour, fontsize=8, ha="center", va="bottom", clip_on=True)
        height, width = picture.image.shape[:2]
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.text(
        0.012, 0.97, name, color="white", fontsize=11, va="top", transform=axes.transAxes,
        bbox={"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 3},
    )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_image(axes: Axes, image: NDArray[np.uint8]) -> None:
    axes.imshow(image, aspect="auto", interpolation="antialiased")
    axes.set_axis_off()


def _draw_legend(figure: Figure, scene: SceneDrawing, middle: float) -> None:
    handles: list[Any] = [
        Line2D([], [], color=colour, linewidth=3, label=name.replace("_", " "))
        for name, colour in CLASS_COLOURS.items()
    ]
    if scene.has_ground_truth and scene.has_detections:
        handles.append(Line2D([], [], color=GROUND_TRUTH_COLOUR, linestyle=(0, (2, 1.5)), label="ground truth"))
    if any(points.name == "radar" for points in scene.points):
        handles.append(Line2D([], [], color=RADAR_COLOUR, marker=">", markersize=7, label="radar, velocity"))
    figure.legend(
        handles=handles, loc="center", bbox_to_anchor=(0.5, middle), ncols=len(handles), frameon=False,
        labelcolor=_TEXT_COLOUR, fontsize=13, handlelength=1.4, columnspacing=1.5,
    )  # fmt: skip


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG without any display, whole or not at all; the folder is made if missing."""
    FigureCanvasAgg(figure)
    with whole_file(path) as part:
        figure.savefig(part, format="png", facecolor=figure.get_facecolor())
