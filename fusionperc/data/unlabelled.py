"""Unlabelled drives as batches: what the sensors see, and what they measure now and later.

Drives may come from several folders at once, with or without annotation tables; no annotation gets into a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from typing_extensions import TypeVar

from fusionperc.config import AugmentationConfig, Config, DriveFolder
from fusionperc.data.augment import Augmentation, apply, draw, moved_boxes
from fusionperc.data.loading import (
    AUGMENTATION_STREAM,
    DrawSampler,
    JoinedDraws,
    cache_folder,
    collate_inputs,
    one_thread,
    seen_by,
    stacked,
)
from fusionperc.data.moving_objects import moving_objects
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.pictures import PictureCrop
from fusionperc.data.sample import Sample
from fusionperc.data.shards import ShardDrives, WindowSampler
from fusionperc.geometry import transform_points
from fusionperc.measurements import LidarRays, Measurements, RadarReturns, Surfaces, UnlabelledBatch
from fusionperc.types import Sensor

log = logging.getLogger(__name__)

#: Moments at which held-out drives are measured.
HELD_HORIZONS_S = (0.0, 1.0, 2.0, 3.0)


class UnlabelledDrives(Protocol):
    """Where unlabelled samples are read: `NuScenesDrives` or `ShardDrives`."""

    def __len__(self) -> int: ...

    def read(self, index: int, crops: Sequence[PictureCrop] | None, sensors: Sequence[Sensor]) -> Sample: ...

    def measured(
        self, index: int, horizons_s: Sequence[float], num_rays: int, generator: np.random.Generator | None = None
    ) -> Measurements: ...

    def surfaces(self, index: int) -> Surfaces: ...


Drives = TypeVar("Drives", bound=UnlabelledDrives, default=NuScenesDrives)


class UnlabelledDataset(Dataset[UnlabelledBatch], Generic[Drives]):
    """Key frames with what was measured then and later, as batches of one.

    An item is asked for by its index: as it is, at `HELD_HORIZONS_S`, with evenly spaced rays; or by (draw, index):
    augmented, at the key frame and at one random later moment of that draw.

    Args:
        drives: where samples are read.
        config: of the run.
    """

    def __init__(self, drives: Drives, config: Config) -> None:
        self.drives: Drives = drives
        self.config = config
        sensors = config.model.sensor_names
        # What LiDAR and radar measure is predicted even by a model of cameras alone, but it is not shown to it.
        self._read_sensors: tuple[Sensor, ...] = tuple(dict.fromkeys([*sensors, "lidar"]))

    def __len__(self) -> int:
        return len(self.drives)

    def __getitem__(self, item: int | tuple[int, int]) -> UnlabelledBatch:
        data, pretraining = self.config.data, self.config.pretraining
        if isinstance(item, tuple):
            number, index = item
            generator = np.random.default_rng([self.config.train.seed, AUGMENTATION_STREAM, number])
            augmentation = draw(data.augmentation, generator)
            horizons_s: Sequence[float] = (0.0, float(generator.uniform(*pretraining.horizon_s)))
            measured = self.drives.measured(index, horizons_s, pretraining.rays, generator)
        else:
            index, augmentation = item, draw(AugmentationConfig.none(), np.random.default_rng(0))
            measured = self.drives.measured(index, HELD_HORIZONS_S, pretraining.rays)
        surfaces = self.drives.surfaces(index) if pretraining.wants_surfaces else None
        objects = None if surfaces is None or pretraining.objects == 0 else moving_objects(surfaces)
        sample = self.drives.read(index, augmentation.crops(data.image_size), self._read_sensors)
        batch = apply(sample, augmentation)
        return UnlabelledBatch(
            inputs=seen_by(batch.inputs, self.config.model.sensor_names, sample),
            depth_m=batch.targets.depth_m,
            measured=moved_measurements(measured, augmentation),
            surfaces=None if surfaces is None else moved_surfaces(surfaces, augmentation),
            objects=None if objects is None else [moved_boxes(objects, augmentation)],
            sample_tokens=batch.sample_tokens,
        )


def moved_measurements(measured: Measurements, augmentation: Augmentation) -> Measurements:
    """The measurements in the augmented frame: directions turn and mirror, lengths scale."""
    matrix, scale = augmentation.augmented_T_ego.float(), augmentation.scale
    turn: Tensor = matrix[:3, :3] / scale
    lidar, radar = measured.lidar, measured.radar
    return Measurements(
        horizon_s=measured.horizon_s,
        lidar=LidarRays(
            transform_points(matrix, lidar.origin_m), lidar.direction @ turn.T, lidar.range_m * scale
        ),
        radar=RadarReturns(
            transform_points(matrix, radar.xyz_m),
            radar.line_of_sight @ turn[:2, :2].T,
            radar.radial_mps * scale,
            radar.moment_index,
            radar.is_measured,
        ),
    )  # fmt: skip


def moved_surfaces(surfaces: Surfaces, augmentation: Augmentation) -> Surfaces:
    """The surfaces in the augmented frame."""
    matrix = augmentation.augmented_T_ego.float()
    return replace(
        surfaces,
        xyz_m=transform_points(matrix, surfaces.xyz_m),
        velocity_mps=surfaces.velocity_mps @ matrix[:2, :2].T,
    )


def unlabelled_folders(config: Config) -> tuple[DriveFolder, ...]:
    """The folders to pretrain on."""
    data = config.data
    if config.pretraining.drives:
        return config.pretraining.drives
    return (DriveFolder(root=data.root, version=data.version, split=data.train_split),)


def held_drives(config: Config) -> NuScenesDrives:
    """The drives of `data.split`, on which pretraining is measured."""
    data = config.data
    return open_drives(DriveFolder(root=data.root, version=data.version, split=data.split), config)


def open_drives(folder: DriveFolder, config: Config) -> NuScenesDrives:
    """The drives of a folder. Raises `DataError` as `NuScenesDrives`."""
    drives = NuScenesDrives(folder.root, folder.version, folder.split, config=config.data, cache=cache_folder(config))
    log.info("unlabelled: %d key frames of %s, split %s", len(drives), folder.root, folder.split)
    return drives


def make_unlabelled_loader(
    config: Config, *, training: bool, start_draw: int = 0, rank: int = 0, world_size: int = 1
) -> DataLoader[UnlabelledBatch]:
    """Loads unlabelled batches.

    Args:
        config: of the run.
        training: True gives random, augmented draws from `pretraining.drives` or `pretraining.shards`, False
            `train.validate_samples` samples of `data.split`, evenly spaced and as they are.
        start_draw: draws already taken by all processes together; only for training.
        rank, world_size: this process among those that train together; only for training.

    Raises:
        DataError: as `NuScenesDrives` and `ShardDrives`.
    """
    data, train = config.data, config.train
    drives: list[UnlabelledDrives]
    order: Callable[..., DrawSampler] = DrawSampler
    if not training:
        drives = [held_drives(config)]
    elif config.pretraining.shards is not None:
        shards = ShardDrives(config.pretraining.shards, config, cache_folder(config))
        drives, order = [shards], partial(WindowSampler, shard_stops=shards.shard_stops)
    else:
        drives = [open_drives(folder, config) for folder in unlabelled_folders(config)]
    parts = [UnlabelledDataset(those, config) for those in drives]
    dataset: Dataset[UnlabelledBatch] = ConcatDataset(parts)
    size = sum(len(part) for part in parts)
    sampler = None
    if training:
        draws = train.steps * train.accumulate * data.batch_size * world_size
        sampler = order(draws, size, seed=train.seed, start=start_draw, rank=rank, world_size=world_size)
        dataset = JoinedDraws(parts)
    elif train.validate_samples < size:
        dataset = Subset(dataset, np.linspace(0, size - 1, train.validate_samples).round().astype(int).tolist())
    return DataLoader(
        dataset,
        batch_size=data.batch_size,
        sampler=sampler,
        num_workers=data.workers,
        collate_fn=collate_unlabelled,
        worker_init_fn=one_thread,
        persistent_workers=data.workers > 0,
        pin_memory=train.device != "cpu" and torch.cuda.is_available(),
    )


def collate_unlabelled(items: Sequence[UnlabelledBatch]) -> UnlabelledBatch:
    """One batch of several."""
    surfaces = [item.surfaces for item in items if item.surfaces is not None]
    objects = [boxes for item in items for boxes in item.objects or ()]
    return UnlabelledBatch(
        inputs=collate_inputs([item.inputs for item in items]),
        depth_m=stacked([item.depth_m for item in items]),
        measured=Measurements.collate([item.measured for item in items]),
        surfaces=Surfaces.collate(surfaces) if len(surfaces) == len(items) else None,
        objects=objects if len(objects) == len(items) else None,
        sample_tokens=[token for item in items for token in item.sample_tokens],
    )
