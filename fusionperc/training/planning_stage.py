"""Planning after detection: what the planning head is given is computed once and kept, and the head learns from it.

The detector no longer changes, so a pass over the pictures and sweeps teaches the head as much the tenth time as the
first. Kept are so many augmented draws, each on its own subset of sensors; then a step costs the head alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusionperc.config import Config
from fusionperc.data.loading import DrawSampler, collate, make_loader
from fusionperc.data.sensor_dropout import drop_sensors
from fusionperc.models.boxes import BoxParameters
from fusionperc.models.detection import DetectionOutput
from fusionperc.training.finetune import Finetuning
from fusionperc.types import Batch, Odometry, SensorInputs

log = logging.getLogger(__name__)

#: Without gradients small batches cost a sample less than large ones, on a CPU.
_LOOKED_AT_ONCE = 2
_TOLD_EVERY = 100


@dataclass(frozen=True)
class Seen:
    """What the planning head is given of samples: fused map, detections, odometry (NaN without radar and LiDAR)."""

    bev: Tensor
    detection: DetectionOutput
    odometry: Odometry


@dataclass(frozen=True)
class SeenBatch:
    """A step of the planning stage; the batch's own sensor data are gone."""

    batch: Batch
    seen: Seen

    def __len__(self) -> int:
        return len(self.batch)


class PlanningStage(Finetuning):
    """Trains the planning head on what the network saw. Validation runs the whole network."""

    def training_step(self, batch: SeenBatch, batch_index: int) -> Tensor:  # type: ignore[override]
        torch.manual_seed(self.config.train.seed * 1_000_003 + self.global_step)
        head = self.model.planning
        assert head is not None and batch.batch.ego is not None
        ego = self.told(batch.batch.ego)
        seen = batch.seen
        planned = head(seen.bev.float(), seen.detection, ego, seen.odometry)
        losses = self.planning_objective(planned, seen.detection, batch.batch.targets)
        losses["total"] = losses["plan_total"]
        return self.logged(losses, len(batch))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if isinstance(batch, SeenBatch):
            return SeenBatch(batch.batch.to(device), _each(batch.seen, lambda tensor: tensor.to(device)))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def planning_loader(
    config: Config, module: Finetuning, device: torch.device, start_draw: int, rank: int = 0, world_size: int = 1
) -> DataLoader[Any]:
    """Runs the network over `train.planning_draws` draws and loads what its planning head was given.

    Args:
        config: of the run.
        module: whose network it is.
        device: where the network is run.
        start_draw: draws of the head's training already taken.
        rank, world_size: this process among those that train together; each keeps draws of its own.
    """
    data, train = config.data, config.train
    steps = math.ceil(train.planning_draws / _LOOKED_AT_ONCE)
    once = config.model_copy(
        update={
            "train": train.model_copy(update={"steps": steps, "accumulate": 1}),
            "data": data.model_copy(update={"batch_size": _LOOKED_AT_ONCE}),
        }
    )
    loader = make_loader(once, data.train_split, training=True, rank=rank, world_size=world_size)
    log.info("planning stage: the network is run over %d draws, which are kept", steps * _LOOKED_AT_ONCE)
    kept = []
    for number, batch in enumerate(loader, start=1):
        kept += look(module, batch, device)
        if number % _TOLD_EVERY == 0:
            log.info("planning stage: %d of %d draws", len(kept), steps * _LOOKED_AT_ONCE)
    draws = train.steps * train.accumulate * data.batch_size * world_size
    return DataLoader(
        _Kept(kept),
        batch_size=data.batch_size,
        sampler=DrawSampler(draws, len(kept), seed=train.seed, start=start_draw, rank=rank, world_size=world_size),
        collate_fn=_collate,
    )


@torch.no_grad()
def look(module: Finetuning, batch: Batch, device: torch.device) -> list[SeenBatch]:
    """What the planning head is given of each sample, on the CPU, with sensors dropped as in training."""
    model = module.model.to(device)
    assert model.planning is not None and batch.ego is not None
    given: list[Any] = []
    hook = model.planning.register_forward_pre_hook(lambda _, arguments: given.extend(arguments))
    # The tokens decide the draw, so that a resumed run keeps the same.
    seed = sum(batch.sample_tokens[0].encode()) + 1_000_003 * module.config.train.seed
    inputs = drop_sensors(batch.inputs, module.config.train.sensor_dropout, torch.Generator().manual_seed(seed))
    was_training = model.training
    model.eval()
    model(inputs.to(device), batch.ego.to(device))
    model.train(was_training)
    hook.remove()
    bev, detection, _, odometry = given
    if odometry is None:
        odometry = Odometry.unknown(batch.ego.past_m)
    seen = Seen(bev.to(torch.bfloat16), _slim(detection), odometry)
    bare = replace(batch, inputs=SensorInputs(None, None, None, torch.zeros(len(batch), 3, dtype=torch.bool)))
    return [
        SeenBatch(_sample(bare, index), _each(seen, lambda tensor, i=index: tensor[i : i + 1].cpu().clone()))
        for index in range(len(batch))
    ]


def _slim(detection: DetectionOutput) -> DetectionOutput:
    """Without the dense maps where queries have been refined: nobody reads them then."""
    if not detection.layers:
        return detection
    dense = BoxParameters(*(getattr(detection.dense, f.name)[:, :0] for f in fields(BoxParameters)))
    last = detection.layers[-1:]
    return replace(detection, heatmap_logits=detection.heatmap_logits[:, :, :0], dense=dense, layers=last)


def _sample(batch: Batch, index: int) -> Batch:
    """One sample of a batch without sensor data, as a batch of one."""
    targets, ego = batch.targets, batch.ego
    assert targets.planning is not None and ego is not None
    row = slice(index, index + 1)
    planning = replace(
        targets.planning,
        agent_future_m=targets.planning.agent_future_m[row],
        off_road_m=targets.planning.off_road_m[row],
    )
    return Batch(
        inputs=SensorInputs(None, None, None, batch.inputs.present[row]),
        targets=replace(
            targets,
            boxes=targets.boxes[row],
            num_points=targets.num_points[row],
            depth_m=None,
            ego_past_m=targets.ego_past_m[row],
            ego_future_m=targets.ego_future_m[row],
            command=targets.command[row],
            can_bus=targets.can_bus[row],
            is_labelled=targets.is_labelled[row],
            planning=planning,
        ),
        sample_tokens=batch.sample_tokens[row],
        ego=_each(ego, lambda tensor: tensor[row]),
    )


class _Kept(Dataset[SeenBatch]):
    def __init__(self, items: list[SeenBatch]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: tuple[int, int]) -> SeenBatch:
        return self.items[item[1]]


def _collate(items: Sequence[SeenBatch]) -> SeenBatch:
    return SeenBatch(collate([item.batch for item in items]), _joined([item.seen for item in items]))


def _each(value: Any, change: Any) -> Any:
    """A record with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list):
        return [_each(item, change) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _each(getattr(value, f.name), change) for f in fields(value)})
    return value


def _joined(values: Sequence[Any]) -> Any:
    """Records of single samples as one."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, list):
        return [_joined(items) for items in zip(*values, strict=True)]
    return replace(first, **{f.name: _joined([getattr(v, f.name) for v in values]) for f in fields(first)})
