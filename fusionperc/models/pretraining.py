"""The network while it is pretrained: the encoder that detection and planning build on, and what it learns from.

                    +-> reconstruction head -> rays and radar returns, now and later
sensors -> encoder -+-> fused map ----------> what moves? what do pictures show there?
                    +-> dense head ---------> boxes of what moves
                    +-> each sensor's map --> embeddings of cells, alike for all sensors: do these belong together?
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fusionperc.config import ModelConfig, PretrainingConfig
from fusionperc.geometry import BevGrid
from fusionperc.models.bev import ConvNormAct
from fusionperc.models.detection import DenseHead, DensePredictions
from fusionperc.models.encoder import BevEncoder, BevFeatures
from fusionperc.models.reconstruction import Reconstruction, ReconstructionHead
from fusionperc.types import Sensor, SensorInputs

#: Untrained, so few cells hold something that moves (logit).
_MOTION_LOGIT = -5.0
_VELOCITY_MPS = 5.0


@dataclass(frozen=True)
class CellMotion:
    """Motion of what is in the cells of a grid.

    Attributes:
        grid: of these cells: the fused map's, or some along a side of its cells.
        logits: (B, X', Y') whether it moves.
        velocity_mps: (B, 2, X', Y') over ground, if it does.
    """

    grid: BevGrid
    logits: Tensor
    velocity_mps: Tensor


@dataclass(frozen=True)
class PretrainingOutput:
    """What the objectives look at.

    Attributes:
        features: of the encoder.
        reconstruction: None if nothing is to be reconstructed.
        embeddings: (B, D, X, Y) of length one for each sensor present in the batch; none without contrast and matching.
        match_logits: (B, X, Y) for every two of these sensors: whether what they show there is of one moment and one
            calibration. The mean over cells is a sample's answer. None without matching.
        motion: of what is in the cells; None if that is not learnt.
        objects: heatmaps and boxes of what moves; None if that is not learnt.
        pictured: (B, R, D) what a picture network would see at the places asked about; None if that is not learnt.
    """

    features: BevFeatures
    reconstruction: Reconstruction | None
    embeddings: dict[Sensor, Tensor]
    match_logits: dict[tuple[Sensor, Sensor], Tensor] | None
    motion: CellMotion | None
    objects: DensePredictions | None
    pictured: Tensor | None


class FusionPercPretraining(BevEncoder):
    """`BevEncoder` with the heads of those objectives whose weight is not zero.

    Args:
        config: the architecture.
        pretraining: which objectives there are.
    """

    def __init__(self, config: ModelConfig, pretraining: PretrainingConfig) -> None:
        super().__init__(config)
        self.pretraining = pretraining
        channels, grid = config.fusion.channels, config.grid.grid()
        reconstructs = pretraining.likelihood > 0 or pretraining.prediction > 0
        self.reconstruction = ReconstructionHead(pretraining, grid, channels) if reconstructs else None
        each: dict[str, nn.Module] = {
            s: Embedding(channels, pretraining.contrast_channels) for s in config.sensor_names
        }
        self.embeddings = nn.ModuleDict(each if pretraining.contrast > 0 or pretraining.wants_matching else {})
        self.matching = MatchingHead(pretraining.temperature) if pretraining.wants_matching else None
        self.motion = MotionHead(channels, grid, pretraining.voxels_per_cell) if pretraining.motion > 0 else None
        self.objects = DenseHead(grid, channels, config.detection.channels) if pretraining.objects > 0 else None
        seen = 0 if self.camera is None or not pretraining.wants_pictures else self.camera.backbone.feature_channels[0]
        self.pictured = PicturedHead(channels, grid, seen) if seen else None
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        inputs: SensorInputs,
        horizon_s: Float[Tensor, "batch horizons"],
        places_m: Float[Tensor, "batch places 3"] | None = None,
    ) -> PretrainingOutput:
        """Encodes whatever sensors are there and runs the heads.

        Args:
            inputs: what is left of the sensors.
            horizon_s: moments to be reconstructed, after the key frame.
            places_m: where pictures are asked about; they are seen by that head alone.

        Raises:
            ValueError: no sample has any sensor that this model takes.
        """
        features = self.encode(inputs)
        embeddings = {s: self.embeddings[s](bev) for s, bev in features.sensors.items() if s in self.embeddings}
        return PretrainingOutput(
            features=features,
            reconstruction=None if self.reconstruction is None else self.reconstruction(features.fused, horizon_s),
            embeddings=embeddings,
            match_logits=None if self.matching is None else self.matching(embeddings),
            motion=None if self.motion is None else self.motion(features.fused),
            objects=None if self.objects is None else self.objects(features.fused),
            pictured=None if self.pictured is None or places_m is None else self.pictured(features.fused, places_m),
        )


class Embedding(nn.Module):
    """Cells of one sensor's map as vectors of length one. Source: CLIP (Radford et al., ICML 2021); SimCLR's head."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(ConvNormAct(channels, channels), nn.Conv2d(channels, out_channels, 1))

    def forward(self, bev: Float[Tensor, "batch channels x y"]) -> Float[Tensor, "batch out x y"]:
        return F.normalize(self.project(bev).float(), dim=1)


class MatchingHead(nn.Module):
    """For each cell: does what two sensors show there belong together?

    Source: the question is UNITER's (image-text matching, ECCV 2020), the answer SigLIP's (ICCV 2023): how alike two
    embeddings are, scaled and shifted. Asked of the fused map, as a whole or cell by cell, it was not learnt.

    Args:
        temperature: one over the scale at first.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(
        self, embeddings: dict[Sensor, Float[Tensor, "batch channels x y"]]
    ) -> dict[tuple[Sensor, Sensor], Float[Tensor, "batch x y"]]:
        return {
            (one, other): self.log_scale.exp() * (embeddings[one] * embeddings[other]).sum(1) + self.shift
            for one, other in combinations(embeddings, 2)
        }


class MotionHead(nn.Module):
    """For each cell, or for `finer` along a cell's side: does what is there move, and how fast?"""

    def __init__(self, channels: int, grid: BevGrid, finer: int) -> None:
        super().__init__()
        self.grid, self.finer = replace(grid, cell_m=grid.cell_m / finer), finer
        self.look = ConvNormAct(channels, channels)
        self.moves = nn.Conv2d(channels, finer**2, 1)
        self.velocity = nn.Conv2d(channels, 2 * finer**2, 1)
        assert self.moves.bias is not None
        nn.init.constant_(self.moves.bias, _MOTION_LOGIT)

    def forward(self, fused: Float[Tensor, "batch channels x y"]) -> CellMotion:
        seen = self.look(fused)
        return CellMotion(
            grid=self.grid,
            logits=F.pixel_shuffle(self.moves(seen), self.finer).squeeze(1).float(),
            velocity_mps=F.pixel_shuffle(self.velocity(seen), self.finer).float() * _VELOCITY_MPS,
        )


class PicturedHead(nn.Module):
    """The fused map at places in space as features of a picture network there.

    Source: the idea of SLidR (Sautier et al., CVPR 2022), features of a picture network as targets for LiDAR; here for
    the fused map of what is left of all sensors.
    """

    def __init__(self, channels: int, grid: BevGrid, out_channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.read = nn.Sequential(
            nn.Linear(channels + 3, 2 * channels), nn.ReLU(inplace=True), nn.Linear(2 * channels, out_channels)
        )

    def forward(
        self, fused: Float[Tensor, "batch channels x y"], places_m: Float[Tensor, "batch places 3"]
    ) -> Float[Tensor, "batch places out"]:
        grid = self.grid
        x = (places_m[..., 0] - grid.x_min_m) / (grid.x_max_m - grid.x_min_m) * 2 - 1
        y = (places_m[..., 1] - grid.y_min_m) / (grid.y_max_m - grid.y_min_m) * 2 - 1
        at = torch.stack([y, x], -1)[:, :, None]
        cells = F.grid_sample(fused.float(), at, padding_mode="border", align_corners=False)[..., 0].transpose(1, 2)
        height = places_m[..., 2:]
        return self.read(torch.cat([cells, height, height.sin(), height.cos()], -1)).float()  # type: ignore[no-any-return]
