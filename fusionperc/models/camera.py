"""Pictures to a bird's-eye-view map: backbone, depth distribution, lift-splat.

Source: Li et al., "BEVDepth" (AAAI 2023): depth is a categorical distribution supervised by projected LiDAR, and the
depth network is told the camera's intrinsics. Deviations: the gate is fed with normalised intrinsics only (extrinsics
enter through geometry), and the depth net is two convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from fusionperc.config import CameraEncoderConfig, ModelConfig
from fusionperc.models.bev import ConvNormAct, residual_blocks, resize
from fusionperc.models.efficientnet_lite import EfficientNetLite0, imagenet_weights
from fusionperc.ops.bev_pool import FrustumRanks, bev_pool, frustum_ranks
from fusionperc.types import CameraInputs

#: Picture pixels per feature pixel.
FEATURE_STRIDE_PX = 16


class StagedBackbone(nn.Module):
    """A classifier of torchvision, cut where its stride reaches 16 and 32."""

    pixel_mean = (123.675, 116.28, 103.53)
    pixel_std = (58.395, 57.12, 57.375)

    def __init__(self, to_stride_16: nn.Module, to_stride_32: nn.Module, feature_channels: tuple[int, int]) -> None:
        super().__init__()
        self.to_stride_16, self.to_stride_32 = to_stride_16, to_stride_32
        self.feature_channels = feature_channels

    def features(self, images: Tensor) -> list[Tensor]:
        stride_16: Tensor = self.to_stride_16(images)
        return [stride_16, self.to_stride_32(stride_16)]


#: Pictures, normalised by `pixel_mean` and `pixel_std` (RGB, 0 to 255), to feature maps at strides 16 and 32.
Backbone = EfficientNetLite0 | StagedBackbone


def make_backbone(config: CameraEncoderConfig) -> Backbone:
    """The backbone `config` names, with its weights, without the classifier.

    Raises:
        FileNotFoundError: the weights are not installed, cannot be downloaded, or the file is missing.
        ValueError: the file holds no weights of this backbone.
    """
    model: nn.Module
    match config.backbone:
        case "efficientnet_lite0":
            model = EfficientNetLite0()
        case "resnet18":
            model = torchvision.models.resnet18()
        case "resnet50":
            model = torchvision.models.resnet50()
        case "convnext_tiny":
            model = torchvision.models.convnext_tiny()
    if config.weights != "none":
        _load(model, config)
    match model:
        case EfficientNetLite0():
            # Unused for features; keeping them would leave parameters without gradient.
            del model.head, model.classifier
            return model
        case torchvision.models.ResNet():
            stem = (model.conv1, model.bn1, model.relu, model.maxpool)
            narrow = 256 if config.backbone == "resnet18" else 1024
            first = nn.Sequential(*stem, model.layer1, model.layer2, model.layer3)
            return StagedBackbone(first, model.layer4, (narrow, 2 * narrow))
        case _:
            stages = cast(nn.Sequential, model.features)
            return StagedBackbone(stages[:6], stages[6:], (384, 768))


def _load(model: nn.Module, config: CameraEncoderConfig) -> None:
    remedy = "set model.camera.weights to none or to a file with the state dict"
    if config.weights == "imagenet" and isinstance(model, EfficientNetLite0):
        state = imagenet_weights()
    elif config.weights == "imagenet":
        try:
            weights = torchvision.models.get_model_weights(config.backbone)["DEFAULT"]
            state = weights.get_state_dict(progress=False)
        except (OSError, RuntimeError) as error:  # no network, or a broken download
            raise FileNotFoundError(
                f"model.camera.weights = imagenet: cannot fetch {config.backbone} ({_one_line(error)}); {remedy}"
            ) from None
    else:
        path = Path(config.weights)
        if not path.is_file():
            raise FileNotFoundError(f"model.camera.weights = {path}: no such file; {remedy}")
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch.load raises anything from pickle's errors to RuntimeError
            raise ValueError(
                f"model.camera.weights = {path}: no readable state dict ({_one_line(error)}); {remedy}"
            ) from None
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"model.camera.weights = {config.weights}: not of {config.backbone} ({_one_line(error)}); {remedy}"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


@dataclass(frozen=True)
class CameraFeatures:
    """Attributes: bev (B, C, X, Y); depth_logits (B, N, D, H / 16, W / 16), zero for absent pictures."""

    bev: Tensor
    depth_logits: Tensor


class CameraEncoder(nn.Module):
    """Pictures to a map (B, fusion.channels, X, Y) and the depth logits it was lifted with."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        camera = config.camera
        self.grid = config.grid.grid()
        self.backbone = make_backbone(camera)
        channels_16, channels_32 = self.backbone.feature_channels
        self.lateral_16 = nn.Conv2d(channels_16, camera.channels, 1)
        self.lateral_32 = nn.Conv2d(channels_32, camera.channels, 1)
        self.merge = ConvNormAct(camera.channels, camera.channels)
        self.depth_net = DepthNet(camera)
        self.to_bev = ConvNormAct(camera.channels, config.fusion.channels, kernel=1)
        self.bev_blocks = residual_blocks(config.fusion.channels, camera.bev_blocks)
        edges = torch.linspace(camera.depth_min_m, camera.depth_max_m, camera.depth_bins + 1)
        self.depth_m: Tensor
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("depth_m", (edges[1:] + edges[:-1]) / 2, persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(self.backbone.pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(self.backbone.pixel_std)[:, None, None], persistent=False)
        self._calibration: tuple[Tensor, Tensor, Tensor, tuple[int, int]] | None = None
        self._ranks: FrustumRanks | None = None

    def forward(self, cameras: CameraInputs) -> CameraFeatures:
        """Encodes the present pictures only; an absent one is neither read nor does it touch batch statistics.

        Raises:
            ValueError: no picture is present, or the picture size is no multiple of the feature stride.
        """
        batch, num_cameras, _, height, width = cameras.images.shape
        if height % FEATURE_STRIDE_PX or width % FEATURE_STRIDE_PX:
            raise ValueError(f"CameraInputs.images are {height}x{width} px, need multiples of {FEATURE_STRIDE_PX}")
        if not bool(cameras.present.any()):
            raise ValueError("CameraInputs.present: no picture of the batch is present; pass cameras=None")
        images = ((cameras.images[cameras.present].float() - self.pixel_mean) / self.pixel_std).contiguous(
            memory_format=torch.channels_last
        )
        stride_16, stride_32 = self.backbone.features(images)
        merged = self.lateral_16(stride_16)
        merged = self.merge(merged + resize(self.lateral_32(stride_32), merged.shape[-2:]))
        depth_logits, context = self.depth_net(merged, cameras.intrinsics[cameras.present], (height, width))

        depth_logits = depth_logits.float()
        with torch.autocast(images.device.type, enabled=False):
            # (pictures, C, h, w) -> one row per pixel; free for channels-last maps.
            rows = context.float().permute(0, 2, 3, 1).flatten(0, 2)
            depth = depth_logits.permute(0, 2, 3, 1).flatten(0, 2).softmax(1)
            pooled = bev_pool(rows, depth, self._ranks_for(cameras))
        bev = self.bev_blocks(self.to_bev(pooled))
        all_logits = depth_logits.new_zeros(batch, num_cameras, *depth_logits.shape[1:])
        all_logits[cameras.present] = depth_logits
        return CameraFeatures(bev, all_logits)

    def _ranks_for(self, cameras: CameraInputs) -> FrustumRanks:
        """The frustum's ranks, computed anew only if calibration, presence or picture size changed."""
        height, width = cameras.images.shape[-2:]
        shape = (height // FEATURE_STRIDE_PX, width // FEATURE_STRIDE_PX)
        given = (cameras.intrinsics, cameras.camera_T_ego, cameras.present)
        if self._ranks is not None and self._calibration is not None:
            *known, known_shape = self._calibration
            if known_shape == shape and all(
                a.device == b.device and torch.equal(a, b) for a, b in zip(given, known, strict=True)
            ):
                return self._ranks
        with torch.no_grad():
            self._ranks = frustum_ranks(*given, self.depth_m, shape, FEATURE_STRIDE_PX, self.grid)
        self._calibration = (given[0].clone(), given[1].clone(), given[2].clone(), shape)
        return self._ranks


class DepthNet(nn.Module):
    """Feature maps and intrinsics to depth logits and context features."""

    def __init__(self, config: CameraEncoderConfig) -> None:
        super().__init__()
        channels = config.channels
        self.gate = nn.Sequential(
            nn.Linear(4, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels), nn.Sigmoid()
        )
        self.hidden = ConvNormAct(channels, channels)
        self.depth = nn.Conv2d(channels, config.depth_bins, 1)
        self.context = nn.Conv2d(channels, channels, 1)

    def forward(
        self,
        features: Float[Tensor, "n channels h w"],
        intrinsics: Float[Tensor, "n 3 3"],
        image_size: tuple[int, int],
    ) -> tuple[Float[Tensor, "n depths h w"], Float[Tensor, "n channels h w"]]:
        """How far a car of a given size in pixels is depends on the focal length: hence the gate."""
        height, width = image_size
        focal_and_center = torch.stack(
            [
                intrinsics[:, 0, 0] / width,
                intrinsics[:, 1, 1] / height,
                intrinsics[:, 0, 2] / width,
                intrinsics[:, 1, 2] / height,
            ],
            dim=1,
        )
        hidden = self.hidden(features)
        gated = hidden * self.gate(focal_and_center)[:, :, None, None]
        return self.depth(gated), self.context(hidden)
