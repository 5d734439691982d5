"""What is known of how a vehicle moves, and where the ego was, from how it moved at a few moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Standard deviations of a vehicle's acceleration (m/s^2), turn rate (rad/s) and its change (rad/s^2) in traffic.
USUAL_MOTION = (4.0, 0.7, 0.5)
#: The same of how its acceleration (m/s^3) and the change of its turn rate (rad/s^3) change.
USUAL_JERK = (0.3, 0.5)
#: Steps in which the past is integrated, and how long before its moment a motion is known to have lasted.
_STEP_S, _LASTED_S = 0.05, 0.5


def past_poses(
    age_s: NDArray[np.float64], motion: NDArray[np.float32], times_s: Sequence[float]
) -> NDArray[np.float32]:
    """Where the ego was, from how fast it went and turned at a few moments; between these, evenly changing.

    Half a second beyond the first moment, from which its scans were, it is taken to have accelerated as it did then.

    Args:
        age_s: (K,) of the moments, ascending from about 0.
        motion: (K, 3) `EGO_MOTION`; the moments of which it is unknown are left out.
        times_s: (P,) of the poses, negative.

    Returns:
        (P, 3) x, y, yaw in the ego frame of age 0; NaN before that, and everywhere if the newest motion is unknown.
    """
    known = np.isfinite(motion[:, [0, 2]]).all(1)
    poses = np.full((len(times_s), 3), np.nan, dtype=np.float32)
    if not known[0]:
        return poses
    age_s, (speed, acceleration, turn_rate) = age_s[known], motion[known].astype(np.float64).T
    age_s = np.append(age_s, age_s[-1] + _LASTED_S)
    speed = np.append(speed, speed[-1] - np.nan_to_num(acceleration[-1]) * _LASTED_S)
    turn_rate = np.append(turn_rate, turn_rate[-1])
    steps = np.arange(0.0, age_s[-1] + _STEP_S / 2, _STEP_S)
    speed, turn_rate = np.interp(steps, age_s, speed), np.interp(steps, age_s, turn_rate)
    way, turn = ((values[1:] + values[:-1]) / 2 * _STEP_S for values in (speed, turn_rate))
    yaw = np.append(0.0, -np.cumsum(turn))
    middle = (yaw[1:] + yaw[:-1]) / 2
    x, y = (np.append(0.0, -np.cumsum(way * along)) for along in (np.cos(middle), np.sin(middle)))
    for pose, time_s in zip(poses, times_s, strict=True):
        if -time_s <= steps[-1]:
            pose[:] = [np.interp(-time_s, steps, values) for values in (x, y, yaw)]
    return poses
