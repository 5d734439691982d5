"""Making of simulated sets: resumption, one job a drive, reproducibility, unlabelled sets."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes
from PIL import Image

from fusionperc.config import DataConfig
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.simulation import drives
from fusionperc.simulation.drives import finish, generate, generate_one
from fusionperc.simulation.sets import DriveSet, plan_drives
from fusionperc.simulation.writing.manifest import verify
from fusionperc.simulation.writing.writer import drive_file


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


def test_two_workers_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    generate(small(), tmp_path / "set", workers=2, on_key_frame=seen.append)
    assert sorted(seen) == ["scene-0061"] * 2 + ["scene-0103"] * 2
    assert digest(tmp_path / "set") == digest(made)


def test_an_interrupted_drive_is_made_again_by_a_job_of_its_own(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, plan = Path(shutil.copytree(made, tmp_path / "set")), small()
    drive_file(root, "scene-0061").unlink()
    shutil.rmtree(root / "v1.0-mini")
    with pytest.raises(ValueError, match=r"1 of 2 drives are missing \(scene-0061\): make them first"):
        finish(plan, root)

    def stop(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(plan, root, on_key_frame=stop)
    assert not drive_file(root, "scene-0061").exists()
    assert not (root / "v1.0-mini").exists(), "tables of a half-made set were written"
    picture = next(path for path in (root / "samples" / "CAM_BACK").iterdir() if "2026-01-01" in path.name)
    picture.write_bytes(picture.read_bytes()[:100])
    (picture.parent / f".{picture.name}.part").write_bytes(b"torn off")
    assert generate_one(plan, root, "0") == ["scene-0061"]
    finish(plan, root)
    assert digest(root) == digest(made)
    assert verify(root) == []
    # A finished set is left alone.
    monkeypatch.setattr(drives, "record_drive", lambda *_: pytest.fail("a finished drive was made again"))
    assert generate(plan, root) == []
    assert generate_one(plan, root, "scene-0061") == []


def test_another_set_in_the_folder_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"another simulated set \(seed 3, not 4\).*take another folder"):
        generate(small(seed=4), made)
    with pytest.raises(
        ValueError, match="drive '2' is none of this set's 2: give 0 to 1, or a name such as scene-0061"
    ):
        generate_one(small(), made, "2")
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="is not empty"):
        generate(small(), tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where nobody can write")
def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(OSError, match=r"/proc/fusionperc cannot be written.*take another folder"):
        generate(small(), Path("/proc/fusionperc"))


def test_rows_of_a_drive_are_complete(made: Path) -> None:
    written = json.loads(drive_file(made, "scene-0061").read_text())
    assert len(written["tables"]["sample"]) == 2
    lidar = [row for row in written["tables"]["sample_data"] if "LIDAR_TOP" in row["filename"]]
    assert len(lidar) == 10 + 11
    assert {row["is_key_frame"] for row in lidar[:10]} == {False}
    assert {row["filename"] for row in written["tables"]["sample_data"]} < set(written["files"])


def test_an_unlabelled_set_is_read_by_the_devkit_and_by_us(tmp_path: Path) -> None:
    pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")
    plan = plan_drives(
        "sim-unlabelled", 3, num_train=1, num_val=0, duration_s=1.0, image_scale=0.05, lidar_azimuths=60, compact=True,
        weather="night",
    )  # fmt: skip
    generate(plan, tmp_path)
    nusc = NuScenes(version="v1.0-test", dataroot=str(tmp_path), verbose=False)
    assert nusc.sample_annotation == nusc.instance == []
    assert len(nusc.sample) == 2 and len(nusc.category) == 23
    assert all(sample["anns"] == [] and len(sample["data"]) == 12 for sample in nusc.sample)
    assert "night" in nusc.scene[0]["description"].lower()
    path = nusc.get_sample_data_path(nusc.sample[0]["data"]["CAM_FRONT"])
    with Image.open(path) as picture:
        assert picture.quantization[0][0] > 4, "compact sets compress their pictures further"
    sweeps = sorted(row["timestamp"] for row in nusc.sample_data if row["channel"] == "LIDAR_TOP")
    assert set(np.diff(sweeps)) == {100_000}, "compact sets have LiDAR sweeps at 10 Hz"
    assert {sample["timestamp"] for sample in nusc.sample} <= set(sweeps)
    read = NuScenesDrives(tmp_path, "v1.0-test", "sim_train", config=DataConfig())
    sample = read.read(1)
    assert len(read) == 2 and len(sample.boxes) == 0 and not sample.is_labelled
