"""Voxelization and BEV pooling beside their peers: every result is checked before anything is timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusionperc.benchmarks.peers import MAX_POINTS, PeerVoxels, installed_peers
from fusionperc.benchmarks.timing import Times, alternate, captured, peak_memory_mib
from fusionperc.config import DataConfig
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.geometry import BevGrid, VoxelGrid, rigid, rotation_from_yaw
from fusionperc.ops.bev_pool import bev_pool, frustum_points, frustum_ranks
from fusionperc.ops.dispatch import Implementation, available
from fusionperc.ops.voxelize import PaddedVoxels, pad_voxels, reduce_voxels, voxelize
from fusionperc.types import LIDAR_FEATURES, Points

#: The grids of the usual nuScenes models: CenterPoint's voxels and PointPillars' pillars.
GRIDS: dict[str, BevGrid] = {
    "voxels of 0.075 m": VoxelGrid(-54.0, 54.0, -54.0, 54.0, -5.0, 3.0, 0.075, 0.2),
    "pillars of 0.2 m": BevGrid(-51.2, 51.2, -51.2, 51.2, -5.0, 3.0, 0.2),
}


@dataclass(frozen=True)
class Row:
    """One candidate of a comparison.

    Attributes:
        case, candidate: what was run.
        is_ours: of this package, or a peer.
        returns: in words, since peers do not all return the same.
        times: of the rounds.
        memory_mib: peak, where it was measured.
    """

    case: str
    candidate: str
    is_ours: bool
    returns: str
    times: Times
    memory_mib: float | None = None


def recorded_cloud(root: Path, version: str, split: str, cache: Path) -> Points:
    """Ten sweeps of that one of a split's first forty samples before which the ego moved farthest.

    Raises:
        DataError: the folder cannot be read, or no sample has LiDAR.
    """
    config = DataConfig(root=root, version=version, lidar_sweeps=10)
    drives = NuScenesDrives(root, version, split, config=config, cache=cache)
    samples = [drives.read(index, None, ("lidar",)) for index in range(min(len(drives), 40))]
    moved_m = [float(sample.ego_past_m[-1, :2].norm()) for sample in samples]
    points = samples[int(np.argmax(np.nan_to_num(moved_m)))].lidar
    if points is None:
        raise ValueError(f"{root}: the sample chosen has no LiDAR file; name a complete folder")
    return points


def made_up_cloud(seed: int = 0) -> Points:
    """Ten sweeps of 32 rings from an ego driving 5 m/s between walls, like LiDAR in density; no data set is needed."""
    rng = np.random.default_rng(seed)
    azimuth, elevation = np.meshgrid(
        np.linspace(0, 2 * np.pi, 1084, endpoint=False), np.radians(np.linspace(-30, 10, 32))
    )
    sweeps = []
    for number in range(10):
        wall_m = 8 + 30 * np.abs(np.sin(3 * azimuth + 0.02 * number)) + 6 * np.sign(np.sin(17 * azimuth))
        ground_m = np.where(elevation < 0, 1.84 / np.sin(np.maximum(-elevation, 1e-3)), np.inf)
        range_m = np.minimum(wall_m / np.cos(elevation), ground_m) + rng.normal(0, 0.02, azimuth.shape)
        xyz = np.stack(
            [
                range_m * np.cos(elevation) * np.cos(azimuth) - 0.25 * number,
                range_m * np.cos(elevation) * np.sin(azimuth),
                range_m * np.sin(elevation) + 1.84,
            ],
            axis=-1,
        )[range_m < 80]
        intensity = rng.uniform(0, 100, len(xyz))
        sweeps.append(np.column_stack([xyz, intensity, np.full(len(xyz), 0.05 * number)]))
    table = torch.from_numpy(np.concatenate(sweeps)).float()
    return Points(table[:, :3].contiguous(), table[:, 3:].contiguous(), torch.zeros(len(table), dtype=torch.int64), 1)


def compare_voxelization(points: Points, rounds: int) -> list[Row]:
    """Means of all points of each voxel, for ten sweeps and for the newest alone."""
    newest = points.features[:, LIDAR_FEATURES.index("time_delta_s")]
    clouds = {"10 sweeps": points, "1 sweep": _subset(points, newest == newest.min())}
    rows = []
    for cloud_name, cloud in clouds.items():
        table = torch.cat([cloud.xyz_m, cloud.features], dim=1).contiguous()
        for grid_name, grid in GRIDS.items():
            candidates: dict[str, Callable[[], object]] = {}
            returns = {}
            for name in available(table.device, ("triton", "numba")):
                candidates[f"fusionperc, {name}"] = partial(_our_mean, cloud, table, grid, name)
                returns[f"fusionperc, {name}"] = "mean and order"
            if table.is_cuda:
                in_graph = "fusionperc, triton, CUDA graph"
                candidates[in_graph], returns[in_graph] = _graph_of_mean(cloud, table, grid), "mean and order"
            for peer_name, peer in installed_peers(table.device).items():
                run = peer.make(table, grid)
                _check(peer_name, run(), cloud, table, grid)
                candidates[peer_name], returns[peer_name] = run, peer.returns
            times = alternate(candidates, rounds, table.device)
            case = f"{grid_name}, {cloud_name} ({len(cloud):,} points)"
            rows += [Row(case, name, name.startswith("fusionperc"), returns[name], times[name]) for name in candidates]
    return rows


def compare_padding(points: Points, rounds: int) -> list[Row]:
    """The padded block of ten points a voxel, from points to block, in the order of keys."""
    peer = installed_peers(points.xyz_m.device).get("spconv")
    if peer is None:
        return []
    table = torch.cat([points.xyz_m, points.features], dim=1).contiguous()
    rows = []
    for grid_name, grid in GRIDS.items():
        candidates: dict[str, Callable[[], object]] = {"spconv": peer.make(table, grid)}
        out = table.new_empty(len(table), MAX_POINTS, table.shape[1])
        for name in available(table.device, ("triton", "numba")):
            candidates[f"fusionperc, {name}"] = partial(_our_block, points, table, grid, out, name)
        times = alternate(candidates, rounds, table.device)
        case = f"padded, {grid_name} ({len(points):,} points)"
        returns = f"block of {MAX_POINTS}"
        rows += [Row(case, name, name.startswith("fusionperc"), returns, times[name]) for name in candidates]
    return rows


def scaling(points: Points, rounds: int) -> dict[str, dict[int, float]]:
    """Median milliseconds of voxelization with means, by grid, for 10,000 to 3 million points.

    Larger clouds are several copies of the cloud, moved by whole decimetres; smaller ones a random part.
    """
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000]
    generator = torch.Generator().manual_seed(0)
    device = points.xyz_m.device
    measured: dict[str, dict[int, float]] = {}
    for grid_name, grid in GRIDS.items():
        for size in sizes:
            copies = [points.xyz_m + 0.1 * number for number in range(math.ceil(size / len(points)))]
            xyz = torch.cat(copies)
            chosen = torch.randperm(len(xyz), generator=generator)[:size].sort().values.to(device)
            xyz = xyz[chosen].contiguous()
            cloud = Points(xyz, xyz.new_zeros(size, 0), torch.zeros(size, dtype=torch.int64, device=device), 1)
            run = partial(_our_mean, cloud, xyz, grid, "auto")
            measured.setdefault(grid_name, {})[size] = alternate({"": run}, rounds, device)[""].median_ms
    return measured


def compare_pooling(rounds: int, device: torch.device, sizes: tuple[int, ...] = (128, 180)) -> list[Row]:
    """Lift-splat of six cameras, 16 x 44 feature pixels, 118 depths and 80 channels: forward, forward + backward.

    Grids of 128 cells a side span 102.4 m, of 180 cells 108 m, as in the usual nuScenes models.
    """
    rows = []
    for size in sizes:
        half_m = 51.2 if size == 128 else 54.0
        grid = BevGrid(-half_m, half_m, -half_m, half_m, -5.0, 3.0, 2 * half_m / size)
        problem = _PoolingProblem(grid, device)
        problem.check()
        for backward in (False, True):
            candidates: dict[str, Callable[[], object]] = {
                "naive lift-splat": partial(problem.naive, backward),
                "cumulative sums": partial(problem.cumulative, backward),
            }
            for name in available(device, ("triton",)):
                candidates[f"fusionperc, {name}"] = partial(problem.ours, backward, name)
            times = alternate(candidates, rounds, device)
            case = f"BEV pooling {size} x {size}, {'forward + backward' if backward else 'forward'}"
            rows += [
                Row(case, name, name.startswith("fusionperc"), "BEV", times[name], peak_memory_mib(run, device))
                for name, run in candidates.items()
            ]
    return rows


class _PoolingProblem:
    """Six level cameras around the ego, random features and depths."""

    def __init__(self, grid: BevGrid, device: torch.device) -> None:
        self.grid, self.channels = grid, 80
        generator = torch.Generator().manual_seed(0)
        shape, stride_px = (16, 44), 16
        intrinsics = torch.tensor([[557.0, 0, 352], [0, 557.0, 128], [0, 0, 1]]).expand(1, 6, 3, 3)
        camera_R_body = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
        views = [camera_R_body @ rotation_from_yaw(torch.tensor(-math.pi / 3 * i)) for i in range(6)]
        camera_T_ego = torch.stack([rigid(view, -view @ torch.tensor([0, 0, 1.5])) for view in views])[None]
        depth_m = torch.linspace(1.25, 59.75, 118)
        intrinsics, camera_T_ego, depth_m = (value.to(device) for value in (intrinsics, camera_T_ego, depth_m))
        present = torch.ones(1, 6, dtype=torch.bool, device=device)
        self.ranks = frustum_ranks(intrinsics, camera_T_ego, present, depth_m, shape, stride_px, grid)
        xyz = frustum_points(intrinsics, camera_T_ego, depth_m, shape, stride_px).reshape(-1, 3)
        index, inside = grid.cell_indices(xyz)
        self.kept = inside.nonzero().squeeze(1)
        self.cell = (index[:, 0] * grid.shape[1] + index[:, 1])[self.kept]
        pixels = 6 * shape[0] * shape[1]
        self.features = torch.randn(pixels, self.channels, generator=generator).to(device).requires_grad_()
        self.depth = torch.rand(pixels, len(depth_m), generator=generator).softmax(1).to(device).requires_grad_()
        gradient = torch.randn(1, self.channels, *grid.shape, generator=generator).to(device)
        self.gradient = gradient.contiguous(memory_format=torch.channels_last)

    def _finish(self, bev: Tensor, backward: bool) -> list[Tensor]:
        if not backward:
            return [bev]
        return [bev, *torch.autograd.grad(bev, (self.features, self.depth), self.gradient)]

    def _lifted(self) -> Tensor:
        return (self.depth[:, :, None] * self.features[:, None]).reshape(-1, self.channels)[self.kept]

    def _as_map(self, flat: Tensor) -> Tensor:
        return flat.view(1, *self.grid.shape, self.channels).permute(0, 3, 1, 2)

    def naive(self, backward: bool) -> list[Tensor]:
        """The whole frustum times the features, then `index_add`."""
        flat = self.features.new_zeros(self.grid.num_cells, self.channels).index_add(0, self.cell, self._lifted())
        return self._finish(self._as_map(flat), backward)

    def cumulative(self, backward: bool) -> list[Tensor]:
        """Lift-splat's own trick: sort by cell, cumulative sum, differences at the borders."""
        order = self.cell.argsort()
        cell, total = self.cell[order], self._lifted()[order].cumsum(0)
        is_last = torch.ones_like(cell, dtype=torch.bool)
        is_last[:-1] = cell[1:] != cell[:-1]
        total = total[is_last]
        sums = torch.cat([total[:1], total[1:] - total[:-1]])
        flat = self.features.new_zeros(self.grid.num_cells, self.channels).index_copy(0, cell[is_last], sums)
        return self._finish(self._as_map(flat), backward)

    def ours(self, backward: bool, implementation: Implementation) -> list[Tensor]:
        return self._finish(bev_pool(self.features, self.depth, self.ranks, implementation=implementation), backward)

    def check(self) -> None:
        reference = self.naive(True)
        for implementation in available(self.features.device, ("triton",)):
            for ours, expected in zip(self.ours(True, implementation), reference, strict=True):
                torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def _our_mean(points: Points, table: Tensor, grid: BevGrid, implementation: Implementation) -> tuple[Tensor, Tensor]:
    voxels = voxelize(points, grid, implementation=implementation)
    return voxels.coordinates, reduce_voxels(table, voxels, "mean", order="points")


def _graph_of_mean(points: Points, table: Tensor, grid: BevGrid) -> Callable[[], object]:
    """Our means with an upper bound of voxels (here as many as there are), captured in a CUDA graph."""
    bound = len(voxelize(points, grid))

    def run() -> Tensor:
        return reduce_voxels(table, voxelize(points, grid, max_voxels=bound), "mean", order="points")

    graph, _ = captured(run)
    return graph.replay


def _our_block(
    points: Points, table: Tensor, grid: BevGrid, out: Tensor, implementation: Implementation
) -> PaddedVoxels:
    voxels = voxelize(points, grid, implementation=implementation)
    return pad_voxels(table, voxels, MAX_POINTS, out=out, implementation=implementation)


def _subset(points: Points, keep: Tensor) -> Points:
    return Points(points.xyz_m[keep], points.features[keep], points.sample_index[keep], points.batch_size)


def _check(name: str, peer: PeerVoxels, points: Points, table: Tensor, grid: BevGrid) -> None:
    """Compares a peer with the reference voxel for voxel.

    Raises:
        ValueError: they differ; then their times mean nothing.
    """
    voxels = voxelize(points, grid, implementation="torch")
    x, y, z = peer.coordinates.long().unbind(1)
    order = ((x * grid.shape[1] + y) * grid.layers + z).argsort()
    same = torch.equal(peer.coordinates[order].long(), voxels.coordinates)
    if same and peer.block is not None:
        padded = pad_voxels(table, voxels, peer.block.shape[1], implementation="torch")
        block, expected = peer.block[order], padded.values
        if table.is_cuda:
            # Which of too many points a GPU's hash table keeps, and in which order, is left to chance.
            few = padded.counts < peer.block.shape[1]
            block, expected = block[few].sort(1).values, expected[few].sort(1).values
        same = torch.equal(block, expected) and torch.equal(peer.counts[order].long(), padded.counts)
    elif same and peer.mean is not None:
        mean = reduce_voxels(table, voxels, "mean", order="points", implementation="torch")
        same = torch.allclose(peer.mean[order], mean, rtol=1e-4, atol=1e-4)
        same = same and torch.equal(peer.counts[order].long(), voxels.counts)
    if not same:
        raise ValueError(f"{name} does not give the reference's voxels: its times cannot be compared")
