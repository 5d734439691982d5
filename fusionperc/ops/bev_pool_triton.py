"""The backward of `bev_pool` on a GPU: both gradients in one pass over the cells' gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusionperc.ops.segments_triton import Tuned, accumulator, length_class, segment_bounds

if TYPE_CHECKING:
    from fusionperc.ops.bev_pool import FrustumRanks


@triton.jit(do_not_specialize=["num_pixels"])
def backward_kernel(
    grad, features, depth, cell, frustum, splits, grad_features, grad_depth, num_pixels, channels, mean_length,
    ACCUMULATOR: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_ENTRIES: tl.constexpr,
):  # fmt: skip
    """Each program takes BLOCK_PIXELS pixels, BLOCK_ENTRIES (pixel, depth) pairs of each at a time.

    A pair's cell gradient, times its depth, adds to the pixel's gradient; times the pixel's feature it is the
    gradient of the depth. Each output has one writer.
    """
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channel = tl.arange(0, CHANNELS)
    exists = pixel < num_pixels
    start, end = segment_bounds(splits, pixel, exists)
    place = pixel[:, None] * channels + channel[None, :]
    is_value = exists[:, None] & (channel < channels)[None, :]
    feature = tl.load(features + place, mask=is_value, other=0).to(ACCUMULATOR)
    total = tl.zeros([BLOCK_PIXELS, CHANNELS], ACCUMULATOR)
    for offset in range(0, tl.max(end - start, 0), BLOCK_ENTRIES):
        entry = start[:, None] + offset + tl.arange(0, BLOCK_ENTRIES)[None, :]
        is_entry = entry < end[:, None]
        row = tl.load(cell + entry, mask=is_entry, other=0)
        pair = tl.load(frustum + entry, mask=is_entry, other=0)
        weight = tl.load(depth + pair, mask=is_entry, other=0).to(ACCUMULATOR)
        address = grad + row[:, :, None] * channels + channel[None, None, :]
        value = tl.load(address, mask=is_entry[:, :, None] & (channel < channels)[None, None, :], other=0)
        value = value.to(ACCUMULATOR)
        total += tl.sum(value * weight[:, :, None], axis=1)
        product = tl.sum(value * feature[:, None, :], axis=2)
        tl.store(grad_depth + pair, product.to(grad_depth.dtype.element_ty), mask=is_entry)
    tl.store(grad_features + place, total.to(grad_features.dtype.element_ty), mask=is_value)


_backward = Tuned(
    backward_kernel,
    ["channels", "mean_length"],
    [
        {"BLOCK_PIXELS": 2, "BLOCK_ENTRIES": 8, "num_warps": 4},
        {"BLOCK_PIXELS": 1, "BLOCK_ENTRIES": 8, "num_warps": 2},
        {"BLOCK_PIXELS": 1, "BLOCK_ENTRIES": 16, "num_warps": 4},
        {"BLOCK_PIXELS": 1, "BLOCK_ENTRIES": 32, "num_warps": 8},
        {"BLOCK_PIXELS": 4, "BLOCK_ENTRIES": 4, "num_warps": 4},
        {"BLOCK_PIXELS": 8, "BLOCK_ENTRIES": 2, "num_warps": 4},
    ],
)


def backward(grad: Tensor, features: Tensor, depth: Tensor, ranks: FrustumRanks) -> tuple[Tensor, Tensor]:
    """Gradients of features (pixels, C) and of depth (pixels, depths) from those of the cells' rows."""
    features, depth = features.contiguous(), depth.contiguous()
    num_pixels, channels = features.shape
    grad_features, grad_depth = torch.empty_like(features), torch.zeros_like(depth)
    if features.numel():
        _backward(
            lambda meta: (triton.cdiv(num_pixels, meta["BLOCK_PIXELS"]),),
            grad, features, depth, ranks.cell_by_pixel, ranks.frustum_by_pixel, ranks.pixel_splits,
            grad_features, grad_depth, num_pixels, channels, length_class(len(ranks.cell_by_pixel), num_pixels),
            ACCUMULATOR=accumulator(features.dtype), CHANNELS=triton.next_power_of_2(channels),
        )  # fmt: skip
    return grad_features, grad_depth
