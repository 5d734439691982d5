"""The planning head: plans of a rolling vehicle, what it is told and what it looks at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from fusionperc.config import DetectionHeadConfig, PlanningHeadConfig
from fusionperc.geometry import BevGrid
from fusionperc.models.detection import DetectionHead, DetectionOutput
from fusionperc.models.ego_prior import EgoPrior, known_odometry
from fusionperc.models.planning import BRAKE_MPS2, CURVATURE_PER_M, PlanningHead, PlanningOutput, rolled_out
from fusionperc.types import EgoInputs, Odometry

GRID = BevGrid(-16.0, 16.0, -16.0, 16.0, -5.0, 3.0, 1.0)
CHANNELS, BATCH = 16, 2
CONFIG = PlanningHeadConfig(channels=16, modes=3, layers=2, heads=2, agents=6)


def ego(batch: int = BATCH, *, speed: float = 5.0, command: int = 2) -> EgoInputs:
    status = torch.tensor([speed, 0.1, 0.0, 0.02]).repeat(batch, 1)
    past = torch.stack([torch.tensor([[-2.0, 0, 0], [-1.5, 0, 0], [-1, 0, 0], [-0.5, 0, 0]]) * speed] * batch)
    nowhere = torch.full((batch, *GRID.shape), math.nan)
    return EgoInputs(torch.full((batch,), command), torch.zeros(batch), status, past, nowhere)


@pytest.fixture
def bev() -> Tensor:
    return torch.randn(BATCH, CHANNELS, *GRID.shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def heads() -> tuple[DetectionHead, PlanningHead]:
    torch.manual_seed(0)
    detection = DetectionHead(DetectionHeadConfig(channels=16, queries=8, heads=2), GRID, CHANNELS)
    planning = PlanningHead(CONFIG, GRID, CHANNELS, 16)
    # Beyond the first answer of a fresh head, which hardly depends on anything.
    torch.nn.init.normal_(planning.controls[-1].weight, std=0.3)
    return detection.eval(), planning.eval()


def run(
    heads: tuple[DetectionHead, PlanningHead],
    bev: Tensor,
    told: EgoInputs,
    odometry: Odometry | None = None,
) -> PlanningOutput:
    with torch.no_grad():
        found: DetectionOutput = heads[0](bev)
        planned: PlanningOutput = heads[1](bev, found, told, odometry)
    return planned


# -- a rolling vehicle ------------------------------------------------------------------------------------------------


def test_a_steady_curve_is_a_circle() -> None:
    """4 m/s on a circle of 10 m: after pi seconds of 0.4 rad/s ... here after 4 s, 1.6 rad."""
    raw = torch.zeros(1, 1, 2, 8)
    raw[:, :, 1] = CURVATURE_PER_M * math.atanh(0.1 / CURVATURE_PER_M)
    plan, _ = rolled_out(raw, torch.tensor([4.0]), torch.tensor([0.0]))
    angle = torch.tensor([0.2 * step for step in range(1, 9)])
    torch.testing.assert_close(plan[0, 0, :, 2], angle)
    torch.testing.assert_close(plan[0, 0, :, 0], 10 * angle.sin(), atol=0.03, rtol=0)
    torch.testing.assert_close(plan[0, 0, :, 1], 10 * (1 - angle.cos()), atol=0.03, rtol=0)


def test_braking_ends_at_a_standstill_from_which_it_can_learn_to_start() -> None:
    raw = torch.full((1, 1, 2, 8), 0.0)
    raw[:, :, 0] = BRAKE_MPS2 * math.atanh(-4.0 / BRAKE_MPS2)
    raw.requires_grad_(True)
    plan, acceleration = rolled_out(raw, torch.tensor([4.0]), torch.tensor([0.0]))
    assert acceleration[0, 0].tolist() == pytest.approx([-4.0] * 8, abs=1e-5)
    # 4 to 2 to 0 m/s: 1.5 + 0.5 m.
    assert plan[0, 0, :, 0].tolist() == pytest.approx([1.5, *[2.0] * 7], abs=1e-5)
    plan[0, 0, -1, 0].backward()
    assert (raw.grad[0, 0, 0] > 0).all(), "braking less would go further, at every step"


def test_the_plan_starts_along_the_heading() -> None:
    """In a mirrored or turned frame of training the vehicle still rolls ahead of itself."""
    raw = torch.zeros(2, 1, 2, 8)
    plan, _ = rolled_out(raw, torch.tensor([2.0, 2.0]), torch.tensor([math.pi / 2, math.pi]))
    torch.testing.assert_close(plan[0, 0, :, 1], torch.arange(1.0, 9.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(plan[1, 0, :, 0], -torch.arange(1.0, 9.0), atol=1e-5, rtol=0)


# -- the head ---------------------------------------------------------------------------------------------------------


def test_shapes_and_the_best_plan(heads: tuple[DetectionHead, PlanningHead], bev: Tensor) -> None:
    planned = run(heads, bev, ego())
    assert planned.waypoints.shape == (BATCH, 3, 8, 3) and planned.mode_logits.shape == (BATCH, 3)
    assert planned.motion.place_m.shape == (BATCH, 6, 3, 8, 2) and planned.map_logits.shape == (BATCH, 32, 32)
    # Side by side at 0, 1 and 4 m: 1.35, 1.15 and 2.65 m are to be expected; where one is sure, it is taken.
    plans = torch.zeros(BATCH, 3, 8, 3)
    plans[..., 1] = torch.tensor([0.0, 1.0, 4.0])[:, None]
    share = torch.tensor([[0.40, 0.35, 0.25], [0.01, 0.01, 0.98]])
    best = replace(planned, waypoints=plans, mode_logits=share.log()).best()
    assert best[:, :, 1].unique(dim=1).flatten().tolist() == [1.0, 4.0]


def test_a_told_speed_is_the_plans_first_and_an_untold_one_is_read_off_the_scene(
    heads: tuple[DetectionHead, PlanningHead], bev: Tensor
) -> None:
    for speed in (0.0, 8.0):
        first = run(heads, bev, ego(speed=speed)).waypoints[:, :, 0, :2].norm(dim=-1)
        assert (first <= (speed + 1.0) * 0.5 + 1e-4).all() and (first >= (speed - BRAKE_MPS2 * 0.25) * 0.5 - 1e-4).all()
    blind = run(heads, bev, ego(speed=8.0).without_status())
    other = run(heads, bev, ego(speed=0.0).without_status())
    torch.testing.assert_close(blind.waypoints, other.waypoints)


def test_doppler_tells_the_first_motion_where_no_status_does(
    heads: tuple[DetectionHead, PlanningHead], bev: Tensor
) -> None:
    """As a told speed would; where it is unknown the scene tells; a told status is believed first."""
    torch.nn.init.zeros_(heads[1].controls[-1].weight)
    motion = torch.tensor([[9.0, -2.0, 0.0], [math.nan, math.nan, math.nan]])
    measured = Odometry(motion, torch.full((BATCH, 4, 3), math.nan))
    planned = run(heads, bev, ego().without_status(), odometry=measured)
    first_m = float(planned.waypoints[0, 0, 0, 0])
    assert first_m == pytest.approx((9.0 - 2.0 * 0.25) * 0.5, abs=0.05)
    alone = run(heads, bev, ego().without_status())
    torch.testing.assert_close(planned.waypoints[1], alone.waypoints[1])
    torch.testing.assert_close(planned.guessed_motion, alone.guessed_motion, equal_nan=True)
    torch.testing.assert_close(planned.sensed_motion, torch.stack([motion[0], alone.guessed_motion[1]]), equal_nan=True)
    told = run(heads, bev, ego(), odometry=measured)
    assert float(told.waypoints[0, 0, 0, 0]) == pytest.approx((5.0 + 0.1 * 0.25) * 0.5, abs=0.05)


def test_a_given_map_takes_the_place_of_the_learnt_one_where_it_is_known(bev: Tensor) -> None:
    def plans(told: EgoInputs, how: Literal["learnt", "given"]) -> PlanningOutput:
        torch.manual_seed(0)
        detection = DetectionHead(DetectionHeadConfig(channels=16, queries=8, heads=2), GRID, CHANNELS)
        planning = PlanningHead(CONFIG.model_copy(update={"map": how}), GRID, CHANNELS, 16)
        torch.nn.init.normal_(planning.controls[-1].weight, std=0.3)
        return run((detection.eval(), planning.eval()), bev, told)

    street = torch.zeros(GRID.shape)
    street[:, 12:20] = 1
    told = replace(ego(), drivable=torch.stack([street, torch.full(GRID.shape, math.nan)]))
    learnt, given = plans(told, "learnt"), plans(told, "given")
    torch.testing.assert_close(plans(ego(), "learnt").waypoints, learnt.waypoints)
    torch.testing.assert_close(given.waypoints[1], learnt.waypoints[1])  # no map there
    assert float((given.waypoints[0] - learnt.waypoints[0]).abs().max()) > 1e-4
    torch.testing.assert_close(given.map_logits, learnt.map_logits)
    # Two variants of the samples, one behind the other, have the same map.
    twice = plans(told.and_without_status(), "given")
    torch.testing.assert_close(twice.waypoints[:BATCH], given.waypoints, atol=1e-5, rtol=1e-5)


def test_where_nothing_measures_the_motion_the_scene_lets_it_guess(
    heads: tuple[DetectionHead, PlanningHead], bev: Tensor
) -> None:
    """Each sample's own scene; no acceleration, which one moment does not show; a plan starts with the guess."""
    torch.nn.init.zeros_(heads[1].controls[-1].weight)
    planned = run(heads, bev, ego().without_status())
    guess = planned.guessed_motion
    assert guess.isnan().tolist() == [[False, True, False]] * BATCH and (guess[:, 0] > 0).all()
    torch.testing.assert_close(planned.sensed_motion, guess, equal_nan=True)
    first_m = planned.waypoints[:, 0, 0, :2].norm(dim=-1)
    torch.testing.assert_close(first_m, guess[:, 0] * 0.5, atol=0.05, rtol=0)
    other = run(heads, torch.stack([bev[0], 3 * bev[1].flip(1)]), ego().without_status()).guessed_motion
    torch.testing.assert_close(other[0], guess[0], equal_nan=True)
    assert not torch.allclose(other[1], guess[1], equal_nan=True)


def test_variants_of_a_batch_are_planned_side_by_side(heads: tuple[DetectionHead, PlanningHead], bev: Tensor) -> None:
    both = run(heads, bev, ego().and_without_status()).waypoints
    torch.testing.assert_close(both[:BATCH], run(heads, bev, ego()).waypoints)
    torch.testing.assert_close(both[BATCH:], run(heads, bev, ego().without_status()).waypoints)


def test_what_the_ego_does_it_goes_on_doing(heads: tuple[DetectionHead, PlanningHead], bev: Tensor) -> None:
    """A fresh head's first alternative brakes and turns as the vehicle does, less and less."""
    torch.nn.init.zeros_(heads[1].controls[-1].weight)
    told = replace(ego(), status=torch.tensor([[6.0, -2.0, 0.0, 0.6]]).repeat(BATCH, 1))
    planned = run(heads, bev, told)
    first = planned.acceleration_mps2[0, 0]
    assert -2.0 < float(first[0]) < -1.8 and (first.diff() > 0).all()
    # 0.1 rad a metre over about 2.75 m.
    assert float(planned.waypoints[0, 0, 0, 2]) == pytest.approx(0.1 * 2.75, abs=0.03)


def test_the_prior_starts_at_nothing_and_sees_the_same_in_a_turned_frame() -> None:
    """Unfitted it leaves plans as they are; fitted, past poses count in the vehicle's own axes."""
    torch.manual_seed(0)
    prior = EgoPrior().eval()
    told = replace(ego(), past_m=torch.randn(BATCH, 4, 3))
    sensed = Odometry(told.status[:, [0, 1, 3]] + 0.5, torch.randn(BATCH, 4, 3))

    def controls_of(ego: EgoInputs) -> Tensor:
        controls: Tensor = prior(ego, known_odometry(ego, sensed.motion, sensed.past_m))
        return controls

    assert not controls_of(told).any()
    torch.nn.init.normal_(prior.network[-1].weight)
    controls = controls_of(told)
    assert controls.shape == (BATCH, 2, 8) and bool(controls.any())
    angle = torch.tensor(0.7)
    turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    turned = torch.cat([told.past_m[..., :2] @ turn.T, told.past_m[..., 2:] + angle], -1)
    same = replace(told, past_m=turned, heading_rad=torch.full((BATCH,), 0.7))
    torch.testing.assert_close(controls_of(same), controls, atol=1e-4, rtol=1e-4)
    for other in (replace(told, command=torch.ones(BATCH, dtype=torch.int64)), told.without_status()):
        assert not torch.allclose(controls_of(other), controls, atol=1e-3)
    unknown = Odometry.unknown(told.past_m)
    assert prior(told.without_status(), unknown).isfinite().all()
    # What is told is believed first, in the vehicle's own axes; what is not told is what is sensed.
    known = known_odometry(same, sensed.motion, sensed.past_m)
    torch.testing.assert_close(known.past_m, told.past_m, atol=1e-5, rtol=1e-5)
    known = known_odometry(told.without_status(), sensed.motion, sensed.past_m)
    assert torch.equal(known.motion, sensed.motion) and torch.equal(known.past_m, sensed.past_m)


def test_status_is_withheld_from_the_chosen_samples_only(
    heads: tuple[DetectionHead, PlanningHead], bev: Tensor
) -> None:
    told = ego()
    partly = run(heads, bev, told.without_status(torch.tensor([True, False]))).waypoints
    torch.testing.assert_close(partly[0], run(heads, bev, told.without_status()).waypoints[0])
    torch.testing.assert_close(partly[1], run(heads, bev, told).waypoints[1])


def test_command_scene_and_agents_matter(heads: tuple[DetectionHead, PlanningHead], bev: Tensor) -> None:
    plan = run(heads, bev, ego()).waypoints
    assert not torch.allclose(plan, run(heads, bev, ego(command=1)).waypoints, atol=1e-3)
    assert run(heads, bev, ego(command=-1)).waypoints.isfinite().all()
    assert not torch.allclose(plan, run(heads, bev.flip(2), ego()).waypoints, atol=1e-3)
    with torch.no_grad():
        found = heads[0](bev)
        moved = replace(found.final_boxes(), center_m=found.final_boxes().center_m + 3.0)
        elsewhere = replace(found, layers=[replace(found.layers[-1], boxes=moved)])
        assert not torch.allclose(plan, heads[1](bev, elsewhere, ego()).waypoints, atol=1e-4)


def test_no_agent_and_extreme_inputs_stay_finite(heads: tuple[DetectionHead, PlanningHead], bev: Tensor) -> None:
    with torch.no_grad():
        found = heads[0](bev)
        nobody = replace(found, query_score=torch.zeros_like(found.query_score))
        assert heads[1](bev, nobody, ego()).waypoints.isfinite().all()
    assert run(heads, bev * 1e3, ego()).waypoints.isfinite().all()
    infinite = replace(ego(), status=torch.full((BATCH, 4), float("inf")))
    assert run(heads, bev, infinite).waypoints.isfinite().all()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_gradient_reaches_what_planning_builds_on(
    heads: tuple[DetectionHead, PlanningHead], bev: Tensor, share: float
) -> None:
    """The plan is the same; the fused map and the queries' content get that share of its gradient."""

    def gradients(of: float) -> tuple[Tensor, Tensor, Tensor]:
        heads[1].shared_gradient = of
        seen = bev.clone().requires_grad_()
        found = heads[0](bev)
        content = found.query_content.detach().requires_grad_()
        out = heads[1](seen, replace(found, query_content=content), ego())
        total = out.waypoints.square().sum() + out.map_logits.square().sum() + out.motion.place_m.square().sum()
        total.backward()
        none = torch.zeros(())
        return out.waypoints.detach(), *(none if leaf.grad is None else leaf.grad for leaf in (seen, content))

    plan, *whole = gradients(1.0)
    again, *some = gradients(share)
    assert torch.equal(again, plan) and all(bool(grad.abs().sum() > 0) for grad in whole)
    for grad, full in zip(some, whole, strict=True):
        torch.testing.assert_close(grad.expand_as(full), share * full)


def test_samples_do_not_see_each_other(heads: tuple[DetectionHead, PlanningHead], bev: Tensor) -> None:
    together = run(heads, bev, ego()).waypoints
    alone = run(heads, bev[1:], ego(1)).waypoints
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)
