"""Lines as straight pieces and circular arcs: the form in which nuScenes' map expansion stores lane centre lines.

Source: nuscenes-devkit 1.2.0, `map_expansion/arcline_path_utils.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: How far the rounding of a corner may leave the line.
_ROUNDING_M = 0.08
_SHORTEST_M, _SMALLEST_TURN_RAD = 1e-3, 1e-4
#: Radius written with a straight piece, where it means nothing.
_STRAIGHT_RADIUS_M = 999.999


def arcline_paths(line_m: NDArray[np.float64]) -> list[dict[str, Any]]:
    """A line (N, 2) with its corners rounded, as nuScenes' arcline paths.

    Each path is one straight piece (the middle of 'LSR') or one arc (the start of 'LSL' or 'RSR'). The heading is
    continuous, and the paths stay within 8 cm of the line.

    Raises:
        ValueError: the line has fewer than two different points.
    """
    steps = np.diff(line_m, axis=0)
    keep = np.concatenate([[True], np.linalg.norm(steps, axis=1) > _SHORTEST_M])
    points = line_m[keep]
    if len(points) < 2:
        raise ValueError(f"a line needs two different points, not {line_m.tolist()}")
    steps = np.diff(points, axis=0)
    length = np.linalg.norm(steps, axis=1)
    heading = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    turn = np.diff(heading)
    with np.errstate(divide="ignore"):
        cut = np.minimum(np.minimum(length[:-1], length[1:]) / 2, _ROUNDING_M / np.tan(np.abs(turn) / 4))
    cut = np.concatenate([[0.0], np.where(np.abs(turn) > _SMALLEST_TURN_RAD, cut, 0.0), [0.0]])
    paths = []
    for piece, yaw in enumerate(heading):
        along = np.array([np.cos(yaw), np.sin(yaw)])
        straight = length[piece] - cut[piece] - cut[piece + 1]
        start, end = points[piece] + cut[piece] * along, points[piece + 1] - cut[piece + 1] * along
        if straight > _SHORTEST_M:
            paths.append(_path("LSR", _STRAIGHT_RADIUS_M, [0.0, straight, 0.0], (start, yaw), (end, yaw)))
        if cut[piece + 1] > 0:
            bend, after = turn[piece], heading[piece + 1]
            radius = cut[piece + 1] / np.tan(abs(bend) / 2)
            leave = points[piece + 1] + cut[piece + 1] * np.array([np.cos(after), np.sin(after)])
            shape = "LSL" if bend > 0 else "RSR"
            paths.append(_path(shape, radius, [radius * abs(bend), 0.0, 0.0], (end, yaw), (leave, after)))
    return paths


def _path(
    shape: str,
    radius_m: float,
    lengths_m: list[float],
    start: tuple[NDArray[np.float64], float],
    end: tuple[NDArray[np.float64], float],
) -> dict[str, Any]:
    poses = [
        [float(point[0]), float(point[1]), float(np.arctan2(np.sin(yaw), np.cos(yaw)))] for point, yaw in (start, end)
    ]
    return {
        "start_pose": poses[0],
        "end_pose": poses[1],
        "shape": shape,
        "radius": float(radius_m),
        "segment_length": [float(length) for length in lengths_m],
    }
