"""The planning objective: imitation, the ego's speed, agents' futures, drivable area, collision, leaving the road,
comfort.

Source: winner-takes-all as in MultiPath (arXiv 1910.05449) and VAD (arXiv 2303.12077), whose constraints against agents
and map these are; deviates: the ego and the agents are oriented boxes, an agent is kept away from only where the
recorded drive kept away from its prediction too, and imitation is mostly the expected error of the alternatives as they
are judged, only in part the winner's: one of them is driven.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fusionperc.config import ModelConfig, ObjectiveConfig, PlanningObjectiveConfig
from fusionperc.geometry import ego_corners, wrap_angle
from fusionperc.models.agent_motion import MARGIN_M, ExpectedBoxes, MotionOutput
from fusionperc.models.detection import DetectionOutput
from fusionperc.models.ego_prior import STEP_S
from fusionperc.models.planning import PlanningOutput
from fusionperc.objectives.matching import MatchingCosts, match_queries
from fusionperc.types import MOTION_COLUMNS, Targets

#: The road's rim is to stay this far off.
ROAD_MARGIN_M = 0.2
#: Share of the winner in the imitation loss; the rest is the expected error.
WINNER_SHARE = 0.2
#: A radian of heading counts as so many metres.
YAW_M_PER_RAD = 2.0
#: Errors of the sensed speed (m/s), acceleration (m/s^2) and turn rate (rad/s) that weigh alike.
EGO_UNITS = (1.0, 1.0, 0.1)
#: What passengers hardly feel: m/s^2 along and across, m/s^3.
CALM_MPS2, CALM_LATERAL_MPS2, CALM_JERK_MPS3 = 2.0, 3.0, 3.0


class PlanningObjective:
    """Turns a planning head's output and a batch's targets into named losses.

    Args:
        weights: of the planning losses.
        objective: matching costs of the detection queries.
        model: the network's configuration (its grid).
    """

    def __init__(self, weights: PlanningObjectiveConfig, objective: ObjectiveConfig, model: ModelConfig) -> None:
        self.weights, self.grid = weights, model.grid.grid()
        self.costs = MatchingCosts(
            objective.match_class, objective.match_center, objective.match_box, objective.match_reach_m
        )

    def __call__(self, output: PlanningOutput, detection: DetectionOutput, targets: Targets) -> dict[str, Tensor]:
        """Losses by name, unweighted but for ``plan_total``, the weighted sum to minimise.

        Samples and steps whose future is not recorded teach nothing of it.

        Raises:
            ValueError: the targets hold none for planning.
        """
        if targets.planning is None:
            raise ValueError("PlanningObjective: the targets hold no `planning`; load them with model.planning set")
        # A sample's variants, with and without the ego's status, have one truth.
        variants = output.waypoints.shape[0] // targets.ego_future_m.shape[0]
        future = targets.ego_future_m[:, : output.waypoints.shape[2]].repeat(variants, 1, 1)
        known = future.isfinite().all(-1)
        winner, imitation = _imitation(output.waypoints, output.mode_logits, future, known)
        chosen = output.waypoints[torch.arange(len(winner)), winner]
        recorded = known.any(1)
        mode = F.cross_entropy(output.mode_logits, winner, reduction="none")
        motion, motion_mode = self._motion(output.motion, detection, targets)
        weight = self.weights
        terms = {
            "imitation": (weight.imitation, imitation),
            "mode": (weight.mode, (mode * recorded).sum() / recorded.sum().clamp(min=1)),
            "ego_motion": (weight.ego_motion, _ego_motion(output.guessed_motion, targets)),
            "motion": (weight.motion, motion),
            "motion_mode": (weight.motion_mode, motion_mode),
            "map": (weight.map, _map(output.map_logits, targets.planning.off_road_m)),
            "collision": (weight.collision, self._collision(chosen, output.motion, detection, future, known)),
            "off_road": (weight.off_road, self._off_road(chosen, targets.planning.off_road_m, future, known)),
            "comfort": (weight.comfort, _comfort(output, winner)),
        }
        losses = {f"plan_{name}": value for name, (_, value) in terms.items()}
        losses["plan_total"] = weight.total * torch.stack([factor * value for factor, value in terms.values()]).sum()
        return losses

    def _motion(self, motion: MotionOutput, detection: DetectionOutput, targets: Targets) -> tuple[Tensor, Tensor]:
        """Winner-takes-all on the queries that are matched to annotated objects: metres, and which alternative."""
        assert targets.planning is not None
        agents = motion.place_m.shape[1]
        boxes = detection.final_boxes()
        logits = detection.layers[-1].class_logits if detection.layers else _peak_logits(detection)
        places, scores, wanted = [], [], []
        for index, truth in enumerate(targets.boxes):
            query, box = match_queries(
                logits[index, :agents], boxes.center_m[index, :agents], boxes.log_size[index, :agents],
                boxes.sin_cos[index, :agents], truth, self.costs,
            )  # fmt: skip
            places.append(motion.place_m[index, query])
            scores.append(motion.logits[index, query])
            wanted.append(targets.planning.agent_future_m[index][box][..., :2])
        place, score, future = torch.cat(places), torch.cat(scores), torch.cat(wanted)
        future = future[:, : place.shape[2]]
        known = future.isfinite().all(-1)
        kept = known.any(1)
        if not bool(kept.any()):
            return place.sum() * 0, score.sum() * 0
        place, score, future, known = place[kept], score[kept], future[kept], known[kept]
        error = _distance(place - future.nan_to_num()[:, None])
        error = (error * known[:, None]).sum(-1) / known.sum(-1)[:, None]
        best = error.detach().argmin(1)
        return error[torch.arange(len(best)), best].mean(), F.cross_entropy(score, best)

    def _collision(
        self,
        plan: Float[Tensor, "batch steps 3"],
        motion: MotionOutput,
        detection: DetectionOutput,
        future: Float[Tensor, "batch steps 3"],
        known: Bool[Tensor, "batch steps"],
    ) -> Tensor:
        """Mean over steps of how much nearer than the margin the nearest agents' predicted boxes come, metres."""
        boxes = ExpectedBoxes.of(motion, detection)
        gap = boxes.gaps_m(plan).amax(-1)
        # Where the recorded drive came as near, the prediction or the box is wrong, or it has to be near.
        true_gap = boxes.gaps_m(future.nan_to_num()).amax(-1)
        is_sure = (boxes.sureness > 0).repeat(plan.shape[0] // len(boxes.sureness), 1)[:, :, None]
        counted = is_sure & known[:, None] & (true_gap > MARGIN_M)
        return (F.relu(MARGIN_M - gap) * counted).sum() / known.sum().clamp(min=1)

    def _off_road(
        self,
        plan: Float[Tensor, "batch steps 3"],
        off_road_m: Float[Tensor, "batch x y"],
        future: Float[Tensor, "batch steps 3"],
        known: Bool[Tensor, "batch steps"],
    ) -> Tensor:
        """Mean over steps and corners of how far the ego's box leaves the drivable area further than it did, metres."""
        off_road_m = off_road_m.repeat(plan.shape[0] // off_road_m.shape[0], 1, 1)
        has_map = off_road_m.isfinite().flatten(1).all(1)
        area = off_road_m.nan_to_num()
        beyond = self.grid.sampled(area, ego_corners(plan)) - ROAD_MARGIN_M
        true = self.grid.sampled(area, ego_corners(future.nan_to_num()))
        counted = has_map[:, None, None] & known[..., None] & (true <= ROAD_MARGIN_M)
        return (F.relu(beyond) * counted).sum() / counted.sum().clamp(min=1)


def _distance(offset: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape"]:
    """Euclidean length, whose gradient is finite at zero."""
    return (offset.square().sum(-1) + 1e-6).sqrt()


def plan_error_m(plan: Float[Tensor, "*batch steps 3"], future: Float[Tensor, "*batch steps 3"]) -> Tensor:
    """Mean distance over the steps that are recorded (not NaN), headings counted as `YAW_M_PER_RAD`; 0 if none is."""
    known, truth = future.isfinite().all(-1), future.nan_to_num()
    error = _distance(plan[..., :2] - truth[..., :2])
    error = error + YAW_M_PER_RAD * wrap_angle(plan[..., 2] - truth[..., 2]).abs()
    return (error * known).sum(-1) / known.sum(-1).clamp(min=1)


def _imitation(
    waypoints: Float[Tensor, "batch modes steps 3"],
    mode_logits: Float[Tensor, "batch modes"],
    future: Float[Tensor, "batch steps 3"],
    known: Bool[Tensor, "batch steps"],
) -> tuple[Tensor, Tensor]:
    """The nearest alternative of each sample, and the mean error (m, heading included): its own, and the expected."""
    error = plan_error_m(waypoints, future[:, None])
    winner = error.detach().argmin(1)
    best = error[torch.arange(len(winner)), winner]
    expected = (mode_logits.softmax(1) * error).sum(1)
    loss = WINNER_SHARE * best + (1 - WINNER_SHARE) * expected
    return winner, loss.sum() / known.any(1).sum().clamp(min=1)


def _ego_motion(sensed: Float[Tensor, "batch 3"], targets: Targets) -> Tensor:
    """L1 of the ego's motion where it is sensed and the CAN bus has it, each column in its unit of `EGO_UNITS`."""
    truth = targets.can_bus[:, MOTION_COLUMNS]
    known = truth.isfinite() & sensed.isfinite()
    error = (sensed.nan_to_num() - truth.nan_to_num()).abs() / sensed.new_tensor(EGO_UNITS)
    return (error * known).sum() / known.sum().clamp(min=1)


def _map(logits: Float[Tensor, "batch x y"], off_road_m: Float[Tensor, "batch x y"]) -> Tensor:
    """Binary cross-entropy of the drivable area where there is a map."""
    known = off_road_m.isfinite()
    loss = F.binary_cross_entropy_with_logits(logits, (off_road_m == 0).float(), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def _comfort(output: PlanningOutput, winner: Tensor) -> Tensor:
    """How far accelerations and jerks of the alternative that won exceed what passengers hardly feel."""
    rows = torch.arange(len(winner))
    along = output.acceleration_mps2[rows, winner]
    plan = F.pad(output.waypoints[rows, winner], (0, 0, 1, 0))
    step = _distance(plan[:, 1:, :2] - plan[:, :-1, :2])
    turn = wrap_angle(plan[:, 2:, 2] - plan[:, 1:-1, 2])
    across = turn * step[:, 1:] / STEP_S**2
    jerk = (along[:, 1:] - along[:, :-1]) / STEP_S
    excess = (
        F.relu(along.abs() - CALM_MPS2).mean()
        + F.relu(across.abs() - CALM_LATERAL_MPS2).mean()
        + F.relu(jerk.abs() - CALM_JERK_MPS3).mean()
    )
    return excess


def _peak_logits(detection: DetectionOutput) -> Float[Tensor, "batch queries classes"]:
    """The heatmap at each query's cell."""
    flat = detection.heatmap_logits.flatten(2).transpose(1, 2)
    return flat.gather(1, detection.query_cell[..., None].expand(-1, -1, flat.shape[-1]))
