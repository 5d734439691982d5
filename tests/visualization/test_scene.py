"""Primitives of a drawing: boxes, dashes, projection, colours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fusionperc.geometry import project_points
from fusionperc.types import CAMERAS, Boxes, CameraInputs, Detections, Points, SensorInputs
from fusionperc.visualization.projection import project_segments, segments_in_rectangle
from fusionperc.visualization.scene import (
    CLASS_COLOURS,
    GROUND_TRUTH_COLOUR,
    LineSet,
    SceneDrawing,
    box_segments,
    build_scene,
    dashed,
    height_colours,
)

#: A camera at the ego's origin that looks ahead.
CAMERA_T_EGO = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
INTRINSICS = torch.tensor([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])


def car(x_m: float, y_m: float, yaw_rad: float = 0.0) -> Boxes:
    index = torch.zeros(1, dtype=torch.int64)
    size = torch.tensor([[4.0, 2.0, 1.5]])
    return Boxes(torch.tensor([[x_m, y_m, 0.75]]), size, torch.tensor([yaw_rad]), torch.zeros(1, 2), index, index)


def detected(boxes: Boxes, score: float) -> Detections:
    return Detections(**vars(boxes), score=torch.full((len(boxes),), score))


def inputs() -> SensorInputs:
    one = torch.zeros(3, dtype=torch.int64)
    xyz = torch.tensor([[5.0, 0, 0], [6, 1, 2], [70, 0, 0]])
    lidar = Points(xyz, torch.tensor([[0.5, 0.0], [0.5, 0.3], [0.5, 0.0]]), one, 1)
    radar = Points(xyz, torch.tensor([[5.0, 4.0, 0, 0], [5, 0.1, 0, 0], [5, 9, 0, 0]]), one, 1)
    images = torch.full((1, 6, 3, 90, 160), 90, dtype=torch.uint8)
    present = torch.tensor([[True, True, True, True, True, False]])
    cameras = CameraInputs(images, INTRINSICS.expand(1, 6, 3, 3), CAMERA_T_EGO.expand(1, 6, 4, 4), present)
    return SensorInputs(cameras, radar, lidar, torch.ones(1, 3, dtype=torch.bool))


def line_set(scene: SceneDrawing, name: str) -> LineSet:
    return next(lines for lines in scene.lines if lines.name == name)


def test_a_segment_in_front_projects_like_its_ends() -> None:
    segments = np.array([[[10.0, 2, 1], [20, -3, 0]]], dtype=np.float32)
    projected, which = project_segments(INTRINSICS, CAMERA_T_EGO, segments)
    ends, _ = project_points(INTRINSICS, CAMERA_T_EGO, torch.from_numpy(segments[0]))
    np.testing.assert_allclose(projected[0], ends.numpy(), rtol=1e-5)
    assert which.tolist() == [0]


@pytest.mark.parametrize("turned_round", [False, True])
def test_a_segment_through_the_near_plane_is_cut_there(turned_round: bool) -> None:
    """From 4 m ahead to 4 m behind, 1 m to the left: cut at 0.5 m, where u = 80 - 100 * 1 / 0.5."""
    segment = [[4.0, 1, 0], [-4.0, 1, 0]]
    segments = np.array([segment[::-1] if turned_round else segment], dtype=np.float32)
    projected, _ = project_segments(INTRINSICS, CAMERA_T_EGO, segments, near_m=0.5)
    ends = projected[0][::-1] if turned_round else projected[0]
    np.testing.assert_allclose(ends, [[80 - 25, 45], [80 - 200, 45]], atol=1e-3)


def test_a_segment_behind_is_gone_and_order_is_told() -> None:
    segments = np.array([[[-1.0, 0, 0], [-5, 0, 0]], [[5, 0, 0], [6, 0, 0]]], dtype=np.float32)
    projected, which = project_segments(INTRINSICS, CAMERA_T_EGO, segments)
    assert projected.shape == (1, 2, 2)
    assert which.tolist() == [1]
    empty, none = project_segments(INTRINSICS, CAMERA_T_EGO, np.zeros((0, 2, 3), dtype=np.float32))
    assert empty.shape == (0, 2, 2) and len(none) == 0


def test_a_cut_line_is_the_uncut_line() -> None:
    """Cutting must not bend a line: the cut end lies on the picture of the whole."""
    generator = np.random.default_rng(0)
    start = generator.uniform([1, -5, -5], [20, 5, 5], (50, 3))
    end = generator.uniform([-20, -5, -5], [-1, 5, 5], (50, 3))
    cut, which = project_segments(INTRINSICS, CAMERA_T_EGO, np.stack([start, end], axis=1).astype(np.float32))
    assert len(which) == 50
    share = (start[:, 0] - 1.0) / (start[:, 0] - end[:, 0]) * 0.5
    inner, _ = project_points(
        INTRINSICS, CAMERA_T_EGO, torch.from_numpy(start + share[:, None] * (end - start)).float()
    )
    first, second = inner.numpy() - cut[:, 0], cut[:, 1] - cut[:, 0]
    distance = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / np.linalg.norm(second, axis=1)
    assert distance.max() < 0.05


def test_segments_outside_the_picture_are_known() -> None:
    segments = np.array([[[-9.0, 5], [-1, 5]], [[-9, 5], [3, 5]], [[500, 5], [600, 5]]], dtype=np.float32)
    assert segments_in_rectangle(segments, 160, 90).tolist() == [False, True, False]


def test_a_box_has_twelve_edges_and_points_ahead() -> None:
    segments = box_segments(car(10, 0, math.pi / 2))
    assert segments.shape == (1, 13, 2, 3)
    lengths = sorted(np.linalg.norm(segments[0, :12, 1] - segments[0, :12, 0], axis=1).round(4).tolist())
    assert lengths == [1.5] * 4 + [2.0] * 4 + [4.0] * 4
    np.testing.assert_allclose(segments[0, 12], [[10, 0, 0], [10, 3, 0]], atol=1e-5)


def test_dashes_cover_half_a_line_and_both_its_ends() -> None:
    line = LineSet(
        "a", np.array([[[0.0, 0, 0], [10, 0, 0]], [[0, 0, 0], [0, 0.1, 0]]], dtype=np.float32), np.eye(2, 3), 1
    )
    result = dashed(line, 0.5)
    long = result.segments_m[result.rgb[:, 0] == 1]
    assert long[0, 0].tolist() == [0, 0, 0] and long[-1, 1].tolist() == [10, 0, 0]
    assert 0.45 < np.linalg.norm(long[:, 1] - long[:, 0], axis=1).sum() / 10 < 0.55
    assert result.segments_m[result.rgb[:, 1] == 1].tolist() == [[[0, 0, 0], [0, pytest.approx(0.1), 0]]]


def test_colours_by_height_change_monotonically_from_blue_to_red() -> None:
    colours = height_colours(np.array([-5.0, 0, 1.2, 8, 50], dtype=np.float32))
    assert colours[0, 2] > colours[0, 0] and colours[-1, 0] > colours[-1, 2]
    assert (colours[3] == colours[4]).all()


def test_ground_truth_is_white_only_beside_detections() -> None:
    alone = build_scene(inputs(), car(8, 0))
    assert {tuple(c) for c in line_set(alone, "ground truth").rgb.round(3)} == {
        tuple(np.float32(CLASS_COLOURS["car"]).round(3))
    }
    both = build_scene(inputs(), car(8, 0), detected(car(8.2, 0), 0.87))
    assert (line_set(both, "ground truth").rgb == GROUND_TRUTH_COLOUR).all()
    assert len(line_set(both, "ground truth").rgb) > 13
    assert len(line_set(both, "detections").rgb) == 13
    assert [label.text for label in both.labels] == [".87"]
    assert alone.labels == ()


def test_points_out_of_range_are_left_out_and_only_moving_radar_has_arrows() -> None:
    scene = build_scene(inputs(), None, range_m=20)
    assert {points.name: len(points.xyz_m) for points in scene.points} == {"LiDAR": 2, "radar": 2}
    arrow = line_set(scene, "radar velocity").segments_m
    assert arrow.shape == (3, 2, 3)
    assert arrow[0].tolist() == [[5, 0, 0], [9, 0, 0]]
    lidar = scene.points[0]
    # The older sweep comes first and is darker.
    assert lidar.xyz_m[0].tolist() == [6, 1, 2]
    assert lidar.rgb[0].max() < height_colours(np.array([2.0], dtype=np.float32)).max()


def test_pictures_hold_the_projected_boxes_and_absent_ones_are_none() -> None:
    scene = build_scene(inputs(), car(8, 0), detected(car(8, 0), 0.5))
    assert [picture is None for picture in scene.pictures] == [False] * 5 + [True]
    picture = scene.pictures[0]
    assert picture is not None and picture.name == CAMERAS[0]
    corners, _ = project_points(INTRINSICS, CAMERA_T_EGO, car(8, 0).corners_m()[0])
    drawn = picture.lines[1].segments_px[:12].reshape(-1, 2)
    np.testing.assert_allclose(drawn.min(axis=0), corners.numpy().min(axis=0), atol=1e-3)
    np.testing.assert_allclose(drawn.max(axis=0), corners.numpy().max(axis=0), atol=1e-3)
    ((u, v, text, _),) = picture.labels
    assert (u, text) == (pytest.approx(80), ".50")
    assert v < 45


def test_more_than_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="one sample"):
        build_scene(SensorInputs(None, None, None, torch.zeros(2, 3, dtype=torch.bool)))


def test_without_any_sensor_there_are_still_rings_and_ego() -> None:
    scene = build_scene(SensorInputs(None, None, None, torch.zeros(1, 3, dtype=torch.bool)), car(8, 0))
    assert {lines.name for lines in scene.lines} == {"range rings", "ego", "ground truth"}
    assert scene.pictures == (None,) * 6
