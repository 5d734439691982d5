"""Tracks of objects and the drivable area around a key frame, against motion and maps known beforehand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch

from fusionperc.config import DataConfig
from fusionperc.data.maps import DrivableArea, distance_to_area, moved
from fusionperc.data.nuscenes import DataError, NuScenesDrives
from fusionperc.data.trajectory import object_tracks
from fusionperc.geometry import BevGrid
from fusionperc.types import COMMANDS


def opened(root: Path, **changes: Any) -> NuScenesDrives:
    return NuScenesDrives(root, "v1.0-mini", "all", config=DataConfig(**changes))


def test_tracks_are_linear_between_key_frames_and_stop_where_annotations_do() -> None:
    nan = float("nan")
    pose = torch.tensor([[[0.0, 0, 3.1], [2.0, 1, -3.1], [nan] * 3], [[nan] * 3, [5.0, 5, 0], [6.0, 5, 0]]]).double()
    tracks, nearest = object_tracks(torch.tensor([0.0, 0.5, 1.0]).double(), pose, (0.0, 0.25, 0.5, 0.95, 1.2))
    np.testing.assert_allclose(tracks[0, 0], [0, 0, 3.1])
    np.testing.assert_allclose(tracks[0, 1], [1, 0.5, math.pi], atol=1e-6)
    np.testing.assert_allclose(tracks[0, 2], [2, 1, -3.1])
    assert torch.isnan(tracks[0, 3:]).all() and torch.isnan(tracks[1, :2]).all()
    np.testing.assert_allclose(tracks[1, 3], [5.9, 5, 0], atol=1e-6)
    assert torch.isnan(tracks[:, 4]).all(), "0.2 s beyond the last key frame"
    assert nearest.tolist() == [0, 0, 1, 2, 2]


def test_objects_of_the_small_folder_move_as_they_do(
    written_folder: Path, pose_at: Callable[[float], np.ndarray]
) -> None:
    """The car of the small folder goes (2, 1) m/s in the world, the pedestrian stands; sample 2 is at 1 s."""
    here = opened(written_folder).surroundings(2)
    ego_T_global = np.linalg.inv(pose_at(1.0))
    assert (here.num_past, here.num_future) == (2, 6)
    assert here.objects.class_index.tolist() == [0, 5]
    for step, time in enumerate((0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)):
        center = ego_T_global @ [120.0 + 2 * (1 + time), 205.0 + (1 + time), 0.9, 1]
        np.testing.assert_allclose(here.objects.pose_m[0, step, :2], center[:2], atol=1e-4)
        yaw = math.atan2(1, 2) - 0.15
        assert float(here.objects.pose_m[0, step, 2]) == pytest.approx(yaw, abs=2e-3)
    assert torch.isnan(here.objects.pose_m[:, 8]).all(), "the drive ends three seconds later"
    assert here.objects.visibility[0, :7].tolist() == [4] * 7
    np.testing.assert_allclose(here.objects.pose_m[1, 0, :2], (ego_T_global @ [118, 196, 0.9, 1])[:2], atol=1e-4)
    speed = np.linalg.norm(np.diff(here.ego_path_m[:, :2], axis=0), axis=1) / 0.5
    np.testing.assert_allclose(speed, 6.0, atol=0.01)
    assert here.drivable is None and here.route_command == -1


def test_the_route_command_is_what_the_drive_recorded(small_folder: Path) -> None:
    rows = [{"sample_token": f"sample-0-{place}", "route": "left", "endpoint": "right"} for place in range(3)]
    (small_folder / "can_bus" / "scene-0001_command.json").write_text(json.dumps(rows))
    drives = opened(small_folder, command="route")
    assert drives.surroundings(1).route_command == COMMANDS.index("left")
    assert drives.read(1).command == COMMANDS.index("left")
    assert drives.read(5).command == -1, "nothing is recorded there"
    assert opened(small_folder).read(1).command != COMMANDS.index("right"), "the endpoint is computed from poses"


def expansion(exterior: list[tuple[float, float]], hole: list[tuple[float, float]]) -> dict[str, Any]:
    nodes = [{"token": f"n{k}", "x": x, "y": y} for k, (x, y) in enumerate([*exterior, *hole])]
    first = [f"n{k}" for k in range(len(exterior))]
    rest = [f"n{k}" for k in range(len(exterior), len(nodes))]
    polygon = {"token": "p", "exterior_node_tokens": first, "holes": [{"node_tokens": rest}]}
    return {"node": nodes, "polygon": [polygon], "drivable_area": [{"token": "d", "polygon_tokens": ["p"]}]}


@pytest.fixture
def area(tmp_path: Path) -> DrivableArea:
    """A square of 40 m around (100, 200) with a hole of 4 m in its middle."""
    square = [(80.0, 180.0), (120.0, 180.0), (120.0, 220.0), (80.0, 220.0)]
    hole = [(98.0, 198.0), (102.0, 198.0), (102.0, 202.0), (98.0, 202.0)]
    file = tmp_path / "town.json"
    file.write_text(json.dumps(expansion(square, hole)))
    return DrivableArea(file)


def test_the_area_is_seen_from_the_ego(area: DrivableArea) -> None:
    """The ego stands 10 m south of the middle and looks north: what is north of it lies ahead."""
    pose = np.eye(4)
    pose[:2, :2] = [[0, -1], [1, 0]]
    pose[:2, 3] = [100.0, 190.0]
    local = area.around(pose)
    assert local.area == pytest.approx(1600 - 16)
    inside = [(29.9, 0), (-9.9, 0), (0, 19.9), (7.9, 0), (12.1, 0)]
    outside = [(30.1, 0), (-10.1, 0), (0, 20.1), (10.0, 0), (10.0, 1.9)]
    assert [shapely.contains_xy(local, x, y) for x, y in inside] == [True] * 5
    assert [shapely.contains_xy(local, x, y) for x, y in outside] == [False] * 5


def test_distance_to_the_area_is_that_of_cell_centres(area: DrivableArea) -> None:
    grid = BevGrid(-16.0, 16.0, -16.0, 16.0, -5.0, 3.0, 1.0)
    half_plane = shapely.box(-100.0, -100.0, 100.0, 3.0)
    distance = distance_to_area(half_plane, grid)
    assert distance[:, 18].tolist() == [0.0] * 32, "centres at 2.5 m lie on it"
    assert distance[5, 19:22].tolist() == [1.0, 2.0, 3.0]
    mirrored = distance_to_area(moved(half_plane, np.diag([1.0, -1.0, 1.0, 1.0])), grid)
    np.testing.assert_array_equal(mirrored, distance[:, ::-1])
    assert (distance_to_area(shapely.box(90, 90, 95, 95), grid) > 30).all(), "far from everything, not nowhere"


def test_a_damaged_map_is_one_clear_line(small_folder: Path) -> None:
    folder = small_folder / "maps" / "expansion"
    folder.mkdir(parents=True)
    (folder / "nowhere.json").write_text('{"node": []}')
    with pytest.raises(DataError, match=r"nowhere\.json: no map expansion .*copy it again, or remove it"):
        opened(small_folder).surroundings(0)


def test_simulated_drives_stay_on_their_drivable_area(tiny_drives: Path) -> None:
    drives = NuScenesDrives(tiny_drives, "v1.0-mini", "mini_val", config=DataConfig())
    here = drives.surroundings(0)
    assert here.drivable is not None
    path = here.ego_path_m.numpy()
    assert shapely.contains_xy(here.drivable, path[:, 0], path[:, 1]).all()
    assert here.route_command in range(3)
