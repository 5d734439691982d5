"""`NuScenesDrives` against the devkit on real data, and on a small folder whose geometry is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusionperc.config import DataConfig
from fusionperc.data.index import LIDAR_COLUMN
from fusionperc.data.nuscenes import DataError, NuScenesDrives
from fusionperc.data.pictures import PictureCrop
from fusionperc.geometry import points_in_boxes, project_points, transform_points
from fusionperc.types import ATTRIBUTES, CAMERAS, CLASSES, COMMANDS

CONFIG = DataConfig()


def opened(root: Path, split: str = "all", **changes: Any) -> NuScenesDrives:
    config = DataConfig.model_validate({**CONFIG.model_dump(), **changes})
    return NuScenesDrives(root, "v1.0-mini", split, config=config)


# -- real data --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def devkit(real_nuscenes: Path) -> Any:
    from nuscenes.nuscenes import NuScenes

    return NuScenes(version="v1.0-mini", dataroot=str(real_nuscenes), verbose=False)


@pytest.mark.parametrize("keep_ego_returns", [True, False])
def test_points_in_boxes_equal_the_official_counts(real_nuscenes: Path, keep_ego_returns: bool) -> None:
    drives = opened(real_nuscenes, "mini_train", keep_ego_returns=keep_ego_returns, scenes=("scene-0061",))
    sample = drives.read(0)
    assert sample.present.tolist() == [True, False, True]
    assert sample.lidar is not None and sample.num_keyframe_points == len(sample.lidar)
    boxes = sample.boxes
    inside = points_in_boxes(sample.lidar.xyz_m, boxes.center_m, boxes.size_lwh_m, sample.box_rotation)
    assert len(boxes) == 68
    assert inside.sum(1).tolist() == sample.num_points[:, 0].tolist()


def test_labels_equal_the_devkit(real_nuscenes: Path, devkit: Any) -> None:
    from nuscenes.eval.detection.utils import category_to_detection_name
    from pyquaternion import Quaternion

    drives = opened(real_nuscenes, "mini_val", missing="absent_sensor")
    assert len(drives) == 81
    seen = 0
    for index in range(0, 81, 4):
        token = drives.sample_tokens[index]
        record = devkit.get("sample", token)
        pose = devkit.get("ego_pose", devkit.get("sample_data", record["data"]["LIDAR_TOP"])["ego_pose_token"])
        labels = drives.labels(index)
        boxes = labels.boxes
        global_T_ego = drives.global_T_ego(token)
        expected = [
            a for a in record["anns"] if category_to_detection_name(devkit.get("sample_annotation", a)["category_name"])
        ]
        assert set(labels.annotation_tokens) == set(expected)
        for place, annotation in enumerate(labels.annotation_tokens):
            row = devkit.get("sample_annotation", annotation)
            box = devkit.get_box(annotation)
            velocity = devkit.box_velocity(annotation)
            back = global_T_ego[:3, :3] @ torch.tensor([*boxes.velocity_mps[place].double(), 0.0], dtype=torch.float64)
            np.testing.assert_allclose(back[:2], velocity[:2], atol=1e-5)
            box.translate(-np.array(pose["translation"]))
            box.rotate(Quaternion(pose["rotation"]).inverse)
            np.testing.assert_allclose(boxes.center_m[place], box.center, atol=1e-4)
            np.testing.assert_allclose(labels.box_rotation[place], box.rotation_matrix, atol=1e-6)
            assert float(boxes.yaw_rad[place]) == pytest.approx(np.arctan2(*box.rotation_matrix[[1, 0], 0]), abs=1e-5)
            np.testing.assert_allclose(boxes.size_lwh_m[place], np.array(row["size"])[[1, 0, 2]], rtol=1e-6)
            assert CLASSES[boxes.class_index[place]] == category_to_detection_name(row["category_name"])
            attribute = int(boxes.attribute_index[place])
            names = [devkit.get("attribute", t)["name"] for t in row["attribute_tokens"]]
            assert ([ATTRIBUTES[attribute]] if attribute >= 0 else []) == names
            assert labels.num_points[place].tolist() == [row["num_lidar_pts"], row["num_radar_pts"]]
            seen += 1
    assert seen > 500


@pytest.mark.parametrize("crop", [None, PictureCrop((256, 704), 1.1, -0.5)])
def test_cameras_project_as_the_devkit(real_nuscenes: Path, devkit: Any, crop: PictureCrop | None) -> None:
    from nuscenes.utils.geometry_utils import view_points

    drives = opened(real_nuscenes, "mini_train", scenes=("scene-0061",))
    sample = drives.read(0, None if crop is None else [crop] * len(CAMERAS))
    compared = 0
    for camera, channel in enumerate(CAMERAS):
        record = devkit.get("sample_data", devkit.get("sample", sample.token)["data"][channel])
        _, boxes, intrinsics = devkit.get_sample_data(record["token"])
        pixel, depth = project_points(
            sample.intrinsics[camera].double(), sample.camera_T_ego[camera].double(), sample.boxes.center_m.double()
        )
        for box in boxes:
            if box.token not in sample.annotation_tokens or box.center[2] < 1:
                continue
            place = sample.annotation_tokens.index(box.token)
            expected = view_points(box.center[:, None], intrinsics, normalize=True)[:2, 0]
            if crop is not None:
                scale, left, top = crop.scale_and_origin((900, 1600))
                expected = scale * expected - [left, top]
            np.testing.assert_allclose(pixel[place], expected, atol=0.1)
            assert float(depth[place]) == pytest.approx(box.center[2], abs=1e-3)
            compared += 1
    assert compared > 40


def test_real_missing_files(real_nuscenes: Path) -> None:
    with pytest.raises(DataError, match="data.missing to skip or absent_sensor"):
        opened(real_nuscenes, "mini_val")
    with pytest.raises(DataError, match="for every sample of split 'mini_val'"):
        opened(real_nuscenes, "mini_val", missing="skip")
    drives = opened(real_nuscenes, "mini_val", missing="absent_sensor")
    sample = drives.read(1)
    assert sample.present.tolist() == [True, False, False]
    assert sample.lidar is None and sample.radar is None
    with pytest.raises(DataError, match="no file of any sensor"):
        drives.read(10)


def test_real_can_bus_and_trajectory(real_nuscenes: Path) -> None:
    drives = opened(real_nuscenes, "mini_val", missing="absent_sensor")
    sample = drives.read(1)
    step_m = float(sample.ego_future_m[0, :2].norm())
    assert float(sample.can_bus[0]) == pytest.approx(step_m / 0.5, rel=0.05)
    assert torch.isnan(sample.ego_past_m[:3]).all() and torch.isfinite(sample.ego_past_m[3]).all()


# -- a small folder of known geometry ---------------------------------------------------------------------------------


def test_sweeps_meet_in_the_key_frame(
    small_folder: Path, static_points: np.ndarray, pose_at: Callable[[float], np.ndarray]
) -> None:
    drives = opened(small_folder, "fit")
    assert drives.sample_tokens == [f"sample-0-{place}" for place in range(9)]
    sample = drives.read(3)
    lidar, radar = sample.lidar, sample.radar
    assert lidar is not None and radar is not None
    expected = transform_points(torch.linalg.inv(drives.global_T_ego("sample-0-3")), torch.from_numpy(static_points))
    np.testing.assert_allclose(drives.global_T_ego("sample-0-3"), pose_at(1.5), atol=1e-9)
    assert len(lidar) == 10 * len(static_points), "the 'no return' at the sensor is removed"
    assert sample.num_keyframe_points == len(static_points)
    for sweep, xyz in enumerate(lidar.xyz_m.split(len(static_points))):
        np.testing.assert_allclose(xyz, expected, atol=2e-4)
        age = lidar.features[sweep * len(static_points), 1]
        assert float(age) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.5, 0.55, 0.6, 0.65, 0.7][sweep], abs=1e-6)
    torch.testing.assert_close(lidar.features[:, 0], torch.full((len(lidar),), 51 / 255))

    assert len(radar) == 2 * 6 * len(static_points)
    np.testing.assert_allclose(radar.xyz_m[: len(static_points)], expected, atol=2e-4)
    rotation = torch.linalg.inv(drives.global_T_ego("sample-0-3"))[:2, :2]
    velocity = (rotation @ torch.tensor([1.0, 2.0], dtype=torch.float64)).float()
    torch.testing.assert_close(radar.features[:, 1:3], velocity.expand(len(radar), 2), atol=2e-3, rtol=0)
    assert radar.features[:, 0].unique().tolist() == [7.5]
    assert float(radar.features[0, 3]) == pytest.approx(-0.007, abs=1e-6), "radars fire a little after the LiDAR"


def test_start_of_a_drive_has_fewer_sweeps(small_folder: Path, static_points: np.ndarray) -> None:
    sample = opened(small_folder, "held").read(0)
    assert sample.lidar is not None and len(sample.lidar) == 5 * len(static_points)
    assert sample.radar is not None and len(sample.radar) == 2 * 2 * len(static_points)
    only = opened(small_folder, lidar_sweeps=1, radar_sweeps=1).read(3)
    assert only.lidar is not None and len(only.lidar) == only.num_keyframe_points == len(static_points)


def test_every_second_sweep_looks_twice_as_far_back(small_folder: Path, static_points: np.ndarray) -> None:
    lidar = opened(small_folder, "fit", lidar_sweeps=5, lidar_sweep_stride=2).read(3).lidar
    assert lidar is not None and len(lidar) == 5 * len(static_points)
    ages = lidar.features[:: len(static_points), 1]
    assert ages.tolist() == pytest.approx([0, 0.1, 0.2, 0.55, 0.65], abs=1e-6)
    first = opened(small_folder, "held", lidar_sweeps=10, lidar_sweep_stride=2).read(0).lidar
    assert first is not None and len(first) == 3 * len(static_points), "the drive begins with five sweeps"


def test_own_returns_are_kept_on_request(small_folder: Path, static_points: np.ndarray) -> None:
    sample = opened(small_folder, keep_ego_returns=True, lidar_sweeps=1).read(0)
    assert sample.lidar is not None and len(sample.lidar) == len(static_points) + 1


def test_boxes_velocity_trajectory_command_can_bus(small_folder: Path, pose_at: Callable[[float], np.ndarray]) -> None:
    sample = opened(small_folder, "fit").read(2)
    assert sample.is_labelled and [CLASSES[c] for c in sample.boxes.class_index] == ["car", "pedestrian"]
    ego_T_global = np.linalg.inv(pose_at(1.0))
    along_ground = np.linalg.solve(pose_at(1.0)[:2, :2], [2.0, 1.0])
    np.testing.assert_allclose(sample.boxes.velocity_mps[0], along_ground, atol=1e-5)
    np.testing.assert_allclose(sample.boxes.center_m[0], (ego_T_global @ [122, 206, 0.9, 1])[:3], atol=1e-4)
    assert sample.boxes.attribute_index.tolist() == [0, -1] and sample.visibility.tolist() == [4, 0]
    for at_s, row in zip((1.5, 2.0, 4.0), sample.ego_future_m[[0, 1, 5]], strict=True):
        expected = ego_T_global @ pose_at(at_s)
        np.testing.assert_allclose(row[:2], expected[:2, 3], atol=2e-3)
        assert float(row[2]) == pytest.approx(np.arctan2(expected[1, 0], expected[0, 0]), abs=1e-3)
    assert torch.isnan(sample.ego_past_m[0]).all() and torch.isfinite(sample.ego_past_m[2:]).all()
    assert COMMANDS[sample.command] == "left"
    np.testing.assert_allclose(sample.can_bus, [6.0, 0.1, 0.9, 0.15], atol=1e-6)
    assert torch.isnan(opened(small_folder, "fit").read(6).can_bus).all(), "messages end before this sample"
    late = opened(small_folder, "fit").read(8)
    assert late.command == -1 and torch.isnan(late.ego_future_m).all()
    assert torch.isnan(opened(small_folder, "held").read(0).can_bus).all()


def test_absent_sensors(folder_writer: Callable[[], Any]) -> None:
    writer = folder_writer()
    writer.drive(0, radar=False)
    writer.drive(1, lidar=False)
    root = writer.write()
    sample = opened(root, "fit").read(4)
    assert sample.present.tolist() == [True, False, True] and sample.radar is None
    sample = opened(root, "held").read(4)
    assert sample.present.tolist() == [True, True, False]
    assert opened(root, "fit").read(0, sensors=("lidar",)).present.tolist() == [False, False, True]


def test_modes_of_missing_files(small_folder: Path) -> None:
    drives = opened(small_folder)
    row = drives.index.sample_row[4]
    lidar, front = (small_folder / drives.index.row_file[row[c]].decode() for c in (LIDAR_COLUMN, 0))
    lidar.unlink()
    front.unlink()
    with pytest.raises(DataError, match=f"{front}: not there .2 of .* set data.missing"):
        opened(small_folder)
    assert "sample-0-4" not in opened(small_folder, missing="skip").sample_tokens
    assert len(opened(small_folder, missing="skip")) == 17
    sample = opened(small_folder, missing="absent_sensor").read(4)
    assert sample.present.tolist() == [True, True, False]
    assert sample.camera_present.tolist() == [False, True, True, True, True, True]
    assert int(sample.images[0].max()) == 0 and int(sample.images[1].max()) > 200


def test_missing_past_sweep(small_folder: Path, static_points: np.ndarray) -> None:
    drives = opened(small_folder)
    row = int(drives.index.sample_row[4, LIDAR_COLUMN]) - 1
    sweep = small_folder / drives.index.row_file[row].decode()
    sweep.unlink()
    with pytest.raises(DataError, match=f"{sweep}: not there: .* data.lidar_sweeps=1"):
        drives.read(4)
    sample = opened(small_folder, missing="skip").read(4)
    assert sample.lidar is not None and len(sample.lidar) == 9 * len(static_points)


@pytest.mark.parametrize(
    "leave_out", [("sample_annotation",), ("sample_annotation", "instance", "category"), ("instance",)]
)
def test_drives_without_annotation_tables(folder_writer: Callable[[], Any], leave_out: tuple[str, ...]) -> None:
    writer = folder_writer()
    writer.drive(0)
    drives = opened(writer.write(leave_out=leave_out))
    sample = drives.read(2)
    assert not sample.is_labelled and len(sample.boxes) == 0
    assert drives.class_counts().sum() == 0


def test_a_drive_without_annotations_among_labelled_ones(folder_writer: Callable[[], Any]) -> None:
    writer = folder_writer()
    writer.drive(0)
    writer.drive(1, objects=0)
    drives = opened(writer.write())
    assert drives.read(0).is_labelled and not drives.read(9).is_labelled


def test_index_cache_gives_the_same_and_follows_the_tables(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusionperc.data import nuscenes

    cache = tmp_path / "cache"
    first = NuScenesDrives(small_folder, "v1.0-mini", "all", config=CONFIG, cache=cache)
    built = []
    build = nuscenes.build_index
    monkeypatch.setattr(nuscenes, "build_index", lambda *args: built.append(1) or build(*args))
    second = NuScenesDrives(small_folder, "v1.0-mini", "all", config=CONFIG, cache=cache)
    assert not built and isinstance(second.index.row_pose, np.memmap)
    for name, value in vars(first.read(3)).items():
        other = getattr(second.read(3), name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(), other.nan_to_num()), name

    table = small_folder / "v1.0-mini" / "sample_annotation.json"
    rows = json.loads(table.read_text())
    rows[0]["num_lidar_pts"] = 6  # of the same length: only the content tells
    table.write_text(json.dumps(rows))
    third = NuScenesDrives(small_folder, "v1.0-mini", "all", config=CONFIG, cache=cache)
    assert built == [1] and int(third.labels(0).num_points[0, 0]) == 6

    damaged = next(cache.glob("index-*")) / "row_pose.npy"
    for folder in cache.glob("index-*"):
        (folder / "row_pose.npy").write_bytes(damaged.read_bytes()[:200])
    assert len(NuScenesDrives(small_folder, "v1.0-mini", "all", config=CONFIG, cache=cache)) == 18


def test_wrong_folder_version_split_scene(small_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; set data.root"):
        NuScenesDrives(tmp_path / "none", "v1.0-mini", "all", config=CONFIG)
    with pytest.raises(DataError, match=r"no version 'v1.0-trainval' \(versions found there: v1.0-mini\)"):
        NuScenesDrives(small_folder, "v1.0-trainval", "all", config=CONFIG)
    with pytest.raises(DataError, match="unknown split 'valid'; known: all, fit, held"):
        opened(small_folder, "valid")
    with pytest.raises(DataError, match="no drive of split 'nothing' is here .*: all, fit, held"):
        opened(small_folder, "nothing")
    with pytest.raises(DataError, match=r"unknown drives \['scene-7'\]; known: scene-0001, scene-0002"):
        opened(small_folder, scenes=("scene-7",))
    with pytest.raises(DataError, match="no drive of data.scenes is in split 'fit'"):
        opened(small_folder, "fit", scenes=("scene-0002",))
    assert len(opened(small_folder, scenes=("scene-0002",))) == 9
    with pytest.raises(DataError, match="sample token 'x' is not in split"):
        opened(small_folder).global_T_ego("x")


def test_damaged_tables(small_folder: Path) -> None:
    folder = small_folder / "v1.0-mini"
    good = (folder / "ego_pose.json").read_text()
    (folder / "ego_pose.json").write_text(good[:100])
    with pytest.raises(DataError, match="ego_pose.json: no valid JSON"):
        opened(small_folder)
    (folder / "ego_pose.json").write_text(json.dumps(json.loads(good)[1:]))
    with pytest.raises(DataError, match="tables do not fit together .*copy them again"):
        opened(small_folder)
    (folder / "ego_pose.json").unlink()
    with pytest.raises(DataError, match="ego_pose.json is missing"):
        opened(small_folder)


def test_damaged_sensor_files_are_named(small_folder: Path) -> None:
    drives = opened(small_folder)
    row = drives.index.sample_row[0]
    for column, name in ((0, "CAM_FRONT"), (LIDAR_COLUMN, "LIDAR_TOP"), (LIDAR_COLUMN + 1, "RADAR_FRONT")):
        file = small_folder / drives.index.row_file[row[column]].decode()
        content = file.read_bytes()
        file.write_bytes(content[:-30])
        with pytest.raises(DataError, match=rf"{name}.*fetch the file again"):
            drives.read(0)
        file.write_bytes(content)
