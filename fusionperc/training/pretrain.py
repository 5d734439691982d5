"""Self-supervised pretraining on unlabelled drives: the Lightning module, and a whole run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fusionperc.config import Config, ConfigError
from fusionperc.data.masking import mask_inputs, mismatch
from fusionperc.data.unlabelled import make_unlabelled_loader
from fusionperc.measurements import UnlabelledBatch
from fusionperc.models.camera import make_backbone
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.objectives.pictures import PictureTeacher, ends_of_rays
from fusionperc.objectives.pretraining import PretrainingObjective
from fusionperc.training.module import TrainingModule
from fusionperc.training.run import fit, start_run


class Pretraining(TrainingModule):
    """The encoder with the pretraining objectives.

    Args:
        config: the whole run; kept in every checkpoint.

    Raises:
        ConfigError: features of pictures are to be learnt, and the picture backbone has no weights.
    """

    model: FusionPercPretraining

    def __init__(self, config: Config) -> None:
        super().__init__(config, FusionPercPretraining(config.model, config.pretraining))
        self.objective = PretrainingObjective(config)
        self.teacher = None
        if self.model.pictured is not None:
            camera = config.model.camera
            if camera.weights == "none":
                raise ConfigError(
                    "pretraining.pictures: model.camera.weights = none teaches nothing: give weights, or set it to 0"
                )
            self.teacher = PictureTeacher(make_backbone(camera))

    def training_step(self, batch: UnlabelledBatch, batch_index: int) -> Tensor:
        config, progress = self.config.pretraining, self.global_step / self.config.train.steps
        is_unmasked = progress >= config.whole_after
        return self.logged(self.losses(batch, self.seeded(batch_index), is_unmasked=is_unmasked), len(batch))

    def validation_step(self, batch: UnlabelledBatch, batch_index: int) -> None:
        """The same batch is always hidden and mixed up in the same way."""
        losses = self.losses(batch, torch.Generator().manual_seed(batch_index))
        self.log_dict({f"val/{name}": value for name, value in losses.items()}, batch_size=len(batch), sync_dist=True)

    def losses(
        self, batch: UnlabelledBatch, generator: torch.Generator, *, is_unmasked: bool = False
    ) -> dict[str, Tensor]:
        """Hides, mixes up, encodes, predicts and compares. `generator` is of all that is random, on the CPU.

        Unmasked, no ground and no patch is hidden.
        """
        config = self.config.pretraining
        if is_unmasked:
            config = config.model_copy(update={"whole": 1.0})
        share = config.mismatched if config.wants_matching else 0.0
        mixed, is_wrong = mismatch(batch.inputs, share, generator)
        masked = mask_inputs(mixed, config, self.objective.grid, generator)
        # What is left of a sample whose wrong sensor is hidden belongs together.
        is_wrong = is_wrong & masked.inputs.present
        places_m, seen = None, None
        if self.teacher is not None and batch.inputs.cameras is not None:
            places_m = ends_of_rays(batch.measured.lidar, batch.measured.horizon_s.shape[1])
            seen = self.teacher.see(batch.inputs.cameras, places_m)
            places_m = places_m.nan_to_num()
        output = self.model(masked.inputs, batch.measured.horizon_s, places_m)
        return self.objective(
            output,
            batch.measured,
            batch.depth_m,
            masked.hidden,
            is_wrong,
            generator,
            surfaces=batch.surfaces,
            objects=batch.objects,
            is_whole=masked.is_whole,
            has_past=masked.has_past,
            seen=seen,
        )


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
