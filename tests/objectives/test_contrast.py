"""Contrast and matching by hand: a cell is told apart from the same cell of other samples, never by where it lies."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pretraining_cases import GRID, measurements
from torch import Tensor

from fusionperc.config import PretrainingConfig
from fusionperc.objectives.contrast import contrast_loss, matching_loss, surface_cells
from fusionperc.types import Sensor

BOTH = torch.tensor([True, True])


CONFIG = PretrainingConfig(contrast_channels=4, contrast_cells=100, temperature=0.1)


def plain(*directions: int) -> Tensor:
    """(B, 4, 8, 8): each sample the same everywhere, along an axis of its own."""
    return F.one_hot(torch.tensor(directions), 4).float()[:, :, None, None].expand(-1, -1, 8, 8).contiguous()


def loss_of(
    embeddings: dict[Sensor, Tensor],
    present: dict[Sensor, Tensor] | None = None,
    belongs: Tensor = BOTH,
) -> Tensor:
    present = dict.fromkeys(embeddings, BOTH) if present is None else present
    return contrast_loss(embeddings, present, measurements(), belongs, GRID, CONFIG, torch.Generator().manual_seed(0))


def test_sensors_that_agree_on_the_sample_win_and_place_alone_tells_nothing() -> None:
    told_apart = loss_of({"camera": plain(0, 1), "lidar": plain(0, 1)})
    assert float(told_apart) == pytest.approx(math.log1p(math.exp(-10)), abs=1e-6)
    torch.manual_seed(0)
    by_place = F.normalize(torch.randn(1, 4, 8, 8), dim=1).expand(2, -1, -1, -1)
    assert float(loss_of({"camera": by_place, "lidar": by_place})) == pytest.approx(math.log(2))
    crossed = loss_of({"camera": plain(0, 1), "lidar": plain(1, 0)})
    assert float(crossed) == pytest.approx(10 + math.log1p(math.exp(-10)), abs=1e-5)
    one, other = (F.normalize(torch.randn(2, 4, 8, 8), dim=1) for _ in range(2))
    swapped = loss_of({"camera": other, "lidar": one})
    torch.testing.assert_close(loss_of({"camera": one, "lidar": other}), swapped)


def test_what_does_not_belong_teaches_nothing() -> None:
    """Nor is anything told apart from it: of three samples two are left, of two one, which is alone."""
    torch.manual_seed(0)
    maps: dict[Sensor, Tensor] = {s: F.normalize(torch.randn(3, 4, 8, 8), dim=1) for s in ("camera", "radar", "lidar")}
    leaves: dict[Sensor, Tensor] = {sensor: bev.requires_grad_() for sensor, bev in maps.items()}
    measured, cells = measurements(3), torch.Generator().manual_seed(0)
    belongs = torch.tensor([True, False, True])
    present = dict.fromkeys(leaves, torch.tensor([True, True, True]))
    loss = contrast_loss(leaves, present, measured, belongs, GRID, CONFIG, cells)
    loss.backward()
    for value in leaves.values():
        assert value.grad is not None and not bool(value.grad[1].any())
        assert bool(value.grad[0].any()) and bool(value.grad[2].any())
    without = {sensor: bev.detach()[[0, 2]] for sensor, bev in leaves.items()}
    torch.testing.assert_close(loss_of(without).detach(), loss.detach())
    alone = loss_of(without, belongs=torch.tensor([False, True]))
    assert alone.item() == 0


def test_sensors_that_no_sample_has_together_have_a_loss_of_nought() -> None:
    leaf = torch.randn(2, 4, 8, 8, requires_grad=True)
    apart: dict[Sensor, Tensor] = {"camera": torch.tensor([True, False]), "lidar": torch.tensor([False, True])}
    loss = loss_of({"camera": leaf, "lidar": leaf * 2}, apart)
    loss.backward()
    assert loss.item() == 0 and leaf.grad is not None and not bool(leaf.grad.any())


def test_only_pairs_with_a_wrong_sensor_are_to_be_told_from_those_that_belong_together() -> None:
    """LiDAR of the second sample is wrong: the cameras and radar still belong together."""
    is_wrong = torch.tensor([[False, False, False], [False, False, True]])
    logits: dict[tuple[Sensor, Sensor], Tensor] = {
        pair: torch.full((2, 8, 8), 1.5, requires_grad=True)
        for pair in (("camera", "radar"), ("camera", "lidar"), ("radar", "lidar"))  # type: ignore[misc]
    }
    present: dict[Sensor, Tensor] = dict.fromkeys(("camera", "radar", "lidar"), BOTH)
    loss = matching_loss(logits, present, is_wrong, measurements(), GRID, CONFIG, torch.Generator().manual_seed(0))
    loss.backward()
    yes, no = math.log1p(math.exp(-1.5)), math.log1p(math.exp(1.5))
    assert loss.item() == pytest.approx((4 * yes + 2 * no) / 6)
    _, cells = surface_cells(measurements(), BOTH, GRID, 100, None)
    for pair, value in logits.items():
        assert value.grad is not None
        for sample in range(2):
            there = value.grad[sample, cells[:, 0], cells[:, 1]]
            assert bool((there > 0).all() if sample == 1 and "lidar" in pair else (there < 0).all())
        value.grad[:, cells[:, 0], cells[:, 1]] = 0
        assert not bool(value.grad.any()), "where nothing was met nothing is asked"


def test_what_has_no_other_sensor_is_not_asked_whether_it_matches() -> None:
    cameras_alone: dict[Sensor, Tensor] = {"camera": BOTH, "lidar": torch.tensor([False, True])}
    right = torch.zeros(2, 3, dtype=torch.bool)
    logits: dict[tuple[Sensor, Sensor], Tensor] = {
        ("camera", "lidar"): torch.tensor([9.0, -2.0])[:, None, None].expand(2, 8, 8)
    }
    found = matching_loss(logits, cameras_alone, right, measurements(), GRID, CONFIG)
    assert found.item() == pytest.approx(math.log1p(math.exp(2.0)))
    assert matching_loss({}, cameras_alone, right, measurements(), GRID, CONFIG).item() == 0


def test_cells_are_those_in_which_rays_end_each_once() -> None:
    sample, cell = surface_cells(measurements(), torch.tensor([False, True]), GRID, 100, None)
    rays = measurements().lidar
    at, _ = GRID.cell_indices(rays.direction[0] * rays.range_m[0, :, None])
    assert sample.tolist() == [1] * len(cell)
    assert sorted(map(tuple, cell.tolist())) == sorted({tuple(place) for place in at.tolist()})
    assert len(surface_cells(measurements(), BOTH, GRID, 3, None)[0]) == 6
