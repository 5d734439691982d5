"""The fusion transformer: what it attends to, and what it must not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusionperc.config import FusionConfig
from fusionperc.models.fusion import FusionTransformer, Windows
from fusionperc.types import SENSORS, Sensor

STYLES = ["joint", "co"]


def make_fusion(style: str, *, layers: int = 2, window: int = 4) -> FusionTransformer:
    torch.manual_seed(0)
    config = FusionConfig(style=style, channels=16, layers=layers, heads=2, window=window, bev_blocks=0)  # type: ignore[arg-type]
    return FusionTransformer(config).eval()


def maps(batch: int = 2, size: tuple[int, int] = (8, 8), sensors: tuple[Sensor, ...] = SENSORS) -> dict[Sensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {sensor: torch.randn(batch, 16, *size, generator=generator) for sensor in sensors}


def everywhere(batch: int = 2) -> dict[Sensor, Tensor]:
    return {sensor: torch.ones(batch, dtype=torch.bool) for sensor in SENSORS}


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_windows_cut_and_join(size: tuple[int, int], shift: int) -> None:
    cells = torch.arange(2 * size[0] * size[1] * 3.0).view(2, *size, 3, 1)
    windows = Windows(size, 4, shift)
    cut = windows.cut(cells)
    assert cut.shape[1:] == (4 * 4 * 3, 1)
    assert torch.equal(windows.join(cut, 3), cells)
    mask = windows.key_mask(torch.ones(2, 3, dtype=torch.bool))
    if mask is None:
        assert (size, shift) == ((8, 8), 0)
    else:
        assert int((mask == 0).sum()) == cells.numel()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("absent", SENSORS)
def test_a_masked_sensor_is_as_if_never_given(style: str, absent: Sensor) -> None:
    fusion, bevs, present = make_fusion(style), maps(), everywhere()
    present[absent] = torch.tensor([True, False])
    both = fusion(bevs, present)
    rest = {sensor: bev for sensor, bev in bevs.items() if sensor != absent}
    torch.testing.assert_close(both[1], fusion(rest, everywhere())[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[0], fusion(bevs, everywhere())[0], atol=1e-5, rtol=1e-5)
    # What the absent map holds changes nothing.
    bevs[absent] = bevs[absent].clone()
    bevs[absent][1] = 1e3
    torch.testing.assert_close(fusion(bevs, present), both, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_a_sample_without_any_sensor_is_finite_and_alone(style: str) -> None:
    fusion, bevs = make_fusion(style), maps()
    present = {sensor: torch.tensor([True, False]) for sensor in SENSORS}
    fused = fusion(bevs, present)
    assert fused.isfinite().all()
    torch.testing.assert_close(fused[0], fusion(bevs, everywhere())[0], atol=1e-5, rtol=1e-5)


def influence(fusion: FusionTransformer, size: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """(X, Y) bool: which input cells the fused `cell` depends on."""
    bevs = {sensor: bev.requires_grad_() for sensor, bev in maps(1, size).items()}
    fused = fusion(bevs, everywhere(1))
    # Weighted, not summed: a layer norm's outputs can sum to a constant.
    (fused[0, :, *cell] * torch.randn(16, generator=torch.Generator().manual_seed(2))).sum().backward()
    return torch.stack([bev.grad[0].abs().sum(0) for bev in bevs.values() if bev.grad is not None]).sum(0) > 0


@pytest.mark.parametrize("style", STYLES)
def test_one_layer_sees_exactly_its_window(style: str) -> None:
    seen = influence(make_fusion(style, layers=1), (8, 8), (1, 6))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, 4:] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(12, 12), (11, 13)])
def test_shifted_windows_do_not_wrap_around(style: str, size: tuple[int, int]) -> None:
    """The corner's shifted window is the corner's 2 x 2; through the first layer that is its 4 x 4 window."""
    fusion = make_fusion(style, layers=2)
    corner = influence(fusion, size, (0, 0))
    expected = torch.zeros(size, dtype=torch.bool)
    expected[:4, :4] = True
    assert torch.equal(corner, expected)
    # An inner cell's shifted window [2, 6) x [2, 6) touches four windows of the first layer.
    inner = influence(fusion, size, (4, 4))
    expected[:8, :8] = True
    assert torch.equal(inner, expected)


@pytest.mark.parametrize("style", STYLES)
def test_every_sensor_reaches_the_result_and_gradients_flow(style: str) -> None:
    fusion = make_fusion(style).train()
    bevs = {sensor: bev.requires_grad_() for sensor, bev in maps().items()}
    fusion(bevs, everywhere()).square().sum().backward()
    assert all(bev.grad is not None and bool(bev.grad.abs().sum() > 0) for bev in bevs.values())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in fusion.parameters())


def test_no_sensor_is_refused() -> None:
    with pytest.raises(ValueError, match="no sensor"):
        make_fusion("joint")({}, {})
