"""What moves and how fast, from above: measured and expected, side by side."""

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

_TEXT_COLOUR, _STILL_COLOUR = "#c9d1d9", "#4a525c"
_PANEL_IN = 5.5
#: An arrow shows where something gets in this time; there is one in every square of this side.
_ARROW_S, _ARROW_EVERY_M = 1.0, 2.0


@dataclass(frozen=True)
class MotionPanel:
    """One view from above.

    Attributes:
        title: above it.
        still_m: (N, 2 or 3) points that are drawn as context.
        moving_m: (M, 2 or 3) places of what moves.
        sureness: (M,) from 0 to 1, shown as colour.
        velocity_mps: (M, 2); NaN where none is known.
    """

    title: str
    still_m: Array
    moving_m: Array
    sureness: Array
    velocity_mps: Array


def draw_motion_sheet(panels: Sequence[MotionPanel], path: Path, title: str, range_m: float) -> None:
    """Writes one PNG, whole or not at all: panels from left to right, ahead up, the ego's left on the left.

    Args:
        panels: the views.
        path: of the PNG.
        title: above all.
        range_m: half side of the views.
    """
    figure = Figure(
        figsize=(_PANEL_IN * len(panels), _PANEL_IN + 0.5), dpi=100, facecolor=BACKGROUND, layout="constrained"
    )
    figure.suptitle(title, color=_TEXT_COLOUR, fontsize=13)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel, range_m)
    save_figure(figure, path)


def _draw(axes: Axes, panel: MotionPanel, range_m: float) -> None:
    axes.scatter(-panel.still_m[:, 1], panel.still_m[:, 0], s=0.6, linewidths=0, c=_STILL_COLOUR)
    axes.scatter(
        -panel.moving_m[:, 1],
        panel.moving_m[:, 0],
        c=panel.sureness,
        s=7.0,
        linewidths=0,
        cmap="autumn",
        vmin=0,
        vmax=1,
    )
    known = np.flatnonzero(np.isfinite(panel.velocity_mps).all(1))
    _, first = np.unique(np.floor(panel.moving_m[known, :2] / _ARROW_EVERY_M), axis=0, return_index=True)
    place, arrow = panel.moving_m[known[first]], panel.velocity_mps[known[first]] * _ARROW_S
    axes.quiver(
        -place[:, 1], place[:, 0], -arrow[:, 1], arrow[:, 0], color="#ffffff", angles="xy", scale_units="xy", scale=1.0,
        width=0.0025,
    )  # fmt: skip
    axes.set(xlim=(-range_m, range_m), ylim=(-range_m, range_m), aspect="equal", xticks=[], yticks=[])
    axes.set_facecolor(BACKGROUND)
    axes.set_title(panel.title, color=_TEXT_COLOUR, fontsize=11)
