"""Training as a user runs it: a run folder, exact resume, checkpoints that say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from fusionperc.config import Config, ConfigError, build_config
from fusionperc.training.checkpoints import CheckpointError, load_model, read_checkpoint
from fusionperc.training.run import finetune


def small_config(root: Path, folder: Path, *overrides: str) -> Config:
    """A network small enough for seconds, over all three sensors."""
    pillar = {"pillar_m": 1.6, "point_channels": 8, "channels": [16], "blocks": [1]}
    values = {
        "data": {
            "root": str(root),
            "train_split": "mini_train",
            "split": "mini_val",
            "missing": "skip",
            "lidar_sweeps": 2,
            "radar_sweeps": 2,
            "image_size": [32, 64],
            "batch_size": 1,
            "workers": 0,
        },
        "model": {
            "grid": {"range_m": 25.6, "cell_m": 1.6},
            "camera": {"backbone": "resnet18", "weights": "none", "channels": 16, "depth_bins": 8, "bev_blocks": 1},
            "lidar": pillar,
            "radar": pillar,
            "fusion": {"channels": 16, "layers": 2, "heads": 2, "window": 4, "bev_blocks": 1},
            "detection": {"channels": 16, "queries": 10, "heads": 2},
        },
        "train": {
            "steps": 4,
            "device": "cpu",
            "validate_every": 2,
            "validate_samples": 1,
            "save_every": 2,
            "log_every": 1,
            "sensor_dropout": 0.5,
        },
        "run": {"dir": str(folder)},
    }
    return build_config(values, overrides)


@pytest.fixture(scope="module")
def finished_run(tiny_drives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finetune(small_config(tiny_drives, folder))
    return folder


def test_run_folder_holds_what_is_needed(finished_run: Path, tiny_drives: Path) -> None:
    assert yaml.safe_load((finished_run / "config.yaml").read_text())["train"]["steps"] == 4
    assert "torch" in (finished_run / "versions.json").read_text()
    assert (finished_run / "checkpoints" / "best.ckpt").is_file()
    lines = (finished_run / "metrics" / "metrics.csv").read_text().splitlines()
    assert "train/total" in lines[0]
    assert "val/total" in lines[0]
    assert len(lines) > 4


def test_resumed_run_equals_an_uninterrupted_one(finished_run: Path, tiny_drives: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    stopped = small_config(tiny_drives, folder)

    class _Killed(RuntimeError):
        pass

    from fusionperc.training import run as training_run

    original = training_run.ProgressLines.on_train_batch_end

    def kill_in_step_three(self, trainer, *rest):  # type: ignore[no-untyped-def]
        original(self, trainer, *rest)
        if trainer.global_step == 3:
            raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run.ProgressLines, "on_train_batch_end", kill_in_step_three)
        with pytest.raises(_Killed):
            finetune(stopped)
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 2

    finetune(small_config(tiny_drives, folder, "run.resume=true"))
    whole = read_checkpoint(finished_run / "checkpoints" / "last.ckpt")["state_dict"]
    resumed = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


def test_existing_run_is_not_overwritten(finished_run: Path, tiny_drives: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.dir.*run\.resume=true"):
        finetune(small_config(tiny_drives, finished_run))
    with pytest.raises(ConfigError, match=r"raise train\.steps"):
        finetune(small_config(tiny_drives, finished_run, "run.resume=true"))


def test_checkpoint_gives_back_model_and_configuration(finished_run: Path) -> None:
    model, config = load_model(finished_run / "checkpoints" / "last.ckpt")
    assert not model.training
    assert config.model.grid.cell_m == 1.6


def test_bad_checkpoints_are_one_clear_line(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_model(tmp_path / "none.ckpt")
    truncated = tmp_path / "truncated.ckpt"
    truncated.write_bytes((finished_run / "checkpoints" / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is the file complete"):
        load_model(truncated)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(CheckpointError, match=r"not a checkpoint written by tools/train\.py"):
        load_model(foreign)
    content = read_checkpoint(finished_run / "checkpoints" / "last.ckpt")
    content["fusionperc_config"]["model"]["fusion"]["layers"] = 3
    other = tmp_path / "other.ckpt"
    torch.save(content, other)
    with pytest.raises(CheckpointError, match="another architecture"):
        load_model(other)
