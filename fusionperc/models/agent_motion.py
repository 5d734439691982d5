"""Where the detected agents go: the surest detections as tokens of the planning head, with their predicted motion.

Source: UniAD (arXiv 2212.10156) for the motion of agents from detection queries; deviates: alternatives are offsets
from going straight on at the detected velocity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionperc.config import PlanningHeadConfig
from fusionperc.geometry import EGO_SIZE_M, box_gaps_m, ego_center
from fusionperc.models.detection import DetectionOutput
from fusionperc.models.ego_prior import NUM_STEPS, STEP_S
from fusionperc.types import CLASSES

#: Only what is detected this surely is kept away from, and only if it can move by itself.
SURE_SCORE = 0.3
MOVABLE = tuple(index for index, name in enumerate(CLASSES) if name not in ("traffic_cone", "barrier"))
#: It is to stay this far off a plan.
MARGIN_M = 0.5
#: Units in which what tokens are made of is about one.
_SPEED_MPS, _DISTANCE_M = 10.0, 20.0


@dataclass(frozen=True)
class MotionOutput:
    """Futures of the surest agents, the first N of the detection queries.

    Attributes:
        place_m: (B, N, K, 8, 2) x, y at 0.5, 1.0, ... s in each of K alternatives.
        logits: (B, N, K).
        score: (B, N) of the detections, without gradient.
    """

    place_m: Tensor
    logits: Tensor
    score: Tensor

    def likeliest_m(self) -> Float[Tensor, "batch agents steps 2"]:
        """The alternative of the highest logit."""
        index = self.logits.argmax(-1)[:, :, None, None, None]
        return self.place_m.gather(2, index.expand(-1, -1, 1, *self.place_m.shape[3:])).squeeze(2)


@dataclass(frozen=True)
class ExpectedBoxes:
    """The agents' boxes at the steps of a plan in their likeliest future, without gradient.

    Attributes:
        place_m: (B, N, 8, 2).
        yaw_rad, size_m: (B, N), (B, N, 3) as detected.
        sureness: (B, N) the score, 0 of what is not sure or cannot move.
    """

    place_m: Tensor
    yaw_rad: Tensor
    size_m: Tensor
    sureness: Tensor

    @classmethod
    def of(cls, motion: MotionOutput, detection: DetectionOutput) -> ExpectedBoxes:
        agents = slice(0, motion.place_m.shape[1])
        boxes, kind = detection.final_boxes().detach()[:, agents], detection.query_class[:, agents]
        is_sure = torch.isin(kind, torch.tensor(MOVABLE, device=kind.device)) & (motion.score > SURE_SCORE)
        place_m = motion.likeliest_m().detach()
        return cls(place_m, boxes.yaw_rad, boxes.size_lwh_m, motion.score.masked_fill(~is_sure, 0.0))

    def gaps_m(self, plan: Float[Tensor, "batch steps 3"]) -> Float[Tensor, "batch agents steps 2"]:
        """How far the ego's box on G variants of a plan, all samples of a variant together, is from each; see
        `box_gaps_m`."""
        variants = plan.shape[0] // self.place_m.shape[0]
        yaw, size = self.yaw_rad.repeat(variants, 1)[..., None], self.size_m.repeat(variants, 1, 1)[:, :, None]
        return box_gaps_m(ego_center(plan)[:, None], EGO_SIZE_M, self.place_m.repeat(variants, 1, 1, 1), yaw, size)


class AgentMotion(nn.Module):
    """The surest detections as tokens, with their futures in K alternatives."""

    def __init__(self, config: PlanningHeadConfig, query_channels: int) -> None:
        super().__init__()
        channels = config.channels
        self.agents, self.modes = config.agents, config.motion_modes
        self.content = nn.Linear(query_channels, channels)
        self.state = nn.Sequential(nn.Linear(14, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))
        self.class_embedding = nn.Embedding(len(CLASSES), channels)
        self.motion = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, self.modes * (2 * NUM_STEPS + 1)),
        )
        self.future = nn.Linear(2 * NUM_STEPS, channels)

    def forward(
        self, detection: DetectionOutput
    ) -> tuple[Float[Tensor, "batch agents out"], MotionOutput, Bool[Tensor, "batch agents"]]:
        """Tokens, motion, and which tokens are none (no peak of the heatmap)."""
        first = slice(0, self.agents)
        boxes = detection.final_boxes().detach()[:, first]
        score = detection.final_scores().detach()[:, first]
        state = torch.cat(
            [
                placed(boxes.center_m[..., :2]),
                boxes.velocity_mps / _SPEED_MPS,
                boxes.log_size,
                boxes.sin_cos,
                score[..., None],
            ],
            -1,
        )
        tokens = self.content(detection.query_content[:, first]) + self.state(state)
        tokens = tokens + self.class_embedding(detection.query_class[:, first])
        raw = self.motion(tokens).float().unflatten(-1, (self.modes, 2 * NUM_STEPS + 1))
        # Alternatives differ from going straight on at the detected velocity; later steps may differ more.
        time = torch.arange(1, NUM_STEPS + 1, device=raw.device) * STEP_S
        straight = boxes.center_m[..., None, :2] + boxes.velocity_mps[..., None, :] * time[:, None]
        offset = raw[..., :-1].unflatten(-1, (NUM_STEPS, 2)) * time[:, None]
        motion = MotionOutput(straight[:, :, None] + offset, raw[..., -1], score)
        way = (motion.likeliest_m().detach() - boxes.center_m[..., None, :2]) / _DISTANCE_M
        return tokens + self.future(way.flatten(2)), motion, detection.query_score[:, first] <= 0


def placed(xy_m: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 6"]:
    """A place as numbers of about one: coordinates, and sines that tell what is near apart."""
    scaled = xy_m / _DISTANCE_M
    return torch.cat([scaled, torch.sin(3 * scaled), torch.cos(3 * scaled)], -1)
