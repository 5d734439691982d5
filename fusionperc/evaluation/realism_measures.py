"""What a nuScenes folder looks like, in numbers: samples of LiDAR, boxes, radar and ego motion, for `realism`.

Any nuScenes folder will do, real or simulated, with any part of its files absent: the tables say what is looked for,
and only files that exist are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fusionperc.data.errors import DataError
from fusionperc.data.index import LIDAR_COLUMN, Index
from fusionperc.data.nuscenes import detection_class
from fusionperc.data.pointclouds import read_lidar
from fusionperc.data.tables import build_index
from fusionperc.evaluation.lidar_sweep import NUM_BEAMS, LidarSweep, split_sweep
from fusionperc.geometry import rotation_from_quaternion

Group = Literal["lidar", "boxes", "radar", "ego"]
Values = NDArray[np.floating[Any]]

#: Returns are also counted by sector of azimuth: a folder with two sweeps still gives 72 values.
_NUM_SECTORS = 36
#: Rings from here on look up.
_FIRST_RING_UP = 24


@dataclass(frozen=True, eq=False)
class Sample:
    """Measured values of one quantity, (N,), with their unit, and the part of the comparison they belong to."""

    group: Group
    unit: str
    values: Values


Samples = dict[str, Sample]


def measure(root: Path, version: str | None = None, *, max_files: int = 60) -> Samples:
    """Measures a nuScenes folder.

    Args:
        root: the nuScenes folder.
        version: its table folder; None takes the only one there is.
        max_files: most LiDAR sweeps, and most scans of each radar, that are read; evenly spread over what is there.

    Returns:
        Samples by name, in the order of the tables; a quantity that the folder says nothing about has no values.

    Raises:
        DataError: no such folder or version, several versions to choose from, or damaged tables or files.
    """
    root = Path(root)
    index = build_index(root, version or only_version(root), detection_class)
    return {**_lidar(root, index, max_files)}


def only_version(root: Path) -> str:
    """The only version folder of `root`. Raises `DataError` if there is none, or more than one."""
    versions = sorted(file.parent.name for file in root.glob("*/scene.json"))
    if len(versions) != 1:
        found = f"several versions ({', '.join(versions)}): name one" if versions else "no version folder"
        raise DataError(f"{root}: has {found}; expected one folder with scene.json and the other tables")
    return versions[0]


def _files(root: Path, index: Index, is_wanted: NDArray[np.bool_], at_most: int) -> list[tuple[int, Path]]:
    """Rows and paths of the wanted files that are there, evenly thinned to `at_most`; each folder is listed once."""
    listed: dict[str, set[str]] = {}
    found: list[tuple[int, Path]] = []
    for row in np.flatnonzero(is_wanted):
        folder, _, name = index.row_file[row].decode().rpartition("/")
        if folder not in listed:
            listed[folder] = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        if name in listed[folder]:
            found.append((int(row), root / folder / name))
    return _spread(found, at_most)


def _spread(items: list[Any], at_most: int) -> list[Any]:
    if len(items) <= at_most:
        return items
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, at_most)]


def _column(index: Index) -> NDArray[np.int64]:
    """(R,) place in `CHANNELS` of each row's channel: rows of a sensor lie together and hold its key frames."""
    column = np.full(len(index.row_time_us), -1, dtype=np.int64)
    sample, channel = np.nonzero(index.sample_row >= 0)
    rows = index.sample_row[sample, channel]
    column[index.row_first[rows]] = channel
    filled: NDArray[np.int64] = column[index.row_first]
    return filled


def _lidar(root: Path, index: Index, max_files: int) -> Samples:
    files = _files(root, index, _column(index) == LIDAR_COLUMN, max_files)
    sweeps = [split_sweep(read_lidar(path)) for _, path in files]
    heights = [_height_above_ground(sweep, index, row) for sweep, (row, _) in zip(sweeps, files, strict=True)]

    def pooled(of: Callable[[LidarSweep], Values], where: Callable[[LidarSweep], NDArray[np.bool_]]) -> Values:
        return _joined([of(sweep)[where(sweep)] for sweep in sweeps])

    def outside(sweep: LidarSweep) -> NDArray[np.bool_]:
        return ~sweep.is_own_vehicle

    def own(sweep: LidarSweep) -> NDArray[np.bool_]:
        return sweep.is_own_vehicle

    rings = np.arange(NUM_BEAMS)
    missing = [sweep.num_missing for sweep in sweeps]
    values: dict[str, tuple[str, Values]] = {
        "returns a sweep": ("", _floats([len(sweep.range_m) for sweep in sweeps])),
        "returns in a 10° sector": ("", _joined([_by_sector(sweep) for sweep in sweeps])),
        "ring of a return": ("", pooled(lambda s: s.ring, outside)),
        "ring of a missing return": ("", _joined([np.repeat(rings, count) for count in missing])),
        "missing share of a ring": ("%", _joined([100 * _missing_share(sweep) for sweep in sweeps])),
        "own-vehicle returns a sweep": ("", _floats([own(sweep).sum() for sweep in sweeps])),
        "ring of an own-vehicle return": ("", pooled(lambda s: s.ring, own)),
        "range": ("m", pooled(lambda s: s.range_m, outside)),
        "range, rings looking down": ("m", pooled(lambda s: s.range_m, lambda s: outside(s) & (s.ring < _FIRST_RING_UP))),
        "range, rings looking up": ("m", pooled(lambda s: s.range_m, lambda s: outside(s) & (s.ring >= _FIRST_RING_UP))),
        "range, own vehicle": ("m", pooled(lambda s: s.range_m, own)),
        "intensity": ("", pooled(lambda s: s.intensity, outside)),
        "intensity, own vehicle": ("", pooled(lambda s: s.intensity, own)),
        "height above ground": ("m", _joined([h[outside(s)] for s, h in zip(sweeps, heights, strict=True)])),
    }  # fmt: skip
    return {name: Sample("lidar", unit, sample) for name, (unit, sample) in values.items()}


def _height_above_ground(sweep: LidarSweep, index: Index, row: int) -> Values:
    """(P,) z in the ego frame, whose origin is on the ground below the rear axle."""
    pose = np.asarray(index.calibration_pose[index.row_calibration[row]])
    rotation = rotation_from_quaternion(torch.from_numpy(np.array(pose[3:]))).numpy()
    height: Values = sweep.xyz_m @ rotation[2].astype(np.float32) + np.float32(pose[2])
    return height


def _by_sector(sweep: LidarSweep) -> NDArray[np.int64]:
    """(36,) returns by azimuth, the own vehicle's left out."""
    xyz = sweep.xyz_m[~sweep.is_own_vehicle]
    turn = np.arctan2(xyz[:, 1], xyz[:, 0]) / (2 * np.pi) + 0.5
    sector = np.minimum((turn * _NUM_SECTORS).astype(np.int64), _NUM_SECTORS - 1)
    return np.bincount(sector, minlength=_NUM_SECTORS)


def _missing_share(sweep: LidarSweep) -> Values:
    returns = np.bincount(sweep.ring, minlength=NUM_BEAMS)[:NUM_BEAMS]
    share: Values = sweep.num_missing / np.maximum(returns + sweep.num_missing, 1)
    return share


def _floats(values: list[Any]) -> Values:
    return np.array(values, dtype=np.float64)


def _joined(parts: list[Values]) -> Values:
    return np.concatenate(parts).astype(np.float64, copy=False) if parts else np.zeros(0)
