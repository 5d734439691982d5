"""From sensors to one bird's-eye view: what pretraining and fine-tuning share.

images -> camera encoder -> depth distribution -> bev_pool -> camera BEV --+
LiDAR sweeps -> voxelize -> pillar encoder -----------------> LiDAR BEV ---+-> fusion transformer -> fused BEV
radar sweeps -> voxelize -> pillar encoder -----------------> radar BEV ---+
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from fusionperc.config import ModelConfig
from fusionperc.models.camera import CameraEncoder
from fusionperc.models.fusion import FusionTransformer
from fusionperc.models.lidar import LidarEncoder
from fusionperc.models.radar import RadarEncoder
from fusionperc.types import SENSORS, CameraInputs, Points, Sensor, SensorInputs

#: What the names of this part's weights begin with.
ENCODER_PARTS = ("camera.", "radar.", "lidar.", "fusion.")


@dataclass(frozen=True)
class BevFeatures:
    """The bird's-eye view of a batch.

    Attributes:
        fused: (B, C, X, Y).
        sensors: (B, C, X, Y) of each sensor present in the batch, before fusion; zero for samples without it.
        present: (B,) bool of each of `SENSORS`.
        depth_logits: (B, N, D, H / 16, W / 16) of the camera encoder, zero for absent pictures; None without pictures.
    """

    fused: Tensor
    sensors: dict[Sensor, Tensor]
    present: dict[Sensor, Tensor]
    depth_logits: Tensor | None


class BevEncoder(nn.Module):
    """Encoders of the configured sensors, and their fusion.

    Args:
        config: sensors it does not name have no encoder, and their inputs are ignored.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        sensors = config.sensor_names
        self.camera = CameraEncoder(config) if "camera" in sensors else None
        self.radar = RadarEncoder(config) if "radar" in sensors else None
        self.lidar = LidarEncoder(config) if "lidar" in sensors else None
        self.fusion = FusionTransformer(config.fusion)

    def encode(self, inputs: SensorInputs) -> BevFeatures:
        """The bird's-eye view of whatever sensors are there.

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
        return BevFeatures(self.fusion(bevs, present), bevs, present, depth_logits)


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
