"""Voxelization against a numpy oracle, its reductions and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionperc.geometry import BevGrid
from fusionperc.ops.voxelize import Cells, reduce_cells, scatter_to_bev, voxelize
from fusionperc.types import Points

GRID = BevGrid(-1.2, 1.2, -0.6, 0.9, -1.0, 2.0, 0.3)  # 8 x 5 cells


def make_points(xyz: np.ndarray, sample: np.ndarray, batch_size: int) -> Points:
    return Points(
        torch.from_numpy(xyz.astype(np.float32)).reshape(-1, 3),
        torch.arange(len(sample), dtype=torch.float32)[:, None],
        torch.from_numpy(sample.astype(np.int64)),
        batch_size,
    )


def oracle(points: Points, grid: BevGrid) -> dict[tuple[int, int, int], list[int]]:
    """(sample, ix, iy) -> point numbers, one point at a time, in numpy float32."""
    cells: dict[tuple[int, int, int], list[int]] = {}
    low = np.array([grid.x_min_m, grid.y_min_m], np.float32)
    for number, (xyz, sample) in enumerate(zip(points.xyz_m.numpy(), points.sample_index.tolist(), strict=True)):
        if not np.isfinite(xyz).all() or not grid.z_min_m <= xyz[2] < grid.z_max_m:
            continue
        ix, iy = np.floor((xyz[:2] - low) / np.float32(grid.cell_m))
        if 0 <= ix < grid.shape[0] and 0 <= iy < grid.shape[1]:
            cells.setdefault((sample, int(ix), int(iy)), []).append(number)
    return cells


def as_dict(cells: Cells) -> dict[tuple[int, int, int], list[int]]:
    splits = cells.row_splits.tolist()
    return {
        (int(sample), int(ix), int(iy)): cells.point_index[start:end].tolist()
        for (ix, iy), sample, start, end in zip(
            cells.coordinates, cells.sample_index, splits[:-1], splits[1:], strict=True
        )
    }


# Borders of cells and of the grid, their float32 neighbours, and what is no number.
EDGES = [np.float32(v) for v in np.linspace(-1.5, 1.5, 11)]
COORDINATES = st.one_of(
    st.floats(-1.625, 1.625, width=32),
    st.sampled_from(
        [*EDGES, *(np.nextafter(e, np.float32(9)) for e in EDGES), *(np.nextafter(e, np.float32(-9)) for e in EDGES)]
    ),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e30]),
)
HEIGHTS = st.one_of(st.floats(-1.25, 2.25, width=32), st.sampled_from([np.nan, -1.0, 2.0]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(COORDINATES, COORDINATES, HEIGHTS, st.integers(0, 2)), max_size=40))
def test_matches_the_oracle(rows: list[tuple[float, float, float, int]]) -> None:
    xyz = np.array([row[:3] for row in rows], np.float32).reshape(-1, 3)
    points = make_points(xyz, np.array([row[3] for row in rows]), 4)
    cells = voxelize(points, GRID)
    expected = oracle(points, GRID)
    assert as_dict(cells) == expected
    assert list(as_dict(cells)) == sorted(expected)
    assert cells.cell_of_point.tolist() == [row for row, key in enumerate(sorted(expected)) for _ in expected[key]]


def test_hand_made_case() -> None:
    xyz = np.array([[0.0, 0.0, 0], [0.01, 0.02, 0], [1.19, 0.89, 0], [1.2, 0.0, 0], [0.0, 0.0, 2.0], [-1.2, -0.6, -1]])
    cells = voxelize(make_points(xyz, np.array([1, 1, 1, 1, 1, 0]), 3), GRID)
    assert as_dict(cells) == {(0, 0, 0): [5], (1, 4, 2): [0, 1], (1, 7, 4): [2]}
    torch.testing.assert_close(cells.centers_m()[1], torch.tensor([0.15, 0.15]))


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_reductions_match_numpy(how: str) -> None:
    rng = np.random.default_rng(0)
    points = make_points(rng.uniform(-1, 1, (200, 3)), rng.integers(0, 2, 200), 2)
    cells = voxelize(points, GRID)
    values = torch.randn(len(cells.point_index), 3, generator=torch.Generator().manual_seed(0))
    reduced = reduce_cells(values, cells, how)  # type: ignore[arg-type]
    for row, (start, end) in enumerate(zip(cells.row_splits[:-1], cells.row_splits[1:], strict=True)):
        expected = getattr(values[start:end].numpy(), how)(axis=0)
        np.testing.assert_allclose(reduced[row].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_gradients(how: str) -> None:
    rng = np.random.default_rng(1)
    cells = voxelize(make_points(rng.uniform(-0.6, 0.6, (30, 3)), rng.integers(0, 2, 30), 2), GRID)
    values = torch.randn(len(cells.point_index), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v: scatter_to_bev(reduce_cells(v, cells, how), cells),  # type: ignore[arg-type]
        (values,),
    )


def test_equal_maxima_give_the_gradient_to_the_first_point() -> None:
    cells = voxelize(make_points(np.zeros((3, 3)), np.zeros(3), 1), GRID)
    values = torch.tensor([[1.0], [2.0], [2.0]], requires_grad=True)
    reduce_cells(values, cells, "max").sum().backward()
    assert values.grad is not None
    assert values.grad[:, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_order_of_points_does_not_matter(how: str) -> None:
    rng = np.random.default_rng(2)
    xyz, sample = rng.uniform(-1, 1, (300, 3)), rng.integers(0, 3, 300)
    values, order = rng.normal(size=(300, 4)).astype(np.float32), rng.permutation(300)

    def bev(xyz: np.ndarray, sample: np.ndarray, values: np.ndarray) -> torch.Tensor:
        cells = voxelize(make_points(xyz, sample, 3), GRID)
        return scatter_to_bev(reduce_cells(torch.from_numpy(values)[cells.point_index], cells, how), cells)  # type: ignore[arg-type]

    torch.testing.assert_close(bev(xyz, sample, values), bev(xyz[order], sample[order], values[order]))


def test_scatter_puts_cells_where_they_belong() -> None:
    xyz = np.array([[0.0, 0.0, 0.0], [1.19, 0.89, 0.0]])
    cells = voxelize(make_points(xyz, np.array([0, 2]), 3), GRID)
    bev = scatter_to_bev(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), cells)
    assert bev.shape == (3, 2, 8, 5)
    assert bev[0, :, 4, 2].tolist() == [1, 2]
    assert bev[2, :, 7, 4].tolist() == [3, 4]
    assert bev.abs().sum() == 10


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_no_points_at_all(how: str) -> None:
    cells = voxelize(make_points(np.zeros((0, 3)), np.zeros(0), 2), GRID)
    assert len(cells) == 0
    values = torch.zeros(0, 5, requires_grad=True)
    bev = scatter_to_bev(reduce_cells(values, cells, how), cells)  # type: ignore[arg-type]
    assert bev.shape == (2, 5, 8, 5)
    bev.sum().backward()
    assert not bev.any()


def test_a_large_grid_needs_64_bit_keys() -> None:
    grid = BevGrid(-5000.0, 5000.0, -5000.0, 5000.0, -1.0, 1.0, 0.25)  # 1.6e9 cells
    points = make_points(np.array([[4999.9, 4999.9, 0], [-5000, -5000, 0]]), np.array([1, 1]), 2)
    assert as_dict(voxelize(points, grid)) == {(1, 0, 0): [1], (1, 39999, 39999): [0]}


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="sample_index must lie in"):
        make_points(np.zeros((2, 3)), np.array([0, 5]), 2)
    cells = voxelize(make_points(np.zeros((2, 3)), np.zeros(2), 1), GRID)
    with pytest.raises(ValueError, match="3 rows"):
        reduce_cells(torch.zeros(3, 1), cells, "sum")
