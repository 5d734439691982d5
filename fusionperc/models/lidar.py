"""LiDAR sweeps to a bird's-eye-view map."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fusionperc.config import ModelConfig
from fusionperc.models.pillars import PillarEncoder
from fusionperc.types import LIDAR_FEATURES, Points

#: Divisors of `LIDAR_FEATURES`: intensity is 0 to 255 in nuScenes, ten sweeps span half a second.
FEATURE_SCALE = (255.0, 0.5)


class LidarEncoder(nn.Module):
    """Ten sweeps with their ages (`LIDAR_FEATURES`) to (B, fusion.channels, X, Y); see `PillarEncoder`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if len(FEATURE_SCALE) != len(LIDAR_FEATURES):
            raise ValueError(f"FEATURE_SCALE must have one entry for each of {LIDAR_FEATURES}")
        self.pillars = PillarEncoder(
            config.lidar, config.grid.grid(), feature_scale=FEATURE_SCALE, out_channels=config.fusion.channels
        )

    def forward(self, points: Points) -> Float[Tensor, "batch channels x y"]:
        return self.pillars(points)  # type: ignore[no-any-return]
