"""From drives to batches: the data set, the order of its draws, the loader.

Which sample a draw takes and how it is augmented are pure functions of (seed, number of the draw). A run that goes on
at draw n therefore sees exactly what the uninterrupted run would have seen, with any number of loader processes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from fusionperc.config import AugmentationConfig, Config, DataConfig
from fusionperc.data.augment import Augmentation, apply, draw
from fusionperc.data.errors import DataError
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.planning import collate_ego, collate_odometry, collate_planning, with_planning
from fusionperc.data.sample import Sample, Surroundings
from fusionperc.geometry import BevGrid
from fusionperc.types import SENSORS, Batch, CameraInputs, Points, Sensor, SensorInputs, Targets

log = logging.getLogger(__name__)

#: Keeps the streams of order and augmentation apart though both start from the same seed.
ORDER_STREAM, AUGMENTATION_STREAM = 0, 1

Item = TypeVar("Item")


class DriveDataset(Dataset[Batch]):
    """Samples as batches of one.

    An item is asked for by its index (as it is), or by (draw, index) for the augmentation of that draw.

    Args:
        drives: where samples are read.
        image_size: height and width of pictures, px.
        augmentation: ranges; used for (draw, index) items only.
        seed: of the augmentation.
        sensors: what a model uses; other sensors are not given to it, and not read unless `read_lidar`.
        read_lidar: reads LiDAR even if it is not among `sensors`, for the depth targets.
        planning_grid: grid of the drivable area; None leaves out all that planning needs.
    """

    def __init__(
        self,
        drives: NuScenesDrives,
        image_size: tuple[int, int],
        *,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        sensors: Sequence[Sensor] = SENSORS,
        read_lidar: bool = False,
        planning_grid: BevGrid | None = None,
    ) -> None:
        self.drives, self.image_size, self.seed, self.sensors = drives, image_size, seed, tuple(sensors)
        self.augmentation = AugmentationConfig.none() if augmentation is None else augmentation
        wanted = {*sensors, "lidar"} if read_lidar else set(sensors)
        self.planning_grid = planning_grid
        self._read_sensors = tuple(sensor for sensor in SENSORS if sensor in wanted)

    def __len__(self) -> int:
        return len(self.drives)

    def __getitem__(self, item: int | tuple[int, int]) -> Batch:
        if isinstance(item, tuple):
            number, index = item
            generator = np.random.default_rng([self.seed, AUGMENTATION_STREAM, number])
            augmentation = draw(self.augmentation, generator)
        else:
            index, augmentation = item, Augmentation.none()
        sample = self.drives.read(index, augmentation.crops(self.image_size), self._read_sensors)
        batch = apply(sample, augmentation)
        if self.planning_grid is not None:
            around = self.drives.surroundings(index)
            telling = {"radar": sample.radar, "lidar": sample.lidar}
            odometry = {s: self.drives.odometry(index, s) for s in self.sensors if telling.get(s) is not None}
            batch = with_planning(batch, sample, around, odometry, augmentation, self.planning_grid)
        return replace(batch, inputs=seen_by(batch.inputs, self.sensors, sample))


class JoinedDraws(Dataset[Item]):
    """Several data sets in a row, asked for by (draw, place in the row)."""

    def __init__(self, parts: Sequence[Dataset[Item]]) -> None:
        self.parts = parts
        self._stops = np.cumsum([len(part) for part in parts])  # type: ignore[arg-type]

    def __len__(self) -> int:
        return int(self._stops[-1])

    def __getitem__(self, item: tuple[int, int]) -> Item:
        number, index = item
        part = int(np.searchsorted(self._stops, index, side="right"))
        start = int(self._stops[part - 1]) if part else 0
        return self.parts[part][number, index - start]


def seen_by(inputs: SensorInputs, sensors: Sequence[Sensor], sample: Sample) -> SensorInputs:
    """What a model of these sensors sees of a sample.

    Raises:
        DataError: nothing.
    """
    seen = inputs.only(sensors)
    if not bool(seen.present.any()):
        raise DataError(
            f"sample {sample.token} of {sample.scene}: has no file of {', '.join(sensors)}, all that the "
            "model uses: fetch them, or set data.missing=skip"
        )
    return seen


class DrawSampler(Sampler[tuple[int, int]]):
    """Endless rounds through the samples, cut to a number of draws; yields (draw, index).

    In every round of `size` draws a sample comes floor or ceil of `size * weight` times (systematic resampling, from a
    random offset, in random order): without weights exactly once.

    Args:
        num_draws: of the whole run, all ranks together.
        size: number of samples.
        weights: (size,) relative frequencies; None draws all alike.
        seed: of the order.
        start: draws already taken.
        rank, world_size: this process takes every `world_size`-th draw.
    """

    def __init__(
        self,
        num_draws: int,
        size: int,
        *,
        weights: NDArray[np.float64] | None = None,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if size < 1:
            raise DataError("there is no sample to draw from; check data.root and the split")
        if weights is not None and (len(weights) != size or not (weights >= 0).all() or not weights.sum() > 0):
            raise ValueError(f"DrawSampler: {size} samples need as many weights, none negative, not all zero")
        self.size, self.seed, self.start, self.stop = size, seed, start, num_draws
        self.rank, self.world_size = rank, world_size
        self._edges = np.cumsum(np.full(size, 1.0) if weights is None else weights)
        self._edges *= size / self._edges[-1]

    def __len__(self) -> int:
        return len(range(self.start + self.rank, self.stop, self.world_size))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        current, order = -1, np.zeros(0, dtype=np.int64)
        for number in range(self.start + self.rank, self.stop, self.world_size):
            epoch, place = divmod(number, self.size)
            if epoch != current:
                current, order = epoch, self._round(epoch)
            yield number, int(order[place])

    def _round(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self.seed, ORDER_STREAM, epoch])
        ticks = np.arange(self.size) + generator.random()
        chosen = np.searchsorted(self._edges, ticks, side="right").clip(max=self.size - 1)
        return generator.permutation(chosen)


def class_balanced_weights(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(samples,) weights, summing to 1, with which every class is drawn as often as every other.

    A sample weighs the sum, over the classes it shows, of one over the number of samples that show the class; samples
    that show none weigh as little as the lightest of the others. All weigh alike where there are no annotations.

    Args:
        counts: (samples, classes) as `NuScenesDrives.class_counts`.

    Source: CBGS, arXiv 1908.09492, section 3.1 (its expected number of copies of each sample).
    """
    shows = counts > 0
    if not shows.any():
        return np.full(len(counts), 1 / len(counts))
    weights: NDArray[np.float64] = (shows / np.maximum(shows.sum(0), 1)).sum(1)
    weights = np.maximum(weights, weights[weights > 0].min())
    return np.asarray(weights / weights.sum())


def make_loader(
    config: Config,
    split: str,
    *,
    training: bool,
    drives: NuScenesDrives | None = None,
    start_draw: int = 0,
    limit: int | None = None,
    samples: Sequence[int] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Batch]:
    """Loads batches of a split.

    Args:
        config: data, training and model records are used.
        split: e.g. `config.data.train_split`.
        training: True gives random, augmented draws, exactly `train.steps * train.accumulate` batches of
            `data.batch_size` per process, from `data.label_fraction` of the drives and all of `data.drives`; False
            gives all samples once, in order, as they are.
        drives: an opened split; None opens it, with the cache at `data.cache` or `<run.dir>/cache`.
        start_draw: draws already taken by all processes together; only for training.
        limit: only so many samples, evenly spaced over the split; only when not training.
        samples: only these places of the split, in this order; only when not training.
        rank, world_size: this process among those that train together; only for training.

    Raises:
        DataError: as `NuScenesDrives`.
    """
    data, train = config.data, config.train
    cache = cache_folder(config)
    if drives is None:
        drives = NuScenesDrives(data.root, data.version, split, config=data, cache=cache, is_labelled_share=training)
    dataset = _dataset_of(drives, config, training)
    source: Dataset[Batch] = dataset
    sampler: DrawSampler | None = None
    if training:
        whole = data.model_copy(update={"scenes": None})
        further = [NuScenesDrives(f.root, f.version, f.split, config=whole, cache=cache) for f in data.drives]
        source = joined = JoinedDraws([dataset, *(_dataset_of(those, config, training) for those in further)])
        weights = None
        if train.class_balanced:
            weights = class_balanced_weights(np.concatenate([d.class_counts() for d in (drives, *further)]))
        sampler = DrawSampler(
            train.steps * train.accumulate * data.batch_size * world_size,
            len(joined),
            weights=weights,
            seed=train.seed,
            start=start_draw,
            rank=rank,
            world_size=world_size,
        )
    elif samples is not None:
        source = Subset(dataset, list(samples))
    elif limit is not None and limit < len(dataset):
        source = Subset(dataset, np.linspace(0, len(dataset) - 1, limit).round().astype(int).tolist())
    return DataLoader(
        source,
        batch_size=data.batch_size,
        sampler=sampler,
        num_workers=data.workers,
        collate_fn=collate,
        worker_init_fn=one_thread,
        persistent_workers=data.workers > 0,
        pin_memory=train.device != "cpu" and torch.cuda.is_available(),
    )


def recorded_at_training(data: DataConfig, cache: Path | None) -> list[Surroundings]:
    """How the key frames go on that a configuration trains on, those of further drives included; no sensor file is
    read, and none need be there."""
    data = data.model_copy(update={"missing": "absent_sensor"})
    whole = data.model_copy(update={"scenes": None})
    parts = [
        NuScenesDrives(data.root, data.version, data.train_split, config=data, cache=cache, is_labelled_share=True)
    ]
    parts += [NuScenesDrives(f.root, f.version, f.split, config=whole, cache=cache) for f in data.drives]
    return [drives.surroundings(index) for drives in parts for index in range(len(drives))]


def cache_folder(config: Config) -> Path:
    """Where a run keeps indices of tables, and what is fetched of shards."""
    return config.data.cache if config.data.cache is not None else config.run.dir / "cache"


def _dataset_of(drives: NuScenesDrives, config: Config, training: bool) -> DriveDataset:
    return DriveDataset(
        drives,
        config.data.image_size,
        augmentation=config.data.augmentation,
        seed=config.train.seed,
        sensors=config.model.sensor_names,
        read_lidar=training and "camera" in config.model.sensor_names,
        planning_grid=None if config.model.planning is None else config.model.grid.grid(),
    )


def one_thread(worker: int) -> None:
    """Loader processes share the cores; threads of their own would only be in each other's way."""
    torch.set_num_threads(1)


def collate(items: Sequence[Batch]) -> Batch:
    """One batch of several. A sensor that some samples lack is empty (points) or black (pictures) for those."""
    targets = [item.targets for item in items]
    return Batch(
        inputs=collate_inputs([item.inputs for item in items]),
        targets=Targets(
            boxes=[boxes for item in targets for boxes in item.boxes],
            num_points=[counts for item in targets for counts in item.num_points],
            depth_m=stacked([item.depth_m for item in targets]),
            ego_past_m=torch.cat([item.ego_past_m for item in targets]),
            ego_future_m=torch.cat([item.ego_future_m for item in targets]),
            command=torch.cat([item.command for item in targets]),
            can_bus=torch.cat([item.can_bus for item in targets]),
            is_labelled=torch.cat([item.is_labelled for item in targets]),
            planning=collate_planning([item.planning for item in targets]),
        ),
        sample_tokens=[token for item in items for token in item.sample_tokens],
        ego=collate_ego([item.ego for item in items]),
    )


def collate_inputs(inputs: Sequence[SensorInputs]) -> SensorInputs:
    """What the model sees of several samples."""
    return SensorInputs(
        cameras=_collate_cameras([item.cameras for item in inputs]),
        radar=_collate_points([item.radar for item in inputs]),
        lidar=_collate_points([item.lidar for item in inputs]),
        present=torch.cat([item.present for item in inputs]),
        radar_odometry=collate_odometry([item.radar_odometry for item in inputs]),
        lidar_odometry=collate_odometry([item.lidar_odometry for item in inputs]),
    )


def _collate_points(items: list[Points | None]) -> Points | None:
    first = next((item for item in items if item is not None), None)
    if first is None:
        return None
    none = Points(first.xyz_m[:0], first.features[:0], first.sample_index[:0], 1)
    return Points.collate([none if item is None else item for item in items])


def _collate_cameras(items: list[CameraInputs | None]) -> CameraInputs | None:
    first = next((item for item in items if item is not None), None)
    if first is None:
        return None
    # A place holder must stay invertible: its matrices are identities.
    none = CameraInputs(
        torch.zeros_like(first.images),
        torch.eye(3).expand_as(first.intrinsics),
        torch.eye(4).expand_as(first.camera_T_ego),
        torch.zeros_like(first.present),
    )
    filled = [none if item is None else item for item in items]
    return CameraInputs(
        images=torch.cat([item.images for item in filled]),
        intrinsics=torch.cat([item.intrinsics for item in filled]),
        camera_T_ego=torch.cat([item.camera_T_ego for item in filled]),
        present=torch.cat([item.present for item in filled]),
    )


def stacked(items: Sequence[Tensor | None]) -> Tensor | None:
    """Tensors of single samples as one, zeros where there is none."""
    first = next((item for item in items if item is not None), None)
    if first is None:
        return None
    return torch.cat([torch.zeros_like(first) if item is None else item for item in items])
