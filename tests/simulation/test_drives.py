"""Plans, resumption and reproducibility of simulated sets."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nuscenes.utils import splits

from fusionperc.simulation import drives
from fusionperc.simulation.drives import PRESETS, DriveSet, generate, plan_drives, scene_names
from fusionperc.simulation.writer import drive_file

ROOT = Path(__file__).resolve().parents[2]


def small(num_train: int = 1, num_val: int = 1, seed: int = 3) -> DriveSet:
    return plan_drives(
        "demo", seed, num_train=num_train, num_val=num_val, duration_s=1.0, image_scale=0.05, lidar_azimuths=60
    )


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")
    root = tmp_path_factory.mktemp("drives")
    seen: list[str] = []
    assert generate(small(), root, on_key_frame=seen.append) == ["scene-0061", "scene-0103"]
    assert seen == ["scene-0061"] * 2 + ["scene-0103"] * 2
    return root


def test_names_are_the_official_splits() -> None:
    trainval, mini = PRESETS["sim-small"], PRESETS["sim-mini"]
    assert scene_names(trainval.train) == splits.train
    assert scene_names(trainval.val) == splits.val
    assert scene_names(mini.train) == splits.mini_train
    assert scene_names(mini.val) == splits.mini_val


@pytest.mark.parametrize("preset", PRESETS)
def test_train_and_validation_share_no_town(preset: str) -> None:
    plan = plan_drives(preset, 0)
    towns = {split: {d.town_seed for d in plan.drives if d.split == split} for split in ("train", "val")}
    assert not towns["train"] & towns["val"]
    assert len(towns["train"]) < len(plan.names("train"))
    assert len({drive.number for drive in plan.drives}) == len(plan.drives)
    other = plan_drives(preset, 1)
    assert not {d.town_seed for d in other.drives} & (towns["train"] | towns["val"])


def test_plan_overrides_and_errors() -> None:
    plan = plan_drives("sim-small", 0, num_train=3, num_val=2, duration_s=5, image_scale=0.2)
    assert plan.version == "v1.0-trainval"
    assert plan.num_key_frames == 50
    assert plan.names("val") == ["scene-0003", "scene-0012"]
    with pytest.raises(ValueError, match="'huge' is unknown; choose one of demo, sim-mini, sim-small"):
        plan_drives("huge", 0)
    with pytest.raises(ValueError, match="number of val drives 3"):
        plan_drives("demo", 0, num_val=3)
    with pytest.raises(ValueError, match="duration"):
        plan_drives("demo", 0, duration_s=0.1)
    with pytest.raises(ValueError, match="image scale"):
        plan_drives("demo", 0, image_scale=2)
    with pytest.raises(ValueError, match="at least one"):
        plan_drives("demo", 0, num_train=0, num_val=0)


def test_two_workers_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    generate(small(), tmp_path / "set", workers=2, on_key_frame=seen.append)
    assert sorted(seen) == ["scene-0061"] * 2 + ["scene-0103"] * 2
    assert digest(tmp_path / "set") == digest(made)


def test_an_interrupted_set_goes_on(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"

    def stop(name: str) -> None:
        if name == "scene-0103":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(small(), root, on_key_frame=stop)
    assert drive_file(root, "scene-0061").is_file()
    assert not drive_file(root, "scene-0103").exists()
    assert not (root / "v1.0-mini").exists(), "tables of a half-made set were written"
    assert generate(small(), root) == ["scene-0103"]
    assert digest(root) == digest(made)
    # A finished set is left alone.
    monkeypatch.setattr(drives, "record_drive", lambda *_: pytest.fail("a finished drive was made again"))
    assert generate(small(), root) == []


def test_another_set_in_the_folder_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"another simulated set \(seed 3, not 4\).*take another folder"):
        generate(small(seed=4), made)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="is not empty"):
        generate(small(), tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where nobody can write")
def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(OSError, match=r"/proc/fusionperc cannot be written.*take another folder"):
        generate(small(), Path("/proc/fusionperc"))


def test_rows_of_a_drive_are_complete(made: Path) -> None:
    rows = json.loads(drive_file(made, "scene-0061").read_text())["tables"]
    assert len(rows["sample"]) == 2
    lidar = [row for row in rows["sample_data"] if "LIDAR_TOP" in row["filename"]]
    assert len(lidar) == 10 + 11
    assert {row["is_key_frame"] for row in lidar[:10]} == {False}


def test_tool_speaks_one_line_for_a_users_mistake() -> None:
    done = subprocess.run(
        [sys.executable, "tools/simulate.py", "/proc/nowhere", "--preset", "huge"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == "error: preset 'huge' is unknown; choose one of demo, sim-mini, sim-small"
