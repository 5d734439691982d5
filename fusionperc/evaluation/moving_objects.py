"""How well a pretrained network boxes what moves on held-out drives, with the past at hand and from a single moment.

The truth is `data.moving_objects`', from the sweeps before and after: no annotation. From a single moment without radar
where an object heads can only be told by its shape and by the road it is on.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fusionperc.config import Config
from fusionperc.console import console
from fusionperc.data.masking import hide_past
from fusionperc.data.unlabelled import collate_unlabelled
from fusionperc.evaluation.likelihood import held_samples
from fusionperc.files import write_json
from fusionperc.geometry import wrap_angle
from fusionperc.measurements import UnlabelledBatch
from fusionperc.models.detection import at_peaks, decode
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.types import Boxes, Detections
from fusionperc.visualization.plots import draw_sheet
from fusionperc.visualization.scene import build_scene

PAST, MOMENT = "with the past", "a single moment"
#: A box whose centre is nearer than this to an object's, and surer than this, has found it.
_NEAR_M, _SURE = 2.0, 0.1
_SHOWN = 0.3


@torch.inference_mode()
def evaluate_objects(
    model: FusionPercPretraining, config: Config, num_samples: int, device: torch.device | str = "cpu"
) -> dict[str, dict[str, float]]:
    """Scores a network on evenly spaced key frames of `data.split`.

    Args:
        model: in evaluation mode, on `device`; it must have the head of `pretraining.objects`.
        config: of its run.
        num_samples: key frames.
        device: where the model is.

    Returns:
        With the past and from a single moment: number of 'objects', share 'found', and the median errors of those
        found, 'center_m', 'heading_deg' (90 by chance) and 'velocity_mps'; nothing where nothing moves.

    Raises:
        ValueError: the network boxes nothing.
    """
    errors: dict[str, list[Tensor]] = {PAST: [], MOMENT: []}
    count = 0
    for dataset, index in held_samples(config, num_samples):
        batch = collate_unlabelled([dataset[index]])
        truth = objects_of(batch)
        count += len(truth)
        for name, rows in errors.items():
            rows.append(_errors(truth, boxed(model, batch, device, is_moment=name == MOMENT)))
    if not count:
        return {}
    scores = {}
    for name, parts in errors.items():
        found = torch.cat(parts)
        scores[name] = {"objects": float(count), "found": len(found) / count}
        if len(found):
            medians = found.median(0).values.tolist()
            scores[name] |= dict(zip(("center_m", "heading_deg", "velocity_mps"), medians, strict=True))
    return scores


def objects_of(batch: UnlabelledBatch) -> Boxes:
    """What other sweeps tell of a batch of one."""
    if batch.objects is None:
        raise ValueError("the network boxes nothing: pretrain it with pretraining.objects above 0")
    (boxes,) = batch.objects
    return boxes


def boxed(
    model: FusionPercPretraining, batch: UnlabelledBatch, device: torch.device | str, *, is_moment: bool
) -> Detections:
    """What the network boxes in a batch of one, from all of its sensors or from a single moment of them."""
    inputs = hide_past(batch.inputs, 1.0, torch.Generator())[0] if is_moment else batch.inputs
    dense = model(inputs.to(device), batch.measured.horizon_s[:, :1].to(device)).objects
    assert dense is not None
    return decode(at_peaks(dense, model.config.detection.queries), _SURE)[0].to("cpu")


def _errors(truth: Boxes, found: Detections) -> Tensor:
    """(K, 3) of those found: centre, m; heading, degrees; velocity, m/s; each by the surest box near enough."""
    if not len(truth) or not len(found):
        return torch.zeros(0, 3)
    is_near = torch.cdist(truth.center_m[:, :2], found.center_m[:, :2]) < _NEAR_M
    told = found[torch.where(is_near, found.score, -1.0).argmax(1)]
    rows = torch.stack(
        [
            (told.center_m - truth.center_m)[:, :2].norm(dim=1),
            wrap_angle(told.yaw_rad - truth.yaw_rad).abs().rad2deg(),
            (told.velocity_mps - truth.velocity_mps).norm(dim=1),
        ],
        dim=1,
    )
    return rows[is_near.any(1)]


def report_objects(scores: dict[str, dict[str, float]], path: Path) -> None:
    """Writes what `evaluate_objects` found as JSON and prints it."""
    write_json(path, scores)
    for name, row in scores.items():
        console.print(f"what moves, {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))


@torch.inference_mode()
def draw_objects(
    model: FusionPercPretraining, config: Config, count: int, output: Path, device: torch.device | str = "cpu"
) -> list[Path]:
    """objects_<n>.png for each of `count` held-out key frames: what moves, and what the network boxes.

    Args:
        model, config, device: as for `evaluate_objects`.
        count: key frames, spread over the held-out drives.
        output: folder, made if missing.
    """
    paths = []
    for number, (dataset, index) in enumerate(held_samples(config, count)):
        batch = collate_unlabelled([dataset[index]])
        found = boxed(model, batch, device, is_moment=False)
        scene = build_scene(
            batch.inputs, objects_of(batch), found[found.score > _SHOWN], range_m=config.model.grid.range_m
        )
        paths.append(output / f"objects_{number}.png")
        draw_sheet(
            scene, paths[-1], f"{batch.sample_tokens[0]}: what other sweeps tell to move (white), and what is boxed"
        )
    return paths
