"""What only a GPU can show: the CPU's results, the same bits in every run, no waiting within a CUDA graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusionperc.benchmarks.operations import compare_padding, compare_pooling, compare_voxelization
from fusionperc.benchmarks.timing import captured
from fusionperc.geometry import BevGrid, VoxelGrid
from fusionperc.ops.bev_pool import FrustumRanks, bev_pool
from fusionperc.ops.voxelize import pad_voxels, reduce_voxels, scatter_to_bev, voxelize
from fusionperc.types import Points

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GRIDS = [
    BevGrid(-51.2, 51.2, -51.2, 51.2, -5.0, 3.0, 0.2),
    VoxelGrid(-54.0, 54.0, -54.0, 54.0, -5.0, 3.0, 0.075, 0.2),
]


def cloud(count: int, seed: int = 0) -> Points:
    """Two samples; density falls off with distance as a LiDAR's does, and some points lie outside."""
    rng = np.random.default_rng(seed)
    distance, angle = rng.exponential(15, count) + 1, rng.uniform(0, 2 * np.pi, count)
    xyz = np.stack([distance * np.cos(angle), distance * np.sin(angle), rng.normal(-1, 1, count)], axis=1)
    features = rng.normal(size=(count, 2))
    sample = np.sort(rng.integers(0, 2, count))
    return Points(torch.from_numpy(xyz).float(), torch.from_numpy(features).float(), torch.from_numpy(sample), 2)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 1000, 300_000])
def test_equal_to_the_cpu(grid: BevGrid, count: int) -> None:
    points = cloud(count)
    reference, ours = voxelize(points, grid, implementation="torch"), voxelize(points.to("cuda"), grid)
    for name in ("point_index", "row_splits", "key", "coordinates", "num_occupied"):
        assert torch.equal(getattr(ours, name).cpu(), getattr(reference, name)), name
    for how in ("mean", "sum", "max"):
        a = reduce_voxels(points.xyz_m, reference, how, order="points")
        b = reduce_voxels(points.xyz_m.cuda(), ours, how, order="points")
        torch.testing.assert_close(b.cpu(), a, rtol=1e-5, atol=1e-5)
    a, b = pad_voxels(points.features, reference, 10), pad_voxels(points.features.cuda(), ours, 10)
    assert torch.equal(a.values, b.values.cpu())


@pytest.mark.parametrize("grid", GRIDS)
def test_a_hundred_runs_give_the_same_bits(grid: BevGrid) -> None:
    points = cloud(100_000).to("cuda")
    weight = torch.randn(2, 3 * grid.layers, *grid.shape, device="cuda") if grid.layers == 1 else None

    def run() -> list[torch.Tensor]:
        values = points.xyz_m.clone().requires_grad_()
        voxels = voxelize(points, grid)
        results = [voxels.point_index, voxels.row_splits, voxels.key]
        for how in ("mean", "max"):
            reduced = reduce_voxels(values, voxels, how, order="points")
            loss = (scatter_to_bev(reduced, voxels) * weight).sum() if weight is not None else reduced.square().sum()
            results += [reduced, torch.autograd.grad(loss, values)[0]]
        return results

    first = run()
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


def test_bounded_voxelization_runs_in_a_cuda_graph() -> None:
    grid, bound = GRIDS[0], 60_000
    static = cloud(100_000).to("cuda")

    def step() -> torch.Tensor:
        pillars = voxelize(static, grid, max_voxels=bound)
        return scatter_to_bev(reduce_voxels(static.xyz_m, pillars, "mean", order="points"), pillars)

    graph, result = captured(step)
    for seed in (1, 2):
        other = cloud(100_000, seed)
        static.xyz_m.copy_(other.xyz_m)
        static.sample_index.copy_(other.sample_index)
        graph.replay()
        pillars = voxelize(other, grid, implementation="torch")
        expected = scatter_to_bev(reduce_voxels(other.xyz_m, pillars, "mean", order="points"), pillars)
        torch.testing.assert_close(result.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_the_benchmark_runs() -> None:
    points = cloud(20_000).to("cuda")
    one = Points(points.xyz_m, points.features, torch.zeros_like(points.sample_index), 1)
    rows = compare_voxelization(one, 1) + compare_padding(one, 1) + compare_pooling(1, torch.device("cuda"), (128,))
    assert {"fusionperc, triton", "fusionperc, triton, CUDA graph"} <= {row.candidate for row in rows}
    assert all(row.times.minimum_ms > 0 for row in rows)


def test_bev_pool_is_the_same_in_every_run() -> None:
    rng = np.random.default_rng(0)
    pixels, depths, channels = 2000, 60, 80
    frustum = torch.from_numpy(np.sort(rng.choice(pixels * depths, 70_000, replace=False)))
    cell = torch.from_numpy(rng.integers(0, 128 * 128, len(frustum)))
    order = torch.sort(cell, stable=True).indices
    borders = torch.arange(128 * 128 + 1)
    ranks = FrustumRanks(
        frustum[order] // depths, frustum[order], torch.searchsorted(cell[order], borders), cell,
        torch.searchsorted(frustum // depths, torch.arange(pixels + 1)), frustum, 1,
        BevGrid(-51.2, 51.2, -51.2, 51.2, -5.0, 3.0, 0.8),
    )  # fmt: skip
    on_gpu = FrustumRanks(*(v.cuda() if isinstance(v, torch.Tensor) else v for v in vars(ranks).values()))
    features, depth = torch.randn(pixels, channels), torch.rand(pixels, depths)
    weight = torch.randn(1, channels, 128, 128)

    def run(device: str, ranks: FrustumRanks) -> list[torch.Tensor]:
        f, d = features.to(device).requires_grad_(), depth.to(device).requires_grad_()
        pooled = bev_pool(f, d, ranks)
        return [pooled, *torch.autograd.grad((pooled * weight.to(device)).sum(), (f, d))]

    first = run("cuda", on_gpu)
    for a, b in zip(run("cpu", ranks), first, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-4, atol=1e-4)
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(run("cuda", on_gpu), first, strict=True))
