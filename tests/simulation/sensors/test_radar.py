"""The simulated radar against analytic Doppler, and its files against nuScenes' own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nuscenes.utils.data_classes import RadarPointCloud

from fusionperc.simulation.sensors import radar
from fusionperc.simulation.sensors.rig import RIG, world_T_ego
from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.world import World

EXACT = radar.RadarNoise(
    range_m=0.0, azimuth_rad=0.0, doppler_mps=0.0, place_step_m=0.0, speed_step_mps=0.0, odometry=1.0
)


def scan_of(world: World, actors: list[Actor], pose: np.ndarray, velocity: tuple[float, float]) -> np.ndarray:
    world.set_actors(actors)
    found = [
        radar.scan(world, actors, pose, np.array(velocity), np.random.default_rng(seed), noise=EXACT)
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
    on_car = on_car[np.abs(on_car["vx_comp"]) > 1e-6]
    assert len(on_car) >= 3
    # A stray ghost may lie there too.
    assert (np.abs(on_car["vx_comp"] - 12.0) < 0.1).mean() > 0.9
    assert (np.abs(on_car["vx"] - 2.0) < 0.1).mean() > 0.9
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
    on_car = records[np.abs(records["vx_comp"]) > 1e-6]
    assert len(on_car) >= 2
    direction = np.stack([on_car["x"], on_car["y"]], 1).astype(np.float64)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # World +x is the sensor's -y.
    expected = direction * (direction @ np.array([0.0, -8.0]))[:, None]
    error = np.hypot(on_car["vx_comp"] - expected[:, 0], on_car["vy_comp"] - expected[:, 1])
    assert (error < 1e-3).mean() > 0.9


def test_a_hidden_car_is_not_seen(field_world: World, make_car: Callable[..., Actor]) -> None:
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT"].ego_T_sensor
    hidden = make_car(pose[0, 3] + 30.0, 150.0, velocity_mps=(9.0, 0.0), instance=1)
    wall = make_car(pose[0, 3] + 12.0, 150.0, yaw_rad=np.pi / 2, velocity_mps=(0.0, 0.0), instance=2)
    assert len(near(scan_of(field_world, [hidden, wall], pose, (0.0, 0.0)), 30.0, 0.0)) <= 2
    assert len(near(scan_of(field_world, [hidden], pose, (0.0, 0.0)), 30.0, 0.0)) >= 8


def test_the_scans_are_wide_and_near_or_narrow_and_far() -> None:
    places = np.array([[60.0, 0.0], [125.0, 0.0], [200.0, 0.0], [30.0, 40.0], [20.0, 50.0], [-5.0, 0.0], [0.2, 0.0]])
    np.testing.assert_array_equal(radar.NEAR.covers(places), [True, True, False, True, False, False, False])
    np.testing.assert_array_equal(radar.FAR.covers(places), [True, True, True, False, False, False, False])


def test_echoes_fall_with_the_fourth_power_of_the_range() -> None:
    near, far = (beam.least_rcs_dbsm(np.array([5.0, 60.0, 120.0])) for beam in (radar.NEAR, radar.FAR))
    np.testing.assert_allclose(near, [-5.0, -5.0, -5.0 + 40 * np.log10(2)])
    np.testing.assert_allclose(far, -5.0)
    assert radar.FAR.least_rcs_dbsm(np.array([200.0]))[0] > -5.0


def test_people_are_missed_more_often_when_they_stand(field_world: World, make_car: Callable[..., Actor]) -> None:
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT"].ego_T_sensor
    found = []
    for speed in (0.0, 1.4):
        car = make_car(pose[0, 3] + 20.0, 150.0, velocity_mps=(speed, 0.0))
        person = dataclasses.replace(
            car, model="pedestrian", size_lwh_m=(0.7, 0.7, 1.75), center_m=(*car.center_m[:2], 0.88)
        )
        field_world.set_actors([person])
        scans = [
            radar.scan(field_world, [person], pose, np.zeros(2), np.random.default_rng(seed), noise=EXACT)
            for seed in range(80)
        ]
        found.append(np.mean([len(near(records, 20.0, 0.0, 1.0)) > 0 for records in scans]))
    standing, walking = found
    assert 0.02 < standing < walking - 0.1
    assert walking < 0.9


def test_numbers_come_in_the_sensor_s_steps(field_world: World, make_car: Callable[..., Actor]) -> None:
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT"].ego_T_sensor
    car = make_car(pose[0, 3] + 20.0, 152.0, velocity_mps=(7.0, 0.0))
    field_world.set_actors([car])
    records = radar.scan(field_world, [car], pose, np.array([9.0, 0.0]), np.random.default_rng(1))
    for name, step, offset in (
        ("x", 0.2, 0.0),
        ("y", 0.2, 0.1),
        ("vx", 0.25, 0.0),
        ("vy", 0.25, 0.0),
        ("rcs", 0.5, 0.0),
    ):
        steps = (records[name].astype(np.float64) - offset) / step
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3, err_msg=name)
    # Compensated velocities point along the ray.
    across = records["vx_comp"] * records["y"] - records["vy_comp"] * records["x"]
    np.testing.assert_allclose(across, 0.0, atol=1e-3)


def test_the_list_is_the_near_scan_then_the_far_one_each_by_range(
    field_world: World, make_car: Callable[..., Actor]
) -> None:
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT"].ego_T_sensor
    cars = [make_car(pose[0, 3] + 20.0 + 9.0 * row, 150.0 + 4 * row, instance=row) for row in range(8)]
    field_world.set_actors(cars)
    records = radar.scan(field_world, cars, pose, np.zeros(2), np.random.default_rng(0), noise=EXACT)
    distance = np.hypot(records["x"], records["y"])
    assert (np.diff(distance) < 0).sum() == 1
    np.testing.assert_array_equal(records["id"], np.arange(len(records)))
    far = np.arange(len(records)) > np.argmin(np.diff(distance))
    beyond = np.abs(np.arctan2(records["y"], records["x"])) > np.where(far, radar.FAR.half_angle_rad, np.radians(60.0))
    np.testing.assert_array_equal(records["invalid_state"] == 7, beyond)
    np.testing.assert_array_equal(records["dyn_prop"] == 4, beyond)


def test_delay_moves_objects_on(field_world: World, make_car: Callable[..., Actor]) -> None:
    pose = world_T_ego(150.0, 150.0, 0.0) @ RIG["RADAR_FRONT"].ego_T_sensor
    car = make_car(pose[0, 3] + 25.0, 150.0, velocity_mps=(10.0, 0.0))
    field_world.set_actors([car])
    scans = [
        radar.scan(field_world, [car], pose, np.zeros(2), np.random.default_rng(3), actor_delay_s=delay, noise=EXACT)
        for delay in (0.0, 0.02)
    ]
    shifts = scans[1]["x"] - scans[0]["x"]
    on_car = (np.abs(scans[0]["x"] - 25.0) < 4) & (np.abs(scans[0]["vx_comp"] - 10) < 0.1)
    assert on_car.sum() >= 2
    np.testing.assert_allclose(shifts[on_car], 0.2, atol=1e-3)


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
    assert kept.shape[1] == ((records["invalid_state"] == 0) & (records["ambig_state"] == 3)).sum() < len(records)


def test_an_empty_scan_is_one_point_without_coordinates(
    field_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(radar.Beam, "covers", lambda _, xy: np.zeros(len(xy), dtype=bool))
    records = radar.scan(field_world, [], np.eye(4), np.zeros(2), np.random.default_rng(0))
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
