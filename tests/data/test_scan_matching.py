"""The ego's motion from its LiDAR: analytic motions through a made street, what moves in it, real sweeps, drives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusionperc.config import DataConfig
from fusionperc.data.loading import DriveDataset, collate
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.pointclouds import is_own_vehicle, read_lidar
from fusionperc.data.scan_matching import MATCHED_AGES_S, LidarScan, ego_motion, matched_poses
from fusionperc.geometry import BevGrid
from fusionperc.types import SENSORS, Odometry, SensorInputs

AGES_S = (0.0, *MATCHED_AGES_S)
Points = NDArray[np.float64]


def street(generator: np.random.Generator, count: int = 12000) -> Points:
    """(P, 3) points on the ground, on house fronts that spring back and forth, and on poles."""
    along, across, height = generator.uniform((-60, -12, 0), (60, 12, 8), (count, 3)).T
    front = 14 + 3 * np.sign(np.sin(along / 5))
    ground = np.stack([along, across, 0.02 * generator.standard_normal(count)], 1)
    fronts = np.stack([along, front * np.sign(across), height], 1)
    gables = np.stack(
        [5 * np.pi * np.rint(along / 5 / np.pi), np.sign(across) * (14 + 3 * (height / 4 - 1)), height], 1
    )
    poles = np.stack([8 * np.rint(along / 8), 7 * np.sign(across), height], 1)
    return np.concatenate([ground[::2], fronts, gables[::2], poles[::4]])


def pose(motion: tuple[float, float, float], age_s: float) -> tuple[float, float, float]:
    """x, y, yaw of the ego at an age in its newest frame, integrated finely."""
    speed, acceleration, turn_rate = motion
    steps = np.linspace(0, age_s, 2001)
    yaw, velocity = -turn_rate * steps, speed - acceleration * steps
    way = velocity * np.stack([np.cos(yaw), np.sin(yaw)])
    x, y = -((way[:, 1:] + way[:, :-1]) / 2).sum(1) * age_s / 2000
    return float(x), float(y), float(yaw[-1])


def seen_from(points: Points, place: tuple[float, float, float]) -> Points:
    x, y, yaw = place
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return (points - [x, y, 0]) @ turn


def scans_of(motion: tuple[float, float, float], seed: int = 0, others: Points | None = None) -> list[LidarScan]:
    """Sweeps of an ego of this speed, acceleration and turn rate, each with points of its own, 2 cm off."""
    generator = np.random.default_rng(seed)
    scans = []
    for age_s in AGES_S:
        seen = seen_from(street(generator), pose(motion, age_s))
        seen = seen[np.linalg.norm(seen, axis=1) < 50] + 0
        seen += 0.02 * generator.standard_normal(seen.shape)
        if others is not None:
            # What keeps beside the ego.
            seen = np.concatenate([seen, others])
        scans.append(LidarScan(age_s, seen.astype(np.float32)))
    return scans


@given(speed=st.floats(-2, 28), acceleration=st.floats(-5, 3), turn_rate=st.floats(-0.4, 0.4), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_any_motion_is_found(speed: float, acceleration: float, turn_rate: float, seed: int) -> None:
    found = ego_motion(scans_of((speed, acceleration, turn_rate), seed))
    error = np.abs(found - np.array([speed, acceleration, turn_rate]))
    assert (error < [0.15, 0.6, 0.01]).all(), found


def test_poses_are_those_of_the_arc() -> None:
    found = matched_poses(scans_of((9.0, -2.0, 0.3)))
    expected = np.array([[age_s, *pose((9.0, -2.0, 0.3), age_s)] for age_s in MATCHED_AGES_S])
    assert found == pytest.approx(expected, abs=0.02)


def test_a_lorry_beside_the_ego_is_no_standstill() -> None:
    generator = np.random.default_rng(5)
    lorry = np.stack([generator.uniform(-5, 7, 1500), np.full(1500, 3.0), generator.uniform(0.3, 3.5, 1500)], 1)
    found = ego_motion(scans_of((8.0, 0.0, 0.0), others=lorry))
    assert found[0] == pytest.approx(8.0, abs=0.15)


def test_rings_on_the_ground_go_along_and_tell_nothing() -> None:
    """On even ground a LiDAR draws the same circles wherever it is."""
    azimuth, radius = np.meshgrid(np.linspace(0, 2 * np.pi, 900), np.geomspace(4, 40, 16))
    rings = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), np.full_like(radius, 0.03)], -1)
    found = ego_motion(scans_of((8.0, 0.0, 0.0), others=rings.reshape(-1, 3)))
    assert found == pytest.approx([8.0, 0.0, 0.0], abs=0.1)


def test_what_cannot_be_matched_is_unknown() -> None:
    scans = scans_of((5.0, 1.0, 0.0))
    assert np.isnan(ego_motion([])).all()
    assert np.isnan(ego_motion(scans[:1])).all(), "a drive's first sweep"
    few = [LidarScan(scan.age_s, scan.points_m[:50]) for scan in scans]
    assert np.isnan(ego_motion(few)).all()
    generator = np.random.default_rng(1)
    elsewhere = [scans[0]] + [
        LidarScan(scan.age_s, generator.uniform(-40, 40, (8000, 3)).astype(np.float32)) for scan in scans[1:]
    ]
    assert np.isnan(ego_motion(elsewhere)).all()


def test_one_earlier_sweep_tells_no_acceleration() -> None:
    found = ego_motion(scans_of((5.0, 0.0, 0.1))[:2])
    assert np.isnan(found[1])
    assert found[[0, 2]] == pytest.approx([5.0, 0.1], abs=0.2)


def test_a_real_sweep_is_found_again_where_the_ego_has_gone_on(real_nuscenes: Path) -> None:
    """Half of a real sweep's points each time, those of the earlier ones seen from where the ego was then."""
    motion, generator = (6.0, 1.0, 0.15), np.random.default_rng(0)
    for path in sorted(real_nuscenes.glob("s*/LIDAR_TOP/*.pcd.bin")):
        points = read_lidar(path)[:, :3].astype(np.float64)
        # nuScenes' LiDAR looks to the right of the vehicle, 1.84 m high and 0.94 m ahead of the axle.
        sensor = np.array([[0, 1, 0, 0.94], [-1, 0, 0, 0], [0, 0, 1, 1.84], [0, 0, 0, 1]])
        points = points[~is_own_vehicle(points.astype(np.float32), sensor.astype(np.float32))]
        points = points @ sensor[:3, :3].T + sensor[:3, 3]
        scans = []
        for age_s in AGES_S:
            kept = points[generator.random(len(points)) < 0.5]
            scans.append(LidarScan(age_s, seen_from(kept, pose(motion, age_s)).astype(np.float32)))
        found = ego_motion(scans)
        assert np.abs(found - motion) == pytest.approx(np.zeros(3), abs=0.25), path.name
        assert abs(found[0] - motion[0]) < 0.06 and abs(found[2] - motion[2]) < 0.005, path.name


def test_simulated_sweeps_tell_what_the_can_bus_says(tiny_drives: Path) -> None:
    drives = NuScenesDrives(tiny_drives, "v1.0-mini", "all", config=DataConfig())
    error, past = [], []
    for place in range(len(drives)):
        around, odometry = drives.surroundings(place), drives.odometry(place, "lidar")
        error.append(odometry.motion[0] - around.can_bus[[0, 1, 3]])
        past.append(odometry.past_m[0] - around.ego_past_m)
    known = torch.stack(error).abs()
    known = known[known.isfinite().all(1)]
    assert len(known) >= 5
    assert (known.median(0).values < torch.tensor([0.1, 0.5, 0.01])).all(), known
    way = torch.stack(past).abs()[:, -1]
    way = way[way.isfinite().all(1)]
    assert len(way) >= 4
    assert (way.median(0).values < torch.tensor([0.05, 0.05, 0.01])).all(), way


def test_a_planner_is_given_it_where_there_is_lidar(tiny_drives: Path) -> None:
    drives = NuScenesDrives(tiny_drives, "v1.0-mini", "all", config=DataConfig())
    grid = BevGrid(-16.0, 16.0, -16.0, 16.0, -5.0, 3.0, 1.0)
    whole, without = (
        DriveDataset(drives, (90, 160), sensors=sensors, planning_grid=grid)
        for sensors in (SENSORS, ("camera", "radar"))
    )
    inputs = collate([whole[3], without[3]]).inputs
    assert inputs.lidar_odometry is not None
    assert inputs.lidar_odometry.motion[:, 0].isfinite().tolist() == [True, False]
    assert inputs.only(("camera", "radar")).lidar_odometry is None
    assert inputs.only(("camera",)).odometry() is None
    blind = DriveDataset(drives, (90, 160), sensors=("camera",), read_lidar=True, planning_grid=grid)[3].inputs
    assert blind.odometry() is None, "the LiDAR was read to teach depth only"


def test_radars_tell_how_far_and_the_lidar_how_turned() -> None:
    """And each what the other does not, of each sample."""
    nan = float("nan")
    radar = Odometry(torch.tensor([[4.0, -1.0, 0.1], [nan] * 3, [4.0, nan, 0.1]]), torch.full((3, 4, 3), 2.0))
    radar.past_m[1] = nan
    lidar = Odometry(torch.tensor([[5.0, -2.0, 0.2], [5.0, nan, 0.2], [nan] * 3]), torch.full((3, 4, 3), 1.0))
    lidar.past_m[2] = nan
    inputs = SensorInputs(
        None, None, None, torch.zeros(3, 3, dtype=torch.bool), radar_odometry=radar, lidar_odometry=lidar
    )
    both = inputs.odometry()
    assert both is not None
    expected = torch.tensor([[4.0, -1.0, 0.2], [5.0, nan, 0.2], [4.0, nan, 0.1]])
    torch.testing.assert_close(both.motion, expected, equal_nan=True)
    assert both.past_m[:, 0].tolist() == [[2.0, 2.0, 1.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    assert inputs.only(("radar",)).odometry() is radar and inputs.only(("lidar",)).odometry() is lidar
    with pytest.raises(ValueError, match="lidar_odometry holds 1 samples, `present` 3"):
        SensorInputs(None, None, None, inputs.present, lidar_odometry=Odometry(torch.ones(1, 3), torch.ones(1, 4, 3)))
