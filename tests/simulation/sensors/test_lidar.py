"""The simulated LiDAR against what geometry says, and against what real sweeps look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusionperc.simulation.sensors import lidar
from fusionperc.simulation.sensors.rig import RIG, world_T_ego
from fusionperc.simulation.sensors.weather import make_weather
from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.world import World

EGO = world_T_ego(150.0, 150.0, 0.7)
MOUNT = replace(RIG["LIDAR_TOP"], tilt_rad=(0.0, 0.0, 0.0)).ego_T_sensor
HEIGHT_M = MOUNT[2, 3]
STILL = np.tile(EGO @ MOUNT, (lidar.NUM_SECTORS + 1, 1, 1))
CLEAR = replace(make_weather("sunny", np.random.default_rng(0)), visibility_m=1e9)


def scan(
    world: World, poses: np.ndarray = STILL, *, seed: int = 0, num_azimuths: int = 360, weather: object = CLEAR, **more
):
    """Rows that are echoes from beyond the ego's own roof."""
    points, has_echo = lidar.scan(world, poses, weather, np.random.default_rng(seed), num_azimuths=num_azimuths, **more)
    off_roof = ~np.isfinite(lidar.roof_ranges(num_azimuths))
    return points[has_echo & off_roof]


def driving(speed_mps: float, yaw_rate_radps: float = 0.0) -> np.ndarray:
    """Poses at the sectors' bounds of an ego that is at `EGO` at the sweep's end."""
    times = np.linspace(-lidar.PERIOD_S, 0, lidar.NUM_SECTORS + 1)
    back = [world_T_ego(speed_mps * t, 0.0, yaw_rate_radps * t) for t in times]
    return np.stack([EGO @ pose @ MOUNT for pose in back])


def as_fired(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (columns, 32, 3) of a real sweep with ego motion undone, and which firings have no return (columns, 32).

    The compensation moves each column by what its missing returns show.
    """
    missing = (np.abs(rows[..., 0]) < 0.03) & (np.abs(rows[..., 2]) < 0.03) & (np.hypot(*rows[..., :2].T).T < 1)
    column = np.broadcast_to(np.arange(len(rows))[:, None], missing.shape)[missing]
    design = np.column_stack([column, np.ones(len(column))])
    drift = np.linalg.lstsq(design, rows[..., :3][missing], rcond=None)[0]
    back = np.arange(len(rows))[:, None] * drift[0] + drift[1]
    return rows[..., :3] - back[:, None], missing


def test_flat_ground_is_met_at_height_over_sine_of_the_ring(field_world: World) -> None:
    points = scan(field_world)
    distance = np.linalg.norm(points[:, :3], axis=1)
    for ring in range(15):
        expected = HEIGHT_M / np.sin(-lidar.ELEVATIONS_RAD[ring])
        of_ring = distance[points[:, 4] == ring]
        assert len(of_ring) > 30
        np.testing.assert_allclose(of_ring, expected, atol=0.03)
    assert points[:, 4].max() <= 22, "beams above the horizon met something in an empty world"


def test_range_noise_has_its_size(field_world: World) -> None:
    points = scan(field_world, num_azimuths=1084)
    spread = np.linalg.norm(points[points[:, 4] == 12][:, :3], axis=1).std()
    assert spread == pytest.approx(lidar.RANGE_NOISE_M, rel=0.15)


def test_every_firing_has_a_row_as_in_nuscenes(field_world: World) -> None:
    points, has_echo = lidar.scan(field_world, STILL, CLEAR, np.random.default_rng(2))
    assert points.dtype == np.float32
    assert points.shape == (lidar.NUM_AZIMUTHS * 32, 5)
    assert points[:, 3].min() >= 0 and points[:, 3].max() <= 255
    np.testing.assert_array_equal(points[:, 3], np.rint(points[:, 3]))
    np.testing.assert_array_equal(points[:, 4], np.tile(np.arange(32), lidar.NUM_AZIMUTHS))
    assert np.isfinite(points).all()
    np.testing.assert_allclose(points[~has_echo, :3], 0.0, atol=1e-6)
    assert np.linalg.norm(points[:, :3], axis=1).max() < lidar.MAX_RANGE_M + 0.2


def test_first_beams_look_left_and_the_head_turns_clockwise() -> None:
    rays = lidar.ray_directions(4).reshape(4, 32, 3)[:, 23]
    heading = rays[:, :2] / np.linalg.norm(rays[:, :2], axis=1, keepdims=True)
    np.testing.assert_allclose(heading, [[-1, 0], [0, 1], [1, 0], [0, -1]], atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(lidar.ray_directions(), axis=1), 1.0, atol=1e-6)


def test_ego_motion_is_compensated(field_world: World, make_car: Callable[..., Actor]) -> None:
    """What stands still is where it stands, however fast the ego drives and turns; missing returns trail behind."""
    ahead = EGO @ np.array([12.0, 6.0, 0.0, 1.0])
    field_world.set_actors([make_car(ahead[0], ahead[1], yaw_rad=0.7)])
    still = scan(field_world)
    moved = scan(field_world, driving(12.0, 0.4))
    for points in (still, moved):
        in_ego = points[:, :3] @ MOUNT[:3, :3].T + MOUNT[:3, 3]
        inside = (np.abs(in_ego - [12.0, 6.0, 0.8]) <= [2.36, 1.01, 0.7]).all(axis=1)
        around = (np.abs(in_ego - [12.0, 6.0, 0.8]) <= [3.0, 1.6, 0.7]).all(axis=1)
        assert inside.sum() > 60 and inside.sum() == around.sum()
    rows, has_echo = lidar.scan(field_world, driving(12.0), CLEAR, np.random.default_rng(0))
    first, last = rows.reshape(-1, 32, 5)[[0, -1], 31, :3]
    assert not has_echo.reshape(-1, 32)[:, 31].any()
    # The LiDAR's y axis is the driving direction: 12 m/s for a twentieth of a second are 0.6 m.
    np.testing.assert_allclose(first, [0, -0.6, 0], atol=2e-3)
    np.testing.assert_allclose(last, [0, 0, 0], atol=2e-3)


def test_moving_objects_are_smeared(field_world: World, make_car: Callable[..., Actor]) -> None:
    """A car ahead that crosses to the left while the head sweeps to the right is measured sector by sector."""
    ahead = EGO @ np.array([20.0, 0.0, 0.0, 1.0])
    left = np.array([-np.sin(0.7), np.cos(0.7)])
    speed_mps = 40.0

    def place(sector: int) -> None:
        time_s = (sector + 0.5) / lidar.NUM_SECTORS * lidar.PERIOD_S - lidar.PERIOD_S
        spot = ahead[:2] + left * speed_mps * time_s
        field_world.set_actors([make_car(spot[0], spot[1], yaw_rad=0.7)])

    points = scan(field_world, num_azimuths=1084, place_actors=place)
    in_ego = points[:, :3] @ MOUNT[:3, :3].T + MOUNT[:3, 3]
    on_car = in_ego[(in_ego[:, 2] > 0.3) & (in_ego[:, 2] < 1.3)]
    # Straight ahead is passed a quarter into the sweep, when the car was still 1.4 m to the right.
    assert np.median(on_car[:, 1]) == pytest.approx(-1.4, abs=0.25)


def test_a_sector_knows_what_its_rays_can_meet() -> None:
    """Every firing of a sector that passes through a disc has that disc among the sector's."""
    rng = np.random.default_rng(8)
    places, reach = rng.uniform(-30, 30, (200, 2)), rng.uniform(0.2, 6.0, 200)
    columns = lidar.ray_directions(600).reshape(lidar.NUM_SECTORS, -1, 3)[..., :2].astype(np.float64)
    for sector, rays in enumerate(columns):
        rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        along = rays @ places.T
        across = np.abs(rays[:, :1] * places[:, 1] - rays[:, 1:] * places[:, 0])
        met = ((across < reach) & (along > 0)).any(0)
        asked = lidar.in_sector(sector, places, reach)
        assert (met <= asked).all()
        assert asked.mean() < 0.6


def test_an_object_hides_what_is_behind(field_world: World, make_car: Callable[..., Actor]) -> None:
    ahead = EGO @ np.array([20.0, 0.0, 0.0, 1.0])
    field_world.set_actors([make_car(ahead[0], ahead[1], yaw_rad=0.7)])
    points = scan(field_world, num_azimuths=1084)
    in_ego = points[:, :3] @ MOUNT[:3, :3].T + MOUNT[:3, 3]
    inside = (np.abs(in_ego - [20.0, 0.0, 0.8]) <= [2.4, 1.0, 0.75]).all(axis=1)
    assert inside.sum() > 60
    # The sensor sees the rear, and the shadow behind the car has no ground points.
    assert in_ego[inside, 0].min() == pytest.approx(17.7, abs=0.35)
    shadow = (in_ego[:, 0] > 23) & (in_ego[:, 0] < 40) & (np.abs(in_ego[:, 1]) < 0.5) & (in_ego[:, 2] < 0.1)
    assert shadow.sum() == 0


def test_return_probability_falls_with_range_angle_darkness_gloss_and_rain() -> None:
    def chance(distance: float, cos: float, reflectivity: float, gloss: float, rain_mmph: float = 0.0) -> float:
        values = (np.array([value], dtype=np.float32) for value in (distance, cos, reflectivity, gloss))
        return float(lidar.return_probability(*values, replace(CLEAR, rain_mmph=rain_mmph))[0])

    base = chance(40.0, 0.3, 0.1, 0.2)
    assert 0.3 < base < 0.995
    assert chance(70.0, 0.3, 0.1, 0.2) < base
    assert chance(40.0, 0.05, 0.1, 0.2) < base
    assert chance(40.0, 0.3, 0.03, 0.2) < base
    assert chance(40.0, 0.3, 0.1, 0.9) < base
    assert chance(40.0, 0.3, 0.1, 0.2, rain_mmph=10.0) < base
    assert chance(5.0, 1.0, 0.5, 0.0) > 0.99


def test_rain_takes_far_echoes_and_gives_near_ones(field_world: World) -> None:
    dry, wet = (scan(field_world, weather=replace(CLEAR, rain_mmph=rate)) for rate in (0.0, 20.0))
    ranges = [np.linalg.norm(points[:, :3], axis=1) for points in (dry, wet)]
    assert (ranges[1] > 25).sum() < (ranges[0] > 25).sum()
    assert (ranges[0] < 3.5).sum() == 0 < (ranges[1] < 3.5).sum() < 0.02 * len(wet)


def test_the_roof_is_where_real_sweeps_have_it(real_nuscenes: Path) -> None:
    """Per ring, how many firings meet the ego itself, and how far off: against two real vehicles."""
    files = [*real_nuscenes.glob("samples/LIDAR_TOP/*.bin"), *real_nuscenes.glob("sweeps/LIDAR_TOP/*.bin")]
    ours = lidar.roof_ranges().reshape(-1, 32)
    assert files
    for file in files:
        rows = np.fromfile(file, dtype=np.float32).reshape(-1, 32, 5)
        rays, missing = as_fired(rows)
        range_m = np.linalg.norm(rays, axis=2)
        near = (range_m < 2.5) & ~missing
        for ring in range(8):
            share = np.isfinite(ours[:, ring]).mean()
            # Down there what is missing was lost on the roof.
            assert share == pytest.approx((near | missing)[:, ring].mean(), abs=0.12), ring
        for ring in range(6):
            theirs = np.median(range_m[:, ring][near[:, ring]])
            assert np.median(ours[:, ring][np.isfinite(ours[:, ring])]) == pytest.approx(theirs, abs=0.12), ring
        assert not np.isfinite(ours[:, 12:]).any()


def test_firings_look_where_the_real_ones_do(real_nuscenes: Path) -> None:
    """Elevations and azimuths of a real sweep's far points, once ego motion is undone."""
    (file,) = real_nuscenes.glob("samples/LIDAR_TOP/*.bin")
    rows = np.fromfile(file, dtype=np.float32).reshape(-1, 32, 5)
    rays, missing = as_fired(rows)
    range_m = np.linalg.norm(rays, axis=2)
    far = ~missing & (range_m > 3)
    ours = lidar.ray_directions(len(rows)).reshape(-1, 32, 3)
    cos = (rays * ours).sum(-1)[far] / range_m[far]
    assert np.degrees(np.arccos(np.clip(np.median(cos), -1, 1))) < 0.15


def test_same_seed_same_sweep(field_world: World) -> None:
    first, second = (scan(field_world, num_azimuths=64, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
