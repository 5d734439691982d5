"""Supervised training of detection and planning: the Lightning module, and reading a trained model back."""

from __future__ import annotations

import logging
import math
import pickle
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from fusionperc.config import Config, ConfigError, TrainConfig, build_config
from fusionperc.models.fusionperc import FusionPerc
from fusionperc.objectives.detection import DetectionObjective
from fusionperc.objectives.planning import PlanningObjective
from fusionperc.training.sensor_dropout import drop_sensors
from fusionperc.types import Batch, EgoInputs, SensorInputs, Targets

log = logging.getLogger(__name__)

#: Key under which a checkpoint keeps its run's configuration.
CONFIG_KEY = "fusionperc_config"
#: What the names of the planning head's weights begin with.
_PLANNING = "planning."


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the remedy."""


class Finetuning(L.LightningModule):
    """FusionPerc with the detection objective, the planning objective, or both.

    What is random in step k (the sensors dropped, dropout inside the network) is a function of the seed and k alone,
    so a resumed run repeats an uninterrupted one.

    Args:
        config: the whole run; kept in every checkpoint.

    Raises:
        CheckpointError: `train.initial` cannot be read or holds another architecture.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = FusionPerc(config.model)
        self.objective = DetectionObjective(config.objective, config.model)
        self.plans = config.model.planning is not None and config.train.task != "detection"
        self.planning_objective = PlanningObjective(config.planning_objective, config.objective, config.model)
        if config.train.initial is not None:
            _start_from(config.train.initial, self.model)
        if config.train.task == "planning":
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith(_PLANNING))
            self.train()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        step = self.global_step * self.config.train.accumulate + batch_index % self.config.train.accumulate
        generator = torch.Generator().manual_seed(self.config.train.seed * 1_000_003 + step * 8 + self.global_rank)
        torch.manual_seed(self.config.train.seed * 1_000_003 + step)
        inputs = drop_sensors(batch.inputs, self.config.train.sensor_dropout, generator)
        ego = None if batch.ego is None else self.told(batch.ego)
        return self.logged(self._losses(inputs, ego, batch.targets), len(batch))

    def logged(self, losses: dict[str, Tensor], count: int) -> Tensor:
        """The loss of a step, checked and with its parts in the log."""
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=count)
        if not bool(torch.isfinite(losses["total"])):
            bad = ", ".join(name for name, value in losses.items() if not bool(torch.isfinite(value)))
            raise ValueError(
                f"the loss became infinite or NaN at step {self.global_step} ({bad}): "
                "lower train.learning_rate or use train.precision=fp32"
            )
        return losses["total"]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        ego = None if batch.ego is None else self.told(batch.ego)
        losses = self._losses(batch.inputs, ego, batch.targets)
        self.log_dict({f"val/{name}": value for name, value in losses.items()}, batch_size=len(batch), sync_dist=True)

    def told(self, ego: EgoInputs) -> EgoInputs:
        """What the planner is told while it learns: each sample with the ego's status, without it, or both ways."""
        match self.config.train.ego_status:
            case "both":
                return ego.and_without_status()
            case "with":
                return ego
            case "without":
                return ego.without_status()

    def _losses(self, inputs: SensorInputs, ego: EgoInputs | None, targets: Targets) -> dict[str, Tensor]:
        """Losses of the heads that learn, by name; ``total`` is what is minimised."""
        output = self.model(inputs, ego if self.plans else None)
        losses: dict[str, Tensor] = {}
        if self.config.train.task != "planning":
            losses |= self.objective(output, targets)
        if output.planning is not None:
            losses |= self.planning_objective(output.planning, output.detection, targets)
            losses["total"] = losses.get("total", 0.0) + losses["plan_total"]
        return losses

    def train(self, mode: bool = True) -> Self:
        """Where only the planning head learns, the rest keeps its batch statistics too."""
        super().train(mode)
        if mode and self.config.train.task == "planning" and self.model.planning is not None:
            self.model.eval()
            self.model.planning.train()
        return self

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(_parameter_groups(self.model, self.config.train))
        schedule = _schedule(optimizer, self.config.train)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config.model_dump(mode="json")


def _parameter_groups(model: FusionPerc, train: TrainConfig) -> list[dict[str, Any]]:
    """Four groups: picture backbone or not, times decayed (matrices) or not (norms, biases, embeddings)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_backbone = ".backbone." in f".{name}"
            is_decayed = parameter.ndim > 1 and "embedding" not in name
            groups.setdefault((is_backbone, is_decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": train.learning_rate * (train.backbone_rate if is_backbone else 1.0),
            "weight_decay": train.weight_decay if is_decayed else 0.0,
        }
        for (is_backbone, is_decayed), parameters in groups.items()
    ]


def _schedule(optimizer: torch.optim.Optimizer, train: TrainConfig) -> Any:
    match train.schedule:
        case "one_cycle":
            return OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=train.steps + 1,
                pct_start=max(train.warmup, 1e-6),
                div_factor=10,
                final_div_factor=100,
                cycle_momentum=False,
            )
        case "cosine":
            warm = train.warmup * train.steps

            def factor(step: int) -> float:
                if step < warm:
                    return (step + 1) / (warm + 1)
                return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, train.steps - warm))))

            return LambdaLR(optimizer, factor)


def _start_from(checkpoint: Path, model: FusionPerc) -> None:
    """Takes a checkpoint's weights; the planning head may be new."""
    weights = {name.removeprefix("model."): v for name, v in read_checkpoint(checkpoint)["state_dict"].items()}
    own = model.state_dict()
    fresh = {name: value for name, value in own.items() if name.startswith(_PLANNING) and name not in weights}
    _check_weights(checkpoint, own, weights | fresh)
    model.load_state_dict(weights | fresh)


def load_model(checkpoint: Path, device: torch.device | str = "cpu") -> tuple[FusionPerc, Config]:
    """The network of a checkpoint, in evaluation mode, and the configuration it was trained with.

    Only tensors and plain values are read (no pickled code runs).

    Raises:
        CheckpointError: the file is missing, is no checkpoint of this package, or its weights do not fit the network
            its configuration describes.
    """
    content = read_checkpoint(checkpoint)
    try:
        config = build_config(dict(content[CONFIG_KEY]), source=str(checkpoint))
    except ConfigError as error:
        raise CheckpointError(
            f"{error}: the checkpoint is of another version of this package; train it again"
        ) from None
    prefix = "model."
    weights = {name.removeprefix(prefix): value for name, value in content["state_dict"].items()}
    # The checkpoint holds every weight: nothing is to be fetched to build the network.
    bare = config.model.model_copy(update={"camera": config.model.camera.model_copy(update={"weights": "none"})})
    model = FusionPerc(bare)
    _check_weights(checkpoint, model.state_dict(), weights)
    model.load_state_dict(weights)
    return model.to(device).eval(), config


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """The raw content of a training checkpoint of this package. Raises `CheckpointError`."""
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: no such checkpoint; training writes RUN/checkpoints/last.ckpt")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{checkpoint}: cannot be read as a checkpoint ({first}); is the file complete?"
        ) from None
    if not isinstance(content, dict) or CONFIG_KEY not in content or "state_dict" not in content:
        raise CheckpointError(f"{checkpoint}: holds no '{CONFIG_KEY}': not a checkpoint written by tools/train.py")
    return content


def _check_weights(checkpoint: Path, wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    missing = sorted(wanted.keys() - given.keys())
    extra = sorted(given.keys() - wanted.keys())
    reshaped = sorted(name for name in wanted.keys() & given.keys() if wanted[name].shape != given[name].shape)
    if missing or extra or reshaped:
        first = (reshaped or missing or extra)[0]
        raise CheckpointError(
            f"{checkpoint}: weights of another architecture: {len(missing)} missing, {len(extra)} unknown, "
            f"{len(reshaped)} of another shape, first '{first}'; use the model configuration it was trained with"
        )
