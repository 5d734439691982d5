"""How well a pretrained network tells what moves on held-out drives, beside what radar says directly.

The truth is `data.motion`'s, from the sweeps a second before and after, which the network is not given: no annotation.
Scored is the average precision over cells with LiDAR points of which it is sure; chance is the share of such cells that
move.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from fusionperc.config import Config
from fusionperc.console import console
from fusionperc.data.unlabelled import collate_unlabelled
from fusionperc.evaluation.likelihood import held_samples
from fusionperc.files import whole_file
from fusionperc.geometry import BevGrid
from fusionperc.measurements import RadarReturns
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.objectives.pretraining import moving_cells

CHANCE, RADAR, NETWORK = "chance", "radar", "network"


@torch.inference_mode()
def evaluate_motion(
    model: FusionPercPretraining, config: Config, num_samples: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Average precision on evenly spaced key frames of `data.split`, nothing hidden.

    Radar's is that of the largest speed over ground, along the line of sight, of the key frame's returns in a cell.

    Args:
        model: in evaluation mode, on `device`; it must have a motion head.
        config: of its run.
        num_samples: key frames.
        device: where the model is.

    Returns:
        The average precision of chance, radar and network; nothing where nothing moves.

    Raises:
        ValueError: the network does not tell what moves.
    """
    if model.motion is None:
        raise ValueError("the network has no motion head: pretrain it with pretraining.motion above 0")
    coarse = config.model.grid.grid()
    grid = replace(coarse, cell_m=coarse.cell_m / config.pretraining.voxels_per_cell)
    truth, said, measured = [], [], []
    for dataset, index in held_samples(config, num_samples):
        batch = collate_unlabelled([dataset[index]])
        if batch.surfaces is None or not bool(batch.surfaces.is_compared[0]):
            continue
        moves, is_unsure, has_points = moving_cells(batch.surfaces, grid)
        asked = has_points & ~is_unsure
        motion = model(batch.inputs.to(device), batch.measured.horizon_s[:, :1].to(device)).motion
        truth.append(moves[asked])
        said.append(motion.logits.cpu()[asked].sigmoid())
        measured.append(radar_speed(batch.measured.radar, grid)[asked])
    is_moving = torch.cat(truth).long() if truth else torch.zeros(0, dtype=torch.int64)
    if not bool(is_moving.any()):
        return {}
    speed = torch.cat(measured)
    return {
        CHANCE: float(is_moving.float().mean()),
        RADAR: float(binary_average_precision(speed / (1 + speed), is_moving)),
        NETWORK: float(binary_average_precision(torch.cat(said), is_moving)),
    }


def radar_speed(radar: RadarReturns, grid: BevGrid) -> Tensor:
    """(1, X, Y) the largest radial speed of a key frame's returns in each cell, m/s; 0 without any."""
    at, inside = grid.cell_indices(radar.xyz_m)
    inside &= radar.moment_index == 0
    speed = torch.zeros(grid.shape[0] * grid.shape[1])
    place = at[inside, 0] * grid.shape[1] + at[inside, 1]
    return speed.scatter_reduce_(0, place, radar.radial_mps[inside].abs(), "amax").view(1, *grid.shape)


def report_motion(scores: dict[str, float], path: Path) -> None:
    """Writes what `evaluate_motion` found as JSON and prints it."""
    with whole_file(path) as part:
        part.write_text(json.dumps(scores, indent=2) + "\n")
    told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    console.print(f"cells that move, average precision: {told or 'nothing moves on these key frames'}")
