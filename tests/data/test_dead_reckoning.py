"""Past poses from motions at a few moments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionperc.data.dead_reckoning import past_poses


@given(
    speed=st.floats(0, 30),
    acceleration=st.floats(-4, 3),
    turn_rate=st.floats(-0.5, 0.5),
    interval_s=st.floats(0.4, 0.6),
)
@settings(max_examples=30, deadline=None)
def test_past_poses_of_an_even_motion(speed: float, acceleration: float, turn_rate: float, interval_s: float) -> None:
    """Integrated finely; key frames need not be in step with the seconds."""
    age = np.arange(5) * interval_s
    motion = np.stack([speed - acceleration * age, np.full(5, acceleration), np.full(5, turn_rate)], 1)
    steps = np.linspace(0, 2, 20001)
    yaw = -turn_rate * steps
    velocity = (speed - acceleration * steps) * np.stack([np.cos(yaw), np.sin(yaw)])
    place = -np.concatenate([np.zeros((2, 1)), np.cumsum((velocity[:, 1:] + velocity[:, :-1]) / 2, 1)], 1) * 1e-4
    found = past_poses(age, motion.astype(np.float32), (-2.0, -1.5, -1.0, -0.5))
    expected = np.concatenate([place, yaw[None]])[:, [20000, 15000, 10000, 5000]].T
    assert found == pytest.approx(expected, abs=0.02)


def test_past_poses_end_where_no_scan_was() -> None:
    """Scans of half a second before the first moment tell of that; a moment without motion is passed over."""
    motion = np.array([[4.0, 0.0, 0.0], [np.nan] * 3, [4.0, np.nan, 0.0]], dtype=np.float32)
    found = past_poses(np.array([0.0, 0.5, 1.0]), motion, (-2.0, -1.5, -1.0, -0.5))
    assert np.isnan(found[0]).all()
    assert found[1:] == pytest.approx(np.array([[-6.0, 0, 0], [-4.0, 0, 0], [-2.0, 0, 0]]), abs=1e-5)
    assert np.isnan(past_poses(np.array([0.0, 0.5]), motion[[1, 0]], (-0.5,))).all()
