"""Checksums of a set: damage and losses are found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fusionperc.files import MANIFEST, digest, file_digest
from fusionperc.simulation.writing.manifest import verify


@pytest.fixture
def copy(tiny_drives: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_drives, tmp_path / "copy"))


def damage(path: Path) -> None:
    """Flips one bit in the middle; the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_whole_set_has_every_file_in_it(tiny_drives: Path) -> None:
    checked: list[None] = []
    assert verify(tiny_drives, on_file=lambda: checked.append(None)) == []
    # All but the manifest itself and the mark of whose folder it is.
    assert len(checked) == sum(path.is_file() for path in tiny_drives.rglob("*")) - 2


def test_damage_and_losses_are_named(copy: Path) -> None:
    picture = next((copy / "samples" / "CAM_FRONT").iterdir())
    sweep = next((copy / "sweeps" / "LIDAR_TOP").iterdir())
    town = next((copy / "maps" / "expansion").iterdir())
    damage(picture)
    sweep.unlink()
    damage(town)
    damage(copy / "v1.0-mini" / "ego_pose.json")
    assert sorted(verify(copy)) == sorted(
        [
            f"{picture.relative_to(copy)} is not what was written",
            f"{sweep.relative_to(copy)} is missing",
            f"{town.relative_to(copy)} is not what was written",
            "v1.0-mini/ego_pose.json is not what was written",
        ]
    )


def test_a_damaged_row_file_hides_nothing_of_the_others(copy: Path) -> None:
    damage(copy / ".drives" / "scene-0061.json")
    damage(copy / "can_bus" / "scene-0553_route.json")
    assert sorted(verify(copy)) == [
        ".drives/scene-0061.json is not what was written",
        "can_bus/scene-0553_route.json is not what was written",
    ]


def test_a_set_without_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json is missing: finish the set"):
        verify(tmp_path)


def test_the_manifest_is_of_contents_alone(tiny_drives: Path) -> None:
    listed = json.loads((tiny_drives / MANIFEST).read_text())
    assert all(file_digest(tiny_drives / name) == expected for name, expected in listed.items())
    assert digest(b"") == "cae66941d9efbd404e4d88758ea67670", "BLAKE2b of 128 bits"
