"""The encoder LiDAR and radar share: points to pillars to a bird's-eye-view map.

Source: Lang et al., "PointPillars" (CVPR 2019): per-point features with offsets to the pillar's mean and centre, one
linear-norm-ReLU layer, the maximum over the pillar. Deviations: no cap on points or pillars, and the batch norm over
points is folded into the linear layer (see `LinearBatchNorm`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fusionperc.config import PillarEncoderConfig
from fusionperc.geometry import BevGrid
from fusionperc.models.bev import ResidualPyramid
from fusionperc.ops.voxelize import Voxels, reduce_voxels, scatter_to_bev, voxelize
from fusionperc.types import Points


class LinearBatchNorm(nn.Module):
    """A linear layer and batch norm over rows, as one affine map.

    Mean and variance of W f follow exactly from those of f: W mean(f) and diag(W cov(f) W^T). So normalising costs a
    covariance of a few columns instead of passes over all rows times all channels, forward and backward. Valid where
    no gradient flows to the input (raw point features).
    """

    def __init__(self, in_features: int, out_features: int, *, eps: float = 1e-3, momentum: float = 0.05) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.scale = nn.Parameter(torch.ones(out_features))
        self.shift = nn.Parameter(torch.zeros(out_features))
        self.running_mean: Tensor
        self.running_covariance: Tensor
        self.register_buffer("running_mean", torch.zeros(in_features))
        self.register_buffer("running_covariance", torch.eye(in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, rows: Float[Tensor, "points features"]) -> Float[Tensor, "points channels"]:
        mean, covariance = self.running_mean, self.running_covariance
        if self.training and rows.shape[0] > 1:
            mean = rows.mean(0)
            centred = rows - mean
            covariance = centred.T @ centred / rows.shape[0]
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_covariance.lerp_(covariance, self.momentum)
        variance = ((self.weight @ covariance) * self.weight).sum(1)
        folded = self.weight * (self.scale * torch.rsqrt(variance.clamp_min(0) + self.eps))[:, None]
        return F.linear(rows, folded, self.shift - folded @ mean)


class PillarEncoder(nn.Module):
    """Points of one kind of sensor to a map (B, out_channels, X, Y) on `grid`.

    Args:
        config: pillar side, channels, blocks.
        grid: the cell grid of the result.
        feature_scale: divides each column of the points' features, so that all are of order one.
        out_channels: channels of the result.
    """

    def __init__(
        self, config: PillarEncoderConfig, grid: BevGrid, *, feature_scale: tuple[float, ...], out_channels: int
    ) -> None:
        super().__init__()
        self.pillar_grid = grid.with_cell(config.pillar_m)
        self.feature_scale: Tensor
        self.register_buffer("feature_scale", torch.tensor(feature_scale), persistent=False)
        # 3 offsets to the pillar's mean, 2 to its centre, 1 height, 2 position in the grid, and the sensor's own.
        self.point_net = LinearBatchNorm(8 + len(feature_scale), config.point_channels)
        self.backbone = ResidualPyramid(
            config.point_channels,
            config.channels,
            config.blocks,
            reductions=round(math.log2(grid.cell_m / config.pillar_m)),
            out_channels=out_channels,
        )

    def forward(self, points: Points) -> Float[Tensor, "batch channels x y"]:
        """Encodes a batch of points; a sample without points gives the map of an empty scene.

        Raises:
            ValueError: the points have another number of features than this sensor.
        """
        if points.features.shape[1] != self.feature_scale.shape[0]:
            raise ValueError(
                f"Points.features has {points.features.shape[1]} columns, this encoder takes {len(self.feature_scale)}"
            )
        # Positions need float32: in bfloat16 a point at 50 m would move by up to 13 cm.
        with torch.autocast(points.xyz_m.device.type, enabled=False):
            pillars = voxelize(points, self.pillar_grid)
            rows = self.point_net(self._point_features(points, pillars))
            # ReLU is monotone: after the maximum it costs a tenth.
            bev = scatter_to_bev(F.relu(reduce_voxels(rows, pillars, "max")), pillars)
        return self.backbone(bev)  # type: ignore[no-any-return]

    def _point_features(self, points: Points, pillars: Voxels) -> Float[Tensor, "points features"]:
        """One row per point inside the grid, sorted by pillar; everything of order one."""
        xyz = points.xyz_m.index_select(0, pillars.point_index)
        own = points.features.index_select(0, pillars.point_index) / self.feature_scale
        mean = reduce_voxels(xyz, pillars, "mean")
        grid = self.pillar_grid
        of_pillar = torch.cat([mean, pillars.centers_m()[:, :2]], dim=1).index_select(0, pillars.voxel_of_point)
        to_mean = (xyz - of_pillar[:, :3]) / grid.cell_m
        to_center = (xyz[:, :2] - of_pillar[:, 3:]) / grid.cell_m
        position = xyz[:, :2] / max(grid.x_max_m, grid.y_max_m)
        return torch.cat([to_mean, to_center, xyz[:, 2:], position, own.nan_to_num()], dim=1)
