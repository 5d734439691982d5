"""The simulated LiDAR against what geometry says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fusionperc.simulation import lidar
from fusionperc.simulation.rig import RIG, world_T_ego
from fusionperc.simulation.traffic import Actor
from fusionperc.simulation.world import World

EGO = world_T_ego(150.0, 150.0, 0.7)
LIDAR_POSE = EGO @ RIG["LIDAR_TOP"].ego_T_sensor


def test_flat_ground_is_met_at_height_over_sine_of_the_ring(field_world: World) -> None:
    points = lidar.scan(field_world, LIDAR_POSE, np.random.default_rng(0), num_azimuths=90, range_noise_m=0.0)
    distance = np.linalg.norm(points[:, :3], axis=1)
    for ring in range(15):
        expected = 1.84 / np.sin(np.radians(30.67 - ring * (30.67 + 10.67) / 31))
        of_ring = distance[points[:, 4] == ring]
        assert len(of_ring) > 80
        np.testing.assert_allclose(of_ring, expected, rtol=2e-4)
    assert points[:, 4].max() <= 22, "beams above the horizon met something in an empty world"


def test_range_noise_is_two_centimetres(field_world: World) -> None:
    points = lidar.scan(field_world, LIDAR_POSE, np.random.default_rng(1), num_azimuths=1085)
    of_ring = points[points[:, 4] == 3]
    spread = np.linalg.norm(of_ring[:, :3], axis=1).std()
    assert spread == pytest.approx(0.02, rel=0.15)


def test_columns_are_nuscenes(field_world: World) -> None:
    points = lidar.scan(field_world, LIDAR_POSE, np.random.default_rng(2))
    assert points.dtype == np.float32
    assert points.shape[1] == 5
    assert points[:, 3].min() >= 0 and points[:, 3].max() <= 255
    np.testing.assert_array_equal(points[:, 3:], np.rint(points[:, 3:]))
    assert np.isfinite(points).all()
    assert np.linalg.norm(points[:, :3], axis=1).max() < lidar.MAX_RANGE_M + 0.2


def test_first_beams_look_left_and_the_head_turns_clockwise() -> None:
    rays = lidar.ray_directions(4).reshape(4, 32, 3)[:, 23]
    heading = rays[:, :2] / np.linalg.norm(rays[:, :2], axis=1, keepdims=True)
    np.testing.assert_allclose(heading, [[-1, 0], [0, 1], [1, 0], [0, -1]], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(lidar.ray_directions(), axis=1), 1.0, atol=1e-6)


def test_an_object_ahead_is_where_it_stands(field_world: World, make_car: Callable[..., Actor]) -> None:
    ahead = EGO @ np.array([20.0, 0.0, 0.0, 1.0])
    field_world.set_actors([make_car(ahead[0], ahead[1], yaw_rad=0.7)])
    points = lidar.scan(field_world, LIDAR_POSE, np.random.default_rng(3))
    in_ego = points[:, :3] @ RIG["LIDAR_TOP"].ego_R_sensor.T + RIG["LIDAR_TOP"].position_m
    inside = (np.abs(in_ego - [20.0, 0.0, 0.8]) <= [2.4, 1.0, 0.75]).all(axis=1)
    assert inside.sum() > 60
    # The sensor sees the rear, and the shadow behind the car has no ground points.
    assert in_ego[inside, 0].min() == pytest.approx(17.7, abs=0.35)
    shadow = (in_ego[:, 0] > 23) & (in_ego[:, 0] < 40) & (np.abs(in_ego[:, 1]) < 0.5) & (in_ego[:, 2] < 0.1)
    assert shadow.sum() == 0


def test_return_probability_falls_with_range_angle_darkness_and_gloss() -> None:
    def chance(distance: float, cos: float, reflectivity: float, gloss: float) -> float:
        values = (np.array([value], dtype=np.float32) for value in (distance, cos, reflectivity, gloss))
        return float(lidar.return_probability(*values)[0])

    base = chance(60.0, 0.3, 0.1, 0.2)
    assert 0.3 < base < 0.995
    assert chance(95.0, 0.3, 0.1, 0.2) < base
    assert chance(60.0, 0.05, 0.1, 0.2) < base
    assert chance(60.0, 0.3, 0.03, 0.2) < base
    assert chance(60.0, 0.3, 0.1, 0.9) < base
    assert chance(5.0, 1.0, 0.5, 0.0) > 0.99


def test_same_seed_same_sweep(field_world: World) -> None:
    first, second = (lidar.scan(field_world, LIDAR_POSE, np.random.default_rng(5), num_azimuths=64) for _ in range(2))
    np.testing.assert_array_equal(first, second)
