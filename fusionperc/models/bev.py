"""Residual convolutions on bird's-eye-view maps, and the pyramid that brings several scales back to one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvNormAct(nn.Sequential):
    """Convolution (same padding), batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Source: He et al., "Deep residual learning" (CVPR 2016), Fig. 2."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, stride=stride)
        self.second = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, bev: Float[Tensor, "batch channels x y"]) -> Float[Tensor, "batch out_channels x y"]:
        return F.relu(self.second(self.first(bev)) + self.shortcut(bev))


def residual_blocks(channels: int, count: int) -> nn.Sequential:
    """`count` blocks that keep the size and the number of channels."""
    return nn.Sequential(*(ResidualBlock(channels, channels) for _ in range(count)))


class ResidualPyramid(nn.Module):
    """A residual network on pillars whose stages are summed on the grid of the first.

    The first stage takes the pillar grid to the cell grid by `reductions` halvings; each further stage halves again.
    Every stage is projected to `out_channels`, enlarged to the first stage's size and added.

    Source: the backbone-and-neck of PointPillars (CVPR 2019), Sec. 2.2, with residual stages as in PillarNet (ECCV
    2022) and a sum where those concatenate.

    Args:
        in_channels: of the pillar map.
        channels: per stage.
        blocks: residual blocks per stage.
        reductions: log2(cell side / pillar side).
        out_channels: of the result.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], blocks: Sequence[int], *, reductions: int, out_channels: int
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width = in_channels
        for number, (stage_channels, count) in enumerate(zip(channels, blocks, strict=True)):
            halvings = reductions if number == 0 else 1
            layers: list[nn.Module] = []
            for _ in range(halvings):
                layers.append(ConvNormAct(width, stage_channels, stride=2))
                width = stage_channels
            if width != stage_channels:
                layers.append(ConvNormAct(width, stage_channels, kernel=1))
                width = stage_channels
            layers.append(residual_blocks(stage_channels, count))
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(nn.Conv2d(stage, out_channels, 1) for stage in channels)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, pillars: Float[Tensor, "batch channels x y"]) -> Float[Tensor, "batch out_channels x_out y_out"]:
        merged: Tensor | None = None
        stage_map = pillars
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            stage_map = stage(stage_map)
            projected = lateral(stage_map)
            merged = projected if merged is None else merged + resize(projected, merged.shape[-2:])
        if merged is None:
            raise ValueError("ResidualPyramid: needs at least one stage")
        return F.relu(self.norm(merged))


def resize(bev: Float[Tensor, "batch channels x y"], size: Sequence[int]) -> Float[Tensor, "batch channels x2 y2"]:
    """Bilinear resizing to (X, Y), cell centres aligned as areas."""
    if tuple(bev.shape[-2:]) == tuple(size):
        return bev
    resized = F.interpolate(bev, size=list(size), mode="bilinear", align_corners=False)
    return resized.contiguous(memory_format=torch.channels_last)
