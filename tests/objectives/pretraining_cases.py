"""Measurements and outputs that the tests of pretraining losses share."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusionperc.config import Config, build_config
from fusionperc.geometry import BevGrid, VoxelGrid
from fusionperc.measurements import LidarRays, Measurements, RadarReturns, Surfaces
from fusionperc.models.boxes import NUM_RAW, BoxParameters
from fusionperc.models.detection import DensePredictions
from fusionperc.models.encoder import BevFeatures
from fusionperc.models.pretraining import CellMotion, PretrainingOutput
from fusionperc.models.reconstruction import Reconstruction
from fusionperc.objectives.pretraining import PretrainingObjective
from fusionperc.types import ATTRIBUTES, Boxes, Sensor

#: 8 x 8 cells of 2 m, 4 layers of 2 m.
GRID = BevGrid(-8.0, 8.0, -8.0, 8.0, -5.0, 3.0, 2.0)
FINE = BevGrid(-8.0, 8.0, -8.0, 8.0, -5.0, 3.0, 1.0)
VOLUME = VoxelGrid(-8.0, 8.0, -8.0, 8.0, -5.0, 3.0, 2.0, 2.0)
TERMS = {
    "likelihood", "radar", "doppler", "depth", "pictures", "prediction", "prediction_radar", "prediction_doppler",
    "motion", "motion_velocity", "objects_heatmap", "objects_box", "objects_velocity", "contrast", "matching",
}  # fmt: skip


def config_of(**pretraining: object) -> Config:
    return build_config(
        {
            "model": {
                "grid": {"range_m": 8.0, "cell_m": 2.0},
                "lidar": {"pillar_m": 2.0},
                "radar": {"pillar_m": 2.0},
                "camera": {"weights": "none", "depth_bins": 4, "depth_min_m": 1, "depth_max_m": 9},
            },
            "pretraining": {
                "layer_m": 2.0, "ray_bins": 16, "ray_bin_m": 1.0, "contrast": 0.2, "contrast_channels": 6,
                "matching": 0.2, **pretraining,
            },
        }
    )  # fmt: skip


def measurements(batch: int = 2, rays: int = 12) -> Measurements:
    """Two moments of each sample; every ray ends 3 to 5 m from the middle, on another side; one radar return each."""
    angle = 0.1 + torch.arange(rays) * (2 * math.pi / rays)
    direction = torch.stack([angle.cos(), angle.sin(), torch.zeros(rays)], 1)
    moments = 2 * batch
    return Measurements(
        torch.tensor([[0.0, 1.0]]).repeat(batch, 1),
        LidarRays(
            torch.zeros(moments, 3),
            direction.repeat(moments, 1, 1),
            torch.linspace(3.0, 5.0, rays).repeat(moments, 1),
        ),
        RadarReturns(
            torch.tensor([[3.0, 1.0, 0.0]]).repeat(moments, 1),
            torch.tensor([[0.6, 0.8]]).repeat(moments, 1),
            torch.full((moments,), 2.0),
            torch.arange(moments),
            torch.ones(moments, dtype=torch.bool),
        ),
    )


def surfaces(batch: int = 2) -> Surfaces:
    """Three points of each sample: two in one cell move, one elsewhere stays."""
    return Surfaces(
        torch.tensor([[3.5, 1.5, 1.0], [3.6, 1.7, 2.0], [-3.0, 5.0, 1.0]]).repeat(batch, 1),
        torch.tensor([1, 1, 0], dtype=torch.int8).repeat(batch),
        torch.tensor([[2.0, 1.0], [2.0, 1.0], [math.nan, math.nan]]).repeat(batch, 1),
        torch.arange(batch).repeat_interleave(3),
        torch.ones(batch, dtype=torch.bool),
    )


def objects(batch: int = 2) -> list[Boxes]:
    """One car of each sample."""
    car = Boxes(
        torch.tensor([[3.6, 1.2, 0.9]]), torch.tensor([[4.5, 2.0, 1.6]]), torch.tensor([0.4]),
        torch.tensor([[2.0, 1.0]]), torch.tensor([0]), torch.tensor([-1]),
    )  # fmt: skip
    return [car] * batch


def dense_boxes(raw: Tensor) -> BoxParameters:
    """(B, 8, 8, NUM_RAW) as boxes."""
    place = GRID.centers_m().expand(len(raw), -1, -1, -1)
    zeros = BoxParameters(*(raw.new_zeros(*place.shape[:3], size) for size in (3, 3, 2, 2, len(ATTRIBUTES))))
    base = replace(zeros, center_m=torch.cat([place, torch.ones_like(place[..., :1])], -1))
    return BoxParameters.from_raw(raw, base, GRID.cell_m)


def outputs(batch: int = 2, seed: int = 0) -> PretrainingOutput:
    """Random leaves that take gradients."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    sensors: tuple[Sensor, ...] = ("camera", "radar", "lidar")
    moments = 2 * batch
    density = (torch.rand(moments, 4, 8, 8, generator=generator) * 0.2 + 0.02).requires_grad_()
    return PretrainingOutput(
        BevFeatures(
            leaf(batch, 8, 8, 8),
            {},
            {sensor: torch.ones(batch, dtype=torch.bool) for sensor in sensors},
            leaf(batch, 1, 4, 2, 3),
        ),
        Reconstruction(VOLUME, density, leaf(moments, 8, 8), leaf(moments, 2, 8, 8), leaf(moments, 8, 8)),
        {sensor: F.normalize(leaf(batch, 6, 8, 8), dim=1) for sensor in sensors},
        {(one, other): leaf(batch, 8, 8) for one, other in combinations(sensors, 2)},
        CellMotion(FINE, leaf(batch, 16, 16), leaf(batch, 2, 16, 16)),
        DensePredictions(leaf(batch, 8, 8, 8), leaf(batch, 10, 8, 8), dense_boxes(leaf(batch, 8, 8, NUM_RAW))),
        leaf(batch, 7, 5),
    )


def losses_of(
    config: Config,
    output: PretrainingOutput,
    measured: Measurements | None = None,
    *,
    hidden: Tensor | None = None,
    is_wrong: Tensor | None = None,
) -> dict[str, Tensor]:
    measured = measurements() if measured is None else measured
    batch = measured.horizon_s.shape[0]
    return PretrainingObjective(config)(
        output,
        measured,
        torch.full((batch, 1, 2, 3), 4.5),
        torch.ones(batch, 8, 8, dtype=torch.bool) if hidden is None else hidden,
        torch.zeros(batch, 3, dtype=torch.bool) if is_wrong is None else is_wrong,
        torch.Generator().manual_seed(0),
        surfaces(batch),
        objects(batch),
        seen=(torch.ones(batch, 7, 5), torch.arange(7).expand(batch, 7) < 4),
    )
