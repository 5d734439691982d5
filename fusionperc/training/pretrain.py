"""Self-supervised pretraining on unlabelled drives: the Lightning module, and a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from fusionperc.config import Config
from fusionperc.data.masking import mask_inputs, mismatch
from fusionperc.data.unlabelled import make_unlabelled_loader
from fusionperc.measurements import UnlabelledBatch
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.objectives.pictures import PictureTeacher, ends_of_rays
from fusionperc.objectives.pretraining import PretrainingObjective
from fusionperc.training.checkpoints import CONFIG_KEY
from fusionperc.training.optimization import learning_rate_schedule, parameter_groups
from fusionperc.training.run import fit, start_run


class Pretraining(L.LightningModule):
    """The encoder with the pretraining objectives.

    What is random in step k (what is hidden, what does not belong together) is a function of the seed and k alone, so
    a resumed run repeats an uninterrupted one.

    Args:
        config: the whole run; kept in every checkpoint.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = FusionPercPretraining(config.model, config.pretraining)
        self.objective = PretrainingObjective(config)
        self.teacher = None if self.model.pictured is None else PictureTeacher(config.model.camera)

    def training_step(self, batch: UnlabelledBatch, batch_index: int) -> Tensor:
        train = self.config.train
        step = self.global_step * train.accumulate + batch_index % train.accumulate
        generator = torch.Generator().manual_seed(train.seed * 1_000_003 + step * 8 + self.global_rank)
        torch.manual_seed(train.seed * 1_000_003 + step)
        losses = self.losses(batch, generator)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=len(batch))
        if not bool(torch.isfinite(losses["total"])):
            bad = ", ".join(name for name, value in losses.items() if not bool(torch.isfinite(value)))
            raise ValueError(
                f"the loss became infinite or NaN at step {self.global_step} ({bad}): "
                "lower train.learning_rate or use train.precision=fp32"
            )
        return losses["total"]

    def validation_step(self, batch: UnlabelledBatch, batch_index: int) -> None:
        """The same batch is always hidden and mixed up in the same way."""
        losses = self.losses(batch, torch.Generator().manual_seed(batch_index))
        self.log_dict({f"val/{name}": value for name, value in losses.items()}, batch_size=len(batch), sync_dist=True)

    def losses(self, batch: UnlabelledBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Hides, mixes up, encodes, predicts and compares. `generator` is of all that is random, on the CPU."""
        config = self.config.pretraining
        share = config.mismatched if config.wants_matching else 0.0
        mixed, belongs = mismatch(batch.inputs, share, generator)
        masked = mask_inputs(mixed, config, self.objective.grid, generator)
        places_m, seen = None, None
        if self.teacher is not None and batch.inputs.cameras is not None:
            places_m = ends_of_rays(batch.measured.lidar, batch.measured.horizon_s.shape[1])
            seen = self.teacher.see(batch.inputs.cameras, places_m)
            places_m = places_m.nan_to_num()
        output = self.model(masked.inputs, batch.measured.horizon_s, places_m)
        return self.objective(output, batch.measured, batch.depth_m, masked.hidden, belongs, generator, seen)

    def transfer_batch_to_device(
        self, batch: UnlabelledBatch, device: torch.device, dataloader_idx: int
    ) -> UnlabelledBatch:
        return batch.to(device, non_blocking=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(parameter_groups(self.model, self.config.train))
        schedule = learning_rate_schedule(optimizer, self.config.train)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config.model_dump(mode="json")


def pretrain(config: Config) -> Path:
    """Pretrains as `config` says and returns the last checkpoint.

    Raises:
        ConfigError: the run folder holds a run already and `run.resume` is off, or there is nothing to resume.
        DataError: the drives cannot be read.
    """
    trainer, start, done = start_run(config)
    train_loader = make_unlabelled_loader(
        config, training=True, start_draw=done, rank=trainer.global_rank, world_size=trainer.world_size
    )
    held_loader = make_unlabelled_loader(config, training=False)
    return fit(config, trainer, Pretraining(config), train_loader, held_loader, start)
