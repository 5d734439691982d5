"""What a nuScenes folder looks like, in numbers: samples of LiDAR, boxes, radar and ego motion, for `realism`.

Any nuScenes folder will do, real or simulated, with any part of its files absent: the tables say what is looked for,
and only files that exist are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fusionperc.data.errors import DataError
from fusionperc.data.index import CHANNELS, LIDAR_COLUMN, Index
from fusionperc.data.nuscenes import detection_class
from fusionperc.data.pointclouds import read_lidar, read_radar
from fusionperc.data.tables import build_index
from fusionperc.evaluation.lidar_sweep import NUM_BEAMS, LidarSweep, split_sweep
from fusionperc.geometry import rotation_from_quaternion
from fusionperc.types import CLASSES, RADARS

Group = Literal["lidar", "boxes", "radar", "ego"]
Values = NDArray[Any]

#: Returns are also counted by sector of azimuth: a folder with two sweeps still gives 72 values.
_NUM_SECTORS = 36
#: Rings from here on look up.
_FIRST_RING_UP = 24
#: Points in boxes are compared within these distances from the ego, metres.
_DISTANCE_BINS_M = ((0, 20), (20, 40))
_WELL_KNOWN_CLASSES = ("car", "pedestrian")
#: Slower is standing: real annotations of parked cars and standing people jitter.
_STANDING_MPS = 0.5
#: Radar points slower than this along the ray, own speed taken out, are of standing things.
_STANDING_RADIAL_MPS = 1.0
#: Ego motion is taken every half second, as a mean over it: the real acceleration and yaw rate messages are raw.
_EGO_STEP_S = 0.5
#: Slower accelerations and turns are none: the real sensors have offsets, a simulated one does not.
_STEADY_MPS2, _STRAIGHT_RADPS = 0.05, 0.01


@dataclass(frozen=True, eq=False)
class Sample:
    """Measured values of one quantity.

    Attributes:
        group: the part of the comparison it belongs to.
        unit: empty for plain numbers.
        values: (N,).
        num_objects: how many different objects the values tell about, where that is fewer than the values: the same
            car is annotated in many samples.
    """

    group: Group
    unit: str
    values: Values
    num_objects: int | None = None

    @property
    def evidence(self) -> int:
        """Values that are independent of each other, at most."""
        return len(self.values) if self.num_objects is None else min(len(self.values), self.num_objects)


Samples = dict[str, Sample]


def measure(root: Path, version: str | None = None, *, max_files: int = 60, radars: Sequence[str] = RADARS) -> Samples:
    """Measures a nuScenes folder.

    Args:
        root: the nuScenes folder.
        version: its table folder; None takes the only one there is.
        max_files: most LiDAR sweeps, and most scans of each radar, that are read; evenly spread over what is there.
        radars: channels to take: what a radar sees depends on where it looks, compare those that both folders have.

    Returns:
        Samples by name, in the order of the tables; a quantity that the folder says nothing about has no values.

    Raises:
        DataError: no such folder or version, several versions to choose from, or damaged tables or files.
    """
    root = Path(root)
    index = build_index(root, version or only_version(root), detection_class)
    return {
        **_lidar(root, index, max_files),
        **_boxes(index),
        **_radar(root, index, radars, max_files),
        **_ego(root),
    }


def radars_with_files(root: Path) -> list[str]:
    """Radar channels of which any file lies under `root`."""
    return [channel for channel in RADARS if any(root.rglob(f"*{channel}__*.pcd"))]


def only_version(root: Path) -> str:
    """The only version folder of `root`. Raises `DataError` if there is none, or more than one."""
    versions = sorted(file.parent.name for file in root.glob("*/scene.json"))
    if len(versions) != 1:
        found = f"several versions ({', '.join(versions)}): name one" if versions else "no version folder"
        raise DataError(f"{root}: has {found}; expected one folder with scene.json and the other tables")
    return versions[0]


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

    def down(sweep: LidarSweep) -> NDArray[np.bool_]:
        return ~sweep.is_own_vehicle & (sweep.ring < _FIRST_RING_UP)

    def up(sweep: LidarSweep) -> NDArray[np.bool_]:
        return ~sweep.is_own_vehicle & (sweep.ring >= _FIRST_RING_UP)

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
        "range, rings looking down": ("m", pooled(lambda s: s.range_m, down)),
        "range, rings looking up": ("m", pooled(lambda s: s.range_m, up)),
        "range, own vehicle": ("m", pooled(lambda s: s.range_m, own)),
        "intensity": ("", pooled(lambda s: s.intensity, outside)),
        "intensity, own vehicle": ("", pooled(lambda s: s.intensity, own)),
        "height above ground": ("m", _joined([h[outside(s)] for s, h in zip(sweeps, heights, strict=True)])),
    }  # fmt: skip
    return _samples("lidar", values)


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


def _boxes(index: Index) -> Samples:
    """All annotated boxes of detection classes in labelled drives."""
    counts = np.diff(index.box_start)
    sample = np.repeat(np.arange(len(counts)), counts)
    drive = np.searchsorted(index.drive_start, np.arange(len(counts)), side="right") - 1
    ego_xy_m = index.row_pose[index.sample_reference, :2][sample]
    distance_m = np.hypot(*(index.box_pose[:, :2] - ego_xy_m).T)
    speed_mps = np.hypot(*index.box_velocity_mps.T)
    num_points = index.box_num_points[:, 0]

    samples: Samples = {}

    def add(name: str, unit: str, sample_values: Values, objects: NDArray[np.bool_]) -> None:
        samples[name] = Sample("boxes", unit, sample_values, len(np.unique(index.box_instance[objects])))

    for number, name in enumerate(CLASSES):
        is_class = index.box_class == number
        per_sample = np.bincount(sample[is_class], minlength=len(counts))
        add(f"{name} boxes a sample", "", per_sample[index.drive_is_labelled[drive]], is_class)
    for name in _WELL_KNOWN_CLASSES:
        is_class = index.box_class == CLASSES.index(name)
        for low, high in _DISTANCE_BINS_M:
            hit = is_class & (num_points > 0) & (distance_m >= low) & (distance_m < high)
            add(f"{name}: LiDAR points, {low}-{high} m", "", num_points[hit], hit)
        near = is_class & (distance_m < _DISTANCE_BINS_M[-1][1])
        add(f"{name}: radar points, 0-{_DISTANCE_BINS_M[-1][1]} m", "", index.box_num_points[near, 1], near)
        add(f"{name}: distance", "m", distance_m[is_class], is_class)
        known, moves = is_class & np.isfinite(speed_mps), is_class & (speed_mps >= _STANDING_MPS)
        add(f"{name}: speed", "m/s", np.where(moves, speed_mps, 0.0)[known], known)
        add(f"{name}: speed if moving", "m/s", speed_mps[moves], moves)
        rated = is_class & (index.box_visibility > 0)
        add(f"{name}: visibility level", "", index.box_visibility[rated], rated)
    # An object keeps its size: each counts once.
    is_first = np.zeros(len(index.box_class), dtype=bool)
    is_first[np.unique(index.box_instance, return_index=True)[1]] = True
    for number, name in enumerate(CLASSES):
        chosen = is_first & (index.box_class == number)
        for axis, what in enumerate(("length", "width", "height")):
            add(f"{name}: {what}", "m", index.box_size_lwh_m[chosen, axis], chosen)
    return samples


def _radar(root: Path, index: Index, radars: Sequence[str], max_files: int) -> Samples:
    """The radars' files that the tables name, or, if none of those is there, any under the root."""
    column = _column(index)
    paths = [path for c in radars for _, path in _files(root, index, column == CHANNELS.index(c), max_files)] or [
        path for c in radars for path in _spread(sorted(root.rglob(f"*{c}__*.pcd")), max_files)
    ]
    every = [read_radar(path, "none") for path in paths]
    kept = [read_radar(path, "devkit") for path in paths]
    doppler = [np.abs(_radial_speed(points)) for points in kept]
    values: dict[str, tuple[str, Values]] = {
        "points a scan": ("", _floats([len(points) for points in kept])),
        "points a scan, unfiltered": ("", _floats([len(points) for points in every])),
        "range of a point": ("m", _joined([np.hypot(points["x"], points["y"]) for points in kept])),
        "azimuth of a point": ("°", _joined([np.degrees(np.arctan2(points["y"], points["x"])) for points in kept])),
        "RCS of a point": ("dBsm", _joined([points["rcs"] for points in kept])),
        "Doppler speed": ("m/s", _joined(doppler)),
        # Without its sign: what remains of the own speed points away from rear radars and towards front ones.
        "Doppler speed if standing": ("m/s", _joined([s[s < _STANDING_RADIAL_MPS] for s in doppler])),
    }
    for name in ("dyn_prop", "x_rms", "y_rms", "vx_rms", "pdh0", "invalid_state", "ambig_state"):
        values[f"field {name}, unfiltered"] = ("", _joined([points[name] for points in every]))
    return _samples("radar", values)


def _radial_speed(points: Values) -> Values:
    """(P,) compensated velocity along the ray, away from the sensor positive."""
    x, y = points["x"].astype(np.float64), points["y"].astype(np.float64)
    radial: Values = (points["vx_comp"] * x + points["vy_comp"] * y) / np.maximum(np.hypot(x, y), 1e-3)
    return radial


def _ego(root: Path) -> Samples:
    """Motion from the CAN bus's pose messages, at steps of half a second; each is differenced in the same way."""
    speeds, accelerations, yaw_rates = [], [], []
    for file in sorted((root / "can_bus").glob("*_pose.json")):
        speed, yaw_rate = _ego_motion(file)
        speeds.append(speed)
        accelerations.append(np.diff(speed) / _EGO_STEP_S)
        yaw_rates.append(yaw_rate)
    acceleration, yaw_rate = _joined(accelerations), np.abs(_joined(yaw_rates))
    values: dict[str, tuple[str, Values]] = {
        "ego speed": ("m/s", _joined(speeds)),
        "ego acceleration": ("m/s²", np.where(np.abs(acceleration) < _STEADY_MPS2, 0.0, acceleration)),
        "ego yaw rate, absolute": ("rad/s", np.where(yaw_rate < _STRAIGHT_RADPS, 0.0, yaw_rate)),
    }
    return _samples("ego", values)


def _ego_motion(file: Path) -> tuple[Values, Values]:
    """Speeds at the ends of the steps of a drive, (N + 1,), and mean yaw rates over them, (N,)."""
    try:
        messages = json.loads(file.read_bytes())
        rows = sorted((m["utime"], m["vel"][0], m["rotation_rate"][2]) for m in messages)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{file}: no list of pose messages ({error}): fetch the file again") from None
    if len(rows) < 2:
        return np.zeros(0), np.zeros(0)
    time_us, speed, yaw_rate = np.array(rows, dtype=np.float64).T
    time_s = 1e-6 * (time_us - time_us[0])
    ends = np.arange(0.0, time_s[-1], _EGO_STEP_S)
    turned = np.concatenate([[0.0], np.cumsum(np.diff(time_s) * (yaw_rate[1:] + yaw_rate[:-1]) / 2)])
    return np.interp(ends, time_s, speed), np.diff(np.interp(ends, time_s, turned)) / _EGO_STEP_S


def _samples(group: Group, values: dict[str, tuple[str, Values]]) -> Samples:
    return {name: Sample(group, unit, sample) for name, (unit, sample) in values.items()}


def _floats(values: list[Any]) -> Values:
    return np.array(values, dtype=np.float64)


def _joined(parts: list[Values]) -> Values:
    return np.concatenate(parts).astype(np.float64, copy=False) if parts else np.zeros(0)


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
