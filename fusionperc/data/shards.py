"""Unlabelled drives streamed from shards, for sets that outgrow one disk: reading; `shard_writing` writes them.

Shards are a litdata set (a folder, or a URL such as s3://bucket/set) with one item per key frame. An item is a ZIP
archive, stored without compression, of the sensor files recorded since the key frame before it, as they are on disk,
and of its own slice of the index: when, where and in which item every sweep was recorded that the key frame may need,
before it and in the seconds after it. So no file is stored twice, nothing but the items is needed to read them, and
reading goes through the same code as reading a folder. Annotations are not in there.

A sample reads its own item and those of its earlier and later sweeps, mostly two in all. Local folders are read in
place; s3://, gs:// and r2:// by ranges of bytes, without a copy on disk; litdata fetches whole shards from elsewhere
and keeps them in `data.cache`.

The order of draws is this package's own, a pure function of seed and epoch (`WindowSampler`): litdata stores, fetches
and finds.
"""

from __future__ import annotations

import io
import json
import logging
import os
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusionperc.config import Config
from fusionperc.data.errors import DataError
from fusionperc.data.index import Index
from fusionperc.data.loading import ORDER_STREAM, DrawSampler
from fusionperc.data.measuring import measured_at
from fusionperc.data.motion import moving_surfaces
from fusionperc.data.pictures import PictureCrop
from fusionperc.data.sample import FUTURE_TIMES_S, PAST_TIMES_S, Sample
from fusionperc.data.sensor_files import SensorFiles
from fusionperc.measurements import Measurements, Surfaces
from fusionperc.types import SENSORS, Boxes, Sensor

if TYPE_CHECKING:
    from litdata import StreamingDataset

log = logging.getLogger(__name__)

#: Changes whenever the items or what they mean change.
SHARD_FORMAT = 2
#: Member of an item that holds the arrays.
TABLES = "tables.npz"
#: Items kept open: those of one sample at four moments.
_MOST_OPEN = 10
_REMEDY = "copy it again, or write it with tools/shard.py"


class ShardDrives:
    """The key frames of a set of shards, read as `NuScenesDrives` reads those of a folder.

    Args:
        shards: folder or URL.
        config: of the run: sweeps, filters, what to do about missing files, how far ahead is looked.
        cache: folder for what litdata keeps of a URL.

    Attributes:
        shard_stops: (shards,) the first key frame after each.

    Raises:
        DataError: litdata is not installed; there are no shards, some are missing or cut off, they were written for
            fewer sweeps or for a shorter time ahead than the run asks for.
    """

    def __init__(self, shards: str, config: Config, cache: Path) -> None:
        self.shards, self.config, self._cache = shards, config.data, cache
        self._set: StreamingDataset | None = None
        self._opened_by = -1
        self._items: OrderedDict[int, zipfile.ZipFile] = OrderedDict()
        self._frame: tuple[int, SensorFiles, NDArray[np.bool_]] | None = None
        if not _is_remote(shards):
            check_shard_folder(Path(shards.removeprefix("local:")))
        tables = self._tables(0)
        self.shard_stops: NDArray[np.int64] = np.cumsum([
            interval.chunk_end - interval.chunk_start for interval in self._opened().cache.get_chunk_intervals()
        ])  # fmt: skip
        self._check_reach(tables, config)
        log.info("unlabelled: %d key frames in %d shards of %s", len(self), len(self.shard_stops), shards)

    def __len__(self) -> int:
        return int(self.shard_stops[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Open files are no other process's."""
        return {**vars(self), "_set": None, "_items": OrderedDict(), "_frame": None}

    def read(
        self, index: int, crops: Sequence[PictureCrop] | None = None, sensors: Sequence[Sensor] = SENSORS
    ) -> Sample:
        """As `NuScenesDrives.read`, without labels, trajectories, command and CAN bus: those are not stored."""
        files, exists = self._key_frame(index)
        readings = files.read(0, exists, crops, sensors)
        none = torch.zeros(0, dtype=torch.int64)
        return Sample(
            boxes=Boxes.empty(),
            box_rotation=torch.zeros(0, 3, 3),
            num_points=none.view(0, 2),
            visibility=none,
            annotation_tokens=[],
            instance=none,
            is_labelled=False,
            **vars(readings),
            token=files.index.sample_token[0].decode(),
            scene=files.index.drive_name[0].decode(),
            timestamp_us=int(files.index.row_time_us[files.index.sample_reference[0]]),
            ego_past_m=torch.full((len(PAST_TIMES_S), 3), torch.nan),
            ego_future_m=torch.full((len(FUTURE_TIMES_S), 3), torch.nan),
            command=-1,
            can_bus=torch.full((4,), torch.nan),
        )

    def measured(
        self, index: int, horizons_s: Sequence[float], num_rays: int, generator: np.random.Generator | None = None
    ) -> Measurements:
        """What LiDAR and radars measured at `horizons_s` after a key frame; see `measured_at`."""
        return measured_at(self._key_frame(index)[0], 0, horizons_s, num_rays, generator)

    def surfaces(self, index: int) -> Surfaces:
        """What moves in a key frame; see `moving_surfaces`."""
        return moving_surfaces(self._key_frame(index)[0], 0)

    # -- items --------------------------------------------------------------------------------------------------------

    def _key_frame(self, index: int) -> tuple[SensorFiles, NDArray[np.bool_]]:
        """An index of the one sample and its files; (channels,) of which channels the key frame's is there."""
        if self._frame is None or self._frame[0] != index:
            tables = self._tables(index)
            self._frame = index, SensorFiles(self._find, _index_of(tables), self.config), tables["exists"]
        return self._frame[1:]

    def _tables(self, index: int) -> dict[str, NDArray[Any]]:
        item = self._item(index)
        try:
            with np.load(io.BytesIO(item.read(TABLES)), allow_pickle=False) as arrays:
                tables = dict(arrays)
        except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
            raise DataError(f"{self.shards}: item {index} is damaged ({error}): {_REMEDY}") from None
        if int(tables.get("format", -1)) != SHARD_FORMAT:
            raise DataError(f"{self.shards}: shards of another format: write them anew with tools/shard.py")
        return tables

    def _find(self, name: str) -> StoredFile:
        """The file of a row of `_index_of`."""
        item, _, place = name.partition("/")
        if int(place) < 0:
            return StoredFile(f"{self.shards}: a file that was not there when the shards were written")
        archive = self._item(int(item))
        # The tables come first.
        info = archive.infolist()[1 + int(place)]
        return StoredFile(f"{self.shards}: {info.filename}", archive, info)

    def _item(self, number: int) -> zipfile.ZipFile:
        if self._opened_by != os.getpid():
            self._items.clear()
        if number not in self._items:
            try:
                # The bytes are copied: litdata unmaps a shard when the next one is read.
                self._items[number] = zipfile.ZipFile(io.BytesIO(bytes(self._opened()[number])))
            except DataError:
                raise
            # What litdata and the libraries of object stores raise is many things; none of them is a bug of ours.
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise DataError(f"{self.shards}: item {number} cannot be read ({reason}): {_REMEDY}") from None
        self._items.move_to_end(number)
        while len(self._items) > _MOST_OPEN:
            self._items.popitem(last=False)
        return self._items[number]

    def _opened(self) -> StreamingDataset:
        """The set, opened by this very process: a fork would share its parent's places in open files."""
        if self._set is None or self._opened_by != os.getpid():
            dataset = litdata().StreamingDataset(self.shards, cache_dir=str(self._cache / "shards"))
            self._set, self._opened_by = dataset, os.getpid()
        return self._set

    def _check_reach(self, tables: dict[str, NDArray[Any]], config: Config) -> None:
        asked = reach_of(config)
        for (name, wanted), stored in zip(asked.items(), tables["reach"].tolist(), strict=True):
            if wanted > stored:
                raise DataError(
                    f"{self.shards}: written for {name} up to {stored:g}, the run asks for {wanted:g}: ask for less, "
                    "or write shards with the run's configuration (tools/shard.py)"
                )


class StoredFile:
    """A sensor file in an item; see `pointclouds.SensorFile`.

    Args:
        name: for messages.
        archive: the item.
        info: the file in it; None for a file that is not there.
    """

    def __init__(self, name: str, archive: zipfile.ZipFile | None = None, info: zipfile.ZipInfo | None = None) -> None:
        self._name, self._archive, self._info = name, archive, info

    def __str__(self) -> str:
        return self._name

    def is_file(self) -> bool:
        return self._info is not None

    def read_bytes(self) -> bytes:
        """Raises `FileNotFoundError` where there is no such file, `DataError` where its checksum does not fit."""
        if self._archive is None or self._info is None:
            raise FileNotFoundError(str(self))
        try:
            return self._archive.read(self._info)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{self} is damaged ({error}): {_REMEDY}") from None


class WindowSampler(DrawSampler):
    """Draws that touch few shards at a time: `window` random shards' key frames in random order, then the next ones'.

    In every round each key frame comes once; a round's order is a pure function of seed and round.

    Args:
        num_draws, size, seed, start, rank, world_size: as `DrawSampler`.
        shard_stops: (shards,) the first sample after each.
        window: shards whose samples are mixed.
    """

    def __init__(
        self,
        num_draws: int,
        size: int,
        *,
        shard_stops: NDArray[np.int64],
        window: int = 32,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(num_draws, size, seed=seed, start=start, rank=rank, world_size=world_size)
        self._shards = np.split(np.arange(size), shard_stops[:-1])
        self._window = window

    def _round(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self.seed, ORDER_STREAM, epoch])
        shards = generator.permutation(len(self._shards))
        windows = [shards[first : first + self._window] for first in range(0, len(shards), self._window)]
        mixed = [generator.permutation(np.concatenate([self._shards[s] for s in window])) for window in windows]
        return np.concatenate(mixed)


def reach_of(config: Config) -> dict[str, float]:
    """How far a run looks back, in sweeps before the key frame's, and ahead."""
    data = config.data
    return {
        "LiDAR sweeps before the key frame's": (data.lidar_sweeps - 1) * data.lidar_sweep_stride,
        "radar sweeps before the key frame's": data.radar_sweeps - 1,
        "seconds ahead": config.pretraining.horizon_s[1],
    }


def check_shard_folder(folder: Path) -> None:
    """Raises `DataError` where a folder does not hold whole shards."""
    if not (folder / "index.json").is_file():
        raise DataError(f"{folder}: no shards there: write them with tools/shard.py, or change pretraining.shards")
    try:
        shards = [
            (folder / chunk["filename"], int(chunk["chunk_bytes"]))
            for chunk in json.loads((folder / "index.json").read_bytes())["chunks"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'index.json'}: no index of shards ({error}): {_REMEDY}") from None
    for shard, size in shards:
        found = shard.stat().st_size if shard.is_file() else 0
        if found != size:
            raise DataError(f"{shard}: {found} bytes where its index says {size}: {_REMEDY}")


def litdata() -> Any:
    """The library. Raises `DataError` where it is not installed."""
    try:
        import litdata as library
    except ImportError:
        raise DataError("shards need litdata: pip install fusionperc[shards]") from None
    return library


def _is_remote(shards: str) -> bool:
    return "://" in shards


def _index_of(tables: dict[str, NDArray[Any]]) -> Index:
    """The index of a single sample without labels; the name of a row's file is 'item/place'."""
    kept = {name: array for name, array in tables.items() if name in Index.__dataclass_fields__}
    names = [f"{item}/{place}" for item, place in zip(tables["row_item"], tables["row_place"], strict=True)]
    return Index(
        **kept,
        row_file=np.array(names, dtype=np.bytes_),
        drive_start=np.array([0, 1]),
        drive_is_labelled=np.zeros(1, dtype=bool),
        drive_location=np.zeros(1, dtype="S1"),
        sample_can_bus=np.full((1, 4), np.nan),
        sample_route_command=np.full(1, -1, dtype=np.int8),
        box_start=np.zeros(2, dtype=np.int64),
        box_token=np.zeros(0, dtype="S1"),
        box_instance=np.zeros(0, dtype=np.int32),
        box_pose=np.zeros((0, 7)),
        box_size_lwh_m=np.zeros((0, 3)),
        box_velocity_mps=np.zeros((0, 2)),
        box_class=np.zeros(0, dtype=np.int8),
        box_attribute=np.zeros(0, dtype=np.int8),
        box_visibility=np.zeros(0, dtype=np.int8),
        box_num_points=np.zeros((0, 2), dtype=np.int32),
    )
