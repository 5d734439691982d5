"""What moves: places that another sweep saw through; by hand, in a world that stands still, and against annotations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusionperc.config import DataConfig
from fusionperc.data.motion import was_free
from fusionperc.data.nuscenes import NuScenesDrives

#: Rays over the quarter ahead, 0.01 rad apart, all of which end on a wall across, at x = 20 m.
AZIMUTH, ELEVATION = (g.ravel() for g in np.meshgrid(np.arange(-0.78, 0.78, 0.01), np.arange(-0.1, 0.1, 0.01)))
RAYS = np.stack(
    [np.cos(ELEVATION) * np.cos(AZIMUTH), np.cos(ELEVATION) * np.sin(AZIMUTH), np.sin(ELEVATION)], 1
).astype(np.float32)
WALL_M = (20.0 / RAYS[:, 0]).astype(np.float32)
ORIGIN = np.zeros(3, dtype=np.float32)


def answers(*places: tuple[float, float, float], range_m: NDArray[np.float32] = WALL_M) -> list[int]:
    return was_free(np.array(places, dtype=np.float32), ORIGIN, RAYS, range_m).tolist()


def test_before_a_wall_is_free_behind_it_is_unknown() -> None:
    assert answers((10.0, 0.0, 0.0), (10.0, 6.0, 0.5), (18.0, -5.0, 1.0)) == [1, 1, 1]
    assert answers((20.0, 0.0, 0.0), (20.3, 4.0, 0.0), (19.7, -4.0, 0.0)) == [0, 0, 0]
    assert answers((25.0, 0.0, 0.0), (40.0, 10.0, 0.0)) == [-1, -1]
    assert answers((-10.0, 0.0, 0.0), (10.0, 0.0, 5.0), (5.0, 9.0, 0.0)) == [-1, -1, -1]  # where no ray looks


def test_a_ray_without_return_proves_nothing() -> None:
    gone = np.where(np.abs(AZIMUTH) < 0.2, np.float32(math.inf), WALL_M)
    assert answers((10.0, 0.0, 0.0), (20.0, 0.0, 0.0), (10.0, 5.0, 0.0), range_m=gone) == [-1, -1, 1]


def test_all_rays_around_must_pass() -> None:
    """A thin pole that only one of the rays nearby meets keeps its surroundings from being free."""
    pole = WALL_M.copy()
    pole[np.argmin(np.abs(AZIMUTH - 0.1) + np.abs(ELEVATION))] = 8.0
    place = (8.0 * math.cos(0.1), 8.0 * math.sin(0.1), 0.0)
    assert answers(place, (place[0], place[1] + 1, 0.0), range_m=pole) == [0, 1]


def test_nothing_to_compare() -> None:
    assert answers() == []
    few = was_free(np.ones((2, 3), np.float32), ORIGIN, RAYS[:2], WALL_M[:2])
    assert few.tolist() == [-1, -1]


@settings(max_examples=20, deadline=None)
@given(turn=st.floats(-3.1, 3.1), shift=st.tuples(*[st.floats(-50, 50)] * 3))
def test_frames_do_not_matter(turn: float, shift: tuple[float, float, float]) -> None:
    matrix = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    generator = np.random.default_rng(0)
    places = generator.uniform([2, -8, -1], [30, 8, 1], (60, 3))
    here = was_free(places.astype(np.float32), ORIGIN, RAYS, WALL_M)
    moved = (places @ matrix.T + shift).astype(np.float32)
    there = was_free(moved, np.array(shift, np.float32), (RAYS @ matrix.T).astype(np.float32), WALL_M)
    # Points at the very margin of an answer may fall on either side in float32.
    assert (here != there).sum() <= 1 and {1, 0, -1} == set(here.tolist())


def test_a_world_that_stands_still_does_not_move(written_folder: Path) -> None:
    drives = NuScenesDrives(written_folder, "v1.0-mini", "fit", config=DataConfig())
    for index in range(len(drives)):
        surfaces = drives.surfaces(index)
        assert surfaces.is_compared.tolist() == [True]
        assert bool((surfaces.xyz_m[:, 2] > 0.4).all())
        assert not bool((surfaces.moves == 1).any())
    assert len(surfaces.xyz_m) > 20 and bool((surfaces.moves == 0).any())


def share_found(drives: NuScenesDrives) -> tuple[float, float]:
    """Which share of the answers is "moves": among points in boxes faster than 2 m/s, and among all others."""
    fast, others = [], []
    for index in range(len(drives)):
        surfaces, boxes = drives.surfaces(index), drives.read(index).boxes
        in_fast = torch.zeros(len(surfaces.moves), dtype=torch.bool)
        in_box = in_fast.clone()
        for place in range(len(boxes)):
            away = surfaces.xyz_m - boxes.center_m[place]
            cos, sin = boxes.yaw_rad[place].cos(), boxes.yaw_rad[place].sin()
            along, left = away[:, 0] * cos + away[:, 1] * sin, away[:, 1] * cos - away[:, 0] * sin
            inside = (torch.stack([along, left, away[:, 2]], 1).abs() < boxes.size_lwh_m[place] / 2 + 0.1).all(1)
            in_box |= inside
            if float(boxes.velocity_mps[place].norm()) > 2:
                in_fast |= inside
        answered = surfaces.moves >= 0
        fast.append(surfaces.moves[answered & in_fast])
        others.append(surfaces.moves[answered & ~in_box])
    return float(torch.cat(fast).float().mean()), float(torch.cat(others).float().mean())


def test_what_is_found_to_move_is_annotated_as_moving(tiny_drives: Path) -> None:
    found, elsewhere = share_found(NuScenesDrives(tiny_drives, "v1.0-mini", "all", config=DataConfig(missing="skip")))
    assert found > 0.3 and elsewhere < 0.02, (found, elsewhere)


def test_on_a_real_drive(real_nuscenes: Path) -> None:
    config = DataConfig(missing="skip")
    drives = NuScenesDrives(real_nuscenes, "v1.0-mini", "all", config=config)
    if not any(bool(drives.surfaces(index).is_compared.any()) for index in range(len(drives))):
        pytest.skip("the subset holds no two sweeps of one drive a second apart")
    found, elsewhere = share_found(drives)
    assert found > 5 * elsewhere, (found, elsewhere)
