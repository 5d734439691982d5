"""Likelihood of held-out sweeps: the forecasts that look at nothing else, and the tools as a user runs them."""

from __future__ import annotations

import json
import logging
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from fusionperc.evaluation.contrast import _found
from fusionperc.evaluation.likelihood import EMPTY, NETWORK, RAYS, VOXELS, AskedRays, nearest_range_m, scored
from fusionperc.evaluation.motion import CHANCE, RADAR, radar_speed
from fusionperc.evaluation.moving_objects import MOMENT, PAST, _errors
from fusionperc.geometry import BevGrid
from fusionperc.measurements import LidarRays, RadarReturns
from fusionperc.types import Boxes, Detections

ROOT = Path(__file__).resolve().parents[2]
BINS, BIN_M = 20, 1.0


def wall(origin_x_m: float, count: int = 181) -> LidarRays:
    """Rays over the left half plane in x, all ending at a wall at x = 10 m that is 60 m wide, or nowhere."""
    yaw = torch.linspace(-math.pi / 2, math.pi / 2, count)
    direction = torch.stack([yaw.cos(), yaw.sin(), torch.zeros(count)], 1)
    range_m = (10.0 - origin_x_m) / direction[:, 0].clamp(min=1e-3)
    range_m = torch.where((range_m * direction[:, 1]).abs() < 30, range_m, torch.inf)
    return LidarRays(torch.tensor([[origin_x_m, 0.0, 0.0]]), direction[None], range_m[None])


def test_the_last_sweep_seen_from_where_it_was_taken_is_itself() -> None:
    rays = wall(0.0)
    assert torch.equal(nearest_range_m(rays, rays).isinf(), rays.range_m[0].isinf())
    met = rays.range_m[0].isfinite()
    torch.testing.assert_close(nearest_range_m(rays, rays)[met], rays.range_m[0, met], atol=1e-3, rtol=1e-4)


def test_the_last_sweep_seen_from_further_on_is_nearer_by_that_much() -> None:
    expected = wall(4.0)
    ahead = expected.direction[0, :, 0] > 0.7
    found = nearest_range_m(expected, wall(0.0, count=2001))[ahead]
    torch.testing.assert_close(found, expected.range_m[0, ahead], atol=0.1, rtol=0.02)


def asked(outcome: torch.Tensor, guess: torch.Tensor, occupied: torch.Tensor) -> AskedRays:
    range_m = torch.where(outcome < BINS, (outcome + 0.5) * BIN_M, torch.inf)
    return AskedRays(
        outcome=outcome,
        range_m=range_m,
        nats=torch.full((len(outcome),), 0.5),
        median_m=range_m + 0.25,
        is_inside=torch.ones(len(outcome), BINS, dtype=torch.bool),
        is_occupied=occupied,
        guess=guess,
        guess_m=torch.where(guess < BINS, (guess + 0.5) * BIN_M, torch.inf),
    )


def test_a_last_sweep_that_is_right_is_likely_and_one_that_is_wrong_is_not() -> None:
    outcome = torch.randint(BINS + 1, (400,), generator=torch.Generator().manual_seed(0))
    occupied = torch.arange(BINS) == outcome[:, None]
    right = scored([asked(outcome, outcome, occupied)], BIN_M)
    assert right[NETWORK] == {"nats": pytest.approx(0.5), "error_m": pytest.approx(0.25)}
    assert right[RAYS]["nats"] < 0.1 and right[RAYS]["error_m"] == 0
    # The densest voxel that is tried ends a ray with probability 1 - exp(-4).
    assert right[VOXELS]["nats"] < 0.1 and right[VOXELS]["error_m"] == 0
    shuffled = outcome[torch.randperm(len(outcome), generator=torch.Generator().manual_seed(1))]
    wrong = scored([asked(outcome, shuffled, torch.arange(BINS) == shuffled[:, None])], BIN_M)
    # What never helps is given up: no worse than how rays end on the whole.
    usual = torch.bincount(outcome, minlength=BINS + 1).float() / len(outcome)
    entropy = float(-(usual * usual.log()).sum())
    assert entropy - 0.02 < wrong[RAYS]["nats"] < entropy + 0.75
    assert wrong[EMPTY]["nats"] == pytest.approx(right[EMPTY]["nats"])


def small_yaml(root: Path, folder: Path) -> Path:
    """A run of seconds, over all three sensors."""
    pillar = {"pillar_m": 3.2, "point_channels": 8, "channels": [16], "blocks": [1]}
    camera = {"backbone": "efficientnet_lite0", "channels": 16, "depth_bins": 8, "bev_blocks": 0}
    values = {
        "data": {
            "root": str(root), "train_split": "mini_train", "split": "mini_val", "lidar_sweeps": 1, "radar_sweeps": 1,
            "image_size": [32, 64], "batch_size": 2, "workers": 0,
        },
        "model": {
            "grid": {"range_m": 51.2, "cell_m": 3.2}, "camera": camera, "lidar": pillar, "radar": pillar,
            "fusion": {"channels": 16, "layers": 1, "heads": 2, "window": 4, "bev_blocks": 0},
            "detection": {"channels": 16, "queries": 10, "heads": 2},
        },
        "pretraining": {"rays": 64, "ray_bin_m": 1.6, "ray_bins": 45},
        "train": {"steps": 2, "device": "cpu", "validate_samples": 1, "log_every": 1},
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_pretraining_tool_measures_likelihood_and_draws(
    tiny_drives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(small_yaml(tiny_drives, tmp_path)), f"run.dir={tmp_path / 'run'}", "--samples", "2", "--pictures", "1"]
    words += ["pretraining.contrast=0.2", "pretraining.matching=0.2"]
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["pretrain", *words])
    runpy.run_path(str(ROOT / "tools" / "pretrain.py"), run_name="__main__")
    found = json.loads((tmp_path / "run" / "likelihood.json").read_text())
    assert list(found) == [EMPTY, VOXELS, RAYS, NETWORK]
    # Drives of two seconds: nothing is measured three seconds later, and nothing is made up for it.
    assert set(found[NETWORK]) == {"0 s", "1 s"}
    assert all(0 < cell["nats"] < 20 for by_horizon in found.values() for cell in by_horizon.values())
    printed = capsys.readouterr().out
    assert "last sweep, rays" in printed and "cells that move, average precision: chance" in printed
    moving = json.loads((tmp_path / "run" / "motion.json").read_text())
    found = moving["average_precision"]
    assert 0 < found[CHANCE] < 0.3 and found[RADAR] > 2 * found[CHANCE] and 0 < found["network"] <= 1
    assert moving["velocity_error_mps"]["standing"] > 0.5 and moving["velocity_error_mps"]["network"] > 0
    pairs = json.loads((tmp_path / "run" / "contrast.json").read_text())
    assert len(pairs) == 6 and {"camera in lidar", "lidar in camera"} < pairs.keys()
    assert all(shares["chance"] == 0.5 and 0 <= shares["network"] <= 1 for shares in pairs.values())
    noticed = json.loads((tmp_path / "run" / "matching.json").read_text())
    assert len(noticed) == 6 and {"lidar of another moment", "camera of another calibration"} < noticed.keys()
    assert all(areas["chance"] == 0.5 and 0 <= areas["network"] <= 1 for areas in noticed.values())
    boxed = json.loads((tmp_path / "run" / "objects.json").read_text())
    assert list(boxed) == [PAST, MOMENT]
    assert all(row["objects"] >= 1 and 0 <= row["found"] <= 1 for row in boxed.values())
    for name in ("later_0.png", "sensors_0.png", "motion_0.png", "objects_0.png"):
        assert (tmp_path / "run" / "pictures" / name).stat().st_size > 20_000


def test_cells_find_their_sample_by_what_they_show() -> None:
    """Of three samples the second lacks the other sensor; the third shows half of its cells as the first."""
    axes = torch.eye(3)[:, :, None, None].expand(-1, -1, 4, 4).contiguous()
    asked, among = [axes[0:1], axes[1:2], axes[2:3].clone()], [axes[0:1], None, axes[2:3]]
    asked[2][:, :, :2] = axes[0:1, :, :2]
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    assert _found(asked, among, [every] * 3) == {"chance": 0.5, "network": 0.75}
    assert _found(asked[:2], among[:2], [every] * 2) is None


def test_the_surest_box_near_an_object_has_found_it() -> None:
    def boxes_at(*rows: tuple[float, float, float, float, float]) -> Boxes:
        """(x, y, yaw, velocity along x, y)."""
        table, none = torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64)
        center = torch.cat([table[:, :2], torch.ones(len(rows), 1)], 1)
        return Boxes(center, torch.ones(len(rows), 3), table[:, 2], table[:, 3:], none, none - 1)

    truth = boxes_at((10.0, 0.0, 3.1, -5.0, 0.0), (0.0, 20.0, 0.0, 1.0, 0.0))
    boxes = boxes_at((10.0, 1.5, -3.0, -4.0, 1.0), (10.2, 0.0, 0.0, 0.0, 0.0), (0.0, 22.1, 0.0, 1.0, 0.0))
    found = Detections(**vars(boxes), score=torch.tensor([0.6, 0.3, 0.9]))
    expected = torch.tensor([[1.5, math.degrees(2 * math.pi - 6.1), math.sqrt(2)]])
    torch.testing.assert_close(_errors(truth, found), expected, atol=1e-3, rtol=0)
    assert _errors(truth, found[torch.tensor([False] * 3)]).shape == _errors(Boxes.empty(), found).shape == (0, 3)


def test_radar_says_the_largest_speed_of_a_cell() -> None:
    radar = RadarReturns(
        torch.tensor([[0.5, 0.5, 0], [0.2, 0.9, 0], [-1.5, 1.5, 0], [0.5, 0.5, 0], [9, 9, 0]]),
        torch.tensor([[1.0, 0]]).expand(5, 2),
        torch.tensor([-3.0, 2, 1, 50, 50]),
        torch.tensor([0, 0, 0, 1, 0]),
        torch.tensor([True, True]),
    )
    speed = radar_speed(radar, BevGrid(-2.0, 2.0, -2.0, 2.0, -1.0, 1.0, 1.0))
    expected = torch.zeros(1, 4, 4)
    expected[0, 2, 2], expected[0, 0, 3] = 3, 1
    assert torch.equal(speed, expected)


def test_study_runs_resumes_and_prints_its_table(tiny_drives: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, str(ROOT / "tools" / "study_pretraining.py"), str(small_yaml(tiny_drives, tmp_path)),
        "--output", str(tmp_path / "study"), "--arms", "matching", "--fractions", "0.5", "--seeds", "1",
        "--pretraining-steps", "1", "--tuning", "train.learning_rate=0.005",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert first.returncode == 0, first.stderr
    assert "3 jobs, 0 of them done" in first.stdout and "matching-0.5-0/detection" in first.stdout
    log = (tmp_path / "study" / "matching-0.5-0" / "log.txt").read_text()
    assert "labels of 1 of 2 drives" in log and "not taken from it" in log
    pretrained, tuned = (
        yaml.safe_load((tmp_path / "study" / run / "config.yaml").read_text())
        for run in ("pretrained-matching-0", "matching-0.5-0")
    )
    assert pretrained["train"]["learning_rate"] != tuned["train"]["learning_rate"] == 0.005
    objectives = ("likelihood", "prediction", "contrast", "matching", "motion", "objects")
    assert [name for name in objectives if pretrained["pretraining"][name] > 0] == ["matching"]
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "3 jobs, 3 of them done" in again.stdout
    rows = json.loads((tmp_path / "study" / "study.json").read_text())["rows"]
    assert [(row["arm"], row["sensors"], len(row["nds"]["values"])) for row in rows] == [
        ("matching", "CRL", 1),
        ("matching", "C", 1),
    ]
