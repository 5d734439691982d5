"""Commands, routes and labels of situations, against what the ego does in simulated drives."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")

from fusionperc.simulation.traffic.drive import TrafficDrive, simulate_traffic
from fusionperc.simulation.traffic.motion import passes_first
from fusionperc.simulation.traffic.network import build_network
from fusionperc.simulation.traffic.route import Junction, Route
from fusionperc.simulation.traffic.situations import STEP_S, driving_command, shares, situations
from fusionperc.simulation.world.town import ASPHALT, GRASS, build_town

TOOL = Path(__file__).parents[3] / "tools" / "simulate.py"
DURATION_S = 10.0
SEEDS = ((4, 9), (5, 37), (7, 16))
#: A town with a roundabout.
RING_TOWN = 2


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[TrafficDrive]:
    folder = tmp_path_factory.mktemp("situations")
    return [simulate_traffic(town, drive, DURATION_S, folder / str(drive)) for town, drive in SEEDS]


def _times() -> np.ndarray:
    return np.arange(0.0, DURATION_S + 1e-6, STEP_S)


def test_the_ego_drives_along_its_route(drives: list[TrafficDrive]) -> None:
    for drive in drives:
        states = [drive.ego_at(time) for time in _times()]
        places, yaw = np.array([(s.x_m, s.y_m) for s in states]), np.array([s.yaw_rad for s in states])
        station, left = drive.route.stations_of(places, yaw)
        assert np.abs(left).max() < 4.0, "more than a lane beside the route"
        assert np.median(np.abs(left)) < 0.6
        driven = np.concatenate([[0.0], np.cumsum([s.speed_mps * STEP_S for s in states])])[:-1]
        np.testing.assert_allclose(station - station[0], driven, atol=4.0)
        assert len(drive.route_m) > station[-1] + 30.0, "the route ends with the drive"
        assert np.linalg.norm(np.diff(drive.route_m, axis=0), axis=1) == pytest.approx(1.0, abs=0.05)


def test_the_route_turns_where_its_junctions_say(drives: list[TrafficDrive]) -> None:
    turns = {"left": 1, "right": -1, "straight": 0}
    for drive in drives:
        for junction in drive.route.junctions:
            before, after = drive.route.headings(np.array([junction.start_m - 2, junction.end_m + 2]))
            turned = after - before
            assert turns[junction.turn] == (0 if abs(turned) < 0.8 else np.sign(turned))


def test_the_usual_command_is_the_place_after_three_seconds(drives: list[TrafficDrive]) -> None:
    seen = set()
    for drive in drives:
        for time in _times()[:-6]:
            state, later = drive.ego_at(time), drive.ego_at(time + 3.0)
            _, left, _, _ = np.linalg.inv(state.world_T_ego) @ np.array([later.x_m, later.y_m, later.z_m, 1.0])
            expected = "left" if left > 2 else "right" if left < -2 else "straight"
            if abs(abs(left) - 2.0) > 0.1:
                assert driving_command(drive, float(time)) == expected
            seen.add(expected)
    assert len(seen) > 1


def test_a_turn_is_announced_before_its_junction_until_its_end() -> None:
    line = np.stack([np.arange(200.0), np.zeros(200)], axis=1)
    route = Route(("a", "b"), line, (Junction(50.0, 60.0, "left", False), Junction(120.0, 140.0, "straight", True)))
    for station, turn in ((19.0, "straight"), (21.0, "left"), (59.0, "left"), (61.0, "straight"), (130.0, "straight")):
        assert route.next_turn(station, within_m=30.0) == turn


def test_stations_prefer_places_driven_along_in_the_same_heading() -> None:
    """A route that comes back beside itself: the nearer way counts only for those who head its way."""
    there = np.stack([np.arange(50.0), np.zeros(50)], axis=1)
    back = np.stack([np.arange(49.0, -1.0, -1.0), np.full(50, 4.0)], axis=1)
    route = Route(("a",), np.concatenate([there, [[50.0, 1.0], [50.0, 2.0], [50.0, 3.0]], back]), ())
    point = np.array([[20.0, 2.5]])
    station, left = route.stations_of(point, np.array([0.0]))
    assert station[0] == pytest.approx(20.0) and left[0] == pytest.approx(2.5)
    station, left = route.stations_of(point, np.array([np.pi]))
    assert station[0] == pytest.approx(53 + 29.0) and left[0] == pytest.approx(1.5)


def test_situations_fit_the_motion(drives: list[TrafficDrive]) -> None:
    for drive in drives:
        found = situations(drive)
        speed = np.array([drive.ego_at(time).speed_mps for time in _times()])
        np.testing.assert_array_equal(found["stopped"], speed <= 0.3)
        others = np.any([held for name, held in found.items() if name != "free"], axis=0)
        np.testing.assert_array_equal(found["free"], ~others)
        assert not (found["turning left"] & found["turning right"]).any()
        yaw = np.unwrap([drive.ego_at(time).yaw_rad for time in _times()])
        for name, sign in (("turning left", 1), ("turning right", -1)):
            for k in np.flatnonzero(found[name][2:-2]) + 2:
                assert sign * (yaw[k + 2] - yaw[k - 2]) > 0.2


def test_shares_are_shares(drives: list[TrafficDrive]) -> None:
    report = shares(drives)
    assert all(0 <= share <= 1 for share in report.values())
    for source in ("endpoint", "route"):
        assert sum(report[f"command {turn} ({source})"] for turn in ("left", "right", "straight")) == pytest.approx(1)


def test_who_crosses_before_passes_first() -> None:
    """One goes east at 5 m/s from the origin; others cross its line at x = 20 m: before it, after it, or beside it."""
    step = 0.5
    time = np.arange(0, 10, step)
    own = np.stack([5 * time, np.zeros_like(time)], axis=1)
    before = np.stack([np.full_like(time, 20.0), 4 * (time - 2.0)], axis=1)
    after = np.stack([np.full_like(time, 20.0), 4 * (time - 6.0)], axis=1)
    beside = np.stack([5 * time + 10, np.full_like(time, 3.5)], axis=1)
    others = np.stack([before, after, beside])
    yaw = np.stack([np.full_like(time, np.pi / 2), np.full_like(time, np.pi / 2), np.zeros_like(time)])
    found = passes_first(own, np.zeros_like(time), others, yaw, step)
    assert found[0, 4] and not found[0, :3].any() and not found[0, 6:].any()
    assert not found[1:].any()


def test_a_roundabout_is_a_ring_of_road_around_grass(tmp_path: Path) -> None:
    network = build_network(RING_TOWN, tmp_path)
    town = build_town(network, RING_TOWN)
    assert len(network.islands) == 1 and len(network.ring_edges) >= 3
    x_m, y_m, radius_m = network.islands[0]
    around = np.linspace(0, 2 * np.pi, 200)
    for share, label in ((0.9 * radius_m, GRASS), (radius_m + 2.5, ASPHALT)):
        labels = town.label_at(x_m + share * np.cos(around), y_m + share * np.sin(around))
        assert (labels == label).mean() > 0.98
    for name in network.ring_edges:
        assert any(link.next_edge in network.ring_edges for link in network.links[name]), "the ring goes on"


def test_the_tool_prints_them_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "set"
    asked = ("--preset", "demo", "--drives-train", "1", "--drives-val", "0", "--duration", "2", "--situations")
    done = subprocess.run(
        [sys.executable, str(TOOL), str(out), *asked], capture_output=True, text=True, check=True, timeout=300
    )
    printed = {name: float(share) for name, share in re.findall(r"│ ([a-z ()]+?) +│ ([\d.]+) +│", done.stdout)}
    assert printed["free"] + printed["following"] + printed["stopping"] + printed["stopped"] <= 1.001
    assert sum(share for name, share in printed.items() if "route" in name) == pytest.approx(1.0, abs=0.002)
    assert not out.exists()
