"""The written folder through the official devkit's eyes."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud
from nuscenes.utils.splits import get_scenes_of_split
from PIL import Image
from pyquaternion import Quaternion

from fusionperc.geometry import points_in_boxes
from fusionperc.simulation.sensors.rig import RIG
from fusionperc.simulation.writing.writer import TABLES, DriveName, DriveWriter, token, write_file
from fusionperc.types import CAMERAS, RADARS

mpl.use("Agg")


@pytest.fixture(scope="module")
def nusc(tiny_drives: Path) -> NuScenes:
    return NuScenes(version="v1.0-mini", dataroot=str(tiny_drives), verbose=False)


def test_all_tables_hold_what_nuscenes_holds(nusc: NuScenes) -> None:
    for table in TABLES:
        assert len(getattr(nusc, table)) > 0, table
        tokens = [row["token"] for row in getattr(nusc, table)]
        assert len(set(tokens)) == len(tokens), table
    assert len(nusc.category) == 23
    assert len(nusc.attribute) == 8
    assert [row["token"] for row in nusc.visibility] == ["1", "2", "3", "4"]
    assert len(nusc.sensor) == 12


def test_columns_are_the_real_ones(nusc: NuScenes, real_nuscenes: Path) -> None:
    for table in TABLES:
        real = json.loads((real_nuscenes / "v1.0-mini" / f"{table}.json").read_text())[0]
        ours = json.loads((Path(nusc.dataroot) / "v1.0-mini" / f"{table}.json").read_text())[0]
        assert set(ours) == set(real), table


def test_every_link_leads_somewhere(nusc: NuScenes) -> None:
    for scene in nusc.scene:
        assert nusc.get("log", scene["log_token"])["logfile"].startswith("n099-")
        key, count = scene["first_sample_token"], 0
        last = ""
        while key:
            sample = nusc.get("sample", key)
            assert sample["prev"] == last
            assert sample["scene_token"] == scene["token"]
            assert set(sample["data"]) == set(RIG)
            last, key, count = key, sample["next"], count + 1
        assert count == scene["nbr_samples"] and last == scene["last_sample_token"]
    for row in nusc.sample_data:
        assert (Path(nusc.dataroot) / row["filename"]).is_file()
        pose = nusc.get("ego_pose", row["ego_pose_token"])
        assert pose["timestamp"] == row["timestamp"]
        nusc.get("sample", row["sample_token"])
        if row["next"]:
            following = nusc.get("sample_data", row["next"])
            assert following["prev"] == row["token"] and following["timestamp"] > row["timestamp"]
            assert following["calibrated_sensor_token"] == row["calibrated_sensor_token"]
    for instance in nusc.instance:
        key, count = instance["first_annotation_token"], 0
        while key:
            row = nusc.get("sample_annotation", key)
            assert row["instance_token"] == instance["token"]
            assert row["num_lidar_pts"] + row["num_radar_pts"] > 0
            last, key, count = key, row["next"], count + 1
        assert count == instance["nbr_annotations"] and last == instance["last_annotation_token"]
    for sample in nusc.sample:
        on_map = nusc.get("log", nusc.get("scene", sample["scene_token"])["log_token"])["map_token"]
        assert (Path(nusc.dataroot) / nusc.get("map", on_map)["filename"]).is_file()


def test_first_key_frame_has_ten_sweeps_and_five_radar_scans_before_it(nusc: NuScenes) -> None:
    for scene in nusc.scene:
        sample = nusc.get("sample", scene["first_sample_token"])
        lidar, times = LidarPointCloud.from_file_multisweep(nusc, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=11)
        assert len(np.unique(times)) == 11
        assert lidar.points.shape[1] == times.shape[1]
        for channel in RADARS:
            _, ages = RadarPointCloud.from_file_multisweep(nusc, sample, channel, "LIDAR_TOP", nsweeps=6)
            assert len(np.unique(ages)) == 6


def test_sensors_fire_around_the_sample(nusc: NuScenes) -> None:
    for sample in nusc.sample:
        for channel, key in sample["data"].items():
            row = nusc.get("sample_data", key)
            delay_ms = (row["timestamp"] - sample["timestamp"]) / 1e3
            if channel == "LIDAR_TOP":
                assert delay_ms == 0
            elif channel in CAMERAS:
                assert -50 < delay_ms <= 0
            else:
                assert abs(delay_ms) <= 39


def test_pictures_have_the_written_size_and_intrinsics(nusc: NuScenes) -> None:
    for channel in CAMERAS:
        path, _, intrinsics = nusc.get_sample_data(nusc.sample[0]["data"][channel])
        row = nusc.get("sample_data", nusc.sample[0]["data"][channel])
        with Image.open(path) as picture:
            assert picture.size == (row["width"], row["height"]) == (352, 198)
        # Every vehicle has lenses of its own, not far from the usual ones.
        assert intrinsics[0, 2] / row["width"] == pytest.approx(816 / 1600, abs=0.04)
        assert intrinsics[0, 0] == pytest.approx((809 if channel == "CAM_BACK" else 1266) * 352 / 1600, rel=0.03)


def _as_detections(nusc: NuScenes, sample: dict) -> list[dict]:
    """The annotations of a sample as a perfect detector would report them."""
    detections = []
    for annotation in (nusc.get("sample_annotation", key) for key in sample["anns"]):
        name = category_to_detection_name(annotation["category_name"])
        if name is not None:
            attributes = [nusc.get("attribute", key)["name"] for key in annotation["attribute_tokens"]]
            velocity = np.nan_to_num(nusc.box_velocity(annotation["token"])[:2]).tolist()
            detections.append(
                {
                    **{key: annotation[key] for key in ("sample_token", "translation", "size", "rotation")},
                    "velocity": velocity,
                    "detection_name": name,
                    "detection_score": 1.0,
                    "attribute_name": attributes[0] if attributes else "",
                }
            )
    return detections


def _global_points(nusc: NuScenes, key: str) -> np.ndarray:
    """A scan moved to the global frame by the devkit's own steps."""
    row = nusc.get("sample_data", key)
    path = str(Path(nusc.dataroot) / row["filename"])
    is_radar = row["sensor_modality"] == "radar"
    # nuScenes counts radar points without any filter: all 18 invalid states, 8 dynamic and 5 ambiguity states.
    radar_states = [list(range(count)) for count in (18, 8, 5)]
    cloud = RadarPointCloud.from_file(path, *radar_states) if is_radar else LidarPointCloud.from_file(path)
    for table, link in (("calibrated_sensor", "calibrated_sensor_token"), ("ego_pose", "ego_pose_token")):
        pose = nusc.get(table, row[link])
        cloud.rotate(Quaternion(pose["rotation"]).rotation_matrix)
        cloud.translate(np.array(pose["translation"]))
    return cloud.points[:3].T


def _inside(nusc: NuScenes, keys: list[str], annotations: list[dict]) -> np.ndarray:
    points = torch.from_numpy(np.concatenate([_global_points(nusc, key) for key in keys]).astype(np.float64))
    size = torch.tensor([row["size"] for row in annotations], dtype=torch.float64)[:, [1, 0, 2]]
    rotation = torch.from_numpy(np.stack([Quaternion(row["rotation"]).rotation_matrix for row in annotations]))
    center = torch.tensor([row["translation"] for row in annotations], dtype=torch.float64)
    return points_in_boxes(points, center, size, rotation).sum(1).numpy()


def test_point_counts_equal_a_recount(nusc: NuScenes) -> None:
    total = np.zeros(2, dtype=int)
    for sample in nusc.sample:
        annotations = [nusc.get("sample_annotation", key) for key in sample["anns"]]
        lidar = _inside(nusc, [sample["data"]["LIDAR_TOP"]], annotations)
        radar = _inside(nusc, [sample["data"][channel] for channel in RADARS], annotations)
        np.testing.assert_array_equal(lidar, [row["num_lidar_pts"] for row in annotations])
        np.testing.assert_array_equal(radar, [row["num_radar_pts"] for row in annotations])
        total += [lidar.sum(), radar.sum()]
    assert total[0] > 1000 and total[1] > 20


def test_boxes_move_as_the_devkit_derives(nusc: NuScenes) -> None:
    speeds = {"vehicle.moving": [], "vehicle.parked": []}
    for row in nusc.sample_annotation:
        names = [nusc.get("attribute", key)["name"] for key in row["attribute_tokens"]]
        velocity = nusc.box_velocity(row["token"])
        if names and names[0] in speeds and np.isfinite(velocity).all():
            speeds[names[0]].append(float(np.linalg.norm(velocity[:2])))
    assert max(speeds["vehicle.parked"]) < 0.05
    assert np.median(speeds["vehicle.moving"]) > 1.0


def test_labels_use_known_words(nusc: NuScenes) -> None:
    levels = {row["visibility_token"] for row in nusc.sample_annotation}
    assert levels <= {"1", "2", "3", "4"} and len(levels) >= 3
    categories = {row["category_name"] for row in nusc.sample_annotation}
    assert {"vehicle.car", "human.pedestrian.adult"} <= categories
    for row in nusc.sample_annotation:
        bare = row["category_name"].startswith("movable_object")
        assert len(row["attribute_tokens"]) == (0 if bare else 1), row["category_name"]


def test_ego_drives_on_the_drivable_area(nusc: NuScenes) -> None:
    for scene in nusc.scene:
        record = nusc.get("map", nusc.get("log", scene["log_token"])["map_token"])
        with Image.open(Path(nusc.dataroot) / record["filename"]) as picture:
            assert picture.mode == "L"
            mask = np.asarray(picture)
        assert set(np.unique(mask)) == {0, 255}
        sample = nusc.get("sample", scene["first_sample_token"])
        pose = nusc.get("ego_pose", nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])
        assert record["mask"].is_on_mask(pose["translation"][0], pose["translation"][1])[0]
        assert min(pose["translation"][:2]) > 0


def test_splits_name_the_drives(nusc: NuScenes) -> None:
    assert get_scenes_of_split("sim_train", nusc) == ["scene-0061", "scene-0553"]
    assert get_scenes_of_split("sim_val", nusc) == ["scene-0103"]
    assert set(get_scenes_of_split("sim_val", nusc)) <= set(get_scenes_of_split("mini_val", nusc))


def test_tokens_depend_on_all_parts() -> None:
    assert token("a", 1) == token("a", 1)
    assert len({token("a", 1), token("a", 2), token("b", 1), token("a")}) == 4
    assert len(token("a")) == 32


def test_a_file_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.bin"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [child.name for child in path.parent.iterdir()] == ["file.bin"]


def test_a_shared_file_is_made_once(tmp_path: Path) -> None:
    made: list[str] = []
    for name in ("scene-0001", "scene-0002"):
        writer = DriveWriter(tmp_path, DriveName("set", name, "town", 0), (16, 9), RIG)
        writer.write_shared("maps/town.json", lambda name=name: made.append(name) or b"town")
    assert made == ["scene-0001"]
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["town.json"]


def test_the_devkit_draws_a_sample(nusc: NuScenes, tmp_path: Path) -> None:
    sample = nusc.sample[1]
    for channel in ("CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT"):
        path = tmp_path / f"{channel}.png"
        nusc.render_sample_data(sample["data"][channel], nsweeps=1, out_path=str(path), verbose=False)
        assert path.stat().st_size > 5000
    token = max(nusc.sample_annotation, key=lambda row: row["num_lidar_pts"])["token"]
    nusc.render_annotation(token, out_path=str(tmp_path / "annotation.png"))
    assert (tmp_path / "annotation.png").stat().st_size > 5000
    mpl.pyplot.close("all")


def test_ground_truth_scores_full_marks(nusc: NuScenes, tmp_path: Path) -> None:
    results = {
        "meta": {f"use_{name}": True for name in ("camera", "lidar", "radar", "map", "external")},
        "results": {sample["token"]: _as_detections(nusc, sample) for sample in nusc.sample},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    config = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(nusc, config, str(tmp_path / "results.json"), "sim_train", str(tmp_path), verbose=False)
    metrics, _ = evaluation.evaluate()
    present = {box.detection_name for boxes in evaluation.gt_boxes.boxes.values() for box in boxes}
    assert {"car", "pedestrian"} <= present
    for name, score in metrics.mean_dist_aps.items():
        assert score == pytest.approx(1.0 if name in present else 0.0), name
