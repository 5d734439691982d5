"""What all Lightning modules of this package share: the loss of a step, the optimiser, what a checkpoint holds."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from fusionperc.config import Config
from fusionperc.training.checkpoints import CONFIG_KEY
from fusionperc.training.optimization import learning_rate_schedule, parameter_groups


class TrainingModule(L.LightningModule):
    """A network and the run it is trained in.

    Args:
        config: the whole run; kept in every checkpoint.
        model: what learns.
    """

    def __init__(self, config: Config, model: nn.Module) -> None:
        super().__init__()
        self.config, self.model = config, model

    def seeded(self, batch_index: int) -> torch.Generator:
        """Seeds torch for a training step and gives the generator, on the CPU, of what is drawn in it: functions of
        the seed and the step alone, so that a resumed run repeats an uninterrupted one."""
        train = self.config.train
        step = self.global_step * train.accumulate + batch_index % train.accumulate
        torch.manual_seed(train.seed * 1_000_003 + step)
        return torch.Generator().manual_seed(train.seed * 1_000_003 + step * 8 + self.global_rank)

    def logged(self, losses: dict[str, Tensor], count: int) -> Tensor:
        """The loss of a step of `count` samples, checked and with its parts in the log.

        Raises:
            ValueError: it is infinite or NaN.
        """
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=count)
        if not bool(torch.isfinite(losses["total"])):
            bad = ", ".join(name for name, value in losses.items() if not bool(torch.isfinite(value)))
            raise ValueError(
                f"the loss became infinite or NaN at step {self.global_step} ({bad}): "
                "lower train.learning_rate or use train.precision=fp32"
            )
        return losses["total"]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device, non_blocking=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(parameter_groups(self.model, self.config.train))
        schedule = learning_rate_schedule(optimizer, self.config.train)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config.model_dump(mode="json")
