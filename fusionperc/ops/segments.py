"""Sums and maxima over contiguous segments (rows of a CSR matrix): what voxelization and BEV pooling are made of.

No atomics: each output row is one segment, reduced in a fixed order, so results are the same in every run.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusionperc.ops.dispatch import Implementation, choose


def segment_sum(
    table: Tensor,
    splits: Tensor,
    *,
    rows: Tensor | None = None,
    weights: Tensor | None = None,
    is_mean: bool = False,
    implementation: Implementation = "auto",
) -> Tensor:
    """out[m] = sum of weights[j] * table[rows[j]] over splits[m] <= j < splits[m + 1]; zero for an empty segment.

    Not differentiable by itself. float16 and bfloat16 tables are summed in float32.

    Args:
        table: (N, C).
        splits: (M + 1,) integers, ascending.
        rows: (J,) integers of the type of `splits`; None takes j itself.
        weights: (J,) of the type of `table`, or float32; None takes 1.
        is_mean: divides each sum by the number of its entries.

    Returns:
        (M, C) of the type of `table`.
    """
    if choose("segment_sum", table.device, implementation, ("triton",)) == "triton":
        from fusionperc.ops.segments_triton import segment_sum as triton_segment_sum

        return triton_segment_sum(table, splits, rows, weights, is_mean)
    if not len(table) or (rows is not None and not len(rows)):
        return table.new_zeros(splits.shape[0] - 1, table.shape[1])
    if rows is None:
        rows = torch.arange(table.shape[0], device=table.device, dtype=splits.dtype)
    # The last border is given too: what lies beyond it belongs to no segment.
    wide = table.float() if table.dtype in (torch.float16, torch.bfloat16) else table
    weights = None if weights is None else weights.to(wide.dtype)
    # Its own mean takes three times as long as sum and divide.
    total = F.embedding_bag(rows, wide, splits, mode="sum", per_sample_weights=weights)[:-1]
    if is_mean:
        total.div_(splits.diff().clamp(min=1).to(wide.dtype)[:, None])
    return total.to(table.dtype)


def segment_max(values: Tensor, splits: Tensor, *, implementation: Implementation = "auto") -> tuple[Tensor, Tensor]:
    """Maximum of values[splits[m] : splits[m + 1]] for each column, and the row it stands in (of equals the first).

    Not differentiable by itself. An empty segment gives 0 and row -1.

    Args:
        values: (J, C).
        splits: (M + 1,) integers, ascending.

    Returns:
        (M, C) maxima and (M, C) int64 rows.
    """
    if choose("segment_max", values.device, implementation, ("triton",)) == "triton":
        from fusionperc.ops.segments_triton import segment_max as triton_segment_max

        return triton_segment_max(values, splits)
    shape = (splits.shape[0] - 1, values.shape[1])
    if not len(values):
        return values.new_zeros(shape), splits.new_full(shape, -1, dtype=torch.int64)
    rows = torch.arange(values.shape[0], device=values.device, dtype=splits.dtype)
    # The functional form keeps the fourth result, the row of each maximum.
    maxima, _, _, row = torch.embedding_bag(values, rows, splits, False, 2)
    return maxima[:-1], row[:-1].long()
