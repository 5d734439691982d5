"""Pretraining as a user runs it, without labels, and what a training run takes over from it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_run import small_config
from torch import Tensor

from fusionperc.config import Config, ConfigError, PretrainingConfig
from fusionperc.data.masking import Masked, mask_inputs
from fusionperc.data.unlabelled import make_unlabelled_loader
from fusionperc.models.encoder import ENCODER_PARTS
from fusionperc.models.fusionperc import FusionPerc
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.objectives.pretraining import PretrainingObjective
from fusionperc.training import run as training_run
from fusionperc.training.checkpoints import CheckpointError, read_checkpoint
from fusionperc.training.finetune import Finetuning
from fusionperc.training.optimization import parameter_groups
from fusionperc.training.pretrain import Pretraining, pretrain
from fusionperc.training.run import finetune
from fusionperc.types import Sensor, SensorInputs

ANNOTATIONS = ("sample_annotation", "instance", "category", "attribute", "visibility")


def pretraining_config(root: Path, folder: Path, *overrides: str) -> Config:
    few = ("pretraining.rays=48", "pretraining.layer_m=1.0", "pretraining.horizon_s=[0.5, 1.0]")
    options = ("pretraining.pictures=0", "pretraining.mismatched=0.5", "data.batch_size=2", "train.backbone_rate=1.0")
    left_out = ("pretraining.contrast=0.2", "pretraining.matching=0.2")
    return small_config(root, folder, *few, *options, *left_out, *overrides)


@pytest.fixture(scope="module")
def pretrained(tiny_drives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining") / "whole"
    pretrain(pretraining_config(tiny_drives, folder))
    return folder


def weights_of(run: Path) -> dict[str, Tensor]:
    content = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    return {name.removeprefix("model."): value for name, value in content.items()}


def assert_same(first: Path, second: Path) -> None:
    """Two runs that logged the same numbers and ended with the same weights, to the last bit."""
    one, other = ((run / "metrics" / "metrics.csv").read_text() for run in (first, second))
    assert one == other
    whole, same = weights_of(first), weights_of(second)
    assert whole.keys() == same.keys()
    for name, value in whole.items():
        torch.testing.assert_close(same[name], value, rtol=0, atol=0, msg=name)


# -- pretraining ------------------------------------------------------------------------------------------------------


def test_run_folder_holds_what_is_needed(pretrained: Path) -> None:
    assert yaml.safe_load((pretrained / "config.yaml").read_text())["pretraining"]["rays"] == 48
    assert "torch" in (pretrained / "versions.json").read_text()
    assert (pretrained / "checkpoints" / "best.ckpt").is_file()
    assert read_checkpoint(pretrained / "checkpoints" / "last.ckpt")["global_step"] == 4
    header, *lines = (pretrained / "metrics" / "metrics.csv").read_text().splitlines()
    for name in ("likelihood", "radar", "doppler", "prediction", "matching", "total"):
        assert f"train/{name}" in header and f"val/{name}" in header
    assert len(lines) > 4


def test_a_resumed_run_equals_an_uninterrupted_one(pretrained: Path, tiny_drives: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"

    class _Killed(RuntimeError):
        pass

    original = training_run.ProgressLines.on_train_batch_end

    def kill_in_step_three(self, trainer, *rest):  # type: ignore[no-untyped-def]
        original(self, trainer, *rest)
        if trainer.global_step == 3:
            raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run.ProgressLines, "on_train_batch_end", kill_in_step_three)
        with pytest.raises(_Killed):
            pretrain(pretraining_config(tiny_drives, folder))
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 2
    pretrain(pretraining_config(tiny_drives, folder, "run.resume=true"))
    whole, resumed = weights_of(pretrained), weights_of(folder)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


def test_the_last_steps_hide_no_ground_and_no_patch(
    tiny_drives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    whole: list[bool] = []

    def spy(inputs: SensorInputs, config: PretrainingConfig, *rest: Any) -> Masked:
        masked = mask_inputs(inputs, config, *rest)
        shares.append(config.whole)
        whole.append(bool(masked.is_whole.all()))
        return masked

    monkeypatch.setattr("fusionperc.training.pretrain.mask_inputs", spy)
    changes = ("train.steps=4", "train.validate_every=1000", "pretraining.whole=0.0", "pretraining.whole_after=0.5")
    pretrain(pretraining_config(tiny_drives, tmp_path / "run", *changes))
    assert shares[:4] == [0.0, 0.0, 1.0, 1.0]
    assert whole[:4] == [False, False, True, True]
    assert all(share == 0.0 for share in shares[4:]), "what is held out is always judged by what is hidden"


def test_what_is_left_of_a_sample_whose_wrong_sensor_is_hidden_belongs_together(
    tiny_drives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sample's LiDAR is wrong; it is asked about with LiDAR hidden and shown."""
    config = pretraining_config(tiny_drives, tmp_path / "run")
    module, batch = Pretraining(config), next(iter(make_unlabelled_loader(config, training=True)))
    lidar_is_wrong = torch.tensor([[False, False, True], [False, False, False]])
    found: list[list[list[bool]]] = []

    def mask(shown: tuple[Sensor, ...], inputs: SensorInputs, *rest: Any) -> Masked:
        return replace(mask_inputs(inputs, *rest), inputs=inputs.only(shown))

    def spy(
        self: Any, output: Any, measured: Any, depth_m: Any, cells: Any, is_wrong: Tensor, *_: Any, **__: Any
    ) -> None:
        found.append(is_wrong.tolist())

    monkeypatch.setattr("fusionperc.training.pretrain.mismatch", lambda inputs, *_: (inputs, lidar_is_wrong))
    monkeypatch.setattr(PretrainingObjective, "__call__", spy)
    for shown in (("camera", "radar", "lidar"), ("camera", "radar")):
        monkeypatch.setattr("fusionperc.training.pretrain.mask_inputs", partial(mask, shown))
        module.losses(batch, torch.Generator().manual_seed(0))
    assert found == [lidar_is_wrong.tolist(), torch.zeros(2, 3, dtype=torch.bool).tolist()]


def test_no_label_is_read(
    pretrained: Path, tiny_drives: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same drives without their annotation tables give the same losses and weights."""
    bare = tmp_path / "unlabelled"
    bare.mkdir()
    for part in tiny_drives.iterdir():
        if part.name in ("samples", "sweeps"):
            (bare / part.name).symlink_to(part)
        elif part.is_dir():
            shutil.copytree(part, bare / part.name)
        else:
            shutil.copy(part, bare)
    for table in ANNOTATIONS:
        (bare / "v1.0-mini" / f"{table}.json").unlink()
    shutil.rmtree(bare / "maps", ignore_errors=True)
    assert (bare / "manifest.json").is_file()
    pretrain(pretraining_config(bare, tmp_path / "run"))
    assert_same(pretrained, tmp_path / "run")
    assert "sample_annotation.json: not there, though manifest.json lists it" in caplog.text


def test_an_existing_run_is_not_overwritten(pretrained: Path, tiny_drives: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.dir.*run\.resume=true"):
        pretrain(pretraining_config(tiny_drives, pretrained))


def test_pictures_are_not_taught_by_random_weights(tiny_drives: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretraining\.pictures: model\.camera\.weights = none"):
        pretrain(pretraining_config(tiny_drives, tmp_path, "pretraining.pictures=1"))


def test_it_learns_one_sample(tiny_drives: Path, tmp_path: Path) -> None:
    """Likelihood of hidden rays goes well below that of an untrained network, always hidden in the same way."""
    config = pretraining_config(
        tiny_drives, tmp_path, "data.batch_size=1", "pretraining.rays=256", "pretraining.mask_sensor=0",
        "pretraining.mismatched=0", "pretraining.prediction=0.2",
    )  # fmt: skip
    batch = next(iter(make_unlabelled_loader(config, training=False)))
    torch.manual_seed(0)
    module = Pretraining(config)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    nats = []
    for _ in range(40):
        losses = module.losses(batch, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        nats.append(losses["likelihood"].item())
    assert nats[0] > 3 and nats[-1] < 0.6 * nats[0], (nats[0], nats[-1])


# -- what a training run takes over -----------------------------------------------------------------------------------


def training_config(root: Path, folder: Path, run: Path, *overrides: str) -> Config:
    return small_config(root, folder, f"train.init_from={run}", *overrides)


def initialised(config: Config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Finetuning(config).model.state_dict()


def test_encoders_fusion_and_dense_head_are_taken_and_nothing_else(
    pretrained: Path, tiny_drives: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {name.replace("objects.", "detection.dense."): value for name, value in weights_of(pretrained).items()}
    with caplog.at_level(logging.INFO):
        taken = initialised(training_config(tiny_drives, tmp_path, pretrained))
    fresh = initialised(small_config(tiny_drives, tmp_path))
    assert taken.keys() == fresh.keys()
    is_shared = {name: name.startswith((*ENCODER_PARTS, "detection.dense.")) for name in taken}
    assert {name.partition(".")[0] for name, shared in is_shared.items() if shared} == {
        "camera",
        "radar",
        "lidar",
        "fusion",
        "detection",
    }
    for name, value in taken.items():
        assert torch.equal(value, given[name] if is_shared[name] else fresh[name]), name
    moved = [name for name, shared in is_shared.items() if shared and not torch.equal(fresh[name], given[name])]
    assert len(moved) > 0.9 * sum(is_shared.values())
    lines = [record.message for record in caplog.records if record.name.endswith("checkpoints")]
    assert len(lines) == 3
    assert lines[0].startswith(f"{pretrained / 'checkpoints' / 'last.ckpt'}: taken: camera ")
    assert (
        lines[1].startswith("not taken from it: embeddings ")
        and "reconstruction" in lines[1]
        and "matching" in lines[1]
    )
    assert lines[2].startswith("as initialised: detection ") and "sensor_heatmaps" in lines[2]
    assert "fusion" not in lines[1] + lines[2]


def test_a_checkpoint_may_be_named_and_sensors_be_fewer(pretrained: Path, tiny_drives: Path, tmp_path: Path) -> None:
    given = weights_of(pretrained)
    checkpoint = pretrained / "checkpoints" / "last.ckpt"
    taken = initialised(training_config(tiny_drives, tmp_path, checkpoint, "model.sensors=CL"))
    assert not any(name.startswith("radar.") for name in taken)
    for name, value in taken.items():
        if name.startswith(ENCODER_PARTS):
            assert torch.equal(value, given[name]), name


@pytest.mark.parametrize(
    "change", ["model.fusion.channels=32", "model.fusion.layers=3", "model.lidar.point_channels=16"]
)
def test_another_architecture_is_refused(pretrained: Path, tiny_drives: Path, tmp_path: Path, change: str) -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt: weights of another architecture: .* first '") as told:
        Finetuning(training_config(tiny_drives, tmp_path, pretrained, change))
    assert "\n" not in str(told.value)


def test_what_does_not_fit_together_is_refused(pretrained: Path, tiny_drives: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint"):
        Finetuning(training_config(tiny_drives, tmp_path, tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"train\.initial = .* and train\.init_from = .*: give one"):
        training_config(tiny_drives, tmp_path, pretrained, f"train.initial={pretrained}")
    with pytest.raises(ConfigError, match=r"train\.probe: .* must come from train\.init_from"):
        small_config(tiny_drives, tmp_path, "train.probe=true")
    with pytest.raises(CheckpointError, match="weights of another architecture"):
        Finetuning(small_config(tiny_drives, tmp_path, f"train.initial={pretrained / 'checkpoints' / 'last.ckpt'}"))


def test_a_probe_leaves_encoders_as_they_are(pretrained: Path, tiny_drives: Path, tmp_path: Path) -> None:
    """Weights and batch statistics, after steps and validations of a whole run."""
    options = ("train.probe=true", "train.steps=3", "train.sensor_dropout=0")
    config = training_config(tiny_drives, tmp_path / "probe", pretrained, *options)
    before = initialised(config)
    finetune(config)
    after = weights_of(tmp_path / "probe")
    assert any(name.startswith(ENCODER_PARTS) and "running_mean" in name for name in after)
    for name, value in after.items():
        if name.startswith(ENCODER_PARTS):
            assert torch.equal(value, before[name]), name
    heads = [name for name in after if not name.startswith(ENCODER_PARTS)]
    changed = [name for name in heads if not torch.equal(after[name], before[name])]
    assert len(changed) > 0.8 * len(heads)
    assert any("running_mean" in name for name in changed)


# -- learning rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["training", "pretraining"])
def test_each_layer_group_learns_at_its_rate(tmp_path: Path, which: str) -> None:
    rates = ("train.backbone_rate=0.1", "train.encoder_rate=0.5", "train.fusion_rate=0.25", "train.learning_rate=0.01")
    config = pretraining_config(tmp_path, tmp_path, *rates)
    network = (
        FusionPerc(config.model) if which == "training" else FusionPercPretraining(config.model, config.pretraining)
    )
    groups = parameter_groups(network, config.train)
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    named = dict(network.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(rate_of) == len(named)
    expected = {"camera": 0.005, "radar": 0.005, "lidar": 0.005, "fusion": 0.0025}
    for name, parameter in named.items():
        rate = 0.0005 if name.startswith("camera.backbone.") else expected.get(name.partition(".")[0], 0.01)
        assert rate_of[id(parameter)] == pytest.approx(rate), name
        is_embedding = "sensor_embedding" in name or "class_embedding" in name or "positions.embedding" in name
        assert (decay_of[id(parameter)] > 0) == (parameter.ndim > 1 and not is_embedding), name
    assert {round(rate, 6) for rate in rate_of.values()} == {0.0005, 0.005, 0.0025, 0.01}


def test_what_is_frozen_is_in_no_group(tmp_path: Path, pretrained: Path, tiny_drives: Path) -> None:
    module = Finetuning(training_config(tiny_drives, tmp_path, pretrained, "train.probe=true"))
    groups = parameter_groups(module.model, module.config.train)
    learnt = {id(parameter) for group in groups for parameter in group["params"]}
    for name, parameter in module.model.named_parameters():
        assert (id(parameter) in learnt) != name.startswith(ENCODER_PARTS), name
