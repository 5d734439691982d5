"""Reads nuScenes folders, real or simulated: `NuScenesDrives`.

    drives = NuScenesDrives(Path("data/sim"), "v1.0-mini", "mini_train", config=config.data, cache=Path("cache"))
    sample = drives.read(0)

Everything leaves here in the ego frame at the key frame's LiDAR timestamp. Past sweeps are moved there by ego motion;
each camera's own timestamp and ego pose are part of its `camera_T_ego`. The devkit decides on splits and detection
classes; it is imported when first needed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusionperc.config import DataConfig
from fusionperc.data.errors import DataError as DataError
from fusionperc.data.index import CAMERA_COLUMNS, CHANNELS, LIDAR_COLUMN, RADAR_COLUMNS, cached_index
from fusionperc.data.maps import Towns
from fusionperc.data.pictures import PictureCrop, read_picture
from fusionperc.data.pointclouds import LIDAR_INTENSITY_MAX, is_own_vehicle, read_lidar, read_radar
from fusionperc.data.sample import FUTURE_TIMES_S, PAST_TIMES_S, Labels, Sample, Surroundings
from fusionperc.data.tables import build_index
from fusionperc.data.tracks import tracks_of
from fusionperc.data.trajectory import driving_command, ego_trajectory, planar_poses
from fusionperc.files import MANIFEST, file_digest
from fusionperc.geometry import inverse, rigid, rotation_from_quaternion, yaw_from_rotation
from fusionperc.types import CAMERAS, CLASSES, SENSORS, Boxes, Points, Sensor

log = logging.getLogger(__name__)

#: Size of the black pictures of a sample without cameras that is read without crops.
_PICTURE_SIZE = (900, 1600)


class NuScenesDrives:
    """The key frames of one split of a nuScenes version folder.

    Args:
        root: folder that holds the version folder, samples/ and sweeps/.
        version: name of the table folder, e.g. 'v1.0-mini'.
        split: a split of the devkit, one of <version>/splits.json, or 'all'.
        config: sweeps, filters, and what to do about missing files; `config.scenes` narrows the split.
        cache: folder of the index cache; None keeps the index in memory only.

    Attributes:
        sample_tokens: in the order of `read`: by drive, then time.

    Raises:
        DataError: no such folder, version, split or drive; the split has no sample here; tables that do not fit;
            with missing='error', a key frame's file that is not there.
    """

    def __init__(self, root: Path, version: str, split: str, *, config: DataConfig, cache: Path | None = None) -> None:
        self.root, self.version, self.split, self.config = Path(root), version, split, config
        _check_folder(self.root, version)
        self.index = cached_index(self.root, version, cache, lambda: build_index(self.root, version, detection_class))
        self._samples = self._samples_of_split()
        self._exists = self._existing_files(self._samples)
        self._apply_missing()
        self.sample_tokens: list[str] = [token.decode() for token in self.index.sample_token[self._samples]]
        self._towns = Towns(self.root)
        self._place = {token: place for place, token in enumerate(self.sample_tokens)}

    def __len__(self) -> int:
        return len(self._samples)

    def global_T_ego(self, token: str) -> Tensor:
        """(4, 4) float64 pose of the key frame's ego frame. Raises `DataError` for a sample not in the split."""
        if token not in self._place:
            raise DataError(f"sample token '{token}' is not in split '{self.split}' of {self.root / self.version}")
        reference = self.index.sample_reference[self._samples[self._place[token]]]
        return _rigid(np.asarray(self.index.row_pose[reference]))

    def class_counts(self) -> NDArray[np.int64]:
        """(samples, classes) number of annotated boxes with at least one LiDAR or radar point."""
        counts = np.zeros((len(self), len(CLASSES)), dtype=np.int64)
        for place, sample in enumerate(self._samples):
            boxes = slice(self.index.box_start[sample], self.index.box_start[sample + 1])
            is_seen = self.index.box_num_points[boxes].sum(1) > 0
            counts[place] = np.bincount(self.index.box_class[boxes][is_seen], minlength=len(CLASSES))
        return counts

    def labels(self, index: int) -> Labels:
        """The annotations of a sample; no sensor file is read."""
        sample = int(self._samples[index])
        tables = self.index
        rows = slice(tables.box_start[sample], tables.box_start[sample + 1])
        global_T_ego = _rigid(np.asarray(tables.row_pose[tables.sample_reference[sample]]))
        ego_T_box = inverse(global_T_ego) @ _rigid(tables.box_pose[rows])
        # The vector in the ego's ground plane whose horizontal part is the devkit's velocity: what moves on the ground
        # has no speed across it, and turning (vx, vy, 0) back to the world gives the devkit's value exactly.
        velocity = _tensor(tables.box_velocity_mps[rows], torch.float64) @ torch.linalg.inv(global_T_ego[:2, :2]).T
        boxes = Boxes(
            center_m=ego_T_box[:, :3, 3].float(),
            size_lwh_m=_tensor(tables.box_size_lwh_m[rows], torch.float32),
            yaw_rad=yaw_from_rotation(ego_T_box[:, :3, :3]).float(),
            velocity_mps=velocity.float(),
            class_index=_tensor(tables.box_class[rows], torch.int64),
            attribute_index=_tensor(tables.box_attribute[rows], torch.int64),
        )
        return Labels(
            boxes=boxes,
            box_rotation=ego_T_box[:, :3, :3].float(),
            num_points=_tensor(tables.box_num_points[rows], torch.int64),
            visibility=_tensor(tables.box_visibility[rows], torch.int64),
            annotation_tokens=[token.decode() for token in tables.box_token[rows]],
            instance=_tensor(tables.box_instance[rows], torch.int64),
            is_labelled=bool(tables.drive_is_labelled[self._drive(sample)]),
        )

    def read(
        self, index: int, crops: Sequence[PictureCrop] | None = None, sensors: Sequence[Sensor] = SENSORS
    ) -> Sample:
        """Reads one key frame with its sweeps.

        Args:
            index: place in `sample_tokens`.
            crops: one per camera, how its picture is brought to size; None keeps the original pictures (they must
                then have one size).
            sensors: sensors to read; the others are absent.

        Raises:
            DataError: a damaged file; a missing one with missing='error'; a sample of whose sensors none is there.
        """
        sample = int(self._samples[index])
        tables = self.index
        reference = int(tables.sample_reference[sample])
        ego_T_global = inverse(_rigid(np.asarray(tables.row_pose[reference])))
        lidar, num_keyframe_points = self._lidar(index, reference, ego_T_global) if "lidar" in sensors else (None, 0)
        radar = self._radar(index, reference, ego_T_global) if "radar" in sensors else None
        images, camera_present, intrinsics, camera_T_ego = self._cameras(
            index, crops, ego_T_global, has_pictures="camera" in sensors
        )
        present = torch.tensor([bool(camera_present.any()), radar is not None, lidar is not None])
        token, scene = tables.sample_token[sample].decode(), tables.drive_name[self._drive(sample)].decode()
        if not bool(present.any()):
            raise DataError(
                f"sample {token} of {scene}: no file of any sensor ({', '.join(sensors)}) is in {self.root}: "
                "fetch them, or set data.missing=skip"
            )
        past, future = self._ego_trajectory(reference, ego_T_global)
        return Sample(
            **vars(self.labels(index)),
            token=token,
            scene=scene,
            timestamp_us=int(tables.row_time_us[reference]),
            images=images,
            camera_present=camera_present,
            intrinsics=intrinsics,
            camera_T_ego=camera_T_ego,
            lidar=lidar,
            num_keyframe_points=num_keyframe_points,
            radar=radar,
            present=present,
            ego_past_m=past.float(),
            ego_future_m=future.float(),
            command=self._command(sample, future),
            can_bus=_tensor(tables.sample_can_bus[sample], torch.float32),
        )

    def surroundings(self, index: int) -> Surroundings:
        """How a sample goes on: the ego's and all objects' tracks, commands and drivable area; no sensor file is read.

        Raises:
            DataError: the town's map expansion is there and damaged.
        """
        tables, sample = self.index, int(self._samples[index])
        drive = self._drive(sample)
        first, stop = int(tables.drive_start[drive]), int(tables.drive_start[drive + 1])
        reference = int(tables.sample_reference[sample])
        global_T_ego = _rigid(np.asarray(tables.row_pose[reference]))
        ego_T_global = inverse(global_T_ego)
        past, future = self._ego_trajectory(reference, ego_T_global)
        later = tables.sample_reference[sample:stop]
        area = self._towns.drivable_area(tables.drive_location[drive].decode())
        return Surroundings(
            token=tables.sample_token[sample].decode(),
            scene=tables.drive_name[drive].decode(),
            num_past=sample - first,
            num_future=stop - 1 - sample,
            ego_past_m=past.float(),
            ego_future_m=future.float(),
            can_bus=_tensor(tables.sample_can_bus[sample], torch.float32),
            ego_path_m=planar_poses(_tensor(tables.row_pose[later], torch.float64), ego_T_global).float(),
            route_command=int(tables.sample_route_command[sample]),
            endpoint_command=driving_command(future, FUTURE_TIMES_S),
            objects=tracks_of(tables, sample, stop, ego_T_global),
            is_labelled=bool(tables.drive_is_labelled[drive]),
            drivable=None if area is None else area.around(global_T_ego.numpy()),
        )

    def _ego_trajectory(self, reference: int, ego_T_global: Tensor) -> tuple[Tensor, Tensor]:
        """The ego's past and future at `PAST_TIMES_S` and `FUTURE_TIMES_S`, from all recorded poses of the drive."""
        tables = self.index
        run = slice(tables.row_first[reference], tables.row_last[reference] + 1)
        time_s = _tensor(tables.row_time_us[run] - tables.row_time_us[reference], torch.float64) * 1e-6
        pose = _tensor(tables.row_pose[run], torch.float64)
        past = ego_trajectory(time_s, pose, ego_T_global, PAST_TIMES_S)
        return past, ego_trajectory(time_s, pose, ego_T_global, FUTURE_TIMES_S)

    def _command(self, sample: int, future: Tensor) -> int:
        match self.config.command:
            case "endpoint":
                return driving_command(future, FUTURE_TIMES_S)
            case "route":
                return int(self.index.sample_route_command[sample])

    # -- which samples ------------------------------------------------------------------------------------------------

    def _drive(self, sample: int) -> int:
        return int(np.searchsorted(self.index.drive_start, sample, side="right")) - 1

    def _samples_of_split(self) -> NDArray[np.int64]:
        here = [name.decode() for name in self.index.drive_name]
        folder = self.root / self.version
        splits = known_splits(self.root, self.version)
        if self.split != "all" and self.split not in splits:
            raise DataError(f"{folder}: unknown split '{self.split}'; known: all, {', '.join(splits)}")
        chosen = set(here) if self.split == "all" else set(splits[self.split]) & set(here)
        if not chosen:
            filled = [name for name, scenes in splits.items() if set(scenes) & set(here)]
            raise DataError(
                f"{folder}: no drive of split '{self.split}' is here ({len(here)} drives: {', '.join(here[:5])}"
                f"{', ...' if len(here) > 5 else ''}); splits with drives here: {', '.join(['all', *filled])}"
            )
        if self.config.scenes is not None:
            unknown = sorted(set(self.config.scenes) - set(here))
            if unknown:
                raise DataError(f"{folder}: data.scenes names unknown drives {unknown}; known: {', '.join(here)}")
            chosen &= set(self.config.scenes)
            if not chosen:
                raise DataError(f"{folder}: no drive of data.scenes is in split '{self.split}'; use another split")
        drives = [number for number, name in enumerate(here) if name in chosen]
        start = self.index.drive_start
        samples = np.concatenate([np.arange(start[drive], start[drive + 1]) for drive in drives])
        if len(samples) == 0:
            raise DataError(f"{folder}: the drives of split '{self.split}' have no samples: copy the tables again")
        return samples

    def _existing_files(self, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(samples, channels) whether the key frame's file is there; each folder is listed once."""
        listed: dict[str, set[str]] = {}
        exists = np.zeros((len(samples), len(CHANNELS)), dtype=bool)
        rows = self.index.sample_row[samples]
        for place, column in zip(*np.nonzero(rows >= 0), strict=True):
            folder, _, name = self.index.row_file[rows[place, column]].decode().rpartition("/")
            if folder not in listed:
                directory = self.root / folder
                listed[folder] = set(os.listdir(directory)) if directory.is_dir() else set()
            exists[place, column] = name in listed[folder]
        return exists

    def _apply_missing(self) -> None:
        rows = self.index.sample_row[self._samples]
        is_missing = (rows >= 0) & ~self._exists
        if not is_missing.any():
            return
        affected = is_missing.any(1)
        first = self.root / self.index.row_file[rows[is_missing][0]].decode()
        what = f"{int(is_missing.sum())} of {int((rows >= 0).sum())} key-frame files of split '{self.split}'"
        match self.config.missing:
            case "error":
                raise DataError(
                    f"{first}: not there ({what} are missing): fetch it, or set data.missing to skip or absent_sensor"
                )
            case "skip":
                log.warning("%s: %d of %d samples lack files and are skipped", self.root, affected.sum(), len(affected))
                if affected.all():
                    raise DataError(
                        f"{first}: not there, and so for every sample of split '{self.split}': "
                        "fetch the files, or set data.missing=absent_sensor"
                    )
                self._samples, self._exists = self._samples[~affected], self._exists[~affected]
            case "absent_sensor":
                log.warning("%s: %s are missing, those sensors count as absent", self.root, what)

    # -- sensors ------------------------------------------------------------------------------------------------------

    def _sweeps(self, index: int, column: int, num_sweeps: int, stride: int = 1) -> list[int]:
        """Rows of the key frame and the sweeps before it, every `stride`-th, newest first; none where the key frame is
        absent."""
        if not self._exists[index, column]:
            return []
        row = int(self.index.sample_row[self._samples[index], column])
        oldest = row - (num_sweeps - 1) * stride
        return list(range(row, max(int(self.index.row_first[row]), oldest) - 1, -stride))

    def _is_absent(self, file: Path, key_frame: bool) -> bool:
        """Whether a sweep is to be left out because it has no file. Raises `DataError` if it may not be."""
        if file.is_file():
            return False
        if self.config.missing == "error" or key_frame:
            raise DataError(
                f"{file}: not there: fetch it, set data.lidar_sweeps=1 and data.radar_sweeps=1 to read key frames "
                "only, or set data.missing to skip or absent_sensor"
            )
        log.debug("%s: this sweep is missing and left out", file)
        return True

    def _ego_T_sensor(self, rows: list[int], ego_T_global: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row: (K, 4, 4) from the sensor at its time to the key frame's ego frame, and to its own ego frame."""
        own_T_sensor = _rigid(self.index.calibration_pose[self.index.row_calibration[rows]])
        return ego_T_global @ _rigid(self.index.row_pose[rows]) @ own_T_sensor, own_T_sensor

    def _lidar(self, index: int, reference: int, ego_T_global: Tensor) -> tuple[Points | None, int]:
        rows = self._sweeps(index, LIDAR_COLUMN, self.config.lidar_sweeps, self.config.lidar_sweep_stride)
        if not rows:
            return None, 0
        ego_T_sensor, own_T_sensor = (m.float().numpy() for m in self._ego_T_sensor(rows, ego_T_global))
        xyz: list[NDArray[np.float32]] = []
        features: list[NDArray[np.float32]] = []
        for place, row in enumerate(rows):
            file = self.root / self.index.row_file[row].decode()
            if self._is_absent(file, place == 0):
                continue
            points = read_lidar(file)
            if not self.config.keep_ego_returns:
                points = points[~is_own_vehicle(points[:, :3], own_T_sensor[place])]
            xyz.append(points[:, :3] @ ego_T_sensor[place, :3, :3].T + ego_T_sensor[place, :3, 3])
            columns = np.empty((len(points), 2), dtype=np.float32)
            np.clip(points[:, 3] / np.float32(LIDAR_INTENSITY_MAX), 0, 1, out=columns[:, 0])
            columns[:, 1] = (self.index.row_time_us[reference] - self.index.row_time_us[row]) * 1e-6
            features.append(columns)
        return _points(np.concatenate(xyz), np.concatenate(features)), len(xyz[0])

    def _radar(self, index: int, reference: int, ego_T_global: Tensor) -> Points | None:
        """All radars that are there; a radar's velocity over ground turns with its frame, its vertical part is none."""
        columns = range(RADAR_COLUMNS.start, RADAR_COLUMNS.stop)
        runs = [self._sweeps(index, column, self.config.radar_sweeps) for column in columns]
        rows = [row for run in runs for row in run]
        if not rows:
            return None
        key_frames = {run[0] for run in runs if run}
        ego_T_sensor = self._ego_T_sensor(rows, ego_T_global)[0].float().numpy()
        xyz: list[NDArray[np.float32]] = []
        features: list[NDArray[np.float32]] = []
        for row, transform in zip(rows, ego_T_sensor, strict=True):
            file = self.root / self.index.row_file[row].decode()
            if self._is_absent(file, row in key_frames):
                continue
            points = read_radar(file, self.config.radar_filter)
            rotation = transform[:3, :3]
            xyz.append(np.stack([points["x"], points["y"], points["z"]], 1) @ rotation.T + transform[:3, 3])
            velocity = np.stack([points["vx_comp"], points["vy_comp"]], 1) @ rotation[:2, :2].T
            age = np.full(len(points), (self.index.row_time_us[reference] - self.index.row_time_us[row]) * 1e-6)
            features.append(np.column_stack([points["rcs"], velocity, age]).astype(np.float32))
        return _points(np.concatenate(xyz), np.concatenate(features))

    def _cameras(
        self, index: int, crops: Sequence[PictureCrop] | None, ego_T_global: Tensor, *, has_pictures: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """images, camera_present, intrinsics, camera_T_ego."""
        if crops is not None and len(crops) != len(CAMERAS):
            raise ValueError(f"read: {len(crops)} crops for {len(CAMERAS)} cameras, give one per camera")
        rows = self.index.sample_row[self._samples[index], CAMERA_COLUMNS]
        present = torch.from_numpy(self._exists[index, CAMERA_COLUMNS] & has_pictures)
        camera_T_ego = torch.eye(4, dtype=torch.float64).repeat(len(CAMERAS), 1, 1)
        intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(CAMERAS), 1, 1)
        pictures: dict[int, NDArray[np.uint8]] = {}
        for camera in torch.nonzero(present).flatten().tolist():
            row = int(rows[camera])
            picture, map_px = read_picture(
                self.root / self.index.row_file[row].decode(), None if crops is None else crops[camera]
            )
            pictures[camera] = picture
            calibration = self.index.calibration_intrinsics[self.index.row_calibration[row]]
            intrinsics[camera] = torch.from_numpy(map_px @ calibration)
            camera_T_ego[camera] = inverse(self._ego_T_sensor([row], ego_T_global)[0][0])
        sizes = {picture.shape[1:] for picture in pictures.values()}
        if len(sizes) > 1:
            raise ValueError(f"sample {self.sample_tokens[index]}: pictures of sizes {sorted(sizes)}: give `crops`")
        size = crops[0].size if crops is not None else next(iter(sizes), _PICTURE_SIZE)
        images = np.zeros((len(CAMERAS), 3, *size), dtype=np.uint8)
        for camera, picture in pictures.items():
            images[camera] = picture
        return torch.from_numpy(images), present, intrinsics.float(), camera_T_ego.float()


def detection_class(category: str) -> str | None:
    """The detection class of a nuScenes category, None for those that are not detected."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    name: str | None = category_to_detection_name(category)
    return name


def known_splits(root: Path, version: str) -> dict[str, list[str]]:
    """Scene names by split: the devkit's own, then those of <version>/splits.json (as the devkit reads them)."""
    from nuscenes.utils.splits import create_splits_scenes

    file = root / version / "splits.json"
    custom: dict[str, list[str]] = {}
    if file.is_file():
        try:
            custom = json.loads(file.read_bytes())
            custom = {str(name): list(scenes) for name, scenes in custom.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{file}: expected {{split name: [scene names]}} ({error}): mend or remove it") from None
    return {**custom, **create_splits_scenes()}


def _check_folder(root: Path, version: str) -> None:
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; set data.root to a nuScenes folder, or make one with tools/simulate.py"
        )
    if not (root / version / "scene.json").is_file():
        versions = sorted(file.parent.name for file in root.glob("*/scene.json"))
        found = f"versions found there: {', '.join(versions)}" if versions else "no version folder is in it"
        raise DataError(f"{root}: has no version '{version}' ({found}); set data.version or data.root")
    # Simulated sets have a manifest; that of the tables is quickly checked.
    listed = json.loads((root / MANIFEST).read_bytes()) if (root / MANIFEST).is_file() else {}
    for name, expected in listed.items():
        if name.startswith(f"{version}/") and ((root / name).is_file() and file_digest(root / name)) != expected:
            raise DataError(
                f"{root / name} is not what {MANIFEST} says: copy both again, run tools/simulate.py again, or, if the "
                f"table was changed on purpose, remove {MANIFEST}"
            )


def _rigid(pose: NDArray[np.float64]) -> Tensor:
    """(..., 4, 4) float64 of (..., 7) x, y, z, quaternion."""
    values = _tensor(pose, torch.float64)
    return rigid(rotation_from_quaternion(values[..., 3:]), values[..., :3])


def _tensor(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    """A tensor of its own: index arrays are mapped read-only."""
    return torch.from_numpy(np.array(array)).to(dtype)


def _points(xyz: NDArray[np.float32], features: NDArray[np.float32]) -> Points:
    sample_index = torch.zeros(len(xyz), dtype=torch.int64)
    return Points(torch.from_numpy(xyz), torch.from_numpy(features), sample_index, batch_size=1)


__all__ = ["DataError", "Labels", "NuScenesDrives", "Sample", "detection_class", "known_splits"]
