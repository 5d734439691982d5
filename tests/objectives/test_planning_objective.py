"""Planning losses against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fusionperc.config import ModelConfig, ObjectiveConfig, PlanningObjectiveConfig
from fusionperc.models.agent_motion import MARGIN_M, MotionOutput
from fusionperc.models.boxes import BoxParameters
from fusionperc.models.detection import DetectionOutput, QueryPredictions
from fusionperc.models.planning import PlanningOutput
from fusionperc.objectives.planning import WINNER_SHARE, PlanningObjective
from fusionperc.types import Boxes, PlanningTargets, Targets

MODEL = ModelConfig.model_validate({"grid": {"range_m": 51.2, "cell_m": 1.6}})
OBJECTIVE = PlanningObjective(PlanningObjectiveConfig(), ObjectiveConfig(), MODEL)
TIME = torch.arange(1, 9) * 0.5


def straight(speed: float) -> Tensor:
    return torch.stack([speed * TIME, torch.zeros(8), torch.zeros(8)], -1)


def agent(x: float, y: float, velocity: tuple[float, float] = (0.0, 0.0), score: float = 0.9) -> tuple[Boxes, Tensor]:
    """A car 4 x 2 m along x, and its places (8, 2)."""
    boxes = Boxes(
        center_m=torch.tensor([[x, y, 0.8]]),
        size_lwh_m=torch.tensor([[4.0, 2.0, 1.5]]),
        yaw_rad=torch.zeros(1),
        velocity_mps=torch.tensor([velocity]),
        class_index=torch.zeros(1, dtype=torch.int64),
        attribute_index=torch.zeros(1, dtype=torch.int64),
    )
    return boxes, torch.tensor([x, y]) + torch.tensor(velocity) * TIME[:, None]


def detection(boxes: Boxes, score: float = 0.9) -> DetectionOutput:
    parameters = BoxParameters(
        center_m=boxes.center_m[None],
        log_size=boxes.size_lwh_m.log()[None],
        sin_cos=torch.stack([boxes.yaw_rad.sin(), boxes.yaw_rad.cos()], -1)[None],
        velocity_mps=boxes.velocity_mps[None],
        attribute_logits=torch.zeros(1, len(boxes), 8),
    )
    logits = torch.full((1, len(boxes), 10), -5.0)
    logits[..., 0] = 5.0
    query = torch.zeros(1, len(boxes), dtype=torch.int64)
    scores = torch.full((1, len(boxes)), score)
    layers = [QueryPredictions(logits, parameters)]
    return DetectionOutput(torch.zeros(1, 10, 4, 4), parameters, query, query, scores, layers, torch.zeros(1, 1, 4))


def output(plans: Tensor, places: Tensor, score: float = 0.9) -> PlanningOutput:
    """Plans (M, 8, 3); one agent at places (K, 8, 2)."""
    return PlanningOutput(
        waypoints=plans[None],
        acceleration_mps2=torch.zeros(1, len(plans), 8),
        mode_logits=torch.zeros(1, len(plans)),
        controls=torch.zeros(1, len(plans), 2, 8),
        start_mps=torch.tensor([4.0]),
        heading_rad=torch.zeros(1),
        guessed_motion=torch.tensor([[4.0, 0.5, 0.1]]),
        sensed_motion=torch.tensor([[4.0, 0.5, 0.1]]),
        motion=MotionOutput(places[None, None], torch.zeros(1, 1, len(places)), torch.tensor([[score]])),
        map_logits=torch.zeros(1, 64, 64),
        road=torch.full((1, 64, 64), 0.5),
    )


def targets(future: Tensor, boxes: Boxes, agent_future: Tensor, off_road: Tensor | None = None) -> Targets:
    yaw = torch.zeros(8, 1)
    return Targets(
        boxes=[boxes],
        num_points=[torch.ones(len(boxes), 2, dtype=torch.int64)],
        depth_m=None,
        ego_past_m=torch.zeros(1, 4, 3),
        ego_future_m=future[None],
        command=torch.zeros(1, dtype=torch.int64),
        can_bus=torch.tensor([[5.5, 0.0, 0.0, 0.0]]),
        is_labelled=torch.ones(1, dtype=torch.bool),
        planning=PlanningTargets(
            [torch.cat([agent_future, yaw], -1)[None]],
            torch.full((1, 64, 64), float("nan")) if off_road is None else off_road[None],
        ),
    )


def losses(
    plans: Tensor, future: Tensor, x: float = 30.0, y: float = 10.0, off_road: Tensor | None = None
) -> dict[str, Tensor]:
    boxes, places = agent(x, y)
    return OBJECTIVE(output(plans, places[None]), detection(boxes), targets(future, boxes, places, off_road))


def test_the_nearest_plan_and_the_expected_error_are_taught() -> None:
    """Beside the truth by 3-4-5 m everywhere, and by 1 m: the second wins, both are as likely."""
    beside = straight(4.0) + torch.tensor([3.0, 4.0, 0.0])
    near = straight(4.0) + torch.tensor([0.0, 1.0, 0.0])
    found = losses(torch.stack([beside, near]), straight(4.0))
    expected = WINNER_SHARE * 1.0 + (1 - WINNER_SHARE) * 3.0
    assert float(found["plan_imitation"]) == pytest.approx(expected, abs=1e-4)
    assert float(found["plan_mode"]) == pytest.approx(math.log(2))
    # 1.5 m/s, 0.5 m/s^2 and 0.1 rad/s beside the CAN bus.
    assert float(found["plan_ego_motion"]) == pytest.approx((1.5 + 0.5 + 1.0) / 3)


def test_unrecorded_steps_teach_nothing() -> None:
    future = straight(4.0)
    future[4:] = float("nan")
    plan = straight(4.0) + torch.tensor([0.0, 1.0, 0.0])
    plan[4:] += 50.0
    assert float(losses(plan[None], future)["plan_imitation"]) == pytest.approx(1.0, abs=1e-4)
    nothing = losses(plan[None], torch.full((8, 3), float("nan")))
    assert float(nothing["plan_imitation"]) == 0.0 and bool(nothing["plan_total"].isfinite())


def test_heading_counts_and_turns_the_short_way() -> None:
    plan = straight(4.0)
    plan[:, 2] = -3.1
    truth = straight(4.0)
    truth[:, 2] = 3.1
    found = losses(plan[None], truth)
    assert float(found["plan_imitation"]) == pytest.approx(2 * (2 * math.pi - 6.2), abs=2e-3)


def test_the_best_future_of_an_agent_is_taught() -> None:
    boxes, places = agent(20.0, 5.0, (2.0, 0.0))
    wrong, right = places + torch.tensor([0.0, 5.0]), places + torch.tensor([3.0, 4.0]) * 0.2
    both = output(straight(4.0)[None], torch.stack([wrong, right]))
    found = OBJECTIVE(both, detection(boxes), targets(straight(4.0), boxes, places))
    assert float(found["plan_motion"]) == pytest.approx(1.0, abs=1e-3)
    assert float(found["plan_motion_mode"]) == pytest.approx(math.log(2))


def test_a_plan_is_pushed_out_of_an_agents_predicted_box() -> None:
    """The truth stops, the plan drives on into a car that stands ahead: each step costs its depth and the margin."""
    still = torch.zeros(8, 3)
    into = straight(4.0).clone().requires_grad_(True)
    found = losses(into[None], still, x=14.0, y=0.0)["plan_collision"]
    gap = [abs(14.0 - float(x) - 1.486) - 2.042 - 2.0 for x in straight(4.0)[:, 0]]
    # Beside each other the boxes are -1.925 m apart across: the smaller overlap counts.
    expected = sum(max(0.0, MARGIN_M - max(g, -1.925)) for g in gap) / 8
    assert float(found.detach()) == pytest.approx(expected, abs=1e-3)
    found.backward()
    assert into.grad is not None and float(into.grad.abs().sum()) > 0
    assert float(losses(straight(4.0)[None], still, x=14.0, y=4.0)["plan_collision"]) == 0.0


def test_what_the_recorded_drive_did_not_avoid_is_not_to_be_avoided() -> None:
    """A false detection on the road that was driven along, and one that is not sure."""
    assert float(losses(straight(4.0)[None], straight(4.0), x=14.0, y=0.0)["plan_collision"]) == 0.0
    boxes, places = agent(14.0, 0.0)
    unsure = output(straight(4.0)[None], places[None], score=0.1)
    found = OBJECTIVE(unsure, detection(boxes), targets(torch.zeros(8, 3), boxes, places))
    assert float(found["plan_collision"]) == 0.0


def test_leaving_the_road_costs_metres() -> None:
    """The road is what lies right of y = 4 m, in cells of 1.6 m; without a map nothing is known."""
    y = -51.2 + (torch.arange(64) + 0.5) * 1.6
    off_road = (y - 4.0).clamp(min=0.0).expand(64, 64)
    off = straight(4.0) + torch.tensor([0.0, 6.0, 0.0])
    found = losses(off[None], straight(4.0), off_road=off_road)
    left, right = 6.0 + 0.925 - 4.0 - 0.2, 6.0 - 0.925 - 4.0 - 0.2
    assert float(found["plan_off_road"]) == pytest.approx((left + right) / 2, abs=0.02)
    assert float(losses(straight(4.0)[None], straight(4.0), off_road=off_road)["plan_off_road"]) == 0.0
    assert float(losses(off[None], straight(4.0))["plan_off_road"]) == 0.0
    assert float(losses(off[None], straight(4.0))["plan_map"]) == 0.0


def test_calm_plans_cost_nothing_and_jerky_ones_do() -> None:
    boxes, places = agent(30.0, 10.0)
    calm = output(straight(4.0)[None], places[None])
    assert float(OBJECTIVE(calm, detection(boxes), targets(straight(4.0), boxes, places))["plan_comfort"]) == 0.0
    jerky = replace(calm, acceleration_mps2=torch.tensor([[[4.0, -4.0] * 4]]))
    found = OBJECTIVE(jerky, detection(boxes), targets(straight(4.0), boxes, places))["plan_comfort"]
    assert float(found) == pytest.approx((4.0 - 2.0) + (16.0 - 3.0))


def test_targets_without_planning_are_refused() -> None:
    boxes, places = agent(30.0, 10.0)
    with pytest.raises(ValueError, match=r"model\.planning"):
        OBJECTIVE(
            output(straight(4.0)[None], places[None]),
            detection(boxes),
            replace(targets(straight(4.0), boxes, places), planning=None),
        )
