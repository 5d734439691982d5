"""Fits the prior of the planning head, what the ego's motion and the command alone tell, to recorded drives.

No sensor file is read, only poses and CAN bus, so thousands of key frames are gone through a hundred times in seconds.
Half of the samples are as if no ego status were told: their motion is as inexact as Doppler tells it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from fusionperc.config import Config
from fusionperc.data.loading import cache_folder, recorded_at_training
from fusionperc.data.sample import Surroundings
from fusionperc.models.planning import PlanningHead, present_motion, rolled_out
from fusionperc.objectives.planning import plan_error_m
from fusionperc.types import COMMANDS, MOTION_COLUMNS, EgoInputs

log = logging.getLogger(__name__)

#: Fewer key frames with a recorded future and CAN bus are not learnt from.
LEAST_SAMPLES = 100
_EPOCHS, _BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 100, 128, 2e-3, 1e-2
#: How far off Doppler tells speed (m/s), acceleration (m/s^2) and turn rate (rad/s), standard deviations.
_SENSED_SIGMA = (0.03, 0.15, 0.01)


def fit_prior(head: PlanningHead, config: Config) -> None:
    """Fits `head.prior` to the drives that `config` trains on; leaves it as it is where these are too few."""
    items = recorded_at_training(config.data, cache_folder(config))
    kept = [item for item in items if bool(item.ego_future_m[0].isfinite().all() & item.can_bus.isfinite().all())]
    if len(kept) < LEAST_SAMPLES:
        log.info(
            "planning prior: not fitted, %d key frames have a future and CAN bus, %d are needed",
            len(kept),
            LEAST_SAMPLES,
        )
        return
    # The order of what is drawn elsewhere does not depend on this.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        loss_m = _fit(head, kept, [item.command(config.data.command) for item in kept])
    log.info("planning prior: %d key frames, %.2f m off with ego status, %.2f m without", len(kept), *loss_m)


def _fit(head: PlanningHead, items: Sequence[Surroundings], commands: Sequence[int]) -> tuple[float, float]:
    """Returns the last epoch's errors with and without ego status: metres, headings included."""
    future = torch.stack([item.ego_future_m for item in items])
    past = torch.stack([item.ego_past_m for item in items])
    status = torch.stack([item.can_bus for item in items])
    command = torch.tensor(commands)
    prior = head.prior.train().requires_grad_()
    optimizer = torch.optim.AdamW(prior.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    steps = _EPOCHS * -(-len(items) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LEARNING_RATE, total_steps=steps)
    share = head.told_share.detach()
    errors = torch.zeros(2)
    for _ in range(_EPOCHS):
        errors = torch.zeros(2)
        for rows in torch.split(torch.randperm(len(items)), _BATCH):
            # In a mirrored world the ego turns the other way.
            mirrored = torch.rand(len(rows)) < 0.5
            told = _told(past[rows], status[rows], command[rows], mirrored)
            sensed = told.status[:, MOTION_COLUMNS] + torch.randn(len(rows), 3) * torch.tensor(_SENSED_SIGMA)
            both = told.and_without_status()
            motion, start, going_on = present_motion(both.status, sensed.repeat(2, 1))
            raw = prior(both, motion) + going_on[:, :, None] * share
            plan, _ = rolled_out(raw[:, None], start, both.heading_rad)
            truth = future[rows] * _sides(mirrored, (1.0, -1.0, -1.0))[:, None]
            error = plan_error_m(plan[:, 0], truth.repeat(2, 1, 1))
            optimizer.zero_grad()
            error.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            errors += error.detach().view(2, -1).sum(1)
    prior.requires_grad_(False)
    with_status, without = (errors / len(items)).tolist()
    return with_status, without


def _told(past: Tensor, status: Tensor, command: Tensor, mirrored: Tensor) -> EgoInputs:
    """What the ego is told, some of it in a mirrored world."""
    right, left = COMMANDS.index("right"), COMMANDS.index("left")
    swapped = torch.where(command == right, left, torch.where(command == left, right, command))
    return EgoInputs(
        command=torch.where(mirrored, swapped, command),
        heading_rad=torch.zeros(len(past)),
        status=status * _sides(mirrored, (1.0, 1.0, -1.0, -1.0)),
        past_m=past * _sides(mirrored, (1.0, -1.0, -1.0))[:, None],
        drivable=torch.full((len(past), 1, 1), torch.nan),
    )


def _sides(mirrored: Tensor, signs: tuple[float, ...]) -> Tensor:
    return torch.where(mirrored[:, None], torch.tensor(signs), 1.0)
