"""Stepped traffic: it reacts to the ego, starts as the recorded drive does, and repeats itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")
pytest.importorskip("libsumo", reason="the traffic simulator is not installed as a library (extra `sim`)")

from fusionperc.simulation.traffic.drive import Actor, simulate_traffic
from fusionperc.simulation.traffic.motion import boxes_overlap
from fusionperc.simulation.traffic.sizes import EGO_REAR_AXLE_TO_FRONT_M, EGO_SIZE_LWH_M
from fusionperc.simulation.traffic.stepping import STEP_S, SteppedTraffic

#: In this drive the ego starts at 7 m/s, and a car comes up behind it, some 23 m away.
FOLLOWED, START_MPS = (2, 2), 6.9
PARTS_OF_TRAFFIC = ("vehicle.moving", "vehicle.stopped", "cycle.with_rider")


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppedTraffic]:
    with SteppedTraffic(tmp_path_factory.mktemp("stepping")) as stepped:
        yield stepped


def _drive(
    traffic: SteppedTraffic, seconds: float, speed_at: Callable[[float], float]
) -> list[tuple[tuple[float, float, float], list[Actor]]]:
    """The ego's poses and the others along its route at a speed given over time."""
    x_m, y_m, yaw = traffic.ego_start
    station = float(traffic.route.stations_of(np.array([[x_m, y_m]]), np.array([yaw]))[0][0])
    line = traffic.route.line_m
    steps = []
    for k in range(round(seconds / STEP_S)):
        station += speed_at(k * STEP_S) * STEP_S
        x_m, y_m = (float(np.interp(station, np.arange(len(line)), line[:, axis])) for axis in (0, 1))
        yaw = float(traffic.route.headings(np.array([station]))[0])
        steps.append(((x_m, y_m, yaw), traffic.step(x_m, y_m, yaw)))
    return steps


def _behind(traffic: SteppedTraffic, pose: tuple[float, float, float], actors: list[Actor]) -> dict[int, float]:
    """Distances of those who drive behind the ego in its lane, by instance."""
    others = [actor for actor in actors if actor.attribute in PARTS_OF_TRAFFIC]
    places, yaws = np.array([a.center_m[:2] for a in others]), np.array([a.yaw_rad for a in others])
    station, left = traffic.route.stations_of(places, yaws)
    own = traffic.route.stations_of(np.array([pose[:2]]), np.array([pose[2]]))[0][0]
    return {
        actor.instance: float(own - s)
        for actor, s, to_left in zip(others, station, left, strict=True)
        if abs(to_left) < 1.6 and 0 < own - s < 40
    }


def test_a_car_behind_stops_when_the_ego_stops(traffic: SteppedTraffic) -> None:
    actors = traffic.reset(*FOLLOWED)
    followers = _behind(traffic, traffic.ego_start, actors)
    assert followers
    first = min(followers, key=lambda instance: followers[instance])
    moved_at = {actor.instance: np.hypot(*actor.velocity_mps) for actor in actors}
    assert moved_at[first] > 2.0
    steps = _drive(traffic, 8.0, lambda time: max(0.0, START_MPS - 2.5 * time))
    size = np.array(EGO_SIZE_LWH_M[:2])
    for (x_m, y_m, yaw), others in steps:
        ahead = EGO_REAR_AXLE_TO_FRONT_M - size[0] / 2
        center = np.array([x_m + ahead * np.cos(yaw), y_m + ahead * np.sin(yaw)])
        for actor in others:
            if actor.attribute in PARTS_OF_TRAFFIC:
                place, turn = np.array(actor.center_m[:2]), np.array(actor.yaw_rad)
                assert not boxes_overlap(center, np.array(yaw), size, place, turn, np.array(actor.size_lwh_m[:2]))
    pose, others = steps[-1]
    follower = next(actor for actor in others if actor.instance == first)
    assert np.hypot(*follower.velocity_mps) < 0.3
    assert _behind(traffic, pose, others)[first] < 12.0


def test_the_ego_stays_on_its_route_for_sumo_too(traffic: SteppedTraffic) -> None:
    traffic.reset(*FOLLOWED)
    steps = _drive(traffic, 10.0, lambda time: 6.0)
    places = np.array([pose[:2] for pose, _ in steps])
    assert np.linalg.norm(np.diff(places, axis=0), axis=1) == pytest.approx(0.6, abs=0.02)
    assert traffic.time_s == pytest.approx(10.0)
    drivable = traffic.town.raster("drivable")
    columns, rows = (places / 0.1).astype(int).T
    assert drivable[len(drivable) - 1 - rows, columns].all()


def test_the_same_actions_give_the_same_states(traffic: SteppedTraffic) -> None:
    runs = []
    for _ in range(2):
        start = traffic.reset(*FOLLOWED)
        runs.append((start, _drive(traffic, 3.0, lambda time: 5.0)))
    assert runs[0] == runs[1]


def test_it_starts_as_the_recorded_drive_does(traffic: SteppedTraffic, tmp_path: Path) -> None:
    actors = traffic.reset(*FOLLOWED)
    drive = simulate_traffic(*FOLLOWED, 10.0, tmp_path)
    ego = drive.ego_at(0.0)
    assert traffic.ego_start == pytest.approx((ego.x_m, ego.y_m, ego.yaw_rad), abs=1e-6)
    places = np.array([actor.center_m[:2] for actor in actors])
    for actor in drive.actors_at(0.0, 60.0):
        if actor.attribute in PARTS_OF_TRAFFIC:
            assert np.linalg.norm(places - actor.center_m[:2], axis=1).min() < 0.5


def test_velocity_is_the_displacement_of_a_step(traffic: SteppedTraffic) -> None:
    traffic.reset(*FOLLOWED)
    (_, before), (_, after) = _drive(traffic, 0.2, lambda time: 2.0)
    places = {actor.instance: np.array(actor.center_m[:2]) for actor in before}
    for actor in after:
        if actor.instance in places:
            moved = (np.array(actor.center_m[:2]) - places[actor.instance]) / STEP_S
            np.testing.assert_allclose(actor.velocity_mps, moved, atol=1e-9)


def test_only_one_traffic_a_process(traffic: SteppedTraffic, tmp_path: Path) -> None:
    traffic.reset(*FOLLOWED)
    with pytest.raises(RuntimeError, match="another traffic"):
        SteppedTraffic(tmp_path).reset(*FOLLOWED)


def test_steps_need_a_reset(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="reset"):
        SteppedTraffic(tmp_path).step(0.0, 0.0, 0.0)
