"""A compact index of a nuScenes version folder: plain arrays, kept on disk, shared by all processes.

The tables of a full `v1.0-trainval` are gigabytes of JSON. They are parsed once (`fusionperc.data.tables`); what
reading a sample needs of them is kept here as arrays, one `.npy` file each, in a folder named by the digest of the
tables' content. Later starts only hash the tables and map the arrays: every loader process sees the same memory, and
a changed table is another digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusionperc.data.errors import DataError
from fusionperc.files import MANIFEST, file_digest
from fusionperc.geometry import rigid, rotation_from_quaternion
from fusionperc.types import CAMERAS, LIDAR, RADARS

log = logging.getLogger(__name__)

#: Changes whenever the arrays or what they mean change: old caches are then not taken.
_FORMAT = "fusionperc index 2"

#: Sensor channels in the order of the columns of `Index.sample_row`.
CHANNELS = (*CAMERAS, LIDAR, *RADARS)
LIDAR_COLUMN = CHANNELS.index(LIDAR)
CAMERA_COLUMNS = slice(0, len(CAMERAS))
RADAR_COLUMNS = slice(LIDAR_COLUMN + 1, len(CHANNELS))

#: Tables whose content decides the index; the last five may be absent (drives without annotations, without maps).
TABLES = (
    "scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor",
    "sample_annotation", "instance", "category", "attribute", "log",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Index:
    """Arrays over D drives, S samples, R rows of sensor data, C calibrations and A annotations.

    Names are ASCII bytes. Poses are (x, y, z in metres, quaternion w, x, y, z). Samples are sorted by drive and time;
    rows by drive, channel and time, so that a sensor's past sweeps are the rows just before its key frame's.

    Attributes:
        drive_name: (D,).
        drive_start: (D + 1,) drive d has the samples drive_start[d] to drive_start[d + 1] - 1.
        drive_is_labelled: (D,) whether any annotation belongs to the drive.
        drive_location: (D,) name of its town, as in the log table; empty where that is missing.
        sample_token: (S,).
        sample_row: (S, 12) key-frame row of each of `CHANNELS`, -1 where there is none.
        sample_reference: (S,) the row whose time and ego pose are the sample's: the LiDAR's key frame where it has one.
        sample_can_bus: (S, 4) as `Targets.can_bus`.
        sample_route_command: (S,) index into `types.COMMANDS` of what the route says, -1 where no route is recorded.
        row_time_us: (R,).
        row_pose: (R, 7) global_T_ego at the row's own time.
        row_calibration: (R,) index of its calibration.
        row_first, row_last: (R,) first and last row of the same drive and channel.
        row_file: (R,) path below the root.
        calibration_pose: (C, 7) ego_T_sensor.
        calibration_intrinsics: (C, 3, 3); zeros for LiDAR and radar.
        box_start: (S + 1,) sample s has the annotations box_start[s] to box_start[s + 1] - 1. Only detection classes.
        box_token: (A,).
        box_instance: (A,) the same number for the same object.
        box_pose: (A, 7) global_T_box.
        box_size_lwh_m: (A, 3).
        box_velocity_mps: (A, 2) along global x and y; NaN where unknown.
        box_class, box_attribute: (A,) as in `types.Boxes`.
        box_visibility: (A,) 1 (below 40 %) to 4 (above 80 %), 0 unknown.
        box_num_points: (A, 2) official LiDAR and radar counts.
    """

    drive_name: NDArray[Any]
    drive_start: NDArray[np.int64]
    drive_is_labelled: NDArray[np.bool_]
    drive_location: NDArray[Any]
    sample_token: NDArray[Any]
    sample_row: NDArray[np.int64]
    sample_reference: NDArray[np.int64]
    sample_can_bus: NDArray[np.float64]
    sample_route_command: NDArray[np.int8]
    row_time_us: NDArray[np.int64]
    row_pose: NDArray[np.float64]
    row_calibration: NDArray[np.int32]
    row_first: NDArray[np.int64]
    row_last: NDArray[np.int64]
    row_file: NDArray[Any]
    calibration_pose: NDArray[np.float64]
    calibration_intrinsics: NDArray[np.float64]
    box_start: NDArray[np.int64]
    box_token: NDArray[Any]
    box_instance: NDArray[np.int32]
    box_pose: NDArray[np.float64]
    box_size_lwh_m: NDArray[np.float64]
    box_velocity_mps: NDArray[np.float64]
    box_class: NDArray[np.int8]
    box_attribute: NDArray[np.int8]
    box_visibility: NDArray[np.int8]
    box_num_points: NDArray[np.int32]

    def drive_of(self, sample: int) -> int:
        """The drive that a sample belongs to."""
        return int(np.searchsorted(self.drive_start, sample, side="right")) - 1


def check_folder(root: Path, version: str) -> None:
    """Raises `DataError` where there is no such version, or its tables are not what a manifest beside them says."""
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
        if not name.startswith(f"{version}/"):
            continue
        if not (root / name).is_file():
            # Tables that are needed are missed when they are read; drives without annotations are drives, too.
            log.warning("%s: not there, though %s lists it", root / name, MANIFEST)
        elif file_digest(root / name) != expected:
            raise DataError(
                f"{root / name} is not what {MANIFEST} says: copy both again, run tools/simulate.py again, or, if the "
                f"table was changed on purpose, remove {MANIFEST}"
            )


def digest(root: Path, version: str) -> str:
    """Digest of all that decides the index: the version's tables, CAN bus poses and commands, by content."""
    files = [root / version / f"{table}.json" for table in TABLES]
    files += sorted((root / "can_bus").glob("*_pose.json")) + sorted((root / "can_bus").glob("*_command.json"))
    files = [file for file in files if file.is_file()]
    # Hashing releases the interpreter's lock, so that the two large tables go side by side.
    with ThreadPoolExecutor(max_workers=4) as pool:
        contents = list(pool.map(file_digest, files))
    whole = hashlib.blake2b(_FORMAT.encode(), digest_size=16)
    for file, content in zip(files, contents, strict=True):
        whole.update(f"{file.name} {content}\n".encode())
    return whole.hexdigest()


def cached_index(root: Path, version: str, cache: Path | None, build: Callable[[], Index]) -> Index:
    """The index of `root`/`version` from `cache`, where it is made with `build` if it is not there yet.

    A cache that cannot be read is made anew. Without a cache folder the index is built and kept in memory.
    """
    if cache is None:
        return build()
    folder = cache / f"index-{version}-{digest(root, version)}"
    if folder.is_dir():
        try:
            return _load(folder)
        except (OSError, ValueError) as error:
            log.warning("%s: the cached index cannot be read (%s), it is made anew", folder, error)
            shutil.rmtree(folder)
    log.info("%s: indexing the tables once, into %s", root / version, folder)
    _save(build(), folder)
    return _load(folder)


def _load(folder: Path) -> Index:
    arrays: dict[str, Any] = {f.name: np.load(folder / f"{f.name}.npy", mmap_mode="r") for f in fields(Index)}
    return Index(**arrays)


def _save(index: Index, folder: Path) -> None:
    """Writes all arrays beside `folder` and moves them there at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".index-", dir=folder.parent))
    try:
        for field in fields(Index):
            np.save(temporary / f"{field.name}.npy", getattr(index, field.name), allow_pickle=False)
        os.replace(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        # Another process may have been faster: its index is the same.
        if not folder.is_dir():
            raise


def pose_matrix(pose: NDArray[np.float64]) -> Tensor:
    """(..., 4, 4) float64 of (..., 7) x, y, z, quaternion."""
    values = as_tensor(pose, torch.float64)
    return rigid(rotation_from_quaternion(values[..., 3:]), values[..., :3])


def as_tensor(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    """A tensor of its own: index arrays are mapped read-only."""
    return torch.from_numpy(np.array(array)).to(dtype)
