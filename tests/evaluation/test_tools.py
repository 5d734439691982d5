"""The tools evaluate and visualize, run as a user runs them, on simulated drives."""

from __future__ import annotations

import json
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from fusionperc.config import Config, DataConfig, build_config
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.evaluation.submission import write_submission
from fusionperc.types import SENSORS, Detections

ROOT = Path(__file__).resolve().parents[2]


def run(tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a tool in this process, which saves loading torch again; gives its exit status."""

    def run_here(tool: str, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        # Its handlers would outlive the test.
        monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
        try:
            runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run_here


@pytest.fixture(scope="module")
def drives(tiny_drives: Path, tmp_path_factory: pytest.TempPathFactory) -> NuScenesDrives:
    cache = tmp_path_factory.mktemp("cache")
    return NuScenesDrives(tiny_drives, "v1.0-mini", "mini_val", config=DataConfig(root=tiny_drives), cache=cache)


@pytest.fixture(scope="module")
def submission(drives: NuScenesDrives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotations that any point hits, as a submission."""
    found = {}
    for index, token in enumerate(drives.sample_tokens):
        labels = drives.labels(index)
        boxes = labels.boxes[labels.num_points.sum(dim=1) > 0]
        found[token] = Detections(**vars(boxes), score=torch.ones(len(boxes)))
    path = tmp_path_factory.mktemp("submission") / "truth.json"
    write_submission(path, found, drives.global_T_ego, SENSORS)
    return path


@pytest.fixture(scope="module")
def checkpoint(tiny_drives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained, very small network, as training would have left it."""
    from fusionperc.models.fusionperc import FusionPerc
    from fusionperc.training.checkpoints import CONFIG_KEY

    folder = tmp_path_factory.mktemp("run")
    small = [
        "model.grid.cell_m=3.2", "model.lidar={pillar_m: 3.2, channels: [8], blocks: [1]}",
        "model.radar={pillar_m: 3.2, channels: [8], blocks: [1]}",
        "model.camera={backbone: resnet18, weights: none, channels: 8, depth_bins: 8, bev_blocks: 0}",
        "model.fusion={channels: 16, layers: 1, bev_blocks: 0}", "model.detection={channels: 16, queries: 20}",
        "data.image_size=[64, 96]", "data.workers=0", f"data.root={tiny_drives}", f"run.dir={folder}",
    ]  # fmt: skip
    config: Config = build_config({}, small)
    torch.manual_seed(0)
    weights = {f"model.{name}": value for name, value in FusionPerc(config.model).state_dict().items()}
    path = folder / "last.ckpt"
    torch.save({CONFIG_KEY: config.model_dump(mode="json"), "state_dict": weights, "global_step": 0}, path)
    return path


def test_an_existing_submission_is_scored(
    call: Callable[..., int], submission: Path, tiny_drives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "evaluation"
    assert call("evaluate", "--predictions", submission, "--output", output, f"data.root={tiny_drives}") == 0
    printed = capsys.readouterr().out
    content = json.loads((output / "report.json").read_text())
    per_class = content["detection"]["per_class"]
    seen = [name for name, result in per_class.items() if result["num_ground_truth"]]
    assert "car" in seen
    assert all(per_class[name]["ap"] == pytest.approx(1) for name in seen)
    assert content["detection"]["mean_ap"] == pytest.approx(len(seen) / 10)
    assert content["data"]["split"] == "mini_val"
    assert "report: " in printed
    assert "construction_vehicle" in printed
    assert (output / "precision_recall_CRL.png").is_file()


def test_a_checkpoint_is_scored_for_all_subsets(checkpoint: Path, tmp_path: Path) -> None:
    done = run(
        "evaluate", "--checkpoint", checkpoint, "--sensors", "all-subsets", "--device", "cpu", "--output", tmp_path
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "report.json").read_text())
    assert list(content["detection"]["subsets"]) == ["C", "R", "L", "CR", "CL", "RL", "CRL"]
    assert 0 <= content["detection"]["nds"] < 0.3
    assert content["source"] == str(checkpoint)
    meta = json.loads((tmp_path / "submission_CL.json").read_text())["meta"]
    assert (meta["use_camera"], meta["use_radar"], meta["use_lidar"]) == (True, False, True)


def assert_is_a_sheet(path: Path) -> None:
    with Image.open(path) as picture:
        assert picture.width > 2000
        assert len(picture.convert("RGB").resize((200, 160)).getcolors(100_000) or []) > 1000


def test_a_sample_is_drawn_with_predictions(
    submission: Path, drives: NuScenesDrives, tiny_drives: Path, tmp_path: Path
) -> None:
    path, token = tmp_path / "sample.png", drives.sample_tokens[1]
    options = ["--sample", token, "--predictions", submission, "--output", path]
    done = run("visualize", *options, f"data.root={tiny_drives}", f"data.cache={tmp_path / 'cache'}")
    assert done.returncode == 0, done.stderr
    assert "3D view drawn by" in done.stdout
    assert_is_a_sheet(path)


@pytest.mark.parametrize("is_detected", [False, True])
def test_a_sample_is_drawn_with_ground_truth_alone_or_with_a_network(
    call: Callable[..., int], is_detected: bool, checkpoint: Path, tiny_drives: Path, tmp_path: Path
) -> None:
    path, cache = tmp_path / "sample.png", f"data.cache={tmp_path / 'cache'}"
    network = ["--checkpoint", checkpoint, "--sensors", "CL", "--score-threshold", "0.01"] if is_detected else []
    assert call("visualize", "--sample", "1", *network, "--output", path, f"data.root={tiny_drives}", cache) == 0
    assert_is_a_sheet(path)


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("visualize", ["--sample", "999"], "--sample 999: no such sample in split 'mini_val'"),
        ("visualize", ["--sample", "0", "--predictions", "/nowhere.json"], "/nowhere.json: cannot read the submission"),
        ("visualize", ["--sample", "0", "--checkpoint", "/nowhere.ckpt"], "/nowhere.ckpt"),
        ("evaluate", ["--predictions", "/nowhere.json"], "/nowhere.json: cannot read the submission"),
        ("evaluate", ["--checkpoint", "/nowhere.ckpt"], "/nowhere.ckpt"),
    ],
)
def test_mistakes_get_one_line(
    call: Callable[..., int],
    tool: str,
    arguments: list[str],
    message: str,
    tiny_drives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / ("a.png" if tool == "visualize" else "out")
    cache = f"data.cache={tmp_path / 'cache'}"
    assert call(tool, *arguments, "--output", output, f"data.root={tiny_drives}", cache) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not output.exists()
