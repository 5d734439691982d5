"""Contrast by hand: a cell is told apart from the same cell of other samples, never by where it lies."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pretraining_cases import GRID, measurements
from torch import Tensor

from fusionperc.config import PretrainingConfig
from fusionperc.objectives.contrast import CellContrast, surface_cells
from fusionperc.types import Sensor

SENSORS: tuple[Sensor, ...] = ("camera", "radar", "lidar")
BOTH = torch.tensor([True, True])


def contrast(memory: int = 0) -> CellContrast:
    config = PretrainingConfig(contrast_memory=memory, contrast_channels=4, contrast_cells=100, temperature=0.1)
    return CellContrast(config, GRID, SENSORS)


def plain(*directions: int) -> Tensor:
    """(B, 4, 8, 8): each sample the same everywhere, along an axis of its own."""
    return F.one_hot(torch.tensor(directions), 4).float()[:, :, None, None].expand(-1, -1, 8, 8).contiguous()


def loss_of(
    model: CellContrast,
    embeddings: dict[Sensor, Tensor],
    present: dict[Sensor, Tensor] | None = None,
    belongs: Tensor = BOTH,
) -> Tensor:
    present = dict.fromkeys(embeddings, BOTH) if present is None else present
    return model(embeddings, present, measurements(), belongs, torch.Generator().manual_seed(0))  # type: ignore[no-any-return]


def test_sensors_that_agree_on_the_sample_win_and_place_alone_tells_nothing() -> None:
    told_apart = loss_of(contrast(), {"camera": plain(0, 1), "lidar": plain(0, 1)})
    assert float(told_apart) == pytest.approx(math.log1p(math.exp(-10)), abs=1e-6)
    torch.manual_seed(0)
    by_place = F.normalize(torch.randn(1, 4, 8, 8), dim=1).expand(2, -1, -1, -1)
    assert float(loss_of(contrast(), {"camera": by_place, "lidar": by_place})) == pytest.approx(math.log(2))
    crossed = loss_of(contrast(), {"camera": plain(0, 1), "lidar": plain(1, 0)})
    assert float(crossed) == pytest.approx(10 + math.log1p(math.exp(-10)), abs=1e-5)
    one, other = (F.normalize(torch.randn(2, 4, 8, 8), dim=1) for _ in range(2))
    swapped = loss_of(contrast(), {"camera": other, "lidar": one})
    torch.testing.assert_close(loss_of(contrast(), {"camera": one, "lidar": other}), swapped)


def test_samples_before_the_batch_are_told_apart_too_while_it_learns() -> None:
    model = contrast(memory=3)
    alike: dict[Sensor, Tensor] = {"camera": plain(0, 0), "lidar": plain(0, 0)}
    for step in (2, 4, 5, 5):  # of the batch and kept: two of three places, then all, are taken
        assert float(loss_of(model, alike)) == pytest.approx(math.log(step))
    model.eval()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    assert float(loss_of(model, {"camera": plain(1, 2), "lidar": plain(1, 2)})) < 0.01
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    # A sensor that kept samples lacked is compared with the batch alone.
    assert float(loss_of(model, {"camera": plain(0, 0), "radar": plain(0, 0)})) == pytest.approx(
        (math.log(5) + math.log(2)) / 2
    )


def test_what_does_not_belong_teaches_nothing_and_is_not_kept() -> None:
    model = contrast(memory=4)
    embeddings: dict[Sensor, Tensor] = {s: torch.randn(2, 4, 8, 8, requires_grad=True) for s in SENSORS}
    loss_of(model, embeddings, belongs=torch.tensor([False, True])).backward()
    assert int(model.is_kept.sum()) == 3 and model.is_kept[0].all()
    assert all(value.grad is None or not bool(value.grad.any()) for value in embeddings.values()), "nothing to compare"
    loss_of(model, embeddings, belongs=torch.tensor([False, True])).backward()
    for value in embeddings.values():
        assert value.grad is not None and not bool(value.grad[0].any()) and bool(value.grad[1].any())


def test_sensors_that_no_sample_has_together_have_a_loss_of_nought() -> None:
    leaf = torch.randn(2, 4, 8, 8, requires_grad=True)
    apart: dict[Sensor, Tensor] = {"camera": torch.tensor([True, False]), "lidar": torch.tensor([False, True])}
    loss = loss_of(contrast(), {"camera": leaf, "lidar": leaf * 2}, apart)
    loss.backward()
    assert loss.item() == 0 and leaf.grad is not None and not bool(leaf.grad.any())


def test_cells_are_those_in_which_rays_end_each_once() -> None:
    sample, cell = surface_cells(measurements(), torch.tensor([False, True]), GRID, 100, None)
    rays = measurements().lidar
    at, _ = GRID.cell_indices(rays.direction[0] * rays.range_m[0, :, None])
    assert sample.tolist() == [1] * len(cell)
    assert sorted(map(tuple, cell.tolist())) == sorted({tuple(place) for place in at.tolist()})
    assert len(surface_cells(measurements(), BOTH, GRID, 3, None)[0]) == 6
