"""Shards: the same samples as from the folder, each once a round, resumable, whole or not there."""

from __future__ import annotations

import json
import logging
import runpy
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from records import assert_same

from fusionperc.config import Config, ConfigError, build_config
from fusionperc.data import shards as shards_module
from fusionperc.data.errors import DataError
from fusionperc.data.loading import make_loader
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.shard_writing import Written, write_shards
from fusionperc.data.shards import ShardDrives, WindowSampler
from fusionperc.data.unlabelled import UnlabelledDataset, make_unlabelled_loader

pytest.importorskip("litdata", reason="litdata is not installed (extra `shards`)")

ROOT = Path(__file__).resolve().parents[2]
#: Three or four key frames of the small folder.
SMALL = 120_000


def config_of(root: Path, *overrides: str) -> Config:
    values = [
        f"data.root={root}", f"run.dir={root.parent / 'run'}", "data.image_size=[64, 160]", "data.workers=0",
        "data.train_split=all", "data.split=held", "data.lidar_sweeps=4", "data.radar_sweeps=3", "data.batch_size=3",
        "train.steps=6", "pretraining.rays=50",
    ]  # fmt: skip
    return build_config({}, [*values, *overrides])


def write(root: Path, out: Path, *overrides: str) -> Written:
    return write_shards(out, config_of(root, *overrides), shard_bytes=SMALL)


@pytest.fixture(scope="module")
def written_shards(written_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 18 key frames of the two small drives; only for reading."""
    out = tmp_path_factory.mktemp("shards") / "set"
    write(written_folder, out)
    return out


@pytest.fixture
def small_shards(written_shards: Path, tmp_path: Path) -> Path:
    """Shards that the test may change."""
    return Path(shutil.copytree(written_shards, tmp_path / "set"))


def assert_same_samples(root: Path, shards: Path, *overrides: str) -> None:
    config = config_of(root, *overrides)
    folder = UnlabelledDataset(NuScenesDrives(root, "v1.0-mini", "all", config=config.data), config)
    stored = UnlabelledDataset(ShardDrives(str(shards), config, shards.parent / "cache"), config)
    assert len(folder) == len(stored)
    for index in range(len(folder)):
        assert_same(folder[index], stored[index])
        assert_same(folder[100 + index, index], stored[100 + index, index])


def tokens_of(shards: Path, root: Path, *overrides: str, **place: int) -> list[str]:
    config = config_of(root, f"pretraining.shards={shards}", *overrides)
    return [t for batch in make_unlabelled_loader(config, training=True, **place) for t in batch.sample_tokens]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data.image_size=[32, 96]", "data.lidar_sweeps=2", "data.lidar_sweep_stride=3", "pretraining.rays=500"),
        ("model.sensors=C", "data.radar_sweeps=1", "pretraining.horizon_s=[0.1, 1.0]", "data.radar_filter=none"),
        ("model.sensors=RL", "data.keep_ego_returns=true", "data.augmentation.lidar_dropout=0.3"),
    ],
)
def test_a_sample_is_what_the_folder_gives(
    written_folder: Path, written_shards: Path, overrides: tuple[str, ...]
) -> None:
    assert_same_samples(written_folder, written_shards, *overrides)


def test_drives_without_tables_sensors_and_files(folder_writer: Callable[[], Any], tmp_path: Path) -> None:
    writer = folder_writer()
    writer.drive(0, radar=False)
    writer.drive(1, lidar=False)
    writer.drive(2)
    root = writer.write({"fit": [], "held": ["scene-0001"]}, leave_out=("sample_annotation", "instance", "category"))
    for pattern in ("sweeps/LIDAR_TOP/*", "sweeps/RADAR_FRONT/*"):
        for file in sorted(root.glob(pattern))[::5]:
            file.unlink()
    next(iter(sorted((root / "samples" / "CAM_BACK").iterdir())[20:])).unlink()
    with pytest.raises(DataError, match="not there"):
        write(root, tmp_path / "out")
    for missing in ("skip", "absent_sensor"):
        write(root, tmp_path / missing, f"data.missing={missing}")
        assert_same_samples(root, tmp_path / missing, f"data.missing={missing}")


def test_each_sample_once_a_round_over_ranks_and_workers(written_folder: Path, written_shards: Path) -> None:
    for workers in (0, 2):
        # Two rounds of 18: two ranks of six steps of three.
        ranks = [
            tokens_of(written_shards, written_folder, f"data.workers={workers}", rank=rank, world_size=2)
            for rank in range(2)
        ]
        drawn = [token for pair in zip(*ranks, strict=True) for token in pair]
        assert len(drawn) == 36
        assert set(Counter(drawn[:18]).values()) == {1} and set(Counter(drawn[18:]).values()) == {1}
        assert drawn[:18] != drawn[18:]
    other = tokens_of(written_shards, written_folder, "train.seed=1")
    assert other != tokens_of(written_shards, written_folder) and sorted(other) == sorted(drawn[:18])


def test_resuming_goes_on_exactly(written_folder: Path, written_shards: Path) -> None:
    options = (f"pretraining.shards={written_shards}", "train.steps=9")
    config = config_of(written_folder, *options)
    whole = list(make_unlabelled_loader(config, training=True))
    # In the first round, at its end, in the second.
    for taken, workers in ((1, 2), (5, 0), (6, 0), (8, 2)):
        config = config_of(written_folder, *options, f"data.workers={workers}")
        rest = list(make_unlabelled_loader(config, training=True, start_draw=taken * 3))
        assert len(rest) == 9 - taken
        for expected, batch in zip(whole[taken:], rest, strict=True):
            assert_same(expected, batch)


def test_augmentation_is_that_of_the_draw(written_folder: Path, written_shards: Path) -> None:
    config = config_of(written_folder)
    data = UnlabelledDataset(ShardDrives(str(written_shards), config, written_shards.parent), config)
    again = UnlabelledDataset(ShardDrives(str(written_shards), config, written_shards.parent), config)
    again[4, 1]
    assert_same(data[7, 3], again[7, 3])
    assert not torch.equal(data[8, 3].measured.horizon_s, data[7, 3].measured.horizon_s)


def test_consecutive_draws_touch_few_shards() -> None:
    sizes = np.random.default_rng(0).integers(1, 9, size=200)
    stops = np.cumsum(sizes)
    shard_of = np.repeat(np.arange(200), sizes)
    size, window = int(stops[-1]), 10
    sampler = WindowSampler(2 * size, size, shard_stops=stops, window=window)
    for begin in (0, size):
        order = [index for _, index in sampler][begin : begin + size]
        assert sorted(order) == list(range(size))
        # A window's draws meet its own shards, and at most those of the next one.
        for first in range(0, size - window, 7):
            assert len(set(shard_of[order[first : first + window]])) <= 2 * window
        spans = [np.flatnonzero(shard_of[order] == shard) for shard in range(200)]
        assert max(int(span.max() - span.min()) for span in spans) < 8 * window
    shuffled = [index for _, index in sampler]
    assert shuffled[:size] != shuffled[size:]
    other = WindowSampler(2 * size, size, shard_stops=stops, window=window, seed=1)
    assert [index for _, index in other] != shuffled


def test_every_file_is_stored_once_and_no_annotation(written_folder: Path, tmp_path: Path) -> None:
    written = write(written_folder, tmp_path / "set")
    contents = b"".join(file.read_bytes() for file in sorted((tmp_path / "set").iterdir()))
    assert written.num_samples == 18 and written.num_shards == len(list((tmp_path / "set").glob("*.bin"))) > 3
    assert written.shard_bytes == len(contents)
    files = [file for folder in ("samples", "sweeps") for file in (written_folder / folder).rglob("*.*")]
    assert written.raw_bytes <= sum(file.stat().st_size for file in files)
    # Once in the file's own header, once in the archive's list. What is recorded before the first key frame is within
    # the second that moving surfaces look back.
    counts = {f: contents.count(str(f.relative_to(written_folder)).encode()) for f in files if "LIDAR" in f.name}
    assert set(counts.values()) == {2}
    assert b"sample-0-3" in contents
    for word in (b"ann-", b"instance-", b"vehicle.", b"box_"):
        assert word not in contents


def test_several_folders_make_one_set(written_folder: Path, folder_writer: Callable[[], Any], tmp_path: Path) -> None:
    writer = folder_writer()
    writer.drive(4)
    root = writer.write(leave_out=("sample_annotation", "instance"))
    folders = [{"root": str(written_folder), "version": "v1.0-mini", "split": "fit"},
               {"root": str(root), "version": "v1.0-mini"}]  # fmt: skip
    assert write(written_folder, tmp_path / "set", f"pretraining.drives={json.dumps(folders)}").num_samples == 18
    drawn = tokens_of(tmp_path / "set", written_folder)
    assert sorted(drawn) == sorted(f"sample-{drive}-{place}" for drive in (0, 4) for place in range(9))


def test_shards_or_folders(written_folder: Path, written_shards: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretraining.*: shards = x: drives are given, too"):
        build_config({}, ["pretraining.shards=x", "pretraining.drives=[{root: y}]"])
    with pytest.raises(DataError, match="name the folders in pretraining.drives"):
        write(written_folder, written_shards.parent / "other", f"pretraining.shards={written_shards}")
    held = make_unlabelled_loader(config_of(written_folder, f"pretraining.shards={written_shards}"), training=False)
    assert {token for batch in held for token in batch.sample_tokens} == {f"sample-1-{place}" for place in range(9)}
    # Labels are not touched by where pretraining reads.
    assert len(make_loader(config_of(written_folder, f"pretraining.shards={written_shards}"), "held", training=False))


def test_writing_is_whole_or_not_at_all(written_folder: Path, small_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "set"
    write(written_folder, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(FileExistsError, match="set: is there already"):
        write(written_folder, out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    broken = next(iter(sorted((small_folder / "sweeps" / "LIDAR_TOP").iterdir())[5:]))
    broken.unlink()
    with pytest.raises(DataError, match=rf"{broken.name}: not there: fetch it"):
        write(small_folder, tmp_path / "out" / "other")
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_what_is_wrong_with_shards_is_one_line(
    written_folder: Path, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*overrides: str, shards: object = small_shards) -> str:
        config = config_of(written_folder, f"pretraining.shards={shards}", *overrides)
        with pytest.raises(DataError) as caught:
            list(make_unlabelled_loader(config, training=True))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no shards there: write them with tools/shard.py" in refused(shards=tmp_path / "none")
    assert "LiDAR sweeps before the key frame's up to 3, the run asks for 4" in refused("data.lidar_sweeps=5")
    assert "seconds ahead up to 3, the run asks for 4" in refused("pretraining.horizon_s=[1, 4]")
    first = small_shards / "chunk-0-0.bin"
    content = bytearray(first.read_bytes())
    place = content.rfind(b"samples/CAM_FRONT/", 0, content.find(b"samples/CAM_FRONT_RIGHT/")) + 300
    content[place] ^= 255
    first.write_bytes(content)
    assert "CAM_FRONT__" in (message := refused()) and "damaged" in message and "tools/shard.py" in message
    assert "damaged" in refused("data.workers=1")
    first.write_bytes(content[:-5])
    assert "bytes where its index says" in refused()
    first.unlink()
    assert "chunk-0-0.bin: 0 bytes" in refused()
    (small_shards / "index.json").write_text("{}")
    assert "no index of shards" in refused()
    monkeypatch.setitem(sys.modules, "litdata", None)
    assert "pip install fusionperc[shards]" in refused(shards="s3://nowhere/set")


def test_shards_of_another_format_are_refused(
    written_folder: Path, written_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "SHARD_FORMAT", 99)
    with pytest.raises(DataError, match="shards of another format"):
        ShardDrives(str(written_shards), config_of(written_folder), written_shards.parent / "cache")


def test_a_url_is_read_as_a_folder_is(written_folder: Path, written_shards: Path, tmp_path: Path) -> None:
    expected = list(make_unlabelled_loader(config_of(written_folder, f"pretraining.shards={written_shards}"),
                                           training=True))  # fmt: skip
    config = config_of(
        written_folder, f"pretraining.shards=local:{written_shards}", f"data.cache={tmp_path}", "data.workers=2"
    )
    for one, other in zip(expected, make_unlabelled_loader(config, training=True), strict=True):
        assert_same(one, other)


def test_the_tool_says_what_it_wrote(
    written_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"data.root={written_folder}", "data.version=v1.0-mini", "data.train_split=fit", "data.radar_sweeps=1"]
    arguments = [tmp_path / "set", ROOT / "configs" / "tiny.yaml", "--shard-mb", "0.1", *options]
    monkeypatch.setattr(sys, "argv", ["tools/shard.py", *map(str, arguments)])
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    runpy.run_path(str(ROOT / "tools" / "shard.py"), run_name="__main__")
    assert "9 samples in" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "tools" / "shard.py"), run_name="__main__")
    assert "is there already" in capsys.readouterr().err
