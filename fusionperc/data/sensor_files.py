"""The sensor files of key frames and sweeps, moved into a key frame's ego frame.

Which file belongs where is in the `Index`; a row is one reading of one sensor. Past sweeps are moved by ego motion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusionperc.config import DataConfig
from fusionperc.data import doppler, scan_matching
from fusionperc.data.dead_reckoning import past_poses
from fusionperc.data.errors import DataError
from fusionperc.data.index import CAMERA_COLUMNS, LIDAR_COLUMN, RADAR_COLUMNS, Index, pose_matrix
from fusionperc.data.pictures import PictureCrop, read_picture
from fusionperc.data.pointclouds import LIDAR_INTENSITY_MAX, SensorFile, is_own_vehicle, read_lidar, read_radar
from fusionperc.data.sample import PAST_TIMES_S, Readings
from fusionperc.geometry import inverse
from fusionperc.types import CAMERAS, Odometry, Points, Sensor

log = logging.getLogger(__name__)

#: Size of the black pictures of a sample without cameras that is read without crops.
_PICTURE_SIZE = (900, 1600)
#: Earlier key frames whose motion tells where the ego was two seconds ago, at two a second.
_PAST_KEY_FRAMES = 4


class SensorFiles:
    """Reads rows of an index.

    Args:
        find: the file of a name in the index: `root.joinpath` of a nuScenes folder.
        index: of its tables.
        config: sweeps, filters, and what to do about missing files.
    """

    def __init__(self, find: Callable[[str], SensorFile], index: Index, config: DataConfig) -> None:
        self.find, self.index, self.config = find, index, config
        self._motions: dict[tuple[Sensor, int], NDArray[np.float32]] = {}

    def file(self, row: int) -> SensorFile:
        """The file of a row; it need not be there."""
        return self.find(self.index.row_file[row].decode())

    def ego_T_global(self, sample: int) -> Tensor:
        """(4, 4) float64 into the ego frame of a sample's key frame."""
        return inverse(pose_matrix(np.asarray(self.index.row_pose[self.index.sample_reference[sample]])))

    def age_s(self, sample: int, row: int) -> float:
        """How much earlier than the key frame a row was measured."""
        reference = self.index.sample_reference[sample]
        return float(self.index.row_time_us[reference] - self.index.row_time_us[row]) * 1e-6

    def _sweeps(self, sample: int, column: int, num_sweeps: int, stride: int = 1) -> list[int]:
        """Rows of the key frame and the sweeps before it, every `stride`-th, newest first."""
        row = int(self.index.sample_row[sample, column])
        oldest = row - (num_sweeps - 1) * stride
        return list(range(row, max(int(self.index.row_first[row]), oldest) - 1, -stride))

    def _until(self, row: int, span_s: float) -> list[int]:
        """Rows of a sensor up to this one, the newest first, of the last `span_s`."""
        run = np.arange(row, int(self.index.row_first[row]) - 1, -1)
        age_s = (self.index.row_time_us[row] - self.index.row_time_us[run]) * 1e-6
        return run[age_s <= span_s].tolist()  # type: ignore[no-any-return]

    def is_absent(self, file: SensorFile, key_frame: bool) -> bool:
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

    def ego_T_sensor(self, sample: int, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of each row: (K, 4, 4) from the sensor at its time to the key frame's ego frame, and to its own ego frame."""
        own_T_sensor = self._own_T_sensor(rows)
        global_T_sensor = pose_matrix(self.index.row_pose[list(rows)]) @ own_T_sensor
        return self.ego_T_global(sample) @ global_T_sensor, own_T_sensor

    def _own_T_sensor(self, rows: Sequence[int]) -> Tensor:
        """(K, 4, 4) float64 calibration of each row: from the sensor to the ego frame of its own time."""
        return pose_matrix(self.index.calibration_pose[self.index.row_calibration[list(rows)]])

    def read(
        self, sample: int, exists: NDArray[np.bool_], crops: Sequence[PictureCrop] | None, sensors: Sequence[Sensor]
    ) -> Readings:
        """The key frame of a sample with its sweeps.

        Args:
            sample: its place in the index.
            exists: (channels,) whether the key frame's file of each channel is there; also below.
            crops: one per camera, how its picture is brought to size; None keeps the original pictures.
            sensors: sensors to read; the others are absent.

        Raises:
            DataError: as `NuScenesDrives.read`.
        """
        lidar, num_keyframe_points = self.lidar(sample, exists) if "lidar" in sensors else (None, 0)
        radar = self.radar(sample, exists) if "radar" in sensors else None
        images, camera_present, intrinsics, camera_T_ego = self.cameras(
            sample, exists, crops, has_pictures="camera" in sensors
        )
        present = torch.tensor([bool(camera_present.any()), radar is not None, lidar is not None])
        if not bool(present.any()):
            token = self.index.sample_token[sample].decode()
            drive = self.index.drive_name[self.index.drive_of(sample)].decode()
            first = self.file(int(self.index.sample_reference[sample]))
            raise DataError(
                f"sample {token} of {drive}: no file of any sensor ({', '.join(sensors)}) is there, such as {first}: "
                "fetch them, or set data.missing=skip"
            )
        return Readings(images, camera_present, intrinsics, camera_T_ego, lidar, num_keyframe_points, radar, present)

    def lidar(self, sample: int, exists: NDArray[np.bool_]) -> tuple[Points | None, int]:
        """Sweeps, newest first, and how many points the key frame's own has.

        Args:
            sample, exists: as in `read`.
        """
        if not exists[LIDAR_COLUMN]:
            return None, 0
        rows = self._sweeps(sample, LIDAR_COLUMN, self.config.lidar_sweeps, self.config.lidar_sweep_stride)
        ego_T_sensor, own_T_sensor = (m.float().numpy() for m in self.ego_T_sensor(sample, rows))
        xyz: list[NDArray[np.float32]] = []
        features: list[NDArray[np.float32]] = []
        for place, row in enumerate(rows):
            file = self.file(row)
            if self.is_absent(file, place == 0):
                continue
            points = read_lidar(file)
            if not self.config.keep_ego_returns:
                points = points[~is_own_vehicle(points[:, :3], own_T_sensor[place])]
            xyz.append(points[:, :3] @ ego_T_sensor[place, :3, :3].T + ego_T_sensor[place, :3, 3])
            columns = np.empty((len(points), 2), dtype=np.float32)
            np.clip(points[:, 3] / np.float32(LIDAR_INTENSITY_MAX), 0, 1, out=columns[:, 0])
            columns[:, 1] = self.age_s(sample, row)
            features.append(columns)
        return _points(np.concatenate(xyz), np.concatenate(features)), len(xyz[0])

    def radar(self, sample: int, exists: NDArray[np.bool_]) -> Points | None:
        """All radars that are there.

        A radar's velocity over ground turns with its frame, its vertical part is none.
        """
        columns = [column for column in range(RADAR_COLUMNS.start, RADAR_COLUMNS.stop) if exists[column]]
        if not columns:
            return None
        runs = [self._sweeps(sample, column, self.config.radar_sweeps) for column in columns]
        rows = [row for run in runs for row in run]
        key_frames = {run[0] for run in runs}
        ego_T_sensor, _ = self.ego_T_sensor(sample, rows)
        xyz: list[NDArray[np.float32]] = []
        features: list[NDArray[np.float32]] = []
        for row, transform in zip(rows, ego_T_sensor.float().numpy(), strict=True):
            file = self.file(row)
            if self.is_absent(file, row in key_frames):
                continue
            points = read_radar(file, self.config.radar_filter)
            rotation = transform[:3, :3]
            xyz.append(np.stack([points["x"], points["y"], points["z"]], 1) @ rotation.T + transform[:3, 3])
            velocity = np.stack([points["vx_comp"], points["vy_comp"]], 1) @ rotation[:2, :2].T
            age = np.full(len(points), self.age_s(sample, row))
            features.append(np.column_stack([points["rcs"], velocity, age]).astype(np.float32))
        return _points(np.concatenate(xyz), np.concatenate(features))

    def odometry(self, sample: int, sensor: Sensor) -> Odometry:
        """How the ego moves and came here, one sample; files not there tell nothing.

        Args:
            sample: its place in the index.
            sensor: what tells it: 'radar', by Doppler, or 'lidar', by sweeps laid upon each other.
        """
        first = int(self.index.drive_start[self.index.drive_of(sample)])
        oldest = max(first, sample - _PAST_KEY_FRAMES)
        samples = range(sample, oldest - 1, -1)
        motion = np.stack([self._motion(earlier, sensor) for earlier in samples])
        age_s = [self.age_s(sample, int(self.index.sample_reference[earlier])) for earlier in samples]
        past_m = past_poses(np.array(age_s), motion, PAST_TIMES_S)
        return Odometry(torch.from_numpy(motion[:1]), torch.from_numpy(past_m)[None])

    def _motion(self, sample: int, sensor: Sensor) -> NDArray[np.float32]:
        """(3,) `EGO_MOTION`, fitted once: the next key frames ask for it, too."""
        if (sensor, sample) not in self._motions:
            measure = {"radar": self._motion_by_doppler, "lidar": self._motion_by_matching}[sensor]
            self._motions[sensor, sample] = measure(sample)
        return self._motions[sensor, sample]

    def _motion_by_doppler(self, sample: int) -> NDArray[np.float32]:
        there = [int(row) for row in self.index.sample_row[sample, RADAR_COLUMNS] if row >= 0]
        rows = [row for newest in there for row in self._until(newest, doppler.SPAN_S) if self.file(row).is_file()]
        scans = [
            doppler.doppler_scan(read_radar(self.file(row), self.config.radar_filter), matrix, self.age_s(sample, row))
            for row, matrix in zip(rows, self._own_T_sensor(rows).numpy(), strict=True)
        ]
        return doppler.ego_motion(scans)

    def _motion_by_matching(self, sample: int) -> NDArray[np.float32]:
        key = int(self.index.sample_row[sample, LIDAR_COLUMN])
        if key < 0 or not self.file(key).is_file():
            return scan_matching.ego_motion([])
        run = np.array(self._until(key, 2 * max(scan_matching.MATCHED_AGES_S)))
        age_s = (self.index.row_time_us[key] - self.index.row_time_us[run]) * 1e-6
        wanted = [int(run[np.abs(age_s - age).argmin()]) for age in (0.0, *scan_matching.MATCHED_AGES_S)]
        rows = [row for row in dict.fromkeys(wanted) if self.file(row).is_file()]
        scans = []
        for row, matrix in zip(rows, self._own_T_sensor(rows).float().numpy(), strict=True):
            points = read_lidar(self.file(row))[:, :3]
            points = points[~is_own_vehicle(points, matrix)]
            scans.append(scan_matching.LidarScan(self.age_s(sample, row), points @ matrix[:3, :3].T + matrix[:3, 3]))
        return scan_matching.ego_motion(scans)

    def cameras(
        self, sample: int, exists: NDArray[np.bool_], crops: Sequence[PictureCrop] | None, *, has_pictures: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """images, camera_present, intrinsics, camera_T_ego."""
        if crops is not None and len(crops) != len(CAMERAS):
            raise ValueError(f"read: {len(crops)} crops for {len(CAMERAS)} cameras, give one per camera")
        rows = self.index.sample_row[sample, CAMERA_COLUMNS]
        present = torch.from_numpy(exists[CAMERA_COLUMNS] & has_pictures)
        camera_T_ego = torch.eye(4, dtype=torch.float64).repeat(len(CAMERAS), 1, 1)
        intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(CAMERAS), 1, 1)
        pictures: dict[int, NDArray[np.uint8]] = {}
        for camera in torch.nonzero(present).flatten().tolist():
            row = int(rows[camera])
            picture, map_px = read_picture(self.file(row), None if crops is None else crops[camera])
            pictures[camera] = picture
            calibration = self.index.calibration_intrinsics[self.index.row_calibration[row]]
            intrinsics[camera] = torch.from_numpy(map_px @ calibration)
            camera_T_ego[camera] = inverse(self.ego_T_sensor(sample, [row])[0][0])
        sizes = {picture.shape[1:] for picture in pictures.values()}
        if len(sizes) > 1:
            token = self.index.sample_token[sample].decode()
            raise ValueError(f"sample {token}: pictures of sizes {sorted(sizes)}: give `crops`")
        size = crops[0].size if crops is not None else next(iter(sizes), _PICTURE_SIZE)
        images = np.zeros((len(CAMERAS), 3, *size), dtype=np.uint8)
        for camera, picture in pictures.items():
            images[camera] = picture
        return torch.from_numpy(images), present, intrinsics.float(), camera_T_ego.float()


def _points(xyz: NDArray[np.float32], features: NDArray[np.float32]) -> Points:
    sample_index = torch.zeros(len(xyz), dtype=torch.int64)
    return Points(torch.from_numpy(xyz), torch.from_numpy(features), sample_index, batch_size=1)
