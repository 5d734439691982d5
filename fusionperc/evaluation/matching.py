"""Whether a pretrained network notices sensors that are not of one moment, or not of one calibration.

On held-out drives each sensor in turn is taken from another sample, or turned and shifted against the rest, and the
network's answers to these are told from those to the samples as they were recorded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from fusionperc.config import Config
from fusionperc.console import console
from fusionperc.data.loading import collate_inputs
from fusionperc.data.masking import with_taken, wrong_calibrations
from fusionperc.evaluation.likelihood import held_samples
from fusionperc.files import write_json
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.types import SENSORS, SensorInputs

CHANCE, NETWORK = "chance", "network"
MOMENT, CALIBRATION = "of another moment", "of another calibration"


@torch.inference_mode()
def evaluate_matching(
    model: FusionPercPretraining, config: Config, num_samples: int, device: torch.device | str = "cpu"
) -> dict[str, dict[str, float]]:
    """Scores a network on evenly spaced key frames of `data.split`, nothing hidden.

    Args:
        model: in evaluation mode, on `device`; it must have a matching head.
        config: of its run.
        num_samples: key frames; each is paired with the one half of them further on, the last of an odd number left.
        device: where the model is.

    Returns:
        For each sensor, as 'lidar of another moment' and 'lidar of another calibration', the area under the ROC curve:
        how often a sample as it was recorded is thought to belong together more than a wrong one. By chance, and the
        network's. Nothing of sensors that no two paired samples have beside another one.

    Raises:
        ValueError: the network has no matching head.
    """
    if model.matching is None:
        raise ValueError("the network has no matching head: pretrain it with pretraining.matching above 0")
    samples = [dataset[index].inputs for dataset, index in held_samples(config, num_samples)]
    half, generator = len(samples) // 2, torch.Generator().manual_seed(0)
    answers: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for first, second in zip(samples[:half], samples[half:], strict=False):
        pair = collate_inputs([first, second])
        both = pair.present.all(0)
        if int(both.sum()) < 2:
            continue
        as_recorded = _answers(model, pair, device)
        for sensor in (s for s, has in zip(SENSORS, both.tolist(), strict=True) if has):
            itself, unmoved = torch.arange(2), torch.eye(4).expand(2, 4, 4)
            made = {
                MOMENT: with_taken(pair, sensor, itself.flip(0), unmoved),
                CALIBRATION: with_taken(pair, sensor, itself, wrong_calibrations(2, generator)),
            }
            for kind, inputs in made.items():
                answers.setdefault(f"{sensor} {kind}", []).append((as_recorded, _answers(model, inputs, device)))
    return {name: {CHANCE: 0.5, NETWORK: _told_apart(pairs)} for name, pairs in answers.items()}


def _answers(model: FusionPercPretraining, inputs: SensorInputs, device: torch.device | str) -> Tensor:
    """(B,) for each sample the mean over every two sensors and all cells."""
    logits = model(inputs.to(device), torch.zeros(inputs.batch_size, 1, device=device)).match_logits
    return torch.stack([pair.mean((1, 2)) for pair in logits.values()]).mean(0).cpu()


def _told_apart(answers: list[tuple[Tensor, Tensor]]) -> float:
    """The area under the ROC curve, of answers to samples as recorded and to wrong ones."""
    right, wrong = (torch.cat(each) for each in zip(*answers, strict=True))
    truth = torch.cat([torch.ones_like(right), torch.zeros_like(wrong)]).long()
    return float(binary_auroc(torch.cat([right, wrong]).sigmoid(), truth))


def report_matching(scores: dict[str, dict[str, float]], path: Path) -> None:
    """Writes what `evaluate_matching` found as JSON and prints it."""
    write_json(path, scores)
    for name, areas in scores.items():
        told = ", ".join(f"{who} {area:.2f}" for who, area in areas.items())
        console.print(f"{name}, area under the ROC curve: {told}")
