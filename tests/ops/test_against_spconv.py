"""Bit for bit what spconv's `PointToVoxel` gives: voxels, their order, counts and contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import IMPLEMENTATIONS, device_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_voxelize import CLOUDS

from fusionperc.config import DataConfig
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.geometry import BevGrid, VoxelGrid
from fusionperc.ops.dispatch import Implementation
from fusionperc.ops.voxelize import pad_voxels, voxelize
from fusionperc.types import Points

spconv_utils = pytest.importorskip("spconv.pytorch.utils", reason="spconv is not installed (extra `peers`)")

#: Usual grids of nuScenes models: CenterPoint's voxels (a quarter of the area, for memory), PointPillars' cells.
VOXELS = VoxelGrid(-27.0, 27.0, -27.0, 27.0, -5.0, 3.0, 0.075, 0.2)
PILLARS = BevGrid(-51.2, 51.2, -51.2, 51.2, -5.0, 3.0, 0.2)
SMALL = VoxelGrid(-1.2, 1.2, -0.6, 0.9, -1.0, 2.0, 0.3, 0.75)
#: More points than any voxel holds: the contents are whole.
MAX_POINTS = 10


def make_peer(grid: BevGrid, channels: int, max_voxels: int, max_points: int) -> object:
    return spconv_utils.PointToVoxel(
        vsize_xyz=[grid.cell_m, grid.cell_m, grid.layer_m],
        coors_range_xyz=[grid.x_min_m, grid.y_min_m, grid.z_min_m, grid.x_max_m, grid.y_max_m, grid.z_max_m],
        num_point_features=channels,
        max_num_voxels=max_voxels,
        max_num_points_per_voxel=max_points,
    )


def assert_equal_to_peer(
    xyz: torch.Tensor, features: torch.Tensor, grid: BevGrid, implementation: Implementation, peer: object
) -> int:
    """Compares in the order of first appearance, and as sets in the order of keys; returns the number of voxels."""
    device = device_of(implementation)
    table = torch.cat([xyz, features], dim=1).contiguous()
    contents, zyx, counts = peer(table)  # type: ignore[operator]
    points = Points(xyz, features, torch.zeros(len(xyz), dtype=torch.int64), 1).to(device)
    voxels = voxelize(points, grid, implementation=implementation)
    max_points = contents.shape[1]
    first = pad_voxels(table.to(device), voxels, max_points, order="first", implementation=implementation)
    assert torch.equal(first.coordinates.cpu(), zyx.flip(1).long())
    assert torch.equal(first.counts.cpu(), counts.long())
    assert torch.equal(first.values.cpu().view(torch.int32), contents.view(torch.int32)), "contents differ in bits"
    x, y, z = zyx.flip(1).long().unbind(1)
    by_key = ((x * grid.shape[1] + y) * grid.layers + z).argsort()
    in_key_order = pad_voxels(table.to(device), voxels, max_points, implementation=implementation)
    assert torch.equal(in_key_order.values.cpu().view(torch.int32), contents[by_key].view(torch.int32))
    assert torch.equal(in_key_order.counts.cpu(), counts[by_key].long())
    return len(voxels)


def grids(implementation: str) -> list[tuple[BevGrid, int]]:
    """Interpreted kernels are slow: they get the pillars alone (and every fifth point)."""
    step = 5 if implementation == "triton" and not torch.cuda.is_available() else 1
    return [(PILLARS, step)] if step > 1 else [(PILLARS, 1), (VOXELS, 1)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_simulated_sweeps(implementation: Implementation, tiny_drives: Path, tmp_path: Path) -> None:
    config = DataConfig(root=tiny_drives, version="v1.0-mini", lidar_sweeps=10)
    drives = NuScenesDrives(tiny_drives, config.version, "sim_train", config=config, cache=tmp_path)
    points = drives.read(2, None, ("lidar",)).lidar
    assert points is not None and len(points) > 100_000
    for grid, step in grids(implementation):
        xyz, features = points.xyz_m[::step], points.features[::step]
        peer = make_peer(grid, 5, 150_000, MAX_POINTS)
        assert assert_equal_to_peer(xyz, features, grid, implementation, peer) > 1000


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_real_sweeps(implementation: Implementation, real_nuscenes: Path) -> None:
    files = sorted(real_nuscenes.glob("s*/LIDAR_TOP/*.pcd.bin"))
    assert len(files) == 2
    for grid, step in grids(implementation):
        peer = make_peer(grid, 4, 60_000, MAX_POINTS)
        for file in files:
            table = torch.from_numpy(np.fromfile(file, np.float32).reshape(-1, 5))[::step]
            assert assert_equal_to_peer(table[:, :3], table[:, 3:4], grid, implementation, peer) > 1000


PEER_OF_SMALL = make_peer(SMALL, 4, 200, 3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=CLOUDS.filter(len), value=st.floats(width=32, allow_nan=False))
def test_borders_and_what_is_no_number(
    implementation: Implementation, rows: list[tuple[float, float, float, int]], value: float
) -> None:
    xyz = torch.tensor([row[:3] for row in rows], dtype=torch.float32)
    features = torch.full((len(rows), 1), value) * torch.arange(1, len(rows) + 1)[:, None].clamp(max=2)
    assert_equal_to_peer(xyz, features, SMALL, implementation, PEER_OF_SMALL)
