"""Parses the JSON tables of a nuScenes version folder into an `Index`.

The tables are read one after the other and dropped once their columns are taken. The devkit's own class is not used
for this: it holds all tables as Python objects at once and in every process, and refuses drives without annotation
tables. What it computes from them, velocities above all, is computed alike and tested against it.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionperc.data.errors import DataError
from fusionperc.data.index import CHANNELS, LIDAR_COLUMN, TABLES, Index
from fusionperc.types import ATTRIBUTES, CAMERAS, CLASSES, COMMANDS

log = logging.getLogger(__name__)

#: A CAN bus message further away in time than this is not taken (messages come at 50 Hz).
_CAN_BUS_SLACK_US = 100_000
#: The devkit's limits on the time between annotations from which a velocity is taken: one-sided and centred.
_VELOCITY_SPAN_S = (1.5, 3.0)
_OPTIONAL_TABLES = ("sample_annotation", "instance", "category", "attribute", "log")

Row = dict[str, Any]


def build_index(root: Path, version: str, detection_class: Callable[[str], str | None]) -> Index:
    """Reads all tables of `root`/`version`.

    Args:
        root: the nuScenes folder.
        version: name of its table folder.
        detection_class: detection class of a category name, None for categories that are not detected.

    Raises:
        DataError: a table is missing, is no JSON list, lacks a column or does not fit another.
    """
    folder = root / version
    for table in TABLES:
        if table not in _OPTIONAL_TABLES and not (folder / f"{table}.json").is_file():
            raise DataError(f"{folder / table}.json is missing: copy the whole version folder again")
    try:
        with _no_collection():
            drives = _drives_and_samples(folder)
            rows = _rows(folder, drives)
            arrays = {**drives, **rows, **_annotations(folder, drives, detection_class)}
            arrays["sample_can_bus"] = _can_bus(root, arrays)
            arrays["sample_route_command"] = _route_commands(root, arrays)
    except (KeyError, TypeError, IndexError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{folder}: its tables do not fit together ({reason}): copy them again") from error
    # What starts with _ only served to join the tables.
    return Index(**{name: array for name, array in arrays.items() if not name.startswith("_")})


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of live records make each garbage collection slow, and parsing makes no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _table(folder: Path, name: str) -> list[Row]:
    file = folder / f"{name}.json"
    if not file.is_file():
        return []
    try:
        rows = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: no valid JSON ({error}): copy the table again") from None
    if not isinstance(rows, list):
        raise DataError(f"{file}: holds a {type(rows).__name__}, expected a list of rows: copy the table again")
    return rows


def _strings(values: list[str]) -> NDArray[Any]:
    return np.array(values, dtype=np.bytes_) if values else np.zeros(0, dtype="S1")


def _floats(values: list[Any], *shape: int) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64).reshape(-1, *shape)


def _drives_and_samples(folder: Path) -> dict[str, Any]:
    drives = _table(folder, "scene")
    drive_of = {drive["token"]: number for number, drive in enumerate(drives)}
    location_of = {log["token"]: log["location"] for log in _table(folder, "log")}
    samples = _table(folder, "sample")
    samples.sort(key=lambda sample: (drive_of[sample["scene_token"]], sample["timestamp"]))
    drive = np.array([drive_of[sample["scene_token"]] for sample in samples], dtype=np.int64)
    return {
        "drive_name": _strings([drive["name"] for drive in drives]),
        "drive_location": _strings([location_of.get(drive.get("log_token"), "") for drive in drives]),
        "drive_start": np.searchsorted(drive, np.arange(len(drives) + 1)).astype(np.int64),
        "sample_token": _strings([sample["token"] for sample in samples]),
        "_sample_drive": drive,
        "_sample_time_us": np.array([sample["timestamp"] for sample in samples], dtype=np.int64),
        "_sample_of": {sample["token"]: number for number, sample in enumerate(samples)},
    }


def _rows(folder: Path, drives: dict[str, Any]) -> dict[str, Any]:
    """Key frames of the cameras, all sweeps of LiDAR and radar, sorted by drive, channel and time."""
    channel_of = {row["token"]: row["channel"] for row in _table(folder, "sensor")}
    calibrations = _table(folder, "calibrated_sensor")
    calibration_of = {row["token"]: number for number, row in enumerate(calibrations)}
    columns = {channel: column for column, channel in enumerate(CHANNELS)}
    column_of = [columns.get(channel_of[row["sensor_token"]], -1) for row in calibrations]

    keep: list[tuple[int, int, int, int, bool, str]] = []
    pose_tokens: list[str] = []
    sample_of: dict[str, int] = drives["_sample_of"]
    for row in _table(folder, "sample_data"):
        calibration = calibration_of[row["calibrated_sensor_token"]]
        column = column_of[calibration]
        if column < 0 or (column < len(CAMERAS) and not row["is_key_frame"]):
            continue
        sample = sample_of[row["sample_token"]]
        keep.append((sample, column, row["timestamp"], calibration, row["is_key_frame"], row["filename"]))
        pose_tokens.append(row["ego_pose_token"])
    pose_of = {row["token"]: (*row["translation"], *row["rotation"]) for row in _table(folder, "ego_pose")}
    pose = _floats([pose_of[token] for token in pose_tokens], 7)
    del pose_of

    numbers = np.array([row[:5] for row in keep], dtype=np.int64).reshape(-1, 5)
    drive: NDArray[np.int64] = drives["_sample_drive"][numbers[:, 0]]
    order = np.lexsort((numbers[:, 2], numbers[:, 1], drive))
    in_sample, in_column, time_us, calibration_index, is_key = numbers[order].T
    run = drive[order] * len(CHANNELS) + in_column
    sample_row = np.full((len(drives["sample_token"]), len(CHANNELS)), -1, dtype=np.int64)
    key = np.flatnonzero(is_key)
    sample_row[in_sample[key], in_column[key]] = key
    return {
        "sample_row": sample_row,
        "sample_reference": _references(folder, sample_row, time_us, drives),
        "row_time_us": np.ascontiguousarray(time_us),
        "row_pose": pose[order],
        "row_calibration": calibration_index.astype(np.int32),
        "row_first": np.searchsorted(run, run, side="left").astype(np.int64),
        "row_last": np.searchsorted(run, run, side="right").astype(np.int64) - 1,
        "row_file": _strings([row[5] for row in keep])[order],
        "calibration_pose": _floats([[*row["translation"], *row["rotation"]] for row in calibrations], 7),
        "calibration_intrinsics": _floats([row["camera_intrinsic"] or np.zeros((3, 3)) for row in calibrations], 3, 3),
    }


def _references(
    folder: Path, sample_row: NDArray[np.int64], time_us: NDArray[np.int64], drives: dict[str, Any]
) -> NDArray[np.int64]:
    """The LiDAR's key-frame row of each sample; where it has none, the row nearest to the sample's own time."""
    reference = sample_row[:, LIDAR_COLUMN].copy()
    for sample in np.flatnonzero(reference < 0):
        rows = sample_row[sample][sample_row[sample] >= 0]
        if len(rows) == 0:
            token = drives["sample_token"][sample].decode()
            raise DataError(f"{folder / 'sample_data.json'}: sample {token} has no sensor data at all: remove it")
        reference[sample] = rows[np.argmin(np.abs(time_us[rows] - drives["_sample_time_us"][sample]))]
    return reference


def _annotations(
    folder: Path, drives: dict[str, Any], detection_class: Callable[[str], str | None]
) -> dict[str, NDArray[Any]]:
    annotations = _table(folder, "sample_annotation")
    instances = _table(folder, "instance")
    categories = {row["token"]: row["name"] for row in _table(folder, "category")}
    attributes = {row["token"]: row["name"] for row in _table(folder, "attribute")}
    if annotations and not (instances and categories):
        log.warning("%s: annotations without instances or categories, the drives are taken as unlabelled", folder)
        annotations = []
    sample_of: dict[str, int] = drives["_sample_of"]
    names = {row["token"]: detection_class(categories[row["category_token"]]) for row in instances}
    number_of = {row["token"]: number for number, row in enumerate(instances)}
    sample = np.array([sample_of[row["sample_token"]] for row in annotations], dtype=np.int64)
    velocity = _velocities(annotations, drives["_sample_time_us"][sample])

    is_labelled = np.zeros(len(drives["drive_name"]), dtype=bool)
    is_labelled[drives["_sample_drive"][sample]] = True
    detected = [place for place, row in enumerate(annotations) if names[row["instance_token"]] in CLASSES]
    order = np.array(detected, dtype=np.int64)
    order = order[np.argsort(sample[order], kind="stable")]
    kept = [annotations[place] for place in order]
    size_wlh = _floats([row["size"] for row in kept], 3)
    return {
        "drive_is_labelled": is_labelled,
        "box_start": np.searchsorted(sample[order], np.arange(len(sample_of) + 1)).astype(np.int64),
        "box_token": _strings([row["token"] for row in kept]),
        "box_instance": np.array([number_of[row["instance_token"]] for row in kept], dtype=np.int32),
        "box_pose": _floats([[*row["translation"], *row["rotation"]] for row in kept], 7),
        "box_size_lwh_m": size_wlh[:, [1, 0, 2]],
        "box_velocity_mps": velocity[order],
        "box_class": np.array([CLASSES.index(names[row["instance_token"]] or "") for row in kept], dtype=np.int8),
        "box_attribute": np.array([_attribute(row, attributes) for row in kept], dtype=np.int8),
        "box_visibility": np.array([_visibility(row) for row in kept], dtype=np.int8),
        "box_num_points": np.array(
            [[row["num_lidar_pts"], row["num_radar_pts"]] for row in kept], dtype=np.int32
        ).reshape(-1, 2),
    }


def _attribute(annotation: Row, attributes: dict[str, str]) -> int:
    names = [attributes.get(token, "") for token in annotation["attribute_tokens"]]
    return next((ATTRIBUTES.index(name) for name in names if name in ATTRIBUTES), -1)


def _visibility(annotation: Row) -> int:
    token = annotation.get("visibility_token", "")
    return int(token) if token in ("1", "2", "3", "4") else 0


def _velocities(annotations: list[Row], time_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """(A, 2) velocity along global x and y, as the devkit's `NuScenes.box_velocity`.

    Centred difference where both neighbours exist, one-sided where one does, NaN where none does or the span is too
    long. Without its vertical part, as the evaluation sees it.
    """
    place_of = {row["token"]: place for place, row in enumerate(annotations)}
    own = np.arange(len(annotations))
    first = np.array([place_of.get(row["prev"], -1) for row in annotations], dtype=np.int64)
    last = np.array([place_of.get(row["next"], -1) for row in annotations], dtype=np.int64)
    limit_s = np.where((first >= 0) & (last >= 0), _VELOCITY_SPAN_S[1], _VELOCITY_SPAN_S[0])
    first, last = np.where(first < 0, own, first), np.where(last < 0, own, last)
    center = _floats([row["translation"] for row in annotations], 3)[:, :2]
    span_s = 1e-6 * (time_us[last] - time_us[first])
    known = (span_s > 0) & (span_s <= limit_s)
    return np.where(known[:, None], (center[last] - center[first]) / np.where(known, span_s, 1.0)[:, None], np.nan)


def _can_bus(root: Path, arrays: dict[str, Any]) -> NDArray[np.float64]:
    """(S, 4) speed, longitudinal and lateral acceleration, yaw rate at each sample's time; NaN where not recorded."""
    values = np.full((len(arrays["sample_token"]), 4), np.nan)
    time_us = arrays["row_time_us"][arrays["sample_reference"]]
    for number, name in enumerate(arrays["drive_name"]):
        messages = _table(root / "can_bus", f"{name.decode()}_pose")
        if not messages:
            continue
        messages.sort(key=lambda message: message["utime"])
        message_us = np.array([message["utime"] for message in messages], dtype=np.int64)
        content = _floats([[m["vel"][0], m["accel"][0], m["accel"][1], m["rotation_rate"][2]] for m in messages], 4)
        samples = slice(arrays["drive_start"][number], arrays["drive_start"][number + 1])
        after = np.searchsorted(message_us, time_us[samples]).clip(1, len(messages) - 1) if len(messages) > 1 else 0
        before = np.maximum(after - 1, 0)
        nearest = np.where(
            np.abs(message_us[after] - time_us[samples]) < np.abs(message_us[before] - time_us[samples]), after, before
        )
        is_near = np.abs(message_us[nearest] - time_us[samples]) <= _CAN_BUS_SLACK_US
        values[samples] = np.where(is_near[:, None], content[nearest], np.nan)
    return values


def _route_commands(root: Path, arrays: dict[str, Any]) -> NDArray[np.int8]:
    """(S,) what the route says at each sample, as simulated drives record it; -1 where nothing is recorded."""
    place_of = {token: place for place, token in enumerate(arrays["sample_token"])}
    commands = np.full(len(place_of), -1, dtype=np.int8)
    for name in arrays["drive_name"]:
        for row in _table(root / "can_bus", f"{name.decode()}_command"):
            place = place_of.get(row["sample_token"].encode())
            if place is not None and row["route"] in COMMANDS:
                commands[place] = COMMANDS.index(row["route"])
    return commands
