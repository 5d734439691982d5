"""Configurations: every file in configs/ is sound, every mistake gets one line that names key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

from fusionperc.config import Config, ConfigError, build_config, load_config
from fusionperc.models.fusionperc import FusionPerc

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A configuration file that changes two values."""
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  steps: 7\nmodel:\n  grid: {range_m: 25.6, cell_m: 1.6}\n")
    return path


def message(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_files_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    copy = tmp_path / "config.yaml"
    copy.write_text(config.to_yaml())
    assert load_config(copy) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_files_describe_a_network_that_can_be_built(path: Path) -> None:
    config = load_config(path, ["model.camera.weights=none"])
    with torch.device("meta"):
        model = FusionPerc(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) > 10_000


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_files_open_with_what_they_are_for(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_the_files_promised_are_there() -> None:
    names = {"demo", "tiny", "base", "nuscenes_mini", "nuscenes_trainval", "real_overfit"}
    assert names <= {path.stem for path in CONFIGS}


def test_trainval_is_base_with_damaged_samples_skipped() -> None:
    base, trainval = (load_config(ROOT / "configs" / f"{name}.yaml") for name in ("base", "nuscenes_trainval"))
    assert trainval.data.missing == "skip"
    assert trainval.model_copy(update={"data": base.data}) == base
    assert trainval.data.model_copy(update={"missing": base.data.missing}) == base.data


def test_defaults_are_a_whole_configuration() -> None:
    assert load_config() == Config()
    assert Config().model.grid.grid().shape == (128, 128)


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(written: Path) -> None:
    config = load_config(written, ["train.steps=9", "data.workers=0"])
    assert config.train.steps == 9
    assert config.data.workers == 0
    assert config.model.grid.cell_m == 1.6
    assert config.train.seed == Config().train.seed


def test_later_overrides_win() -> None:
    assert load_config(None, ["train.steps=1", "train.steps=2"]).train.steps == 2


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("train.steps=10", "train.steps", 10),
        ("train.class_balanced=false", "train.class_balanced", False),
        ("data.image_size=[64, 96]", "data.image_size", (64, 96)),
        ("data.scenes=[scene-0061]", "data.scenes", ("scene-0061",)),
        ("data.scenes=null", "data.scenes", None),
        ("data.root=/data/nu=scenes", "data.root", Path("/data/nu=scenes")),
        ("model.sensors=lc", "model.sensors", "LC"),
        ("model.lidar={pillar_m: 0.2, channels: [8], blocks: [1]}", "model.lidar.channels", (8,)),
        ("data.augmentation.scale=[1, 1]", "data.augmentation.scale", (1.0, 1.0)),
    ],
)
def test_override_forms(override: str, key: str, value: object) -> None:
    found: object = load_config(None, [override])
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


def test_sensors_are_named_in_the_package_order() -> None:
    assert load_config(None, ["model.sensors=lc"]).model.sensor_names == ("camera", "lidar")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.step=10", ["unknown key 'train.step'", "did you mean 'steps'"]),
        ("model.lidar.pilar_m=0.2", ["unknown key 'model.lidar.pilar_m'", "did you mean 'pillar_m'"]),
        ("run.xyzzy=1", ["unknown key 'run.xyzzy'", "known here: dir, resume"]),
        ("train.steps=many", ["train.steps", "'many'", "integer"]),
        ("train.steps=1.5", ["train.steps", "1.5", "integer"]),
        ("train.steps=0", ["train.steps", "= 0", "greater than or equal to 1"]),
        ("train.learning_rate=.nan", ["train.learning_rate", "nan", "finite"]),
        ("train.precision=fp8", ["train.precision", "'fp8'", "'bf16'"]),
        ("data.image_size=[100, 352]", ["data.image_size", "[100, 352]", "multiples of 32"]),
        ("data.missing=ignore", ["data.missing", "'ignore'", "'skip'"]),
        ("model.sensors=CX", ["model.sensors", "CX", "write e.g. CRL"]),
        ("model.sensors=CC", ["model.sensors", "CC", "write e.g. CRL"]),
        ("model.grid.cell_m=0.7", ["model.grid", "0.7", "change one"]),
        ("model.lidar.pillar_m=0.3", ["lidar.pillar_m", "0.3", "1, 2, 4"]),
        ("model.lidar.pillar_m=1.6", ["lidar.pillar_m", "1.6", "1, 2, 4"]),
        ("model.lidar.blocks=[1]", ["model.lidar", "equally long"]),
        ("model.fusion.heads=5", ["multiples of their heads"]),
        ("train=3", ["train", "= 3", "dictionary"]),
    ],
)
def test_wrong_values_are_told_with_key_and_remedy(override: str, told: list[str]) -> None:
    text = message(None, override)
    assert [words for words in told if words not in text] == []


def test_the_file_is_named_in_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("train: {step: 3, stepz: 4}\n")
    text = message(path)
    assert text.startswith(f"{path}: unknown key 'train.step'")
    assert "(and 1 more)" in text


@pytest.mark.parametrize("override", ["train.steps", "=3", "steps", ""])
def test_an_override_must_be_key_and_value(override: str) -> None:
    assert "is no key=value" in message(None, override)


def test_an_override_below_a_value_is_refused() -> None:
    assert "'seed' is a value, it has no keys below it" in message(None, "train.seed=1", "train.seed.x=2")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("train:\n  steps: 1\n  steps: 2\n", "line 3: key 'steps' is given twice; keep one"),
        ("data: {}\ndata: {}\n", "line 2: key 'data' is given twice; keep one"),
        ("train: [1, 2\n", "no valid YAML"),
        ("- a\n- b\n", "holds a list, expected 'key: value' lines"),
        ("just words\n", "holds a str, expected 'key: value' lines"),
        ("data: !!python/object:os.system {}\n", "no valid YAML"),
    ],
)
def test_files_that_cannot_be_read(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    text = message(path)
    assert told in text
    assert text.startswith(str(path))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "cannot read the configuration" in message(tmp_path / "absent.yaml")


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert load_config(path) == Config()


def test_the_kept_copy_is_plain_yaml_of_everything() -> None:
    values = yaml.safe_load(Config().to_yaml())
    assert list(values) == ["data", "model", "objective", "planning_objective", "pretraining", "train", "run"]
    assert values["data"]["image_size"] == [128, 352]
    assert build_config(values) == Config()


def test_records_cannot_be_changed_afterwards() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.train.steps = 3


def test_the_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert message(None, "a=1").startswith("defaults: ")
