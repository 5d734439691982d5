"""A nuScenes folder small enough to be written for every test: two drives through a world of fixed points."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyquaternion import Quaternion

from fusionperc.types import ATTRIBUTES, CAMERAS, RADAR_DTYPE

START_US = 1_600_000_000_000_000
SAMPLES = 9
SWEEPS_PER_SAMPLE = 5
RADAR_CHANNELS = ("RADAR_FRONT", "RADAR_BACK_LEFT")
CATEGORIES = ("vehicle.car", "human.pedestrian.adult", "animal")
#: Global position at time 0 and velocity of the objects, by category.
OBJECTS = (((120.0, 205.0, 0.9), (2.0, 1.0)), ((118.0, 196.0, 0.9), (0.0, 0.0)), ((125.0, 200.0, 0.5), (0.0, 0.0)))
PICTURE_SIZE = (90, 160)


def ego_pose(time_s: float) -> np.ndarray:
    """global_T_ego: a left turn at 6 m/s, the vehicle pitched by 1 degree."""
    yaw = 0.15 * time_s
    matrix = np.eye(4)
    matrix[:3, :3] = (Quaternion(axis=[0, 0, 1], radians=yaw) * Quaternion(axis=[0, 1, 0], degrees=1)).rotation_matrix
    matrix[:3, 3] = [100 + 40 * np.sin(yaw), 200 + 40 * (1 - np.cos(yaw)), 0.0]
    return matrix


def world_points() -> np.ndarray:
    """(P, 3) static global points off the vehicle's way."""
    generator = np.random.default_rng(0)
    points = generator.uniform([105, 206, 0], [150, 240, 4], size=(60, 3))
    return np.concatenate([points, generator.uniform([105, 150, 0], [150, 194, 4], size=(60, 3))])


def calibration(channel: str) -> tuple[np.ndarray, list[list[float]]]:
    """ego_T_sensor and intrinsics."""
    matrix = np.eye(4)
    if channel == "LIDAR_TOP":
        matrix[:3, :3] = Quaternion(axis=[0, 0, 1], degrees=-90).rotation_matrix
        matrix[:3, 3] = [0.9, 0.0, 1.84]
        return matrix, []
    if channel.startswith("RADAR"):
        matrix[:3, :3] = Quaternion(axis=[0, 0, 1], degrees=0 if channel == "RADAR_FRONT" else 100).rotation_matrix
        matrix[:3, 3] = [3.4, 0.0, 0.5]
        return matrix, []
    yaw_deg = {"FRONT": 0, "FRONT_RIGHT": -55, "BACK_RIGHT": -110, "BACK": 180, "BACK_LEFT": 110, "FRONT_LEFT": 55}
    forward_is_z = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    turn = Quaternion(axis=[0, 0, 1], degrees=yaw_deg[channel.removeprefix("CAM_")]).rotation_matrix
    matrix[:3, :3] = turn @ forward_is_z
    matrix[:3, 3] = [1.5, 0.1, 1.5]
    return matrix, [[126.0, 0, 81.0], [0, 126.0, 49.0], [0, 0, 1]]


class FolderWriter:
    """Collects the tables and writes the files of a nuScenes folder."""

    def __init__(self, root: Path, version: str = "v1.0-mini") -> None:
        self.root, self.version = root, version
        names = ("sample_data", "ego_pose", "sample", "scene", "sample_annotation", "instance", "calibrated_sensor")
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        channels = (*CAMERAS, "LIDAR_TOP", *RADAR_CHANNELS)
        self.tables["sensor"] = [{"token": f"sensor-{c}", "channel": c, "modality": c[:3]} for c in channels]
        self.tables["category"] = [{"token": f"cat-{c}", "name": c, "description": ""} for c in CATEGORIES]
        self.tables["attribute"] = [{"token": f"attr-{a}", "name": a, "description": ""} for a in ATTRIBUTES]
        self.tables["visibility"] = [{"token": str(n), "level": "", "description": ""} for n in range(1, 5)]
        self.tables["log"] = [{"token": "log", "logfile": "log", "location": "nowhere"}]
        self.tables["map"] = [{"token": "map", "log_tokens": ["log"], "filename": "maps/m.png", "category": "x"}]
        for channel in channels:
            matrix, intrinsics = calibration(channel)
            row = {"token": f"cal-{channel}", "sensor_token": f"sensor-{channel}", "camera_intrinsic": intrinsics}
            self.tables["calibrated_sensor"].append({**row, **_pose(matrix)})

    def drive(self, number: int, *, lidar: bool = True, radar: bool = True, objects: int = 3) -> None:
        name = f"scene-{number + 1:04d}"
        start = START_US + number * 100_000_000
        self.tables["scene"].append({"token": name, "name": name, "log_token": "log", "nbr_samples": SAMPLES})
        for place in range(SAMPLES):
            token, time_us = f"sample-{number}-{place}", start + place * 500_000
            self.tables["sample"].append({"token": token, "timestamp": time_us, "scene_token": name})
            for camera_place, camera in enumerate(CAMERAS):
                self._row(token, camera, start, time_us - 10_000 * (camera_place + 1), True)
            for sweep in range(SWEEPS_PER_SAMPLE):
                is_key, sweep_us = sweep == SWEEPS_PER_SAMPLE - 1, time_us - (SWEEPS_PER_SAMPLE - 1 - sweep) * 50_000
                if lidar:
                    self._row(token, "LIDAR_TOP", start, sweep_us, is_key)
                if radar and sweep >= 3:
                    for channel in RADAR_CHANNELS:
                        self._row(token, channel, start, sweep_us + 7_000, is_key)
        for category in range(objects):
            self._object(number, category)

    def _object(self, number: int, category: int) -> None:
        instance, (position, velocity) = f"instance-{number}-{category}", OBJECTS[category]
        self.tables["instance"].append({"token": instance, "category_token": f"cat-{CATEGORIES[category]}"})
        tokens = [f"ann-{number}-{category}-{place}" for place in range(SAMPLES)]
        yaw = float(np.arctan2(velocity[1], velocity[0]))
        for place, token in enumerate(tokens):
            shift = [velocity[0] * place * 0.5, velocity[1] * place * 0.5, 0.0]
            row = {
                "token": token, "sample_token": f"sample-{number}-{place}", "instance_token": instance,
                "attribute_tokens": ["attr-vehicle.moving"] if category == 0 else [],
                "visibility_token": "4" if category == 0 else "",
                "translation": [a + b for a, b in zip(position, shift, strict=True)], "size": [1.9, 4.6, 1.7],
                "rotation": list(Quaternion(axis=[0, 0, 1], radians=yaw)), "num_lidar_pts": 5, "num_radar_pts": 1,
                "prev": tokens[place - 1] if place else "", "next": tokens[place + 1] if place + 1 < SAMPLES else "",
            }  # fmt: skip
            self.tables["sample_annotation"].append(row)

    def _row(self, sample: str, channel: str, start: int, time_us: int, is_key: bool) -> None:
        ending = {"C": "jpg", "L": "pcd.bin", "R": "pcd"}[channel[0]]
        name = f"{'samples' if is_key else 'sweeps'}/{channel}/{channel}__{time_us}.{ending}"
        token, pose = f"{channel}-{time_us}", ego_pose((time_us - start) * 1e-6)
        self.tables["ego_pose"].append({"token": token, "timestamp": time_us, **_pose(pose)})
        row = {"token": token, "sample_token": sample, "ego_pose_token": token, "timestamp": time_us, "filename": name}
        row |= {"calibrated_sensor_token": f"cal-{channel}", "is_key_frame": is_key, "prev": "", "next": ""}
        self.tables["sample_data"].append(row)
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if channel[0] == "C":
            ramp = np.linspace(0, 255, PICTURE_SIZE[1])[None, :, None].repeat(PICTURE_SIZE[0], 0).repeat(3, 2)
            Image.fromarray(ramp.astype(np.uint8)).save(path, quality=95)
            return
        sensor_T_global = np.linalg.inv(pose @ calibration(channel)[0])
        xyz = world_points() @ sensor_T_global[:3, :3].T + sensor_T_global[:3, 3]
        if channel[0] == "L":
            points = np.column_stack([xyz, np.full(len(xyz), 51.0), np.zeros(len(xyz))]).astype(np.float32)
            own = np.array([[0.0, 0, 0, 0, 0]], dtype=np.float32)  # a 'no return'
            path.write_bytes(np.concatenate([points, own]).tobytes())
            return
        velocity = sensor_T_global[:2, :2] @ np.array([1.0, 2.0])
        before, after = (ego_pose((time_us - start) * 1e-6 + dt) @ calibration(channel)[0] for dt in (-1e-3, 1e-3))
        own_velocity = sensor_T_global[:2, :3] @ (after - before)[:3, 3] / 2e-3
        path.write_bytes(radar_file(xyz, velocity, own_velocity))

    def write(self, splits: dict[str, list[str]] | None = None, leave_out: tuple[str, ...] = ()) -> Path:
        folder = self.root / self.version
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            if name not in leave_out:
                (folder / f"{name}.json").write_text(json.dumps(rows))
        if splits is None:
            splits = {"fit": ["scene-0001"], "held": ["scene-0002"], "nothing": []}
        (folder / "splits.json").write_text(json.dumps(splits))
        return self.root

    def can_bus(self, number: int) -> None:
        folder = self.root / "can_bus"
        folder.mkdir(exist_ok=True)
        start = START_US + number * 100_000_000
        times = range(start - 3_000, start + 2_000_000, 20_000)
        messages = [
            {"utime": t, "vel": [6.0, 0, 0], "accel": [0.1, 0.9, 9.8], "rotation_rate": [0, 0, 0.15]} for t in times
        ]
        (folder / f"scene-{number + 1:04d}_pose.json").write_text(json.dumps(messages))


def _pose(matrix: np.ndarray) -> dict[str, list[float]]:
    return {"translation": matrix[:3, 3].tolist(), "rotation": list(Quaternion(matrix=matrix))}


def radar_file(
    xyz: np.ndarray, velocity: np.ndarray, own_velocity: Sequence[float] = (0.0, 0.0), **header: str
) -> bytes:
    """A binary PCD file with nuScenes' fields, whose raw Doppler is of standing points; `header` replaces lines."""
    points = np.zeros(len(xyz), dtype=RADAR_DTYPE)
    points["x"], points["y"], points["z"] = xyz.T
    points["vx_comp"], points["vy_comp"], points["rcs"], points["ambig_state"] = *velocity, 7.5, 3
    along = xyz[:, :2] / np.maximum(np.linalg.norm(xyz[:, :2], axis=1, keepdims=True), 1e-9)
    points["vx"], points["vy"] = (along * -(along @ np.asarray(own_velocity))[:, None]).T
    names = RADAR_DTYPE.names or ()
    lines = {
        "VERSION": "0.7",
        "FIELDS": " ".join(names),
        "SIZE": " ".join(str(RADAR_DTYPE[name].itemsize) for name in names),
        "TYPE": " ".join("F" if RADAR_DTYPE[name].kind == "f" else "I" for name in names),
        "COUNT": " ".join("1" for _ in names),
        "WIDTH": str(len(xyz)),
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(len(xyz)),
        "DATA": "binary",
    }
    text = "".join(f"{key} {value}\n" for key, value in {**lines, **header}.items())
    return f"# .PCD v0.7 - Point Cloud Data file format\n{text}".encode() + points.tobytes()


@pytest.fixture
def folder_writer(tmp_path: Path) -> Callable[[], FolderWriter]:
    """Makes writers of nuScenes folders below the test's own temporary folder."""
    return lambda: FolderWriter(tmp_path / "nuscenes")


@pytest.fixture(scope="session")
def written_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives with all sensors (two radars), CAN bus for the first only; only for reading."""
    writer = FolderWriter(tmp_path_factory.mktemp("drives"))
    writer.drive(0)
    writer.drive(1)
    root = writer.write()
    writer.can_bus(0)
    return root


@pytest.fixture
def small_folder(written_folder: Path, tmp_path: Path) -> Path:
    """A small nuScenes folder that the test may change."""
    return Path(shutil.copytree(written_folder, tmp_path / "nuscenes"))


@pytest.fixture
def radar_bytes() -> Callable[..., bytes]:
    """`radar_file`, for tests of damaged files."""
    return radar_file


@pytest.fixture
def pose_at() -> Callable[[float], np.ndarray]:
    """`ego_pose`: global_T_ego of the small folder's drives at a time in seconds."""
    return ego_pose


@pytest.fixture
def static_points() -> np.ndarray:
    """`world_points`: what every LiDAR sweep of the small folder sees, global."""
    return world_points()
