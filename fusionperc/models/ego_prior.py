"""What the ego's motion and the driving command alone tell of the way it will go.

A small perceptron that looks at nothing, as AD-MLP: its plan is where the planning head's plans start, and what sensors
show corrects it. It is learnt from recorded drives' poses alone, in seconds, before anything else
(`training/prior.py`): the few thousand samples that a network sees in an hour on two cores are too few for it.

Source: AD-MLP (arXiv 2305.10430) for its inputs; deviates: it gives controls of a rolling vehicle, and without ego
status it starts with what the sensors tell of the ego's motion.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fusionperc.types import COMMANDS, EGO_MOTION, EGO_STATUS, MOTION_COLUMNS, EgoInputs, Odometry

#: Steps of a plan and poses of the past in `EgoInputs.past_m`.
NUM_STEPS, NUM_PAST = 8, 4
#: Between waypoints, at 0.5, 1.0, ... 4.0 s: nuScenes' protocols score six, NAVSIM's eight.
STEP_S = 0.5
#: Units in which status, past poses, and speed, acceleration, turn rate are about one.
STATUS_SCALE, PAST_SCALE, MOTION_SCALE = (10.0, 2.0, 2.0, 0.3), (20.0, 2.0, 0.5), (10.0, 2.0, 0.3)
#: An acceleration (m/s^2) and a curvature (1/m) that change a turning vehicle's way about as much.
_CONTROL_SCALE = ((1.0,), (0.05,))
_HIDDEN, _DROPOUT = 256, 0.1
#: Columns of `ego_values`.
NUM_EGO_VALUES = 2 * (len(EGO_STATUS) + len(EGO_MOTION) + 3 * NUM_PAST)


def known_or(values: Float[Tensor, "*shape"], others: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values, the others where they are NaN."""
    return torch.where(values.isfinite(), values.to(others.dtype), others)


def known_odometry(ego: EgoInputs, motion: Float[Tensor, "batch 3"], past_m: Float[Tensor, "batch past 3"]) -> Odometry:
    """How the ego moves and came here as it is told, else as it is sensed, in the vehicle's own axes.

    Args:
        ego: what is told; its past poses are in the frame of the inputs.
        motion, past_m: what is sensed, as in `Odometry`.
    """
    cos, sin = ego.heading_rad.cos()[:, None], ego.heading_rad.sin()[:, None]
    x, y, yaw = ego.past_m.unbind(-1)
    told_m = torch.stack([cos * x + sin * y, cos * y - sin * x, yaw - ego.heading_rad[:, None]], -1)
    return Odometry(known_or(ego.status[:, MOTION_COLUMNS], motion), known_or(told_m, past_m))


def ego_values(ego: EgoInputs, known: Odometry) -> Float[Tensor, "batch values"]:
    """All that is known of the ego as numbers of about one, zero where it is not; and which is."""
    values = torch.cat(
        [
            ego.status / known.motion.new_tensor(STATUS_SCALE),
            known.motion / known.motion.new_tensor(MOTION_SCALE),
            (known.past_m / known.motion.new_tensor(PAST_SCALE)).flatten(1),
        ],
        1,
    )
    return torch.cat([values.nan_to_num(0.0, 0.0, 0.0), values.isfinite().to(values.dtype)], 1)


class EgoPrior(nn.Module):
    """Command, ego status if it is told, and how the ego moves to (B, 2, 8) accelerations and curvatures.

    Before it is fitted it gives zeros: a vehicle that goes on as it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(NUM_EGO_VALUES + len(COMMANDS) + 1, _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(_DROPOUT),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(_DROPOUT),
            nn.Linear(_HIDDEN, 2 * NUM_STEPS),
        )
        last: nn.Linear = self.network[-1]  # type: ignore[assignment]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, ego: EgoInputs, known: Odometry) -> Float[Tensor, "batch 2 steps"]:
        """Raw controls.

        Args:
            ego: what the ego is told.
            known: as `known_odometry`.
        """
        values = ego_values(ego, known)
        command = F.one_hot(ego.command % (len(COMMANDS) + 1), len(COMMANDS) + 1).to(values.dtype)
        raw: Tensor = self.network(torch.cat([values, command], 1))
        controls: Tensor = raw.view(-1, 2, NUM_STEPS).float() * values.new_tensor(_CONTROL_SCALE)
        return controls
