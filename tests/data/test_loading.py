"""Batches, the order of draws, exact resumption."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionperc.config import Config, build_config
from fusionperc.data.errors import DataError
from fusionperc.data.loading import DrawSampler, DriveDataset, class_balanced_weights, collate, make_loader
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.types import Batch


def config_of(root: Path, *overrides: str) -> Config:
    values = [f"data.root={root}", f"run.dir={root.parent / 'run'}", "data.image_size=[64, 160]", "data.workers=0"]
    return build_config({}, [*values, "train.steps=4", "data.lidar_sweeps=2", "data.radar_sweeps=1", *overrides])


def assert_same(first: Batch, second: Batch) -> None:
    assert first.sample_tokens == second.sample_tokens
    for a, b in ((first.inputs.lidar, second.inputs.lidar), (first.inputs.radar, second.inputs.radar)):
        assert a is not None and b is not None
        assert torch.equal(a.xyz_m, b.xyz_m) and torch.equal(a.features, b.features)
        assert torch.equal(a.sample_index, b.sample_index)
    assert first.inputs.cameras is not None and second.inputs.cameras is not None
    for name in ("images", "intrinsics", "camera_T_ego"):
        assert torch.equal(getattr(first.inputs.cameras, name), getattr(second.inputs.cameras, name)), name
    for a_boxes, b_boxes in zip(first.targets.boxes, second.targets.boxes, strict=True):
        assert torch.equal(a_boxes.center_m, b_boxes.center_m)


def test_resuming_goes_on_exactly_with_any_number_of_workers(small_folder: Path) -> None:
    config = config_of(small_folder, "train.accumulate=2")
    whole = list(make_loader(config, "all", training=True))
    assert len(whole) == 8 and all(batch.inputs.batch_size == 2 for batch in whole)
    for workers in (0, 2):
        rest = make_loader(config_of(small_folder, "train.accumulate=2", f"data.workers={workers}"), "all",
                           training=True, start_draw=10)  # fmt: skip
        assert len(rest) == 3
        for expected, batch in zip(whole[5:], rest, strict=True):
            assert_same(expected, batch)
    other = next(iter(make_loader(config_of(small_folder, "train.seed=1"), "all", training=True)))
    assert other.sample_tokens != whole[0].sample_tokens or not torch.equal(
        other.inputs.cameras.camera_T_ego,
        whole[0].inputs.cameras.camera_T_ego,  # type: ignore[union-attr]
    )


def test_the_same_sample_is_augmented_anew_in_each_draw(small_folder: Path) -> None:
    drives = NuScenesDrives(small_folder, "v1.0-mini", "all", config=config_of(small_folder).data)
    data = DriveDataset(drives, (64, 160), augmentation=config_of(small_folder).data.augmentation)
    first, second, again = data[(0, 3)], data[(1, 3)], data[(0, 3)]
    assert_same(first, again)
    assert first.inputs.lidar is not None and second.inputs.lidar is not None
    assert not torch.equal(first.inputs.lidar.xyz_m, second.inputs.lidar.xyz_m)


def test_validation_takes_all_in_order_or_evenly_spaced(small_folder: Path) -> None:
    config = config_of(small_folder)
    tokens = [token for batch in make_loader(config, "fit", training=False) for token in batch.sample_tokens]
    assert tokens == [f"sample-0-{place}" for place in range(9)]
    some = [t for b in make_loader(config, "fit", training=False, limit=3) for t in b.sample_tokens]
    assert some == ["sample-0-0", "sample-0-4", "sample-0-8"]
    assert len(make_loader(config, "fit", training=False, limit=100)) == 5


def test_the_index_is_cached_in_the_run_folder(small_folder: Path) -> None:
    make_loader(config_of(small_folder), "fit", training=False)
    assert len(list((small_folder.parent / "run" / "cache").glob("index-v1.0-mini-*"))) == 1
    assert not list((small_folder.parent / "run" / "cache").glob(".index-*")), "no temporary folder is left"


def test_a_model_gets_its_sensors_only(small_folder: Path) -> None:
    batch = next(iter(make_loader(config_of(small_folder, "model.sensors=C"), "fit", training=True)))
    assert batch.inputs.lidar is None and batch.inputs.radar is None
    assert batch.targets.depth_m is not None and bool((batch.targets.depth_m > 0).any())
    batch = next(iter(make_loader(config_of(small_folder, "model.sensors=RL"), "fit", training=False)))
    assert batch.inputs.cameras is None and batch.inputs.present.tolist() == [[False, True, True]] * 2


def test_samples_of_different_sensors_share_a_batch(folder_writer: Callable[[], Any]) -> None:
    writer = folder_writer()
    writer.drive(0, radar=False)
    writer.drive(1, lidar=False)
    root = writer.write()
    drives = NuScenesDrives(root, "v1.0-mini", "all", config=config_of(root).data)
    data = DriveDataset(drives, (64, 160))
    batch = collate([data[3], data[12], data[4]])
    assert batch.inputs.present.tolist() == [[True, False, True], [True, True, False], [True, False, True]]
    lidar, radar = batch.inputs.lidar, batch.inputs.radar
    assert lidar is not None and radar is not None
    assert lidar.sample_index.unique().tolist() == [0, 2] and radar.sample_index.unique().tolist() == [1]
    assert batch.targets.depth_m is not None and not bool(batch.targets.depth_m[1].any())
    no_camera = DriveDataset(drives, (64, 160), sensors=("lidar",))
    mixed = collate([no_camera[3], data[12]])
    assert mixed.inputs.cameras is not None and mixed.inputs.cameras.present.any(1).tolist() == [False, True]
    assert torch.equal(mixed.inputs.cameras.camera_T_ego[0], torch.eye(4).expand(6, 4, 4))
    with pytest.raises(DataError, match="has no file of radar, all that the model uses"):
        DriveDataset(drives, (64, 160), sensors=("radar",), read_lidar=True)[3]


def test_an_error_in_a_worker_is_still_one_line(small_folder: Path) -> None:
    config = config_of(small_folder, "data.workers=1")
    loader = make_loader(config, "fit", training=False)
    for file in (small_folder / "samples" / "LIDAR_TOP").iterdir():
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError) as caught:
        next(iter(loader))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(small_folder))


@settings(max_examples=12, deadline=None)
@given(size=st.integers(1, 40), seed=st.integers(0, 2**31), start=st.integers(0, 100), world=st.integers(1, 4))
def test_draws_are_functions_of_seed_and_number(size: int, seed: int, start: int, world: int) -> None:
    whole = list(DrawSampler(120, size, seed=seed))
    assert [number for number, _ in whole] == list(range(120))
    ranks = [list(DrawSampler(120, size, seed=seed, start=start, rank=r, world_size=world)) for r in range(world)]
    assert sorted(draw for rank in ranks for draw in rank) == whole[start:]
    assert [len(rank) for rank in ranks] == [
        len(DrawSampler(120, size, start=start, rank=r, world_size=world)) for r in range(world)
    ]
    for epoch in range(120 // size):
        assert sorted(index for _, index in whole[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_weights_set_the_frequency_of_draws() -> None:
    weights = np.array([1.0, 3.0, 0.0, 6.0])
    drawn = np.bincount([index for _, index in DrawSampler(4000, 4, weights=weights)], minlength=4)
    np.testing.assert_allclose(drawn / 4000, weights / 10, atol=0.03)
    assert drawn[2] == 0
    with pytest.raises(ValueError, match="4 samples need as many weights"):
        DrawSampler(10, 4, weights=np.array([1.0]))
    with pytest.raises(DataError, match="no sample to draw from"):
        DrawSampler(10, 0)


def test_class_balanced_weights_show_every_class_alike() -> None:
    counts = np.zeros((10, 3), dtype=np.int64)
    counts[:8, 0], counts[8, 1], counts[7, 2] = 5, 1, 2  # the last sample shows nothing
    weights = class_balanced_weights(counts)
    assert weights.sum() == pytest.approx(1)
    assert weights[8] == pytest.approx(8 * weights[0]) and weights[7] == pytest.approx(9 * weights[0])
    assert weights[9] == pytest.approx(weights[0])
    np.testing.assert_allclose(class_balanced_weights(np.zeros((4, 3), dtype=np.int64)), 0.25)


def test_further_folders_are_drawn_from_as_well(small_folder: Path, tmp_path: Path) -> None:
    """In a round every key frame of all comes once; drives without annotation tables say that they have none."""
    bare = tmp_path / "bare"
    shutil.copytree(small_folder, bare)
    for table in ("sample_annotation", "instance", "category", "attribute", "visibility"):
        (bare / "v1.0-mini" / f"{table}.json").unlink()
    further = f"data.drives=[{{root: {bare}, version: v1.0-mini, split: all}}]"
    alone = config_of(small_folder, "data.batch_size=1")
    size = len(NuScenesDrives(bare, "v1.0-mini", "all", config=alone.data))
    config = config_of(
        small_folder, "data.batch_size=1", f"train.steps={9 + size}", "data.scenes=[scene-0001]", further
    )
    batches = list(make_loader(config, "fit", training=True))
    labelled = [batch.sample_tokens[0] for batch in batches if bool(batch.targets.is_labelled[0])]
    others = [batch.sample_tokens[0] for batch in batches if not bool(batch.targets.is_labelled[0])]
    assert sorted(labelled) == [f"sample-0-{place}" for place in range(9)]
    assert len(others) == len(set(others)) == size > 9
    assert len(make_loader(config, "fit", training=False)) == 9, "only training has them"
    balanced = config_of(small_folder, "train.class_balanced=true", "data.batch_size=1", "train.steps=60", further)
    drawn = [bool(batch.targets.is_labelled[0]) for batch in make_loader(balanced, "fit", training=True)]
    assert 0 < sum(drawn) < 60
