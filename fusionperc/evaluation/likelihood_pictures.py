"""Pictures of what a pretrained network expects LiDAR to measure: hidden ground, coming seconds, missing sensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fusionperc.config import Config
from fusionperc.data.unlabelled import HELD_HORIZONS_S, UnlabelledDataset, collate_unlabelled
from fusionperc.evaluation.likelihood import WHOLE_SWEEP, expected, held_samples
from fusionperc.measurements import LidarRays
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.models.reconstruction import Reconstruction, ray_distribution
from fusionperc.objectives.pretraining import ends_in
from fusionperc.types import SENSORS, letters_from_sensors, sensors_from_letters
from fusionperc.visualization.ray_view import RayColumn, draw_ray_sheet

#: What is left of the sensors in the second sheet.
_LEFT = ("C", "R", "CR", "RL", "CRL")


@torch.inference_mode()
def draw_expectations(
    model: FusionPercPretraining, config: Config, count: int, output: Path, device: torch.device | str = "cpu"
) -> list[Path]:
    """Two sheets for each of `count` held-out key frames: later_<n>.png and sensors_<n>.png.

    Args:
        model: in evaluation mode, on `device`, with a reconstruction head.
        config: of its run.
        count: key frames, spread over the held-out drives.
        output: folder, made if missing.
        device: where the model is.
    """
    paths = []
    for number, (dataset, index) in enumerate(held_samples(config, count)):
        range_m = config.model.grid.range_m
        title = f"{dataset.drives.sample_tokens[index]}: where LiDAR rays end"
        for name, columns in (
            ("later", _later(model, dataset, index, number, device)),
            ("sensors", _sensors(model, dataset, index, device)),
        ):
            paths.append(output / f"{name}_{number}.png")
            draw_ray_sheet(columns, paths[-1], title, range_m)
    return paths


def _later(
    model: FusionPercPretraining, dataset: UnlabelledDataset, index: int, seed: int, device: torch.device | str
) -> list[RayColumn]:
    """The key frame with hidden ground (bright), and the coming seconds."""
    batch = collate_unlabelled([dataset[index]])
    now, later, hidden = expected(model, batch, seed, device)
    sweeps = dataset.drives.measured(index, HELD_HORIZONS_S, WHOLE_SWEEP).lidar
    is_hidden = ends_in(sweeps, hidden, model.config.grid.grid())
    columns = []
    for moment, horizon_s in enumerate(HELD_HORIZONS_S):
        if bool(sweeps.range_m[moment].isnan().all()):
            continue
        volume, place = (now, 0) if moment == 0 else (later, moment - 1)
        shown = is_hidden[moment] if moment == 0 else torch.ones_like(is_hidden[moment])
        title = "now, hidden ground" if moment == 0 else f"in {horizon_s:g} s"
        columns.append(_column(title, volume, place, sweeps, moment, shown, dataset.config))
    return columns


def _sensors(
    model: FusionPercPretraining, dataset: UnlabelledDataset, index: int, device: torch.device | str
) -> list[RayColumn]:
    """The key frame's sweep as what is left of the sensors tells it."""
    batch = collate_unlabelled([dataset[index]])
    sweep = dataset.drives.measured(index, HELD_HORIZONS_S[:1], WHOLE_SWEEP).lidar
    now = torch.zeros(1, 1, device=device)
    columns = []
    for letters in _LEFT:
        inputs = batch.inputs.only(sensors_from_letters(letters))
        here = [sensor for column, sensor in enumerate(SENSORS) if bool(inputs.present[:, column].any())]
        if letters_from_sensors(here) != letters:
            continue
        volume = model(inputs.to(device), now).reconstruction
        shown = torch.ones_like(sweep.range_m[0], dtype=torch.bool)
        columns.append(_column(f"from {letters}", volume, 0, sweep, 0, shown, dataset.config))
    return columns


def _column(
    title: str, volume: Reconstruction, place: int, sweeps: LidarRays, moment: int, shown: Tensor, config: Config
) -> RayColumn:
    kept = ~sweeps.range_m[moment].isnan()
    direction, range_m = sweeps.direction[moment][kept], sweeps.range_m[moment][kept]
    rays = ray_distribution(
        volume.density[place : place + 1].cpu(),
        volume.volume,
        sweeps.origin_m[moment : moment + 1],
        direction[None],
        config.pretraining.ray_bins,
        config.pretraining.ray_bin_m,
    )
    # What ends outside the volume, nobody was asked about.
    asked = torch.where(rays.outcome(range_m[None])[0] < config.pretraining.ray_bins, range_m, torch.inf)
    return RayColumn(
        title,
        sweeps.origin_m[moment].numpy(),
        direction.numpy(),
        asked.numpy(),
        rays.median_m()[0].numpy(),
        shown[kept].numpy(),
    )
