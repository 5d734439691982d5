"""One training run: a folder with everything needed to read, repeat and resume it.

RUN/config.yaml        the resolved configuration
RUN/versions.json      versions of python, torch, this package, ...
RUN/checkpoints/       last.ckpt and best.ckpt (lowest validation loss)
RUN/metrics/           metrics.csv, one row per logged step; TensorBoard's events are in RUN/tensorboard
RUN/report.json        the official scores on the held-out drives, written by tools/train.py at the end
RUN/cache/             index of the data set
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from fusionperc.config import Config, ConfigError
from fusionperc.data.loading import make_loader
from fusionperc.environment import trains_in_bf16, versions
from fusionperc.files import whole_file, write_json
from fusionperc.training.checkpoints import read_checkpoint
from fusionperc.training.finetune import Finetuning
from fusionperc.training.planning_stage import PlanningStage, planning_loader
from fusionperc.training.prior import fit_prior
from fusionperc.types import Batch

log = logging.getLogger(__name__)


def finetune(config: Config) -> Path:
    """Trains detection, planning or both as `config` says and returns the last checkpoint.

    Raises:
        ConfigError: the run folder holds a run already and `run.resume` is off, or there is nothing to resume.
    """
    trainer, start, done = start_run(config)
    rank, world_size = trainer.global_rank, trainer.world_size
    if config.train.task == "planning":
        # First, so that a wrong split is told before the long part.
        val_loader = _validation_loader(config)
        module: Finetuning = PlanningStage(config)
        train_loader = planning_loader(config, module, trainer.strategy.root_device, done, rank, world_size)
    else:
        train_loader = make_loader(
            config, config.data.train_split, training=True, start_draw=done, rank=rank, world_size=world_size
        )
        val_loader = _validation_loader(config)
        module = Finetuning(config)
    # A run that goes on has it in its checkpoint.
    if start == 0 and module.plans and module.model.planning is not None:
        fit_prior(module.model.planning, config)
    return fit(config, trainer, module, train_loader, val_loader, start)


def start_run(config: Config) -> tuple[L.Trainer, int, int]:
    """The trainer of a new or resumed run, and its steps and draws (of all processes together) that are done.

    Raises:
        ConfigError: the run folder holds a run already and `run.resume` is off, or there is nothing to resume.
    """
    start = _steps_done(config, last_checkpoint(config))
    L.seed_everything(config.train.seed, workers=False, verbose=False)
    trainer = make_trainer(config)
    return trainer, start, start * config.train.accumulate * config.data.batch_size * trainer.world_size


def last_checkpoint(config: Config) -> Path:
    return config.run.dir / "checkpoints" / "last.ckpt"


def fit(
    config: Config,
    trainer: L.Trainer,
    module: L.LightningModule,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
    start: int,
) -> Path:
    """Writes what the run folder says of the run, trains from step `start` on, and returns the last checkpoint."""
    last = last_checkpoint(config)
    with whole_file(config.run.dir / "config.yaml") as part:
        part.write_text(config.to_yaml())
    write_json(config.run.dir / "versions.json", versions())
    log.info(
        "training %s for %d steps on %s in %s: %.1f M parameters, run folder %s",
        config.model.sensors,
        config.train.steps,
        trainer.strategy.root_device.type,
        "fp32" if trainer.precision == "32-true" else "bf16",
        sum(parameter.numel() for parameter in module.parameters()) / 1e6,
        config.run.dir,
    )
    trainer.fit(module, train_loader, val_loader, ckpt_path=str(last) if start else None, weights_only=True)
    trainer.save_checkpoint(last)
    return last


def _validation_loader(config: Config) -> DataLoader[Batch]:
    return make_loader(config, config.data.split, training=False, limit=config.train.validate_samples)


def make_trainer(config: Config) -> L.Trainer:
    """The Lightning trainer of a run; it also starts under torchrun and SLURM."""
    train = config.train
    folder = config.run.dir
    validate_every = min(train.validate_every, train.steps) * train.accumulate
    accelerator = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(train.device, train.device)
    return L.Trainer(
        accelerator=accelerator,
        devices=train.devices,
        strategy="auto" if train.devices == 1 else "ddp_find_unused_parameters_true",
        precision="bf16-mixed" if trains_in_bf16(train.precision, accelerator) else "32-true",
        max_steps=train.steps,
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=train.gradient_clip,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=train.log_every,
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        logger=[
            TensorBoardLogger(str(folder), name="tensorboard", version=""),
            CSVLogger(str(folder), name="", version="metrics", flush_logs_every_n_steps=train.log_every),
        ],
        callbacks=[
            ModelCheckpoint(
                dirpath=folder / "checkpoints",
                filename="best",
                monitor="val/total",
                mode="min",
                save_top_k=1,
                enable_version_counter=False,
            ),
            ModelCheckpoint(
                dirpath=folder / "checkpoints",
                filename="last",
                every_n_train_steps=train.save_every,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
            LearningRateMonitor(logging_interval="step"),
            RichProgressBar() if sys.stdout.isatty() else ProgressLines(train.log_every),
        ],
    )


class ProgressLines(L.Callback):
    """Progress as plain lines, for logs that are no terminal."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._started_s = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started_s = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, total = trainer.global_step, int(trainer.max_steps)
        is_step_end = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not is_step_end or (step % self.every and step != total):
            return
        per_step_s = (time.monotonic() - self._started_s) / max(1, step - self._first_step)
        terms = {
            name.removeprefix("train/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("train/")
        }
        shown = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        log.info(
            "step %d/%d  %s  %.2f s/step  %.0f min left",
            step,
            total,
            shown,
            per_step_s,
            (total - step) * per_step_s / 60,
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/total")
        if loss is not None:
            log.info("step %d  validation loss %.3f", trainer.global_step, float(loss))


def _steps_done(config: Config, last: Path) -> int:
    """Optimiser steps of the run to resume, 0 for a new one."""
    if not config.run.resume:
        if last.exists():
            raise ConfigError(
                f"run.dir = {config.run.dir} holds a run already: take another folder, or run.resume=true to go on"
            )
        return 0
    if not last.exists():
        raise ConfigError(f"run.resume: nothing to resume, {last} does not exist; drop run.resume to start")
    steps = int(read_checkpoint(last)["global_step"])
    if steps >= config.train.steps:
        raise ConfigError(
            f"run.resume: {last} has done {steps} of train.steps = {config.train.steps}; raise train.steps"
        )
    return steps
