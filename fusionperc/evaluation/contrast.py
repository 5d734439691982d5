"""Whether two sensors' maps find each other by what they show, or merely by where it is.

On held-out drives each of one sensor's cells looks for itself among those of another sensor's map, once of the same
moment, once of another drive's. There is nothing to be found in the other drive's: cells that find themselves there are
told by their place alone, by what every map has there, such as the density of LiDAR's rings or the reach of a camera.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from fusionperc.config import Config
from fusionperc.console import console
from fusionperc.data.unlabelled import collate_unlabelled
from fusionperc.evaluation.likelihood import held_samples
from fusionperc.files import whole_file
from fusionperc.measurements import Measurements
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.objectives.contrast import surface_cells
from fusionperc.types import Sensor

CHANCE, ELSEWHERE, ITSELF = "chance", "another drive's", "its own"


@torch.inference_mode()
def evaluate_contrast(
    model: FusionPercPretraining, config: Config, num_samples: int, device: torch.device | str = "cpu"
) -> dict[str, dict[str, float]]:
    """Scores a network on evenly spaced key frames of `data.split`, nothing hidden.

    Args:
        model: in evaluation mode, on `device`; it must have embeddings.
        config: of its run.
        num_samples: key frames; each is compared with the one half of them further on, of another drive.
        device: where the model is.

    Returns:
        For every two sensors the share of cells that come first among `contrast_cells` or fewer: by chance, in another
        drive's map, in the map of the same moment.

    Raises:
        ValueError: the network has no embeddings.
    """
    if not model.embeddings:
        raise ValueError("the network has no embeddings: pretrain it with pretraining.contrast above 0")
    seen: list[tuple[Measurements, dict[Sensor, Tensor]]] = []
    for dataset, index in held_samples(config, num_samples):
        batch = collate_unlabelled([dataset[index]])
        embeddings = model(batch.inputs.to(device), batch.measured.horizon_s[:, :1].to(device)).embeddings
        seen.append((batch.measured, {sensor: maps.cpu() for sensor, maps in embeddings.items()}))
    grid, generator = model.config.grid.grid(), torch.Generator().manual_seed(0)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for place, (measured, own) in enumerate(seen):
        _, others = seen[(place + len(seen) // 2) % len(seen)]
        belongs = torch.ones(1, dtype=torch.bool)
        _, cell = surface_cells(measured, belongs, grid, config.pretraining.contrast_cells, generator)
        if not len(cell):
            continue
        for one, other in combinations(own, 2):
            if other in others:
                asked, here, there = (
                    maps[0, :, cell[:, 0], cell[:, 1]].T for maps in (own[one], own[other], others[other])
                )
                shares = (1 / len(cell), found_again(asked, there), found_again(asked, here))
                found.setdefault(f"{one}, {other}", []).append(shares)
    return {
        pair: dict(zip((CHANCE, ELSEWHERE, ITSELF), torch.tensor(shares).mean(0).tolist(), strict=True))
        for pair, shares in found.items()
    }


def found_again(asked: Tensor, among: Tensor) -> float:
    """The share of rows (K, D) of length one that are nearest to the same row of the other (K, D)."""
    return float(((asked @ among.T).argmax(1) == torch.arange(len(asked))).float().mean())


def report_contrast(scores: dict[str, dict[str, float]], path: Path) -> None:
    """Writes what `evaluate_contrast` found as JSON and prints it."""
    with whole_file(path) as part:
        part.write_text(json.dumps(scores, indent=2) + "\n")
    for pair, shares in scores.items():
        told = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        console.print(f"cells of {pair} that find themselves in a map: {told}")
