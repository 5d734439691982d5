"""Every implementation of voxelization against a numpy oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import IMPLEMENTATIONS, PILLARS, VOXELS, device_of, make_points, random_points
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionperc.geometry import BevGrid, VoxelGrid
from fusionperc.ops.dispatch import Implementation
from fusionperc.ops.voxelize import Voxels, voxelize
from fusionperc.types import Points

Cell = tuple[int, int, int, int]


def oracle(points: Points, grid: BevGrid) -> dict[Cell, list[int]]:
    """(sample, ix, iy, iz) -> point numbers, one point at a time, in numpy float32."""
    voxels: dict[Cell, list[int]] = {}
    low = np.array([grid.x_min_m, grid.y_min_m, grid.z_min_m], np.float32)
    size = np.array([grid.cell_m, grid.cell_m, grid.layer_m], np.float32)
    count = np.array([*grid.shape, grid.layers])
    for number, (xyz, sample) in enumerate(zip(points.xyz_m.cpu().numpy(), points.sample_index.tolist(), strict=True)):
        with np.errstate(invalid="ignore"):
            index = np.floor((xyz - low) / size)
        if np.isfinite(xyz).all() and (index >= 0).all() and (index < count).all():
            voxels.setdefault((sample, *map(int, index)), []).append(number)
    return voxels


def as_dict(voxels: Voxels) -> dict[Cell, list[int]]:
    splits = voxels.row_splits.tolist()
    return {
        (sample, *index): voxels.point_index[start:end].tolist()
        for index, sample, start, end in zip(
            voxels.coordinates.tolist(), voxels.sample_index.tolist(), splits[:-1], splits[1:], strict=True
        )
    }


# Borders of voxels and of the grid, their float32 neighbours, and what is no number.
EDGES = [np.float32(v) for v in np.linspace(-1.5, 1.5, 11)]
COORDINATES = st.one_of(
    st.floats(-1.625, 1.625, width=32),
    st.sampled_from(
        [*EDGES, *(np.nextafter(e, np.float32(9)) for e in EDGES), *(np.nextafter(e, np.float32(-9)) for e in EDGES)]
    ),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30]),
)
HEIGHTS = st.one_of(
    st.floats(-1.25, 2.25, width=32),
    st.sampled_from([np.nan, -1.0, 2.0, *np.nextafter(np.float32([-1, 2]), np.float32(0)).tolist()]),
)
CLOUDS = st.lists(st.tuples(COORDINATES, COORDINATES, HEIGHTS, st.integers(0, 2)), max_size=40)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=CLOUDS)
def test_matches_the_oracle(implementation: Implementation, rows: list[tuple[float, float, float, int]]) -> None:
    xyz = np.array([row[:3] for row in rows], np.float32).reshape(-1, 3)
    points = make_points(xyz, np.array([row[3] for row in rows]), 4, device_of(implementation))
    for grid in (PILLARS, VOXELS):
        voxels = voxelize(points, grid, implementation=implementation)
        expected = oracle(points, grid)
        assert as_dict(voxels) == expected
        assert list(as_dict(voxels)) == sorted(expected)
        rows_of_points = [row for row, cell in enumerate(sorted(expected)) for _ in expected[cell]]
        assert voxels.voxel_of_point.tolist() == rows_of_points
        assert int(voxels.num_occupied) == len(voxels) == len(expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hand_made_case(implementation: Implementation) -> None:
    xyz = np.array([[0.0, 0.0, 0], [0.01, 0.02, 0], [1.19, 0.89, 0], [1.2, 0.0, 0], [0.0, 0.0, 2.0], [-1.2, -0.6, -1]])
    points = make_points(xyz, np.array([1, 1, 1, 1, 1, 0]), 3, device_of(implementation))
    pillars = voxelize(points, PILLARS, implementation=implementation)
    assert as_dict(pillars) == {(0, 0, 0, 0): [5], (1, 4, 2, 0): [0, 1], (1, 7, 4, 0): [2]}
    torch.testing.assert_close(pillars.centers_m()[1].cpu(), torch.tensor([0.15, 0.15, 0.5]))
    voxels = voxelize(points, VOXELS, implementation=implementation)
    assert as_dict(voxels) == {(0, 0, 0, 0): [5], (1, 4, 2, 1): [0, 1], (1, 7, 4, 1): [2]}
    torch.testing.assert_close(voxels.centers_m()[1].cpu(), torch.tensor([0.15, 0.15, 0.125]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_points_at_all_and_none_inside(implementation: Implementation) -> None:
    for xyz in (np.zeros((0, 3)), np.full((7, 3), 50.0)):
        points = make_points(xyz, np.zeros(len(xyz)), 2, device_of(implementation))
        voxels = voxelize(points, VOXELS, implementation=implementation)
        assert len(voxels) == 0
        assert voxels.row_splits.tolist() == [0]
        assert len(voxels.point_index) == 0
        bounded = voxelize(points, VOXELS, max_voxels=3, implementation=implementation)
        assert bounded.row_splits.tolist() == [0, 0, 0, 0]
        assert bounded.key.tolist() == [2 * VOXELS.num_voxels] * 3
        assert bounded.point_index.tolist() == list(range(len(xyz)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_many_points_in_one_voxel(implementation: Implementation) -> None:
    """Two million (interpreted: twenty thousand) points on one spot, and one elsewhere."""
    count = 20_000 if implementation == "triton" and not torch.cuda.is_available() else 2_000_000
    xyz = np.full((count, 3), 0.1)
    xyz[count // 2] = (-1.0, 0.0, 0.0)
    points = make_points(xyz, np.zeros(count), 1, device_of(implementation))
    voxels = voxelize(points, VOXELS, implementation=implementation)
    assert voxels.counts.tolist() == [1, count - 1]
    assert int(voxels.point_index[0]) == count // 2
    expected = torch.cat([torch.arange(count // 2), torch.arange(count // 2 + 1, count)])
    assert torch.equal(voxels.point_index[1:].cpu(), expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("max_voxels", [1, 20, 500])
def test_an_upper_bound_keeps_the_first_rows(implementation: Implementation, max_voxels: int) -> None:
    points = random_points(300, 3, 0, device_of(implementation))
    free = voxelize(points, VOXELS, implementation="torch")
    bounded = voxelize(points, VOXELS, max_voxels=max_voxels, implementation=implementation)
    used = min(max_voxels, len(free))
    assert len(bounded) == max_voxels
    assert bounded.is_bounded
    assert int(bounded.num_occupied) == len(free)
    assert torch.equal(bounded.row_splits[: used + 1], free.row_splits[: used + 1])
    assert torch.equal(bounded.key[:used], free.key[:used])
    assert torch.equal(bounded.coordinates[:used], free.coordinates[:used])
    in_rows = int(bounded.row_splits[-1])
    assert torch.equal(bounded.point_index[:in_rows], free.point_index[:in_rows])
    assert sorted(bounded.point_index.tolist()) == list(range(300))
    assert (bounded.counts[used:] == 0).all()
    assert (bounded.sample_index[used:] == 3).all()
    assert torch.equal(bounded.voxel_of_point[:in_rows], free.voxel_of_point[:in_rows])
    assert (bounded.voxel_of_point[in_rows:] == max_voxels).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_grids_need_longer_keys(implementation: Implementation) -> None:
    """1.6e9 cells need three digits of the radix sort; twice that no longer fits 31 bits, four times 32."""
    grid = BevGrid(-5000.0, 5000.0, -5000.0, 5000.0, -1.0, 1.0, 0.25)
    xyz = np.array([[4999.9, 4999.9, 0], [-5000, -5000, 0], [0, 0, 0]])
    for batch_size in (1, 2, 4):
        last = batch_size - 1
        points = make_points(xyz, np.array([last, last, 0]), batch_size, device_of(implementation))
        assert as_dict(voxelize(points, grid, implementation=implementation)) == {
            (last, 0, 0, 0): [1],
            (last, 39999, 39999, 0): [0],
            (0, 20000, 20000, 0): [2],
        }


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_layouts_that_are_not_contiguous(implementation: Implementation) -> None:
    points = random_points(200, 2, 1, device_of(implementation))
    table = torch.cat([points.features, points.xyz_m, points.features], dim=1)
    pair = torch.stack([points.sample_index, points.sample_index], dim=1)
    strided = Points(table[:, 1:4], points.features, pair[:, 0], 2)
    assert not strided.xyz_m.is_contiguous()
    ours, expected = voxelize(strided, VOXELS, implementation=implementation), oracle(points, VOXELS)
    assert as_dict(ours) == expected


def test_a_voxel_grid_of_one_layer_is_a_bev_grid() -> None:
    points = random_points(200, 2, 2)
    one_layer = VoxelGrid(-1.2, 1.2, -0.6, 0.9, -1.0, 2.0, 0.3, 3.0)
    assert as_dict(voxelize(points, PILLARS)) == as_dict(voxelize(points, one_layer))


def test_errors_name_what_is_wrong() -> None:
    points = make_points(np.zeros((2, 3)), np.zeros(2), 1)
    with pytest.raises(ValueError, match="sample_index must lie in"):
        make_points(np.zeros((2, 3)), np.array([0, 5]), 2)
    with pytest.raises(ValueError, match="max_voxels = 0 must be at least 1"):
        voxelize(points, PILLARS, max_voxels=0)
    with pytest.raises(ValueError, match=r"VoxelGrid: z range \[-1.0, 2.0\] m is no whole number of voxels"):
        VoxelGrid(-1.2, 1.2, -0.6, 0.9, -1.0, 2.0, 0.3, 0.7)
