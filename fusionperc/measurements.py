"""What LiDAR and radar measure at a moment: the targets of pretraining, which no annotation tells.

A batch of B samples is asked for H moments each, the key frame's own and later ones; moments are counted sample by
sample, M = B * H. Everything is in the *key frame's* ego frame (augmented like the inputs), whatever the moment: the
ego's motion between them is in where the rays start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusionperc.tensor_record import TensorRecord, check_shape
from fusionperc.types import Boxes, SensorInputs


@dataclass(frozen=True)
class LidarRays(TensorRecord):
    """R rays of one LiDAR sweep per moment.

    Attributes:
        origin_m: (M, 3) where the sensor is.
        direction: (M, R, 3) of length one.
        range_m: (M, R) where each ray ended: infinite where nothing came back, NaN where there is no ray (a moment
            that is not recorded, or a sweep of fewer rays).
    """

    origin_m: Tensor
    direction: Tensor
    range_m: Tensor

    def __post_init__(self) -> None:
        check_shape(self, "range_m", self.range_m, (None, None), floating=True)
        moments, rays = self.range_m.shape
        check_shape(self, "origin_m", self.origin_m, (moments, 3), floating=True)
        check_shape(self, "direction", self.direction, (moments, rays, 3), floating=True)


@dataclass(frozen=True)
class RadarReturns(TensorRecord):
    """Returns of one scan of every radar per moment, ragged.

    Attributes:
        xyz_m: (P, 3).
        line_of_sight: (P, 2) horizontal unit vector from the radar to the return.
        radial_mps: (P,) speed over ground along it, away from the radar.
        moment_index: (P,) int64 in [0, M).
        is_measured: (M,) bool: a moment without any scan is another thing than a scan that saw nothing.
    """

    xyz_m: Tensor
    line_of_sight: Tensor
    radial_mps: Tensor
    moment_index: Tensor
    is_measured: Tensor

    def __post_init__(self) -> None:
        check_shape(self, "xyz_m", self.xyz_m, (None, 3), floating=True)
        count = self.xyz_m.shape[0]
        check_shape(self, "line_of_sight", self.line_of_sight, (count, 2), floating=True)
        check_shape(self, "radial_mps", self.radial_mps, (count,), floating=True)
        check_shape(self, "moment_index", self.moment_index, (count,), floating=False)
        check_shape(self, "is_measured", self.is_measured, (None,), floating=False)


@dataclass(frozen=True)
class Measurements(TensorRecord):
    """What LiDAR and radars measured at H moments of each of B samples.

    Attributes:
        horizon_s: (B, H) how much later than the key frame each moment is; 0 comes first.
        lidar: M = B * H moments.
        radar: the same.
    """

    horizon_s: Tensor
    lidar: LidarRays
    radar: RadarReturns

    def __post_init__(self) -> None:
        check_shape(self, "horizon_s", self.horizon_s, (None, None), floating=True)
        moments = self.horizon_s.numel()
        for name, value in (("lidar.range_m", self.lidar.range_m), ("radar.is_measured", self.radar.is_measured)):
            if value.shape[0] != moments:
                raise ValueError(f"Measurements.{name} has {value.shape[0]} moments, horizon_s {moments}")

    @classmethod
    def collate(cls, items: Sequence[Measurements]) -> Measurements:
        """One record of several samples with equally many moments and rays."""
        moments = [item.horizon_s.numel() for item in items]
        starts = torch.tensor([0, *moments]).cumsum(0).tolist()
        radar = [item.radar for item in items]
        return cls(
            horizon_s=torch.cat([item.horizon_s for item in items]),
            lidar=LidarRays(
                origin_m=torch.cat([item.lidar.origin_m for item in items]),
                direction=torch.cat([item.lidar.direction for item in items]),
                range_m=torch.cat([item.lidar.range_m for item in items]),
            ),
            radar=RadarReturns(
                xyz_m=torch.cat([item.xyz_m for item in radar]),
                line_of_sight=torch.cat([item.line_of_sight for item in radar]),
                radial_mps=torch.cat([item.radial_mps for item in radar]),
                moment_index=torch.cat([r.moment_index + s for r, s in zip(radar, starts[:-1], strict=True)]),
                is_measured=torch.cat([item.is_measured for item in radar]),
            ),
        )


@dataclass(frozen=True)
class Surfaces(TensorRecord):
    """Points of the key frames' LiDAR sweeps above the ground and whether they move, ragged.

    Attributes:
        xyz_m: (P, 3).
        moves: (P,) int8: 1 if another sweep saw through where the point is, 0 if it met something there, -1 if neither
            is known.
        velocity_mps: (P, 2) horizontal, over ground, of moving points; NaN where it is not known.
        sample_index: (P,) int64 in [0, B).
        is_compared: (B,) bool: whether there was another sweep.
    """

    xyz_m: Tensor
    moves: Tensor
    velocity_mps: Tensor
    sample_index: Tensor
    is_compared: Tensor

    def __post_init__(self) -> None:
        check_shape(self, "xyz_m", self.xyz_m, (None, 3), floating=True)
        check_shape(self, "moves", self.moves, (self.xyz_m.shape[0],), floating=False)
        check_shape(self, "velocity_mps", self.velocity_mps, (self.xyz_m.shape[0], 2), floating=True)
        check_shape(self, "sample_index", self.sample_index, (self.xyz_m.shape[0],), floating=False)
        check_shape(self, "is_compared", self.is_compared, (None,), floating=False)

    @classmethod
    def collate(cls, items: Sequence[Surfaces]) -> Surfaces:
        """One record of several."""
        starts = torch.tensor([0, *(len(item.is_compared) for item in items)]).cumsum(0).tolist()
        return cls(
            xyz_m=torch.cat([item.xyz_m for item in items]),
            moves=torch.cat([item.moves for item in items]),
            velocity_mps=torch.cat([item.velocity_mps for item in items]),
            sample_index=torch.cat([i.sample_index + s for i, s in zip(items, starts[:-1], strict=True)]),
            is_compared=torch.cat([item.is_compared for item in items]),
        )


@dataclass(frozen=True)
class UnlabelledBatch(TensorRecord):
    """One step of pretraining: there is no place for a label in it.

    Attributes:
        inputs: what the model sees.
        depth_m: as `types.Targets.depth_m`: what LiDAR says of the pictures.
        measured: what was measured, now and later.
        surfaces: what moves; None if that is not learnt.
        objects: boxes of what moves (`data.moving_objects`), for each sample; None if that is not learnt.
        sample_tokens: nuScenes sample tokens.
    """

    inputs: SensorInputs
    depth_m: Tensor | None
    measured: Measurements
    surfaces: Surfaces | None
    objects: list[Boxes] | None
    sample_tokens: list[str]

    def __post_init__(self) -> None:
        sizes = (self.inputs.batch_size, self.measured.horizon_s.shape[0], len(self.sample_tokens))
        if len(set(sizes)) != 1:
            raise ValueError(f"UnlabelledBatch: inputs, measured and sample_tokens hold {sizes} samples")

    def __len__(self) -> int:
        return self.inputs.batch_size
