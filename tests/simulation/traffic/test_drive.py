"""Drives must be deterministic, smooth, free of collisions, and show every class."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")

from fusionperc.simulation.traffic.drive import Actor, TrafficDrive, simulate_traffic
from fusionperc.simulation.traffic.motion import boxes_overlap, trailing_yaw
from fusionperc.simulation.traffic.sizes import EGO_REAR_AXLE_TO_FRONT_M, EGO_SIZE_LWH_M

DURATION_S = 6.0
SEEDS = ((0, 0), (1, 5), (2, 9))
CATEGORIES = {
    "vehicle.car", "vehicle.truck", "vehicle.bus.rigid", "vehicle.trailer", "vehicle.construction",
    "human.pedestrian.adult", "vehicle.motorcycle", "vehicle.bicycle", "movable_object.trafficcone",
    "movable_object.barrier", "human.pedestrian.child", "human.pedestrian.construction_worker",
}  # fmt: skip
TOWING = ("vehicle.truck", "vehicle.trailer", "vehicle.bus.bendy")


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[TrafficDrive]:
    folder = tmp_path_factory.mktemp("traffic")
    return [simulate_traffic(town, drive, DURATION_S, folder / str(drive)) for town, drive in SEEDS]


def _times(step_s: float) -> np.ndarray:
    return np.arange(0.0, DURATION_S + 1e-9, step_s)


def _overlapping(actors: list[Actor]) -> np.ndarray:
    """(N, N) whether two actors' boxes, shrunk by 3 %, overlap from above."""
    center = np.array([actor.center_m[:2] for actor in actors])
    yaw = np.array([actor.yaw_rad for actor in actors])
    size = 0.97 * np.array([actor.size_lwh_m[:2] for actor in actors])
    return boxes_overlap(center[:, None], yaw[:, None], size[:, None], center[None], yaw[None], size[None])


def test_the_same_seeds_give_the_same_drive(drives: list[TrafficDrive], tmp_path: Path) -> None:
    again = simulate_traffic(*SEEDS[0], DURATION_S, tmp_path)
    assert again.ego_at(2.3) == drives[0].ego_at(2.3)
    assert again.actors_at(4.1) == drives[0].actors_at(4.1)
    assert np.array_equal(again.town.surface, drives[0].town.surface)


def test_other_seeds_give_other_drives(drives: list[TrafficDrive]) -> None:
    assert len({drive.ego_at(0.0) for drive in drives}) == len(drives)


def test_one_town_hosts_different_drives(drives: list[TrafficDrive], tmp_path: Path) -> None:
    other = simulate_traffic(SEEDS[0][0], 77, 2.0, tmp_path)
    assert np.array_equal(other.town.surface, drives[0].town.surface)
    assert other.ego_at(0.0) != drives[0].ego_at(0.0)


def test_every_class_is_seen(drives: list[TrafficDrive]) -> None:
    seen = [{actor.category for t in _times(1.0) for actor in drive.actors_at(t, 50.0)} for drive in drives]
    assert set.union(*seen) - {"vehicle.bus.bendy"} == CATEGORIES
    assert all(len(classes) >= 8 for classes in seen)


def test_the_ego_moves_like_a_car(drives: list[TrafficDrive]) -> None:
    for drive in drives:
        states = [drive.ego_at(t) for t in _times(0.05)]
        assert max(abs(s.acceleration_mps2) for s in states) < 6.0
        assert max(abs(s.speed_mps * s.yaw_rate_radps) for s in states) < 8.0
        assert max(abs(s.steering_rad) for s in states) < 0.8
        assert min(s.speed_mps for s in states) > -0.05
        for before, after in itertools.pairwise(states):
            step = np.array([after.x_m - before.x_m, after.y_m - before.y_m]) / 0.05
            middle = before.yaw_rad + 0.5 * np.angle(np.exp(1j * (after.yaw_rad - before.yaw_rad)))
            across = -np.sin(middle) * step[0] + np.cos(middle) * step[1]
            along = np.cos(middle) * step[0] + np.sin(middle) * step[1]
            assert abs(across) < 0.08, "the rear axle slides sideways"
            assert along == pytest.approx((before.speed_mps + after.speed_mps) / 2, abs=0.05)


def test_velocity_is_the_derivative_of_position(drives: list[TrafficDrive]) -> None:
    step = 0.01
    for drive in drives:
        for time in (0.5, 3.0, 5.2):
            before = {a.instance: a for a in drive.actors_at(time - step, 120.0)}
            after = {a.instance: a for a in drive.actors_at(time + step, 120.0)}
            for actor in drive.actors_at(time, 80.0):
                a, b = before[actor.instance], after[actor.instance]
                numeric = (np.array(b.center_m[:2]) - np.array(a.center_m[:2])) / (2 * step)
                np.testing.assert_allclose(actor.velocity_mps, numeric, atol=0.02)


def test_vehicles_head_where_they_go_and_do_not_jump(drives: list[TrafficDrive]) -> None:
    for drive in drives:
        previous: dict[int, Actor] = {}
        for time in _times(0.1):
            for actor in drive.actors_at(time):
                speed = float(np.hypot(*actor.velocity_mps))
                assert speed < 20.0
                if actor.category.startswith("vehicle") and speed > 2.0:
                    course = np.arctan2(actor.velocity_mps[1], actor.velocity_mps[0])
                    assert abs(np.angle(np.exp(1j * (course - actor.yaw_rad)))) < 0.55, actor
                if actor.instance in previous:
                    old = previous[actor.instance]
                    change = np.linalg.norm(np.subtract(actor.velocity_mps, old.velocity_mps)) / 0.1
                    assert change < 10.0, (old, actor)
                    assert abs(np.angle(np.exp(1j * (actor.yaw_rad - old.yaw_rad)))) < 0.25, (old, actor)
                previous[actor.instance] = actor


def test_everyone_moves_physically(drives: list[TrafficDrive]) -> None:
    """Accelerations along and across, and rates of turning, of all that moves anywhere in the town."""
    step = 0.05
    along, across, rates, strides = [], [], [], []
    for drive in drives:
        previous: dict[int, Actor] = {}
        for time in _times(step):
            now = {actor.instance: actor for actor in drive.actors_at(time, 1000.0)}
            for instance in now.keys() & previous.keys():
                actor, old = now[instance], previous[instance]
                change = np.subtract(actor.velocity_mps, old.velocity_mps) / step
                heading = np.array([np.cos(old.yaw_rad), np.sin(old.yaw_rad)])
                walks = actor.category.startswith("human")
                along.append(abs(change @ heading))
                across.append(abs(change[1] * heading[0] - change[0] * heading[1]))
                rates.append(abs(np.angle(np.exp(1j * (actor.yaw_rad - old.yaw_rad)))) / step / (2.5 if walks else 1))
                moved = np.subtract(actor.center_m[:2], old.center_m[:2]) / step
                strides.append(np.abs(moved - np.add(actor.velocity_mps, old.velocity_mps) / 2).max())
            previous = now
    assert np.percentile(along, 99.9) < 4.5 and max(along) < 8.0
    assert max(across) < 5.0
    assert max(rates) < 1.2
    assert max(strides) < 0.05, "somebody is displaced otherwise than its velocity says"


def test_nobody_appears_or_vanishes_near_the_ego(drives: list[TrafficDrive]) -> None:
    for drive in drives:
        before = {actor.instance: actor.center_m for actor in drive.actors_at(0.0, 1000.0)}
        for time in _times(0.1):
            ego = drive.ego_at(time)
            now = {actor.instance: actor.center_m for actor in drive.actors_at(time, 1000.0)}
            for instance in before.keys() ^ now.keys():
                place = now.get(instance, before.get(instance, (0, 0, 0)))
                assert np.hypot(place[0] - ego.x_m, place[1] - ego.y_m) > 85.0
            before = now


def test_people_have_the_sizes_of_adults_and_children(drives: list[TrafficDrive]) -> None:
    sizes: dict[str, list[tuple[float, float, float]]] = {"adult": [], "child": []}
    for drive in drives:
        for actor in drive.actors_at(0.0, 1000.0):
            if actor.category.rpartition(".")[2] in sizes:
                sizes[actor.category.rpartition(".")[2]].append(actor.size_lwh_m)
    children, adults = np.array(sizes["child"]), np.array(sizes["adult"])
    assert children[:, 2].min() >= 1.0 and children[:, 2].max() <= 1.5
    # nuScenes' adults: 0.73 x 0.67 x 1.77 m, spread 0.19, 0.14, 0.19.
    np.testing.assert_allclose(adults.mean(axis=0), (0.73, 0.67, 1.77), atol=0.05)
    np.testing.assert_allclose(adults.std(axis=0), (0.19, 0.14, 0.18), atol=0.04)


def test_nothing_touches_the_ego_or_each_other(drives: list[TrafficDrive]) -> None:
    for drive in drives:
        for time in _times(0.5):
            ego = drive.ego_at(time)
            ahead = EGO_REAR_AXLE_TO_FRONT_M - EGO_SIZE_LWH_M[0] / 2
            center = (ego.x_m + ahead * np.cos(ego.yaw_rad), ego.y_m + ahead * np.sin(ego.yaw_rad), 0.8)
            car = Actor(-1, "vehicle.ego", "car", center, ego.yaw_rad, EGO_SIZE_LWH_M, (0, 0), "", (0, 0, 0), 0)
            actors = [car, *drive.actors_at(time, 60.0)]
            towing = np.array([actor.category in TOWING for actor in actors])
            # A towed body's corners pass close to what tows it in sharp turns.
            hits = np.argwhere(_overlapping(actors) & ~(towing[:, None] & towing[None]))
            assert not [(actors[i], actors[j]) for i, j in hits if i < j]


def test_attributes_fit_their_class(drives: list[TrafficDrive]) -> None:
    for actor in drives[0].actors_at(1.0):
        kind = actor.category.split(".")[0]
        if actor.category in ("vehicle.bicycle", "vehicle.motorcycle"):
            assert actor.attribute.startswith("cycle.")
        elif kind == "vehicle":
            assert actor.attribute in ("vehicle.moving", "vehicle.stopped", "vehicle.parked")
        elif kind == "human":
            assert actor.attribute in ("pedestrian.moving", "pedestrian.standing")
        else:
            assert actor.attribute == ""
        if actor.attribute in ("vehicle.parked", "cycle.without_rider"):
            assert actor.velocity_mps == (0.0, 0.0)


def test_instances_are_unique_and_stable(drives: list[TrafficDrive]) -> None:
    sizes: dict[int, tuple[float, float, float]] = {}
    for time in _times(1.0):
        actors = drives[1].actors_at(time)
        assert len({actor.instance for actor in actors}) == len(actors)
        for actor in actors:
            assert sizes.setdefault(actor.instance, actor.size_lwh_m) == actor.size_lwh_m


def test_the_ego_stays_on_the_road(drives: list[TrafficDrive]) -> None:
    for drive in drives:
        drivable = drive.town.raster("drivable")
        rows = drivable.shape[0]
        for time in _times(0.25):
            ego = drive.ego_at(time)
            assert drivable[rows - 1 - int(ego.y_m / 0.1), int(ego.x_m / 0.1)]


def test_times_outside_the_drive_are_refused(drives: list[TrafficDrive]) -> None:
    drives[0].ego_at(-0.6)
    drives[0].actors_at(DURATION_S + 0.6)
    with pytest.raises(ValueError, match="outside the drive"):
        drives[0].ego_at(DURATION_S + 0.7)


def test_a_duration_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="duration_s"):
        simulate_traffic(0, 0, 0.0, tmp_path)


def test_an_unknown_layer_is_named(drives: list[TrafficDrive]) -> None:
    with pytest.raises(ValueError, match="lawn"):
        drives[0].town.raster("lawn")  # type: ignore[arg-type]


def test_a_trailing_axle_settles_on_the_circle_of_its_front() -> None:
    """A front on a circle of radius R drags an axle L behind onto the concentric circle of radius sqrt(R^2 - L^2)."""
    radius, length = 10.0, 3.0
    angle = np.arange(2000) * 0.01
    front = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    yaw = trailing_yaw(front, np.pi / 2, length)
    rear = front - length * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    assert np.linalg.norm(rear[-1]) == pytest.approx(np.sqrt(radius**2 - length**2), abs=1e-2)


def test_box_overlap_by_hand() -> None:
    size = np.array([4.0, 2.0])
    origin, zero = np.zeros(2), np.array(0.0)
    assert boxes_overlap(origin, zero, size, np.array([3.9, 0.0]), zero, size)
    assert not boxes_overlap(origin, zero, size, np.array([4.1, 0.0]), zero, size)
    assert not boxes_overlap(origin, zero, size, np.array([0.0, 3.1]), np.array(np.pi / 2), size)
    assert boxes_overlap(origin, zero, size, np.array([0.0, 2.9]), np.array(np.pi / 2), size)
