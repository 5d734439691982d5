"""Reductions over voxels, their gradients, the padded block and the scatter, in every implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from clouds import IMPLEMENTATIONS, PILLARS, VOXELS, device_of, make_points, random_points

from fusionperc.ops.dispatch import Implementation
from fusionperc.ops.segments import segment_max, segment_sum
from fusionperc.ops.voxelize import Reduction, pad_voxels, reduce_voxels, scatter_to_bev, voxelize

# Numba has no reduction of its own.
REDUCTIONS = [item for item in IMPLEMENTATIONS if item == "torch" or getattr(item, "values", ()) == ("triton",)]
HOW = ["sum", "mean", "max"]


@pytest.mark.parametrize("implementation", REDUCTIONS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("order", ["voxels", "points"])
@pytest.mark.parametrize("channels", [1, 5, 40])
def test_reductions_match_numpy(implementation: Implementation, how: Reduction, order: str, channels: int) -> None:
    device = device_of(implementation)
    points = random_points(200, 2, 0, device)
    voxels = voxelize(points, PILLARS)
    given = torch.randn(200, channels, generator=torch.Generator().manual_seed(0)).to(device)
    in_order = given[voxels.point_index]
    reduced = reduce_voxels(
        in_order if order == "voxels" else given,
        voxels,
        how,
        order=order,  # type: ignore[arg-type]
        implementation=implementation,
    )
    for row, (start, end) in enumerate(zip(voxels.row_splits[:-1], voxels.row_splits[1:], strict=True)):
        expected = getattr(in_order[start:end].cpu().numpy(), how)(axis=0)
        np.testing.assert_allclose(reduced[row].cpu().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", REDUCTIONS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("order", ["voxels", "points"])
@pytest.mark.parametrize("max_voxels", [None, 8, 30])
def test_gradients(implementation: Implementation, how: Reduction, order: str, max_voxels: int | None) -> None:
    """Also where rows are left out (8) and where some are empty (30)."""
    device = device_of(implementation)
    points = random_points(20, 2, 1, device)
    voxels = voxelize(points, VOXELS, max_voxels=max_voxels)
    rows = len(voxels.point_index) if order == "voxels" else 20
    values = torch.randn(rows, 2, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v: scatter_to_bev(
            reduce_voxels(v, voxels, how, order=order, implementation=implementation),  # type: ignore[arg-type]
            voxels,
        ),
        (values,),
    )


@pytest.mark.parametrize("implementation", REDUCTIONS)
def test_equal_maxima_give_the_gradient_to_the_first_point(implementation: Implementation) -> None:
    device = device_of(implementation)
    voxels = voxelize(make_points(np.zeros((4, 3)), np.zeros(4), 1, device), PILLARS)
    for rows in ([[1.0], [2.0], [2.0], [0.0]], [[float("-inf")]] * 4):
        values = torch.tensor(rows, device=device, requires_grad=True)
        reduced = reduce_voxels(values, voxels, "max", implementation=implementation)
        assert reduced.item() == max(rows)[0]
        reduced.sum().backward()
        assert values.grad is not None
        assert values.grad[:, 0].tolist() == ([0, 1, 0, 0] if rows[1] != rows[0] else [1, 0, 0, 0])


@pytest.mark.parametrize("how", ["mean", "max"])
def test_order_of_points_does_not_matter(how: Reduction) -> None:
    rng = np.random.default_rng(2)
    xyz, sample = rng.uniform(-1, 1, (3000, 3)), rng.integers(0, 3, 3000)
    values, order = rng.normal(size=(3000, 4)).astype(np.float32), rng.permutation(3000)

    def bev(xyz: np.ndarray, sample: np.ndarray, values: np.ndarray) -> torch.Tensor:
        voxels = voxelize(make_points(xyz, sample, 3), PILLARS)
        return scatter_to_bev(reduce_voxels(torch.from_numpy(values), voxels, how, order="points"), voxels)

    torch.testing.assert_close(
        bev(xyz, sample, values), bev(xyz[order], sample[order], values[order]), atol=1e-6, rtol=0
    )


def test_scatter_puts_voxels_where_they_belong() -> None:
    xyz = np.array([[0.0, 0.0, 0.0], [1.19, 0.89, 0.0]])
    points = make_points(xyz, np.array([0, 2]), 3)
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    bev = scatter_to_bev(values, voxelize(points, PILLARS))
    assert bev.shape == (3, 2, 8, 5)
    assert bev[0, :, 4, 2].tolist() == [1, 2]
    assert bev[2, :, 7, 4].tolist() == [3, 4]
    assert bev.abs().sum() == 10
    layered = scatter_to_bev(values, voxelize(points, VOXELS))
    assert layered.shape == (3, 8, 8, 5)
    assert layered[2, :, 7, 4].tolist() == [0, 0, 3, 4, 0, 0, 0, 0]  # iz = 1 of four layers of two channels
    assert layered.abs().sum() == 10


@pytest.mark.parametrize("implementation", REDUCTIONS)
@pytest.mark.parametrize("how", HOW)
def test_no_points_at_all(implementation: Implementation, how: Reduction) -> None:
    device = device_of(implementation)
    for max_voxels in (None, 4):
        voxels = voxelize(make_points(np.zeros((0, 3)), np.zeros(0), 2, device), PILLARS, max_voxels=max_voxels)
        values = torch.zeros(0, 5, device=device, requires_grad=True)
        bev = scatter_to_bev(reduce_voxels(values, voxels, how, implementation=implementation), voxels)
        assert bev.shape == (2, 5, 8, 5)
        bev.sum().backward()
        assert not bev.any()


@pytest.mark.parametrize("implementation", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(implementation: Implementation, dtype: torch.dtype) -> None:
    """3008 ones: in half precision the sum would stop at 2048 (bfloat16: at 256)."""
    device = device_of(implementation)
    table = torch.ones(3008, 3, dtype=dtype, device=device)
    splits = torch.tensor([0, 0, 3008, 3008], device=device)
    total = segment_sum(table, splits, implementation=implementation)
    assert total.dtype == dtype
    assert total[1].tolist() == [3008] * 3
    assert not total[0].any()
    assert not total[2].any()


@pytest.mark.parametrize("implementation", REDUCTIONS)
def test_empty_segments_and_what_lies_beyond_the_last_border(implementation: Implementation) -> None:
    device = device_of(implementation)
    values = torch.arange(10.0, device=device)[:, None]
    splits = torch.tensor([0, 0, 3, 3, 7], device=device)
    assert segment_sum(values, splits, implementation=implementation)[:, 0].tolist() == [0, 3, 0, 18]
    maxima, row = segment_max(values, splits, implementation=implementation)
    assert maxima[:, 0].tolist() == [0, 2, 0, 6]
    assert row[[1, 3], 0].tolist() == [2, 6]
    rows, weights = torch.tensor([9, 0, 1, 2, 3, 4, 5, 8], device=device), torch.full((8,), 0.5, device=device)
    total = segment_sum(values, splits, rows=rows, weights=weights, implementation=implementation)
    assert total[:, 0].tolist() == [0, 5, 0, 7]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("order", ["key", "first"])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, None), (3, None), (20, None), (3, 12), (3, 200)])
def test_padded_block(implementation: Implementation, order: str, max_points: int, max_voxels: int | None) -> None:
    device = device_of(implementation)
    points = random_points(300, 2, 3, device)
    voxels = voxelize(points, VOXELS, max_voxels=max_voxels)
    block = torch.full((260, max_points, 1), float("nan"), device=device)
    padded = pad_voxels(
        points.features,
        voxels,
        max_points,
        order=order,  # type: ignore[arg-type]
        out=block,
        implementation=implementation,
    )
    assert padded.values.data_ptr() == block.data_ptr()
    splits = voxels.row_splits.tolist()
    members = [voxels.point_index[a:b].tolist() for a, b in itertools.pairwise(splits)]
    row_order = list(range(len(voxels)))
    if order == "first":
        row_order.sort(key=lambda row: members[row][0] if members[row] else 300)
    assert len(padded.values) == len(voxels)
    for place, row in enumerate(row_order):
        kept = members[row][:max_points]
        assert padded.counts[place] == len(kept)
        assert padded.values[place, :, 0].tolist() == kept + [0] * (max_points - len(kept))
        assert torch.equal(padded.coordinates[place], voxels.coordinates[row])
        assert padded.sample_index[place] == voxels.sample_index[row]


def test_errors_name_what_is_wrong() -> None:
    voxels = voxelize(make_points(np.zeros((2, 3)), np.zeros(2), 1), PILLARS)
    with pytest.raises(ValueError, match="3 rows, the voxels hold 2 points"):
        reduce_voxels(torch.zeros(3, 1), voxels, "sum")
    with pytest.raises(ValueError, match="max_points = 0 must be at least 1"):
        pad_voxels(torch.zeros(2, 1), voxels, 0)
    with pytest.raises(ValueError, match=r"need at least \(1, 4, 1\), contiguous, torch.float32 on cpu"):
        pad_voxels(torch.zeros(2, 1), voxels, 4, out=torch.zeros(1, 3, 1))
