"""A user's mistakes, through the tools: exit status 2 and one line that names the file or the key."""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "configs" / "tiny.yaml"

Refused = Callable[..., str]


def one_line(told: str) -> str:
    """The message, which must be all that was said."""
    assert told.endswith("\n")
    (line,) = told.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Refused]:
    """Runs a tool in this process, which saves loading torch again; gives the one line of its error."""

    def run_here(tool: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [f"tools/{tool}.py", *map(str, arguments)])
        # Its handlers would outlive the test.
        monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
        with pytest.raises(SystemExit) as end, warnings.catch_warnings():
            runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
        assert end.value.code == 2
        return one_line(capfd.readouterr().err)

    # Its first import sets the level of its own log lines, so it must not come in the middle of a test.
    import lightning.pytorch

    log = logging.getLogger(lightning.pytorch.__name__)
    level = log.level
    yield run_here
    log.setLevel(level)


@pytest.fixture
def empty_version(tmp_path: Path) -> Path:
    """A data root whose version folder has no drives: enough for what is checked before any drive is read."""
    root = tmp_path / "set"
    (root / "v1.0-mini").mkdir(parents=True)
    (root / "v1.0-mini" / "scene.json").write_text("[]")
    return root


def as_a_user(tool: str, *arguments: object, folder: Path) -> tuple[str, str]:
    """Runs a tool in its own process, in `folder`; gives stdout and the one line of its error."""
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    return done.stdout, one_line(done.stderr)


def test_a_real_command_line(tmp_path: Path) -> None:
    said, line = as_a_user("train", TINY, "train.stepz=3", "run.dir=run", folder=tmp_path)
    assert line.startswith(f"error: {TINY}: unknown key 'train.stepz'; did you mean 'steps'?")
    assert said == ""
    assert not (tmp_path / "run").exists()


def test_the_trainer_adds_no_lines_to_a_mistake(tmp_path: Path) -> None:
    _, line = as_a_user("train", TINY, "data.root=nowhere", "run.dir=run", "train.device=cpu", folder=tmp_path)
    assert line.startswith("error: nowhere: no such folder; set data.root")


# -- train ------------------------------------------------------------------------------------------------------------


def test_train_names_an_unknown_key_of_the_file(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: {camera: {backbon: resnet50}}\n")
    line = refused("train", file)
    assert line.startswith(f"error: {file}: unknown key 'model.camera.backbon'; did you mean 'backbone'?")


def test_train_names_a_missing_configuration(refused: Refused, tmp_path: Path) -> None:
    assert f"{tmp_path / 'no.yaml'}: cannot read the configuration" in refused("train", tmp_path / "no.yaml")


def test_train_names_a_missing_version(refused: Refused, empty_version: Path, tmp_path: Path) -> None:
    options = ["data.version=v1.0-trainval", f"run.dir={tmp_path / 'run'}", "train.device=cpu"]
    line = refused("train", TINY, f"data.root={empty_version}", *options)
    assert f"{empty_version}: has no version 'v1.0-trainval'" in line
    assert "versions found there: v1.0-mini" in line


def test_train_names_an_unknown_split(refused: Refused, real_nuscenes: Path, tmp_path: Path) -> None:
    options = ["data.train_split=mini_trian", "data.version=v1.0-mini", f"run.dir={tmp_path / 'run'}"]
    line = refused("train", TINY, f"data.root={real_nuscenes}", *options, "train.device=cpu")
    assert "unknown split 'mini_trian'; known: all, " in line and "mini_train" in line


def test_train_does_not_overwrite_a_run(refused: Refused, tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(b"precious")
    assert f"run.dir = {tmp_path} holds a run already" in refused("train", TINY, f"run.dir={tmp_path}")
    assert f"{last}: cannot be read as a checkpoint" in refused("train", TINY, f"run.dir={tmp_path}", "run.resume=true")
    assert last.read_bytes() == b"precious"


# -- pretrain ---------------------------------------------------------------------------------------------------------


def test_pretrain_names_an_unknown_key(refused: Refused, tmp_path: Path) -> None:
    line = refused("pretrain", TINY, "pretraining.contrasts=0", f"run.dir={tmp_path / 'run'}")
    assert "unknown key 'pretraining.contrasts'; did you mean 'contrast'?" in line
    line = refused("pretrain", TINY, "pretraining.drives=[{root: a, splits: b}]", f"run.dir={tmp_path / 'run'}")
    assert "unknown key 'pretraining.drives.0.splits'; did you mean 'split'?" in line
    line = refused("pretrain", TINY, "model.planning={modus: 3}", f"run.dir={tmp_path / 'run'}")
    assert "unknown key 'model.planning.modus'; did you mean 'modes'?" in line
    assert not (tmp_path / "run").exists()


def test_pretrain_names_a_missing_folder(refused: Refused, empty_version: Path, tmp_path: Path) -> None:
    options = [f"run.dir={tmp_path / 'run'}", "train.device=cpu"]
    line = refused("pretrain", TINY, f"data.root={tmp_path / 'nowhere'}", *options)
    assert line.startswith(f"error: {tmp_path / 'nowhere'}: no such folder; set data.root")
    several = f"pretraining.drives=[{{root: {tmp_path / 'gone'}, version: v1.0-mini}}]"
    assert f"{tmp_path / 'gone'}: no such folder" in refused(
        "pretrain", TINY, f"data.root={empty_version}", several, *options
    )


def test_train_names_a_missing_pretraining_run(refused: Refused, tmp_path: Path) -> None:
    line = refused("train", TINY, f"run.dir={tmp_path / 'run'}", "train.probe=true")
    assert "train.probe: what stays as it is must come from train.init_from" in line
    options = [f"train.init_from={tmp_path / 'none'}", f"train.initial={tmp_path / 'other'}"]
    assert "give one" in refused("train", TINY, f"run.dir={tmp_path / 'run'}", *options)


# -- evaluate, visualize ----------------------------------------------------------------------------------------------


def test_evaluate_names_a_missing_checkpoint(refused: Refused, tmp_path: Path) -> None:
    missing, output = tmp_path / "no.ckpt", tmp_path / "out"
    assert f"{missing}: no such checkpoint" in refused("evaluate", "--checkpoint", missing, "--output", output)
    assert not output.exists()


def test_evaluate_names_a_file_that_is_no_checkpoint(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "some.ckpt"
    file.write_bytes(b"not a checkpoint")
    line = refused("evaluate", "--checkpoint", file, "--output", tmp_path / "out")
    assert f"{file}: cannot be read as a checkpoint" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json at all", "JSON"),
        ("[1, 2]", "results"),
        ('{"meta": {}}', "results"),
    ],
)
def test_evaluate_names_predictions_that_are_none(
    refused: Refused, empty_version: Path, tmp_path: Path, content: str, words: str
) -> None:
    file, output = tmp_path / "predictions.json", tmp_path / "out"
    file.write_text(content)
    line = refused("evaluate", "--predictions", file, "--output", output, f"data.root={empty_version}")
    assert str(file) in line and words in line
    assert not output.exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.split=mini_vall", "unknown split 'mini_vall'; known: "),
        ("data.split=val", "data.split = val does not fit data.version = v1.0-mini"),
        ("data.version=v1.0-test", "has no version 'v1.0-test' (found: v1.0-mini)"),
        ("data.splitt=val", "unknown key 'data.splitt'; did you mean 'split'?"),
        ("data.split", "override 'data.split' is no key=value"),
    ],
)
def test_evaluate_names_the_wrong_key(
    refused: Refused, empty_version: Path, tmp_path: Path, override: str, words: str
) -> None:
    file = tmp_path / "predictions.json"
    file.write_text('{"meta": {}, "results": {}}')
    line = refused(
        "evaluate", "--predictions", file, "--output", tmp_path / "o", f"data.root={empty_version}", override
    )
    assert words in line


def test_visualize_names_a_missing_data_root(refused: Refused, tmp_path: Path) -> None:
    output = tmp_path / "a.png"
    line = refused("visualize", "--sample", "0", "--output", output, f"data.root={tmp_path / 'nowhere'}")
    assert f"{tmp_path / 'nowhere'}: no such folder" in line
    assert not output.exists()


# -- simulate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--preset", "sim-huge"],
            "preset 'sim-huge' is unknown; choose one of demo, sim-mini, sim-small, sim-unlabelled",
        ),
        (["--duration", "0.1"], "duration 0.1 s must be between 1 and 60"),
        (["--drives-train", "9999"], "number of train drives 9999 must be between 0 and 3008"),
        (["--weather", "hail"], "weather 'hail' is unknown; choose one of sunny"),
        (["--only-drive", "10"], "drive '10' is none of this set's 10: give 0 to 9, or a name such as scene-0061"),
        (["--verify"], "manifest.json is missing: finish the set with tools/simulate.py"),
        (["--drives-train", "0", "--drives-val", "0"], "a set without drives"),
        (["--image-scale", "2"], "image scale 2.0 must be between"),
        (["--seed", "-1"], "seed -1 must be between"),
        (["--workers", "0"], "workers 0 must be at least 1"),
    ],
)
def test_simulate_names_the_wrong_option(refused: Refused, tmp_path: Path, options: list[str], words: str) -> None:
    pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")
    assert words in refused("simulate", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_simulate_leaves_other_folders_alone(refused: Refused, tmp_path: Path) -> None:
    pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")
    (tmp_path / "letters.txt").write_text("mine")
    assert f"{tmp_path} is not empty and holds no simulated set" in refused("simulate", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_benchmark_names_what_is_wrong(refused: Refused, tmp_path: Path) -> None:
    out = ("--output", tmp_path / "out")
    assert "no such folder" in refused("benchmark", "ops", "--data", tmp_path / "none", *out)
    assert "unknown key 'data.rooot'" in refused("benchmark", "step", "configs/demo.yaml", *out, "data.rooot=x")
    assert not (tmp_path / "out" / "ops.json").exists()
