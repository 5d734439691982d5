"""The making of sets of simulated drives, by one process, by several, or by one job a drive on a cluster.

A set is the same, byte for byte, however many processes make it and however often making it was interrupted.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

from fusionperc.files import whole_file
from fusionperc.simulation.recorder import DriveSpec, record_drive
from fusionperc.simulation.sets import DriveSet
from fusionperc.simulation.writing.manifest import write_manifest
from fusionperc.simulation.writing.writer import DRIVES_FOLDER, assemble, drive_file, json_bytes

logger = logging.getLogger(__name__)

#: Libraries that would start threads of their own in every process.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_NAMES_IN_MESSAGE = 5


def generate(
    drives: DriveSet, root: Path, *, workers: int = 1, on_key_frame: Callable[[str], None] = lambda name: None
) -> list[str]:
    """Makes what is missing of a set, then writes its tables and manifest.

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
    missing = _missing(drives, root)
    logger.debug("%s: %d of %d drives to make", root, len(missing), len(drives.drives))
    if workers == 1 or len(missing) <= 1:
        for drive in missing:
            record_drive(drive, root, lambda name=drive.name: on_key_frame(name))  # type: ignore[misc]
    else:
        _record_in_processes(missing, root, min(workers, len(missing)), on_key_frame)
    finish(drives, root)
    return [drive.name for drive in missing]


def generate_one(
    drives: DriveSet, root: Path, which: str, *, on_key_frame: Callable[[str], None] = lambda name: None
) -> list[str]:
    """Makes one drive of a set, if it is missing, and no tables: a job beside others that make the other drives.

    Args:
        drives: the plan, the same in all jobs.
        root: folder of the set; made if absent.
        which: the drive's scene name or its place in the plan.
        on_key_frame: called with the drive's name after each key frame made.

    Returns:
        The drive's name, or nothing if it was there.

    Raises:
        ValueError: no such drive; the folder holds another set, or something else.
        OSError: the folder cannot be written.
        ImportError: the traffic simulator is not installed.
    """
    drive = drives.drive(which)
    _claim(drives, root)
    if drive_file(root, drive.name).is_file():
        return []
    _record_in_processes([drive], root, 1, on_key_frame)
    return [drive.name]


def finish(drives: DriveSet, root: Path) -> None:
    """Writes the tables and the manifest of a set all of whose drives are made.

    Raises:
        ValueError: drives are missing, or the folder holds another set.
        OSError: the folder cannot be written.
    """
    _claim(drives, root)
    missing = _missing(drives, root)
    if missing:
        some = ", ".join(drive.name for drive in missing[:_NAMES_IN_MESSAGE])
        some += ", ..." if len(missing) > _NAMES_IN_MESSAGE else ""
        raise ValueError(f"{root}: {len(missing)} of {len(drives.drives)} drives are missing ({some}): make them first")
    names = [drive.name for drive in drives.drives]
    assemble(root, drives.version, names, drives.splits)
    write_manifest(root, drives.version, names)


def _missing(drives: DriveSet, root: Path) -> list[DriveSpec]:
    return [drive for drive in drives.drives if not drive_file(root, drive.name).is_file()]


def _claim(drives: DriveSet, root: Path) -> None:
    """Marks the folder as this set's, or finds that it is."""
    marker = root / DRIVES_FOLDER / "set.json"
    holds_files = root.is_dir() and any(child.name != DRIVES_FOLDER for child in root.iterdir())
    # In this order: of jobs that start together, another one may just have marked the folder and begun.
    if holds_files and not marker.is_file():
        raise ValueError(f"{root} is not empty and holds no simulated set: take an empty or a new folder")
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
    try:
        with whole_file(marker, owner=f"{platform.node()}-{os.getpid()}.") as part:
            part.write_bytes(json_bytes(identity))
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
