"""Files that are whole or not there at all, and digests of what they hold."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: File in a folder of drives that has the digests of its tables, by name from that folder on.
MANIFEST = "manifest.json"


@contextmanager
def whole_file(path: Path, owner: str = "") -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, and renames it when the block ends without an error.

    The folder is made if missing; after an error nothing is left behind and an older `path` stays as it was. Processes
    that may write the same file at once each give an `owner` of their own: the last to finish wins.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{owner}part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any, *, allow_nan: bool = True) -> None:
    """Writes indented JSON, whole or not at all, as `whole_file`.

    Raises:
        OSError: the folder cannot be written.
        ValueError: a number is infinite or NaN, and `allow_nan` is off.
    """
    text = json.dumps(content, indent=2, allow_nan=allow_nan) + "\n"
    with whole_file(path) as part:
        part.write_text(text)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path` to fill, and renames it when the block ends without an error.

    After an error nothing is left behind.

    Raises:
        FileExistsError: there is something at `path` already, or another process is writing it.
        OSError: the folder cannot be written.
    """
    temporary = path.absolute().with_name(f".{path.absolute().name}.part")
    if path.exists():
        raise FileExistsError(f"{path}: is there already: remove it, or write to another folder")
    if temporary.exists():
        raise FileExistsError(f"{temporary}: being written, or left by a run that was killed: remove it then")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest(content: bytes) -> str:
    """BLAKE2b digest of 128 bits as 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """`digest` of what a file holds.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
