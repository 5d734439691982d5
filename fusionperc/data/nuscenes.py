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
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusionperc.config import DataConfig
from fusionperc.data.errors import DataError as DataError
from fusionperc.data.index import CHANNELS, as_tensor, cached_index, check_folder, pose_matrix
from fusionperc.data.maps import Towns
from fusionperc.data.measuring import measured_at
from fusionperc.data.motion import moving_surfaces
from fusionperc.data.pictures import PictureCrop
from fusionperc.data.sample import FUTURE_TIMES_S, PAST_TIMES_S, Labels, Sample, Surroundings
from fusionperc.data.sensor_files import SensorFiles
from fusionperc.data.tables import build_index
from fusionperc.data.tracks import tracks_of
from fusionperc.data.trajectory import driving_command, ego_trajectory, planar_poses
from fusionperc.geometry import inverse, yaw_from_rotation
from fusionperc.measurements import Measurements, Surfaces
from fusionperc.types import CLASSES, SENSORS, Boxes, Odometry, Sensor

log = logging.getLogger(__name__)


class NuScenesDrives:
    """The key frames of one split of a nuScenes version folder.

    Args:
        root: folder that holds the version folder, samples/ and sweeps/.
        version: name of the table folder, e.g. 'v1.0-mini'.
        split: a split of the devkit, one of <version>/splits.json, or 'all'.
        config: sweeps, filters, and what to do about missing files; `config.scenes` narrows the split.
        cache: folder of the index cache; None keeps the index in memory only.
        is_labelled_share: only `config.label_fraction` of the split's drives.

    Attributes:
        sample_tokens: in the order of `read`: by drive, then time.

    Raises:
        DataError: no such folder, version, split or drive; the split has no sample here; tables that do not fit;
            with missing='error', a key frame's file that is not there.
    """

    def __init__(
        self,
        root: Path,
        version: str,
        split: str,
        *,
        config: DataConfig,
        cache: Path | None = None,
        is_labelled_share: bool = False,
    ) -> None:
        self.root, self.version, self.split, self.config = Path(root), version, split, config
        check_folder(self.root, version)
        self.index = cached_index(self.root, version, cache, lambda: build_index(self.root, version, detection_class))
        self._samples = self._samples_of_split(is_labelled_share)
        self._exists = self._existing_files(self._samples)
        self._apply_missing()
        self.sample_tokens: list[str] = [token.decode() for token in self.index.sample_token[self._samples]]
        self.files = SensorFiles(self.root.joinpath, self.index, config)
        self._towns = Towns(self.root)
        self._place = {token: place for place, token in enumerate(self.sample_tokens)}

    def __len__(self) -> int:
        return len(self._samples)

    def global_T_ego(self, token: str) -> Tensor:
        """(4, 4) float64 pose of the key frame's ego frame. Raises `DataError` for a sample not in the split."""
        if token not in self._place:
            raise DataError(f"sample token '{token}' is not in split '{self.split}' of {self.root / self.version}")
        reference = self.index.sample_reference[self._samples[self._place[token]]]
        return pose_matrix(np.asarray(self.index.row_pose[reference]))

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
        global_T_ego = pose_matrix(np.asarray(tables.row_pose[tables.sample_reference[sample]]))
        ego_T_box = inverse(global_T_ego) @ pose_matrix(tables.box_pose[rows])
        # The vector in the ego's ground plane whose horizontal part is the devkit's velocity: what moves on the ground
        # has no speed across it, and turning (vx, vy, 0) back to the world gives the devkit's value exactly.
        velocity = as_tensor(tables.box_velocity_mps[rows], torch.float64) @ torch.linalg.inv(global_T_ego[:2, :2]).T
        boxes = Boxes(
            center_m=ego_T_box[:, :3, 3].float(),
            size_lwh_m=as_tensor(tables.box_size_lwh_m[rows], torch.float32),
            yaw_rad=yaw_from_rotation(ego_T_box[:, :3, :3]).float(),
            velocity_mps=velocity.float(),
            class_index=as_tensor(tables.box_class[rows], torch.int64),
            attribute_index=as_tensor(tables.box_attribute[rows], torch.int64),
        )
        return Labels(
            boxes=boxes,
            box_rotation=ego_T_box[:, :3, :3].float(),
            num_points=as_tensor(tables.box_num_points[rows], torch.int64),
            visibility=as_tensor(tables.box_visibility[rows], torch.int64),
            annotation_tokens=[token.decode() for token in tables.box_token[rows]],
            instance=as_tensor(tables.box_instance[rows], torch.int64),
            is_labelled=bool(tables.drive_is_labelled[tables.drive_of(sample)]),
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
        ego_T_global = inverse(pose_matrix(np.asarray(tables.row_pose[reference])))
        readings = self.files.read(sample, self._exists[index], crops, sensors)
        past, future = self._ego_trajectory(reference, ego_T_global)
        return Sample(
            **vars(self.labels(index)),
            **vars(readings),
            token=tables.sample_token[sample].decode(),
            scene=tables.drive_name[tables.drive_of(sample)].decode(),
            timestamp_us=int(tables.row_time_us[reference]),
            ego_past_m=past.float(),
            ego_future_m=future.float(),
            command=self._command(sample, future),
            can_bus=as_tensor(tables.sample_can_bus[sample], torch.float32),
        )

    def key_frame(self, index: int) -> tuple[int, NDArray[np.bool_]]:
        """Where a sample is in the index, and (channels,) of which channels its key frame's file is there."""
        return int(self._samples[index]), self._exists[index]

    def measured(
        self, index: int, horizons_s: Sequence[float], num_rays: int, generator: np.random.Generator | None = None
    ) -> Measurements:
        """What LiDAR and radars measured at `horizons_s` after a key frame; see `measured_at`."""
        return measured_at(self.files, int(self._samples[index]), horizons_s, num_rays, generator)

    def surfaces(self, index: int) -> Surfaces:
        """What moves in a key frame; see `moving_surfaces`."""
        return moving_surfaces(self.files, int(self._samples[index]))

    def odometry(self, index: int, sensor: Sensor) -> Odometry:
        """How the ego moves and came here as radar or LiDAR tells, one sample; see `SensorFiles.odometry`.

        Raises:
            DataError: a damaged file.
        """
        return self.files.odometry(int(self._samples[index]), sensor)

    def surroundings(self, index: int) -> Surroundings:
        """How a sample goes on: the ego's and all objects' tracks, commands and drivable area; no sensor file is read.

        Raises:
            DataError: the town's map expansion is there and damaged.
        """
        tables, sample = self.index, int(self._samples[index])
        drive = tables.drive_of(sample)
        first, stop = int(tables.drive_start[drive]), int(tables.drive_start[drive + 1])
        reference = int(tables.sample_reference[sample])
        global_T_ego = pose_matrix(np.asarray(tables.row_pose[reference]))
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
            can_bus=as_tensor(tables.sample_can_bus[sample], torch.float32),
            ego_path_m=planar_poses(as_tensor(tables.row_pose[later], torch.float64), ego_T_global).float(),
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
        time_s = as_tensor(tables.row_time_us[run] - tables.row_time_us[reference], torch.float64) * 1e-6
        pose = as_tensor(tables.row_pose[run], torch.float64)
        past = ego_trajectory(time_s, pose, ego_T_global, PAST_TIMES_S)
        return past, ego_trajectory(time_s, pose, ego_T_global, FUTURE_TIMES_S)

    def _command(self, sample: int, future: Tensor) -> int:
        match self.config.command:
            case "endpoint":
                return driving_command(future, FUTURE_TIMES_S)
            case "route":
                return int(self.index.sample_route_command[sample])

    # -- which samples ------------------------------------------------------------------------------------------------

    def _samples_of_split(self, is_labelled_share: bool) -> NDArray[np.int64]:
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
        if is_labelled_share and self.config.label_fraction < 1:
            whole = len(chosen)
            chosen = set(nested_share(sorted(chosen), self.config.label_fraction, self.config.label_seed))
            log.info("labels of %d of %d drives: %s", len(chosen), whole, ", ".join(sorted(chosen)))
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


def nested_share(names: Sequence[str], fraction: float, seed: int) -> list[str]:
    """So large a share of the names, at least one: those of a smaller share of the same seed are among them."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[place] for place in order[: max(1, math.ceil(fraction * len(names) - 1e-9))]]


__all__ = ["DataError", "Labels", "NuScenesDrives", "Sample", "detection_class", "known_splits"]
