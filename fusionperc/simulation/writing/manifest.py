"""The manifest of a simulated set: digests by which damage and incomplete copies are found.

`manifest.json` has the digests of the tables and of each drive's row file; a row file has those of the drive's sensor,
CAN bus and map files, noted while they were written. Nothing has to be read again to write it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from fusionperc.files import MANIFEST, file_digest
from fusionperc.simulation.writing.writer import DRIVES_FOLDER, TABLES, drive_file, write_json


def write_manifest(root: Path, version: str, names: Iterable[str]) -> None:
    """Writes the manifest of assembled drives.

    Raises:
        OSError: a table is not there, or the folder cannot be written.
    """
    paths = [root / version / f"{table}.json" for table in (*TABLES, "splits")]
    paths += [drive_file(root, name) for name in names]
    write_json(root / MANIFEST, {path.relative_to(root).as_posix(): file_digest(path) for path in paths})


def verify(root: Path, on_file: Callable[[], None] = lambda: None) -> list[str]:
    """Reads every file of a set again.

    Args:
        root: folder of the set.
        on_file: called after each file.

    Returns:
        One line for each file that is missing or is not what was written.

    Raises:
        ValueError: the set has no manifest.
    """
    if not (root / MANIFEST).is_file():
        raise ValueError(f"{root / MANIFEST} is missing: finish the set with tools/simulate.py, or copy the file too")
    problems: list[str] = []
    seen: set[str] = set()

    def check(files: dict[str, str]) -> None:
        for name, expected in files.items():
            if name in seen:
                continue
            seen.add(name)
            path = root / name
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif file_digest(path) != expected:
                problems.append(f"{name} is not what was written")
            elif path.parent.name == DRIVES_FOLDER:
                check(json.loads(path.read_bytes())["files"])
            on_file()

    check(json.loads((root / MANIFEST).read_bytes()))
    return problems
