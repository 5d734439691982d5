"""Whether two sensors' maps find each other by what they show.

On held-out drives each of one sensor's cells looks for the sample it is of among another sensor's maps of all samples,
at the same place: where the cell lies tells it nothing.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor

from fusionperc.config import Config
from fusionperc.console import console
from fusionperc.data.unlabelled import collate_unlabelled
from fusionperc.evaluation.likelihood import held_samples
from fusionperc.files import write_json
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.objectives.contrast import surface_cells
from fusionperc.types import Sensor

CHANCE, NETWORK = "chance", "network"


@torch.inference_mode()
def evaluate_contrast(
    model: FusionPercPretraining, config: Config, num_samples: int, device: torch.device | str = "cpu"
) -> dict[str, dict[str, float]]:
    """Scores a network on evenly spaced key frames of `data.split`, nothing hidden.

    Args:
        model: in evaluation mode, on `device`; it must have embeddings.
        config: of its run.
        num_samples: key frames; each is told apart from all others.
        device: where the model is.

    Returns:
        For every two sensors, as 'asked in other', the share of cells where LiDAR met something that find their sample:
        by chance, and the network's.

    Raises:
        ValueError: the network has no embeddings.
    """
    if not model.embeddings:
        raise ValueError("the network has no embeddings: pretrain it with pretraining.contrast above 0")
    maps: dict[Sensor, list[Tensor | None]] = {sensor: [] for sensor in config.model.sensor_names}
    cells = []
    grid, generator = model.config.grid.grid(), torch.Generator().manual_seed(0)
    for dataset, index in held_samples(config, num_samples):
        batch = collate_unlabelled([dataset[index]])
        embeddings = model(batch.inputs.to(device), batch.measured.horizon_s[:, :1].to(device)).embeddings
        for sensor, kept in maps.items():
            kept.append(embeddings[sensor].cpu() if sensor in embeddings else None)
        everything = torch.ones(1, dtype=torch.bool)
        cells.append(surface_cells(batch.measured, everything, grid, config.pretraining.contrast_cells, generator)[1])
    return {
        f"{one} in {other}": shares
        for one, other in permutations(maps, 2)
        if (shares := _found(maps[one], maps[other], cells)) is not None
    }


def _found(asked: list[Tensor | None], among: list[Tensor | None], cells: list[Tensor]) -> dict[str, float] | None:
    """The shares of one pair; None where no two samples have both sensors."""
    both = [n for n, (one, other) in enumerate(zip(asked, among, strict=True)) if one is not None and other is not None]
    there = [bev for n in both if (bev := among[n]) is not None]
    if len(there) < 2:
        return None
    stacked, right, count = torch.cat(there), 0, 0
    for place, number in enumerate(both):
        bev, x, y = asked[number], cells[number][:, 0], cells[number][:, 1]
        assert bev is not None
        alike = torch.einsum("dk,sdk->ks", bev[0, :, x, y], stacked[:, :, x, y])
        right += int((alike.argmax(1) == place).sum())
        count += len(x)
    return {CHANCE: 1 / len(both), NETWORK: right / max(1, count)}


def report_contrast(scores: dict[str, dict[str, float]], path: Path) -> None:
    """Writes what `evaluate_contrast` found as JSON and prints it."""
    write_json(path, scores)
    for pair, shares in scores.items():
        told = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        console.print(f"cells that find their sample at their place, {pair}: {told}")
