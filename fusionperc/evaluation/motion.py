"""How well a pretrained network tells what moves, and how fast, on held-out drives.

The truth is `data.motion`'s, from the sweeps before and after (the network sees none that comes after): no annotation.
Scored are the average precision over cells with LiDAR points of which it is sure, beside chance (the share of them that
moves) and what radar says directly; and the median error of the velocity of moving points, beside that of taking all
for standing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from fusionperc.config import Config
from fusionperc.console import console
from fusionperc.data.unlabelled import UnlabelledDataset, collate_unlabelled
from fusionperc.evaluation.likelihood import held_samples
from fusionperc.files import write_json
from fusionperc.geometry import BevGrid
from fusionperc.measurements import RadarReturns, Surfaces
from fusionperc.models.pretraining import CellMotion, FusionPercPretraining
from fusionperc.objectives.pretraining import moving_cells
from fusionperc.visualization.motion_view import MotionPanel, draw_motion_sheet

CHANCE, RADAR, STANDING, NETWORK = "chance", "radar", "standing", "network"
PRECISION, VELOCITY = "average_precision", "velocity_error_mps"
#: What is shown as moving in pictures.
_SHOWN = 0.5


@torch.inference_mode()
def evaluate_motion(
    model: FusionPercPretraining, config: Config, num_samples: int, device: torch.device | str = "cpu"
) -> dict[str, dict[str, float]]:
    """Scores a network on evenly spaced key frames of `data.split`, nothing hidden.

    Radar's average precision is that of the largest speed over ground, along the line of sight, of the key frame's
    returns in a cell.

    Args:
        model: in evaluation mode, on `device`; it must have a motion head.
        config: of its run.
        num_samples: key frames.
        device: where the model is.

    Returns:
        'average_precision' of chance, radar and network, 'velocity_error_mps' of standing and network; nothing where
        nothing moves.

    Raises:
        ValueError: the network does not tell what moves.
    """
    truth, said, measured, errors, speeds = [], [], [], [], []
    for dataset, index in held_samples(config, num_samples):
        surfaces, motion, radar = look(model, dataset, index, device)
        grid = motion.grid
        if not bool(surfaces.is_compared[0]):
            continue
        moves, is_unsure, has_points = moving_cells(surfaces, grid)
        asked = has_points & ~is_unsure
        truth.append(moves[asked])
        said.append(motion.logits[asked].sigmoid())
        measured.append(radar_speed(radar, grid)[asked])
        at, inside = grid.cell_indices(surfaces.xyz_m)
        known = inside & ~surfaces.velocity_mps.isnan().any(1)
        told = motion.velocity_mps[0, :, at[known, 0], at[known, 1]].T
        errors.append((told - surfaces.velocity_mps[known]).norm(dim=1))
        speeds.append(surfaces.velocity_mps[known].norm(dim=1))
    is_moving = torch.cat(truth).long() if truth else torch.zeros(0, dtype=torch.int64)
    if not bool(is_moving.any()):
        return {}
    speed = torch.cat(measured)
    return {
        PRECISION: {
            CHANCE: float(is_moving.float().mean()),
            RADAR: float(binary_average_precision(speed / (1 + speed), is_moving)),
            NETWORK: float(binary_average_precision(torch.cat(said), is_moving)),
        },
        VELOCITY: {STANDING: float(torch.cat(speeds).median()), NETWORK: float(torch.cat(errors).median())},
    }


def look(
    model: FusionPercPretraining, dataset: UnlabelledDataset, index: int, device: torch.device | str
) -> tuple[Surfaces, CellMotion, RadarReturns]:
    """What other sweeps tell of a key frame, what the network does, and what the radars measured."""
    batch = collate_unlabelled([dataset[index]])
    motion = model(batch.inputs.to(device), batch.measured.horizon_s[:, :1].to(device)).motion
    if motion is None or batch.surfaces is None:
        raise ValueError("the network has no motion head: pretrain it with pretraining.motion above 0")
    on_cpu = replace(motion, logits=motion.logits.cpu(), velocity_mps=motion.velocity_mps.cpu())
    return batch.surfaces, on_cpu, batch.measured.radar


def radar_speed(radar: RadarReturns, grid: BevGrid) -> Tensor:
    """(1, X, Y) the largest radial speed of a key frame's returns in each cell, m/s; 0 without any."""
    at, inside = grid.cell_indices(radar.xyz_m)
    inside &= radar.moment_index == 0
    speed = torch.zeros(grid.shape[0] * grid.shape[1])
    place = at[inside, 0] * grid.shape[1] + at[inside, 1]
    return speed.scatter_reduce_(0, place, radar.radial_mps[inside].abs(), "amax").view(1, *grid.shape)


def report_motion(scores: dict[str, dict[str, float]], path: Path) -> None:
    """Writes what `evaluate_motion` found as JSON and prints it."""
    write_json(path, scores)
    if not scores:
        console.print("nothing moves on these key frames")
    for kind, title in (
        (PRECISION, "cells that move, average precision"),
        (VELOCITY, "their velocity, median error, m/s"),
    ):
        if kind in scores:
            console.print(f"{title}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores[kind].items()))


@torch.inference_mode()
def draw_motion(
    model: FusionPercPretraining, config: Config, count: int, output: Path, device: torch.device | str = "cpu"
) -> list[Path]:
    """motion_<n>.png for each of `count` held-out key frames: what other sweeps tell, and what the network does.

    Args:
        model, config, device: as for `evaluate_motion`.
        count: key frames, spread over the held-out drives.
        output: folder, made if missing.
    """
    paths = []
    for number, (dataset, index) in enumerate(held_samples(config, count)):
        surfaces, motion, _ = look(model, dataset, index, device)
        grid = motion.grid
        moves = surfaces.moves == 1
        probability = motion.logits[0].sigmoid()
        cells = torch.nonzero(probability > _SHOWN)
        center_m = torch.tensor([grid.x_min_m, grid.y_min_m]) + (cells + 0.5) * grid.cell_m
        still_m = surfaces.xyz_m[~moves].numpy()
        measured = MotionPanel(
            "other sweeps tell", still_m, surfaces.xyz_m[moves].numpy(), torch.ones(int(moves.sum())).numpy(),
            surfaces.velocity_mps[moves].numpy(),
        )  # fmt: skip
        expected = MotionPanel(
            "the network expects", still_m, center_m.numpy(), probability[cells[:, 0], cells[:, 1]].numpy(),
            motion.velocity_mps[0, :, cells[:, 0], cells[:, 1]].T.numpy(),
        )  # fmt: skip
        paths.append(output / f"motion_{number}.png")
        title = f"{dataset.drives.sample_tokens[index]}: what moves, and where it gets in a second"
        draw_motion_sheet([measured, expected], paths[-1], title, config.model.grid.range_m)
    return paths
