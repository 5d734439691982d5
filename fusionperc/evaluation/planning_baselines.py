"""What a planner must beat: plans that look at nothing.

Each takes the ego's own state only. Source: constant turn rate and acceleration, Schubert et al., "Comparison and
Evaluation of Advanced Motion Models for Vehicle Tracking" (FUSION 2008); AD-MLP, arXiv 2305.10430.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fusionperc.data.sample import FUTURE_TIMES_S, Surroundings
from fusionperc.evaluation.planning_comfort import EgoState
from fusionperc.evaluation.planning_scene import Array
from fusionperc.types import COMMANDS

_SUBSTEPS = 50
#: The multilayer perceptron and its training.
_HIDDEN, _EPOCHS, _BATCH, _LEARNING_RATE = 128, 200, 128, 2e-3
#: With fewer key frames to learn from it is not trained.
LEAST_SAMPLES = 100
#: Units in which what the perceptron is given is about one: speed, accelerations, turn rate; x, y, yaw of the past.
_STATUS_SCALE, _PAST_SCALE, _PLAN_SCALE = (10.0, 2.0, 2.0, 0.3), (20.0, 2.0, 0.5), (20.0, 5.0, 0.5)


def standing_still(state: EgoState) -> Array:
    """(8, 3) where it is."""
    return np.zeros((len(FUTURE_TIMES_S), 3))


def constant_velocity(state: EgoState) -> Array:
    """(8, 3) straight on at the present speed."""
    time = np.array(FUTURE_TIMES_S)
    return np.stack([state.speed_mps * time, np.zeros_like(time), np.zeros_like(time)], 1)


def constant_turn_and_acceleration(state: EgoState) -> Array:
    """(8, 3) with the present turn rate and acceleration; a vehicle that has braked to a standstill stays there.

    The turn rate belongs to the speed: the curvature is kept, so that a standing vehicle does not turn.
    """
    horizon = FUTURE_TIMES_S[-1]
    count = len(FUTURE_TIMES_S) * _SUBSTEPS
    middle = (np.arange(count) + 0.5) * horizon / count
    speed = state.speed_mps + state.acceleration_mps2 * middle
    # Not past the standstill, in whichever direction it went.
    speed = np.maximum(speed, 0.0) if state.speed_mps >= 0 else np.minimum(speed, 0.0)
    curvature = state.yaw_rate_radps / state.speed_mps if abs(state.speed_mps) > 0.5 else 0.0
    way = speed * horizon / count
    yaw = np.concatenate([[0.0], np.cumsum(curvature * way)])
    heading = (yaw[1:] + yaw[:-1]) / 2
    x, y = np.cumsum(way * np.cos(heading)), np.cumsum(way * np.sin(heading))
    last = np.arange(1, len(FUTURE_TIMES_S) + 1) * _SUBSTEPS - 1
    return np.stack([x[last], y[last], yaw[1:][last]], 1)


BASELINES: dict[str, Callable[[EgoState], Array]] = {
    "standing still": standing_still,
    "constant velocity": constant_velocity,
    "constant turn, accel.": constant_turn_and_acceleration,
}


class EgoStatusPlanner:
    """AD-MLP: a perceptron from past poses, speed, acceleration, turn rate and command to the plan.

    Deviates from its source in size and training (a few hundred key frames, not 28,000); unknown values are zero with a
    flag each.

    Args:
        train: key frames to learn from, of drives that are not scored.
        commands: of each, as indices into `COMMANDS`.
        seed: of weights and order.

    Raises:
        ValueError: fewer than `LEAST_SAMPLES` key frames with a recorded future.
    """

    def __init__(self, train: Sequence[Surroundings], commands: Sequence[int], seed: int = 0) -> None:
        future = torch.stack([item.ego_future_m for item in train]) if train else torch.zeros(0, 8, 3)
        kept = future[:, 0].isfinite().all(-1)
        if int(kept.sum()) < LEAST_SAMPLES:
            raise ValueError(
                f"the ego-status perceptron learns from at least {LEAST_SAMPLES} key frames of data.train_split, "
                f"{int(kept.sum())} are there"
            )
        features = _features(train, commands)[kept]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outputs = len(FUTURE_TIMES_S) * 3
            self.network = nn.Sequential(
                nn.Linear(features.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(),
                nn.Linear(_HIDDEN, outputs),
            )  # fmt: skip
            self._fit(features, future[kept])

    def _fit(self, features: Tensor, future: Tensor) -> None:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-2)
        steps = _EPOCHS * -(-len(features) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LEARNING_RATE, total_steps=steps)
        scaled, known = future / torch.tensor(_PLAN_SCALE), future.isfinite().all(-1)
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(features)), _BATCH):
                guess = self.network(features[rows]).view(-1, len(FUTURE_TIMES_S), 3)
                loss = nn.functional.smooth_l1_loss(
                    guess[known[rows]], scaled[rows][known[rows]], beta=0.05, reduction="mean"
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()

    @torch.no_grad()
    def plan(self, surroundings: Surroundings, command: int) -> Array:
        """(8, 3) for one key frame."""
        plan = self.network(_features([surroundings], [command])).view(len(FUTURE_TIMES_S), 3)
        scaled: Array = (plan * torch.tensor(_PLAN_SCALE)).double().numpy()
        return scaled


def _features(items: Sequence[Surroundings], commands: Sequence[int]) -> Tensor:
    status = torch.stack([item.can_bus for item in items]) / torch.tensor(_STATUS_SCALE)
    past = (torch.stack([item.ego_past_m for item in items]) / torch.tensor(_PAST_SCALE)).flatten(1)
    values = torch.cat([status, past], 1)
    known = values.isfinite()
    # A column more for an unknown command.
    command = nn.functional.one_hot(torch.tensor(commands) % (len(COMMANDS) + 1), len(COMMANDS) + 1)
    return torch.cat([values.nan_to_num(), known.float(), command.float()], 1)
