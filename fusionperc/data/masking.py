"""What is hidden from the network while it is pretrained, and samples put together of what does not belong together.

Source: MAE (CVPR 2022) for hiding most of a sample; BEV-MAE (2212.05758) for hiding the ground in squares; UNITER
(ECCV 2020) for samples that do not match. Deviates: the same squares for LiDAR and radar, so that neither tells the
other's, and wrong calibrations beside wrong moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from fusionperc.config import PretrainingConfig
from fusionperc.data.sensor_dropout import drop_sensors
from fusionperc.geometry import BevGrid, rigid, rotation_from_yaw, transform_points
from fusionperc.types import LIDAR_FEATURES, SENSORS, CameraInputs, Points, Sensor, SensorInputs

#: Hidden pixels get ImageNet's mean colour, which the encoder's normalisation takes to zero.
_GREY = (124, 116, 104)
#: How wrong a wrong calibration is: turned by degrees from .. to, shifted by up to metres.
_TURNED_DEG, _SHIFTED_M = (3.0, 15.0), 1.5
#: Points of the key frame's LiDAR sweep are younger than this; the sweep before it is 0.05 s older.
_ONE_SWEEP_S = 0.03


@dataclass(frozen=True)
class Masked:
    """What is left of a batch.

    Attributes:
        inputs: of the sensors.
        hidden: (B, X, Y) bool: cells without their LiDAR, all where there is none.
        is_whole: (B,) bool: samples of whose ground and pictures nothing is hidden.
        has_past: (B,) bool: samples in which motion can be seen; of the others a single moment is left.
    """

    inputs: SensorInputs
    hidden: Tensor
    is_whole: Tensor
    has_past: Tensor


def mask_inputs(inputs: SensorInputs, config: PretrainingConfig, grid: BevGrid, generator: torch.Generator) -> Masked:
    """Hides squares of the ground from LiDAR and radar, and patches of pictures; in some samples nothing of these; in
    some all that tells of motion; and in some batches whole sensors.

    Args:
        inputs: a batch.
        config: shares and sizes.
        grid: on which hidden cells are told.
        generator: of all that is random.
    """
    given, has_past = hide_past(drop_sensors(inputs, config.mask_sensor, generator), config.mask_past, generator)
    batch, device = given.batch_size, given.present.device
    is_whole = (torch.rand(batch, generator=generator) < config.whole).to(device)
    luck = _block_luck(batch, grid, config.mask_block_m, generator).to(device)
    # Luck is below one: nothing is hidden where it is one.
    luck = torch.where(is_whole[:, None, None], 1.0, luck)
    lidar, radar, cameras = given.lidar, given.radar, given.cameras
    hidden = luck < config.mask_lidar
    if lidar is not None:
        lidar = _without(lidar, hidden, grid)
    if radar is not None:
        radar = _without(radar, luck < config.mask_radar, grid)
    if cameras is not None and config.mask_camera > 0:
        patched = mask_patches(cameras.images, config, generator)
        cameras = replace(cameras, images=torch.where(is_whole[:, None, None, None, None], cameras.images, patched))
    has_lidar = given.present[:, SENSORS.index("lidar")]
    kept = SensorInputs(cameras=cameras, radar=radar, lidar=lidar, present=given.present)
    return Masked(kept, hidden | ~has_lidar[:, None, None], is_whole, has_past)


def hide_past(
    inputs: SensorInputs, share: float, generator: torch.Generator
) -> tuple[SensorInputs, Bool[Tensor, " batch"]]:
    """Takes radar, which measures motion, and all but the newest LiDAR sweep from a share of the samples.

    Samples of radar alone keep it. Returns the batch, and which samples still have all that they had.
    """
    luck = torch.rand(inputs.batch_size, generator=generator).to(inputs.present.device)
    radar_column = SENSORS.index("radar")
    others = inputs.present.sum(1) - inputs.present[:, radar_column].long()
    has_past = (luck >= share) | (others == 0)
    present = inputs.present.clone()
    present[:, radar_column] &= has_past
    radar, lidar = inputs.radar, inputs.lidar
    if radar is not None:
        radar = _kept(radar, has_past[radar.sample_index])
    if lidar is not None:
        is_newest = lidar.features[:, LIDAR_FEATURES.index("time_delta_s")].abs() < _ONE_SWEEP_S
        lidar = _kept(lidar, has_past[lidar.sample_index] | is_newest)
    return SensorInputs(cameras=inputs.cameras, radar=radar, lidar=lidar, present=present), has_past


def _block_luck(batch: int, grid: BevGrid, block_m: float, generator: torch.Generator) -> Tensor:
    """(B, X, Y) one number in [0, 1) for each square of the ground; their corner is random, too."""
    side = max(1, round(block_m / grid.cell_m))
    size_x, size_y = grid.shape
    blocks = torch.rand(batch, math.ceil(size_x / side) + 1, math.ceil(size_y / side) + 1, generator=generator)
    shift_x, shift_y = torch.randint(side, (2,), generator=generator).tolist()
    cells = blocks.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return cells[:, shift_x : shift_x + size_x, shift_y : shift_y + size_y]


def _without(points: Points, hidden: Bool[Tensor, "batch x y"], grid: BevGrid) -> Points:
    at, inside = grid.cell_indices(points.xyz_m)
    return _kept(points, inside & ~hidden[points.sample_index, at[:, 0], at[:, 1]])


def _kept(points: Points, kept: Bool[Tensor, " points"]) -> Points:
    return Points(points.xyz_m[kept], points.features[kept], points.sample_index[kept], points.batch_size)


def mask_patches(images: Tensor, config: PretrainingConfig, generator: torch.Generator) -> Tensor:
    """Pictures (B, N, 3, H, W) with a share of their square patches grey."""
    batch, cameras, _, height, width = images.shape
    side = config.mask_patch_px
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    luck = torch.rand(batch, cameras, 1, rows, columns, generator=generator).to(images.device)
    hidden = (luck < config.mask_camera).repeat_interleave(side, 3).repeat_interleave(side, 4)[..., :height, :width]
    grey = torch.tensor(_GREY, dtype=images.dtype, device=images.device)[:, None, None]
    return torch.where(hidden, grey, images)


def mismatch(
    inputs: SensorInputs, share: float, generator: torch.Generator
) -> tuple[SensorInputs, Bool[Tensor, "batch sensors"]]:
    """Puts a share of the samples wrongly together; returns the batch, and which sensor of which sample is wrong.

    In a wrong sample one sensor is another sample's, or, as often and wherever there is no other sample, is turned and
    shifted against the rest. Batches of a single sensor stay as they are.
    """
    batch, device = inputs.batch_size, inputs.present.device
    is_wrong = torch.zeros(batch, len(SENSORS), dtype=torch.bool, device=device)
    available = [s for column, s in enumerate(SENSORS) if bool(inputs.present[:, column].any())]
    if len(available) < 2 or share == 0:
        return inputs, is_wrong
    sensor = available[int(torch.randint(len(available), (1,), generator=generator))]
    column = SENSORS.index(sensor)
    itself = torch.arange(batch, device=device)
    wrong = (torch.rand(batch, generator=generator) < share).to(device)
    # A sample that does not have the sensor, or nothing else, cannot have a wrong one.
    wrong &= inputs.present[:, column] & (inputs.present.sum(1) > 1)
    swaps = (torch.rand(batch, generator=generator) < 0.5).to(device) & inputs.present[itself - 1, column] & (batch > 1)
    source = torch.where(wrong & swaps, (itself - 1) % batch, itself)
    calibrations = wrong_calibrations(batch, generator).to(device)
    moved = torch.where((wrong & ~swaps)[:, None, None], calibrations, torch.eye(4, device=device))
    is_wrong[:, column] = wrong
    return with_taken(inputs, sensor, source, moved), is_wrong


def wrong_calibrations(batch: int, generator: torch.Generator) -> Tensor:
    """(B, 4, 4) rigid motions of the ground plane that no calibration is off by unnoticed."""
    low, high = (math.radians(value) for value in _TURNED_DEG)
    size, sign, x, y = torch.rand(4, batch, generator=generator)
    yaw = (low + (high - low) * size) * torch.where(sign < 0.5, -1.0, 1.0)
    shift = torch.stack([2 * x - 1, 2 * y - 1, torch.zeros_like(x)], 1) * _SHIFTED_M
    return rigid(rotation_from_yaw(yaw), shift)


def with_taken(inputs: SensorInputs, sensor: Sensor, source: Tensor, moved: Tensor) -> SensorInputs:
    """A batch with one sensor's data taken from its samples `source` (B,), then moved by (B, 4, 4)."""
    match sensor:
        case "camera":
            cameras = inputs.cameras
            assert cameras is not None
            taken = CameraInputs(
                cameras.images[source],
                cameras.intrinsics[source],
                cameras.camera_T_ego[source] @ torch.linalg.inv(moved)[:, None],
                cameras.present[source],
            )
            return replace(inputs, cameras=taken)
        case "radar":
            assert inputs.radar is not None
            return replace(inputs, radar=_taken(inputs.radar, source, moved, velocity=slice(1, 3)))
        case "lidar":
            assert inputs.lidar is not None
            return replace(inputs, lidar=_taken(inputs.lidar, source, moved, velocity=None))


def _taken(points: Points, source: Tensor, moved: Tensor, *, velocity: slice | None) -> Points:
    samples = []
    for number, matrix in zip(source.tolist(), moved, strict=True):
        own = points.of_sample(number)
        features = own.features
        if velocity is not None:
            features = features.clone()
            features[:, velocity] = features[:, velocity] @ matrix[:2, :2].T
        samples.append(Points(transform_points(matrix, own.xyz_m), features, own.sample_index, 1))
    whole = Points.collate(samples)
    return replace(whole, sample_index=whole.sample_index.to(points.sample_index.device))
