"""Where rays end: analytic densities, probabilities that sum to one, gradients; and the head that predicts them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fusionperc.config import PretrainingConfig
from fusionperc.geometry import BevGrid, VoxelGrid
from fusionperc.models.pretraining import MotionHead, PicturedHead
from fusionperc.models.reconstruction import RayDistribution, Reconstruction, ReconstructionHead, ray_distribution

#: 16 x 12 cells of 1 m, 4 layers of 1 m.
VOLUME = VoxelGrid(-8.0, 8.0, -6.0, 6.0, -2.0, 2.0, 1.0, 1.0)
SHAPE = (VOLUME.layers, *VOLUME.shape)
AHEAD = torch.tensor([[[1.0, 0.0, 0.0]]])


def followed(
    density: Tensor, origin_m: tuple[float, float, float], direction: Tensor, bins: int = 40, bin_m: float = 0.5
) -> RayDistribution:
    """One moment; `density` (Z, X, Y)."""
    return ray_distribution(density[None], VOLUME, torch.tensor([origin_m]), direction, bins, bin_m)


def unit(direction: Tensor) -> Tensor:
    return direction / direction.norm(dim=-1, keepdim=True)


def test_constant_density_gives_the_exponential_distribution() -> None:
    rate, bin_m = 0.3, 0.5
    ray = followed(torch.full(SHAPE, rate), (-2.0, 0.0, 0.0), AHEAD, bins=30, bin_m=bin_m)
    edges = torch.arange(21) * bin_m  # the volume ends 10 m ahead
    survival = torch.exp(-rate * edges)
    torch.testing.assert_close(ray.log_probability[0, 0, :20].exp(), survival[:-1] - survival[1:])
    assert float(ray.log_beyond[0, 0]) == pytest.approx(-rate * 10, rel=1e-5)
    assert ray.is_inside[0, 0].tolist() == [True] * 20 + [False] * 10
    median = math.log(2) / rate
    assert abs(float(ray.median_m()[0, 0]) - median) <= bin_m / 2
    thin = followed(torch.full(SHAPE, 0.05), (-2.0, 0.0, 0.0), AHEAD)
    assert float(thin.median_m()[0, 0]) == math.inf


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 0.01, 0.3, 3.0, 40.0]),
    origin=st.tuples(st.floats(-7, 7), st.floats(-5, 5), st.floats(-1.5, 1.5)),
)
def test_probabilities_sum_to_one(seed: int, scale: float, origin: tuple[float, float, float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand(SHAPE, generator=generator) ** 4 * scale
    direction = unit(torch.randn(1, 25, 3, generator=generator))
    ray = followed(density, origin, direction)
    total = ray.log_probability.exp().sum(-1) + ray.log_beyond.exp()
    torch.testing.assert_close(total, torch.ones(1, 25), rtol=0, atol=1e-4)
    assert bool(ray.log_probability.isfinite().all()) and bool((ray.log_beyond <= 0).all())
    likely = ray.log_probability.argmax(-1)
    range_m = (likely + 0.5) * 0.5
    nats = ray.negative_log_likelihood(range_m)
    assert bool((nats >= -1e-5).all()) and bool(nats.isfinite().all())


@pytest.mark.parametrize("turned", [0.0, 0.5, -0.8])
def test_a_wall_is_hit_where_it_stands(turned: float) -> None:
    """From an origin off the centre of its cell, off the axis of the grid."""
    density = torch.zeros(SHAPE)
    density[:, 11] = 50.0  # cells from x = 3 to 4 m
    origin = (-2.3, 0.4, 0.2)
    direction = torch.tensor([[[math.cos(turned), math.sin(turned), 0.0]]])
    ray = followed(density, origin, direction, bins=100, bin_m=0.1)
    # By interpolation the wall begins half a cell before its first cell.
    reached = (2.5 - origin[0]) / math.cos(turned)
    passed = (3.5 - origin[0]) / math.cos(turned)
    median = float(ray.median_m()[0, 0])
    assert reached <= median <= passed
    assert int(ray.log_probability[0, 0].argmax()) * 0.1 == pytest.approx(median, abs=0.4)
    assert float(ray.log_probability[0, 0, : int(reached / 0.1) - 1].exp().sum()) < 1e-3
    away = followed(density, origin, -direction)
    assert float(away.log_beyond[0, 0]) == 0 and float(away.median_m()[0, 0]) == math.inf


def test_axes_are_not_mixed_up() -> None:
    """A block ahead on the left and above is met by the one ray that looks there."""
    density = torch.zeros(SHAPE)
    density[2:, 11:14, 8:11] = 50.0  # x 3 to 6, y 2 to 5, z 0 to 2
    looks = unit(
        torch.tensor([[[4.5, 3.5, 1.0], [4.5, -3.5, 1.0], [-4.5, 3.5, 1.0], [4.5, 3.5, -1.0], [2.0, 4.5, 1.0]]])
    )
    ray = followed(density, (0.0, 0.0, 0.0), looks)
    stopped = ray.log_beyond[0] < math.log(0.5)
    assert stopped.tolist() == [True, False, False, False, False]


def test_a_ray_that_leaves_the_volume_is_beyond() -> None:
    density = torch.zeros(SHAPE)
    density[:2] = 5.0  # all that is below the sensor
    up = unit(torch.tensor([[[0.1, 0.0, 1.0], [0.1, 0.0, -1.0]]]))
    ray = followed(density, (0.0, 0.0, 1.0), up)
    assert float(ray.log_beyond[0, 0]) == 0.0
    assert float(ray.log_beyond[0, 1]) < -3
    assert ray.is_inside[0, 0].sum() == 2
    # Out there it cannot end: whatever range was measured there counts as beyond.
    nats = ray.negative_log_likelihood(torch.tensor([[5.0, math.inf]]))
    assert float(nats[0, 0]) == 0.0 and float(nats[0, 1]) == pytest.approx(-float(ray.log_beyond[0, 1]))


def test_likelihood_takes_the_bin_of_the_range() -> None:
    generator = torch.Generator().manual_seed(0)
    ray = followed(torch.rand(SHAPE, generator=generator), (-2.0, 0.3, 0.1), AHEAD.expand(1, 7, 3), bins=18)
    range_m = torch.tensor([[0.0, 0.499, 0.5, 3.26, 8.99, 9.0, math.inf]])
    nats = ray.negative_log_likelihood(range_m)
    for place, bin_index in enumerate((0, 0, 1, 6, 17)):
        assert float(nats[0, place]) == pytest.approx(-float(ray.log_probability[0, place, bin_index]))
    torch.testing.assert_close(nats[0, 5:], -ray.log_beyond[0, 5:])
    unknown = ray.negative_log_likelihood(torch.full((1, 7), math.nan))
    assert bool(unknown.isnan().all())


def test_rays_without_measurement_take_no_gradient() -> None:
    density = torch.full(SHAPE, 0.2, requires_grad=True)
    ray = followed(density, (0.0, 0.0, 0.0), AHEAD.expand(1, 2, 3))
    nats = ray.negative_log_likelihood(torch.tensor([[math.nan, math.nan]]))
    torch.where(nats.isnan(), 0.0, nats).sum().backward()
    assert density.grad is not None and not bool(density.grad.any())


def test_likelihood_raises_density_where_a_ray_ended_and_lowers_it_before() -> None:
    density = torch.full(SHAPE, 0.2, requires_grad=True)
    # Along the centres of a row of cells, at y = 0.5 and z = 0.5, from the border of cells 3 and 4 to cell 11.
    ray = followed(density, (-4.0, 0.5, 0.5), AHEAD, bin_m=1.0)
    ray.negative_log_likelihood(torch.tensor([[7.5]])).sum().backward()
    assert density.grad is not None
    row = density.grad[2, :, 6]
    assert float(row[11]) < 0  # more density there is more likely
    torch.testing.assert_close(row[4:11], torch.ones(7))  # a metre each that was got past
    assert not bool(row[12:].any()) and not bool(row[:4].any())
    assert int((density.grad != 0).sum()) == 8


def test_a_voxel_is_felt_most_at_its_centre() -> None:
    """Half a cell off in any axis would move the peak."""
    ix, iy, iz = 10, 3, 1
    density = torch.zeros(SHAPE)
    density[iz, ix, iy] = 1.0
    center = torch.tensor([VOLUME.x_min_m + ix + 0.5, VOLUME.y_min_m + iy + 0.5, VOLUME.z_min_m + iz + 0.5])
    for axis in range(3):
        offsets = torch.linspace(-0.9, 0.9, 19)
        felt = []
        for offset in offsets:
            place = center.clone()
            place[axis] += offset
            # A bin so short that it reads one place.
            origin = tuple((place - AHEAD[0, 0] * 5e-4).tolist())
            ray = followed(density, (origin[0], origin[1], origin[2]), AHEAD, bins=1, bin_m=1e-3)
            felt.append(-float(ray.log_beyond[0, 0]) / 1e-3)
        expected = 1 - offsets.abs()
        torch.testing.assert_close(torch.tensor(felt), expected, rtol=0, atol=2e-3)


# -- the head ---------------------------------------------------------------------------------------------------------

GRID = BevGrid(-8.0, 8.0, -6.0, 6.0, -2.0, 2.0, 1.0)


def head(**changes: float) -> ReconstructionHead:
    torch.manual_seed(0)
    return ReconstructionHead(
        PretrainingConfig.model_validate({"layer_m": 1.0, "voxels_per_cell": 1, **changes}), GRID, 8
    ).eval()


def fused(batch: int = 2) -> Tensor:
    return torch.randn(batch, 8, 16, 12, generator=torch.Generator().manual_seed(1))


def test_shapes_and_ranges() -> None:
    with torch.no_grad():
        out = head()(fused(), torch.tensor([[0.0, 1.0, 2.5], [0.0, 2.0, 3.0]]))
    assert out.volume == VOLUME
    assert out.density.shape == (6, 4, 16, 12) and bool((out.density > 0).all())
    assert out.radar_logits.shape == out.doppler_log_scale.shape == (6, 16, 12)
    assert out.velocity_mps.shape == (6, 2, 16, 12)
    assert head(layer_m=0.5)(fused(), torch.zeros(2, 1)).density.shape[1] == 8


def test_an_untrained_head_sees_through() -> None:
    """Else nothing behind the first metres would ever get a gradient."""
    with torch.no_grad():
        out = head()(torch.zeros(1, 8, 16, 12), torch.zeros(1, 1))
    assert 0.02 < float(out.density.mean()) < 0.1
    assert float(out.radar_logits.mean()) < -3


def test_moments_do_not_touch_each_other() -> None:
    model, bev = head(), fused()
    horizons = torch.tensor([[0.0, 1.0], [0.0, 2.0]])

    def moments(out: Reconstruction) -> list[Tensor]:
        return list(torch.cat([out.density, out.radar_logits[:, None], out.velocity_mps], 1))

    with torch.no_grad():
        whole = moments(model(bev, horizons))
        for sample in range(2):
            one = slice(sample, sample + 1)
            alone = moments(model(bev[one], horizons[one]))
            for moment in range(2):
                torch.testing.assert_close(alone[moment], whole[2 * sample + moment], rtol=1e-4, atol=1e-5)
        other = moments(model(bev, torch.tensor([[0.0, 1.0], [0.0, 0.7]])))
    for moment in range(3):
        assert torch.equal(other[moment], whole[moment])
    assert (other[3] - whole[3]).abs().max() > 1e-3
    assert (whole[1] - whole[0]).abs().max() > 1e-3


def test_the_first_layer_is_the_lowest() -> None:
    """What the head gives as layer 0 lies at z_min of the volume that rays are followed through."""
    model = head()
    assert model.density.bias is not None
    with torch.no_grad():
        model.density.weight.zero_()
        model.density.bias[:4] = torch.tensor([4.0, -40.0, -40.0, -40.0])
        out = model(fused(1), torch.zeros(1, 1))
    looks = unit(torch.tensor([[[1.0, 0.0, -0.6], [1.0, 0.0, 0.0], [1.0, 0.0, 0.6]]]))
    ray = ray_distribution(out.density, out.volume, torch.zeros(1, 3), looks, 20, 0.5)
    assert float(ray.log_beyond[0, 0]) < -1 and bool((ray.log_beyond[0, 1:].abs() < 1e-6).all())


def test_voxels_of_a_cell_lie_in_that_cell() -> None:
    """With voxels half a cell wide: what one cell of the map says is said of its own four voxels, x before y."""
    model = head(voxels_per_cell=2)
    assert model.volume.cell_m == 0.5 and model.volume.shape == (32, 24)
    assert model.density.bias is not None
    with torch.no_grad():
        model.density.weight.zero_()
        # Channels of the lowest layer: the four voxels of a cell, (x, y) = (0, 0), (0, 1), (1, 0), (1, 1).
        model.density.bias[:] = -40.0
        model.density.bias[2] = 4.0
        out = model(fused(1), torch.zeros(1, 1))
    assert out.density.shape == (1, 4, 32, 24)
    dense = torch.nonzero(out.density[0] > 1)
    assert len(dense) == 16 * 12 and set(dense[:, 0].tolist()) == {0}
    assert bool((dense[:, 1] % 2 == 1).all()) and bool((dense[:, 2] % 2 == 0).all())
    # A ray straight down at the centre of such a voxel ends, one at the centre of the voxel behind it does not.
    down = torch.tensor([[[0.0, 0.0, -1.0]]])
    for x_m, ends in ((0.75, True), (0.25, False)):
        ray = ray_distribution(out.density, out.volume, torch.tensor([[x_m, 0.25, 0.0]]), down, 4, 0.5)
        assert (float(ray.log_beyond[0, 0]) < -1) == ends


# -- features of pictures ---------------------------------------------------------------------------------------------


def test_places_are_read_where_they_are() -> None:
    """A map that holds its own coordinates is read as those, at centres of cells and between them."""
    torch.manual_seed(0)
    model = PicturedHead(2, GRID, 5)
    x = GRID.x_min_m + (torch.arange(16) + 0.5) * GRID.cell_m
    y = GRID.y_min_m + (torch.arange(12) + 0.5) * GRID.cell_m
    fused = torch.stack([x[:, None].expand(16, 12), y.expand(16, 12)])[None]
    places = torch.tensor([[[3.5, -2.5, 0.0], [-4.25, 1.1, 1.0], [0.0, 0.0, -1.0], [7.9, 5.9, 0.0]]])
    read: list[Tensor] = []
    handle = model.read.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    assert model(fused, places).shape == (1, 4, 5)
    handle.remove()
    expected = places.clone()
    expected[0, 3, :2] = torch.tensor([7.5, 5.5])  # beyond the last centre the border is held
    torch.testing.assert_close(read[0][..., :3], expected)


def test_moving_cells_lie_in_their_cell() -> None:
    """Four answers of a cell, x before y, as the voxels of the volume."""
    torch.manual_seed(0)
    model = MotionHead(8, GRID, 2)
    assert model.moves.bias is not None and model.velocity.bias is not None
    with torch.no_grad():
        model.moves.weight.zero_()
        model.velocity.weight.zero_()
        model.moves.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
        model.velocity.bias.copy_(torch.arange(8) / 5)
        out = model(fused(1))
    assert out.logits.shape == (1, 32, 24) and out.velocity_mps.shape == (1, 2, 32, 24)
    assert out.grid == replace(GRID, cell_m=0.5)
    assert out.logits[0, 6:8, 10:12].tolist() == [[0, 1], [2, 3]]
    torch.testing.assert_close(out.velocity_mps[0, :, 6:8, 10:12], torch.tensor([[[0.0, 1], [2, 3]], [[4, 5], [6, 7]]]))
