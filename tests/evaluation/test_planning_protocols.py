"""Every protocol against values worked out by hand, above all where they differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from planning_cases import QUARTER, agent, scene, straight, turned

from fusionperc.evaluation.planning_pdm import pdm
from fusionperc.evaluation.planning_protocols import (
    _EGO_CELLS,
    PROTOCOLS,
    bev_planner,
    fusionperc,
    st_p3,
    uniad,
    vad,
)
from fusionperc.evaluation.planning_scene import PlanningScene, between_steps, ego_rectangles, with_start
from fusionperc.geometry import EGO_CENTER_AHEAD_M

FRONT_M = EGO_CENTER_AHEAD_M + 2.042


def test_distance_is_the_hypotenuse_at_t_and_its_mean_up_to_t() -> None:
    """Beside the truth by (3, 4) m at 3 s, growing evenly from nothing: 5 m there, 5/6 m a step."""
    here = scene(straight(4.0))
    share = np.arange(1, 9)[:, None] / 6
    plan = straight(4.0) + np.concatenate([share * [[3.0, 4.0]], np.zeros((8, 1))], 1)
    at_t = [5 / 3, 10 / 3, 5.0]
    up_to_t = [5 / 6 * 1.5, 5 / 6 * 2.5, 5 / 6 * 3.5]
    np.testing.assert_allclose(fusionperc(plan, here).l2_m, at_t, atol=1e-6)
    np.testing.assert_allclose(uniad(plan, here).l2_m, at_t, atol=1e-6)
    for protocol in (st_p3, vad, bev_planner):
        np.testing.assert_allclose(protocol(plan, here).l2_m, up_to_t, atol=1e-6)


def test_older_protocols_measure_the_lidars_way() -> None:
    """A plan at the right place, but turned by 90 degrees: the LiDAR, 0.986 m ahead, is sqrt(2) times that away."""
    here = scene(straight(4.0))
    plan = turned(straight(4.0), math.pi / 2)
    assert fusionperc(plan, here).l2_m == pytest.approx([0, 0, 0], abs=1e-6)
    assert uniad(plan, here).l2_m == pytest.approx([math.sqrt(2) * 0.985793] * 3, abs=1e-6)


def test_the_ego_box_in_cells_is_that_of_st_p3() -> None:
    assert len(_EGO_CELLS) == 32
    assert _EGO_CELLS.min(0).tolist() == [97, 98] and _EGO_CELLS.max(0).tolist() == [104, 101]


def test_the_ego_box_lies_where_nuscenes_has_it() -> None:
    front_left, rear_left, rear_right, _ = ego_rectangles(np.array([1.0, 2.0, math.pi / 2]))
    np.testing.assert_allclose(front_left, [1.0 - 0.925, 2.0 + FRONT_M])
    np.testing.assert_allclose(rear_left, [1.0 - 0.925, 2.0 + FRONT_M - 4.084])
    np.testing.assert_allclose(rear_right, [1.0 + 0.925, 2.0 + FRONT_M - 4.084])


@pytest.mark.parametrize(("gap_m", "is_hit"), [(0.02, False), (-0.02, True)])
def test_a_box_grazes_a_corner_at_45_degrees(gap_m: float, is_hit: bool) -> None:
    """A square of 2 m, turned by 45 degrees, points its corner at the middle of the front of the standing ego.

    From its centre to its corner are sqrt(2) m.
    """
    still = np.zeros((8, 3))
    corner = scene(still, agent(FRONT_M + math.sqrt(2) + gap_m, 0.0, QUARTER, size=(2.0, 2.0)))
    assert fusionperc(still, corner).collision.tolist() == [float(is_hit)] * 3
    assert fusionperc(still, corner).truth_collision.tolist() == [float(is_hit)] * 3
    # The same square upright would reach in only at 1 m.
    upright = scene(still, agent(FRONT_M + math.sqrt(2) + gap_m, 0.0, 0.0, size=(2.0, 2.0)))
    assert fusionperc(still, upright).collision.tolist() == [0.0] * 3


def test_the_turned_ego_box_grazes_too() -> None:
    """An ego turned by 45 degrees at 0.5 s, when the other comes into being at its foremost corner."""
    still = np.zeros((8, 3))
    plan = turned(still, QUARTER)
    # In the ego's axes the corner is (FRONT_M, -0.925); turned by 45 degrees its x is the largest of the box.
    x = (FRONT_M + 0.925) / math.sqrt(2)
    y = (FRONT_M - 0.925) / math.sqrt(2)
    for gap, is_hit in ((0.02, False), (-0.02, True)):
        x_m = np.where(np.arange(9) >= 1, x + gap + 0.5, np.nan)
        here = scene(still, agent(x_m, y, size=(1.0, 1.0)))
        assert fusionperc(plan, here).collision.tolist() == [float(is_hit)] * 3
        assert fusionperc(plan, here).truth_collision.tolist() == [0.0] * 3


def test_right_at_three_seconds_but_a_hit_at_one_and_a_half() -> None:
    """The plan swerves through a parked car at 1.5 s and comes back: who looks at t alone does not see it."""
    here = scene(straight(4.0), agent(8.0, 5.0))
    plan = straight(4.0)
    plan[2, 1] = 5.0
    assert uniad(plan, here).collision.tolist() == [0.0, 0.0, 0.0]
    assert st_p3(plan, here).collision == pytest.approx([0.0, 1 / 4, 1 / 6])
    assert vad(plan, here).collision == pytest.approx([0.0, 1 / 4, 1 / 6])
    assert bev_planner(plan, here).collision.tolist() == [0.0, 1.0, 1.0]
    assert fusionperc(plan, here).collision.tolist() == [0.0, 1.0, 1.0]
    assert fusionperc(plan, here).l2_m == pytest.approx([0, 0, 0])


def test_a_hit_between_two_waypoints_counts_for_ours_only() -> None:
    """At 20 m/s the ego passes 10 m a step: a pedestrian on the way, whom no waypoint meets."""
    here = scene(np.zeros((8, 3)), agent(6.0, 0.0, kind="pedestrian", size=(0.6, 0.6)), speed_mps=20.0)
    plan = straight(20.0)
    assert fusionperc(plan, here).collision.tolist() == [1.0, 1.0, 1.0]
    assert [p(plan, here).collision.tolist() for p in (st_p3, vad, bev_planner)] == [[0.0] * 3] * 3


def test_two_agents_are_two_chances() -> None:
    """One is met at 1 s, the other at 3 s; a third stands beside."""
    plan = straight(4.0)
    here = scene(np.zeros((8, 3)), agent(5.0, 0.0, size=(0.5, 0.5)), agent(15.0, 0.0, size=(0.5, 0.5)), agent(8, 4))
    assert uniad(plan, here).collision.tolist() == [1.0, 0.0, 1.0]
    assert fusionperc(plan, here).collision.tolist() == [1.0, 1.0, 1.0]
    second_alone = scene(np.zeros((8, 3)), agent(15.0, 0.0, size=(0.5, 0.5)), agent(8, 4))
    assert fusionperc(plan, second_alone).collision.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("who", "hit_by"),
    [
        ({}, {"uniad", "st_p3", "vad", "bev_planner", "fusionperc"}),
        # Seen by less than 40 %: ST-P3's filter drops it.
        ({"visibility": 1}, {"uniad", "vad", "bev_planner", "fusionperc"}),
        ({"kind": "pedestrian"}, {"st_p3", "vad", "bev_planner", "fusionperc"}),
        ({"kind": "traffic_cone"}, set()),
    ],
)
def test_who_counts(who: dict[str, object], hit_by: set[str]) -> None:
    plan = straight(4.0)
    here = scene(np.zeros((8, 3)), agent(13.0, 0.0, size=(1.0, 1.0), **who))  # type: ignore[arg-type]
    assert {name for name, protocol in PROTOCOLS.items() if protocol(plan, here).collision[2] > 0} == hit_by


def test_an_agent_that_was_not_there_at_first_is_none_for_vad() -> None:
    x = np.where(np.arange(9) >= 4, 13.0, np.nan)
    here = scene(np.zeros((8, 3)), agent(x, 0.0, size=(1.0, 1.0)))
    hit = {name for name, protocol in PROTOCOLS.items() if protocol(straight(4.0), here).collision[2] > 0}
    assert hit == {"uniad", "st_p3", "bev_planner", "fusionperc"}


def test_the_ground_truth_collides_in_coarse_cells_and_not_in_fact() -> None:
    """A car 0.3 m to the right of the standing ego: drawn in cells of 0.5 m it reaches into the ego's."""
    still = np.zeros((8, 3))
    here = scene(still, agent(1.5, -(0.925 + 0.3 + 1.0)))
    assert uniad(still, here).truth_collision.tolist() == [1.0] * 3
    # Its collisions then count as none of the plan's, whatever the plan does.
    assert uniad(straight(0.2), here).collision.tolist() == [0.0] * 3
    assert bev_planner(still, here).truth_collision.tolist() == [0.0] * 3
    assert fusionperc(still, here).truth_collision.tolist() == [0.0] * 3


def test_uniads_box_never_turns() -> None:
    """The plan turns to the left at 1 s; its front then meets a car that the unturned box does not reach."""
    future = np.zeros((8, 3))
    plan = turned(future, math.pi / 2)
    here = scene(future, agent(0.0, 3.4, size=(1.0, 1.0)))
    assert uniad(plan, here).collision.tolist() == [0.0] * 3
    assert fusionperc(plan, here).collision.tolist() == [1.0] * 3
    # BEV-Planner reads headings off the way: a plan that turns on the spot does not turn for it.
    assert bev_planner(plan, here).collision.tolist() == [0.0] * 3


def test_off_road_is_a_corner_beyond_the_rim() -> None:
    """A road 8 m wide: 0.925 m of the ego reach beyond its centre line."""
    road = shapely.box(-20.0, -4.0, 100.0, 4.0)
    future = straight(4.0)
    for offset, is_off in ((3.0, False), (3.1, True)):
        plan = future + np.array([0.0, offset, 0.0])
        plan[:3, 1] = [0.0, 1.0, 2.0]
        score = fusionperc(plan, scene(future, drivable=road))
        assert score.off_road is not None and score.off_road.tolist() == [0.0, float(is_off), float(is_off)]
        boundary = bev_planner(turned(plan, 0.0), scene(future, drivable=road)).off_road
        assert boundary is not None
    assert fusionperc(future, scene(future)).off_road is None, "without a map there is no such rate, not a rate of 0"


def test_comfort_and_progress() -> None:
    here = scene(straight(8.0))
    assert (fusionperc(straight(8.0), here).comfort, fusionperc(straight(8.0), here).progress) == (1.0, 1.0)
    # From 8 m/s to a standstill within a quarter of a second.
    still = fusionperc(np.zeros((8, 3)), here)
    assert (still.comfort, still.progress) == (0.0, 0.0)
    assert fusionperc(straight(6.0), here).progress == pytest.approx(0.75)
    assert fusionperc(straight(9.0), here).progress == 1.0
    assert fusionperc(np.zeros((8, 3)), scene(np.zeros((8, 3)))).progress is None


def test_between_steps_is_straight_and_turns_the_short_way() -> None:
    pose = np.array([[0.0, 0.0, 3.0], [1.0, 2.0, -3.0]])
    fine = between_steps(pose)
    np.testing.assert_allclose(fine[:, 0], np.linspace(0, 1, 6))
    np.testing.assert_allclose(fine[1, 2], 3.0 + (2 * math.pi - 6.0) / 5)
    holey = between_steps(np.array([[np.nan] * 3, [1.0, 1.0, 0.0], [2.0, 1.0, 0.0]]))
    assert np.isnan(holey[:5]).all() and np.isfinite(holey[5:]).all()


def test_polygons_agree_with_a_dense_sample_of_points() -> None:
    """Against brute force: random boxes, hit where points of one lie in the other."""
    rng = np.random.default_rng(0)
    still = np.zeros((8, 3))
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 60), np.linspace(-0.5, 0.5, 60)), -1).reshape(-1, 2)
    checked = 0
    for _ in range(60):
        x, y, yaw = rng.uniform([-4, -4, -3], [7, 4, 3])
        here: PlanningScene = scene(still, agent(x, y, yaw))
        local = grid * [4.0, 2.0]
        c, s = math.cos(yaw), math.sin(yaw)
        world = local @ np.array([[c, s], [-s, c]]) + [x, y]
        depth = np.minimum(2.042 - np.abs(world[:, 0] - EGO_CENTER_AHEAD_M), 0.925 - np.abs(world[:, 1])).max()
        if abs(depth) < 0.1:
            continue
        checked += 1
        assert bool(fusionperc(still, here).collision[2]) == (depth > 0)
    assert checked > 40


# -- NAVSIM's terms ---------------------------------------------------------------------------------------------------

ROAD = shapely.box(-30.0, -10.0, 200.0, 10.0)


def test_the_human_gets_full_marks() -> None:
    terms = pdm(straight(8.0), scene(straight(8.0), drivable=ROAD))
    assert terms is not None and terms.score == 1.0


def test_a_hit_from_behind_is_not_the_egos_fault_but_one_with_its_front_is() -> None:
    slow = straight(2.0)
    from_behind = agent(-8.0 + 8.0 * np.arange(9) * 0.5, 0.0)
    terms = pdm(slow, scene(slow, from_behind, drivable=ROAD))
    assert terms is not None and terms.no_collision == 1.0
    terms = pdm(straight(8.0), scene(slow, agent(20.0, 0.0), drivable=ROAD))
    assert terms is not None and (terms.no_collision, terms.score) == (0.0, 0.0)
    terms = pdm(straight(8.0), scene(slow, agent(20.0, 0.0, kind="barrier"), drivable=ROAD))
    assert terms is not None and terms.no_collision == 0.5


def test_time_to_collision_looks_straight_ahead() -> None:
    """The plan stops 1 m behind a standing car from 8 m/s: within 0.9 s it would have hit it, had it gone on."""
    speed = np.array([8.0, 8.0, 8.0, 8.0, 0.0, 0.0, 0.0, 0.0])
    x = np.cumsum(speed * 0.5)
    plan = np.stack([x, np.zeros(8), np.zeros(8)], 1)
    terms = pdm(plan, scene(plan, agent(x[-1] + FRONT_M + 1.0 + 2.0, 0.0), drivable=ROAD))
    assert terms is not None and (terms.no_collision, terms.time_to_collision) == (1.0, 0.0)
    # Beside it there is nothing to hit.
    terms = pdm(plan, scene(plan, agent(x[-1] + FRONT_M + 1.0 + 2.0, 5.0), drivable=ROAD))
    assert terms is not None and terms.time_to_collision == 1.0


def test_terms_are_absent_where_they_cannot_be_told() -> None:
    assert pdm(straight(8.0), scene(straight(8.0))) is None
    assert pdm(straight(8.0)[:6], scene(straight(8.0), drivable=ROAD)) is None


def test_with_start_puts_the_present_first() -> None:
    assert with_start(straight(2.0)).shape == (9, 3) and not with_start(straight(2.0))[0].any()
