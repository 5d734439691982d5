"""Which surfaces of a LiDAR sweep move: another sweep saw through the places where they are.

A ray that goes on behind a place has found it empty. So a point of the key frame's sweep that a ray of the sweep a
second before or after passes by was not there yet, or is not there any more: its surface moves. No annotation is asked.

Source: the idea, that what moves cannot be seen at one place twice, is MODEST's (You et al., CVPR 2022), there from
several passes through a town; rays through free space mark what moves in Lim et al., "ERASOR" (RA-L 2021).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from fusionperc.data.measuring import lidar_sweep
from fusionperc.data.sensor_files import SensorFiles
from fusionperc.measurements import Surfaces

#: Sweeps that are compared with the key frame's, seconds after it.
COMPARED_S = (-1.0, 1.0)
#: Nothing is asked of what is lower than this over the ground below the ego: rays along the ground prove little.
_LOWEST_M = 0.4
#: So many rays around a point are asked, none further off it than this angle (nuScenes' rings are 0.023 rad apart).
_NEIGHBOURS, _NEAR_RAD = 4, 0.03
#: They must end so much behind the point, and by this share of its distance.
_BEHIND_M, _BEHIND = 0.5, 0.02


def moving_surfaces(files: SensorFiles, sample: int) -> Surfaces:
    """All points of a key frame's LiDAR sweep above the ground, and which of them move, as a record of one sample.

    Args:
        files: of the folder.
        sample: its place in the index.

    Raises:
        DataError: a damaged file.
    """
    nothing = np.zeros((0, 3), dtype=np.float32)
    sweep = lidar_sweep(files, sample, 0.0)
    xyz = nothing
    if sweep is not None:
        origin, direction, range_m = sweep
        returned = np.isfinite(range_m)
        xyz = origin + direction[returned] * range_m[returned, None]
        xyz = xyz[xyz[:, 2] > _LOWEST_M]
    moves = np.full(len(xyz), -1, dtype=np.int8)
    others = [other for later_s in COMPARED_S if (other := lidar_sweep(files, sample, later_s)) is not None]
    for other in others:
        # Free once is enough: the other sweep may have met what came or went.
        moves = np.maximum(moves, was_free(xyz, *other))
    return Surfaces(
        torch.from_numpy(xyz),
        torch.from_numpy(moves),
        torch.zeros(len(xyz), dtype=torch.int64),
        torch.tensor([sweep is not None and bool(others)]),
    )


def was_free(
    xyz_m: NDArray[np.float32],
    origin_m: NDArray[np.float32],
    direction: NDArray[np.float32],
    range_m: NDArray[np.float32],
) -> NDArray[np.int8]:
    """Which places a sweep found free: 1 free, 0 met, -1 unknown (hidden behind something, or no ray near).

    Args:
        xyz_m: (P, 3) places.
        origin_m, direction, range_m: (3,), (R, 3), (R,) the rays, as `measurements.LidarRays`.
    """
    answers = np.full(len(xyz_m), -1, dtype=np.int8)
    if not len(xyz_m) or len(direction) < _NEIGHBOURS:
        return answers
    away: NDArray[np.float32] = xyz_m - origin_m
    distance = np.linalg.norm(away, axis=1)
    near = cKDTree(direction).query(away / np.maximum(distance, 1e-6)[:, None], k=_NEIGHBOURS)
    angle, ray = np.asarray(near[0]), np.asarray(near[1])
    # A ray without return has proven nothing: the light may have been swallowed.
    reached = np.where(np.isfinite(range_m), range_m, 0)[ray]
    margin = _BEHIND_M + _BEHIND * distance
    is_near = angle < _NEAR_RAD
    answers[(is_near & (np.abs(reached - distance[:, None]) <= margin[:, None])).any(1)] = 0
    passed = np.where(is_near, reached, np.inf).min(1) > distance + margin
    answers[passed & is_near[:, 0]] = 1
    return answers
