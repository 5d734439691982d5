"""The benchmarks measure what they say, and refuse to time a peer that gives something else."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fusionperc.benchmarks import operations, peers
from fusionperc.benchmarks.operations import compare_padding, compare_pooling, compare_voxelization, made_up_cloud
from fusionperc.benchmarks.timing import alternate, peak_memory_mib
from fusionperc.benchmarks.training_step import training_step
from fusionperc.config import build_config
from fusionperc.types import Points

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small_cloud() -> Points:
    cloud = made_up_cloud()
    assert 200_000 < len(cloud) < 347_000
    assert cloud.features[:, 1].unique().shape == (10,)
    keep = torch.arange(0, len(cloud), 40)
    return Points(cloud.xyz_m[keep], cloud.features[keep], cloud.sample_index[keep], 1)


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    times = alternate({name: lambda n=name: calls.append(n) for name in "abc"}, 20, CPU)  # type: ignore[misc]
    assert calls[::2] == calls[1::2]  # each turn is an untimed run and a timed one
    rounds = ["".join(calls[start : start + 6 : 2]) for start in range(0, 120, 6)]
    assert all(sorted(one) == list("abc") for one in rounds)
    assert len(set(rounds)) == 6  # every order comes
    assert {name: len(item.seconds) for name, item in times.items()} == {"a": 20, "b": 20, "c": 20}


def test_times_are_those_of_the_candidate() -> None:
    times = alternate({"sleep": lambda: time.sleep(0.02)}, 3, CPU)["sleep"]
    assert 20 <= times.minimum_ms <= times.median_ms < 500


def test_peak_memory_counts_what_was_held_at_once() -> None:
    def run() -> torch.Tensor:
        first = torch.zeros(2**18)  # 1 MiB
        second = first + 1
        del first
        return second + 1

    assert peak_memory_mib(run, CPU) == pytest.approx(2, abs=0.01)


def test_every_installed_peer_is_compared(small_cloud: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    # CenterPoint's whole grid costs spconv 330 MB: one grid is enough here.
    pillars = {name: grid for name, grid in operations.GRIDS.items() if grid.layers == 1}
    monkeypatch.setattr(operations, "GRIDS", pillars)
    rows = compare_voxelization(small_cloud, 1) + compare_padding(small_cloud, 1)
    wanted = set(peers.installed_peers(torch.device("cpu"))) | {"fusionperc, torch"}
    assert {row.candidate for row in rows} >= wanted
    assert all(row.times.minimum_ms > 0 for row in rows)


def test_a_peer_that_differs_is_not_timed(small_cloud: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = peers.installed_peers(torch.device("cpu"))["torch.unique(dim=0)"]

    def make(table: torch.Tensor, grid: operations.BevGrid) -> object:
        run = honest.make(table, grid)
        return lambda: replace(run(), mean=run().mean + 0.01)

    monkeypatch.setattr(operations, "installed_peers", lambda device: {"wrong": peers.Peer("mean", make)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wrong does not give the reference's voxels"):
        compare_voxelization(small_cloud, 1)


def test_pooling_needs_a_fraction_of_the_memory() -> None:
    rows = {(row.case, row.candidate): row for row in compare_pooling(1, CPU, (128,))}
    case = "BEV pooling 128 x 128, forward + backward"
    naive, ours = rows[case, "naive lift-splat"].memory_mib, rows[case, "fusionperc, torch"].memory_mib
    assert naive is not None and ours is not None
    assert ours <= naive / 15


def test_parts_of_a_training_step(tiny_drives: Path, tmp_path: Path) -> None:
    config = build_config(
        {
            "data": {"root": str(tiny_drives), "train_split": "sim_train", "image_size": [64, 128], "lidar_sweeps": 1},
            "model": {
                "grid": {"range_m": 51.2, "cell_m": 3.2},
                "camera": {"channels": 8, "depth_bins": 8, "bev_blocks": 0},
                "lidar": {"pillar_m": 1.6, "point_channels": 8, "channels": [8], "blocks": [1]},
                "radar": {"pillar_m": 3.2, "point_channels": 8, "channels": [8], "blocks": [1]},
                "fusion": {"channels": 8, "layers": 1, "heads": 1, "window": 4, "bev_blocks": 0},
                "detection": {"channels": 8, "queries": 10, "heads": 1},
            },
            "run": {"dir": str(tmp_path)},
        }
    )
    times = training_step(config, 2, CPU)
    assert list(times) == [
        "loader (one process)", "camera encoder", "radar encoder", "lidar encoder", "fusion transformer",
        "detection head and objective", "optimiser", "whole step",
    ]  # fmt: skip
    assert all(part.minimum_ms > 0 for part in times.values())
    assert times["whole step"].median_ms > times["camera encoder"].minimum_ms
