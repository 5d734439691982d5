"""Baselines, situations and reports of planners; the tool on real tables."""

from __future__ import annotations

import json
import logging
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from planning_cases import agent, scene, straight

from fusionperc.config import build_config
from fusionperc.data.nuscenes import DataError, NuScenesDrives
from fusionperc.evaluation.planning import Planner, baseline_planners, open_tables, scorable_scenes, score_planners
from fusionperc.evaluation.planning_baselines import (
    EgoStatusPlanner,
    constant_turn_and_acceleration,
    constant_velocity,
    standing_still,
)
from fusionperc.evaluation.planning_comfort import EgoState
from fusionperc.evaluation.planning_report import planning_dict, pooled_reports
from fusionperc.evaluation.planning_situations import situations_of

ROOT = Path(__file__).resolve().parents[2]


def test_constant_velocity_goes_straight_on() -> None:
    np.testing.assert_allclose(constant_velocity(EgoState(6.0, 1.0, 0.3))[5], [18.0, 0.0, 0.0])
    assert not standing_still(EgoState(6.0, 0.0, 0.0)).any()


def test_constant_turn_and_acceleration_is_a_circle_or_a_parabola() -> None:
    """A quarter circle of 20 m in 2 s; braking from 6 m/s at 3 m/s^2 takes 6 m and 2 s, and then nothing moves."""
    rate = math.pi / 4
    plan = constant_turn_and_acceleration(EgoState(20 * rate, 0.0, rate))
    np.testing.assert_allclose(plan[3], [20.0, 20.0, math.pi / 2], atol=1e-2)
    braking = constant_turn_and_acceleration(EgoState(6.0, -3.0, 0.0))
    np.testing.assert_allclose(braking[3:, 0], 6.0, atol=1e-2)
    np.testing.assert_allclose(braking[1, 0], 6.0 - 1.5, atol=1e-2)
    assert not constant_turn_and_acceleration(EgoState(0.0, 0.0, 0.2)).any(), "a standing vehicle does not turn"


def test_the_ego_state_is_the_can_bus_or_the_past_poses() -> None:
    known = scene(straight(4.0)).surroundings
    assert EgoState.of(known).speed_mps == 4.0
    unknown = type(known)(**{**vars(known), "can_bus": torch.full((4,), float("nan"))})
    assert EgoState.of(unknown) == EgoState(pytest.approx(4.0), pytest.approx(0.0), pytest.approx(0.0))


def test_the_perceptron_learns_what_status_and_command_tell() -> None:
    """Speed decides how far, the command where to; held-out speeds are met."""
    train, commands = [], []
    for place in range(240):
        speed, command = 2.0 + 8.0 * place / 240, place % 3
        plan = straight(speed)
        plan[:, 1] = (-1.0, 1.0, 0.0)[command] * np.arange(1, 9)
        train.append(scene(plan, speed_mps=speed).surroundings)
        commands.append(command)
    planner = EgoStatusPlanner(train, commands)
    left = planner.plan(scene(straight(7.3), speed_mps=7.3).surroundings, 1)
    assert np.abs(left[:, 0] - straight(7.3)[:, 0]).max() < 0.5
    assert np.abs(left[:, 1] - np.arange(1, 9)).max() < 0.5
    with pytest.raises(ValueError, match="at least 100 key frames"):
        EgoStatusPlanner(train[:50], commands[:50])


def test_the_perceptron_learns_from_all_drives_that_a_model_beside_it_learns_from(tiny_drives: Path) -> None:
    """Far too few, which it says, counting them."""
    one = {"root": str(tiny_drives), "version": "v1.0-mini"}
    counts = []
    for drives in ([], [one], [one, one]):
        data = build_config({"data": {**one, "train_split": "all", "drives": drives}}).data
        _, notes = baseline_planners([], data)
        counts.append(int(notes[0].split(" are there")[0].split()[-1]))
    assert counts == [counts[0], 2 * counts[0], 3 * counts[0]] and counts[0] > 0


# -- situations -------------------------------------------------------------------------------------------------------


def test_driving_alone_is_free_and_behind_a_car_is_following() -> None:
    assert situations_of(scene(straight(8.0))) == {"free driving"}
    ahead = 20.0 + 8.0 * 0.5 * np.arange(9)
    assert situations_of(scene(straight(8.0), agent(ahead, 0.0))) == {"following"}
    assert situations_of(scene(straight(8.0), agent(ahead, 3.5))) == {"free driving"}, "it drives in the next lane"
    assert situations_of(scene(straight(8.0), agent(40.0, 0.0, math.pi))) == {"free driving"}, "it is far and oncoming"


def test_stopping_standing_and_starting() -> None:
    braking = np.cumsum(np.array([4.0, 3.0, 2.0, 1.0, 0.2, 0.0, 0.0, 0.0]) * 0.5)
    plan = np.stack([braking, np.zeros(8), np.zeros(8)], 1)
    assert situations_of(scene(plan, speed_mps=4.5)) == {"stopping"}
    assert situations_of(scene(np.zeros((8, 3)))) == {"standing"}
    assert situations_of(scene(straight(2.0), speed_mps=0.0)) == {"starting"}


def test_turning_and_changing_lanes() -> None:
    angle = 0.1 * np.arange(1, 9)
    turn = np.stack([40 * np.sin(angle), 40 * (1 - np.cos(angle)), angle], 1)
    assert situations_of(scene(turn)) == {"turning"}
    change = straight(10.0)
    change[:, 1] = [0.2, 0.8, 1.7, 2.6, 3.2, 3.5, 3.5, 3.5]
    change[:, 2] = [0.08, 0.15, 0.18, 0.15, 0.08, 0.0, 0.0, 0.0]
    assert situations_of(scene(change)) == {"lane change"}


def test_yielding_is_to_be_slow_while_someone_crosses_first() -> None:
    slowing = np.cumsum(np.array([4.0, 3.0, 2.0, 1.5, 1.5, 2.0, 3.0, 4.0]) * 0.5)
    plan = np.stack([slowing, np.zeros(8), np.zeros(8)], 1)
    crossing = agent(12.0, -4.0 + 2.0 * np.arange(9), math.pi / 2, kind="pedestrian", size=(0.6, 0.6))
    assert situations_of(scene(plan, crossing, speed_mps=5.0)) == {"yielding"}
    along = agent(12.0 + 2.0 * np.arange(9), -3.0, 0.0, kind="pedestrian", size=(0.6, 0.6))
    assert situations_of(scene(plan, along, speed_mps=5.0)) == {"free driving"}


# -- results ----------------------------------------------------------------------------------------------------------


def test_results_are_told_by_group_and_absent_terms_are_not_zero() -> None:
    """One scene is met by a hit, one is free; neither has a map."""
    hit, free = scene(straight(4.0), agent(13.0, 4.0)), scene(straight(4.0))
    free = type(free)(type(free.surroundings)(**{**vars(free.surroundings), "token": "other", "endpoint_command": 1}))
    swerve = straight(4.0)
    swerve[5, 1] = 4.0
    planner = Planner("p", {"sample": swerve, "other": swerve}, uses_ego_status=False, uses_command=True)
    result = planning_dict(score_planners([hit, free], [planner], "endpoint"))
    scores = result["planners"]["p"]
    assert scores["command"] == "endpoint"
    assert scores["protocols"]["fusionperc"]["collision"]["3s"] == 0.5
    assert scores["protocols"]["fusionperc"]["l2_m"] == {"1s": 0, "2s": 0, "3s": 4.0, "avg": pytest.approx(4 / 3)}
    assert scores["protocols"]["fusionperc"]["off_road"] is None and scores["pdm"] is None
    assert scores["groups"]["command: left"]["means"]["collision"]["3s"] == 0.0
    assert "map expansion: absent" in result["notes"][-1]
    json.dumps(result, allow_nan=False)


def test_sets_scored_apart_are_pooled_as_if_scored_together() -> None:
    """Sets of one and two scenes, which share some groups and not others; the pooled means are those of all three."""
    ways = {"a": straight(4.0), "b": straight(2.0), "c": straight(0.0)}
    commands, roads_m = {"a": 0, "b": 1, "c": 0}, {"a": 12.0, "b": 60.0, "c": 60.0}
    scenes = {}
    for token, way in ways.items():
        here = scene(way, agent(13.0, 4.0), drivable=shapely.box(-30.0, -10.0, roads_m[token], 10.0))
        known = {**vars(here.surroundings), "token": token, "endpoint_command": commands[token]}
        scenes[token] = type(here)(type(here.surroundings)(**known))
    planner = Planner("p", {token: straight(4.5) for token in ways}, uses_ego_status=False, uses_command=True)

    def report(*tokens: str) -> dict[str, Any]:
        return planning_dict(score_planners([scenes[token] for token in tokens], [planner], "endpoint"))

    apart, together = pooled_reports([report("a"), report("b", "c")]), report("a", "b", "c")
    assert len(together["groups"]) > 3 and 1 in together["groups"].values() and 2 in together["groups"].values()
    assert 0 < together["planners"]["p"]["pdm"]["PDMS"] < 1 and apart["planners"]["p"]["pdm"]["count"] == 3
    assert together["planners"]["p"]["protocols"]["fusionperc"]["off_road"]["3s"] > 0
    means = [together["planners"]["p"]["protocols"], *together["planners"]["p"]["groups"].values()]
    for item in (*means[0].values(), *(group["means"] for group in means[1:])):
        del item["progress"]
    assert _flat(apart) == pytest.approx(_flat(together))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """All that a report tells, by the path to it."""
    if not isinstance(value, dict):
        return {name: value if isinstance(value, int | float) else str(value)}
    return {path: leaf for key, item in value.items() for path, leaf in _flat(item, f"{name}/{key}").items()}


def test_plans_that_are_no_plans_are_refused() -> None:
    here = scene(straight(4.0))
    for plans, complaint in (({}, "no plan"), ({"sample": straight(4.0)[:5]}, r"\(5, 3\)")):
        with pytest.raises(ValueError, match=complaint):
            score_planners([here], [Planner("p", plans, uses_ego_status=False, uses_command=False)], "route")
    bad = straight(4.0)
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        score_planners([here], [Planner("p", {"sample": bad}, uses_ego_status=False, uses_command=False)], "route")


def test_real_mini_val_has_67_key_frames_to_score_and_no_map(real_nuscenes: Path, tmp_path: Path) -> None:
    config = build_config({"data": {"root": str(real_nuscenes), "split": "mini_val", "train_split": "mini_train"}})
    scenes = scorable_scenes(open_tables(config.data, "mini_val"))
    assert len(scenes) == 67
    assert all(item.surroundings.drivable is None for item in scenes)


def test_the_tool_scores_baselines_from_tables_alone(
    real_nuscenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--task", "planning", "--baselines-only", "--output", tmp_path, f"data.root={real_nuscenes}"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words), "data.split=mini_val"])
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    runpy.run_path(str(ROOT / "tools" / "evaluate.py"), run_name="__main__")
    planning = json.loads((tmp_path / "report.json").read_text())["planning"]
    assert list(planning["planners"]) == [
        "ground truth", "standing still", "constant velocity", "constant turn, accel.",
    ]  # fmt: skip
    moving, truth = (planning["planners"][n]["protocols"] for n in ("constant velocity", "ground truth"))
    assert moving["st_p3"]["l2_m"]["3s"] < moving["uniad"]["l2_m"]["3s"], "a running mean is smaller than the value"
    assert moving["uniad"]["l2_m"]["3s"] == pytest.approx(4.17, abs=0.01)
    assert all(protocol["l2_m"]["avg"] == 0 for protocol in truth.values())
    assert planning["num_samples"] == 67 and not planning["has_map"]
    assert "map expansion: absent" in capsys.readouterr().out


def test_nothing_to_score_is_one_clear_line(tiny_drives: Path) -> None:
    """The tiny drives last two seconds: no key frame has six after it."""
    config = build_config({"data": {"root": str(tiny_drives)}})
    drives: NuScenesDrives = open_tables(config.data, "mini_val")
    with pytest.raises(DataError, match="no annotated key frame has one before and six after"):
        scorable_scenes(drives)
