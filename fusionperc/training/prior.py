"""Fits the prior of the planning head, what the ego's motion and the command alone tell, to recorded drives.

No sensor file is read, only poses and CAN bus, so thousands of key frames are gone through hundreds of times in half a
minute.
Each sample is seen three times: with the ego's status told, with what radars or LiDAR measure, and with what can be
guessed where nothing tells.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fusionperc.config import Config
from fusionperc.data.loading import cache_folder, recorded_at_training
from fusionperc.data.sample import PAST_TIMES_S, Surroundings
from fusionperc.data.trajectory import acceleration_over_ground
from fusionperc.models.ego_prior import known_odometry, known_or
from fusionperc.models.planning import PlanningHead, present_motion, rolled_out
from fusionperc.objectives.planning import plan_error_m
from fusionperc.types import COMMANDS, MOTION_COLUMNS, EgoInputs, Odometry

log = logging.getLogger(__name__)

#: Fewer key frames with a recorded future and CAN bus are not learnt from.
LEAST_SAMPLES = 100
#: Ways in which a sample is seen.
_WAYS = 3
_BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 128, 2e-3, 1e-2
#: All key frames are seen so often, or, of many, so many are seen.
_EPOCHS, _SEEN = 300, 1_000_000
#: How far off speed (m/s), acceleration (m/s^2) and turn rate (rad/s) are, measured and guessed, standard deviations.
_MEASURED_SIGMA, _GUESSED_SIGMA = (0.02, 0.05, 0.002), (2.0, math.nan, 0.1)
#: How far off x, y (m) and yaw (rad) are that are measured of a second ago; y grows with the square of time.
_PAST_SIGMA = (0.01, 0.01, 0.001)


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
    log.info(
        "planning prior: %d key frames, %.2f m off with ego status, %.2f m with motion measured, %.2f m guessed",
        len(kept),
        *loss_m,
    )


def _fit(head: PlanningHead, items: Sequence[Surroundings], commands: Sequence[int]) -> list[float]:
    """Returns the last epoch's errors with ego status, with motion measured, guessed: metres, headings included."""
    future = torch.stack([item.ego_future_m for item in items])
    past = torch.stack([item.ego_past_m for item in items])
    status = torch.stack([item.can_bus for item in items])
    command = torch.tensor(commands)
    prior = head.prior.train().requires_grad_()
    optimizer = torch.optim.AdamW(prior.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    epochs = min(_EPOCHS, math.ceil(_SEEN / len(items)))
    steps = epochs * math.ceil(len(items) / _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LEARNING_RATE, total_steps=steps)
    share = head.told_share.detach()
    errors = torch.zeros(_WAYS)
    for _ in range(epochs):
        errors = torch.zeros(_WAYS)
        for rows in torch.split(torch.randperm(len(items)), _BATCH):
            # In a mirrored world the ego turns the other way.
            mirrored = torch.rand(len(rows)) < 0.5
            told = _told(past[rows], status[rows], command[rows], mirrored)
            truth = future[rows] * _sides(mirrored, (1.0, -1.0, -1.0))[:, None]
            untold = told.without_status()
            variants = EgoInputs.joined([told, untold, untold])
            sensed = Odometry.joined([Odometry.unknown(told.past_m), _as_measured(told, truth), _as_guessed(told)])
            known = known_odometry(variants, sensed.motion, sensed.past_m)
            start, going_on = present_motion(known.motion)
            raw = prior(variants, known) + going_on[:, :, None] * share
            plan, _ = rolled_out(raw[:, None], start, variants.heading_rad)
            error = plan_error_m(plan[:, 0], truth.repeat(_WAYS, 1, 1))
            optimizer.zero_grad()
            error.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            errors += error.detach().view(_WAYS, -1).sum(1)
    prior.requires_grad_(False).eval()
    return (errors / len(items)).tolist()


def _as_measured(told: EgoInputs, future_m: Tensor) -> Odometry:
    """What Doppler and matched sweeps tell, with their errors."""
    motion = told.status[:, MOTION_COLUMNS].clone()
    motion[:, 1] = known_or(acceleration_over_ground(told.past_m[:, -1], future_m[:, 0]), motion[:, 1])
    noise = torch.randn(len(motion), 1, 3) * torch.tensor(_PAST_SIGMA)
    age_s = torch.tensor(PAST_TIMES_S).abs()
    return Odometry(
        motion + torch.randn_like(motion) * torch.tensor(_MEASURED_SIGMA),
        told.past_m + noise * torch.stack([age_s, age_s**2, age_s], -1),
    )


def _as_guessed(told: EgoInputs) -> Odometry:
    motion = told.status[:, MOTION_COLUMNS]
    motion = motion + torch.randn_like(motion) * torch.tensor(_GUESSED_SIGMA)
    return Odometry(motion, torch.full_like(told.past_m, torch.nan))


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
