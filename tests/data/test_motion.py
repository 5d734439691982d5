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
from fusionperc.data.measuring import Sweep
from fusionperc.data.motion import velocities, was_free
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.types import Boxes

Points = NDArray[np.float32]

#: Rays over the quarter ahead, 0.01 rad apart, all of which end on a wall across, at x = 20 m.
AZIMUTH, ELEVATION = (g.ravel() for g in np.meshgrid(np.arange(-0.78, 0.78, 0.01), np.arange(-0.1, 0.1, 0.01)))
RAYS = np.stack(
    [np.cos(ELEVATION) * np.cos(AZIMUTH), np.cos(ELEVATION) * np.sin(AZIMUTH), np.sin(ELEVATION)], 1
).astype(np.float32)
WALL_M = (20.0 / RAYS[:, 0]).astype(np.float32)


def sweep_of(
    origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
    direction: NDArray[np.float32] = RAYS,
    range_m: NDArray[np.float32] = WALL_M,
) -> Sweep:
    return Sweep(1.0, np.array(origin_m, dtype=np.float32), direction, range_m)


def answers(*places: tuple[float, float, float], range_m: NDArray[np.float32] = WALL_M) -> list[int]:
    return was_free(np.array(places, dtype=np.float32), sweep_of(range_m=range_m)).tolist()


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
    few = was_free(np.ones((2, 3), np.float32), sweep_of(direction=RAYS[:2], range_m=WALL_M[:2]))
    assert few.tolist() == [-1, -1]


@settings(max_examples=20, deadline=None)
@given(turn=st.floats(-3.1, 3.1), shift=st.tuples(*[st.floats(-50, 50)] * 3))
def test_frames_do_not_matter(turn: float, shift: tuple[float, float, float]) -> None:
    matrix = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    generator = np.random.default_rng(0)
    places = generator.uniform([2, -8, -1], [30, 8, 1], (60, 3))
    here = was_free(places.astype(np.float32), sweep_of())
    moved = (places @ matrix.T + shift).astype(np.float32)
    there = was_free(moved, sweep_of(shift, (RAYS @ matrix.T).astype(np.float32)))
    # Points at the very margin of an answer may fall on either side in float32.
    assert (here != there).sum() <= 1 and {1, 0, -1} == set(here.tolist())


# -- velocities -------------------------------------------------------------------------------------------------------


def outline(x_m: float, y_m: float, yaw_rad: float = 0.0, length_m: float = 4.0, width_m: float = 2.0) -> Points:
    """Points along the two sides of a car that are seen, 0.2 m apart, 1 m above the ground."""
    along = np.arange(-length_m / 2, length_m / 2, 0.2)
    across = np.arange(-width_m / 2, width_m / 2, 0.2)
    sides = np.concatenate(
        [
            np.stack([along, np.full_like(along, -width_m / 2)], 1),
            np.stack([np.full_like(across, -length_m / 2), across], 1),
        ]
    )
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    xy = sides @ np.array([[cos, sin], [-sin, cos]]) + [x_m, y_m]
    return np.concatenate([xy, np.ones((len(xy), 1))], 1).astype(np.float32)


def sweeps(*cars: tuple[float, float, float, float]) -> tuple[Points, list[tuple[float, Points]]]:
    """Cars (x, y, vx, vy) beside a wall, now, and 0.4 s before and after."""
    wall = np.stack([np.arange(-40, 40, 0.2), np.full(400, 15.0), np.ones(400)], 1).astype(np.float32)

    def at(time_s: float) -> Points:
        return np.concatenate([outline(x + vx * time_s, y + vy * time_s, math.atan2(vy, vx)) for x, y, vx, vy in cars])

    return at(0.0), [(t, np.concatenate([wall, at(t)])) for t in (-0.4, 0.4)]


@settings(max_examples=25, deadline=None)
@given(speed=st.floats(1.5, 18.0), heading=st.floats(-math.pi, math.pi), x=st.floats(-25, 25), y=st.floats(-20, 5))
def test_a_car_is_followed(speed: float, heading: float, x: float, y: float) -> None:
    vx, vy = speed * math.cos(heading), speed * math.sin(heading)
    now, others = sweeps((x, y, vx, vy))
    found = velocities(now, others)
    assert bool(np.isfinite(found).all())
    # A fine step, and half a cell of the field in 0.4 s.
    assert np.abs(found - [vx, vy]).max() < 0.25 + 0.125 / 0.4


def test_each_cluster_has_its_own_velocity() -> None:
    now, others = sweeps((10.0, 5.0, 8.0, 0.0), (-15.0, -8.0, 0.0, -4.0), (20.0, -10.0, -12.0, 3.0))
    found = velocities(now, others).reshape(3, -1, 2)
    for cluster, (vx, vy) in zip(found, [(8, 0), (0, -4), (-12, 3)], strict=True):
        assert np.ptp(cluster, axis=0).max() == 0
        np.testing.assert_allclose(cluster[0], [vx, vy], atol=0.5)


def test_velocities_that_are_not_believed() -> None:
    now, others = sweeps((10.0, 5.0, 8.0, 0.0))
    still, met = sweeps((10.0, 5.0, 0.0, 0.0))
    assert bool(np.isnan(velocities(still, met)).all()), "it stands"
    assert bool(np.isnan(velocities(now, [])).all()), "there is no other sweep"
    assert bool(np.isnan(velocities(now, [(0.4, np.zeros((0, 3), np.float32))])).all()), "nothing was met"
    assert bool(np.isnan(velocities(now[:2], others)).all()), "too few points"
    gone = [(t, points[:400]) for t, points in others]
    assert bool(np.isnan(velocities(now, gone)).all()), "it is seen only now"
    assert velocities(now[:0], others).shape == (0, 2)


# -- drives -----------------------------------------------------------------------------------------------------------


def test_a_world_that_stands_still_does_not_move(written_folder: Path) -> None:
    drives = NuScenesDrives(written_folder, "v1.0-mini", "fit", config=DataConfig())
    for index in range(len(drives)):
        surfaces = drives.surfaces(index)
        assert surfaces.is_compared.tolist() == [True]
        assert bool((surfaces.xyz_m[:, 2] > 0.4).all())
        assert not bool((surfaces.moves == 1).any())
    assert len(surfaces.xyz_m) > 20 and bool((surfaces.moves == 0).any())


def in_box(xyz_m: torch.Tensor, boxes: Boxes, place: int) -> torch.Tensor:
    away = xyz_m - boxes.center_m[place]
    cos, sin = boxes.yaw_rad[place].cos(), boxes.yaw_rad[place].sin()
    along, left = away[:, 0] * cos + away[:, 1] * sin, away[:, 1] * cos - away[:, 0] * sin
    return (torch.stack([along, left, away[:, 2]], 1).abs() < boxes.size_lwh_m[place] / 2 + 0.1).all(1)


def share_found(drives: NuScenesDrives) -> tuple[float, float]:
    """Which share of the answers is "moves": among points in boxes faster than 2 m/s, and among all others."""
    fast, others = [], []
    for index in range(len(drives)):
        surfaces, boxes = drives.surfaces(index), drives.read(index).boxes
        in_fast = torch.zeros(len(surfaces.moves), dtype=torch.bool)
        in_any = in_fast.clone()
        for place in range(len(boxes)):
            inside = in_box(surfaces.xyz_m, boxes, place)
            in_any |= inside
            if float(boxes.velocity_mps[place].norm()) > 2:
                in_fast |= inside
        answered = surfaces.moves >= 0
        fast.append(surfaces.moves[answered & in_fast])
        others.append(surfaces.moves[answered & ~in_any])
    return float(torch.cat(fast).float().mean()), float(torch.cat(others).float().mean())


def test_what_is_found_to_move_is_annotated_as_moving(tiny_drives: Path) -> None:
    found, elsewhere = share_found(NuScenesDrives(tiny_drives, "v1.0-mini", "all", config=DataConfig(missing="skip")))
    assert found > 0.3 and elsewhere < 0.02, (found, elsewhere)


def test_velocities_are_those_annotated(tiny_drives: Path) -> None:
    drives = NuScenesDrives(tiny_drives, "v1.0-mini", "all", config=DataConfig(missing="skip"))
    errors, speeds = [], []
    for index in range(len(drives)):
        surfaces, boxes = drives.surfaces(index), drives.read(index).boxes
        for place in range(len(boxes)):
            own = in_box(surfaces.xyz_m, boxes, place) & ~surfaces.velocity_mps.isnan().any(1)
            if bool(own.any()) and float(boxes.velocity_mps[place].norm()) > 0.5:
                errors.append(float((surfaces.velocity_mps[own].median(0).values - boxes.velocity_mps[place]).norm()))
                speeds.append(float(boxes.velocity_mps[place].norm()))
    assert len(errors) > 5
    assert np.median(errors) < 0.5 < np.median(speeds), (np.median(errors), np.median(speeds))


def test_on_a_real_drive(real_nuscenes: Path) -> None:
    config = DataConfig(missing="skip")
    drives = NuScenesDrives(real_nuscenes, "v1.0-mini", "all", config=config)
    if not any(bool(drives.surfaces(index).is_compared.any()) for index in range(len(drives))):
        pytest.skip("the subset holds no two sweeps of one drive a second apart")
    found, elsewhere = share_found(drives)
    assert found > 5 * elsewhere, (found, elsewhere)
