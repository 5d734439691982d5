"""The ego's motion from the Doppler of its radars: analytic motions, what moves beside it, real files, drives."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionperc.config import DataConfig
from fusionperc.data.doppler import DopplerScan, doppler_scan, ego_motion
from fusionperc.data.loading import DriveDataset, collate
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.pointclouds import read_radar
from fusionperc.geometry import BevGrid
from fusionperc.types import EGO_MOTION, SENSORS

#: Place (m) and yaw (rad) of nuScenes' five radars.
RADARS = ((3.41, 0.0, 0.0), (2.42, 0.8, 1.57), (2.42, -0.8, -1.57), (-0.56, 0.62, 3.05), (-0.56, -0.62, -3.05))
AGES_S = tuple(np.arange(13) / 13)


def scans_of(
    motion: tuple[float, float, float],
    *,
    ages_s: tuple[float, ...] = AGES_S,
    radars: tuple[tuple[float, float, float], ...] = RADARS,
    returns: int = 30,
    moving: float = 0.0,
    step_mps: float = 0.0,
    seed: int = 0,
) -> list[DopplerScan]:
    """Scans of an ego of this speed, acceleration and turn rate; a share of the returns moves along at 9 m/s."""
    speed, acceleration, turn_rate = motion
    generator = np.random.default_rng(seed)
    scans = []
    for age in ages_s:
        for x, y, yaw in radars:
            azimuth = yaw + generator.uniform(-1.0, 1.0, returns)
            along = np.stack([np.cos(azimuth), np.sin(azimuth)], 1)
            own = np.array([speed - acceleration * age - turn_rate * y, turn_rate * x])
            others = np.where(generator.random((returns, 1)) < moving, np.array([9.0, 0.0]), 0.0)
            radial = ((others - own) * along).sum(1)
            radial = np.rint(radial / step_mps) * step_mps if step_mps else radial
            scans.append(DopplerScan(float(age), np.array([x, y]), along, radial))
    return scans


@given(speed=st.floats(0, 30), acceleration=st.floats(-6, 4), turn_rate=st.floats(-0.6, 0.6), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_any_motion_is_found_among_what_moves(speed: float, acceleration: float, turn_rate: float, seed: int) -> None:
    found = ego_motion(scans_of((speed, acceleration, turn_rate), moving=0.25, step_mps=0.25, seed=seed))
    # A quarter of the returns goes along at 9 m/s, all are rounded to 0.25 m/s: near a standstill that hides when a
    # change began.
    error = np.abs(found - np.array([speed, acceleration, turn_rate]))
    assert (error < [0.2, 0.9 if speed < 0.5 else 0.5, 0.15]).all(), found


def test_without_noise_the_motion_is_exact() -> None:
    found = ego_motion(scans_of((8.0, -1.5, 0.2)))
    # Nothing but the faint knowledge that accelerations and turns are moderate is in the way.
    assert found == pytest.approx([8.0, -1.5, 0.2], abs=2e-3)
    assert len(found) == len(EGO_MOTION)


def test_the_acceleration_is_that_of_now() -> None:
    """A vehicle that has begun to brake, by 2 m/s^2 more every second, brakes harder than over the last second."""
    scans = [
        scan
        for age in AGES_S
        for scan in scans_of((8.0 - 1.0 * age**2, 0.0, 0.0), ages_s=(age,))  # 8 + 0 t - 2 t^2 / 2
    ]
    at_2_mps2 = [
        DopplerScan(s.age_s, s.place_m, s.direction, s.speed_mps - 2.0 * s.age_s * s.direction[:, 0]) for s in scans
    ]
    # As mean of the last second it would be 1 m/s^2 less.
    assert ego_motion(scans) == pytest.approx([8.0, 0.0, 0.0], abs=0.1)
    assert ego_motion(at_2_mps2) == pytest.approx([8.0, -2.0, 0.0], abs=0.1)


def test_a_lever_arm_is_no_speed() -> None:
    """Turning on the spot the front radar moves sideways: the ego's origin stands."""
    found = ego_motion(scans_of((0.0, 0.0, 0.5)))
    assert found == pytest.approx([0.0, 0.0, 0.5], abs=2e-3)


def test_what_too_few_returns_tell_is_unknown() -> None:
    assert np.isnan(ego_motion([])).all()
    assert np.isnan(ego_motion(scans_of((5.0, 0.0, 0.0), ages_s=(0.0,), radars=RADARS[:1], returns=8))).all()
    # Returns that agree on nothing.
    generator = np.random.default_rng(0)
    aimless = [
        DopplerScan(s.age_s, s.place_m, s.direction, generator.uniform(-99, 99, 4))
        for s in scans_of((0, 0, 0), returns=4)
    ]
    assert np.isnan(ego_motion(aimless)).all()


def test_one_moment_tells_no_acceleration() -> None:
    found = ego_motion(scans_of((5.0, 1.0, 0.1), ages_s=(0.0,)))
    assert np.isnan(found[1])
    assert found[[0, 2]] == pytest.approx([5.0, 0.1], abs=2e-3)


def test_real_radars_measure_the_speed_that_their_files_were_compensated_with(real_nuscenes: Path) -> None:
    """Raw and compensated Doppler differ by the car's own odometry, about 2 % below what the raw Doppler tells."""
    speeds = []
    for path in sorted((real_nuscenes / "extra_radar_unmatched").glob("*.pcd")):
        points = read_radar(path)
        yaw = {"FRONT": 0.0, "BACK_RIGHT": -3.05, "BACK_LEFT": 3.05}[path.name.split("RADAR_")[1].split("__")[0]]
        place = np.stack([points["x"], points["y"]], 1).astype(np.float64)
        along = place / np.linalg.norm(place, axis=1, keepdims=True)
        difference = (np.stack([points["vx_comp"] - points["vx"], points["vy_comp"] - points["vy"]], 1) * along).sum(1)
        odometry = np.linalg.lstsq(along, difference, rcond=None)[0]
        ego_T_sensor = np.eye(4)
        ego_T_sensor[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
        found = float(ego_motion([doppler_scan(points, ego_T_sensor, 0.0)])[0])
        speeds.append(found)
        assert found == pytest.approx(np.hypot(*odometry), abs=0.01 + 0.03 * np.hypot(*odometry))
    assert max(speeds) > 7.0 and min(abs(speed) for speed in speeds) < 0.05


def test_a_drive_through_standing_points(written_folder: Path) -> None:
    """The small folder's ego goes at 6 m/s and turns by 0.15 rad/s; its two radars say so, as its CAN bus does."""
    drives = NuScenesDrives(written_folder, "v1.0-mini", "fit", config=DataConfig())
    sample, odometry = drives.read(4), drives.odometry(4, "radar")
    torch.testing.assert_close(odometry.motion[0], torch.tensor([6.0, 0.0, 0.15]), atol=0.01, rtol=0)
    torch.testing.assert_close(odometry.motion[0], sample.can_bus[[0, 1, 3]], atol=0.11, rtol=0)
    torch.testing.assert_close(odometry.past_m[0], sample.ego_past_m, atol=0.05, rtol=0)
    assert drives.odometry(0, "radar").past_m[0, 0].isnan().all(), "the drive began less than two seconds ago"

    grid = BevGrid(-16.0, 16.0, -16.0, 16.0, -5.0, 3.0, 1.0)
    with_radar, without, detecting = (
        DriveDataset(drives, (90, 160), sensors=sensors, planning_grid=planning)
        for sensors, planning in ((SENSORS, grid), (("camera", "lidar"), grid), (SENSORS, None))
    )
    inputs = collate([with_radar[4], without[4]]).inputs
    assert inputs.radar_odometry is not None
    assert inputs.radar_odometry.motion.isfinite().all(1).tolist() == [True, False]
    assert inputs.radar_odometry.past_m.isfinite().all((1, 2)).tolist() == [True, False]
    assert inputs.only(("camera", "lidar")).radar_odometry is None
    assert detecting[4].inputs.odometry() is None, "nobody plans"


def test_missing_radar_files_tell_nothing(written_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "drives"
    shutil.copytree(written_folder, root)
    for folder in [path for path in root.rglob("RADAR_*") if path.is_dir()]:
        shutil.rmtree(folder)
    odometry = NuScenesDrives(root, "v1.0-mini", "fit", config=DataConfig(missing="absent_sensor")).odometry(4, "radar")
    assert odometry.motion.isnan().all() and odometry.past_m.isnan().all()


def test_simulated_radars_measure_what_the_can_bus_says(tiny_drives: Path) -> None:
    drives = NuScenesDrives(tiny_drives, "v1.0-mini", "all", config=DataConfig())
    error, past = [], []
    for place in range(len(drives)):
        around, odometry = drives.surroundings(place), drives.odometry(place, "radar")
        error.append(odometry.motion[0] - around.can_bus[[0, 1, 3]])
        past.append(odometry.past_m[0] - around.ego_past_m)
    known = torch.stack(error).abs()
    known = known[known.isfinite().all(1)]
    assert len(known) >= 5
    assert (known.median(0).values < torch.tensor([0.1, 0.5, 0.03])).all(), known
    way = torch.stack(past).abs()[:, -1]
    way = way[way.isfinite().all(1)]
    assert len(way) >= 4
    assert (way.median(0).values < torch.tensor([0.05, 0.05, 0.02])).all(), way
