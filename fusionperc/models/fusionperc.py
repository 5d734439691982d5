"""The network: encoders of camera, radar and LiDAR into one bird's-eye view, fusion, detection, planning.

images -> camera encoder -> depth distribution -> bev_pool -> camera BEV --+
LiDAR sweeps -> voxelize -> pillar encoder -----------------> LiDAR BEV ---+-> fusion transformer -> detection head
radar sweeps -> voxelize -> pillar encoder -----------------> radar BEV ---+            |             |  agents
                                                                                        +-> planning head <- ego inputs
"""

# No `from __future__ import annotations` here: PyTorchModelHubMixin finds the decoder of `config` by the class in the
# annotation of `__init__`, which must not be a string.
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from fusionperc.config import ModelConfig
from fusionperc.models.camera import CameraEncoder
from fusionperc.models.detection import PRIOR_LOGIT, DetectionHead, DetectionOutput, decode
from fusionperc.models.fusion import FusionTransformer
from fusionperc.models.lidar import LidarEncoder
from fusionperc.models.planning import PlanningHead, PlanningOutput
from fusionperc.models.radar import RadarEncoder
from fusionperc.types import CLASSES, SENSORS, CameraInputs, Detections, EgoInputs, Points, Sensor, SensorInputs


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


class FusionPerc(nn.Module, PyTorchModelHubMixin, coders={ModelConfig: (_encode_config, _decode_config)}):
    """Detects objects, and plans where to go, from any subset of camera, radar and LiDAR.

    `save_pretrained` writes safetensors and config.json, `from_pretrained` reads them.

    Args:
        config: the architecture; sensors it does not name have no encoder, and their inputs are ignored.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        sensors, channels = config.sensor_names, config.fusion.channels
        self.camera = CameraEncoder(config) if "camera" in sensors else None
        self.radar = RadarEncoder(config) if "radar" in sensors else None
        self.lidar = LidarEncoder(config) if "lidar" in sensors else None
        self.sensor_heatmaps = nn.ModuleDict({sensor: nn.Conv2d(channels, len(CLASSES), 1) for sensor in sensors})
        self.fusion = FusionTransformer(config.fusion)
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
        present = {sensor: inputs.present[:, column] for column, sensor in enumerate(SENSORS)}
        bevs: dict[Sensor, Tensor] = {}
        depth_logits: Tensor | None = None

        if self.camera is not None and (cameras := _present_cameras(inputs.cameras, present)) is not None:
            camera_features = self.camera(cameras)
            bevs["camera"], depth_logits = camera_features.bev, camera_features.depth_logits
        if self.radar is not None and inputs.radar is not None and bool(present["radar"].any()):
            bevs["radar"] = _encode_present(self.radar, inputs.radar, present["radar"])
        if self.lidar is not None and inputs.lidar is not None and bool(present["lidar"].any()):
            bevs["lidar"] = _encode_present(self.lidar, inputs.lidar, present["lidar"])
        if not bevs:
            raise ValueError(f"no sensor: the model takes {self.config.sensors}, the inputs hold none of these")

        fused = self.fusion(bevs, present)
        detection = self.detection(fused)
        planning = None
        if self.planning is not None and ego is not None:
            lidar = inputs.lidar if "lidar" in bevs else None
            sweeps = None if lidar is None else self.planning.near.counts(lidar)
            planning = self.planning(fused, detection, ego, sweeps)
        return FusionPercOutput(
            detection=detection,
            depth_logits=depth_logits,
            sensor_heatmap_logits={s: self.sensor_heatmaps[s](bev).float() for s, bev in bevs.items()},
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


def _present_cameras(cameras: CameraInputs | None, present: dict[Sensor, Tensor]) -> CameraInputs | None:
    """The pictures, those of samples without cameras marked absent; None if none is left.

    A sample whose camera sensor is present but all of whose pictures are missing has no camera either.
    """
    if cameras is None:
        return None
    pictures = cameras.present & present["camera"][:, None]
    present["camera"] = pictures.any(1)
    return replace(cameras, present=pictures) if bool(pictures.any()) else None


def _encode_present(encoder: nn.Module, points: Points, present: Tensor) -> Tensor:
    """Encodes the samples that have the sensor, so that the others do not touch batch statistics; theirs are zero."""
    if bool(present.all()):
        return encoder(points)  # type: ignore[no-any-return]
    new_index = present.long().cumsum(0) - 1
    kept = present[points.sample_index]
    bev = encoder(
        Points(points.xyz_m[kept], points.features[kept], new_index[points.sample_index[kept]], int(present.sum()))
    )
    everywhere: Tensor = bev.new_zeros(len(present), *bev.shape[1:])
    return everywhere.index_copy(0, present.nonzero().squeeze(1), bev)
