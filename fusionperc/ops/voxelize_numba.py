"""The CPU version of `voxelize`: keys, a radix sort and the borders of runs, in a few compiled loops.

Stock torch needs some twenty calls for the same, which is what bounds a single sweep. One core is enough: the sort is
faster than `torch.sort` on two. Indices are unsigned throughout: numba tests signed ones for Python's negative indices,
which costs the sort half its speed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusionperc.geometry import BevGrid
from fusionperc.ops import voxelize
from fusionperc.types import Points

#: Bits of a key that one pass of the radix sort orders by, at most; its counters, 64 KiB, stay in the second-level
#: cache. Two passes of 14 bits take half the time of three of 9.
RADIX_BITS = 14

Array = NDArray[Any]


def sort_into_voxels(points: Points, grid: BevGrid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `voxelize.sort_into_voxels`, which is also called where a key would not fit in 32 bits."""
    count, outside = len(points), points.batch_size * grid.num_voxels
    if outside >= 2**32 or count >= 2**32:
        return voxelize.sort_into_voxels(points, grid)
    shape = np.array([*grid.shape, grid.layers], np.uint32)
    packed, other = np.empty((2, count), np.uint64)
    _pack(
        points.xyz_m.detach().float().contiguous().view(-1).numpy(),
        None if points.batch_size == 1 else points.sample_index.contiguous().numpy(),
        np.array([grid.x_min_m, grid.y_min_m, grid.z_min_m], np.float32),
        np.array([grid.cell_m, grid.cell_m, grid.layer_m], np.float32),
        shape,
        np.uint32(outside),
        packed,
    )
    row_splits = torch.empty(count + 1, dtype=torch.int64)
    key = torch.empty(count, dtype=torch.int64)
    bits = outside.bit_length()
    passes = -(-bits // RADIX_BITS)
    num_inside = _split(packed, other, np.uint32(outside))
    packed = _radix_sort(packed, other, num_inside, passes, -(-bits // passes))
    num_voxels = _runs(packed, num_inside, row_splits.numpy(), key.numpy())
    point_index = torch.from_numpy(packed.view(np.int64))
    row_splits, key = row_splits[: num_voxels + 1], key[:num_voxels]
    coordinates = torch.empty(num_voxels, 3, dtype=torch.int64)
    _coordinates(key.numpy(), *grid.shape, grid.layers, coordinates.view(-1).numpy())
    return point_index, row_splits, key, coordinates


def pad(values: Tensor, voxels: voxelize.Voxels, max_points: int, voxel: Tensor | None, out: Tensor) -> None:
    """Fills `out` (M, K, C); `voxel` (M,) says which voxel comes at each place."""
    order = torch.arange(len(voxels)) if voxel is None else voxel
    _pad(
        values.contiguous().numpy(), voxels.point_index.numpy(), voxels.row_splits.numpy(), order.numpy(), out.numpy()
    )  # fmt: skip


# Numpy's error model: no check for division by zero, which cannot happen here and would keep the loops scalar.
@numba.njit(cache=True, nogil=True, error_model="numpy")
def _pack(
    xyz: Array, sample: Array | None, low: Array, size_m: Array, shape: Array, outside: Any, packed: Array
) -> None:
    """Key of each point (`outside` for those outside) above its number, as one word.

    Without `sample` all points are of sample 0. Straight-line code on flat arrays becomes vector instructions.
    """
    low_x, low_y, low_z = low[0], low[1], low[2]
    size_x, size_y, size_z = size_m[0], size_m[1], size_m[2]
    num_x, num_y, num_z = shape[0], shape[1], shape[2]
    end_x, end_y, end_z = np.float32(num_x), np.float32(num_y), np.float32(num_z)
    zero = np.float32(0)
    for i in range(packed.shape[0]):
        # What is not negative is floored by truncation.
        x = (xyz[3 * i] - low_x) / size_x
        y = (xyz[3 * i + 1] - low_y) / size_y
        z = (xyz[3 * i + 2] - low_z) / size_z
        inside = (x >= zero) & (x < end_x) & (y >= zero) & (y < end_y) & (z >= zero) & (z < end_z)
        ix = np.uint32(x if inside else zero)
        iy = np.uint32(y if inside else zero)
        iz = np.uint32(z if inside else zero)
        if sample is not None:
            ix += np.uint32(sample[i]) * num_x
        key = (ix * num_y + iy) * num_z + iz
        packed[i] = (np.uint64(key if inside else outside) << np.uint64(32)) | np.uint64(i)


@numba.njit(cache=True, nogil=True)
def _split(packed: Array, other: Array, outside: Any) -> Any:
    """Moves the points inside to the front, in order, and the numbers of those outside to the end of both arrays."""
    num_inside, num_outside = np.uint64(0), np.uint64(0)
    for i in range(packed.shape[0]):
        word = packed[i]
        inside = np.uint32(word >> np.uint64(32)) != outside
        packed[num_inside] = word
        other[num_outside] = word
        num_inside += np.uint64(inside)
        num_outside += np.uint64(not inside)
    packed[num_inside:] = other[:num_outside] & np.uint64(0xFFFFFFFF)
    other[num_inside:] = packed[num_inside:]
    return num_inside


@numba.njit(cache=True, nogil=True)
def _radix_sort(packed: Array, other: Array, count: Any, passes: int, width: int) -> Array:
    """Sorts the first `count` words by their upper half, stably; returns whichever array holds the result."""
    mask = np.uint32((1 << width) - 1)
    position = np.zeros((passes, 1 << width), np.uint32)
    for i in range(count):
        key = np.uint32(packed[i] >> np.uint64(32))
        for digit in range(passes):
            position[digit, (key >> np.uint32(digit * width)) & mask] += np.uint32(1)
    for digit in range(passes):
        before: Any = np.uint32(0)
        for value in range(1 << width):
            here = position[digit, value]
            position[digit, value] = before
            before += here
    for digit in range(passes):
        of_digit = position[digit]
        shift = np.uint64(32 + digit * width)
        for i in range(count):
            word = packed[i]
            bucket = np.uint32(word >> shift) & mask
            target = of_digit[bucket]
            of_digit[bucket] = target + np.uint32(1)
            other[target] = word
        packed, other = other, packed
    return packed


@numba.njit(cache=True, nogil=True)
def _runs(packed: Array, count: Any, row_splits: Array, key: Array) -> Any:
    """Key and end of each run of equal keys; leaves the points' numbers alone in `packed`. Returns the number of runs.

    A run is written at each of its points and kept at its last: a branch would be mispredicted at most runs.
    """
    run = np.uint64(0)
    row_splits[0] = 0
    for i in range(count):
        after = i + np.uint64(1)
        key_here = packed[i] >> np.uint64(32)
        packed[i] &= np.uint64(0xFFFFFFFF)
        row_splits[run + np.uint64(1)] = after
        key[run] = key_here
        run += np.uint64(after == count or key_here != packed[after] >> np.uint64(32))
    return run


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _coordinates(key: Array, num_x: int, num_y: int, num_z: int, coordinates: Array) -> None:
    """(ix, iy, iz) of keys below 2^32, one after the other.

    For such numbers the truncated float64 quotient is exact; unlike an integer one it becomes vector instructions.
    """
    for m in range(key.shape[0]):
        column = np.int64(np.float64(key[m]) / np.float64(num_z))
        row = np.int64(np.float64(column) / np.float64(num_y))
        sample = np.int64(np.float64(row) / np.float64(num_x))
        coordinates[3 * m] = row - sample * num_x
        coordinates[3 * m + 1] = column - row * num_y
        coordinates[3 * m + 2] = key[m] - column * num_z


@numba.njit(cache=True, nogil=True)
def _pad(values: Array, point_index: Array, row_splits: Array, voxel: Array, out: Array) -> None:
    """One pass over the block: each entry is written once."""
    max_points, channels = np.uint64(out.shape[1]), np.uint64(values.shape[1])
    for m in range(out.shape[0]):
        block = out[m]
        start = np.uint64(row_splits[voxel[m]])
        count = min(np.uint64(row_splits[voxel[m] + 1]) - start, max_points)
        for k in range(count):
            point = np.uint64(point_index[start + k])
            for c in range(channels):
                block[k, c] = values[point, c]
        block[count:] = 0
