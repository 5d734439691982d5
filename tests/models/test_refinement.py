"""The plan that is driven: moved away from agents and back onto the road, else as it was chosen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusionperc.geometry import BevGrid, ego_corners
from fusionperc.models.agent_motion import ExpectedBoxes, MotionOutput
from fusionperc.models.boxes import BoxParameters
from fusionperc.models.detection import DetectionOutput, QueryPredictions
from fusionperc.models.planning import PlanningOutput, rolled_out
from fusionperc.models.refinement import driven_plan
from fusionperc.types import CLASSES

GRID = BevGrid(-52.0, 52.0, -52.0, 52.0, -5.0, 3.0, 0.5)
STEP_S = torch.arange(1, 9) * 0.5
CAR, CONE = CLASSES.index("car"), CLASSES.index("traffic_cone")


def planned(
    x: float,
    y: float,
    *,
    speed_mps: float = 8.0,
    agent_mps: float = 0.0,
    score: float = 0.9,
    kind: int = CAR,
    road: Tensor | None = None,
    variants: int = 1,
    turned: float = 0.0,
    agent_yaw: float = 0.0,
) -> tuple[PlanningOutput, DetectionOutput]:
    """An ego that goes straight on, as both alternatives do, and one 4 x 2 m agent going the same way."""
    cos, sin = math.cos(turned), math.sin(turned)
    place = torch.tensor([[x, y]]) + torch.stack([agent_mps * STEP_S, 0 * STEP_S], -1)
    place = place @ torch.tensor([[cos, sin], [-sin, cos]])
    boxes = BoxParameters(
        center_m=torch.tensor([[[x * cos - y * sin, x * sin + y * cos, 0.8]]]),
        log_size=torch.tensor([[[4.0, 2.0, 1.5]]]).log(),
        sin_cos=torch.tensor([[[math.sin(turned + agent_yaw), math.cos(turned + agent_yaw)]]]),
        velocity_mps=torch.zeros(1, 1, 2),
        attribute_logits=torch.zeros(1, 1, 8),
    )
    logits = torch.zeros(1, 1, len(CLASSES))
    zeros = torch.zeros(1, 1, dtype=torch.int64)
    found = DetectionOutput(
        torch.zeros(1, 10, 4, 4), boxes, zeros, zeros + kind, torch.full((1, 1), score),
        [QueryPredictions(logits, boxes)], torch.zeros(1, 1, 4),
    )  # fmt: skip
    controls = torch.zeros(variants, 2, 2, 8)
    start, heading = torch.full((variants,), speed_mps), torch.full((variants,), turned)
    waypoints, acceleration = rolled_out(controls, start, heading)
    sure = torch.ones(1, *GRID.shape) if road is None else road[None]
    none = torch.zeros(1, 3)
    output = PlanningOutput(
        waypoints=waypoints,
        acceleration_mps2=acceleration,
        mode_logits=torch.zeros(variants, 2),
        controls=controls,
        start_mps=start,
        heading_rad=heading,
        guessed_motion=none,
        sensed_motion=none,
        motion=MotionOutput(place[None, None, None], torch.zeros(1, 1, 1), torch.full((1, 1), score)),
        map_logits=torch.zeros(1, *GRID.shape),
        road=sure,
    )
    return output, found


def nearest_m(output: PlanningOutput, found: DetectionOutput, plan: Tensor) -> float:
    return float(ExpectedBoxes.of(output.motion, found).gaps_m(plan).amax(-1).min())


def test_far_from_all_the_plan_stays_as_it_was_chosen() -> None:
    output, found = planned(20.0, 15.0)
    plan = driven_plan(output, found, GRID, 30)
    torch.testing.assert_close(plan, output.best(), atol=0.05, rtol=0)
    assert torch.equal(driven_plan(*planned(20.0, 0.0), GRID, 0), output.best())


def test_it_keeps_off_who_is_in_its_way() -> None:
    """A slower car is ahead, a little to the left: the chosen plan runs into it, the driven one hardly touches it."""
    output, found = planned(28.0, 1.0, agent_mps=2.0)
    plan = driven_plan(output, found, GRID, 30)
    assert nearest_m(output, found, output.best()) < -0.8
    assert nearest_m(output, found, plan) > -0.3
    steps = (plan[0, 1:, :2] - plan[0, :-1, :2]).norm(dim=-1) / 0.5
    assert float(steps.diff().abs().max()) / 0.5 < 3.0, "within what a car does"


@pytest.mark.parametrize(("score", "kind"), [(0.2, CAR), (0.9, CONE)])
def test_who_is_not_sure_or_cannot_move_is_not_kept_away_from(score: float, kind: int) -> None:
    output, found = planned(28.0, 1.0, agent_mps=2.0, score=score, kind=kind)
    torch.testing.assert_close(driven_plan(output, found, GRID, 30), output.best(), atol=0.05, rtol=0)


def test_it_comes_back_onto_the_road() -> None:
    """Road to the left of y = -0.5 m only, where the plan goes: the right side of the ego's box is at -0.925 m."""
    road = torch.ones(GRID.shape)
    road[112:, :103] = 0.0
    output, found = planned(20.0, 30.0, road=road)
    plan = driven_plan(output, found, GRID, 30)
    right_m = ego_corners(plan)[0, -1, :, 1].min()
    assert float(right_m) > -0.925 + 0.2
    assert float(plan[0, -1, 0]) > 25.0, "by steering, not by standing"


def test_a_map_that_knows_no_road_under_the_ego_is_not_believed() -> None:
    road = torch.linspace(0.1, 0.8, GRID.shape[1]).expand(GRID.shape)
    assert float(road[104, 104]) < 0.5
    output, found = planned(20.0, 30.0, road=road)
    torch.testing.assert_close(driven_plan(output, found, GRID, 30), output.best(), atol=0.05, rtol=0)


def test_variants_of_a_sample_are_moved_alike_also_in_inference_mode() -> None:
    one = driven_plan(*planned(20.0, 0.0, agent_mps=2.0), GRID, 10)
    with torch.inference_mode():
        two = driven_plan(*planned(20.0, 0.0, agent_mps=2.0, variants=2), GRID, 10)
    torch.testing.assert_close(two, one.repeat(2, 1, 1), atol=1e-4, rtol=1e-4)


def test_it_is_the_same_in_a_turned_world() -> None:
    angle = 0.7
    plan = driven_plan(*planned(28.0, 1.0, agent_mps=2.0, agent_yaw=0.3), GRID, 10)
    other = driven_plan(*planned(28.0, 1.0, agent_mps=2.0, agent_yaw=0.3, turned=angle), GRID, 10)
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    torch.testing.assert_close(other[..., :2], plan[..., :2] @ turn, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(other[..., 2], plan[..., 2] + angle, atol=1e-3, rtol=1e-3)
