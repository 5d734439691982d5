"""LiDAR sweeps to a bird's-eye-view map."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fusionperc.config import ModelConfig
from fusionperc.models.pillars import PillarEncoder
from fusionperc.types import Points

#: Divisors of `types.LIDAR_FEATURES`: intensity is 0 to 255 in nuScenes, ten sweeps span half a second.
FEATURE_SCALE = (255.0, 0.5)


class LidarEncoder(nn.Module):
    """Ten sweeps with their ages (`types.LIDAR_FEATURES`) to (B, fusion.channels, X, Y); see `PillarEncoder`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pillars = PillarEncoder(
            config.lidar, config.grid.grid(), feature_scale=FEATURE_SCALE, out_channels=config.fusion.channels
        )

    def forward(self, points: Points) -> Float[Tensor, "batch channels x y"]:
        return self.pillars(points)  # type: ignore[no-any-return]
