"""What is measured now and later: where rays end, what radars say, against a world whose geometry is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionperc.config import DataConfig
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.pointclouds import EGO_VEHICLE_M, LIDAR_RINGS, is_own_vehicle, lidar_rays, read_lidar
from fusionperc.measurements import Measurements

#: Where the LiDAR of the synthetic sweeps is mounted.
EGO_T_LIDAR = np.eye(4, dtype=np.float32)
EGO_T_LIDAR[:3, 3] = [0.9, 0.0, 1.84]
RING_ELEVATION_RAD = np.radians(np.linspace(-30.0, 10.0, LIDAR_RINGS))


@pytest.fixture(scope="module")
def drives(written_folder: Path) -> NuScenesDrives:
    return NuScenesDrives(written_folder, "v1.0-mini", "fit", config=DataConfig(radar_sweeps=1))


def ends_m(measured: Measurements, moment: int) -> torch.Tensor:
    """(R, 3) where the rays of a moment end, without those that there are not."""
    lidar = measured.lidar
    ends = lidar.origin_m[moment] + lidar.direction[moment] * lidar.range_m[moment, :, None]
    return ends[~lidar.range_m[moment].isnan()]


# -- rays of a folder -------------------------------------------------------------------------------------------------


def test_rays_of_the_key_frame_end_at_its_points(drives: NuScenesDrives) -> None:
    sample = drives.read(3)
    assert sample.lidar is not None
    points = sample.lidar.xyz_m[: sample.num_keyframe_points]
    measured = drives.measured(3, (0.0,), num_rays=500)
    torch.testing.assert_close(ends_m(measured, 0), points, rtol=0, atol=2e-5)
    torch.testing.assert_close(measured.lidar.origin_m[0], torch.tensor([0.9, 0.0, 1.84]), rtol=0, atol=1e-6)
    assert measured.horizon_s.tolist() == [[0.0]]
    real = ~measured.lidar.range_m.isnan()
    torch.testing.assert_close(measured.lidar.direction[real].norm(dim=-1), torch.ones(int(real.sum())))


def test_what_stands_still_stays_in_the_key_frame(
    drives: NuScenesDrives, pose_at: Callable[[float], np.ndarray], static_points: np.ndarray
) -> None:
    """Two seconds later the ego is 12 m further and turned by 17 degrees; the world's points are where they were."""
    time_s, later_s = 1.0, (0.5, 1.3, 2.0)
    measured = drives.measured(2, later_s, num_rays=500)
    ego_T_global = np.linalg.inv(pose_at(time_s))
    expected = static_points @ ego_T_global[:3, :3].T + ego_T_global[:3, 3]
    for moment, horizon_s in enumerate(later_s):
        ends = ends_m(measured, moment).numpy()
        assert len(ends) > 100
        nearest = np.linalg.norm(ends[:, None] - expected[None], axis=-1).min(1)
        assert nearest.max() < 1e-3
        origin = (ego_T_global @ pose_at(time_s + horizon_s) @ [0.9, 0.0, 1.84, 1.0])[:3]
        np.testing.assert_allclose(measured.lidar.origin_m[moment], origin, atol=1e-4)
    assert measured.lidar.origin_m[2, 0] > 10


def test_radars_measure_the_radial_part_of_the_velocity(
    drives: NuScenesDrives, pose_at: Callable[[float], np.ndarray], static_points: np.ndarray
) -> None:
    """All that the radars of this folder see moves with (1, 2) m/s over the ground."""
    measured = drives.measured(2, (0.0, 1.5), num_rays=8)
    radar = measured.radar
    assert radar.is_measured.tolist() == [True, True]
    assert torch.bincount(radar.moment_index).tolist() == [2 * len(static_points)] * 2
    ego_T_global = np.linalg.inv(pose_at(1.0))
    velocity = torch.tensor(ego_T_global[:2, :2] @ [1.0, 2.0], dtype=torch.float32)
    for moment, horizon_s in enumerate((0.0, 1.5)):
        own = radar.moment_index == moment
        # Two radars at one place, whose scans come 7 ms after the LiDAR's.
        place = (ego_T_global @ pose_at(1.0 + horizon_s + 0.007) @ [3.4, 0.0, 0.5, 1.0])[:3]
        line = radar.xyz_m[own, :2] - torch.tensor(place[:2], dtype=torch.float32)
        line = line / line.norm(dim=1, keepdim=True)
        torch.testing.assert_close(radar.line_of_sight[own], line, rtol=0, atol=1e-4)
        torch.testing.assert_close(radar.radial_mps[own], line @ velocity, rtol=0, atol=5e-3)
    assert radar.radial_mps.min() < -1 and radar.radial_mps.max() > 1


def test_after_the_drives_end_nothing_is_measured(drives: NuScenesDrives) -> None:
    last = len(drives) - 1
    measured = drives.measured(last, (0.0, 0.5, 3.0), num_rays=16)
    assert measured.lidar.range_m.isnan().all(1).tolist() == [False, True, True]
    assert measured.radar.is_measured.tolist() == [True, False, False]
    assert measured.radar.moment_index.unique().tolist() == [0]
    assert bool(measured.lidar.direction.isfinite().all()) and bool(measured.lidar.origin_m.isfinite().all())


def test_the_next_drive_is_another_world(written_folder: Path) -> None:
    """Drives follow each other in the tables; a moment after the first is not taken from the second."""
    drives = NuScenesDrives(written_folder, "v1.0-mini", "all", config=DataConfig())
    measured = drives.measured(8, (100.0,), num_rays=16)
    assert bool(measured.lidar.range_m.isnan().all()) and not bool(measured.radar.is_measured.any())


def test_a_later_sweep_without_its_file_is_not_measured(small_folder: Path) -> None:
    drives = NuScenesDrives(small_folder, "v1.0-mini", "fit", config=DataConfig())
    before = drives.measured(2, (0.0, 0.5), num_rays=16)
    row = int(drives.index.sample_row[3, 6])
    (small_folder / drives.index.row_file[row].decode()).unlink()
    after = drives.measured(2, (0.0, 0.5), num_rays=16)
    assert torch.equal(before.lidar.range_m[0], after.lidar.range_m[0])
    assert bool(after.lidar.range_m[1].isnan().all()) and not bool(before.lidar.range_m[1].isnan().any())


def test_rays_are_spaced_evenly_or_drawn(drives: NuScenesDrives) -> None:
    whole = drives.measured(3, (0.0,), num_rays=500).lidar
    count = int((~whole.range_m.isnan()).sum())
    even = drives.measured(3, (0.0,), num_rays=7).lidar
    assert torch.equal(even.range_m, drives.measured(3, (0.0,), num_rays=7).lidar.range_m)
    places = [(whole.range_m[0] == value).nonzero().flatten()[0].item() for value in even.range_m[0]]
    assert places == sorted(set(places)) and places[0] == 0 and places[-1] == count - 1
    assert max(np.diff(places)) - min(np.diff(places)) <= 1

    def drawn(seed: int) -> torch.Tensor:
        return drives.measured(3, (0.0,), 7, np.random.default_rng(seed)).lidar.range_m[0]

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    assert len(drawn(0).unique()) == 7 and bool(torch.isin(drawn(0), whole.range_m[0]).all())


# -- rays of a sweep --------------------------------------------------------------------------------------------------


def sweep(columns: int = 90, range_m: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    """(P, 5) points of whole columns of firings, and (P, 3) their directions."""
    azimuth = np.repeat(np.linspace(-np.pi, np.pi, columns, endpoint=False), LIDAR_RINGS)
    elevation = np.tile(RING_ELEVATION_RAD, columns)
    direction = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1
    )
    ring = np.tile(np.arange(LIDAR_RINGS), columns)
    points = np.column_stack([direction * range_m, np.full(len(direction), 9.0), ring]).astype(np.float32)
    return points, direction


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.0, 0.7))
def test_directions_of_firings_without_return_are_restored(seed: int, share: float) -> None:
    points, direction = sweep()
    is_lost = np.random.default_rng(seed).random(len(points)) < share
    points[is_lost, :3] = 0.01  # where the sensor stores what did not come back
    rays, range_m = lidar_rays(points, EGO_T_LIDAR)
    looks_at_roof = is_own_vehicle(1.5 * direction.astype(np.float32), EGO_T_LIDAR) & (direction[:, 2] < -0.12)
    kept = ~(is_lost & looks_at_roof)
    assert len(rays) == kept.sum()
    np.testing.assert_allclose(rays, direction[kept], atol=2e-5)
    np.testing.assert_allclose(range_m, np.where(is_lost, np.inf, 40.0)[kept], rtol=1e-5)


def test_a_column_that_is_all_lost_is_not_guessed() -> None:
    points, direction = sweep()
    points[: 3 * LIDAR_RINGS, :3] = 0.0
    rays, range_m = lidar_rays(points, EGO_T_LIDAR)
    np.testing.assert_allclose(rays, direction[3 * LIDAR_RINGS :], atol=1e-6)
    assert bool(np.isfinite(range_m).all())


def test_the_own_vehicle_is_left_out() -> None:
    points, direction = sweep()
    on_roof = is_own_vehicle((1.3 * direction).astype(np.float32), EGO_T_LIDAR)
    assert 0 < on_roof.sum() < len(points)
    points[on_roof, :3] = 1.3 * direction[on_roof]
    rays, range_m = lidar_rays(points, EGO_T_LIDAR)
    assert len(rays) == (~on_roof).sum() and range_m.min() > 39
    ends = rays * range_m[:, None] + EGO_T_LIDAR[:3, 3]
    low, high = np.array(EGO_VEHICLE_M).T
    assert not ((ends >= low) & (ends <= high)).all(1).any()


@pytest.mark.parametrize("spoil", ["cut", "order", "ring"])
def test_what_is_not_whole_columns_keeps_its_returns_only(spoil: str) -> None:
    points, direction = sweep()
    points[5::7, :3] = 0.0
    is_lost = np.linalg.norm(points[:, :3], axis=1) == 0
    match spoil:
        case "cut":
            points, direction, is_lost = points[1:], direction[1:], is_lost[1:]
        case "order":
            points[40, 4], points[41, 4] = points[41, 4], points[40, 4]
        case "ring":
            points[:, 4] = 0
    rays, range_m = lidar_rays(points, EGO_T_LIDAR)
    np.testing.assert_allclose(rays, direction[~is_lost], atol=1e-6)
    assert bool(np.isfinite(range_m).all())


@pytest.mark.parametrize("points", [np.zeros((0, 5), np.float32), np.zeros((64, 5), np.float32)])
def test_a_sweep_that_saw_nothing_has_no_rays(points: np.ndarray) -> None:
    rays, range_m = lidar_rays(points, EGO_T_LIDAR)
    assert rays.shape == (0, 3) and range_m.shape == (0,)


@pytest.mark.parametrize("folder", ["samples", "sweeps"])
def test_real_sweeps(real_nuscenes: Path, folder: str) -> None:
    """HDL-32E: rings 1.33 degrees apart, from -30.67 to 10.67 degrees; part of the firings meets the sky."""
    (file,) = sorted((real_nuscenes / folder / "LIDAR_TOP").glob("*.bin"))
    points = read_lidar(file)
    assert len(points) % LIDAR_RINGS == 0
    rays, range_m = lidar_rays(points, EGO_T_LIDAR)
    is_missing = np.isinf(range_m)
    assert 0.9 * len(points) < len(rays) < len(points)
    assert 0.1 < is_missing.mean() < 0.4
    elevation = np.degrees(np.arcsin(rays[is_missing, 2]))
    rings_deg = np.linspace(-30.67, 10.67, LIDAR_RINGS)
    assert np.abs(elevation[:, None] - rings_deg).min(1).max() < 0.5
    azimuth = np.sort(np.degrees(np.arctan2(rays[:, 1], rays[:, 0])))
    assert np.diff(azimuth).max() < 1.0


@pytest.mark.parametrize("folder", ["samples", "sweeps"])
def test_real_returns_taken_away_are_restored(real_nuscenes: Path, folder: str) -> None:
    (file,) = sorted((real_nuscenes / folder / "LIDAR_TOP").glob("*.bin"))
    points = read_lidar(file)
    distance = np.linalg.norm(points[:, :3], axis=1)
    taken = (distance > 5) & (np.random.default_rng(0).random(len(points)) < 0.3)
    spoilt = points.copy()
    spoilt[taken, :3] = 0
    # Mounted where nothing is its own vehicle: all that is known is kept, in order.
    far_up = np.eye(4, dtype=np.float32)
    far_up[2, 3] = 50
    rays, range_m = lidar_rays(spoilt, far_up)
    whole, _ = lidar_rays(points, far_up)
    assert len(rays) == len(whole) == len(points)
    angle_deg = np.degrees(np.arccos(np.clip((rays * whole).sum(1), -1, 1)))
    assert bool(np.isinf(range_m[taken]).all()) and angle_deg[~taken & (distance > 5)].max() < 0.1
    # The lasers of a column sit beside each other: what they meet nearby has not quite the same azimuth.
    assert np.median(angle_deg[taken]) < 0.6 and np.quantile(angle_deg[taken], 0.99) < 3.5
