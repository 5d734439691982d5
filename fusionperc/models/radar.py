"""Radar sweeps to a bird's-eye-view map."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fusionperc.config import ModelConfig
from fusionperc.models.pillars import PillarEncoder
from fusionperc.types import Points

#: Divisors of `types.RADAR_FEATURES`: cross section (dBsm), velocity over ground x and y (m/s), age (s).
FEATURE_SCALE = (20.0, 10.0, 10.0, 0.5)


class RadarEncoder(nn.Module):
    """Six sweeps of five radars (`types.RADAR_FEATURES`) to (B, fusion.channels, X, Y); see `PillarEncoder`.

    Radar measures no height; its points' z is that of the sensor, and its feature is as harmless as it is useless.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pillars = PillarEncoder(
            config.radar, config.grid.grid(), feature_scale=FEATURE_SCALE, out_channels=config.fusion.channels
        )

    def forward(self, points: Points) -> Float[Tensor, "batch channels x y"]:
        return self.pillars(points)  # type: ignore[no-any-return]
