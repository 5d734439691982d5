"""Sets of simulated drives in nuScenes' format: presets, and their making by several processes.

A set is the same, byte for byte, however many processes make it and however often making it was interrupted. Train and
validation drives never share a town.

Scene names are nuScenes' own, so that the devkit's predefined splits accept them; `splits.json` names the set's drives
as `sim_train` and `sim_val` as well. Source: nuscenes-devkit, `utils/splits.py` (names of the official splits).
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Literal

from fusionperc.simulation.lidar import NUM_AZIMUTHS
from fusionperc.simulation.recorder import DriveSpec, record_drive
from fusionperc.simulation.writer import DRIVES_FOLDER, assemble, drive_file, write_json

logger = logging.getLogger(__name__)

#: Changes whenever the same seed would give other bytes.
_FORMAT = 1
#: Drives that share a town, and the first number of a validation drive.
_DRIVES_PER_TOWN = {"train": 4, "val": 3}
_FIRST_VAL_NUMBER = 1000
#: Libraries that would start threads of their own in every process.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_MINI_TRAIN = "61 553 655 757 796 1077 1094 1100"
_MINI_VAL = "103 916"
_TRAIN = (
    "1-2 4-11 19-34 41-76 120-135 138-139 149-152 154-155 157-168 170-185 187-188 190-196 199-200 202-204 206-214 "
    "218-220 222 224-264 283-306 315-318 321 323-324 328 347-386 388-403 405-408 410-459 461-465 467-469 471-472 "
    "474-480 499-502 504-515 517-518 525-539 541-546 566 568 570-578 580 582-600 639-679 681 683-689 695-698 700-701 "
    "703-719 726-728 730-731 733-741 744 746-747 749-752 757-765 767-769 786-787 789-792 803-806 808-813 815-817 "
    "819-822 847-856 858 860-866 868-873 875-878 880 882-903 945 947 949 952-953 955-961 975-984 988-992 994-1025 "
    "1044-1058 1074-1102 1104-1110"
)
_VAL = (
    "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 770-771 775 "
    "777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073"
)


@dataclass(frozen=True)
class Preset:
    """What a named set is made of; `train` and `val` are scene numbers as ranges."""

    version: Literal["v1.0-mini", "v1.0-trainval"]
    train: str
    val: str
    num_train: int
    num_val: int
    duration_s: float
    image_scale: float
    lidar_azimuths: int


PRESETS: dict[str, Preset] = {
    "demo": Preset("v1.0-mini", _MINI_TRAIN, _MINI_VAL, 8, 2, 8.0, 0.25, 543),
    "sim-mini": Preset("v1.0-mini", _MINI_TRAIN, _MINI_VAL, 8, 2, 20.0, 0.44, NUM_AZIMUTHS),
    "sim-small": Preset("v1.0-trainval", _TRAIN, _VAL, 40, 8, 10.0, 0.25, NUM_AZIMUTHS),
}


@dataclass(frozen=True)
class DriveSet:
    """A planned set of drives.

    Attributes:
        preset: name of the preset it came from.
        version: nuScenes version folder.
        drives: train drives, then validation drives.
    """

    preset: str
    version: str
    drives: tuple[DriveSpec, ...]

    def names(self, split: Literal["train", "val"]) -> list[str]:
        return [drive.name for drive in self.drives if drive.split == split]

    @property
    def num_key_frames(self) -> int:
        return sum(drive.num_key_frames for drive in self.drives)

    def identity(self) -> dict[str, Any]:
        """What must agree for a folder to be gone on with; the number of drives may grow."""
        shared = asdict(self.drives[0])
        keys = ("seed", "duration_s", "image_scale", "lidar_azimuths", "camera_sweeps")
        return {"format": _FORMAT, "preset": self.preset, **{key: shared[key] for key in keys}}


def scene_names(ranges: str) -> list[str]:
    """['scene-0001', 'scene-0002', 'scene-0005'] from '1-2 5'."""
    names = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        names += [f"scene-{number:04d}" for number in range(int(first), int(last or first) + 1)]
    return names


def plan_drives(
    preset: str,
    seed: int,
    *,
    num_train: int | None = None,
    num_val: int | None = None,
    duration_s: float | None = None,
    image_scale: float | None = None,
    lidar_azimuths: int | None = None,
    camera_sweeps: bool = False,
) -> DriveSet:
    """A set of drives from a preset; what is not None overrides it.

    Raises:
        ValueError: unknown preset, or a value out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset '{preset}' is unknown; choose one of {', '.join(PRESETS)}")
    base = PRESETS[preset]
    duration = base.duration_s if duration_s is None else duration_s
    scale = base.image_scale if image_scale is None else image_scale
    azimuths = base.lidar_azimuths if lidar_azimuths is None else lidar_azimuths
    if not 1.0 <= duration <= 60:
        raise ValueError(f"duration {duration} s must be between 1 and 60")
    if not 0.02 <= scale <= 1:
        raise ValueError(f"image scale {scale} must be between 0.02 and 1 (1 is 1600x900)")
    if not 8 <= azimuths <= 4096:
        raise ValueError(f"LiDAR azimuths {azimuths} must be between 8 and 4096")
    if not 0 <= seed < 10_000:
        raise ValueError(f"seed {seed} must be between 0 and 9999")
    drives: list[DriveSpec] = []
    splits: tuple[tuple[Literal["train", "val"], str, int | None, int], ...] = (
        ("train", base.train, num_train, base.num_train),
        ("val", base.val, num_val, base.num_val),
    )
    for split, ranges, wanted, usual in splits:
        names = scene_names(ranges)
        count = usual if wanted is None else wanted
        if not 0 <= count <= len(names):
            raise ValueError(f"number of {split} drives {count} must be between 0 and {len(names)} for preset {preset}")
        drives += [
            DriveSpec(
                set_name=f"{preset}-{seed}",
                name=name,
                split=split,
                number=number + (_FIRST_VAL_NUMBER if split == "val" else 0),
                seed=seed,
                town_seed=town_seed(seed, split, number),
                duration_s=duration,
                image_scale=scale,
                lidar_azimuths=azimuths,
                camera_sweeps=camera_sweeps,
            )
            for number, name in enumerate(names[:count])
        ]
    if not drives:
        raise ValueError("a set without drives: ask for at least one train or validation drive")
    return DriveSet(preset, base.version, tuple(drives))


def town_seed(seed: int, split: Literal["train", "val"], number: int) -> int:
    """Town of a split's drive: even for train, odd for validation, so that no town is in both."""
    place = number // _DRIVES_PER_TOWN[split]
    return 2 * (seed * 1000 + place) + (0 if split == "train" else 1)


def generate(
    drives: DriveSet, root: Path, *, workers: int = 1, on_key_frame: Callable[[str], None] = lambda name: None
) -> list[str]:
    """Makes what is missing of a set, then writes its tables.

    Args:
        drives: the plan.
        root: folder of the set; made if absent.
        workers: processes; 1 works in this one.
        on_key_frame: called with the drive's name after each key frame made.

    Returns:
        Names of the drives made in this call (the others were there).

    Raises:
        ValueError: the folder holds another set, or something else.
        OSError: the folder cannot be written.
        ImportError: the traffic simulator is not installed.
    """
    if workers < 1:
        raise ValueError(f"workers {workers} must be at least 1")
    _claim(drives, root)
    missing = [drive for drive in drives.drives if not drive_file(root, drive.name).is_file()]
    logger.debug("%s: %d of %d drives to make", root, len(missing), len(drives.drives))
    if workers == 1 or len(missing) <= 1:
        for drive in missing:
            record_drive(drive, root, lambda name=drive.name: on_key_frame(name))  # type: ignore[misc]
    else:
        _record_in_processes(missing, root, min(workers, len(missing)), on_key_frame)
    splits = {"sim_train": drives.names("train"), "sim_val": drives.names("val")}
    assemble(root, drives.version, [drive.name for drive in drives.drives], splits)
    return [drive.name for drive in missing]


def _claim(drives: DriveSet, root: Path) -> None:
    """Marks the folder as this set's, or finds that it is."""
    marker = root / DRIVES_FOLDER / "set.json"
    identity = drives.identity()
    if marker.is_file():
        found = json.loads(marker.read_bytes())
        different = [
            f"{key} {found.get(key)}, not {value}" for key, value in identity.items() if found.get(key) != value
        ]
        if different:
            raise ValueError(
                f"{root} holds another simulated set ({'; '.join(different)}): "
                "take another folder, remove this one, or ask for the same values"
            )
        return
    if root.is_dir() and any(root.iterdir()):
        raise ValueError(f"{root} is not empty and holds no simulated set: take an empty or a new folder")
    try:
        write_json(marker, identity)
    except OSError as error:
        raise OSError(f"{root} cannot be written ({error.strerror}): take another folder") from error


def _record_in_processes(
    missing: list[DriveSpec], root: Path, workers: int, on_key_frame: Callable[[str], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    with _single_threaded(), context.Manager() as manager:
        progress = manager.Queue()
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = {pool.submit(_record_and_tell, drive, root, progress) for drive in missing}
            try:
                while futures:
                    done, futures = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
                    for name in _drained(progress):
                        on_key_frame(name)
                    for future in done:
                        future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _record_and_tell(drive: DriveSpec, root: Path, progress: Queue[str]) -> None:
    record_drive(drive, root, lambda: progress.put(drive.name))


def _drained(progress: Queue[str]) -> Iterator[str]:
    while True:
        try:
            yield progress.get_nowait()
        except Empty:
            return


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started meanwhile use one thread each: the drives are what runs in parallel."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
