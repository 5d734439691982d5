"""Writes unlabelled drives as shards, which `shards.ShardDrives` reads; what an item holds is told there."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionperc.config import Config
from fusionperc.data.errors import DataError
from fusionperc.data.index import CAMERA_COLUMNS, CHANNELS, LIDAR_COLUMN, Index
from fusionperc.data.measuring import SLACK_S
from fusionperc.data.motion import COMPARED_S
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.shards import SHARD_FORMAT, TABLES, litdata, reach_of
from fusionperc.data.unlabelled import HELD_HORIZONS_S, open_drives, unlabelled_folders
from fusionperc.files import new_folder

log = logging.getLogger(__name__)

#: A shard is closed when it is larger than this; few enough key frames that a window of shards mixes many drives.
SHARD_BYTES = 64 * 2**20

#: Drives in the order in which they are written: where they are, and their key frames there.
Run = tuple[NuScenesDrives, list[int]]


@dataclass(frozen=True)
class Written:
    """Attributes: numbers of samples and shards, their size, and that of the sensor files they hold."""

    num_samples: int
    num_shards: int
    shard_bytes: int
    raw_bytes: int


def write_shards(
    out: Path,
    config: Config,
    *,
    shard_bytes: int = SHARD_BYTES,
    track: Callable[[Sequence[Run]], Iterable[Run]] = iter,
) -> Written:
    """Writes all drives that a configuration pretrains on, whole or not at all.

    Args:
        out: folder to be made.
        config: names the drives (as without shards), and how far back and ahead a sample must be readable.
        shard_bytes: a shard is closed when it is larger.
        track: what goes through the drives, to show how far it is.

    Raises:
        DataError: as `NuScenesDrives`; litdata is missing; a sweep is missing with data.missing=error.
        OSError: `out` is there already or cannot be written.
    """
    if config.pretraining.shards is not None:
        raise DataError("pretraining.shards says where shards are read: name the folders in pretraining.drives instead")
    streaming = litdata().streaming
    runs = [run for folder in unlabelled_folders(config) for run in _drives_of(open_drives(folder, config))]
    with new_folder(out) as folder:
        writer = streaming.Cache(str(folder), chunk_bytes=shard_bytes)
        number, raw_bytes = 0, 0
        for drives, frames in track(runs):
            for item, size in _Drive(drives, frames, config, number).items():
                writer[number] = item
                number, raw_bytes = number + 1, raw_bytes + size
        writer.done()
        writer.merge()
        files = [file for file in folder.iterdir() if file.suffix == ".bin"]
        written = Written(number, len(files), sum(file.stat().st_size for file in folder.iterdir()), raw_bytes)
    return written


def _drives_of(drives: NuScenesDrives) -> Iterator[Run]:
    of_drive: dict[int, list[int]] = {}
    for frame in range(len(drives)):
        of_drive.setdefault(drives.index.drive_of(drives.key_frame(frame)[0]), []).append(frame)
    yield from ((drives, frames) for frames in of_drive.values())


class _Drive:
    """The items of a drive.

    Args:
        drives, frames: the key frames of the drive, by time.
        config: of the run.
        first: number of the drive's first item.
    """

    def __init__(self, drives: NuScenesDrives, frames: list[int], config: Config, first: int) -> None:
        self._drives, self._frames, self._first = drives, frames, first
        self._index: Index = drives.index
        self._samples = [drives.key_frame(frame)[0] for frame in frames]
        self._past_lidar, self._past_radar, ahead_s = reach_of(config).values()
        self._ahead_s = max(ahead_s, HELD_HORIZONS_S[-1])
        self._spans = [[self._span(sample, column) for column in range(len(CHANNELS))] for sample in self._samples]
        #: Row -> the item that holds its file, from 0, and its place there.
        self._owner: dict[int, tuple[int, int]] = {}
        self._held: list[list[int]] = [[] for _ in frames]
        for column in range(len(CHANNELS)):
            self._assign(column)

    def _span(self, sample: int, column: int) -> range:
        """The rows of a channel that a sample may need: read with it, measured at or after it, or compared with it.

        Of rows that may be nearest to a moment (see `measured_at`), all within the slack are among them.
        """
        index = self._index
        key = int(index.sample_row[sample, column])
        if key < 0:
            return range(0)
        if column in range(len(CHANNELS))[CAMERA_COLUMNS]:
            return range(key, key + 1)
        first, last = int(index.row_first[key]), int(index.row_last[key])
        times_us = index.row_time_us[first : last + 1]
        now_us, slack_us = int(index.row_time_us[index.sample_reference[sample]]), SLACK_S * 1e6
        behind_us = -COMPARED_S[0] * 1e6 if column == LIDAR_COLUMN else 0.0
        nearby = first + int(np.searchsorted(times_us, now_us - behind_us - slack_us))
        stop = first + int(np.searchsorted(times_us, now_us + self._ahead_s * 1e6 + slack_us, side="right"))
        past = int(self._past_lidar if column == LIDAR_COLUMN else self._past_radar)
        return range(max(first, min(key - past, nearby)), max(stop, key + 1))

    def _assign(self, column: int) -> None:
        """A file belongs to the first key frame recorded with or after it, the drive's last files to the last one."""
        spans = [span[column] for span in self._spans]
        owners = [place for place, span in enumerate(spans) if span]
        keys = self._index.sample_row[[self._samples[place] for place in owners], column]
        for row in sorted({row for span in spans for row in span}):
            item = owners[min(int(np.searchsorted(keys, row)), len(owners) - 1)]
            self._owner[row] = item, self._place(row, item)

    def _place(self, row: int, item: int) -> int:
        """The place of a row's file in an item, -1 if it is missing and that is allowed."""
        file = self._drives.files.file(row)
        if not file.is_file():
            if self._drives.config.missing == "error":
                raise DataError(f"{file}: not there: fetch it, or set data.missing to skip or absent_sensor")
            return -1
        self._held[item].append(row)
        return len(self._held[item]) - 1

    def items(self) -> Iterator[tuple[bytes, int]]:
        """The bytes of each item and the size of the sensor files in it."""
        for place in range(len(self._frames)):
            names = [self._index.row_file[row].decode() for row in self._held[place]]
            contents = [self._drives.files.file(row).read_bytes() for row in self._held[place]]
            tables = io.BytesIO()
            np.savez(tables, **self._tables(place))
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                # By name and content alone: a ZipInfo of its own has no time of writing.
                archive.writestr(zipfile.ZipInfo(TABLES), tables.getvalue())
                for name, content in zip(names, contents, strict=True):
                    archive.writestr(zipfile.ZipInfo(name), content)
            yield stream.getvalue(), sum(map(len, contents))

    def _tables(self, place: int) -> dict[str, NDArray[Any]]:
        """The slice of the index that one sample needs, its rows numbered anew."""
        index, sample, spans = self._index, self._samples[place], self._spans[place]
        starts = np.cumsum([0, *map(len, spans)])
        rows = np.array([row for span in spans for row in span], dtype=np.int64)
        new_row = {row: number for number, row in enumerate(rows.tolist())}
        counts = np.array([len(span) for span in spans])
        calibrations, row_calibration = np.unique(index.row_calibration[rows], return_inverse=True)
        held = np.array([self._owner[row] for row in rows.tolist()])
        return {
            "format": np.array(SHARD_FORMAT),
            "reach": np.array([self._past_lidar, self._past_radar, self._ahead_s]),
            "exists": self._drives.key_frame(self._frames[place])[1],
            "drive_name": index.drive_name[[index.drive_of(sample)]],
            "sample_token": index.sample_token[[sample]],
            "sample_row": np.array([[new_row.get(row, -1) for row in index.sample_row[sample].tolist()]]),
            "sample_reference": np.array([new_row[int(index.sample_reference[sample])]]),
            "row_time_us": index.row_time_us[rows],
            "row_pose": index.row_pose[rows],
            "row_calibration": row_calibration.astype(np.int32),
            "row_first": np.repeat(starts[:-1], counts),
            "row_last": np.repeat(starts[1:] - 1, counts),
            "row_item": self._first + held[:, 0],
            "row_place": held[:, 1],
            "calibration_pose": index.calibration_pose[calibrations],
            "calibration_intrinsics": index.calibration_intrinsics[calibrations],
        }
