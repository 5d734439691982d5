"""The ego's acceleration over ground from recorded poses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fusionperc.data.trajectory import HALF_S, acceleration_over_ground


def pose_at(time_s: float, speed: float, acceleration: float, jerk: float, curvature: float) -> Tensor:
    """(1, 3) on a circle, in the frame of time 0."""
    way = speed * time_s + acceleration * time_s**2 / 2 + jerk * time_s**3 / 6
    yaw = curvature * way
    if abs(curvature) < 1e-9:
        return torch.tensor([[way, 0.0, 0.0]], dtype=torch.float64)
    return torch.tensor([[math.sin(yaw), 1 - math.cos(yaw), curvature * yaw]], dtype=torch.float64) / curvature


@given(
    st.floats(0, 20), st.floats(-6, 4), st.floats(-4, 4),
    st.one_of(st.just(0.0), st.floats(0.001, 0.15), st.floats(-0.15, -0.001)),
)  # fmt: skip
def test_the_acceleration_of_any_arc_is_found(speed: float, acceleration: float, jerk: float, curvature: float) -> None:
    """Of now, whether it grows or falls, and along the way, whichever way that bends."""
    before, after = (pose_at(time, speed, acceleration, jerk, curvature) for time in (-HALF_S, HALF_S))
    assert float(acceleration_over_ground(before, after)) == pytest.approx(acceleration, abs=1e-4)


def test_what_is_not_recorded_is_unknown() -> None:
    known, unknown = torch.zeros(1, 3), torch.full((1, 3), math.nan)
    assert acceleration_over_ground(known, unknown).isnan() and acceleration_over_ground(unknown, known).isnan()
    assert acceleration_over_ground(known, known) == 0.0
