"""What a radar says about its own detections: motion, validity and accuracy fields of nuScenes' files.

Invalid states: 4 weak, 7 outside the field of view, 9 child of a stronger return, 10 artefact at 50 degrees, 11 no
local maximum, 15 beyond 95 m in the near scan where the far one looks, 16 several targets at once; 0 is valid.

Source: how often each state and index occurs in three nuScenes files, and which strength, range, azimuth and
neighbours go with it; meanings from Continental's ARS 408 interface description.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: The far scan's half opening; what the near scan sees there beyond 95 m is left to it.
FAR_HALF_ANGLE_RAD = math.radians(9.0)


def fill_states(
    records: NDArray[np.void],
    is_outside: NDArray[np.bool_],
    has_stopped: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    is_near_scan: bool,
) -> None:
    """Fills what a radar says about its detections beside where they are, how strong and how fast.

    Args:
        records: (P,) of `types.RADAR_DTYPE`, places, strengths and compensated velocities already set; changed.
        is_outside: (P,) detections beyond the edge of the field of view.
        has_stopped: (P,) of what stands now and is known to have moved.
        rng: draws everything random.
        is_near_scan: of the wide scan, not the far one.
    """
    count = len(records)
    x, y, rcs = (records[name].astype(np.float64) for name in ("x", "y", "rcs"))
    distance, angle = np.hypot(x, y), np.abs(np.arctan2(y, x))
    radial = (records["vx_comp"] * x + records["vy_comp"] * y) / np.maximum(distance, 0.1)
    luck, motion_luck, ambiguity = rng.random((3, count))

    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    is_beside_stronger = ((apart < 5.0) & (rcs[None] > rcs[:, None])).any(1)
    is_weak = (rcs <= 0) & (luck < np.interp(distance, (30.0, 60.0), (0.1, 0.65)))
    is_child = luck > 1 - np.where(is_beside_stronger, 0.35, 0.05)
    at_50_degrees = is_near_scan & (np.abs(angle - math.radians(50.0)) < math.radians(1.5)) & (luck < 0.6)
    in_far_scan = is_near_scan & (distance > 100) & (angle < FAR_HALF_ANGLE_RAD) & (luck < 0.65)
    has_many = (luck > 0.5) & (luck < (0.59 if is_near_scan else 0.63))
    kinds = [is_outside, at_50_degrees, in_far_scan, is_weak, is_child, has_many]
    child = np.where(is_near_scan & (rng.random(count) < 0.5), 9, 11)
    state = np.select(kinds, [7, 10, 15, 4, child, 16], 0)
    records["invalid_state"] = state
    records["pdh0"] = np.select([is_outside, np.isin(state, (4, 9, 10, 11))], [6, 3], 1)

    is_moving = np.abs(radial) > 0.7
    candidate = motion_luck < np.clip(distance / 180 if is_near_scan else (distance - 60) / 300, 0.05, 0.5)
    motion = np.select([is_moving & (radial < 0), is_moving, has_stopped, candidate], [2, 0, 7, 3], 1)
    records["dyn_prop"] = np.where(is_outside, 4, motion)
    unsure = ambiguity < np.where(is_moving, 0.35, 0.01)
    records["ambig_state"] = np.select([is_outside, unsure], [0, 1], 3)
    records["is_quality_valid"] = 1

    # Indices of accuracy: 19 is the best that occurs for places; Doppler is surest straight ahead.
    far_m, strong = distance / 100, rcs / 10
    if is_near_scan:
        x_rms, y_rms = 19.1 + far_m - 0.25 * strong, 18.6 + 3.2 * far_m - 0.4 * strong
    else:
        x_rms, y_rms = 21.0 + 0.35 * far_m - 0.25 * strong, 19.6 + 3.2 * far_m - strong
    spread = (0.65, 0.65) if is_near_scan else (0.6, 1.8)
    for name, mean, deviation in zip(("x_rms", "y_rms"), (x_rms, y_rms), spread, strict=True):
        records[name] = np.clip(np.rint(mean + rng.normal(0, deviation, count)), 19, 31)
    records["vx_rms"] = 16 + np.searchsorted(np.radians([28.0, 45.0, 57.0]), angle)
    records["vy_rms"] = 3
    for name in ("x_rms", "y_rms", "vx_rms", "vy_rms"):
        records[name][is_outside] = 0
