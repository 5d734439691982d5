"""The ego's own motion from its LiDAR: sweeps of the last half second, each laid upon the newest by what both see.

The ways between them are those of a vehicle that does not slip sideways at its rear axle, the ego frame's origin, and
that accelerates and changes its turn rate evenly. Nothing but the sweeps as they were measured and the calibration is
read: neither poses nor CAN bus.

Source: generalized ICP (Segal et al., RSS 2009) as in small_gicp (Koide, JOSS 2024); that each search starts where the
vehicle would be at the speed found before is KISS-ICP's (Vizzo et al., RA-L 2023). Deviates: few sweeps, all against
the newest, so that errors do not add up; no ground; sweeps are taken as rigid (an even speed distorts all alike).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import small_gicp
import torch
from numpy.typing import NDArray

from fusionperc.data.dead_reckoning import USUAL_MOTION
from fusionperc.geometry import rigid, rotation_from_yaw

#: Ages of the sweeps that are laid upon the newest, s.
MATCHED_AGES_S = (0.1, 0.25, 0.5)
#: What is lower than this over the ground below the ego is left out: a LiDAR's rings on even ground go along with it,
#: and would have it stand.
_GROUND_M = 0.2
#: Points are thinned to one in a cube of this side; so many neighbours tell a point's surface.
_CUBE_M, _NEIGHBOURS = 1.0, 10
#: How far apart points may be that are taken for one place: first, with no speed known yet, and then. A vehicle at
#: 30 m/s goes 3 m between the first two sweeps.
_FIRST_NEAR_M, _NEAR_M = 4.0, 1.0
#: Where the search ends: steps, and their size in metres and radians. It may go to and fro by less than a centimetre.
_STEPS, _LAST_STEP_M, _LAST_STEP_RAD = 20, 1e-4, 1e-5
#: Fewer thinned points tell nothing; nor does a sweep of which a smaller share is near the newest's.
_FEWEST_POINTS, _LEAST_NEAR = 200, 0.5
#: Standard deviations of a way and a turn between sweeps.
_WAY_SIGMA_M, _TURN_SIGMA_RAD = 0.005, 2e-4


@dataclass(frozen=True)
class LidarScan:
    """One sweep.

    Attributes:
        age_s: how much earlier than the key frame it is.
        points_m: (P, 3) in the ego frame of its own time, without returns from the vehicle itself.
    """

    age_s: float
    points_m: NDArray[np.float32]


def ego_motion(scans: Sequence[LidarScan]) -> NDArray[np.float32]:
    """(3,) the ego's speed (m/s), acceleration (m/s^2) and turn rate (rad/s) at the newest sweep; NaN where unknown.

    The acceleration is that of the whole half second, and NaN where a single sweep could be matched.

    Args:
        scans: the newest first, then ever older ones.
    """
    poses = matched_poses(scans)
    if not len(poses):
        return np.full(3, np.nan, dtype=np.float32)
    age_s, x, y, yaw = poses.T
    # A vehicle that turns evenly goes along an arc: its chord is shorter and turned by half the angle.
    way_m = (x * np.cos(yaw / 2) + y * np.sin(yaw / 2)) / np.sinc(yaw / 2 / np.pi)
    system = np.stack([-age_s, age_s**2 / 2], 1)
    speed, acceleration = _fitted(system, way_m, _WAY_SIGMA_M, (np.inf, USUAL_MOTION[0]))
    turn_rate, _ = _fitted(system, yaw, _TURN_SIGMA_RAD, USUAL_MOTION[1:])
    return np.array([speed, acceleration if len(poses) > 1 else np.nan, turn_rate], dtype=np.float32)


def matched_poses(scans: Sequence[LidarScan]) -> NDArray[np.float64]:
    """(K, 4) age (s), x, y (m) and yaw (rad) of the ego at the sweeps that could be matched, in its newest frame.

    Args:
        scans: the newest first, then ever older ones.
    """
    found = np.zeros((0, 4))
    if len(scans) < 2:
        return found
    newest, tree = _thinned(scans[0].points_m)
    for scan in scans[1:]:
        earlier, _ = _thinned(scan.points_m)
        if min(newest.size(), earlier.size()) < _FEWEST_POINTS:
            break
        age_s = scan.age_s - scans[0].age_s
        align = partial(
            small_gicp.align,
            newest,
            earlier,
            tree,
            registration_type="GICP",
            num_threads=1,
            max_iterations=_STEPS,
            rotation_epsilon=_LAST_STEP_RAD,
            translation_epsilon=_LAST_STEP_M,
        )
        guess = _extrapolated(found, age_s)
        if not len(found):
            guess = align(guess, max_correspondence_distance=_FIRST_NEAR_M).T_target_source
        result = align(guess, max_correspondence_distance=_NEAR_M)
        if result.num_inliers < _LEAST_NEAR * earlier.size():
            # Without its start the search for an older one may end in the wrong place.
            break
        matrix = result.T_target_source
        yaw = np.arctan2(matrix[1, 0], matrix[0, 0])
        found = np.append(found, [[age_s, matrix[0, 3], matrix[1, 3], yaw]], axis=0)
    return found


def _thinned(points_m: NDArray[np.float32]) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
    raised = points_m[points_m[:, 2] > _GROUND_M]
    return small_gicp.preprocess_points(  # type: ignore[no-any-return]
        raised.astype(np.float64), downsampling_resolution=_CUBE_M, num_neighbors=_NEIGHBOURS, num_threads=1
    )


def _extrapolated(found: NDArray[np.float64], age_s: float) -> NDArray[np.float64]:
    """(4, 4) where the ego was at an age, if it had always moved as since the last pose found."""
    if not len(found):
        return np.eye(4)
    x, y, yaw = torch.from_numpy(found[-1, 1:] * age_s / found[-1, 0])
    matrix: NDArray[np.float64] = rigid(rotation_from_yaw(yaw), torch.stack([x, y, torch.zeros_like(x)])).numpy()
    return matrix


def _fitted(
    system: NDArray[np.float64], values: NDArray[np.float64], sigma: float, prior_sigma: tuple[float, float]
) -> NDArray[np.float64]:
    """(2,) a rate and its change."""
    prior = np.diag([(sigma / one) ** 2 for one in prior_sigma])
    return np.linalg.solve(system.T @ system + prior, system.T @ values)
