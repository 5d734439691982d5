"""Which surfaces of a LiDAR sweep move, and how fast, as other sweeps tell.

A ray that goes on behind a place has found it empty. So a point of the key frame's sweep that a ray of the sweep a
second before or after passes by was not there yet, or is not there any more: its surface moves. Moving points that lie
together are then looked for in sweeps shortly before and after: their velocity is the one that takes them onto what was
met there, both times. No annotation is asked.

Source: the idea, that what moves cannot be seen at one place twice, is MODEST's (You et al., CVPR 2022), there from
several passes through a town; rays through free space mark what moves in Lim et al., "ERASOR" (RA-L 2021); a field of
distances to match points against is Fast Neural Scene Flow's (Li et al., ICCV 2023), here for whole clusters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label
from scipy.spatial import cKDTree

from fusionperc.data.measuring import Sweep, lidar_sweep
from fusionperc.data.sensor_files import SensorFiles
from fusionperc.measurements import Surfaces

#: Sweeps that are compared with the key frame's, seconds after it: for free space, and for velocity.
COMPARED_S, FOLLOWED_S = (-1.0, 1.0), (-0.4, 0.4)
#: Nothing is asked of what is lower than this over the ground below the ego: rays along the ground prove little.
_LOWEST_M = 0.4
#: So many rays around a point are asked, none further off it than this angle (nuScenes' rings are 0.023 rad apart).
_NEIGHBOURS, _NEAR_RAD = 4, 0.03
#: They must end so much behind the point, and by this share of its distance.
_BEHIND_M, _BEHIND = 0.5, 0.02
#: Moving points in neighbouring squares of this side are one cluster; so many are enough, and more are not looked at.
_TOGETHER_M, _FEWEST, _MOST = 0.5, 3, 16
#: Fields of distances: half their side, their cells, and what is as good as infinitely far.
_HALF_SIDE_M, _FIELD_CELL_M, _FAR_M = 56.0, 0.25, 1.0
#: Velocities that are tried, in m/s: up to, in steps of, then finer around the best.
_FASTEST_MPS, _STEP_MPS, _FINE_STEP_MPS = 20.0, 1.0, 0.25
#: A velocity is believed if it takes the points this near to what was met, and so much nearer than standing does.
_MATCHED_M, _BETTER_M = 0.3, 0.1
#: Of velocities that fit alike the slower is taken: so many metres off count as one m/s.
_SLOWER_M_PER_MPS = 0.002


def moving_surfaces(files: SensorFiles, sample: int) -> Surfaces:
    """All points of a key frame's LiDAR sweep above the ground, and how they move, as a record of one sample.

    Args:
        files: of the folder.
        sample: its place in the index.

    Raises:
        DataError: a damaged file.
    """
    sweep = lidar_sweep(files, sample, 0.0)
    xyz = np.zeros((0, 3), dtype=np.float32) if sweep is None else _raised(sweep)
    compared = [other for later_s in COMPARED_S if (other := lidar_sweep(files, sample, later_s)) is not None]
    moves = np.full(len(xyz), -1, dtype=np.int8)
    for other in compared:
        # Free once is enough: the other sweep may have met what came or went.
        moves = np.maximum(moves, was_free(xyz, other))
    velocity = np.full((len(xyz), 2), np.nan, dtype=np.float32)
    if bool((moves == 1).any()):
        followed = [other for later_s in FOLLOWED_S if (other := lidar_sweep(files, sample, later_s)) is not None]
        velocity[moves == 1] = velocities(xyz[moves == 1], [(other.later_s, _raised(other)) for other in followed])
    return Surfaces(
        torch.from_numpy(xyz),
        torch.from_numpy(moves),
        torch.from_numpy(velocity),
        torch.zeros(len(xyz), dtype=torch.int64),
        torch.tensor([sweep is not None and bool(compared)]),
    )


def _raised(sweep: Sweep) -> NDArray[np.float32]:
    """(P, 3) points above the ground."""
    points = sweep.points_m()
    return points[points[:, 2] > _LOWEST_M]


def was_free(xyz_m: NDArray[np.float32], sweep: Sweep) -> NDArray[np.int8]:
    """Which places a sweep found free: 1 free, 0 met, -1 unknown (hidden behind something, or no ray near).

    Args:
        xyz_m: (P, 3) places.
        sweep: its rays.
    """
    answers = np.full(len(xyz_m), -1, dtype=np.int8)
    if not len(xyz_m) or len(sweep.direction) < _NEIGHBOURS:
        return answers
    away: NDArray[np.float32] = xyz_m - sweep.origin_m
    distance = np.linalg.norm(away, axis=1)
    near = cKDTree(sweep.direction).query(away / np.maximum(distance, 1e-6)[:, None], k=_NEIGHBOURS)
    angle, ray = np.asarray(near[0]), np.asarray(near[1])
    # A ray without return has proven nothing: the light may have been swallowed.
    reached = np.where(np.isfinite(sweep.range_m), sweep.range_m, 0)[ray]
    margin = _BEHIND_M + _BEHIND * distance
    is_near = angle < _NEAR_RAD
    answers[(is_near & (np.abs(reached - distance[:, None]) <= margin[:, None])).any(1)] = 0
    passed = np.where(is_near, reached, np.inf).min(1) > distance + margin
    answers[passed & is_near[:, 0]] = 1
    return answers


def velocities(xyz_m: NDArray[np.float32], others: Sequence[tuple[float, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """(P, 2) horizontal velocity over ground of moving points, m/s, one for each cluster; NaN where none is believed.

    Args:
        xyz_m: (P, 3).
        others: sweeps before and after, by how much later they are, and (Q, 3) all they met.
    """
    found = np.full((len(xyz_m), 2), np.nan, dtype=np.float32)
    fields = [(later_s, _distances_m(points)) for later_s, points in others if later_s != 0]
    if not fields or len(xyz_m) < _FEWEST:
        return found
    xy = xyz_m[:, :2]
    cluster = clusters(xy)
    for number in np.unique(cluster):
        members = np.flatnonzero(cluster == number)
        if len(members) >= _FEWEST:
            some = members[np.linspace(0, len(members) - 1, min(len(members), _MOST)).round().astype(int)]
            found[members] = _velocity(xy[some], fields)
    return found


def clusters(xy_m: NDArray[np.float32]) -> NDArray[np.int32]:
    """(P,) the number of each point's cluster: points (P, 2) in neighbouring squares are one."""
    cell = np.floor((xy_m - xy_m.min(0)) / _TOGETHER_M).astype(np.int64)
    taken = np.zeros(cell.max(0) + 1, dtype=bool)
    taken[cell[:, 0], cell[:, 1]] = True
    numbers: NDArray[np.int32] = label(taken, structure=np.ones((3, 3)))[0][cell[:, 0], cell[:, 1]]
    return numbers


def _velocity(xy_m: NDArray[np.float32], fields: Sequence[tuple[float, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """(2,) of one cluster."""
    coarse = _square(_FASTEST_MPS, _STEP_MPS)
    best = coarse[np.argmin(_off_m(xy_m, coarse, fields))]
    fine = best + _square(_STEP_MPS, _FINE_STEP_MPS)
    off_m = _off_m(xy_m, fine, fields)
    place = int(np.argmin(off_m))
    standing_m = float(_off_m(xy_m, np.zeros((1, 2), np.float32), fields)[0])
    is_believed = off_m[place] < _MATCHED_M and standing_m - off_m[place] > _BETTER_M
    found: NDArray[np.float32] = fine[place] if is_believed else np.full(2, np.nan, dtype=np.float32)
    return found


def _square(reach: float, step: float) -> NDArray[np.float32]:
    """(N, 2) a grid of velocities around standing still."""
    axis = np.arange(-reach, reach + step / 2, step, dtype=np.float32)
    grid: NDArray[np.float32] = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return grid


def _off_m(
    xy_m: NDArray[np.float32], velocity_mps: NDArray[np.float32], fields: Sequence[tuple[float, NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """(N,) how far, on the mean, each velocity leaves the points from what was met."""
    off: NDArray[np.float32] = _SLOWER_M_PER_MPS * np.linalg.norm(velocity_mps, axis=1)
    for later_s, field in fields:
        places = xy_m + velocity_mps[:, None] * np.float32(later_s)
        cell = np.clip(((places + _HALF_SIDE_M) / _FIELD_CELL_M).astype(np.int32), 0, len(field) - 1)
        off += field[cell[..., 0], cell[..., 1]].mean(1) / len(fields)
    return off


def _distances_m(points_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """(X, Y) horizontal distance of each cell from the nearest with a point, cut off where it is far."""
    side = round(2 * _HALF_SIDE_M / _FIELD_CELL_M)
    cell = np.floor((points_m[:, :2] + _HALF_SIDE_M) / _FIELD_CELL_M).astype(np.int64)
    inside = ((cell >= 0) & (cell < side)).all(1)
    is_free = np.ones((side, side), dtype=bool)
    is_free[cell[inside, 0], cell[inside, 1]] = False
    if bool(is_free.all()):
        return np.full((side, side), _FAR_M, dtype=np.float32)
    distance: NDArray[np.float64] = distance_transform_edt(is_free)
    return np.minimum(distance * _FIELD_CELL_M, _FAR_M).astype(np.float32)
