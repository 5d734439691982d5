"""Writing whole files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusionperc.files import whole_file, write_json


def test_appears_under_its_name_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    with whole_file(path) as part:
        part.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_and_fail() -> None:
        with whole_file(path) as part:
            part.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.json"
    write_json(path, {"a": [1, 2]}, allow_nan=False)
    assert path.read_text() == '{\n  "a": [\n    1,\n    2\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")}, allow_nan=False)
    assert '"a": [' in path.read_text() and list(path.parent.iterdir()) == [path]
