"""Unlabelled batches: measurements go where the inputs go, several folders, no labels, label fractions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from records import assert_same

from fusionperc.config import AugmentationConfig, Config, DataConfig, build_config
from fusionperc.data.augment import draw
from fusionperc.data.errors import DataError
from fusionperc.data.loading import make_loader
from fusionperc.data.nuscenes import NuScenesDrives, nested_share
from fusionperc.data.unlabelled import UnlabelledDataset, collate_unlabelled, make_unlabelled_loader

ANNOTATIONS = ("sample_annotation", "instance", "category", "attribute", "visibility")


def config_of(root: Path, *overrides: str) -> Config:
    values = [
        f"data.root={root}", f"run.dir={root.parent / 'run'}", "data.image_size=[64, 160]", "data.workers=0",
        "data.train_split=fit", "data.split=held", "data.lidar_sweeps=1", "data.radar_sweeps=1", "data.batch_size=3",
        "train.steps=6", "pretraining.rays=200",
    ]  # fmt: skip
    return build_config({}, [*values, *overrides])


def data_set(root: Path, *overrides: str) -> UnlabelledDataset:
    config = config_of(root, *overrides)
    return UnlabelledDataset(NuScenesDrives(root, "v1.0-mini", "fit", config=config.data), config)


# -- augmentation -----------------------------------------------------------------------------------------------------

AUGMENTED = (
    ("data.augmentation.flip_y=true", "data.augmentation.rotation_rad=3.0", "data.augmentation.scale=[0.8, 1.3]"),
    ("data.augmentation.flip_x=true", "data.augmentation.flip_y=true"),
)


@pytest.mark.parametrize("augmentation", AUGMENTED)
@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_measurements_are_augmented_like_the_inputs(
    written_folder: Path, augmentation: tuple[str, ...], number: int
) -> None:
    batch = data_set(written_folder, *augmentation)[number, 3]
    lidar, radar, measured = batch.inputs.lidar, batch.inputs.radar, batch.measured
    assert lidar is not None and radar is not None
    rays = measured.lidar
    assert measured.horizon_s.shape == (1, 2) and 0.5 <= float(measured.horizon_s[0, 1]) <= 3.0

    real = ~rays.range_m[0].isnan()
    ends = (rays.origin_m[0] + rays.direction[0] * rays.range_m[0, :, None])[real]
    torch.testing.assert_close(ends, lidar.xyz_m, rtol=0, atol=1e-4)
    torch.testing.assert_close(rays.direction[0, real].norm(dim=1), torch.ones(int(real.sum())))

    assert batch.surfaces is not None and len(batch.surfaces.moves) > 10
    nearest = torch.cdist(batch.surfaces.xyz_m.double(), lidar.xyz_m.double()).min(1).values
    assert float(nearest.max()) < 1e-4

    now = measured.radar.moment_index == 0
    torch.testing.assert_close(measured.radar.xyz_m[now], radar.xyz_m, rtol=0, atol=1e-4)
    line = measured.radar.line_of_sight[now]
    torch.testing.assert_close(line.norm(dim=1), torch.ones(len(line)))
    radial = (radar.features[:, 1:3] * line).sum(1)
    torch.testing.assert_close(measured.radar.radial_mps[now], radial, rtol=0, atol=1e-4)


def test_draws_cover_mirrored_turned_and_scaled_space() -> None:
    """The test above is only worth something if its draws do differ."""
    config = AugmentationConfig(rotation_rad=3.0, scale=(0.8, 1.3))
    draws = [draw(config, np.random.default_rng(seed)) for seed in range(20)]
    assert {item.is_mirrored for item in draws} == {True, False}
    assert min(item.scale for item in draws) < 0.9 and max(item.scale for item in draws) > 1.2


def test_held_out_samples_come_as_they_are_at_fixed_moments(written_folder: Path) -> None:
    data = data_set(written_folder)
    batch = data[2]
    assert_same(batch, data[2])
    assert batch.measured.horizon_s.tolist() == [[0.0, 1.0, 2.0, 3.0]]
    sample = data.drives.read(2, None, ("lidar",))
    assert batch.inputs.lidar is not None and sample.lidar is not None
    assert torch.equal(batch.inputs.lidar.xyz_m, sample.lidar.xyz_m)


def test_lidar_is_predicted_but_not_shown_to_a_model_of_cameras(written_folder: Path) -> None:
    batch = data_set(written_folder, "model.sensors=C")[0, 3]
    assert batch.inputs.lidar is None and batch.inputs.radar is None
    assert batch.inputs.present.tolist() == [[True, False, False]]
    assert batch.depth_m is not None and bool((batch.depth_m > 0).any())
    assert bool(batch.measured.lidar.range_m[0].isfinite().any()) and bool(batch.measured.radar.is_measured.all())


def test_a_sample_that_shows_a_model_nothing_is_named(folder_writer: Callable[[], Any]) -> None:
    """LiDAR is there to be predicted, but a model of radar alone has nothing to predict it from."""
    writer = folder_writer()
    writer.drive(0, radar=False)
    with pytest.raises(DataError, match=r"sample sample-0-3 of scene-0001: has no file of radar, all that the model"):
        data_set(writer.write(), "model.sensors=R")[0, 3]


def test_surfaces_know_their_sample_and_are_not_read_in_vain(written_folder: Path) -> None:
    data = data_set(written_folder)
    items = [data[0, 1], data[1, 8]]
    whole = collate_unlabelled(items).surfaces
    assert whole is not None
    for place, item in enumerate(items):
        assert item.surfaces is not None
        assert torch.equal(whole.xyz_m[whole.sample_index == place], item.surfaces.xyz_m)
    assert data_set(written_folder, "pretraining.motion=0")[0, 1].surfaces is not None
    assert data_set(written_folder, "pretraining.objects=0")[0, 1].objects is None
    neither = data_set(written_folder, "pretraining.motion=0", "pretraining.objects=0")[0, 1]
    assert neither.surfaces is None and neither.objects is None
    assert collate_unlabelled([neither, neither]).objects is None


def test_batches_count_moments_sample_by_sample(written_folder: Path) -> None:
    data = data_set(written_folder)
    one, other = data[0, 1], data[1, 8]
    both = collate_unlabelled([one, other])
    assert both.sample_tokens == ["sample-0-1", "sample-0-8"] and len(both) == 2
    assert both.measured.lidar.range_m.shape == (4, 200)
    torch.testing.assert_close(both.measured.lidar.origin_m[2:], other.measured.lidar.origin_m)
    counts = torch.bincount(both.measured.radar.moment_index, minlength=4)
    # The second sample is the drive's last: nothing is measured later.
    assert counts.tolist() == [240, 240, 240, 0] and both.measured.radar.is_measured.tolist() == [True] * 3 + [False]
    later = both.measured.radar.moment_index == 2
    torch.testing.assert_close(both.measured.radar.xyz_m[later], other.measured.radar.xyz_m)


# -- the loader -------------------------------------------------------------------------------------------------------


def two_folders(folder_writer: Callable[[], Any], written_folder: Path) -> str:
    """An override that pretrains on a drive of the written folder, and on both of one without labels."""
    writer = folder_writer()
    writer.root = writer.root.parent / "unlabelled"
    for number in (3, 4):
        writer.drive(number, objects=0)
    root = writer.write({}, leave_out=ANNOTATIONS)
    return (
        f"pretraining.drives=[{{root: {written_folder}, version: v1.0-mini, split: fit}}, "
        f"{{root: {root}, version: v1.0-mini}}]"
    )


def test_each_sample_of_several_folders_comes_once_a_round(
    folder_writer: Callable[[], Any], written_folder: Path, tmp_path: Path
) -> None:
    drives = two_folders(folder_writer, written_folder)
    options = (drives, f"run.dir={tmp_path / 'run'}", "data.batch_size=9", "train.steps=6", "pretraining.rays=4")
    loader = make_unlabelled_loader(config_of(written_folder, *options), training=True)
    rounds = [batch.sample_tokens for batch in loader]
    tokens = {f"sample-{drive}-{place}" for drive in (0, 3, 4) for place in range(9)}
    assert len(rounds) == 6
    for start in (0, 3):
        assert Counter(token for tokens in rounds[start : start + 3] for token in tokens) == Counter(tokens)
    assert rounds[:3] != rounds[3:]


def test_the_loader_goes_on_exactly_where_it_stopped(
    folder_writer: Callable[[], Any], written_folder: Path, tmp_path: Path
) -> None:
    options = (two_folders(folder_writer, written_folder), f"run.dir={tmp_path / 'run'}")
    config = config_of(written_folder, *options)
    whole = list(make_unlabelled_loader(config, training=True))
    rest = list(make_unlabelled_loader(config, training=True, start_draw=4 * 3))
    assert len(whole) == 6 and len(rest) == 2
    for expected, batch in zip(whole[4:], rest, strict=True):
        assert_same(expected, batch)


def test_processes_share_the_draws(written_folder: Path, tmp_path: Path) -> None:
    config = config_of(written_folder, f"run.dir={tmp_path / 'run'}", "train.steps=3", "pretraining.rays=4")
    parts = [
        [
            t
            for batch in make_unlabelled_loader(config, training=True, rank=rank, world_size=2)
            for t in batch.sample_tokens
        ]
        for rank in (0, 1)
    ]
    assert [len(part) for part in parts] == [9, 9]
    assert Counter(parts[0] + parts[1]) == Counter({f"sample-0-{place}": 2 for place in range(9)})


def test_without_annotation_tables_a_batch_is_the_same(
    written_folder: Path, small_folder: Path, tmp_path: Path
) -> None:
    for table in ANNOTATIONS:
        (small_folder / "v1.0-mini" / f"{table}.json").unlink()
    for training in (True, False):
        batches = [
            list(make_unlabelled_loader(config_of(root, f"run.dir={tmp_path / name}"), training=training))
            for root, name in ((written_folder, "with"), (small_folder, "without"))
        ]
        assert len(batches[0]) == len(batches[1]) >= 3
        for first, second in zip(*batches, strict=True):
            assert_same(first, second)


def test_held_out_drives_are_those_of_the_data_split(written_folder: Path, tmp_path: Path) -> None:
    options = (f"run.dir={tmp_path / 'run'}", "train.validate_samples=3", "pretraining.rays=4")
    loader = make_unlabelled_loader(config_of(written_folder, *options), training=False)
    assert [token for batch in loader for token in batch.sample_tokens] == ["sample-1-0", "sample-1-4", "sample-1-8"]


def test_a_missing_folder_is_named(written_folder: Path, tmp_path: Path) -> None:
    config = config_of(written_folder, f"pretraining.drives=[{{root: {tmp_path / 'none'}}}]")
    with pytest.raises(DataError, match=r"none: no such folder"):
        make_unlabelled_loader(config, training=True)


# -- few labels -------------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 40), small=st.floats(0.001, 1.0), large=st.floats(0.001, 1.0), seed=st.integers(0, 2**31))
def test_shares_are_nested(count: int, small: float, large: float, seed: int) -> None:
    small, large = sorted((small, large))
    names = [f"scene-{number:04d}" for number in range(count)]
    few, more = nested_share(names, small, seed), nested_share(names, large, seed)
    assert more[: len(few)] == few and set(more) <= set(names) and len(set(more)) == len(more)
    assert len(few) >= 1 and small * count - 1e-6 <= len(few) <= max(1, small * count + 1)
    assert nested_share(names, small, seed) == few
    assert sorted(nested_share(names, 1.0, seed)) == names


def test_another_seed_takes_other_drives_and_rounding_takes_no_drive_more() -> None:
    names = [f"scene-{number:04d}" for number in range(30)]
    assert len({tuple(sorted(nested_share(names, 0.1, seed))) for seed in range(10)}) > 5
    assert [len(nested_share(names, share, 0)) for share in (0.1, 0.3, 0.7, 0.01, 0.11)] == [3, 9, 21, 1, 4]


def test_a_labelled_share_keeps_whole_drives(
    folder_writer: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    writer = folder_writer()
    for number in range(5):
        writer.drive(number)
    root = writer.write({"many": [f"scene-{number + 1:04d}" for number in range(4)], "held": ["scene-0005"]})

    def scenes(fraction: float, seed: int = 0, split: str = "many", *, is_labelled_share: bool = True) -> Counter[str]:
        config = DataConfig(label_fraction=fraction, label_seed=seed)
        drives = NuScenesDrives(root, "v1.0-mini", split, config=config, is_labelled_share=is_labelled_share)
        return Counter(token.split("-")[1] for token in drives.sample_tokens)

    with caplog.at_level(logging.INFO):
        half = scenes(0.5)
    assert len(half) == 2 and set(half.values()) == {9}
    assert "labels of 2 of 4 drives: scene-" in caplog.text
    assert half.items() <= scenes(0.75).items() and len(scenes(1.0)) == 4
    assert len(scenes(0.5, is_labelled_share=False)) == 4
    assert len({tuple(sorted(scenes(0.25, seed))) for seed in range(8)}) > 1

    few = "data.label_fraction=0.25"
    config = config_of(root, few, "data.train_split=many", f"run.dir={root.parent / 'run'}")
    trained = {t.split("-")[1] for b in make_loader(config, "many", training=True) for t in b.sample_tokens}
    assert len(trained) == 1
    tested = {t.split("-")[1] for b in make_loader(config, "many", training=False) for t in b.sample_tokens}
    assert len(tested) == 4, "held-out drives are never narrowed"
    options = ("train.steps=12", "pretraining.rays=4")
    unlabelled = make_unlabelled_loader(config_of(root, few, "data.train_split=many", *options), training=True)
    assert len({t.split("-")[1] for b in unlabelled for t in b.sample_tokens}) == 4
