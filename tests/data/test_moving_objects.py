"""Boxes of what moves: by hand, wherever it drives, and against annotations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionperc.config import DataConfig
from fusionperc.data.moving_objects import moving_objects
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.geometry import wrap_angle
from fusionperc.measurements import Surfaces
from fusionperc.types import CLASSES, Boxes


def surfaces_of(*clouds: tuple[np.ndarray, tuple[float, float], int]) -> Surfaces:
    """Clouds of points (P, 3), each with its velocity and its answer."""
    counts = [len(xyz) for xyz, _, _ in clouds]
    return Surfaces(
        torch.tensor(np.concatenate([xyz for xyz, _, _ in clouds]), dtype=torch.float32),
        torch.tensor(np.repeat([answer for _, _, answer in clouds], counts), dtype=torch.int8),
        torch.tensor(np.repeat([velocity for _, velocity, _ in clouds], counts, axis=0), dtype=torch.float32),
        torch.zeros(sum(counts), dtype=torch.int64),
        torch.tensor([True]),
    )


def seen_sides(
    x: float, y: float, yaw: float, size: tuple[float, float, float] = (4.6, 1.95, 1.73), step: float = 0.2
) -> np.ndarray:
    """Points of the sides of a box that face the origin, from half a metre to its top."""
    length, width, height = size
    cos, sin = math.cos(yaw), math.sin(yaw)
    own_x, own_y = -x * cos - y * sin, x * sin - y * cos  # the origin, in the box's axes
    along, across = np.linspace(-length / 2, length / 2, 24), np.linspace(-width / 2, width / 2, 12)
    sides = []
    if abs(own_x) > length / 2:
        sides.append(np.stack([np.full_like(across, math.copysign(length / 2, own_x)), across], 1))
    if abs(own_y) > width / 2:
        sides.append(np.stack([along, np.full_like(along, math.copysign(width / 2, own_y))], 1))
    outline = np.concatenate(sides) @ np.array([[cos, sin], [-sin, cos]]) + [x, y]
    heights = np.linspace(0.5, height, max(2, round((height - 0.5) / step)))
    return np.concatenate([np.column_stack([outline, np.full(len(outline), z)]) for z in heights])


def going(yaw: float, speed: float) -> tuple[float, float]:
    return speed * math.cos(yaw), speed * math.sin(yaw)


def the_one(boxes: Boxes) -> Boxes:
    assert len(boxes) == 1
    return boxes


@settings(max_examples=40, deadline=None)
@given(
    distance=st.floats(8, 40), bearing=st.floats(-math.pi, math.pi), yaw=st.floats(-math.pi, math.pi),
    speed=st.floats(1, 15),
)  # fmt: skip
def test_a_car_is_boxed_wherever_it_goes(distance: float, bearing: float, yaw: float, speed: float) -> None:
    """Its far sides are not seen: the box reaches there all the same."""
    x, y = distance * math.cos(bearing), distance * math.sin(bearing)
    box = the_one(moving_objects(surfaces_of((seen_sides(x, y, yaw), going(yaw, speed), 1))))
    assert CLASSES[box.class_index[0]] == "car"
    torch.testing.assert_close(box.center_m, torch.tensor([[x, y, 1.73 / 2]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(box.size_lwh_m, torch.tensor([[4.6, 1.95, 1.73]]), atol=1e-3, rtol=0)
    assert abs(float(wrap_angle(box.yaw_rad - yaw))) < 1e-4
    torch.testing.assert_close(box.velocity_mps, torch.tensor([going(yaw, speed)]))
    assert box.attribute_index.tolist() == [-1]


@pytest.mark.parametrize(
    ("size", "speed", "kind"),
    [
        ((0.5, 0.5, 1.8), 1.3, "pedestrian"),
        ((1.7, 0.6, 1.5), 2.0, "bicycle"),
        ((0.6, 0.6, 1.7), 4.0, "bicycle"),
        ((2.0, 0.7, 1.5), 12.0, "motorcycle"),
        ((4.0, 1.7, 1.5), 12.0, "car"),
        ((7.5, 2.5, 3.2), 8.0, "truck"),
        ((6.5, 2.3, 2.2), 8.0, "truck"),
        ((12.0, 2.9, 3.3), 8.0, "bus"),
    ],
)
def test_kinds_by_extent_and_speed(size: tuple[float, float, float], speed: float, kind: str) -> None:
    box = the_one(moving_objects(surfaces_of((seen_sides(12.0, 6.0, 0.3, size), going(0.3, speed), 1))))
    assert CLASSES[box.class_index[0]] == kind
    assert bool((box.size_lwh_m[0] > torch.tensor(size) - 1e-3).all())


def test_what_is_no_object() -> None:
    nan = (math.nan, math.nan)
    person = seen_sides(8.0, 3.0, 0.0, (0.5, 0.5, 1.8))
    assert len(moving_objects(surfaces_of((person, (1.3, 0.0), 1)))) == 1
    assert len(moving_objects(surfaces_of((person, nan, 0)))) == 0, "it stays"
    assert len(moving_objects(surfaces_of((person, nan, 1)))) == 0, "its velocity is not known"
    assert len(moving_objects(surfaces_of((person, (0.4, 0.3), 1)))) == 0, "it is too slow to tell where it heads"
    assert len(moving_objects(surfaces_of((person[:4], (1.3, 0.0), 1)))) == 0, "too few points"
    assert len(moving_objects(surfaces_of((person + [0, 0, 1.5], (1.3, 0.0), 1)))) == 0, "leaves in the wind"
    assert len(moving_objects(surfaces_of((person[:11], (9.0, 0.0), 1)))) == 0, "few points, and fast: an accident"
    assert len(moving_objects(surfaces_of((person[:0], (0.0, 0.0), 1)))) == 0
    # Beside a wall that stays it is found as it is; with more that is unknown than moves it is not.
    wall = np.column_stack([np.arange(0, 20, 0.02), np.full(1000, 3.4), np.ones(1000)])
    assert len(moving_objects(surfaces_of((person, (1.3, 0.0), 1), (wall, nan, 0)))) == 1
    assert len(moving_objects(surfaces_of((person, (1.3, 0.0), 1), (wall, nan, -1)))) == 0


def test_parts_of_one_object_are_one_and_neighbours_are_two() -> None:
    near, far = seen_sides(10.0, 4.0, 0.0), seen_sides(10.0, -8.0, 0.0)
    holed = near[np.abs(near[:, 0] - 10.0) > 0.8]
    found = moving_objects(surfaces_of((holed, (5.0, 0.0), 1), (far, (-5.0, 0.0), 1)))
    assert len(found) == 2
    assert sorted(found.yaw_rad.abs().round().tolist()) == [0.0, 3.0]


def test_objects_of_simulated_drives_are_those_annotated(tiny_drives: Path) -> None:
    drives = NuScenesDrives(tiny_drives, "v1.0-mini", "all", config=DataConfig(missing="skip"))
    found, right, headings, centers = 0, 0, [], []
    for index in range(len(drives)):
        objects, boxes = moving_objects(drives.surfaces(index)), drives.read(index).boxes
        found += len(objects)
        if not len(objects) or not len(boxes):
            continue
        off_m, nearest = torch.cdist(objects.center_m[:, :2], boxes.center_m[:, :2]).min(1)
        is_right = off_m < 2
        right += int(is_right.sum())
        centers += off_m[is_right].tolist()
        headings += wrap_angle(objects.yaw_rad - boxes.yaw_rad[nearest])[is_right].abs().tolist()
    assert found > 10 and right > 0.8 * found, (right, found)
    assert np.median(centers) < 0.6 and np.median(headings) < 0.2, (np.median(centers), np.median(headings))
