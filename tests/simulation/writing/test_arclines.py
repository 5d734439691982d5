"""Lane centre lines as the devkit discretises them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from nuscenes.map_expansion.arcline_path_utils import (
    discretize_lane,
    get_curvature_at_distance_along_lane,
    length_of_lane,
)

from fusionperc.simulation.writing.arclines import arcline_paths


def line(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=np.float64)


def test_a_straight_line_is_one_piece() -> None:
    paths = arcline_paths(line((1.0, 2.0), (4.0, 6.0)))
    assert len(paths) == 1
    assert length_of_lane(paths) == pytest.approx(5.0)
    poses = np.array(discretize_lane(paths, 0.5))
    np.testing.assert_allclose(poses[0], [1.0, 2.0, np.arctan2(4, 3)], atol=1e-9)
    np.testing.assert_allclose(poses[-1], [4.0, 6.0, np.arctan2(4, 3)], atol=1e-6)
    assert get_curvature_at_distance_along_lane(2.0, paths) == 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_finely_drawn_circle_becomes_arcs_of_its_radius(sign: float) -> None:
    angle = np.linspace(0, np.pi / 2, 13)
    paths = arcline_paths(10.0 * np.stack([np.cos(angle), sign * np.sin(angle)], axis=1))
    poses = np.array(discretize_lane(paths, 0.2))
    np.testing.assert_allclose(np.hypot(poses[:, 0], poses[:, 1]), 10.0, atol=0.03)
    assert {path["shape"] for path in paths[1:-1]} == {"LSL" if sign > 0 else "RSR"}
    assert get_curvature_at_distance_along_lane(length_of_lane(paths) / 2, paths) == pytest.approx(0.1, rel=0.02)


def test_pieces_join_and_stay_near_the_line() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        heading = np.cumsum(rng.uniform(-0.7, 0.7, 12))
        steps = rng.uniform(0.5, 12.0, 12)[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        corners = np.concatenate([[[50.0, 60.0]], 50.0 + np.cumsum(steps, axis=0)])
        corners = np.insert(corners, 5, corners[5], axis=0)
        paths = arcline_paths(corners)
        for before, after in itertools.pairwise(paths):
            np.testing.assert_allclose(before["end_pose"], after["start_pose"], atol=2e-3)
        for path in paths:
            np.testing.assert_allclose(discretize_lane([path], 0.3)[-1], path["end_pose"], atol=1e-6)
        drawn, poses = shapely.LineString(corners), np.array(discretize_lane(paths, 0.25))
        assert max(drawn.distance(shapely.Point(pose[:2])) for pose in poses) < 0.081
        np.testing.assert_allclose(poses[[0, -1], :2], corners[[0, -1]], atol=2e-3)


def test_a_point_is_no_line() -> None:
    with pytest.raises(ValueError, match="two different points"):
        arcline_paths(line((1.0, 1.0), (1.0, 1.0)))
