"""BEV pooling against the textbook lift-splat, and its geometry against projection."""

from __future__ import annotations

import math

import pytest
import torch
from clouds import IMPLEMENTATIONS, device_of
from torch import Tensor

from fusionperc.geometry import BevGrid, project_points, rigid, rotation_from_yaw
from fusionperc.ops.bev_pool import FrustumRanks, bev_pool, frustum_points, frustum_ranks
from fusionperc.ops.dispatch import Implementation

GRID = BevGrid(-8.0, 8.0, -8.0, 8.0, -5.0, 3.0, 1.0)
STRIDE_PX, HEIGHT, WIDTH = 16, 3, 5
DEPTH_M = torch.arange(1.5, 9.5)


def looking(yaw_rad: float, height_m: float = 1.5) -> Tensor:
    """camera_T_ego of a level camera above the origin, looking along `yaw_rad`."""
    camera_R_body = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    rotation = camera_R_body @ rotation_from_yaw(torch.tensor(-yaw_rad))
    return rigid(rotation, -rotation @ torch.tensor([0, 0, height_m]))


def calibration(batch: int, cameras: int) -> tuple[Tensor, Tensor]:
    intrinsics = torch.tensor([[60.0, 0, 40], [0, 60.0, 24], [0, 0, 1]]).expand(batch, cameras, 3, 3).clone()
    intrinsics[..., 0, 0] += torch.arange(batch)[:, None]
    views = torch.stack([looking(0.3 + 2 * math.pi * i / cameras) for i in range(cameras)])
    return intrinsics, views.expand(batch, cameras, 4, 4).clone()


def naive(features: Tensor, depth: Tensor, xyz_m: Tensor, sample: Tensor, batch: int) -> Tensor:
    """The whole frustum times the features, added cell by cell."""
    lifted = (depth[:, :, None] * features[:, None]).reshape(-1, features.shape[1])
    index, inside = GRID.cell_indices(xyz_m.reshape(-1, 3))
    row = (sample[:, None].expand(-1, depth.shape[1]).reshape(-1) * GRID.shape[0] + index[:, 0]) * GRID.shape[1]
    out = torch.zeros(batch * GRID.num_cells, features.shape[1], dtype=features.dtype)
    out = out.index_add(0, (row + index[:, 1])[inside], lifted[inside])
    return out.view(batch, *GRID.shape, -1).permute(0, 3, 1, 2)


def ranks_of(present: Tensor, device: torch.device | str = "cpu") -> tuple[FrustumRanks, Tensor, Tensor]:
    intrinsics, camera_T_ego = calibration(*present.shape)
    on_device = [tensor.to(device) for tensor in (intrinsics, camera_T_ego, present, DEPTH_M)]
    ranks = frustum_ranks(*on_device, (HEIGHT, WIDTH), STRIDE_PX, GRID)
    xyz = frustum_points(intrinsics, camera_T_ego, DEPTH_M, (HEIGHT, WIDTH), STRIDE_PX)[present]
    sample = present.nonzero()[:, 0].repeat_interleave(HEIGHT * WIDTH)
    return ranks, xyz.reshape(-1, len(DEPTH_M), 3), sample


# Numba has no pooling of its own.
POOLS = [item for item in IMPLEMENTATIONS if item == "torch" or getattr(item, "values", ()) == ("triton",)]


@pytest.mark.parametrize("implementation", POOLS)
@pytest.mark.parametrize("present", [[[1, 1, 1], [1, 1, 1]], [[1, 0, 1], [0, 0, 0]], [[0, 1, 0], [1, 0, 0]]])
def test_values_and_gradients_match_naive_lift_splat(implementation: Implementation, present: list[list[int]]) -> None:
    mask = torch.tensor(present, dtype=torch.bool)
    device = device_of(implementation)
    ranks, xyz, sample = ranks_of(mask, device)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(sample), 4, generator=generator, requires_grad=True)
    depth = torch.rand(len(sample), len(DEPTH_M), generator=generator).softmax(1).requires_grad_()
    weight = torch.randn(2, 4, *GRID.shape, generator=generator)
    ours = bev_pool(features.to(device), depth.to(device), ranks, implementation=implementation).cpu()
    reference = naive(features, depth, xyz, sample, 2)
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)
    assert ours.abs().sum() > 0
    gradients = [torch.autograd.grad((out * weight).sum(), (features, depth)) for out in (ours, reference)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", POOLS)
def test_gradcheck(implementation: Implementation) -> None:
    device = device_of(implementation)
    ranks, _, sample = ranks_of(torch.tensor([[True, False]]), device)
    features = torch.randn(len(sample), 2, dtype=torch.float64, device=device, requires_grad=True)
    depth = torch.rand(len(sample), len(DEPTH_M), dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, d: bev_pool(f, d, ranks, implementation=implementation), (features, depth), fast_mode=True
    )


@pytest.mark.parametrize("implementation", POOLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_only_once(implementation: Implementation, dtype: torch.dtype) -> None:
    """Forward and both gradients differ from those in float64 by no more than the last rounding."""
    device = device_of(implementation)
    ranks, _, sample = ranks_of(torch.tensor([[True, True, True]]), device)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(sample), 8, generator=generator).to(device, dtype).requires_grad_()
    depth = torch.rand(len(sample), len(DEPTH_M), generator=generator).to(device).requires_grad_()
    weight = torch.randn(1, 8, *GRID.shape, generator=generator).to(device, dtype)
    wide = [tensor.detach().double().requires_grad_() for tensor in (features, depth)]
    pooled = bev_pool(features, depth, ranks, implementation=implementation)
    reference = bev_pool(*wide, ranks, implementation="torch")
    ours = [pooled, *torch.autograd.grad(pooled, (features, depth), weight)]
    exact = [reference, *torch.autograd.grad(reference, wide, weight.double())]
    assert [tensor.dtype for tensor in ours] == [dtype, dtype, torch.float32]
    # The interpreter cuts off where a GPU rounds: a whole unit in the last place.
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=torch.finfo(a.dtype).eps, atol=1e-5)


@pytest.mark.parametrize("implementation", POOLS)
def test_only_the_gradient_asked_for_is_needed(implementation: Implementation) -> None:
    device = device_of(implementation)
    ranks, _, sample = ranks_of(torch.tensor([[True, True, True]]), device)
    features = torch.randn(len(sample), 4, device=device)
    depth = torch.rand(len(sample), len(DEPTH_M), device=device)
    for wanted, other in ((features, depth), (depth, features)):
        wanted.requires_grad_()
        other.requires_grad_(False)
        bev_pool(features, depth, ranks, implementation=implementation).sum().backward()
        assert wanted.grad is not None and bool(wanted.grad.any())
        assert other.grad is None
        wanted.grad = None


def test_no_picture_reaches_the_grid() -> None:
    """A camera that looks straight up from above the grid."""
    upwards = rigid(torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, 1]]), torch.tensor([0.0, 0, -50]))
    intrinsics = torch.tensor([[[[60.0, 0, 40], [0, 60.0, 24], [0, 0, 1]]]])
    present = torch.ones(1, 1, dtype=torch.bool)
    ranks = frustum_ranks(intrinsics, upwards[None, None], present, DEPTH_M, (HEIGHT, WIDTH), STRIDE_PX, GRID)
    features = torch.randn(HEIGHT * WIDTH, 3, requires_grad=True)
    depth = torch.rand(HEIGHT * WIDTH, len(DEPTH_M), requires_grad=True)
    bev = bev_pool(features, depth, ranks)
    bev.sum().backward()
    assert bev.shape == (1, 3, *GRID.shape)
    assert not bev.any()
    assert features.grad is not None and depth.grad is not None
    assert not features.grad.any() and not depth.grad.any()


def test_frustum_points_project_back_to_their_pixels() -> None:
    """Also with a mirrored and scaled ego frame, as augmentation makes them."""
    intrinsics, camera_T_ego = calibration(1, 1)
    augmented_T_ego = torch.diag(torch.tensor([1.1, -1.1, 1.1, 1.0]))
    camera_T_ego = camera_T_ego @ torch.linalg.inv(augmented_T_ego)
    xyz = frustum_points(intrinsics, camera_T_ego, DEPTH_M, (HEIGHT, WIDTH), STRIDE_PX)[0, 0]
    pixel, depth = project_points(intrinsics[0, 0], camera_T_ego[0, 0], xyz.reshape(-1, 3))
    pixel = pixel.reshape(HEIGHT, WIDTH, len(DEPTH_M), 2)
    torch.testing.assert_close(depth.reshape(HEIGHT, WIDTH, -1)[1, 2], DEPTH_M)
    torch.testing.assert_close(pixel[2, 4, 3], torch.tensor([4.5 * 16, 2.5 * 16]), atol=1e-3, rtol=0)


def test_a_known_pixel_and_depth_lands_in_the_known_cell() -> None:
    """A camera looking forward, then one looking left: 5.5 m along the axis is the cell at 5.5 m."""
    intrinsics = torch.tensor([[60.0, 0, 40], [0, 60.0, 24], [0, 0, 1]]).expand(1, 2, 3, 3)
    views = torch.stack([looking(0.0), looking(math.pi / 2)])[None]
    present = torch.ones(1, 2, dtype=torch.bool)
    ranks = frustum_ranks(intrinsics, views, present, DEPTH_M, (HEIGHT, WIDTH), STRIDE_PX, GRID)
    features = torch.zeros(2, HEIGHT, WIDTH, 1)
    features[0, 1, 2], features[1, 1, 2] = 3.0, 5.0  # the centre pixel of 3 x 5 is the optical axis
    depth = torch.zeros(2 * HEIGHT * WIDTH, len(DEPTH_M))
    depth[:, 4] = 1  # 5.5 m
    bev = bev_pool(features.reshape(-1, 1), depth, ranks)[0, 0]
    forward, left = bev[13, 7:9].sum(), bev[7:9, 13].sum()  # the axis is the border of two cells
    assert (forward, left, bev.sum()) == (3, 5, 8)


def test_wrong_pixel_count_is_refused() -> None:
    ranks, _, _ = ranks_of(torch.tensor([[True, True]]))
    with pytest.raises(ValueError, match="the ranks count 30"):
        bev_pool(torch.zeros(15, 2), torch.zeros(15, len(DEPTH_M)), ranks)
