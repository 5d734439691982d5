"""Rays measured and expected, side by side: from above and as range images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusionperc.visualization.plots import save_figure
from fusionperc.visualization.projection import Array
from fusionperc.visualization.scene import BACKGROUND

_TEXT_COLOUR = "#c9d1d9"
_PANEL_IN, _STRIP_IN = 4.4, 1.15
#: Rows and columns of a range image: 32 rings between these elevations, azimuth from straight behind over the left.
_ELEVATIONS_DEG, _STRIP_PX = (-31.5, 11.5), (32, 720)
_HEIGHTS_M = (-0.5, 4.0)
_FURTHEST_M = 60.0


@dataclass(frozen=True)
class RayColumn:
    """One moment, or one set of sensors, of a sheet.

    Attributes:
        title: above the column.
        origin_m: (3,) where the sensor is.
        direction: (R, 3).
        measured_m, expected_m: (R,) ranges, infinite where nothing is met.
        shown: (R,) bool: rays drawn bright; the others are context.
    """

    title: str
    origin_m: Array
    direction: Array
    measured_m: Array
    expected_m: Array
    shown: Array


def draw_ray_sheet(columns: Sequence[RayColumn], path: Path, title: str, range_m: float) -> None:
    """Writes one PNG, whole or not at all: measured above expected, range images below; colours are heights and ranges.

    Args:
        columns: from left to right.
        path: of the PNG.
        title: above all.
        range_m: half side of the view from above.
    """
    heights = [_PANEL_IN, _PANEL_IN, _STRIP_IN, _STRIP_IN]
    width, height = _PANEL_IN * len(columns), sum(heights) + 0.6
    figure = Figure(figsize=(width, height), dpi=90, facecolor=BACKGROUND, layout="constrained")
    figure.suptitle(title, color=_TEXT_COLOUR, fontsize=13)
    panels = figure.subplots(4, len(columns), squeeze=False, gridspec_kw={"height_ratios": heights})
    for place, column in enumerate(columns):
        for row, (name, ends_m) in enumerate((("measured", column.measured_m), ("expected", column.expected_m))):
            _draw_bev(panels[row, place], column, ends_m, range_m)
            _draw_strip(panels[2 + row, place], column, ends_m)
            panels[row, place].set_title(f"{column.title}: {name}", color=_TEXT_COLOUR, fontsize=11)
    save_figure(figure, path)


def _draw_bev(axes: Axes, column: RayColumn, ends_m: Array, range_m: float) -> None:
    """Where rays end, ahead up, the ego's left on the left."""
    for rays, alpha in ((~column.shown, 0.15), (column.shown, 1.0)):
        met = rays & np.isfinite(ends_m)
        points = column.origin_m + column.direction[met] * ends_m[met, None]
        axes.scatter(
            -points[:, 1], points[:, 0], c=points[:, 2], s=1.2, linewidths=0, alpha=alpha, cmap="turbo",
            vmin=_HEIGHTS_M[0], vmax=_HEIGHTS_M[1],
        )  # fmt: skip
    axes.set(xlim=(-range_m, range_m), ylim=(-range_m, range_m), aspect="equal", xticks=[], yticks=[])
    axes.set_facecolor(BACKGROUND)


def _draw_strip(axes: Axes, column: RayColumn, ends_m: Array) -> None:
    """The range image: dark where nothing is met, and where there is no ray."""
    rows, columns = _STRIP_PX
    low, high = _ELEVATIONS_DEG
    elevation = np.degrees(np.arcsin(np.clip(column.direction[:, 2], -1, 1)))
    azimuth = np.arctan2(column.direction[:, 1], column.direction[:, 0])
    row = ((high - elevation) / (high - low) * rows).astype(int).clip(0, rows - 1)
    place = ((np.pi - azimuth) / (2 * np.pi) * columns).astype(int).clip(0, columns - 1)
    image = np.full((rows, columns), np.nan)
    image[row, place] = np.where(np.isfinite(ends_m), ends_m, np.nan)
    axes.imshow(np.log(image), aspect="auto", cmap="viridis_r", vmin=np.log(2.0), vmax=np.log(_FURTHEST_M))
    axes.set(xticks=[], yticks=[])
    axes.set_facecolor(BACKGROUND)
