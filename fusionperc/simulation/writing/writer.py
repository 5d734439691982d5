"""Writes drives as a nuScenes folder: sensor files and the 13 tables.

Each drive's rows, and the digests of its files, are one JSON file, written when all of the drive's files are there; the
tables are put together from these files at the end. Every file appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from fusionperc.files import digest, file_digest, whole_file
from fusionperc.simulation.sensors.rig import RIG, Rig
from fusionperc.simulation.traffic.drive import Actor, EgoState
from fusionperc.types import ATTRIBUTES

Row = dict[str, Any]
TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
    "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip
#: nuScenes' 23 categories.
CATEGORIES = (
    "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.wheelchair", "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility", "human.pedestrian.police_officer", "human.pedestrian.construction_worker",
    "animal", "vehicle.car", "vehicle.motorcycle", "vehicle.bicycle", "vehicle.bus.bendy", "vehicle.bus.rigid",
    "vehicle.truck", "vehicle.construction", "vehicle.emergency.ambulance", "vehicle.emergency.police",
    "vehicle.trailer", "movable_object.barrier", "movable_object.trafficcone", "movable_object.pushable_pullable",
    "movable_object.debris", "static_object.bicycle_rack",
)  # fmt: skip
#: Visibility levels; a level's token is its number, as in nuScenes.
VISIBILITIES = (("1", "v0-40", 0, 40), ("2", "v40-60", 40, 60), ("3", "v60-80", 60, 80), ("4", "v80-100", 80, 100))
VEHICLE = "n099"
DRIVES_FOLDER = ".drives"
_SUFFIXES = {"camera": (".jpg", "jpg"), "lidar": (".pcd.bin", "pcd"), "radar": (".pcd", "pcd")}
#: Of usual and of compact sets.
JPEG_QUALITY, COMPACT_JPEG_QUALITY = 90, 75


def token(*parts: object) -> str:
    """32 hexadecimal digits that depend on the parts alone."""
    return hashlib.md5("/".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file that appears under its name only when complete.

    Raises:
        OSError: the folder cannot be written.
    """
    with whole_file(path) as part:
        part.write_bytes(content)


def json_bytes(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value).encode()


def write_json(path: Path, value: object) -> None:
    """`write_file` of JSON."""
    write_file(path, json_bytes(value))


def jpeg_bytes(picture: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """A picture (height, width, 3) as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def png_bytes(mask: NDArray[np.bool_]) -> bytes:
    """A mask (rows, cols) as 8-bit grey PNG of 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def yaw_quaternion(yaw_rad: float) -> list[float]:
    """(w, x, y, z) of a rotation about +z."""
    return [float(np.cos(yaw_rad / 2)), 0.0, 0.0, float(np.sin(yaw_rad / 2))]


def quaternion_wxyz(ego: EgoState) -> list[float]:
    """(w, x, y, z) of the ego's attitude."""
    x, y, z, w = Rotation.from_matrix(ego.world_T_ego[:3, :3]).as_quat().tolist()
    return [w, x, y, z]


@dataclass(frozen=True)
class Label:
    """One object at one key frame as it is annotated.

    Attributes:
        actor: the object at the key frame's time.
        num_lidar_pts, num_radar_pts: points of the key frame's own scans inside its box.
        visibility: 1 (least) to 4.
    """

    actor: Actor
    num_lidar_pts: int
    num_radar_pts: int
    visibility: int


@dataclass(frozen=True)
class DriveName:
    """What names a drive and its files.

    Attributes:
        set_name: of the whole set; part of every token.
        name: the nuScenes scene name.
        location: the town.
        start_us: timestamp of the first key frame.
    """

    set_name: str
    name: str
    location: str
    start_us: int

    @property
    def logfile(self) -> str:
        moment = datetime.fromtimestamp(self.start_us / 1e6, tz=UTC)
        return f"{VEHICLE}-{moment:%Y-%m-%d-%H-%M-%S}+0000"

    def token(self, *parts: object) -> str:
        return token(self.set_name, self.name, *parts)


class DriveWriter:
    """Writes one drive's sensor files as they are made and collects its rows."""

    def __init__(self, root: Path, name: DriveName, size_px: tuple[int, int], rig: Rig) -> None:
        self.root = root
        self.name = name
        self.size_px = size_px
        self.rig = rig
        self._samples: list[Row] = []
        self._data: dict[str, list[Row]] = {channel: [] for channel in rig}
        self._poses: list[Row] = []
        self._labels: list[tuple[str, Label]] = []
        self._digests: dict[str, str] = {}

    @property
    def key_times_us(self) -> list[int]:
        """Timestamps of the key frames so far."""
        return [row["timestamp"] for row in self._samples]

    def sample_token(self, time_us: int) -> str:
        """Token of the key frame at a time."""
        return self.name.token("sample", time_us)

    def write(self, filename: str, content: bytes) -> None:
        """Writes a file of this drive, named from the set's folder on, and notes its digest."""
        write_file(self.root / filename, content)
        self._digests[filename] = digest(content)

    def write_shared(self, filename: str, make: Callable[[], bytes]) -> None:
        """Writes a file that several drives share, unless one of them has; notes its digest."""
        path = self.root / filename
        if not path.is_file():
            # Drives that run at the same time may come here together; they write the same.
            with whole_file(path, owner=f"{self.name.name}.") as part:
                part.write_bytes(make())
        self._digests[filename] = file_digest(path)

    def add_key_frame(self, time_us: int) -> None:
        """Starts a key frame; to be called in order of time."""
        self._samples.append(
            {"token": self.sample_token(time_us), "timestamp": time_us, "scene_token": self.name.token("scene")}
        )

    def add_sensor(self, channel: str, time_us: int, ego: EgoState, content: bytes, *, is_key_frame: bool) -> None:
        """Writes one sensor file and notes its row and ego pose; per channel in order of time."""
        mount = self.rig[channel]
        suffix, fileformat = _SUFFIXES[mount.modality]
        folder = "samples" if is_key_frame else "sweeps"
        filename = f"{folder}/{channel}/{self.name.logfile}__{channel}__{time_us}{suffix}"
        self.write(filename, content)
        key = self.name.token("sample_data", channel, time_us)
        width, height = self.size_px if mount.modality == "camera" else (0, 0)
        self._data[channel].append(
            {
                "token": key,
                "sample_token": "",
                "ego_pose_token": key,
                "calibrated_sensor_token": self.name.token("calibrated_sensor", channel),
                "timestamp": time_us,
                "fileformat": fileformat,
                "is_key_frame": is_key_frame,
                "height": height,
                "width": width,
                "filename": filename,
            }
        )
        self._poses.append(
            {
                "token": key,
                "timestamp": time_us,
                "rotation": quaternion_wxyz(ego),
                "translation": [ego.x_m, ego.y_m, ego.z_m],
            }
        )

    def add_labels(self, time_us: int, labels: Iterable[Label]) -> None:
        """Annotations of the key frame at a time, in order of time."""
        self._labels += [(self.sample_token(time_us), label) for label in labels]

    def finish(self, description: str, map_token: str) -> None:
        """Links the rows and writes them: from here on the drive counts as done."""
        _link(self._samples)
        key_us = self.key_times_us
        for rows in self._data.values():
            _link(rows)
            for row in rows:
                if row["is_key_frame"]:
                    # A key frame of a camera or radar is a little before or after its sample's stamp.
                    index = int(np.argmin(np.abs(np.array(key_us) - row["timestamp"])))
                else:
                    index = min(int(np.searchsorted(key_us, row["timestamp"])), len(key_us) - 1)
                row["sample_token"] = self._samples[index]["token"]
        annotations, instances = self._annotations()
        tables: dict[str, list[Row]] = {
            "log": [self._log()],
            "scene": [self._scene(description)],
            "sample": self._samples,
            "sample_data": [row for rows in self._data.values() for row in rows],
            "ego_pose": self._poses,
            "calibrated_sensor": [self._calibration(channel) for channel in self.rig],
            "instance": instances,
            "sample_annotation": annotations,
        }
        written = {"map_token": map_token, "files": self._digests, "tables": tables}
        write_json(drive_file(self.root, self.name.name), written)

    def _log(self) -> Row:
        moment = datetime.fromtimestamp(self.name.start_us / 1e6, tz=UTC)
        return {
            "token": self.name.token("log"),
            "logfile": self.name.logfile,
            "vehicle": VEHICLE,
            "date_captured": f"{moment:%Y-%m-%d}",
            "location": self.name.location,
        }

    def _scene(self, description: str) -> Row:
        return {
            "token": self.name.token("scene"),
            "log_token": self.name.token("log"),
            "nbr_samples": len(self._samples),
            "first_sample_token": self._samples[0]["token"],
            "last_sample_token": self._samples[-1]["token"],
            "name": self.name.name,
            "description": description,
        }

    def _calibration(self, channel: str) -> Row:
        mount = self.rig[channel]
        is_camera = mount.modality == "camera"
        return {
            "token": self.name.token("calibrated_sensor", channel),
            "sensor_token": token("sensor", channel),
            "translation": list(mount.position_m),
            "rotation": list(mount.quaternion_wxyz),
            "camera_intrinsic": mount.intrinsics(*self.size_px).tolist() if is_camera else [],
        }

    def _annotations(self) -> tuple[list[Row], list[Row]]:
        rows: dict[int, list[Row]] = {}
        categories: dict[int, str] = {}
        for sample_token, label in self._labels:
            actor = label.actor
            length, width, height = actor.size_lwh_m
            categories[actor.instance] = actor.category
            rows.setdefault(actor.instance, []).append(
                {
                    "token": self.name.token("sample_annotation", sample_token, actor.instance),
                    "sample_token": sample_token,
                    "instance_token": self.name.token("instance", actor.instance),
                    "visibility_token": str(label.visibility),
                    "attribute_tokens": [token("attribute", actor.attribute)] if actor.attribute else [],
                    "translation": list(actor.center_m),
                    "size": [width, length, height],
                    "rotation": yaw_quaternion(actor.yaw_rad),
                    "num_lidar_pts": label.num_lidar_pts,
                    "num_radar_pts": label.num_radar_pts,
                }
            )
        instances = []
        for instance, own in sorted(rows.items()):
            _link(own)
            instances.append(
                {
                    "token": self.name.token("instance", instance),
                    "category_token": token("category", categories[instance]),
                    "nbr_annotations": len(own),
                    "first_annotation_token": own[0]["token"],
                    "last_annotation_token": own[-1]["token"],
                }
            )
        return [row for _, own in sorted(rows.items()) for row in own], instances


def _link(rows: list[Row]) -> None:
    """Fills `prev` and `next` along the list; "" at its ends."""
    for index, row in enumerate(rows):
        row["prev"] = rows[index - 1]["token"] if index > 0 else ""
        row["next"] = rows[index + 1]["token"] if index + 1 < len(rows) else ""


def drive_file(root: Path, name: str) -> Path:
    """The file whose presence says that a drive is complete."""
    return root / DRIVES_FOLDER / f"{name}.json"


def base_map_file(map_token: str) -> str:
    """Where the base map of a row of the map table is, from the set's folder on."""
    return f"maps/{map_token}.png"


def assemble(root: Path, version: str, names: Iterable[str], splits: dict[str, list[str]]) -> None:
    """Puts the tables of finished drives together in `root`/`version`, one drive in memory at a time.

    Raises:
        FileNotFoundError: a drive is not finished.
        OSError: the folder cannot be written.
    """
    fixed = _fixed_tables()
    logs_of_map: dict[str, list[str]] = {}
    with ExitStack() as stack:
        append = {
            table: stack.enter_context(_growing_table(root / version / f"{table}.json"))
            for table in TABLES
            if table not in {*fixed, "map"}
        }
        for name in names:
            drive = json.loads(drive_file(root, name).read_bytes())
            for table, rows in drive["tables"].items():
                append[table](rows)
            logs_of_map.setdefault(drive["map_token"], []).append(drive["tables"]["log"][0]["token"])
    fixed["map"] = [
        {"category": "semantic_prior", "token": key, "filename": base_map_file(key), "log_tokens": logs}
        for key, logs in logs_of_map.items()
    ]
    for table, rows in fixed.items():
        write_json(root / version / f"{table}.json", rows)
    write_json(root / version / "splits.json", splits)


@contextmanager
def _growing_table(path: Path) -> Iterator[Callable[[list[Row]], None]]:
    """Gives a function that appends rows to a table, which appears when the block ends."""
    separator = "["
    with whole_file(path) as part, part.open("w") as stream:

        def add(rows: list[Row]) -> None:
            nonlocal separator
            if rows:
                stream.write(separator + json.dumps(rows)[1:-1])
                separator = ", "

        yield add
        stream.write("[]" if separator == "[" else "]")


def _fixed_tables() -> dict[str, list[Row]]:
    return {
        "sensor": [
            {"token": token("sensor", mount.channel), "channel": mount.channel, "modality": mount.modality}
            for mount in RIG.values()
        ],
        "category": [
            {"token": token("category", name), "name": name, "description": f"Simulated {name.replace('.', ' ')}."}
            for name in CATEGORIES
        ],
        "attribute": [
            {"token": token("attribute", name), "name": name, "description": f"The object: {name}."}
            for name in ATTRIBUTES
        ],
        "visibility": [
            {"token": key, "level": level, "description": f"visibility of whole object is between {low} and {high}%"}
            for key, level, low, high in VISIBILITIES
        ],
    }
