"""The GPU version of `segments`, and how this package's Triton kernels get their block sizes."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusionperc.ops.dispatch import triton_is_interpreted


class Tuned:
    """A kernel whose block sizes are measured at first use on each kind of GPU and kept on disk.

    Interpreted on a CPU it takes the first of `choices`.

    Args:
        kernel: made by `triton.jit`.
        key: names of the arguments for each value of which other sizes may be best.
        choices: block sizes to try: constants of the kernel, and num_warps.
    """

    def __init__(self, kernel: Any, key: list[str], choices: list[dict[str, int]]) -> None:
        if triton_is_interpreted():
            self.kernel, self.constants = kernel, {n: v for n, v in choices[0].items() if n != "num_warps"}
            return
        configs = [
            triton.Config({n: v for n, v in choice.items() if n != "num_warps"}, num_warps=choice.get("num_warps", 4))
            for choice in choices
        ]
        self.kernel, self.constants = triton.autotune(configs, key=key, cache_results=True)(kernel), {}

    def __call__(self, grid: Any, first: Tensor, *arguments: Any, **constants: Any) -> None:
        """Launches on the device of the first argument, which need not be the current one."""
        with torch.cuda.device_of(first):
            self.kernel[grid](first, *arguments, **constants, **self.constants)


def length_class(num_entries: int, num_segments: int) -> int:
    """Mean length of the segments, as a power of two: what the best block size depends on."""
    return int(triton.next_power_of_2(max(1, num_entries // max(1, num_segments))))


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """Sums are float32, or float64 if the values are."""
    return tl.float64 if dtype == torch.float64 else tl.float32


@triton.jit
def segment_bounds(splits, segment, exists):
    """Where each segment begins and ends; a segment that does not exist is empty."""
    start = tl.load(splits + segment, mask=exists, other=0).to(tl.int64)
    end = tl.load(splits + segment + 1, mask=exists, other=0).to(tl.int64)
    return start, end


@triton.jit(do_not_specialize=["num_segments"])
def segment_sum_kernel(
    table, rows, weights, splits, out, num_segments, channels, mean_length,
    HAS_ROWS: tl.constexpr, HAS_WEIGHTS: tl.constexpr, IS_MEAN: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_SEGMENTS: tl.constexpr, BLOCK_ENTRIES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Each program sums BLOCK_SEGMENTS segments, BLOCK_ENTRIES entries of each at a time, in BLOCK_CHANNELS columns."""
    segment = tl.program_id(0).to(tl.int64) * BLOCK_SEGMENTS + tl.arange(0, BLOCK_SEGMENTS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    exists = segment < num_segments
    start, end = segment_bounds(splits, segment, exists)
    total = tl.zeros([BLOCK_SEGMENTS, BLOCK_CHANNELS], ACCUMULATOR)
    for offset in range(0, tl.max(end - start, 0), BLOCK_ENTRIES):
        entry = start[:, None] + offset + tl.arange(0, BLOCK_ENTRIES)[None, :]
        is_entry = entry < end[:, None]
        row = entry
        if HAS_ROWS:
            row = tl.load(rows + entry, mask=is_entry, other=0).to(tl.int64)
        address = table + row[:, :, None] * channels + channel[None, None, :]
        value = tl.load(address, mask=is_entry[:, :, None] & (channel < channels)[None, None, :], other=0)
        value = value.to(ACCUMULATOR)
        if HAS_WEIGHTS:
            weight = tl.load(weights + entry, mask=is_entry, other=0).to(ACCUMULATOR)
            value = value * weight[:, :, None]
        total += tl.sum(value, axis=1)
    if IS_MEAN:
        total /= tl.maximum(end - start, 1).to(ACCUMULATOR)[:, None]
    address = out + segment[:, None] * channels + channel[None, :]
    tl.store(address, total.to(out.dtype.element_ty), mask=exists[:, None] & (channel < channels)[None, :])


@triton.jit(do_not_specialize=["num_segments"])
def segment_max_kernel(
    values, splits, maximum, row_of_maximum, num_segments, channels, mean_length, ACCUMULATOR: tl.constexpr,
    BLOCK_SEGMENTS: tl.constexpr, BLOCK_ENTRIES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """As `segment_sum_kernel`; of equal values the first counts."""
    segment = tl.program_id(0).to(tl.int64) * BLOCK_SEGMENTS + tl.arange(0, BLOCK_SEGMENTS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    exists = segment < num_segments
    start, end = segment_bounds(splits, segment, exists)
    is_channel = channel < channels
    best = tl.full([BLOCK_SEGMENTS, BLOCK_CHANNELS], float("-inf"), ACCUMULATOR)
    best_row = tl.zeros([BLOCK_SEGMENTS, BLOCK_CHANNELS], tl.int64) - 1
    for offset in range(0, tl.max(end - start, 0), BLOCK_ENTRIES):
        entry = start[:, None] + offset + tl.arange(0, BLOCK_ENTRIES)[None, :]
        is_entry = entry < end[:, None]
        address = values + entry[:, :, None] * channels + channel[None, None, :]
        value = tl.load(address, mask=is_entry[:, :, None] & is_channel[None, None, :], other=float("-inf"))
        value = value.to(ACCUMULATOR)
        highest = tl.max(value, axis=1)
        is_highest = (value == highest[:, None, :]) & is_entry[:, :, None]
        first = tl.min(tl.where(is_highest, entry[:, :, None], end[:, None, None]), axis=1)
        # The first comparison holds where nothing was found yet, and all values are -inf.
        better = ((best_row < 0) & (first < end[:, None])) | (highest > best)
        best = tl.where(better, highest, best)
        best_row = tl.where(better, first, best_row)
    address = segment[:, None] * channels + channel[None, :]
    is_output = exists[:, None] & is_channel[None, :]
    tl.store(maximum + address, tl.where(best_row < 0, 0, best).to(maximum.dtype.element_ty), mask=is_output)
    tl.store(row_of_maximum + address, tl.maximum(best_row, 0), mask=is_output)


_CHOICES = [
    {"BLOCK_SEGMENTS": 8, "BLOCK_ENTRIES": 4, "BLOCK_CHANNELS": 32, "num_warps": 4},
    {"BLOCK_SEGMENTS": 32, "BLOCK_ENTRIES": 4, "BLOCK_CHANNELS": 8, "num_warps": 4},
    {"BLOCK_SEGMENTS": 16, "BLOCK_ENTRIES": 2, "BLOCK_CHANNELS": 32, "num_warps": 4},
    {"BLOCK_SEGMENTS": 4, "BLOCK_ENTRIES": 8, "BLOCK_CHANNELS": 64, "num_warps": 4},
    {"BLOCK_SEGMENTS": 2, "BLOCK_ENTRIES": 16, "BLOCK_CHANNELS": 32, "num_warps": 2},
    {"BLOCK_SEGMENTS": 1, "BLOCK_ENTRIES": 32, "BLOCK_CHANNELS": 32, "num_warps": 2},
    {"BLOCK_SEGMENTS": 1, "BLOCK_ENTRIES": 16, "BLOCK_CHANNELS": 128, "num_warps": 4},
]
_segment_sum = Tuned(segment_sum_kernel, ["channels", "mean_length"], _CHOICES)
_segment_max = Tuned(segment_max_kernel, ["channels", "mean_length"], _CHOICES)


def segment_sum(table: Tensor, splits: Tensor, rows: Tensor | None, weights: Tensor | None, is_mean: bool) -> Tensor:
    """See `segments.segment_sum`."""
    table, num_segments, channels = table.contiguous(), splits.shape[0] - 1, table.shape[1]
    out = table.new_empty(num_segments, channels)
    entries = table.shape[0] if rows is None else rows.shape[0]
    if out.numel():
        _segment_sum(
            _blocks_for(num_segments, channels),
            table, splits if rows is None else rows, table if weights is None else weights, splits, out,
            num_segments, channels, length_class(entries, num_segments),
            HAS_ROWS=rows is not None, HAS_WEIGHTS=weights is not None, IS_MEAN=is_mean,
            ACCUMULATOR=accumulator(table.dtype),
        )  # fmt: skip
    return out


def segment_max(values: Tensor, splits: Tensor) -> tuple[Tensor, Tensor]:
    """See `segments.segment_max`."""
    values, num_segments, channels = values.contiguous(), splits.shape[0] - 1, values.shape[1]
    maximum = values.new_empty(num_segments, channels)
    row = splits.new_empty(num_segments, channels, dtype=torch.int64)
    if maximum.numel():
        _segment_max(
            _blocks_for(num_segments, channels),
            values, splits, maximum, row, num_segments, channels, length_class(values.shape[0], num_segments),
            ACCUMULATOR=accumulator(values.dtype),
        )  # fmt: skip
    return maximum, row


def _blocks_for(num_segments: int, channels: int) -> Any:
    return lambda meta: (
        triton.cdiv(num_segments, meta["BLOCK_SEGMENTS"]),
        triton.cdiv(channels, meta["BLOCK_CHANNELS"]),
    )
