"""Planning trained as a user trains it: jointly, after detection, resumed; and what its evaluation leaves behind."""

from __future__ import annotations

import json
import logging
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from fusionperc.config import Config, ConfigError, build_config
from fusionperc.training.checkpoints import CheckpointError, load_model, read_checkpoint
from fusionperc.training.finetune import Finetuning
from fusionperc.training.prior import fit_prior
from fusionperc.training.run import finetune

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def long_drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives of five seconds: their first key frames have six after them."""
    pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")
    from fusionperc.simulation.drives import generate
    from fusionperc.simulation.sets import plan_drives

    root = tmp_path_factory.mktemp("long_drives")
    generate(plan_drives("demo", 3, num_train=1, num_val=1, duration_s=5.0, image_scale=0.1, lidar_azimuths=200), root)
    return root


def small_config(root: Path, folder: Path, *overrides: str) -> Config:
    pillar = {"pillar_m": 3.2, "point_channels": 8, "channels": [8], "blocks": [1]}
    values = {
        "data": {
            "root": str(root), "lidar_sweeps": 2, "radar_sweeps": 2, "image_size": [32, 64], "batch_size": 1,
            "workers": 0, "command": "route",
        },
        "model": {
            "grid": {"range_m": 25.6, "cell_m": 3.2},
            "camera": {"backbone": "resnet18", "weights": "none", "channels": 16, "depth_bins": 8, "bev_blocks": 0},
            "lidar": pillar, "radar": pillar,
            "fusion": {"channels": 16, "layers": 1, "heads": 2, "window": 4, "bev_blocks": 0},
            "detection": {"channels": 16, "queries": 10, "heads": 2},
            "planning": {"channels": 16, "heads": 2, "layers": 1, "agents": 5},
        },
        "train": {
            "steps": 2, "device": "cpu", "validate_every": 2, "validate_samples": 1, "save_every": 1, "log_every": 1,
        },
        "run": {"dir": str(folder)},
    }  # fmt: skip
    return build_config(values, overrides)


@pytest.fixture(scope="module")
def joint(long_drives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planning_runs") / "joint"
    finetune(small_config(long_drives, folder))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return dict(content)


def test_joint_training_logs_both_and_resumes_exactly(joint: Path, long_drives: Path, tmp_path: Path) -> None:
    header = (joint / "metrics" / "metrics.csv").read_text().splitlines()[0]
    assert "train/heatmap" in header and "train/plan_imitation" in header and "val/plan_total" in header
    first = small_config(long_drives, tmp_path / "cut", "train.steps=2")
    from fusionperc.training.run import ProgressLines

    class _Killed(RuntimeError):
        pass

    def kill(self, trainer, *rest):  # type: ignore[no-untyped-def]
        if trainer.global_step == 1:
            raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressLines, "on_validation_end", lambda *_: None)
        patch.setattr(ProgressLines, "on_train_epoch_end", kill, raising=False)
        patch.setattr(Finetuning, "on_train_batch_start", lambda s, *_: kill(s, s.trainer), raising=False)
        with pytest.raises(_Killed):
            finetune(first)
    finetune(small_config(long_drives, tmp_path / "cut", "run.resume=true"))
    whole, resumed = weights(joint), weights(tmp_path / "cut")
    assert any(name.startswith("model.planning.") for name in whole)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


def test_planning_after_detection_leaves_detection_as_it_is(long_drives: Path, tmp_path: Path) -> None:
    finetune(small_config(long_drives, tmp_path / "first", "model.planning=null"))
    start = tmp_path / "first" / "checkpoints" / "last.ckpt"
    finetune(
        small_config(
            long_drives,
            tmp_path / "second",
            "train.task=planning",
            f"train.initial={start}",
            "train.planning_draws=4",
            "data.batch_size=2",
        )
    )
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert before.keys() < after.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    torch.manual_seed(0)
    fresh = Finetuning(small_config(long_drives, tmp_path / "none")).state_dict()
    assert any(not torch.equal(after[name], fresh[name]) for name in after.keys() - before.keys())
    with pytest.raises(CheckpointError, match="another architecture"):
        Finetuning(small_config(long_drives, tmp_path / "x", f"train.initial={start}", "model.fusion.channels=32"))


def test_detection_alone_leaves_the_planning_head_as_it_is(long_drives: Path, tmp_path: Path) -> None:
    config = small_config(long_drives, tmp_path / "detection", "train.task=detection")
    finetune(config)
    header = (tmp_path / "detection" / "metrics" / "metrics.csv").read_text().splitlines()[0]
    assert "plan_imitation" not in header and "train/total" in header


def test_detection_learns_beside_planning_as_it_does_alone(long_drives: Path, tmp_path: Path) -> None:
    """To the last bit, though the gradient is bounded; with some of planning's gradient let through it does not."""
    found = {}
    for name, *changes in (
        ("alone", "train.task=detection"),
        ("beside", "train.task=both"),
        ("shared", "train.task=both", "model.planning.shared_gradient=0.5"),
    ):
        finetune(small_config(long_drives, tmp_path / name, "train.gradient_clip=0.1", *changes))
        found[name] = weights(tmp_path / name)
    same = {name: torch.equal(value, found["beside"][name]) for name, value in found["alone"].items()}
    assert all(is_same for name, is_same in same.items() if not name.startswith("model.planning."))
    assert not all(is_same for name, is_same in same.items() if name.startswith("model.planning."))
    part = "model.fusion."
    assert any(not torch.equal(v, found["shared"][n]) for n, v in found["alone"].items() if n.startswith(part))


def test_the_prior_is_fitted_once_to_recorded_drives_and_then_stays(
    long_drives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the ego's motion and the command tell is nearer to what was driven than going on as before."""
    one = {"root": str(long_drives), "version": "v1.0-mini"}
    config = small_config(long_drives, tmp_path / "run", f"data.drives=[{{root: {one['root']}, version: v1.0-mini}}]")
    assert config.model.planning is not None
    fitted = []
    for fewest, epochs in ((100, 100), (5, 1), (5, 100), (5, 100)):
        monkeypatch.setattr("fusionperc.training.prior.LEAST_SAMPLES", fewest)
        monkeypatch.setattr("fusionperc.training.prior._EPOCHS", epochs)
        torch.manual_seed(0)
        module = Finetuning(config)
        assert module.model.planning is not None
        state = torch.get_rng_state()
        with caplog.at_level(logging.INFO):
            fit_prior(module.model.planning, config)
        assert torch.equal(torch.get_rng_state(), state), "what is drawn elsewhere would change"
        fitted.append({name: value.clone() for name, value in module.model.planning.prior.state_dict().items()})
    told = [message for message in caplog.messages if message.startswith("planning prior")]
    assert not fitted[0]["network.6.weight"].any() and "not fitted" in told[0]
    assert all(torch.equal(fitted[2][name], value) for name, value in fitted[3].items())
    errors_m = [[float(x) for x in re.findall(r"([\d.]+) m", message)] for message in told[1:3]]
    assert errors_m[1][0] < 0.7 * errors_m[0][0] and errors_m[1][1] < 0.7 * errors_m[0][1]

    assert module.train().model.planning is not None
    assert not any(part.training for part in module.model.planning.prior.modules()), "dropout is for its own fit"
    assert module.model.planning.ego.training

    finetune(config)
    after = weights(tmp_path / "run")
    for name, value in fitted[3].items():
        assert torch.equal(after[f"model.planning.prior.{name}"], value), name


def test_planning_alone_asks_for_a_detector() -> None:
    with pytest.raises(ConfigError, match=r"train\.task = planning: give model\.planning and, in train\.initial"):
        build_config({}, ["train.task=planning"])


def test_plans_are_scored_with_any_sensors_and_without(
    joint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = joint / "checkpoints" / "last.ckpt"
    words = [
        "--task",
        "planning",
        "--checkpoint",
        checkpoint,
        "--sensors",
        "all-subsets+blank+newest",
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words), "--worst", "1", "--output", str(tmp_path)])
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    runpy.run_path(str(ROOT / "tools" / "evaluate.py"), run_name="__main__")
    report = json.loads((tmp_path / "report.json").read_text())
    planners = report["planning"]["planners"]
    subsets = ("CRL", "CR", "CL", "RL", "C", "R", "L", "blank", "newest")
    assert {f"model {s}{t}" for s in subsets for t in ("", " + status")} < planners.keys()
    told = planners["model CRL + status"]
    assert told["uses_ego_status"] and told["command"] == "route"
    assert not planners["model blank"]["uses_ego_status"]
    # A plan rolls: whatever is missing it stays finite.
    assert all(planner["protocols"]["fusionperc"]["l2_m"]["3s"] < 60 for planner in planners.values())
    assert report["planning"]["has_map"] and planners["model CRL"]["protocols"]["fusionperc"]["off_road"] is not None
    assert 0 < report["latency_ms"]["planning_head"] < report["latency_ms"]["model"]
    # Doppler and matched sweeps measure the ego's motion, also for a network that has hardly learnt anything.
    found = (re.search(r"as (\w+) tells it, mean error: speed ([\d.]+)", note) for note in report["planning"]["notes"])
    speed_error = {match[1]: float(match[2]) for match in found if match is not None}
    assert speed_error.keys() == set(subsets)
    measured = {"CRL", "CR", "CL", "RL", "R", "L"}
    assert max(speed_error[s] for s in measured) < 0.2 < min(speed_error[s] for s in {*subsets} - measured)
    assert (tmp_path / "worst_0.png").stat().st_size > 10_000
    assert "by situation" in capsys.readouterr().out


def test_a_model_without_a_planning_head_is_told_so(joint: Path) -> None:
    from fusionperc.evaluation.planning_model import variants_of

    _, config = load_model(joint / "checkpoints" / "last.ckpt")
    bare = build_config(config.model_dump(mode="json"), ["model.planning=null"])
    with pytest.raises(ConfigError, match="no planning head"):
        variants_of("CRL", "both", bare)
    assert [v.name for v in variants_of("CRL+blank", "without", config)] == ["model CRL", "model blank"]
    assert [v.name for v in variants_of("RL+C+RL", "with", config)] == ["model RL + status", "model C + status"]
    with pytest.raises(ValueError, match="'dark' is not a subset"):
        variants_of("CRL+dark", "both", config)
