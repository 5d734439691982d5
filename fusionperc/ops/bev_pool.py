"""Lift-splat: picture features, spread over depth, summed into bird's-eye-view cells, without the frustum.

A feature pixel p with depth distribution d_p(k) adds d_p(k) * feature_p to the cell its k-th depth falls into. Which
cell that is depends on calibration only; `frustum_ranks` sorts those (pixel, depth) pairs by cell, and `bev_pool` is
then one weighted gather-sum over contiguous segments: the (pixels x depths x channels) product is never stored.

Source: Philion and Fidler, "Lift, Splat, Shoot" (ECCV 2020); the pooling is that of Huang and Huang, "BEVPoolV2"
(arXiv:2211.17111), here without atomics in forward and backward.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusionperc.geometry import BevGrid, transform_points
from fusionperc.ops.dispatch import Implementation, choose
from fusionperc.ops.segments import segment_sum


@dataclass(frozen=True)
class FrustumRanks:
    """Which (pixel, depth) pair falls into which cell; R pairs fall into the grid.

    Attributes:
        pixel: (R,) int64 in [0, pixels), sorted by cell.
        frustum: (R,) int64, pixel * depths + depth index, in the same order.
        cell_splits: (B * X * Y + 1,) int64: row b * X * Y + ix * Y + iy holds that cell's pairs; most hold none.
        cell_by_pixel: (R,) int64, the cell rows in the order of `pixel_splits` (the transpose, for the backward).
        pixel_splits: (pixels + 1,) int64.
        frustum_by_pixel: (R,) int64, `frustum` in increasing order.
        batch_size: B.
        grid: the grid.
    """

    pixel: Tensor
    frustum: Tensor
    cell_splits: Tensor
    cell_by_pixel: Tensor
    pixel_splits: Tensor
    frustum_by_pixel: Tensor
    batch_size: int
    grid: BevGrid


def frustum_points(
    intrinsics: Float[Tensor, "*batch 3 3"],
    camera_T_ego: Float[Tensor, "*batch 4 4"],
    depth_m: Float[Tensor, " depths"],
    feature_shape: tuple[int, int],
    stride_px: int,
) -> Float[Tensor, "*batch height width depths 3"]:
    """Ego-frame positions of every feature pixel at every depth.

    Args:
        intrinsics: of the picture, pixels.
        camera_T_ego: may contain a mirror and a scale (augmentation), so it is inverted in full.
        depth_m: depth-bin centres along the optical axis.
        feature_shape: height and width of the feature map.
        stride_px: picture pixels per feature pixel; a feature pixel stands for its centre, (index + 0.5) * stride.
    """
    height, width = feature_shape
    device, dtype = intrinsics.device, intrinsics.dtype
    v = (torch.arange(height, device=device, dtype=dtype) + 0.5) * stride_px
    u = (torch.arange(width, device=device, dtype=dtype) + 0.5) * stride_px
    vv, uu = torch.meshgrid(v, u, indexing="ij")
    pixels = torch.stack([uu, vv, torch.ones_like(uu)], dim=-1).reshape(-1, 3)
    rays = pixels @ torch.linalg.inv(intrinsics).transpose(-1, -2)
    in_camera = rays[..., :, None, :] * depth_m.to(dtype)[:, None]
    ego_T_camera = torch.linalg.inv(camera_T_ego)
    in_ego = transform_points(ego_T_camera, in_camera.flatten(-3, -2))
    return in_ego.reshape(*intrinsics.shape[:-2], height, width, depth_m.shape[0], 3)


def frustum_ranks(
    intrinsics: Float[Tensor, "batch cameras 3 3"],
    camera_T_ego: Float[Tensor, "batch cameras 4 4"],
    present: Bool[Tensor, "batch cameras"],
    depth_m: Float[Tensor, " depths"],
    feature_shape: tuple[int, int],
    stride_px: int,
    grid: BevGrid,
) -> FrustumRanks:
    """Sorts the pixels and depths of the *present* pictures by the cell they fall into.

    Pixels are numbered over the present pictures in order, then rows, then columns, so that features are computed for
    those alone. Arguments as in `frustum_points`; `present` is (B, N).
    """
    batch_size = present.shape[0]
    sample = present.nonzero()[:, 0]
    xyz = frustum_points(intrinsics[present].float(), camera_T_ego[present].float(), depth_m, feature_shape, stride_px)
    pixels_each, depths = feature_shape[0] * feature_shape[1], depth_m.shape[0]
    index, inside = grid.cell_indices(xyz.reshape(-1, 3))
    frustum = inside.nonzero().squeeze(1)
    cell = index[frustum, 0] * grid.shape[1] + index[frustum, 1]
    cell = cell + sample[frustum // (pixels_each * depths)] * grid.num_cells
    narrow = torch.int32 if batch_size * grid.num_cells < 2**31 else torch.int64
    sorted_cell, order = torch.sort(cell.to(narrow), stable=True)
    by_cell = frustum[order]
    pixel_by_pixel = frustum // depths
    return FrustumRanks(
        pixel=by_cell // depths,
        frustum=by_cell,
        cell_splits=_row_splits(sorted_cell, batch_size * grid.num_cells),
        cell_by_pixel=cell,
        pixel_splits=_row_splits(pixel_by_pixel, len(sample) * pixels_each),
        frustum_by_pixel=frustum,
        batch_size=batch_size,
        grid=grid,
    )


def bev_pool(
    features: Float[Tensor, "pixels channels"],
    depth: Float[Tensor, "pixels depths"],
    ranks: FrustumRanks,
    *,
    implementation: Implementation = "auto",
) -> Float[Tensor, "batch channels x y"]:
    """Sums depth-weighted picture features into cells, with gradients to both.

    Args:
        features: one row per pixel of the present pictures; float16 and bfloat16 are summed in float32.
        depth: depth probabilities of those pixels.
        ranks: from `frustum_ranks`.
        implementation: 'auto', 'torch' or 'triton'.

    Returns:
        (B, C, X, Y) of the type of `features`, channels-last in memory; cells no pixel reaches are zero.

    Raises:
        ValueError: features, depth and ranks do not count the same pixels, or the implementation cannot run here.
    """
    pixels = ranks.pixel_splits.shape[0] - 1
    if features.shape[0] != pixels or depth.shape[0] != pixels:
        raise ValueError(
            f"bev_pool: features has {features.shape[0]} and depth {depth.shape[0]} pixels, the ranks count {pixels}"
        )
    chosen = choose("bev_pool", features.device, implementation, ("triton",))
    size_x, size_y = ranks.grid.shape
    pooled: Tensor = _BevPool.apply(features, depth, ranks, chosen)
    return pooled.view(ranks.batch_size, size_x, size_y, features.shape[1]).permute(0, 3, 1, 2)


def _row_splits(sorted_rows: Tensor, rows: int) -> Tensor:
    """(rows + 1,) starts of each row's run in a sorted vector of row numbers."""
    return torch.searchsorted(sorted_rows, torch.arange(rows + 1, device=sorted_rows.device, dtype=sorted_rows.dtype))


class _BevPool(torch.autograd.Function):
    """The forward sums over cells, the features' gradient over pixels (the transposed CSR).

    Depth's gradient at (pixel, depth) is the inner product of the pixel's feature and the cell's gradient, taken at the
    R pairs alone.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, depth: Tensor, ranks: FrustumRanks, implementation: Implementation
    ) -> Tensor:
        ctx.save_for_backward(features, depth)
        ctx.ranks, ctx.implementation = ranks, implementation
        weights = depth.reshape(-1).index_select(0, ranks.frustum)
        return segment_sum(
            features, ranks.cell_splits, rows=ranks.pixel, weights=weights, implementation=implementation
        )

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, depth = ctx.saved_tensors
        ranks: FrustumRanks = ctx.ranks
        grad = grad_outputs[0].contiguous()
        if ctx.implementation == "triton":
            from fusionperc.ops.bev_pool_triton import backward as triton_backward

            return *triton_backward(grad, features, depth, ranks), None, None
        grad_features = grad_depth = None
        if ctx.needs_input_grad[0]:
            weights = depth.reshape(-1).index_select(0, ranks.frustum_by_pixel)
            grad_features = segment_sum(
                grad, ranks.pixel_splits, rows=ranks.cell_by_pixel, weights=weights, implementation=ctx.implementation
            )
        if ctx.needs_input_grad[1]:
            products = _products_at_pairs(features, grad, ranks).to(depth.dtype)
            grad_depth = depth.new_zeros(depth.numel()).index_copy_(0, ranks.frustum_by_pixel, products).view_as(depth)
        return grad_features, grad_depth, None, None


def _products_at_pairs(features: Tensor, grad: Tensor, ranks: FrustumRanks) -> Tensor:
    """(R,) inner products of the pixel's row of `features` and the cell's row of `grad`, in the order of the pixels.

    A product of two matrices of which only some entries are wanted is one call for sparse matrices. Measured on 270,000
    pairs of 80 channels, 2 cores: 0.9 ms; gathering both rows in chunks takes 29 ms.
    """
    wide = torch.float32 if features.dtype in (torch.float16, torch.bfloat16) else features.dtype
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            ranks.pixel_splits,
            ranks.cell_by_pixel,
            features.new_zeros(ranks.cell_by_pixel.shape, dtype=wide),
            (features.shape[0], grad.shape[0]),
            check_invariants=False,
        )
    products: Tensor = torch.sparse.sampled_addmm(pattern, features.to(wide), grad.to(wide).T, beta=0).values()
    return products
