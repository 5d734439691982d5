"""Geometry against cases done by hand, its own inverses, pyquaternion, and a real calibration."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyquaternion import Quaternion
from torch import Tensor

from fusionperc.geometry import (
    CORNER_EDGES,
    CORNER_SIGNS,
    BevGrid,
    box_corners,
    box_gaps_m,
    ego_corners,
    inverse,
    points_in_boxes,
    project_points,
    quaternion_from_yaw,
    rigid,
    rotation_from_quaternion,
    rotation_from_yaw,
    transform_points,
    wrap_angle,
    yaw_from_rotation,
)
from fusionperc.types import CAMERAS

PI = math.pi
NAN, INF = float("nan"), float("inf")
DOUBLE = torch.float64

angles = st.floats(-20, 20)
metres = st.floats(-1000, 1000)
quaternions = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(x * x for x in q) > 1e-3)


@st.composite
def transforms(draw: st.DrawFn) -> Tensor:
    rotation = rotation_from_quaternion(torch.tensor(draw(quaternions), dtype=DOUBLE))
    return rigid(rotation, torch.tensor(draw(st.tuples(metres, metres, metres)), dtype=DOUBLE))


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


# -- angles and rotations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angle", "wrapped"),
    [(0, 0), (PI, PI), (-PI, PI), (3 * PI, PI), (-3 * PI, PI), (1.5 * PI, -0.5 * PI), (2 * PI, 0), (-7, 2 * PI - 7)],
)
def test_angles_are_wrapped(angle: float, wrapped: float) -> None:
    torch.testing.assert_close(wrap_angle(vector(angle)), vector(wrapped), atol=1e-12, rtol=0)


def test_straight_back_is_plus_pi_in_single_precision_too() -> None:
    found = wrap_angle(torch.tensor([PI, -PI, 0.5, -0.5]))
    torch.testing.assert_close(found, torch.tensor([PI, PI, 0.5, -0.5]))


@given(angle=st.floats(-1e4, 1e4))
def test_wrapping_keeps_the_direction(angle: float) -> None:
    found = float(wrap_angle(vector(angle)))
    assert -PI < found <= PI
    assert math.cos(found) == pytest.approx(math.cos(angle), abs=1e-9)
    assert math.sin(found) == pytest.approx(math.sin(angle), abs=1e-9)


def test_a_quarter_turn_goes_counter_clockwise() -> None:
    rotation = rotation_from_yaw(vector(PI / 2))[0]
    torch.testing.assert_close(rotation @ vector(1, 0, 0), vector(0, 1, 0))
    torch.testing.assert_close(rotation @ vector(0, 1, 0), vector(-1, 0, 0))
    torch.testing.assert_close(rotation @ vector(0, 0, 1), vector(0, 0, 1))


def test_the_3_4_5_triangle() -> None:
    yaw = math.atan2(4, 3)
    rotation = rotation_from_yaw(vector(yaw))[0]
    torch.testing.assert_close(rotation @ vector(5, 0, 0), vector(3, 4, 0))
    torch.testing.assert_close(rotation @ vector(3, 4, 7), vector(-1.4, 4.8, 7))
    assert float(yaw_from_rotation(rotation)) == pytest.approx(yaw)


@given(yaw=angles)
def test_yaw_survives_rotation_and_quaternion(yaw: float) -> None:
    rotation = rotation_from_yaw(vector(yaw))
    torch.testing.assert_close(rotation_from_quaternion(quaternion_from_yaw(vector(yaw))), rotation)
    difference = wrap_angle(yaw_from_rotation(rotation) - vector(yaw))
    assert abs(float(difference)) < 1e-9


@given(wxyz=quaternions, scale=st.floats(0.1, 10))
def test_quaternions_as_pyquaternion_reads_them(wxyz: tuple[float, ...], scale: float) -> None:
    found = rotation_from_quaternion(torch.tensor(wxyz, dtype=DOUBLE) * scale)
    np.testing.assert_allclose(found.numpy(), Quaternion(wxyz).normalised.rotation_matrix, atol=1e-12)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=DOUBLE))
    assert float(found.det()) == pytest.approx(1)


def test_a_quaternion_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length 0"):
        rotation_from_quaternion(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))


# -- transforms -------------------------------------------------------------------------------------------------------


def test_a_transform_by_hand() -> None:
    dst_T_src = rigid(rotation_from_yaw(torch.tensor(PI / 2)), torch.tensor([10.0, 20.0, 1.0]))
    points = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 5.0]])
    torch.testing.assert_close(transform_points(dst_T_src, points), torch.tensor([[10.0, 21.0, 1.0], [8.0, 20.0, 6.0]]))
    assert dst_T_src[3].tolist() == [0, 0, 0, 1]


@given(a_T_b=transforms(), b_T_c=transforms(), xyz=st.lists(st.tuples(metres, metres, metres), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_inverse_and_chain(a_T_b: Tensor, b_T_c: Tensor, xyz: list[tuple[float, float, float]]) -> None:
    points = torch.tensor(xyz, dtype=DOUBLE)
    close = {"atol": 1e-8, "rtol": 0.0}
    torch.testing.assert_close(inverse(a_T_b) @ a_T_b, torch.eye(4, dtype=DOUBLE), **close)
    torch.testing.assert_close(inverse(inverse(a_T_b)), a_T_b, **close)
    torch.testing.assert_close(inverse(a_T_b), torch.linalg.inv(a_T_b), **close)
    torch.testing.assert_close(inverse(a_T_b @ b_T_c), inverse(b_T_c) @ inverse(a_T_b), **close)
    in_a = transform_points(a_T_b, transform_points(b_T_c, points))
    torch.testing.assert_close(transform_points(a_T_b @ b_T_c, points), in_a, **close)
    torch.testing.assert_close(transform_points(inverse(a_T_b @ b_T_c), in_a), points, **close)
    torch.testing.assert_close(torch.pdist(in_a), torch.pdist(points), **close)


def test_transforms_of_a_batch() -> None:
    matrices = rigid(rotation_from_yaw(torch.linspace(-3, 3, 5)), torch.arange(15.0).reshape(5, 3))
    points = torch.arange(30.0).reshape(5, 2, 3)
    moved = transform_points(matrices, points)
    for index in range(5):
        torch.testing.assert_close(moved[index], transform_points(matrices[index], points[index]))
        torch.testing.assert_close(inverse(matrices)[index], inverse(matrices[index]))


# -- projection -------------------------------------------------------------------------------------------------------

#: A camera at ego (1, 0, 2) that looks forward: its x is ego -y, its y ego -z, its z ego x.
FORWARD_CAMERA = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 2], [1, 0, 0, -1], [0, 0, 0, 1]])
INTRINSICS = torch.tensor([[100.0, 0, 80], [0, 200, 45], [0, 0, 1]])


def test_projection_by_hand() -> None:
    points = torch.tensor([[11.0, 0, 2], [11.0, 1, 2], [11.0, 0, 3], [21.0, -4, 0]])
    pixels, depth = project_points(INTRINSICS, FORWARD_CAMERA, points)
    # On the axis; 1 m to the left; 1 m up; 4 m to the right and 2 m down at 20 m.
    torch.testing.assert_close(pixels, torch.tensor([[80.0, 45], [70, 45], [80, 25], [100, 65]]))
    torch.testing.assert_close(depth, torch.tensor([10.0, 10, 10, 20]))


def test_what_is_behind_or_too_near_has_no_pixel() -> None:
    points = torch.tensor([[-9.0, 1, 2], [1.0, 0, 2], [1.05, 0, 2], [3.0, 0, 2]])
    pixels, depth = project_points(INTRINSICS, FORWARD_CAMERA, points)
    assert pixels[:3].isnan().all()
    torch.testing.assert_close(pixels[3], torch.tensor([80.0, 45]))
    torch.testing.assert_close(depth, torch.tensor([-10.0, 0, 0.05, 2]))
    pixels, _ = project_points(INTRINSICS, FORWARD_CAMERA, points, min_depth_m=2.5)
    assert pixels.isnan().all()


# -- boxes ------------------------------------------------------------------------------------------------------------


def test_corners_by_hand() -> None:
    turned = box_corners(torch.tensor([[10.0, 0, 1]]), torch.tensor([[4.0, 2, 2]]), torch.tensor([PI / 2]))[0]
    # Heading left: forward is +y, left is -x; bottom from the front left, counter-clockwise.
    bottom = torch.tensor([[9.0, 2, 0], [9, -2, 0], [11, -2, 0], [11, 2, 0]])
    torch.testing.assert_close(turned[:4], bottom)
    torch.testing.assert_close(turned[4:], bottom + torch.tensor([0.0, 0, 2]))


def test_the_bottom_face_runs_counter_clockwise_and_edges_are_edges() -> None:
    signs = torch.tensor(CORNER_SIGNS)
    face = signs[:4, :2]
    following = face.roll(-1, 0)
    assert float((face[:, 0] * following[:, 1] - face[:, 1] * following[:, 0]).sum()) > 0
    assert len({frozenset(edge) for edge in CORNER_EDGES}) == 12
    for start, end in CORNER_EDGES:
        assert int((signs[start] != signs[end]).sum()) == 1


def test_points_in_boxes_by_hand() -> None:
    center, size = torch.tensor([[0.0, 0, 0], [10, 0, 0]]), torch.tensor([[2.0, 4, 2], [6, 2, 2]])
    rotation = rotation_from_yaw(torch.tensor([0.0, PI / 4]))
    points = torch.tensor([[1.0, 2, 1], [1.01, 0, 0], [12.0, 2, 0], [12.0, -2, 0], [NAN, 0, 0]])
    found = points_in_boxes(points, center, size, rotation)
    # The surface belongs to the box; the second box points to the front left.
    assert found.tolist() == [[True, False, False, False, False], [False, False, True, False, False]]


def test_a_tilted_box_is_exact() -> None:
    pitch_down = torch.tensor(Quaternion(axis=(0, 1, 0), degrees=90).rotation_matrix, dtype=torch.float32)
    points = torch.tensor([[0.0, 0, -2.9], [0, 0, 2.9], [2.9, 0, 0]])
    found = points_in_boxes(points, torch.zeros(1, 3), torch.tensor([[6.0, 1, 1]]), pitch_down[None])
    assert found.tolist() == [[True, True, False]]


@given(yaw=angles, x=metres, y=metres, shrink=st.floats(0.5, 0.999))
@settings(max_examples=40, deadline=None)
def test_corners_lie_just_inside_or_outside(yaw: float, x: float, y: float, shrink: float) -> None:
    center, size = vector(x, y, 1)[None], vector(4.2, 1.9, 1.6)[None]
    args = (center, size, rotation_from_yaw(vector(yaw)))
    for factor, is_inside in ((shrink, True), (2 - shrink, False)):
        corners = box_corners(center, size * factor, vector(yaw))[0]
        assert points_in_boxes(corners, *args).tolist() == [[is_inside] * 8]


# -- the grid ---------------------------------------------------------------------------------------------------------


def grid_of(*values: float) -> BevGrid:
    return BevGrid(*map(float, values))


GRID = grid_of(-2, 4, -1, 1, -3, 1, 0.5)


def test_grid_shape_and_centres() -> None:
    assert GRID.shape == (12, 4)
    assert GRID.num_cells == 48
    centers = GRID.centers_m(dtype=DOUBLE)
    assert centers.shape == (12, 4, 2)
    torch.testing.assert_close(centers[0, 0], vector(-1.75, -0.75))
    torch.testing.assert_close(centers[11, 3], vector(3.75, 0.75))
    torch.testing.assert_close(centers[1, 0] - centers[0, 0], vector(0.5, 0))
    torch.testing.assert_close(centers[0, 1] - centers[0, 0], vector(0, 0.5))


@pytest.mark.parametrize(
    ("xyz", "cell"),
    [
        ((-2, -1, 0), (0, 0)),
        ((-1.5, -1, 0), (1, 0)),
        ((-1.5000001, -0.5, 0), (0, 1)),
        ((3.999999, 0.999999, 0), (11, 3)),
        ((0, 0, -3), (4, 2)),
        ((4, 0, 0), None),
        ((0, 1, 0), None),
        ((-2.000001, 0, 0), None),
        ((0, 0, 1), None),
        ((0, 0, -3.000001), None),
        ((NAN, 0, 0), None),
        ((0, NAN, 0), None),
        ((0, 0, NAN), None),
        ((INF, 0, 0), None),
        ((0, -INF, 0), None),
        ((0, 0, INF), None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cells_are_half_open(xyz: tuple[float, float, float], cell: tuple[int, int] | None, dtype: torch.dtype) -> None:
    index, inside = GRID.cell_indices(torch.tensor([xyz], dtype=dtype))
    assert index.dtype == torch.int64
    assert inside.tolist() == [cell is not None]
    if cell is not None:
        assert tuple(index[0].tolist()) == cell
    # An index outside is still one that nothing chokes on.
    assert bool((index >= 0).all())


@pytest.mark.parametrize("grid", [GRID, grid_of(-51.2, 51.2, -51.2, 51.2, -5, 3, 0.8), GRID.with_cell(0.25)])
def test_a_centre_lies_in_its_cell(grid: BevGrid) -> None:
    centers = grid.centers_m().reshape(-1, 2)
    index, inside = grid.cell_indices(torch.cat([centers, torch.zeros(len(centers), 1)], dim=1))
    assert bool(inside.all())
    assert (index[:, 0] * grid.shape[1] + index[:, 1]).tolist() == list(range(grid.num_cells))


def test_no_points_no_cells() -> None:
    index, inside = GRID.cell_indices(torch.zeros(0, 3))
    assert index.shape == (0, 2) and inside.shape == (0,)


def test_another_cell_size_keeps_the_range() -> None:
    finer = GRID.with_cell(0.25)
    assert finer.shape == (24, 8)
    assert (finer.x_min_m, finer.x_max_m, finer.z_max_m) == (GRID.x_min_m, GRID.x_max_m, GRID.z_max_m)
    with pytest.raises(ValueError, match=r"0\.7 m cells"):
        GRID.with_cell(0.7)


def test_float_ranges_that_are_whole_only_in_decimals() -> None:
    assert grid_of(-54, 54, -54, 54, -5, 3, 0.15).shape == (720, 720)
    assert grid_of(-0.3, 0.3, -0.3, 0.3, 0, 1, 0.1).shape == (6, 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-2, 4, -1, 1, -3, 1, 0), "cell_m = 0.0 must be positive"),
        ((-2, 4, -1, 1, -3, 1, -0.5), "cell_m = -0.5 must be positive"),
        ((-2, 4, -1, 1, -3, 1, NAN), "cell_m = nan must be positive"),
        ((-2, 4, -1, 1, -3, 1, 0.7), "x range .* no whole number of 0.7 m cells"),
        ((-2, 4, -1, 1.2, -3, 1, 0.5), "y range .* no whole number"),
        ((4, -2, -1, 1, -3, 1, 0.5), "x range"),
        ((0, 0, -1, 1, -3, 1, 0.5), "x range"),
        ((0, NAN, -1, 1, -3, 1, 0.5), "x range"),
        ((-2, 4, -1, 1, 1, 1, 0.5), "z range .* is empty"),
        ((-2, 4, -1, 1, NAN, 1, 0.5), "z range"),
    ],
)
def test_what_is_no_grid_is_refused(values: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^BevGrid: {message}"):
        grid_of(*values)


# -- a real car -------------------------------------------------------------------------------------------------------


def test_the_chain_of_a_real_calibration(real_nuscenes: Path) -> None:
    """LiDAR -> ego -> world -> ego at the camera's time -> camera, step by step as the devkit does it."""

    def table(name: str) -> dict[str, dict[str, Any]]:
        rows = json.loads((real_nuscenes / "v1.0-mini" / f"{name}.json").read_text())
        return {row["token"]: row for row in rows}

    poses, calibrations, sensors = table("ego_pose"), table("calibrated_sensor"), table("sensor")
    by_sample: dict[str, dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {}
    for row in table("sample_data").values():
        if row["is_key_frame"]:
            calibration = calibrations[row["calibrated_sensor_token"]]
            channel = sensors[calibration["sensor_token"]]["channel"]
            by_sample.setdefault(row["sample_token"], {})[channel] = (calibration, poses[row["ego_pose_token"]])
    channels = next(found for found in by_sample.values() if {"LIDAR_TOP", *CAMERAS} <= found.keys())

    def matrix(row: dict[str, Any]) -> Tensor:
        return rigid(rotation_from_quaternion(vector(*row["rotation"])), vector(*row["translation"]))

    points = np.random.default_rng(0).uniform(-60, 60, (50, 3))
    lidar, lidar_ego = channels["LIDAR_TOP"]
    global_T_lidar = matrix(lidar_ego) @ matrix(lidar)
    for camera in CAMERAS:
        calibration, camera_ego = channels[camera]
        expected = points
        for row in (lidar, lidar_ego):
            expected = expected @ Quaternion(row["rotation"]).rotation_matrix.T + np.array(row["translation"])
        for row in (camera_ego, calibration):
            expected = (expected - np.array(row["translation"])) @ Quaternion(row["rotation"]).rotation_matrix
        camera_T_lidar = inverse(matrix(calibration)) @ inverse(matrix(camera_ego)) @ global_T_lidar
        found = transform_points(camera_T_lidar, torch.from_numpy(points))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9, rtol=0)

    # What lies 10 m before the front camera's lens is 10 m deep at the principal point.
    calibration, camera_ego = channels["CAM_FRONT"]
    ego_T_camera = inverse(matrix(lidar_ego)) @ matrix(camera_ego) @ matrix(calibration)
    ahead = transform_points(ego_T_camera, vector(0, 0, 10)[None])
    intrinsics = torch.tensor(calibration["camera_intrinsic"], dtype=DOUBLE)
    pixels, depth = project_points(intrinsics, inverse(ego_T_camera), ahead)
    torch.testing.assert_close(pixels[0], intrinsics[:2, 2], atol=1e-6, rtol=0)
    assert float(depth) == pytest.approx(10)
    assert 10 < float(ahead[0, 0]) < 13 and abs(float(ahead[0, 1])) < 1


# -- the ego's box ----------------------------------------------------------------------------------------------------


def test_the_egos_corners_are_those_that_are_scored() -> None:
    corners = ego_corners(torch.tensor([1.0, 2.0, math.pi / 2]))
    torch.testing.assert_close(corners[0], torch.tensor([1.0 - 0.925, 2.0 + 1.485793 + 2.042]))


def test_gaps_by_hand() -> None:
    """4 m and 2 m long boxes one behind the other, side by side, touching when the other is turned."""
    pose, size = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([2.0, 1.0, 1.5])

    def gaps(x: float, y: float, yaw: float) -> list[float]:
        return box_gaps_m(pose, (4.0, 2.0), torch.tensor([x, y]), torch.tensor(yaw), size).tolist()

    assert gaps(5.0, 0.0, 0.0) == pytest.approx([2.0, -1.5])
    assert gaps(0.0, -4.0, 0.0) == pytest.approx([-3.0, 2.5])
    assert gaps(0.0, -4.0, PI / 2) == pytest.approx([-2.5, 2.0])
    assert gaps(1.0, 0.5, 0.0) == pytest.approx([-2.0, -1.0])


def test_values_between_cell_centres_and_beyond_the_rim() -> None:
    grid = BevGrid(-2.0, 2.0, -1.0, 1.0, -1.0, 1.0, 1.0)
    values = torch.arange(8.0).view(1, 4, 2)
    places = torch.tensor([[[-1.5, -0.5], [-1.0, -0.5], [1.5, 0.0], [9.0, 9.0]]])
    torch.testing.assert_close(grid.sampled(values, places), torch.tensor([[0.0, 1.0, 6.5, 7.0]]))
    assert grid.sampled(values, places.view(1, 2, 2, 2)).shape == (1, 2, 2)
