"""A simulated folder, as the simulator writes it, through the whole reading chain."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fusionperc.config import DataConfig
from fusionperc.data.errors import DataError
from fusionperc.data.loading import DriveDataset, collate
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.geometry import points_in_boxes


def test_simulated_sample_is_whole_and_its_counts_agree(tiny_drives: Path) -> None:
    drives = NuScenesDrives(tiny_drives, "v1.0-mini", "all", config=DataConfig())
    place = len(drives) // 2
    sample = drives.read(place)
    assert sample.present.all() and sample.camera_present.all() and sample.is_labelled
    assert sample.lidar is not None
    boxes, points = sample.boxes, sample.lidar.xyz_m[: sample.num_keyframe_points]
    inside = points_in_boxes(points, boxes.center_m, boxes.size_lwh_m, sample.box_rotation).sum(1)
    official = sample.num_points[:, 0]
    assert len(boxes) > 0 and int(official.sum()) > 0
    # Points on a box's own face may fall to either side.
    assert int((inside - official).abs().sum()) <= 0.05 * int(official.sum())

    data = DriveDataset(drives, (128, 352), augmentation=DataConfig().augmentation)
    batch = collate([data[place], data[(0, place)]])
    assert batch.inputs.present.all() and batch.targets.depth_m is not None
    assert bool((batch.targets.depth_m > 0).any())
    assert torch.equal(batch.targets.boxes[0].class_index, batch.targets.boxes[1].class_index)


def test_a_damaged_table_is_not_read(tiny_drives: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_drives / "v1.0-mini", tmp_path / "v1.0-mini")
    shutil.copy(tiny_drives / "manifest.json", tmp_path)
    table = tmp_path / "v1.0-mini" / "ego_pose.json"
    table.write_text(table.read_text() + " ")
    with pytest.raises(DataError, match=r"ego_pose\.json is not what manifest\.json says: copy both again"):
        NuScenesDrives(tmp_path, "v1.0-mini", "all", config=DataConfig())
    (tmp_path / "manifest.json").unlink()
    drives = NuScenesDrives(tmp_path, "v1.0-mini", "all", config=DataConfig(missing="absent_sensor"))
    assert len(drives) == 12
