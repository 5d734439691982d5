"""Supervised training of detection and planning: the Lightning module."""

from __future__ import annotations

from typing import Self

from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from fusionperc.config import Config
from fusionperc.data.sensor_dropout import drop_sensors
from fusionperc.models.encoder import ENCODER_PARTS
from fusionperc.models.fusionperc import FusionPerc
from fusionperc.objectives.detection import DetectionObjective
from fusionperc.objectives.planning import PlanningObjective
from fusionperc.training.checkpoints import PLANNING_PART, PRIOR_PART, init_from, start_from
from fusionperc.training.module import TrainingModule
from fusionperc.types import Batch, EgoInputs, SensorInputs, Targets


class Finetuning(TrainingModule):
    """FusionPerc with the detection objective, the planning objective, or both.

    Args:
        config: the whole run; kept in every checkpoint.

    Raises:
        CheckpointError: `train.initial` cannot be read or holds another architecture.
    """

    model: FusionPerc

    def __init__(self, config: Config) -> None:
        super().__init__(config, FusionPerc(config.model))
        self.objective = DetectionObjective(config.objective, config.model)
        self.plans = config.model.planning is not None and config.train.task != "detection"
        self.planning_objective = PlanningObjective(config.planning_objective, config.objective, config.model)
        if config.train.initial is not None:
            start_from(config.train.initial, self.model)
        if config.train.init_from is not None:
            init_from(config.train.init_from, self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._learns(name))
        self.train()

    def _learns(self, name: str) -> bool:
        """Whether a weight of the network, or a part of it, changes in this run."""
        if name.startswith(PRIOR_PART):
            return False
        if self.config.train.task == "planning":
            return name.startswith(PLANNING_PART)
        return not (self.config.train.probe and name.startswith(ENCODER_PARTS))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        inputs = drop_sensors(batch.inputs, self.config.train.sensor_dropout, self.seeded(batch_index))
        ego = None if batch.ego is None else self.told(batch.ego)
        return self.logged(self._losses(inputs, ego, batch.targets), len(batch))

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

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Bounds the gradient of the planning head and that of all else, each by itself: neither slows the other."""
        if gradient_clip_val is None:
            return
        for of_planning in (True, False):
            named = self.model.named_parameters()
            part = [parameter for name, parameter in named if name.startswith(PLANNING_PART) == of_planning]
            clip_grad_norm_(part, gradient_clip_val)

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
        """Parts that do not learn keep their batch statistics too, and drop nothing."""
        super().train(mode)
        for name, part in self.model.named_modules():
            part.training = mode and self._learns(f"{name}.")
        return self
