"""The simulated radar against analytic Doppler, and its files against nuScenes' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nuscenes.utils.data_classes import RadarPointCloud

from fusionperc.simulation import radar
from fusionperc.simulation.rig import RIG, world_T_ego
from fusionperc.simulation.traffic import Actor
from fusionperc.simulation.world import World

SILENT = radar.RadarNoise(range_m=0.0, azimuth_rad=0.0, doppler_mps=0.0)


def scan_of(world: World, actors: list[Actor], pose: np.ndarray, velocity: tuple[float, float]) -> np.ndarray:
    world.set_actors(actors)
    found = [
        radar.scan(world, actors, pose, np.array(velocity), np.random.default_rng(seed), noise=SILENT)
        for seed in range(8)
    ]
    return np.concatenate(found)


def near(records: np.ndarray, x_m: float, y_m: float, reach_m: float = 3.0) -> np.ndarray:
    return records[np.hypot(records["x"] - x_m, records["y"] - y_m) < reach_m]


def test_doppler_of_a_car_driving_off_and_of_the_world_standing_still(
    field_world: World, make_car: Callable[..., Actor]
) -> None:
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT"].ego_T_sensor
    car = make_car(pose[0, 3] + 25.0, 150.0, velocity_mps=(12.0, 0.0))
    records = scan_of(field_world, [car], pose, velocity=(10.0, 0.0))
    on_car = near(records, 25.0, 0.0)
    on_car = on_car[on_car["vx_comp"] != 0]
    assert len(on_car) >= 3
    np.testing.assert_allclose(on_car["vx_comp"], 12.0, atol=0.1)
    np.testing.assert_allclose(on_car["vx"], 2.0, atol=0.1)
    still = records[np.hypot(records["vx_comp"], records["vy_comp"]) < 1e-6]
    assert len(still) > 10
    along = np.stack([still["x"], still["y"]], 1) / np.hypot(still["x"], still["y"])[:, None]
    expected = along * (-10.0 * along[:, :1])
    np.testing.assert_allclose(np.stack([still["vx"], still["vy"]], 1), expected, atol=1e-4)


def test_only_the_radial_part_of_crossing_motion_is_measured(
    field_world: World, make_car: Callable[..., Actor]
) -> None:
    # The left radar looks along world +y; a car there drives along +x, across.
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT_LEFT"].ego_T_sensor
    car = make_car(pose[0, 3], pose[1, 3] + 20.0, velocity_mps=(8.0, 0.0))
    records = near(scan_of(field_world, [car], pose, velocity=(0.0, 0.0)), 20.0, 0.0)
    on_car = records[records["vx_comp"] != 0]
    assert len(on_car) >= 2
    direction = np.stack([on_car["x"], on_car["y"]], 1).astype(np.float64)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # World +x is the sensor's -y.
    expected = direction * (direction @ np.array([0.0, -8.0]))[:, None]
    np.testing.assert_allclose(np.stack([on_car["vx_comp"], on_car["vy_comp"]], 1), expected, atol=1e-3)


def test_a_hidden_car_is_not_seen(field_world: World, make_car: Callable[..., Actor]) -> None:
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT"].ego_T_sensor
    hidden = make_car(pose[0, 3] + 30.0, 150.0, velocity_mps=(9.0, 0.0), instance=1)
    wall = make_car(pose[0, 3] + 12.0, 150.0, yaw_rad=np.pi / 2, velocity_mps=(0.0, 0.0), instance=2)
    assert len(near(scan_of(field_world, [hidden, wall], pose, (0.0, 0.0)), 30.0, 0.0)) <= 2
    assert len(near(scan_of(field_world, [hidden], pose, (0.0, 0.0)), 30.0, 0.0)) >= 8


def test_field_of_view_is_wide_and_near_or_narrow_and_far() -> None:
    places = np.array([[60.0, 0.0], [110.0, 0.0], [130.0, 0.0], [30.0, 40.0], [20.0, 40.0], [-5.0, 0.0], [80.0, 30.0]])
    np.testing.assert_array_equal(radar.in_field_of_view(places), [True, True, False, True, False, False, False])


def test_delay_moves_objects_on(field_world: World, make_car: Callable[..., Actor]) -> None:
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT"].ego_T_sensor
    car = make_car(pose[0, 3] + 25.0, 150.0, velocity_mps=(10.0, 0.0))
    field_world.set_actors([car])
    scans = [
        radar.scan(field_world, [car], pose, np.zeros(2), np.random.default_rng(3), actor_delay_s=delay, noise=SILENT)
        for delay in (0.0, 0.02)
    ]
    shifts = scans[1]["x"] - scans[0]["x"]
    moving = scans[0]["vx_comp"] > 9
    assert moving.any()
    np.testing.assert_allclose(shifts[moving & (scans[0]["rcs"] > 0)], 0.2, atol=1e-3)


@pytest.fixture
def devkit_without_filters() -> None:
    RadarPointCloud.disable_filters()
    yield
    RadarPointCloud.default_filters()


@pytest.mark.usefixtures("devkit_without_filters")
def test_devkit_reads_every_field_back(field_world: World, make_car: Callable[..., Actor], tmp_path: Path) -> None:
    pose = world_T_ego(150.0, 150.0, 0.3) @ RIG["RADAR_FRONT"].ego_T_sensor
    car = make_car(165.0, 155.0)
    field_world.set_actors([car])
    records = radar.scan(field_world, [car], pose, np.array([5.0, 0.0]), np.random.default_rng(0))
    path = tmp_path / "scan.pcd"
    path.write_bytes(radar.pcd_bytes(records))
    read = RadarPointCloud.from_file(str(path)).points
    assert read.shape == (18, len(records))
    for row, name in zip(read, radar.RADAR_DTYPE.names, strict=True):
        np.testing.assert_array_equal(row, records[name].astype(np.float64), err_msg=name)
    RadarPointCloud.default_filters()
    kept = RadarPointCloud.from_file(str(path)).points
    assert kept.shape[1] == radar.passes_devkit_filter(records).sum()


def test_an_empty_scan_is_one_point_without_coordinates(field_world: World, tmp_path: Path) -> None:
    nothing = radar._Returns(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=bool))
    records = radar._measured(nothing, np.zeros(2), np.random.default_rng(0), SILENT)
    path = tmp_path / "empty.pcd"
    path.write_bytes(radar.pcd_bytes(records))
    assert RadarPointCloud.from_file(str(path)).points.shape[1] == 0
    with pytest.raises(ValueError, match="at least one"):
        radar.pcd_bytes(records[:0])


def test_header_equals_the_real_files(real_nuscenes: Path) -> None:
    files = sorted((real_nuscenes / "extra_radar_unmatched").glob("*.pcd"))
    if not files:
        pytest.skip("the real subset has no radar files")
    for path in files:
        real = path.read_bytes()
        count = int(real.split(b"\nWIDTH ")[1].split(b"\n")[0])
        header = real[: real.index(b"DATA binary\n") + len(b"DATA binary\n")]
        ours = radar.pcd_bytes(np.zeros(count, dtype=radar.RADAR_DTYPE))
        assert ours.startswith(header)
        body = real[len(header) : len(header) + count * radar.RADAR_DTYPE.itemsize]
        assert radar.pcd_bytes(np.frombuffer(body, dtype=radar.RADAR_DTYPE)).startswith(header + body)


def test_scans_are_as_full_as_real_ones(tiny_drives: Path) -> None:
    counts = [
        RadarPointCloud.from_file(str(path)).points.shape[1]
        for path in sorted((tiny_drives / "samples").glob("RADAR_*/*.pcd"))
    ]
    assert 15 < np.median(counts) < 90
