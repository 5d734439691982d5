"""Whether a plan is comfortable: nuPlan's bounds on what passengers feel, as NAVSIM takes them.

Source: nuPlan devkit, `ego_is_comfortable` and its thresholds; NAVSIM `pdm_comfort_metrics.py`. Deviates: plans are
waypoints every 0.5 s, so derivatives are differences between these, without a filter; the present speed is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionperc.data.sample import PAST_TIMES_S, Surroundings

Array = NDArray[np.float64]

_STEP_S = 0.5
LONGITUDINAL_MPS2 = (-4.05, 2.40)
LATERAL_MPS2 = 4.89
JERK_MPS3, LONGITUDINAL_JERK_MPS3 = 8.37, 4.13
YAW_RATE_RADPS, YAW_ACCELERATION_RADPS2 = 0.95, 1.93


@dataclass(frozen=True)
class EgoState:
    """What the vehicle knows of its own motion: m/s, m/s^2, rad/s; the turn rate is counter-clockwise."""

    speed_mps: float
    acceleration_mps2: float
    yaw_rate_radps: float

    @classmethod
    def of(cls, surroundings: Surroundings) -> EgoState:
        """From the CAN bus where it is recorded, else from the poses of the last second."""
        speed, acceleration, _, yaw_rate = surroundings.can_bus.double().tolist()
        past = surroundings.ego_past_m.double().numpy()
        recent, earlier = past[PAST_TIMES_S.index(-0.5)], past[PAST_TIMES_S.index(-1.0)]
        moved = -recent[0] / _STEP_S
        if not np.isfinite(speed):
            speed = float(moved)
        if not np.isfinite(acceleration):
            before = float(np.linalg.norm(recent[:2] - earlier[:2])) / _STEP_S
            acceleration = (moved - before) / _STEP_S if np.isfinite(before) else 0.0
        if not np.isfinite(yaw_rate):
            yaw_rate = -recent[2] / _STEP_S
        state = cls(*(value if np.isfinite(value) else 0.0 for value in (speed, acceleration, yaw_rate)))
        return state


@dataclass(frozen=True)
class Motion:
    """A plan's derivatives, every 0.5 s: along the heading, across it, and of the heading."""

    acceleration_mps2: Array
    lateral_mps2: Array
    jerk_mps3: Array
    yaw_rate_radps: Array

    @classmethod
    def of(cls, plan: Array, surroundings: Surroundings) -> Motion:
        """Of a plan (T, 3) that starts at the ego's present pose and speed."""
        path = np.concatenate([np.zeros((1, 3)), plan])
        step = np.diff(path[:, :2], axis=0)
        yaw = np.unwrap(path[:, 2])
        middle = (yaw[1:] + yaw[:-1]) / 2
        # The way along the heading: a plan that goes backwards has a negative speed.
        speed = (step * np.stack([np.cos(middle), np.sin(middle)], 1)).sum(1) / _STEP_S
        yaw_rate = np.diff(yaw) / _STEP_S
        # Speeds are those of the steps' middles; the present one is half a step before the first.
        present = EgoState.of(surroundings).speed_mps
        first = (speed[0] - present) / (_STEP_S / 2)
        acceleration = np.concatenate([[first], np.diff(speed) / _STEP_S])
        times_s = np.concatenate([[_STEP_S / 4], np.arange(1, len(step)) * _STEP_S])
        jerk = np.diff(acceleration) / np.diff(times_s)
        return cls(acceleration, speed * yaw_rate, jerk, yaw_rate)


def is_comfortable(motion: Motion) -> bool:
    """Whether all of nuPlan's bounds hold."""
    along = motion.acceleration_mps2
    lateral_jerk = np.diff(motion.lateral_mps2) / _STEP_S
    jerk = np.hypot(motion.jerk_mps3, lateral_jerk)
    return bool(
        (along >= LONGITUDINAL_MPS2[0]).all()
        and (along <= LONGITUDINAL_MPS2[1]).all()
        and (np.abs(motion.lateral_mps2) <= LATERAL_MPS2).all()
        and (np.abs(motion.jerk_mps3) <= LONGITUDINAL_JERK_MPS3).all()
        and (jerk <= JERK_MPS3).all()
        and (np.abs(motion.yaw_rate_radps) <= YAW_RATE_RADPS).all()
        and (np.abs(np.diff(motion.yaw_rate_radps)) / _STEP_S <= YAW_ACCELERATION_RADPS2).all()
    )
