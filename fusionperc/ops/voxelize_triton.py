"""The GPU version of `voxelize` and of the padded block: Triton kernels around torch's stable sort.

No atomics, so the same result in every run. With an upper bound of voxels nothing here waits for the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusionperc.geometry import BevGrid
from fusionperc.ops.segments_triton import Tuned, segment_bounds
from fusionperc.ops.voxelize import Voxels, key_dtype
from fusionperc.types import Points

#: Points of one program of the kernels below.
BLOCK = 1024


@triton.jit(do_not_specialize=["num_points"])
def keys_kernel(
    xyz, sample, key, num_points, low_x, low_y, low_z, cell_m, layer_m, size_x, size_y, layers, outside,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Key of each point, `outside` for those outside. Rounded division: the fast one moves points to other voxels."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = i < num_points
    nowhere = float("nan")
    x = tl.floor(tl.math.div_rn(tl.load(xyz + 3 * i, mask=exists, other=nowhere) - low_x, cell_m))
    y = tl.floor(tl.math.div_rn(tl.load(xyz + 3 * i + 1, mask=exists, other=nowhere) - low_y, cell_m))
    z = tl.floor(tl.math.div_rn(tl.load(xyz + 3 * i + 2, mask=exists, other=nowhere) - low_z, layer_m))
    inside = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y) & (z >= 0) & (z < layers)
    dtype = key.dtype.element_ty
    ix, iy, iz = tl.where(inside, x, 0).to(dtype), tl.where(inside, y, 0).to(dtype), tl.where(inside, z, 0).to(dtype)
    row = tl.load(sample + i, mask=exists, other=0).to(dtype) * size_x + ix
    number = (row * size_y + iy) * layers + iz
    tl.store(key + i, tl.where(inside, number, outside), mask=exists)


@triton.jit
def _is_first(key, i, num_points, outside):
    """Whether a sorted key begins a voxel, and the key."""
    exists = i < num_points
    here = tl.load(key + i, mask=exists, other=outside)
    before = tl.load(key + i - 1, mask=exists & (i > 0), other=-1)
    return (here != before) & (here != outside), here


@triton.jit(do_not_specialize=["num_points"])
def count_kernel(key, counts, num_points, outside, BLOCK: tl.constexpr):
    """Numbers of voxels that begin in each block of sorted keys, and after them those of its points inside."""
    block = tl.program_id(0)
    i = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first, here = _is_first(key, i, num_points, outside)
    tl.store(counts + block, tl.sum(first.to(tl.int64), axis=0))
    tl.store(counts + tl.num_programs(0) + block, tl.sum((here != outside).to(tl.int64), axis=0))


@triton.jit(do_not_specialize=["num_points", "max_voxels"])
def rows_kernel(
    key, voxels_until, row_splits, voxel_key, coordinates, num_points, max_voxels, size_x, size_y, layers, outside,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the row of each voxel that begins in the block; `voxels_until` counts those up to each block's end."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first, here = _is_first(key, i, num_points, outside)
    in_block = first.to(tl.int64)
    voxels_before = tl.load(voxels_until + tl.program_id(0)) - tl.sum(in_block, axis=0)
    row = voxels_before + tl.cumsum(in_block, axis=0) - 1
    # The first voxel beyond the bound still ends the last one within it.
    tl.store(row_splits + row, i, mask=first & (row <= max_voxels))
    kept = first & (row < max_voxels)
    tl.store(voxel_key + row, here.to(tl.int64), mask=kept)
    column = here // layers
    tl.store(coordinates + 3 * row, (column // size_y % size_x).to(tl.int64), mask=kept)
    tl.store(coordinates + 3 * row + 1, (column % size_y).to(tl.int64), mask=kept)
    tl.store(coordinates + 3 * row + 2, (here % layers).to(tl.int64), mask=kept)


@triton.jit(do_not_specialize=["num_voxels"])
def pad_kernel(
    values, point_index, row_splits, voxel, padded, num_voxels, channels, max_points,
    HAS_ORDER: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_VOXELS: tl.constexpr,
):  # fmt: skip
    """Writes whole (max_points, channels) blocks, zeros included, so that the output need not be cleared."""
    target = tl.program_id(0).to(tl.int64) * BLOCK_VOXELS + tl.arange(0, BLOCK_VOXELS)
    exists = target < num_voxels
    row = target
    if HAS_ORDER:
        row = tl.load(voxel + target, mask=exists, other=0)
    start, end = segment_bounds(row_splits, row, exists)
    place = tl.arange(0, POINTS)
    entry = start[:, None] + place[None, :]
    is_point = (entry < end[:, None]) & (place < max_points)[None, :]
    point = tl.load(point_index + entry, mask=is_point, other=0)
    channel = tl.arange(0, CHANNELS)
    is_channel = (channel < channels)[None, None, :]
    address = values + point[:, :, None] * channels + channel[None, None, :]
    value = tl.load(address, mask=is_point[:, :, None] & is_channel, other=0)
    address = padded + (target[:, None, None] * max_points + place[None, :, None]) * channels + channel[None, None, :]
    tl.store(address, value, mask=exists[:, None, None] & (place < max_points)[None, :, None] & is_channel)


_pad = Tuned(
    pad_kernel,
    ["channels", "max_points"],
    [{"BLOCK_VOXELS": size, "num_warps": warps} for size, warps in ((8, 4), (1, 1), (2, 2), (4, 4), (16, 4), (32, 8))],
)


def voxelize(points: Points, grid: BevGrid, max_voxels: int | None) -> Voxels:
    """See `voxelize.voxelize`. Waits for the device once, to size its results, unless `max_voxels` is given."""
    with torch.cuda.device_of(points.xyz_m):
        return _voxelize(points, grid, max_voxels)


def _voxelize(points: Points, grid: BevGrid, max_voxels: int | None) -> Voxels:
    device, count = points.xyz_m.device, len(points)
    size_x, size_y, layers = *grid.shape, grid.layers
    outside = points.batch_size * grid.num_voxels
    key = torch.empty(count, dtype=key_dtype(points, grid), device=device)
    blocks = (max(1, triton.cdiv(count, BLOCK)),)
    keys_kernel[blocks](
        points.xyz_m.detach().float().contiguous(), points.sample_index.contiguous(), key, count,
        *map(float, (grid.x_min_m, grid.y_min_m, grid.z_min_m, grid.cell_m, grid.layer_m)),
        size_x, size_y, layers, outside, BLOCK=BLOCK,
    )  # fmt: skip
    key, point_index = torch.sort(key, stable=True)
    counts = torch.empty(2, blocks[0], dtype=torch.int64, device=device)
    count_kernel[blocks](key, counts, count, outside, BLOCK=BLOCK)
    until = counts.cumsum(1)
    num_occupied, num_inside = until[:, -1]

    # Small clouds take as long as the host takes to launch: every row is written once, by the kernel where it can be.
    if max_voxels is None:
        size, inside = until[:, -1].tolist()
        point_index = point_index[:inside]
        voxel_key = torch.empty(size, dtype=torch.int64, device=device)
        coordinates = torch.empty(size, 3, dtype=torch.int64, device=device)
    else:
        size = max_voxels
        voxel_key = torch.full((size,), outside, dtype=torch.int64, device=device)
        coordinates = torch.zeros(size, 3, dtype=torch.int64, device=device)
    row_splits = num_inside.repeat(size + 1)
    rows_kernel[blocks](
        key, until, row_splits, voxel_key, coordinates, count, size, size_x, size_y, layers, outside, BLOCK=BLOCK
    )
    return Voxels(
        point_index, row_splits, voxel_key, coordinates, num_occupied, points.batch_size, grid, max_voxels is not None
    )


def pad(values: Tensor, voxels: Voxels, max_points: int, order: Tensor | None, out: Tensor) -> None:
    """Fills `out` (M, K, C); `order` (M,) says which voxel comes at each place."""
    if out.numel():
        num_voxels, _, channels = out.shape
        _pad(
            lambda meta: (triton.cdiv(num_voxels, meta["BLOCK_VOXELS"]),),
            values.contiguous(), voxels.point_index, voxels.row_splits,
            voxels.row_splits if order is None else order, out, num_voxels, channels, max_points,
            HAS_ORDER=order is not None,
            POINTS=triton.next_power_of_2(max_points),
            CHANNELS=triton.next_power_of_2(channels),
        )  # fmt: skip
