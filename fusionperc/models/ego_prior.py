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

from fusionperc.types import COMMANDS, DOPPLER_MOTION, EGO_STATUS, EgoInputs

#: Steps of a plan and poses of the past in `EgoInputs.past_m`.
NUM_STEPS, NUM_PAST = 8, 4
#: Units in which status, past poses, and speed, acceleration, turn rate are about one.
STATUS_SCALE, PAST_SCALE, MOTION_SCALE = (10.0, 2.0, 2.0, 0.3), (20.0, 2.0, 0.5), (10.0, 2.0, 0.3)
#: An acceleration (m/s^2) and a curvature (1/m) that change a turning vehicle's way about as much.
_CONTROL_SCALE = ((1.0,), (0.05,))
_HIDDEN = 128


class EgoPrior(nn.Module):
    """Command, ego status if it is told, and the ego's motion as known to (B, 2, 8) accelerations and curvatures.

    Before it is fitted it gives zeros: a vehicle that goes on as it does.
    """

    def __init__(self) -> None:
        super().__init__()
        known = len(EGO_STATUS) + 3 * NUM_PAST
        self.network = nn.Sequential(
            nn.Linear(len(DOPPLER_MOTION) + 2 * known + len(COMMANDS) + 1, _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(_HIDDEN, 2 * NUM_STEPS),
        )
        last: nn.Linear = self.network[-1]  # type: ignore[assignment]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, ego: EgoInputs, motion: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 2 steps"]:
        """Raw controls.

        Args:
            ego: what the ego is told; past poses are turned into the vehicle's own axes.
            motion: `DOPPLER_MOTION` as told, or else as sensed.
        """
        cos, sin = ego.heading_rad.cos()[:, None], ego.heading_rad.sin()[:, None]
        x, y, yaw = ego.past_m.unbind(-1)
        past = torch.stack([cos * x + sin * y, cos * y - sin * x, yaw - ego.heading_rad[:, None]], -1)
        values = torch.cat(
            [ego.status / motion.new_tensor(STATUS_SCALE), (past / motion.new_tensor(PAST_SCALE)).flatten(1)], 1
        )
        command = F.one_hot(ego.command % (len(COMMANDS) + 1), len(COMMANDS) + 1).to(values.dtype)
        is_known = values.isfinite().to(values.dtype)
        known_motion = motion / motion.new_tensor(MOTION_SCALE)
        raw: Tensor = self.network(torch.cat([known_motion, values.nan_to_num(0.0, 0.0, 0.0), is_known, command], 1))
        controls: Tensor = raw.view(-1, 2, NUM_STEPS).float() * motion.new_tensor(_CONTROL_SCALE)
        return controls
