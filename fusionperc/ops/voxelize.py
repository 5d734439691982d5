"""Points to bird's-eye-view cells, in compressed sparse row (CSR) form.

One integer key per point, one stable sort, and the borders between runs of equal keys: no padded block, no cap on the
points of a cell or on the number of cells, and the same answer on every device. After the sort a cell is a contiguous
segment, so reductions need no atomics and are deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fusionperc.geometry import BevGrid
from fusionperc.types import Points

Reduction = Literal["mean", "sum", "max"]


@dataclass(frozen=True)
class Cells:
    """The occupied cells of a batch; V points lie in M cells.

    Attributes:
        point_index: (V,) int64, the points inside the grid sorted by sample, then cell; points of one cell keep their
            order.
        row_splits: (M + 1,) int64; cell m holds the points ``point_index[row_splits[m]:row_splits[m + 1]]``, never
            none.
        cell_of_point: (V,) int64, the cell (row) of each sorted point.
        coordinates: (M, 2) int64, (ix, iy) of each cell.
        sample_index: (M,) int64, the sample of each cell.
        batch_size: number of samples; some may have no cell.
        grid: the grid the coordinates count in.
    """

    point_index: Tensor
    row_splits: Tensor
    cell_of_point: Tensor
    coordinates: Tensor
    sample_index: Tensor
    batch_size: int
    grid: BevGrid

    def __len__(self) -> int:
        return self.coordinates.shape[0]

    def centers_m(self) -> Tensor:
        """(M, 2) centres of the cells in the ego frame."""
        low = torch.tensor([self.grid.x_min_m, self.grid.y_min_m], device=self.coordinates.device)
        return low + (self.coordinates.float() + 0.5) * self.grid.cell_m


def voxelize(points: Points, grid: BevGrid) -> Cells:
    """Sorts points into the cells of `grid`; see `Cells`.

    Points outside the grid and points with a coordinate that is not finite are left out. `BevGrid.cell_indices` decides
    the cell (float32 true division).

    Args:
        points: a batch; any sample may be empty.
        grid: the grid.
    """
    sample = points.sample_index
    index, inside = grid.cell_indices(points.xyz_m)
    size_y = grid.shape[1]
    key = sample * grid.num_cells + index[:, 0] * size_y + index[:, 1]
    kept = inside.nonzero().squeeze(1)
    # int32 sorts in two thirds of the time of int64, where it can hold every key.
    narrow = torch.int32 if points.batch_size * grid.num_cells < 2**31 else torch.int64
    key, order = torch.sort(key[kept].to(narrow), stable=True)

    is_first = torch.ones_like(key, dtype=torch.bool)
    torch.ne(key[1:], key[:-1], out=is_first[1:])
    starts = is_first.nonzero().squeeze(1)
    cell_key = key[starts].long()
    cell = cell_key % grid.num_cells
    return Cells(
        point_index=kept[order],
        row_splits=torch.cat([starts, starts.new_tensor([len(key)])]),
        cell_of_point=is_first.long().cumsum(0) - 1,
        coordinates=torch.stack([cell // size_y, cell % size_y], dim=1),
        sample_index=cell_key // grid.num_cells,
        batch_size=points.batch_size,
        grid=grid,
    )


def reduce_cells(
    values: Float[Tensor, "points channels"], cells: Cells, how: Reduction
) -> Float[Tensor, "cells channels"]:
    """Reduces per-point values over each cell, with gradients.

    Args:
        values: (V, C), one row for each entry of ``cells.point_index``, in that (sorted) order.
        cells: from `voxelize`.
        how: 'mean', 'sum' or 'max'. Of equal maxima the first point gets the gradient.

    Raises:
        ValueError: `values` has not one row per sorted point.
    """
    if values.shape[0] != cells.point_index.shape[0]:
        raise ValueError(
            f"reduce_cells: values has {values.shape[0]} rows, the cells hold {len(cells.point_index)} points"
        )
    match how:
        case "sum":
            reduced: Tensor = _SegmentSum.apply(values, cells.row_splits, cells.cell_of_point)
        case "mean":
            # embedding_bag's own mean takes three times as long as sum and divide.
            counts = cells.row_splits.diff().to(values.dtype)
            reduced = _SegmentSum.apply(values, cells.row_splits, cells.cell_of_point) / counts[:, None]
        case "max":
            reduced = _SegmentMax.apply(values, cells.row_splits)
    return reduced


def scatter_to_bev(values: Float[Tensor, "cells channels"], cells: Cells) -> Float[Tensor, "batch channels x y"]:
    """Puts cell values onto the grid; empty cells are zero. The result lies channels-last in memory."""
    size_x, size_y = cells.grid.shape
    row = cells.sample_index * cells.grid.num_cells + cells.coordinates[:, 0] * size_y + cells.coordinates[:, 1]
    flat = values.new_zeros(cells.batch_size * cells.grid.num_cells, values.shape[1])
    flat = flat.index_copy(0, row, values)
    return flat.view(cells.batch_size, size_x, size_y, values.shape[1]).permute(0, 3, 1, 2)


class _SegmentSum(torch.autograd.Function):
    """Sum over contiguous rows. `embedding_bag`'s own backward would sort again; it is one gather here."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, row_splits: Tensor, cell_of_point: Tensor) -> Tensor:
        ctx.save_for_backward(cell_of_point)
        if not len(values):
            return values.new_zeros(row_splits.shape[0] - 1, values.shape[1])
        rows = torch.arange(values.shape[0], device=values.device)
        return F.embedding_bag(rows, values, row_splits[:-1], mode="sum")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (cell_of_point,) = ctx.saved_tensors
        return grad_outputs[0].index_select(0, cell_of_point), None, None


class _SegmentMax(torch.autograd.Function):
    """Maximum over contiguous rows; the backward writes one value per cell and channel, without collisions.

    Measured on 600,000 x 32 values in 60,000 cells, 2 cores, forward + backward: `torch.segment_reduce` 214 ms,
    `F.embedding_bag(mode="max")` 243 ms, `scatter_reduce("amax")` 251 ms, this 77 ms.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, row_splits: Tensor) -> Tensor:
        ctx.shape = values.shape
        if not len(values):
            ctx.save_for_backward(row_splits.new_zeros(0, values.shape[1]))
            return values.new_zeros(row_splits.shape[0] - 1, values.shape[1])
        rows = torch.arange(values.shape[0], device=values.device)
        # The functional form keeps the fourth result, the row of each maximum, which the backward needs.
        maximum, _, _, row_of_maximum = torch.embedding_bag(values, rows, row_splits[:-1], False, 2)
        ctx.save_for_backward(row_of_maximum)
        return maximum

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (row_of_maximum,) = ctx.saved_tensors
        grad = grad_outputs[0]
        return grad.new_zeros(ctx.shape).scatter_(0, row_of_maximum.long(), grad), None
