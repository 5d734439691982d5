"""What planning needs goes through augmentation with everything else, and into batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusionperc.config import DataConfig, build_config
from fusionperc.data.augment import Augmentation, apply
from fusionperc.data.loading import make_loader
from fusionperc.data.maps import BaseGeometry
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.planning import with_planning
from fusionperc.data.sample import Sample, Surroundings
from fusionperc.geometry import BevGrid, rigid, rotation_from_yaw, wrap_angle
from fusionperc.types import COMMANDS, Batch

GRID = BevGrid(-16.0, 16.0, -16.0, 16.0, -5.0, 3.0, 1.0)


@pytest.fixture
def sample(written_folder: Path) -> tuple[Sample, Surroundings]:
    drives = NuScenesDrives(written_folder, "v1.0-mini", "all", config=DataConfig(lidar_sweeps=1, radar_sweeps=1))
    return drives.read(2), drives.surroundings(2)


def batch_of(sample: tuple[Sample, Surroundings], matrix: torch.Tensor, area: BaseGeometry | None = None) -> Batch:
    augmentation = replace(Augmentation.none(), augmented_T_ego=matrix)
    around = replace(sample[1], drivable=area)
    return with_planning(apply(sample[0], augmentation), sample[0], around, {}, augmentation, GRID)


def test_agents_futures_belong_to_their_boxes(sample: tuple[Sample, Surroundings]) -> None:
    """The car (2, 1) m/s and the standing pedestrian, in the order of the boxes; the drive ends after 3 s."""
    batch = batch_of(sample, torch.eye(4, dtype=torch.float64))
    assert batch.targets.planning is not None
    (future,) = batch.targets.planning.agent_future_m
    boxes = batch.targets.boxes[0]
    for place in range(len(boxes)):
        speed = (future[place, 5, :2] - boxes.center_m[place, :2]).norm() / 3.0
        assert float(speed) == pytest.approx(float(boxes.velocity_mps[place].norm()), abs=0.01)
        assert float(future[place, 0, 2]) == pytest.approx(float(boxes.yaw_rad[place]), abs=1e-3)
    assert torch.isnan(future[:, 6:]).all()


@pytest.mark.parametrize(
    ("flip", "turn_rad", "scale"), [((1, 1), 0.0, 1.0), ((1, -1), 0.0, 1.05), ((1, 1), 0.4, 0.95), ((-1, 1), -0.3, 1.0)]
)
def test_all_go_through_the_same_matrix(
    sample: tuple[Sample, Surroundings], flip: tuple[int, int], turn_rad: float, scale: float
) -> None:
    import shapely

    linear = rotation_from_yaw(torch.tensor(turn_rad, dtype=torch.float64))
    linear = linear @ torch.diag(torch.tensor([*flip, 1.0], dtype=torch.float64)) * scale
    matrix = rigid(linear, torch.zeros(3, dtype=torch.float64))
    area = shapely.box(-3.0, -2.0, 12.0, 5.0)
    before, after = batch_of(sample, torch.eye(4, dtype=torch.float64), area), batch_of(sample, matrix, area)
    plain, moved = before.targets, after.targets
    assert plain.planning is not None and moved.planning is not None and after.ego is not None
    plane = linear[:2, :2].float()
    for a, b in (
        (plain.planning.agent_future_m[0], moved.planning.agent_future_m[0]),
        (plain.ego_future_m[0], moved.ego_future_m[0]),
    ):
        torch.testing.assert_close(b[..., :2], a[..., :2] @ plane.T, equal_nan=True)
    # The plan starts along the heading that the planner is told, at the speed it is told.
    first = moved.ego_future_m[0, 0]
    heading = torch.atan2(first[1], first[0])
    assert abs(float(wrap_angle(heading - after.ego.heading_rad[0]))) < 0.06
    assert float(after.ego.status[0, 0]) == pytest.approx(6.0 * scale, rel=1e-3)
    assert float(first[:2].norm()) / 0.5 == pytest.approx(6.0 * scale, rel=0.01)
    mirrored = flip[0] * flip[1] < 0
    assert COMMANDS[int(after.ego.command[0])] == ("right" if mirrored else "left")
    assert float(after.ego.status[0, 3]) == pytest.approx(-0.15 if mirrored else 0.15)
    # The last heading follows from the first and the turning.
    turned = float(wrap_angle(moved.ego_future_m[0, 5, 2] - after.ego.heading_rad[0]))
    assert turned == pytest.approx(-0.45 if mirrored else 0.45, abs=0.02)
    # A cell is on the area after as its place was before.
    centers = GRID.centers_m().double() @ torch.linalg.inv(linear[:2, :2]).T
    inside = shapely.contains_xy(area, centers[..., 0].numpy(), centers[..., 1].numpy())
    np.testing.assert_array_equal((moved.planning.off_road_m[0] == 0).numpy(), inside)
    np.testing.assert_array_equal(after.ego.drivable[0].numpy(), inside.astype(np.float32))


def test_without_a_map_the_area_is_unknown_not_empty(sample: tuple[Sample, Surroundings]) -> None:
    batch = batch_of(sample, torch.eye(4, dtype=torch.float64))
    assert batch.targets.planning is not None and torch.isnan(batch.targets.planning.off_road_m).all()
    assert batch.ego is not None and torch.isnan(batch.ego.drivable).all()


def test_batches_hold_what_a_planner_is_told_only_where_planning_is_on(tiny_drives: Path, tmp_path: Path) -> None:
    values = {
        "data": {"root": str(tiny_drives), "image_size": [32, 64], "batch_size": 2, "workers": 0, "command": "route"},
        "model": {"planning": {"channels": 16, "heads": 2}},
        "run": {"dir": str(tmp_path)},
    }
    config = build_config(values)
    batch = next(iter(make_loader(config, "mini_train", training=True)))
    assert batch.ego is not None and batch.targets.planning is not None
    assert batch.ego.status.shape == (2, 4) and bool(batch.ego.status.isfinite().all())
    assert batch.targets.planning.off_road_m.shape == (2, 128, 128)
    assert [len(f) for f in batch.targets.planning.agent_future_m] == [len(b) for b in batch.targets.boxes]
    unasked = next(iter(make_loader(build_config(values, ["model.planning=null"]), "mini_train", training=True)))
    assert unasked.ego is None and unasked.targets.planning is None
    chosen = make_loader(config, "mini_train", training=False, samples=[3, 1])
    tokens = [token for item in chosen for token in item.sample_tokens]
    every = [token for item in make_loader(config, "mini_train", training=False) for token in item.sample_tokens]
    assert tokens == [every[3], every[1]]
