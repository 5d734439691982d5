"""The network: encoders of camera, radar and LiDAR into one bird's-eye view, fusion, detection, planning.

images -> camera encoder -> depth distribution -> bev_pool -> camera BEV --+
LiDAR sweeps -> voxelize -> pillar encoder -----------------> LiDAR BEV ---+-> fusion transformer -> detection head
radar sweeps -> voxelize -> pillar encoder -----------------> radar BEV ---+            |             |  agents
                                                                                        +-> planning head <- ego inputs
"""

# No `from __future__ import annotations` here: PyTorchModelHubMixin finds the decoder of `config` by the class in the
# annotation of `__init__`, which must not be a string.
from dataclasses import dataclass
from typing import Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from fusionperc.config import ModelConfig
from fusionperc.models.detection import PRIOR_LOGIT, DetectionHead, DetectionOutput, decode
from fusionperc.models.encoder import BevEncoder
from fusionperc.models.planning import PlanningHead, PlanningOutput
from fusionperc.types import CLASSES, Detections, EgoInputs, Sensor, SensorInputs


@dataclass(frozen=True)
class FusionPercOutput:
    """What the network predicts.

    Attributes:
        detection: boxes.
        depth_logits: (B, N, D, H / 16, W / 16) of the camera encoder, zero for absent pictures; None without pictures.
        sensor_heatmap_logits: for each sensor present in the batch, what a light head finds in its map alone,
            (B, 10, X, Y). A loss on it keeps every sensor learning though another is easier.
        planning: plans, agents' futures and the drivable area; None without a planning head or without `EgoInputs`.
    """

    detection: DetectionOutput
    depth_logits: Tensor | None
    sensor_heatmap_logits: dict[Sensor, Tensor]
    planning: PlanningOutput | None = None


def _encode_config(config: ModelConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _decode_config(data: dict[str, Any]) -> ModelConfig:
    """A saved model brings all its weights: the backbone's must neither be installed nor downloaded again."""
    return ModelConfig.model_validate({**data, "camera": {**data["camera"], "weights": "none"}})


class FusionPerc(BevEncoder, PyTorchModelHubMixin, coders={ModelConfig: (_encode_config, _decode_config)}):
    """Detects objects, and plans where to go, from any subset of camera, radar and LiDAR.

    `save_pretrained` writes safetensors and config.json, `from_pretrained` reads them.

    Args:
        config: the architecture; sensors it does not name have no encoder, and their inputs are ignored.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        channels = config.fusion.channels
        heatmaps: dict[str, nn.Module] = {s: nn.Conv2d(channels, len(CLASSES), 1) for s in config.sensor_names}
        self.sensor_heatmaps = nn.ModuleDict(heatmaps)
        self.detection = DetectionHead(config.detection, config.grid.grid(), channels)
        self.planning = (
            None
            if config.planning is None
            else PlanningHead(config.planning, config.grid.grid(), channels, config.detection.channels)
        )
        for head in self.sensor_heatmaps.values():
            nn.init.constant_(cast(Tensor, head.bias), PRIOR_LOGIT)
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs: SensorInputs, ego: EgoInputs | None = None) -> FusionPercOutput:
        """Runs the network on whatever sensors are there; it plans if it is told where to go.

        `ego` may hold several variants of the batch, one behind the other: G * B samples are then planned.

        Raises:
            ValueError: no sample has any sensor that this model takes.
        """
        bev = self.encode(inputs)
        detection = self.detection(bev.fused)
        planning = None
        if self.planning is not None and ego is not None:
            odometry = inputs.only(tuple(bev.sensors)).odometry()
            planning = self.planning(bev.fused, detection, ego, odometry)
        return FusionPercOutput(
            detection=detection,
            depth_logits=bev.depth_logits,
            sensor_heatmap_logits={s: self.sensor_heatmaps[s](own).float() for s, own in bev.sensors.items()},
            planning=planning,
        )

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> "FusionPerc":
        """Refuses weights of another architecture, which the mixin's default would load in part."""
        return super()._from_pretrained(strict=strict, **kwargs)  # type: ignore[no-any-return]

    @torch.no_grad()
    def detect(self, inputs: SensorInputs) -> list[Detections]:
        """The detections of each sample above the configured score, best first; call `eval()` before."""
        return decode(self(inputs).detection, self.config.detection.score_threshold)
