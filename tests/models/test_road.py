"""The drivable area read off the fused map: shapes, and how far around a cell is looked."""

from __future__ import annotations

import pytest
import torch

from fusionperc.models.road import RoadMap


@pytest.mark.parametrize("shape", [(32, 32), (50, 34), (64, 63)])
def test_every_cell_gets_a_logit(shape: tuple[int, int]) -> None:
    assert RoadMap(5).eval()(torch.randn(2, 5, *shape)).shape == (2, 1, *shape)


def test_a_cell_sees_the_kerbs_of_its_street() -> None:
    """What lies 20 cells aside matters, in either direction; each cell's own values do, too."""
    torch.manual_seed(0)
    road, bev = RoadMap(5).eval(), torch.randn(1, 5, 96, 96)
    with torch.no_grad():
        here = road(bev)[0, 0, 48, 48]
        for x, y in ((28, 48), (68, 48), (48, 28), (48, 68), (48, 48)):
            other = bev.clone()
            other[:, :, x, y] += 10.0
            assert abs(float(road(other)[0, 0, 48, 48] - here)) > 1e-5
