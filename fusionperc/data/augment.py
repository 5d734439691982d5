"""Random augmentation of a sample, folded into what the sample already carries.

Space (points, boxes, velocities, the ego's trajectory) goes through one matrix `augmented_T_ego`: mirrored, turned
and scaled about the ego. Pictures are never mirrored or turned: `camera_T_ego` takes the inverse of that matrix, so it
carries the reflection (its determinant is negative then) and the scale, and still maps augmented ego coordinates to
*real* metres in the camera. Depth targets are therefore real metres along the optical axis, whatever the scale, and a
lift-splat that inverts the whole affine matrix lands in augmented space. A picture's zoom and crop are in its
intrinsics.

Source: BEVDet, arXiv 2112.11790 (the two separate augmentations of pictures and of space), CenterPoint, arXiv
2006.11275 (ranges of the augmentation of space).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fusionperc.config import AugmentationConfig
from fusionperc.data.pictures import PictureCrop
from fusionperc.data.sample import Sample
from fusionperc.geometry import project_points, rigid, rotation_from_yaw, transform_points, wrap_angle
from fusionperc.types import (
    CAMERAS,
    COMMANDS,
    MOTION_COLUMNS,
    Batch,
    Boxes,
    CameraInputs,
    Odometry,
    Points,
    SensorInputs,
    Targets,
)

#: Side of a cell of the depth targets, px: the stride of the camera features.
DEPTH_STRIDE = 16
#: LiDAR points nearer to a camera's plane than this are no depth target.
_NEAREST_DEPTH_M = 0.5
#: Luma weights of ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """One draw.

    Attributes:
        augmented_T_ego: (4, 4) float64: mirrored, turned about z, uniformly scaled; determinant < 0 if mirrored.
        zoom, shift: (N,) per camera, as in `pictures.PictureCrop`.
        colour: (N, 3) factors of brightness, contrast and saturation.
        lidar_gain: factor of LiDAR intensities.
        lidar_keep: chance of each LiDAR point to stay, and `lidar_seed`, which draws them.
        teaches_headings: whether the yaw of boxes is kept.
    """

    augmented_T_ego: Tensor
    zoom: tuple[float, ...]
    shift: tuple[float, ...]
    colour: Tensor
    lidar_gain: float = 1.0
    lidar_keep: float = 1.0
    lidar_seed: int = 0
    teaches_headings: bool = True

    @classmethod
    def none(cls) -> Augmentation:
        """Changes nothing: pictures fit the width and keep the bottom."""
        count = len(CAMERAS)
        return cls(torch.eye(4, dtype=torch.float64), (1.0,) * count, (0.0,) * count, torch.ones(count, 3))

    def crops(self, image_size: tuple[int, int]) -> list[PictureCrop]:
        """How each camera's picture is to be read."""
        return [PictureCrop(image_size, zoom, shift) for zoom, shift in zip(self.zoom, self.shift, strict=True)]

    @property
    def is_mirrored(self) -> bool:
        return bool(self.augmented_T_ego[:3, :3].det() < 0)

    @property
    def scale(self) -> float:
        return float(self.augmented_T_ego[:3, :3].det().abs() ** (1 / 3))


def draw(config: AugmentationConfig, generator: np.random.Generator) -> Augmentation:
    """An augmentation within the ranges of `config`, a pure function of the generator's state."""
    flips = generator.random(2) < 0.5
    signs = torch.ones(3, dtype=torch.float64)
    signs[0] = -1.0 if config.flip_x and flips[0] else 1.0
    signs[1] = -1.0 if config.flip_y and flips[1] else 1.0
    yaw = torch.tensor(generator.uniform(-config.rotation_rad, config.rotation_rad), dtype=torch.float64)
    linear = rotation_from_yaw(yaw) @ torch.diag(signs) * generator.uniform(*config.scale)
    count = len(CAMERAS)
    zoom = generator.uniform(*config.image_zoom, size=count)
    # With nothing to cut or to fill there is no shift either; a zoom range of one value means a centred crop.
    is_fixed = config.image_zoom[0] == config.image_zoom[1]
    shift = np.zeros(count) if is_fixed else generator.uniform(-1, 1, size=count)
    colour = generator.uniform(1 - config.image_colour, 1 + config.image_colour, size=(count, 3))
    return Augmentation(
        rigid(linear, torch.zeros(3, dtype=torch.float64)),
        tuple(zoom.tolist()),
        tuple(shift.tolist()),
        torch.from_numpy(colour).float(),
        lidar_gain=float(config.lidar_gain ** generator.uniform(-1, 1)),
        lidar_keep=1.0 - config.lidar_dropout * generator.random(),
        lidar_seed=int(generator.integers(2**31)),
        teaches_headings=config.mirrored_headings or bool(signs.prod() > 0),
    )


def apply(sample: Sample, augmentation: Augmentation) -> Batch:
    """The augmented sample as a batch of one.

    Args:
        sample: read with `augmentation.crops(image_size)`, so that zoom and crop are in its intrinsics already.
        augmentation: what to do.
    """
    matrix = augmentation.augmented_T_ego
    camera_T_ego = (sample.camera_T_ego.double() @ torch.linalg.inv(matrix)).float()
    lidar = _thinned(_moved_points(sample.lidar, matrix, velocity=None), augmentation)
    has_camera = bool(sample.present[0])
    cameras = None
    if has_camera:
        images = jitter_colours(sample.images, augmentation.colour)
        batched = (value[None] for value in (images, sample.intrinsics, camera_T_ego, sample.camera_present))
        cameras = CameraInputs(*batched)
    depth_m = None
    if has_camera and sample.lidar is not None:
        height, width = sample.images.shape[-2:]
        whole = transform_points(matrix.float(), sample.lidar.xyz_m[: sample.num_keyframe_points])
        depth_m = depth_targets(whole, sample.intrinsics, camera_T_ego, (height, width))
        depth_m = (depth_m * sample.camera_present[:, None, None])[None]
    radar = _moved_points(sample.radar, matrix, velocity=slice(1, 3))
    inputs = SensorInputs(cameras, radar, lidar, sample.present[None])
    targets = Targets(
        boxes=[moved_boxes(sample.boxes, augmentation)],
        num_points=[sample.num_points],
        depth_m=depth_m,
        ego_past_m=moved_trajectory(sample.ego_past_m, matrix)[None],
        ego_future_m=moved_trajectory(sample.ego_future_m, matrix)[None],
        command=torch.tensor([_moved_command(sample.command, augmentation.is_mirrored)]),
        can_bus=(sample.can_bus * _status_factors(augmentation))[None],
        is_labelled=torch.tensor([sample.is_labelled]),
    )
    return Batch(inputs, targets, [sample.token])


def moved_boxes(boxes: Boxes, augmentation: Augmentation) -> Boxes:
    """The boxes in the augmented frame."""
    moved = boxes.moved(augmentation.augmented_T_ego)
    return moved if augmentation.teaches_headings else replace(moved, yaw_rad=torch.full_like(moved.yaw_rad, torch.nan))


def depth_targets(
    xyz_m: Float[Tensor, "points 3"],
    intrinsics: Float[Tensor, "cameras 3 3"],
    camera_T_ego: Float[Tensor, "cameras 4 4"],
    image_size: tuple[int, int],
    stride: int = DEPTH_STRIDE,
) -> Float[Tensor, "cameras rows columns"]:
    """Depth along the optical axis of the nearest point in each cell of `stride` x `stride` px; 0 where none is.

    Source: BEVDepth, arXiv 2206.10092, section 4.1 (minimum pooling of projected LiDAR depth).
    """
    rows, columns = image_size[0] // stride, image_size[1] // stride
    cameras = len(intrinsics)
    points = xyz_m.expand(cameras, -1, -1)
    pixel, depth = project_points(intrinsics, camera_T_ego, points, min_depth_m=_NEAREST_DEPTH_M)
    cell = torch.floor(pixel / stride)
    # Comparisons with NaN (behind the camera) are false.
    inside = (cell[..., 0] >= 0) & (cell[..., 0] < columns) & (cell[..., 1] >= 0) & (cell[..., 1] < rows)
    camera, point = torch.nonzero(inside, as_tuple=True)
    u, v = cell[camera, point].long().unbind(-1)
    nearest = xyz_m.new_full((cameras * rows * columns,), float("inf"))
    nearest.scatter_reduce_(0, (camera * rows + v) * columns + u, depth[camera, point], "amin")
    return torch.where(torch.isinf(nearest), torch.zeros_like(nearest), nearest).view(cameras, rows, columns)


def jitter_colours(
    images: UInt8[Tensor, "cameras 3 height width"], colour: Float[Tensor, "cameras 3"]
) -> UInt8[Tensor, "cameras 3 height width"]:
    """Scales brightness, then contrast about the picture's mean grey, then saturation.

    All three are linear in colour, so they are one 3x3 matrix and an offset per picture.
    """
    if bool((colour == 1).all()):
        return images
    brightness, contrast, saturation = (colour[:, place, None, None] for place in range(3))
    values = images.flatten(2).float()
    luma = torch.tensor(_LUMA)
    mean_grey = (luma @ values.mean(-1).T)[:, None, None] * brightness
    mix = saturation * torch.eye(3) + (1 - saturation) * luma.expand(3, 3)
    mixed = torch.baddbmm(mean_grey * (1 - contrast), contrast * brightness * mix, values)
    return mixed.round_().clamp_(0, 255).to(torch.uint8).view_as(images)


def _moved_points(points: Points | None, matrix: Tensor, *, velocity: slice | None) -> Points | None:
    if points is None:
        return None
    matrix = matrix.float()
    features = points.features
    if velocity is not None:
        features = features.clone()
        features[:, velocity] = features[:, velocity] @ matrix[:2, :2].T
    return Points(transform_points(matrix, points.xyz_m), features, points.sample_index, points.batch_size)


def _thinned(points: Points | None, augmentation: Augmentation) -> Points | None:
    """LiDAR points with other intensities and some of them missing: in both, one LiDAR is not like another."""
    if points is None or (augmentation.lidar_gain == 1.0 and augmentation.lidar_keep == 1.0):
        return points
    features = points.features.clone()
    features[:, 0] = (features[:, 0] * augmentation.lidar_gain).clamp(max=1.0)
    if augmentation.lidar_keep == 1.0:
        return Points(points.xyz_m, features, points.sample_index, points.batch_size)
    chance = torch.rand(len(features), generator=torch.Generator().manual_seed(augmentation.lidar_seed))
    kept = chance < augmentation.lidar_keep
    return Points(points.xyz_m[kept], features[kept], points.sample_index[kept], points.batch_size)


def moved_trajectory(trajectory_m: Float[Tensor, "*shape 3"], matrix: Tensor) -> Float[Tensor, "*shape 3"]:
    """x, y, yaw: the heading turns and mirrors with space."""
    linear = matrix[:2, :2].to(trajectory_m.dtype)
    heading = rotation_from_yaw(trajectory_m[..., 2])[..., :2, 0] @ linear.T
    yaw = wrap_angle(torch.atan2(heading[..., 1], heading[..., 0]))
    return torch.cat([trajectory_m[..., :2] @ linear.T, yaw[..., None]], dim=-1)


def _moved_command(command: int, is_mirrored: bool) -> int:
    """Left is right in a mirrored world, whichever axis was mirrored."""
    if not is_mirrored or command < 0:
        return command
    swapped = {"left": "right", "right": "left", "straight": "straight"}
    return COMMANDS.index(swapped[COMMANDS[command]])


def moved_odometry(odometry: Odometry, augmentation: Augmentation) -> Odometry:
    """The same in the augmented world; turning it changes nothing."""
    sign, scale = (-1.0 if augmentation.is_mirrored else 1.0), augmentation.scale
    return Odometry(
        odometry.motion * _status_factors(augmentation)[MOTION_COLUMNS],
        odometry.past_m * torch.tensor([scale, scale * sign, sign]),
    )


def _status_factors(augmentation: Augmentation) -> Tensor:
    """(4,) of `EGO_STATUS`: in a mirrored world what is lateral or turns changes sign; lengths scale."""
    sign, scale = (-1.0 if augmentation.is_mirrored else 1.0), augmentation.scale
    return torch.tensor([scale, scale, scale * sign, sign])
