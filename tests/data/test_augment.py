"""Augmentation folds into the sample without changing what is true: cameras, boxes, points and plan stay together."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusionperc.config import AugmentationConfig, DataConfig
from fusionperc.data.augment import (
    DEPTH_STRIDE,
    Augmentation,
    apply,
    depth_targets,
    draw,
    jitter_colours,
    moved_odometry,
)
from fusionperc.data.nuscenes import NuScenesDrives, Sample
from fusionperc.geometry import points_in_boxes, project_points, rotation_from_yaw, transform_points, wrap_angle
from fusionperc.types import COMMANDS, RADAR_FEATURES, Batch, Odometry

IMAGE_SIZE = (64, 160)
STRONG = AugmentationConfig(flip_x=True, flip_y=True, rotation_rad=1.0, scale=(0.8, 1.25), image_zoom=(0.9, 1.3))
SEEDS = range(5)


def read(root: Path, augmentation: Augmentation, index: int = 3) -> Sample:
    drives = NuScenesDrives(root, "v1.0-mini", "all", config=DataConfig())
    return drives.read(index, augmentation.crops(IMAGE_SIZE))


def both(root: Path, seed: int) -> tuple[Augmentation, Sample, Batch]:
    """A draw, the sample read for it, and the augmented batch."""
    augmentation = draw(STRONG, np.random.default_rng(seed))
    sample = read(root, augmentation)
    return augmentation, sample, apply(sample, augmentation)


@pytest.mark.parametrize("seed", SEEDS)
def test_box_corners_project_to_the_same_pixels(written_folder: Path, seed: int) -> None:
    """Corners as a set: a mirrored box is the same box with its left and right corners swapped."""
    augmentation, sample, batch = both(written_folder, seed)
    cameras = batch.inputs.cameras
    assert cameras is not None
    before, after = sample.boxes.corners_m(), batch.targets.boxes[0].corners_m()
    if augmentation.is_mirrored:
        after = after[:, [3, 2, 1, 0, 7, 6, 5, 4]]
    torch.testing.assert_close(
        transform_points(augmentation.augmented_T_ego.float(), before.flatten(0, 1)), after.flatten(0, 1),
        atol=1e-4, rtol=0,
    )  # fmt: skip
    compared = 0
    for camera in range(6):
        old = project_points(sample.intrinsics[camera], sample.camera_T_ego[camera], before.flatten(0, 1))
        new = project_points(cameras.intrinsics[0, camera], cameras.camera_T_ego[0, camera], after.flatten(0, 1))
        is_ahead = old[1] > 2
        torch.testing.assert_close(old[0][is_ahead], new[0][is_ahead], atol=0.05, rtol=0)
        torch.testing.assert_close(old[1][is_ahead], new[1][is_ahead], atol=1e-3, rtol=0, msg="depth stays in metres")
        compared += int(is_ahead.sum())
    assert compared >= 16
    determinant = torch.linalg.det(cameras.camera_T_ego[0, :, :3, :3])
    assert bool(((determinant < 0) == augmentation.is_mirrored).all())


def test_mirrored_samples_teach_no_headings_where_they_are_not_to(written_folder: Path) -> None:
    config = STRONG.model_copy(update={"mirrored_headings": False})
    seen = set()
    for seed in range(12):
        plain, kept = (draw(which, np.random.default_rng(seed)) for which in (STRONG, config))
        assert torch.equal(plain.augmented_T_ego, kept.augmented_T_ego) and kept.lidar_seed == plain.lidar_seed
        sample = read(written_folder, plain)
        before, after = (apply(sample, one).targets.boxes[0] for one in (plain, kept))
        assert len(after) > 0
        if plain.is_mirrored:
            assert bool(after.yaw_rad.isnan().all())
        else:
            assert torch.equal(after.yaw_rad, before.yaw_rad)
        assert torch.equal(after.center_m, before.center_m) and torch.equal(after.size_lwh_m, before.size_lwh_m)
        seen.add(plain.is_mirrored)
    assert seen == {False, True}


def test_all_four_mirrorings_are_drawn() -> None:
    draws = [draw(STRONG, np.random.default_rng(seed)) for seed in range(40)]
    share = sum(augmentation.is_mirrored for augmentation in draws) / len(draws)
    assert 0.2 < share < 0.8
    assert all(0.8 <= augmentation.scale <= 1.25 for augmentation in draws)
    assert not any(draw(AugmentationConfig(flip_y=False), np.random.default_rng(s)).is_mirrored for s in SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_picture_zoom_moves_points_with_the_picture(written_folder: Path, seed: int) -> None:
    """Intrinsics of the crop are those of the whole picture after the crop's own map."""
    augmentation, sample, _ = both(written_folder, seed)
    plain = NuScenesDrives(written_folder, "v1.0-mini", "all", config=DataConfig()).read(3)
    for camera, crop in enumerate(augmentation.crops(IMAGE_SIZE)):
        scale, left, top = crop.scale_and_origin((90, 160))
        pixel = torch.tensor([80.0, 50.0, 1.0])
        ray = torch.linalg.inv(plain.intrinsics[camera]) @ pixel
        moved = sample.intrinsics[camera] @ ray
        torch.testing.assert_close(moved[:2], torch.tensor([80 * scale - left, 50 * scale - top]), atol=1e-3, rtol=0)
        # The pictures of the folder are ramps from left to right: their brightness tells the original column.
        column = int(moved[0])
        if 2 < column < IMAGE_SIZE[1] - 2:
            brightness = float(sample.images[camera, 0, -8:, column].float().mean())
            original = (column + 0.5 + left) / scale - 0.5
            assert brightness == pytest.approx(original * 255 / 159, abs=3)


@pytest.mark.parametrize("seed", SEEDS)
def test_points_stay_in_their_boxes_and_velocities_turn(written_folder: Path, seed: int) -> None:
    augmentation, sample, batch = both(written_folder, seed)
    lidar, radar, boxes = batch.inputs.lidar, batch.inputs.radar, batch.targets.boxes[0]
    assert lidar is not None and radar is not None and sample.lidar is not None and sample.radar is not None
    generator = torch.Generator().manual_seed(seed)
    local = torch.rand(200, 3, generator=generator) * 8 - 4
    points = sample.boxes.center_m[0] + local
    yaw_only = [rotation_from_yaw(yaw) for yaw in (sample.boxes.yaw_rad, boxes.yaw_rad)]
    before = points_in_boxes(points, sample.boxes.center_m, sample.boxes.size_lwh_m, yaw_only[0])
    moved = transform_points(augmentation.augmented_T_ego.float(), points)
    after = points_in_boxes(moved, boxes.center_m, boxes.size_lwh_m * (1 + 1e-6), yaw_only[1])
    assert torch.equal(before, after) and before.any()

    # Everything that moves by v for a second ends where the moved velocity takes it.
    matrix = augmentation.augmented_T_ego.float()
    columns = slice(RADAR_FEATURES.index("vx_mps"), RADAR_FEATURES.index("vy_mps") + 1)
    velocity = torch.nn.functional.pad(sample.radar.features[:, columns], (0, 1))
    end = transform_points(matrix, sample.radar.xyz_m + velocity)
    expected = radar.xyz_m + torch.nn.functional.pad(radar.features[:, columns], (0, 1))
    torch.testing.assert_close(end, expected, atol=1e-3, rtol=0)
    assert torch.equal(radar.features[:, [0, 3]], sample.radar.features[:, [0, 3]])
    assert torch.equal(lidar.features, sample.lidar.features)


@pytest.mark.parametrize(("flips", "swaps"), [((1, 1), False), ((1, -1), True), ((-1, 1), True), ((-1, -1), False)])
def test_what_the_ego_does_follows_the_mirror(written_folder: Path, flips: tuple[int, int], swaps: bool) -> None:
    none = Augmentation.none()
    sample = read(written_folder, none, index=2)  # the last sample with 3 s of recorded future
    assert sample.command == COMMANDS.index("left")
    matrix = torch.diag(torch.tensor([*flips, 1.0, 1.0], dtype=torch.float64))
    batch = apply(sample, replace(none, augmented_T_ego=matrix))
    targets = batch.targets
    assert COMMANDS[int(targets.command)] == ("right" if swaps else "left")
    future = sample.ego_future_m[:6]
    torch.testing.assert_close(targets.ego_future_m[0, :6, :2], future[:, :2] * torch.tensor(flips))
    heading = targets.ego_future_m[0, :6, 2]
    expected = torch.atan2(flips[1] * future[:, 2].sin(), flips[0] * future[:, 2].cos())
    torch.testing.assert_close(wrap_angle(heading - expected), torch.zeros(6), atol=1e-6, rtol=0)
    sign = -1 if swaps else 1
    torch.testing.assert_close(targets.can_bus[0], sample.can_bus * torch.tensor([1, 1, sign, sign]))
    odometry = Odometry(torch.tensor([[5.0, -1.0, 0.2]]), torch.tensor([[[-2.5, 0.4, -0.1]]]))
    moved = moved_odometry(odometry, replace(none, augmented_T_ego=matrix))
    torch.testing.assert_close(moved.motion, odometry.motion * torch.tensor([1, 1, sign]))
    # In the vehicle's own axes a world that is mirrored from front to back is mirrored from left to right.
    torch.testing.assert_close(moved.past_m, odometry.past_m * torch.tensor([1, sign, sign]))
    assert torch.isnan(targets.ego_past_m[0, 0]).all() == torch.isnan(sample.ego_past_m[0]).all()


def test_none_changes_nothing(written_folder: Path) -> None:
    for none in (Augmentation.none(), draw(AugmentationConfig.none(), np.random.default_rng(0))):
        sample = read(written_folder, none)
        batch = apply(sample, none)
        cameras, lidar = batch.inputs.cameras, batch.inputs.lidar
        assert cameras is not None and lidar is not None and sample.lidar is not None
        assert torch.equal(cameras.images[0], sample.images)
        assert torch.equal(cameras.camera_T_ego[0], sample.camera_T_ego)
        assert torch.equal(lidar.xyz_m, sample.lidar.xyz_m)
        torch.testing.assert_close(batch.targets.boxes[0].center_m, sample.boxes.center_m)


def test_lidar_gain_and_dropout(written_folder: Path) -> None:
    config = AugmentationConfig.none().model_copy(update={"lidar_gain": 2.0, "lidar_dropout": 0.5})
    augmentation = draw(config, np.random.default_rng(4))
    assert 0.5 <= augmentation.lidar_gain <= 2 and 0.5 <= augmentation.lidar_keep < 1
    sample = read(written_folder, augmentation)
    lidar = apply(sample, augmentation).inputs.lidar
    assert lidar is not None and sample.lidar is not None
    share = len(lidar.xyz_m) / len(sample.lidar.xyz_m)
    assert share == pytest.approx(augmentation.lidar_keep, abs=0.05)
    whole = apply(sample, replace(augmentation, lidar_keep=1.0)).inputs.lidar
    assert whole is not None
    expected = (sample.lidar.features[:, 0] * augmentation.lidar_gain).clamp(max=1)
    torch.testing.assert_close(whole.features[:, 0], expected)
    torch.testing.assert_close(whole.features[:, 1:], sample.lidar.features[:, 1:])


def test_the_same_generator_state_draws_the_same() -> None:
    first, second = (draw(STRONG, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first.augmented_T_ego, second.augmented_T_ego) and first.zoom == second.zoom
    assert not torch.equal(first.augmented_T_ego, draw(STRONG, np.random.default_rng(6)).augmented_T_ego)


def test_depth_targets_are_the_nearest_of_each_cell() -> None:
    forward = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[100.0, 0, 80], [0, 100, 32], [0, 0, 1]])
    points = torch.tensor(
        [[10.0, 0.1, 0.1], [5.0, 0.05, 0.05], [20.0, 4.0, 0.0], [-5.0, 0, 0], [0.2, 0, 0], [9, 50, 0]]
    )
    depth = depth_targets(points, intrinsics[None], forward[None], IMAGE_SIZE)
    expected = torch.zeros(1, IMAGE_SIZE[0] // DEPTH_STRIDE, IMAGE_SIZE[1] // DEPTH_STRIDE)
    expected[0, 1, 4] = 5.0  # u = v = 79, 31: the nearer of two
    expected[0, 2, 3] = 20.0  # u = 60, v = 32: a cell is half-open
    torch.testing.assert_close(depth, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_targets_do_not_depend_on_the_augmentation_of_space(written_folder: Path, seed: int) -> None:
    drawn = draw(STRONG, np.random.default_rng(seed))
    sample = read(written_folder, drawn)
    still = replace(drawn, augmented_T_ego=torch.eye(4, dtype=torch.float64))
    moved, plain = (apply(sample, augmentation).targets.depth_m for augmentation in (drawn, still))
    assert moved is not None and plain is not None and int((plain > 0).sum()) > 10
    # A point on the edge between two cells may change sides by rounding.
    assert int((~torch.isclose(moved, plain, atol=1e-3)).sum()) <= 2


def test_absent_sensors_stay_absent(written_folder: Path) -> None:
    drives = NuScenesDrives(written_folder, "v1.0-mini", "all", config=DataConfig())
    drawn = draw(STRONG, np.random.default_rng(0))
    batch = apply(drives.read(3, drawn.crops(IMAGE_SIZE), ("radar",)), drawn)
    assert batch.inputs.present.tolist() == [[False, True, False]]
    assert batch.inputs.cameras is None and batch.inputs.lidar is None and batch.targets.depth_m is None


def test_colour_jitter_is_brightness_contrast_saturation() -> None:
    image = torch.tensor([[[[100, 50]], [[50, 50]], [[20, 50]]]], dtype=torch.uint8)
    assert torch.equal(jitter_colours(image, torch.ones(1, 3)), image)
    assert torch.equal(jitter_colours(image, torch.tensor([[2.0, 1, 1]])), image * 2)
    grey = jitter_colours(image, torch.tensor([[1.0, 1, 0]]))
    luma = round(0.299 * 100 + 0.587 * 50 + 0.114 * 20)
    assert grey[0, :, 0, 0].tolist() == [luma] * 3 and grey[0, :, 0, 1].tolist() == [50] * 3
    flat = jitter_colours(image, torch.tensor([[1.0, 0, 1]]))
    mean = (0.299 * 100 + 0.587 * 50 + 0.114 * 20 + 50) / 2
    assert flat.unique().tolist() == [round(mean)]
    assert jitter_colours(image, torch.tensor([[9.0, 1, 1]])).max() == 255
    assert math.isclose(float(image.float().mean()), 53.3333, abs_tol=0.01), "the input is left as it was"
