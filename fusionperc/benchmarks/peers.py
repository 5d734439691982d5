"""What a user would otherwise install or write for voxelization; each joins in where its library is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionperc.geometry import BevGrid


@dataclass(frozen=True)
class PeerVoxels:
    """Attributes: coordinates (M, 3) int64 (ix, iy, iz); counts (M,); mean (M, C) or block (M, K, C)."""

    coordinates: Tensor
    counts: Tensor
    mean: Tensor | None = None
    block: Tensor | None = None


@dataclass(frozen=True)
class Peer:
    """Attributes: returns, in words; make, which sets a peer up for a grid and table and gives the call to time."""

    returns: str
    make: Callable[[Tensor, BevGrid], Callable[[], PeerVoxels]]


#: Points of a voxel that spconv keeps, as in the usual nuScenes configurations.
MAX_POINTS = 10


def installed_peers(device: torch.device) -> dict[str, Peer]:
    """Those that run on a device, by name; a table's columns are x, y, z and features."""
    peers = {"torch.unique(dim=0)": Peer("mean", _unique)}
    if device.type == "cpu" and importlib.util.find_spec("numba"):
        peers["numba hash loop"] = Peer("mean", _numba_hash)
    if importlib.util.find_spec("torch_scatter"):
        peers["torch_scatter"] = Peer("mean", _torch_scatter)
    builds = packages_distributions().get("spconv", [])
    if builds and (device.type == "cpu" or any(build.startswith("spconv-cu") for build in builds)):
        peers["spconv"] = Peer(f"block of {MAX_POINTS}", _spconv)
    return peers


def _cells(table: Tensor, grid: BevGrid) -> Callable[[], tuple[Tensor, Tensor]]:
    def cells() -> tuple[Tensor, Tensor]:
        index, inside = grid.voxel_indices(table[:, :3])
        return index[inside], table[inside]

    return cells


def _unique(table: Tensor, grid: BevGrid) -> Callable[[], PeerVoxels]:
    """The textbook: unique rows of coordinates, then `index_add`."""
    cells = _cells(table, grid)

    def run() -> PeerVoxels:
        index, kept = cells()
        coordinates, inverse, counts = torch.unique(index, dim=0, return_inverse=True, return_counts=True)
        total = kept.new_zeros(len(coordinates), kept.shape[1]).index_add_(0, inverse, kept)
        return PeerVoxels(coordinates, counts, total / counts[:, None])

    return run


def _torch_scatter(table: Tensor, grid: BevGrid) -> Callable[[], PeerVoxels]:
    """Unique scalar keys, then the compiled `scatter_mean`."""
    import torch_scatter

    cells = _cells(table, grid)
    size_y, layers = grid.shape[1], grid.layers

    def run() -> PeerVoxels:
        index, kept = cells()
        key = (index[:, 0] * size_y + index[:, 1]) * layers + index[:, 2]
        unique, inverse, counts = torch.unique(key, return_inverse=True, return_counts=True)
        mean = torch_scatter.scatter_mean(kept, inverse, dim=0, dim_size=len(unique))
        column = unique // layers
        return PeerVoxels(torch.stack([column // size_y, column % size_y, unique % layers], dim=1), counts, mean)

    return run


def _spconv(table: Tensor, grid: BevGrid) -> Callable[[], PeerVoxels]:
    from spconv.pytorch.utils import PointToVoxel

    # It clears a block for this many voxels each time: no more than there are.
    max_voxels = len(_unique(table, grid)().counts)
    voxelizer = PointToVoxel(
        vsize_xyz=[grid.cell_m, grid.cell_m, grid.layer_m],
        coors_range_xyz=[grid.x_min_m, grid.y_min_m, grid.z_min_m, grid.x_max_m, grid.y_max_m, grid.z_max_m],
        num_point_features=table.shape[1],
        max_num_voxels=max_voxels,
        max_num_points_per_voxel=MAX_POINTS,
        device=table.device,
    )

    def run() -> PeerVoxels:
        block, zyx, counts = voxelizer(table)
        return PeerVoxels(zyx.flip(1), counts, block=block)

    return run


def _numba_hash(table: Tensor, grid: BevGrid) -> Callable[[], PeerVoxels]:
    """One compiled pass over the points with an open hash table, as in the CPU code of several packages."""
    low = np.array([grid.x_min_m, grid.y_min_m, grid.z_min_m], np.float32)
    size_m = np.array([grid.cell_m, grid.cell_m, grid.layer_m], np.float32)
    loop = _compiled_hash_loop()
    bits = max(4, (2 * len(table)).bit_length())

    def run() -> PeerVoxels:
        points = table.numpy()
        total = np.zeros(points.shape, np.float32)
        counts, coordinates = np.zeros(len(points), np.int32), np.empty((len(points), 3), np.int32)
        slots = np.full(1 << bits, -1, np.int32)
        number = loop(points, low, size_m, *grid.shape, grid.layers, bits, slots, total, counts, coordinates)
        return PeerVoxels(*map(torch.from_numpy, (coordinates[:number], counts[:number], total[:number])))

    return run


def _compiled_hash_loop() -> Any:
    import numba

    @numba.njit(error_model="numpy")
    def loop(points, low, size_m, num_x, num_y, num_z, bits, slots, total, counts, coordinates):  # type: ignore[no-untyped-def]
        number = 0
        key_of_voxel = np.empty(points.shape[0], np.uint64)
        mask = np.uint64((1 << bits) - 1)
        for i in range(points.shape[0]):
            x = np.floor((points[i, 0] - low[0]) / size_m[0])
            y = np.floor((points[i, 1] - low[1]) / size_m[1])
            z = np.floor((points[i, 2] - low[2]) / size_m[2])
            if not (0 <= x < num_x and 0 <= y < num_y and 0 <= z < num_z):
                continue
            key = np.uint64((np.int64(x) * num_y + np.int64(y)) * num_z + np.int64(z))
            slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)
            while True:
                voxel = slots[slot]
                if voxel < 0:
                    voxel = number
                    slots[slot] = voxel
                    key_of_voxel[voxel] = key
                    coordinates[voxel, 0], coordinates[voxel, 1], coordinates[voxel, 2] = x, y, z
                    number += 1
                    break
                if key_of_voxel[np.uint64(voxel)] == key:
                    break
                slot = (slot + np.uint64(1)) & mask
            row = np.uint64(voxel)
            counts[row] += 1
            for c in range(points.shape[1]):
                total[row, c] += points[i, c]
        for voxel in range(number):
            for c in range(points.shape[1]):
                total[voxel, c] /= counts[voxel]
        return number

    return loop
