"""The drivable area, read off the fused map.

Source: VAD (arXiv 2303.12077) and UniAD (arXiv 2212.10156) for a map that is learnt beside planning; deviates: cells of
a drivable area, not lanes, from a small hourglass as in U-Net (arXiv 1505.04597) that sums where that concatenates.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fusionperc.models.bev import ConvNormAct, ResidualBlock

_CHANNELS = 48


class RoadMap(nn.Module):
    """Whether cells can be driven on: (B, C, X, Y) to logits (B, 1, X, Y).

    A cell alone does not tell, road is what lies between kerbs: it is looked for at an eighth of the resolution, too.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.shrink = ConvNormAct(in_channels, _CHANNELS, stride=2)
        self.wide = nn.Sequential(
            ConvNormAct(_CHANNELS, _CHANNELS, stride=2),
            ResidualBlock(_CHANNELS, _CHANNELS),
            ConvNormAct(_CHANNELS, _CHANNELS, stride=2),
            ResidualBlock(_CHANNELS, _CHANNELS),
        )
        self.read = nn.Sequential(ConvNormAct(_CHANNELS, _CHANNELS), nn.Conv2d(_CHANNELS, 1, 1))
        self.fine = nn.Conv2d(in_channels, 1, 1)

    def forward(self, bev: Float[Tensor, "batch channels x y"]) -> Float[Tensor, "batch 1 x y"]:
        half = self.shrink(bev)
        logits: Tensor = self.read(half + _enlarged(self.wide(half), half))
        return _enlarged(logits, bev) + self.fine(bev)  # type: ignore[no-any-return]


def _enlarged(bev: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(bev, size=other.shape[-2:], mode="bilinear", align_corners=False)
