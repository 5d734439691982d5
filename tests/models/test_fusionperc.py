"""The whole network on a small grid: any subset of sensors, independence of samples, saving and loading."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fusionperc.config import ModelConfig
from fusionperc.geometry import rigid, rotation_from_yaw
from fusionperc.models.fusionperc import FusionPerc, FusionPercOutput
from fusionperc.ops.voxelize import reduce_voxels, scatter_to_bev, voxelize
from fusionperc.types import SENSORS, CameraInputs, Points, Sensor, SensorInputs, sensors_from_letters

SUBSETS = ["".join(c) for n in (1, 2, 3) for c in itertools.combinations("CRL", n)]


def small_config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "grid": {"range_m": 9.6, "cell_m": 0.8},
        "camera": {"weights": "none", "channels": 16, "depth_bins": 10, "depth_max_m": 11, "bev_blocks": 1},
        "lidar": {"pillar_m": 0.4, "point_channels": 8, "channels": [16, 16], "blocks": [1, 1]},
        "radar": {"pillar_m": 0.8, "point_channels": 8, "channels": [16], "blocks": [1]},
        "fusion": {"channels": 16, "heads": 2, "window": 5, "bev_blocks": 1},
        "detection": {"channels": 16, "heads": 2, "queries": 12},
    }
    return ModelConfig.model_validate(values | changes)


def some_points(features: int, counts: list[int], seed: int) -> Points:
    generator = torch.Generator().manual_seed(seed)
    samples = [
        Points(
            torch.rand(count, 3, generator=generator) * torch.tensor([22.0, 22, 3]) - torch.tensor([11.0, 11, 1]),
            torch.rand(count, features, generator=generator),
            torch.zeros(count, dtype=torch.int64),
            1,
        )
        for count in counts
    ]
    return Points.collate(samples)


def make_inputs(batch: int = 3) -> SensorInputs:
    generator = torch.Generator().manual_seed(0)
    camera_R_body = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    views = []
    for yaw in (0.0, math.pi / 2):
        rotation = camera_R_body @ rotation_from_yaw(torch.tensor(-yaw))
        views.append(rigid(rotation, -rotation @ torch.tensor([0, 0, 1.5])))
    intrinsics = torch.tensor([[60.0, 0, 32], [0, 60.0, 16], [0, 0, 1]])
    cameras = CameraInputs(
        torch.randint(0, 255, (batch, 2, 3, 32, 64), dtype=torch.uint8, generator=generator),
        intrinsics.expand(batch, 2, 3, 3).clone(),
        torch.stack(views).expand(batch, 2, 4, 4).clone(),
        torch.ones(batch, 2, dtype=torch.bool),
    )
    return SensorInputs(
        cameras,
        some_points(4, [30, 0, 20][:batch], 1),
        some_points(2, [500, 300, 1][:batch], 2),
        torch.ones(batch, 3, dtype=torch.bool),
    )


def sample_of(inputs: SensorInputs, index: int) -> SensorInputs:
    cameras = inputs.cameras
    assert cameras is not None and inputs.radar is not None and inputs.lidar is not None
    one = slice(index, index + 1)
    return SensorInputs(
        CameraInputs(cameras.images[one], cameras.intrinsics[one], cameras.camera_T_ego[one], cameras.present[one]),
        inputs.radar.of_sample(index),
        inputs.lidar.of_sample(index),
        inputs.present[one],
    )


def heat(output: FusionPercOutput) -> Tensor:
    return output.detection.heatmap_logits


@pytest.fixture(scope="module")
def model() -> FusionPerc:
    torch.manual_seed(0)
    return FusionPerc(small_config()).eval()


@pytest.mark.parametrize("letters", SUBSETS)
def test_any_subset_runs_and_none_equals_marked_absent(model: FusionPerc, letters: str) -> None:
    inputs, sensors = make_inputs(), sensors_from_letters(letters)
    subset = inputs.only(sensors)
    given_but_absent = replace(inputs, present=subset.present)
    with torch.no_grad():
        left_out, marked = model(subset), model(given_but_absent)
    assert set(left_out.sensor_heatmap_logits) == set(sensors) == set(marked.sensor_heatmap_logits)
    assert (left_out.depth_logits is not None) == ("camera" in sensors)
    assert left_out.detection.heatmap_logits.shape == (3, 10, 24, 24)
    torch.testing.assert_close(heat(left_out), heat(marked), atol=1e-5, rtol=1e-5)
    assert all(detections.score.isfinite().all() for detections in model.detect(subset))


def test_a_sample_does_not_depend_on_the_others(model: FusionPerc) -> None:
    inputs = make_inputs()
    inputs.present[1] = torch.tensor([True, False, False])
    inputs.present[2] = torch.tensor([False, False, True])
    with torch.no_grad():
        together = model(inputs)
        for index in range(3):
            alone = model(sample_of(inputs, index))
            torch.testing.assert_close(heat(together)[index], heat(alone)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sensor", SENSORS)
def test_training_is_untouched_by_samples_without_the_sensor(sensor: Sensor) -> None:
    """Batch statistics of an encoder are those of the samples that have it."""
    torch.manual_seed(0)
    model = FusionPerc(small_config()).train()
    inputs = make_inputs()
    inputs.present[1, SENSORS.index(sensor)] = False
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = model(inputs).sensor_heatmap_logits[sensor]
    model.load_state_dict(before)
    if sensor == "camera":
        assert inputs.cameras is not None
        inputs.cameras.images[1] = 7
    else:
        points = getattr(inputs, sensor)
        points.xyz_m[points.sample_index == 1] += 0.7
    second = model(inputs).sensor_heatmap_logits[sensor]
    torch.testing.assert_close(first, second)


def test_an_absent_picture_is_not_read(model: FusionPerc) -> None:
    inputs = make_inputs()
    assert inputs.cameras is not None
    inputs.cameras.present[0, 1] = False
    with torch.no_grad():
        before = model(inputs)
        inputs.cameras.images[0, 1] = 255
        after = model(inputs)
    assert torch.equal(heat(before), heat(after))
    assert before.depth_logits is not None
    assert not before.depth_logits[0, 1].any()


def test_no_sensor_is_one_clear_line(model: FusionPerc) -> None:
    inputs = make_inputs()
    for nothing in (inputs.only(()), replace(inputs, present=torch.zeros(3, 3, dtype=torch.bool))):
        with pytest.raises(ValueError, match=r"^no sensor: the model takes CRL"):
            model(nothing)
    lidar_only = FusionPerc(small_config(sensors="L"))
    assert not any(name.startswith(("camera.", "radar.")) for name, _ in lidar_only.named_parameters())
    with pytest.raises(ValueError, match=r"^no sensor: the model takes L"):
        lidar_only(inputs.only(("camera", "radar")))
    assert lidar_only(inputs).sensor_heatmap_logits.keys() == {"lidar"}


def test_a_sample_without_any_sensor_gives_finite_numbers(model: FusionPerc) -> None:
    inputs = make_inputs()
    inputs.present[1] = False
    with torch.no_grad():
        assert heat(model(inputs)).isfinite().all()


@pytest.mark.parametrize("style", ["joint", "co"])
@pytest.mark.parametrize("bf16", [False, True])
def test_training_step_reaches_every_parameter(style: str, bf16: bool) -> None:
    torch.manual_seed(0)
    config = small_config(fusion={"style": style, "channels": 16, "heads": 2, "window": 5, "bev_blocks": 1})
    model = FusionPerc(config).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(make_inputs())
    detection = output.detection
    assert detection.heatmap_logits.dtype == detection.dense.center_m.dtype == torch.float32
    assert output.depth_logits is not None and output.depth_logits.dtype == torch.float32
    loss = detection.heatmap_logits.square().mean() + output.depth_logits.square().mean()
    loss = loss + sum(logits.square().mean() for logits in output.sensor_heatmap_logits.values())
    for boxes in (detection.dense, detection.layers[0].boxes):
        loss = loss + boxes.center_m.square().mean() + boxes.attribute_logits.square().mean()
    (loss + detection.layers[0].class_logits.square().mean()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_mirrored_input_gives_mirrored_maps_up_to_the_network() -> None:
    """Where a point goes is all geometry: the LiDAR map of mirrored points is occupied in mirrored cells."""
    grid, points = small_config().grid.grid(), some_points(2, [400, 100], 3)

    def occupancy(points: Points) -> Tensor:
        pillars = voxelize(points, grid)
        return scatter_to_bev(reduce_voxels(torch.ones(len(pillars.point_index), 1), pillars, "sum"), pillars)

    mirrored = replace(points, xyz_m=points.xyz_m * torch.tensor([1.0, -1.0, 1.0]))
    assert torch.equal(occupancy(mirrored), occupancy(points).flip(3))


def test_save_and_load(model: FusionPerc, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = FusionPerc.from_pretrained(tmp_path).eval()
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(heat(loaded(make_inputs())), heat(model(make_inputs())))


def test_weights_of_another_architecture_are_refused(model: FusionPerc, tmp_path: Path) -> None:
    FusionPerc(small_config(sensors="L")).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(model.config.model_dump_json())
    with pytest.raises(RuntimeError, match="camera"):
        FusionPerc.from_pretrained(tmp_path)


def test_a_saved_model_does_not_ask_for_backbone_weights_again(tmp_path: Path) -> None:
    """The configuration is stored as it was; loading needs neither the package nor the internet."""
    model = FusionPerc(small_config(camera={"weights": "none", "channels": 16, "backbone": "resnet18"}))
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"none"', '"/no/such/file"'))
    assert FusionPerc.from_pretrained(tmp_path).config.camera.weights == "none"
