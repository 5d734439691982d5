"""The ego's own motion from the Doppler of its radars: what stands still comes towards a moving radar.

A return in the direction u that stands still has the radial speed -u . v of the radar's own velocity v. All radars'
scans of a second are fitted at once with a speed and a turn rate, which change ever faster or slower by an even amount,
of a vehicle that does not slip sideways at its rear axle, the ego frame's origin. Nothing but radar files and
calibration is read: no odometry, no CAN bus. Speeds that the files have compensated (`vx_comp`) are not used: the own
speed was given to those.

Source: Kellner et al., Instantaneous ego-motion estimation using Doppler radar (ITSC 2013) and using multiple Doppler
radars (ICRA 2014); deviates: the robust start is the most frequent speed, and scans of several times are fitted at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionperc.data.dead_reckoning import USUAL_JERK, USUAL_MOTION

#: How old a scan may be. Of half a second only the mean acceleration is told, not the present one.
SPAN_S = 1.0
#: Fewer returns that agree tell no motion.
_LEAST_RETURNS = 12
#: Width of the bins of the most frequent speed, and the returns that tell it: not too far aside.
_BIN_MPS, _LEAST_COSINE = 0.5, 0.5
#: Deviations from the fit beyond which returns count less, from round to round; files round to 0.25 m/s.
_ROUNDS_MPS = (0.6, 0.4, 0.25, 0.2, 0.2, 0.2)
#: Standard deviation of a return's speed.
_RETURN_SIGMA_MPS = 0.1


@dataclass(frozen=True)
class DopplerScan:
    """One scan of one radar.

    Attributes:
        age_s: how much earlier than the key frame it is.
        place_m: (2,) of the radar in the ego frame.
        direction: (P, 2) unit vectors to the returns, in the axes of the ego frame at the scan's time.
        speed_mps: (P,) measured radial speed against the radar, away from it positive.
    """

    age_s: float
    place_m: NDArray[np.float64]
    direction: NDArray[np.float64]
    speed_mps: NDArray[np.float64]


def doppler_scan(points: NDArray[Any], ego_T_sensor: NDArray[np.float64], age_s: float) -> DopplerScan:
    """A scan of a radar file.

    Args:
        points: as `pointclouds.read_radar`.
        ego_T_sensor: (4, 4) calibration.
        age_s: how much earlier than the key frame it is.
    """
    place = np.stack([points["x"], points["y"]], 1).astype(np.float64)
    along = place / np.maximum(np.hypot(*place.T), 1e-6)[:, None]
    speed = points["vx"] * along[:, 0] + points["vy"] * along[:, 1]
    return DopplerScan(age_s, ego_T_sensor[:2, 3], along @ ego_T_sensor[:2, :2].T, speed)


def ego_motion(scans: Sequence[DopplerScan]) -> NDArray[np.float32]:
    """(3,) the ego's speed (m/s), acceleration (m/s^2) and turn rate (rad/s) at the key frame; NaN if too few agree.

    The acceleration is NaN where all scans are of one moment.

    Args:
        scans: of the last `SPAN_S`.
    """
    unknown = np.full(3, np.nan, dtype=np.float32)
    if not scans:
        return unknown
    ahead = np.concatenate([scan.direction[:, 0] for scan in scans])
    age = np.concatenate([np.full(len(scan.direction), scan.age_s) for scan in scans])
    lever = np.concatenate(
        [scan.place_m[0] * scan.direction[:, 1] - scan.place_m[1] * scan.direction[:, 0] for scan in scans]
    )
    speed = np.concatenate([scan.speed_mps for scan in scans])
    told = np.abs(ahead) > _LEAST_COSINE
    if told.sum() < _LEAST_RETURNS:
        return unknown
    # Speed, acceleration, turn rate and its change, and how acceleration and change of the turn rate change.
    earlier = age**2 / 2
    system = -np.stack([ahead, -age * ahead, lever, -age * lever, earlier * ahead, earlier * lever], 1)
    motion = np.array([_most_frequent(-speed[told] / ahead[told]), *[0.0] * 5])
    prior = np.diag([0.0, *((_RETURN_SIGMA_MPS / sigma) ** 2 for sigma in (*USUAL_MOTION, *USUAL_JERK))])
    weight = np.zeros(len(speed))
    for scale_mps in _ROUNDS_MPS:
        weight = 1 / (1 + ((speed - system @ motion) / scale_mps) ** 2) ** 2
        motion = np.linalg.solve(system.T @ (weight[:, None] * system) + prior, system.T @ (weight * speed))
    if (weight > 0.25).sum() < _LEAST_RETURNS:
        return unknown
    if np.ptp(age) < 0.1:
        motion[1] = np.nan
    return motion[:3].astype(np.float32)


def _most_frequent(values: NDArray[np.float64]) -> float:
    """Middle of what lies in the fullest pair of neighbouring bins."""
    bins = np.floor(values / _BIN_MPS).astype(np.int64)
    first = int(bins.min())
    counts = np.bincount(bins - first, minlength=2)
    pairs = counts[:-1] + counts[1:]
    low = first + int(pairs.argmax())
    return float(np.median(values[(bins == low) | (bins == low + 1)]))
