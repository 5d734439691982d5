"""The reconstruction head: from the fused bird's-eye view, what LiDAR and radars measure now and in a few seconds.

The view is lifted to a volume of densities (per metre). A ray goes on through it with probability exp(-density *
length), so it ends in each of its bins with a probability that follows from all it passes: a categorical distribution
over where it ends, of which 'beyond the volume' is one outcome. The volume of a later moment is given in the key
frame's frame, in which what stands still stays.

Source: the ray distribution is that of volume rendering (Mildenhall et al., "NeRF", ECCV 2020, eq. 3), used for LiDAR
from bird's-eye views by Khurana et al., "Point cloud forecasting as a proxy for 4D occupancy forecasting" (CVPR 2023)
and ViDAR (Yang et al., CVPR 2024). Deviates: all horizons from one pass and a horizon embedding, not autoregressively.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fusionperc.config import PretrainingConfig
from fusionperc.geometry import BevGrid, VoxelGrid
from fusionperc.models.bev import ConvNormAct, ResidualBlock, resize

#: A horizon is told in units of this, by sines of so many octaves.
_HORIZON_S, _OCTAVES = 4.0, 3
#: An untrained volume has softplus of this many per metre: rays get some twenty metres far.
_DENSITY_LOGIT = -3.0
#: Untrained, so many cells have a radar return (logit).
_RADAR_LOGIT = -4.0
_VELOCITY_MPS = 5.0
#: Optical depths below this are as good as none; their logarithm stays finite.
_LEAST_DEPTH = 1e-6


@dataclass(frozen=True)
class Reconstruction:
    """What is expected to be measured at M = B * H moments.

    Attributes:
        volume: the grid of the densities.
        density: (M, Z, X', Y') per metre, not negative; layers from z_min_m up, some voxels along a cell's side.
        radar_logits: (M, X, Y) whether a scan of the radars returns anything from the cell.
        velocity_mps: (M, 2, X, Y) velocity over ground of what returns.
        doppler_log_scale: (M, X, Y) logarithm of the spread of its radial part (Laplace), m/s.
    """

    volume: VoxelGrid
    density: Tensor
    radar_logits: Tensor
    velocity_mps: Tensor
    doppler_log_scale: Tensor


class ReconstructionHead(nn.Module):
    """(B, C, X, Y) and (B, H) horizons to a `Reconstruction`.

    Args:
        config: height of a layer, bins of a ray.
        grid: of the fused map.
        channels: of the fused map.
    """

    def __init__(self, config: PretrainingConfig, grid: BevGrid, channels: int) -> None:
        super().__init__()
        self.finer = config.voxels_per_cell
        self.volume = VoxelGrid(
            grid.x_min_m, grid.x_max_m, grid.y_min_m, grid.y_max_m, grid.z_min_m, grid.z_max_m,
            grid.cell_m / self.finer, config.layer_m,
        )  # fmt: skip
        self.shared = ConvNormAct(channels, channels)
        self.horizon = nn.Linear(1 + 2 * _OCTAVES, 2 * channels)
        self.near = ResidualBlock(channels, channels)
        # What moves is metres away after seconds: two halvings let a cell look that far.
        self.far = nn.Sequential(
            ConvNormAct(channels, 2 * channels, stride=2),
            ConvNormAct(2 * channels, 2 * channels, stride=2),
            ResidualBlock(2 * channels, 2 * channels),
            ConvNormAct(2 * channels, channels, kernel=1),
        )
        self.merged = ResidualBlock(channels, channels)
        self.density = nn.Conv2d(channels, self.volume.layers * self.finer**2, 1)
        self.radar = nn.Conv2d(channels, 4, 1)
        for head, bias in ((self.density, _DENSITY_LOGIT), (self.radar, 0.0)):
            assert head.bias is not None
            nn.init.constant_(head.bias, bias)
        assert self.radar.bias is not None
        nn.init.constant_(self.radar.bias[0], _RADAR_LOGIT)

    def forward(
        self, fused: Float[Tensor, "batch channels x y"], horizon_s: Float[Tensor, "batch horizons"]
    ) -> Reconstruction:
        shared = self.shared(fused)
        scale, shift = self.horizon(_told(horizon_s)).flatten(0, 1)[..., None, None].chunk(2, 1)
        moments = shared.repeat_interleave(horizon_s.shape[1], 0) * (1 + scale) + shift
        near = self.near(moments)
        merged = self.merged(near + resize(self.far(near), near.shape[-2:]))
        density = F.pixel_shuffle(self.density(merged), self.finer).float()
        radar, velocity, spread = self.radar(merged).float().split([1, 2, 1], 1)
        return Reconstruction(
            volume=self.volume,
            density=F.softplus(density),
            radar_logits=radar.squeeze(1),
            velocity_mps=velocity * _VELOCITY_MPS,
            doppler_log_scale=spread.squeeze(1),
        )


def _told(horizon_s: Float[Tensor, "batch horizons"]) -> Float[Tensor, "batch horizons features"]:
    scaled = horizon_s[..., None] / _HORIZON_S
    angle = scaled * math.pi * 2.0 ** torch.arange(_OCTAVES, device=horizon_s.device)
    return torch.cat([scaled, angle.sin(), angle.cos()], -1)


@dataclass(frozen=True)
class RayDistribution:
    """Where rays end: K bins of equal length from the sensor on, or beyond them.

    Attributes:
        log_probability: (M, R, K) of ending in each bin.
        log_beyond: (M, R) of getting further than the last bin, or out of the volume.
        is_inside: (M, R, K) whether the bin's centre lies in the volume: a ray cannot end in the others.
        bin_m: length of a bin.
    """

    log_probability: Tensor
    log_beyond: Tensor
    is_inside: Tensor
    bin_m: float

    def outcome(self, range_m: Float[Tensor, "moments rays"]) -> Int[Tensor, "moments rays"]:
        """The bin of measured ranges; K, beyond, for infinite ones (and NaN) and such outside the volume."""
        bins = self.is_inside.shape[-1]
        measured = torch.nan_to_num(range_m, nan=torch.inf, posinf=1e9)
        index = torch.floor(measured / self.bin_m).clamp(max=bins).long()
        ends_inside = self.is_inside.gather(-1, index.clamp(max=bins - 1)[..., None]).squeeze(-1)
        return torch.where(ends_inside, index, bins)

    def negative_log_likelihood(self, range_m: Float[Tensor, "moments rays"]) -> Float[Tensor, "moments rays"]:
        """In nats, of measured ranges. NaN stays NaN."""
        each = torch.cat([self.log_probability, self.log_beyond[..., None]], -1)
        nats = -each.gather(-1, self.outcome(range_m)[..., None]).squeeze(-1)
        return torch.where(range_m.isnan(), range_m, nats)

    def median_m(self) -> Float[Tensor, "moments rays"]:
        """The range that half of the rays get past; infinite where more than half get beyond."""
        reached = self.log_probability.exp().cumsum(-1) >= 0.5
        first = reached.float().argmax(-1)
        return torch.where(reached.any(-1), (first + 0.5) * self.bin_m, torch.inf)


def ray_distribution(
    density: Float[Tensor, "moments z x y"],
    volume: VoxelGrid,
    origin_m: Float[Tensor, "moments 3"],
    direction: Float[Tensor, "moments rays 3"],
    bins: int,
    bin_m: float,
) -> RayDistribution:
    """Follows rays through volumes of densities, read by trilinear interpolation at the centres of the rays' bins.

    Args:
        density: per metre, on `volume`; nothing is outside.
        volume: the grid.
        origin_m, direction: as `measurements.LidarRays`.
        bins, bin_m: number and length of the bins.
    """
    with torch.autocast(density.device.type, enabled=False):
        along_m = (torch.arange(bins, device=density.device) + 0.5) * bin_m
        places = origin_m[:, None, None] + direction[:, :, None] * along_m[:, None]
        low = places.new_tensor([volume.x_min_m, volume.y_min_m, volume.z_min_m])
        high = places.new_tensor([volume.x_max_m, volume.y_max_m, volume.z_max_m])
        scaled = (places - low) / (high - low) * 2 - 1
        is_inside = (scaled.abs() < 1).all(-1)
        # grid_sample counts (width, height, depth), here (y, x, z).
        at = scaled[..., [1, 0, 2]][:, :, None]
        # Borders are held: the outer half of an outermost voxel is as dense as its centre.
        read = F.grid_sample(density.float()[:, None], at, padding_mode="border", align_corners=False)
        return ray_outcomes(read[:, 0, :, 0], is_inside, bin_m)


def ray_outcomes(
    density: Float[Tensor, "moments rays bins"], is_inside: Bool[Tensor, "moments rays bins"], bin_m: float
) -> RayDistribution:
    """Where rays end that pass these densities (per metre), bin after bin."""
    depth = density * bin_m * is_inside
    passed = depth.cumsum(-1)
    ending = torch.log(-torch.expm1(-depth.clamp(min=_LEAST_DEPTH)))
    return RayDistribution(ending - (passed - depth), -passed[..., -1], is_inside, bin_m)
