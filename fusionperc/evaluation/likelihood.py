"""How likely held-out LiDAR sweeps are to a pretrained network, now and in the next seconds, beside what knows less.

*Now* some of the ground is hidden from LiDAR and radar, and the rays that end there are asked for; *later* nothing is
hidden, and all rays of the sweep are. Likelihood is that of the bin a ray ends in (`PretrainingConfig.ray_bin_m`), the
same bins for all, in nats a ray. What is compared with:

- empty world: the same density everywhere;
- last sweep, voxels: the newest sweep the network was given, moved by ego motion: dense where it has points, thin
  elsewhere, on the network's own grid;
- last sweep, rays: each ray ends where the last sweep's point nearest to its direction is, give or take.

The constants of these three (densities, spreads, how often they fail) are those that make the evaluated rays likeliest:
an advantage the network does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.spatial import cKDTree
from torch import Tensor

from fusionperc.config import Config
from fusionperc.console import console
from fusionperc.data.masking import mask_inputs
from fusionperc.data.unlabelled import HELD_HORIZONS_S, UnlabelledDataset, collate_unlabelled, held_drives
from fusionperc.files import write_json
from fusionperc.measurements import LidarRays, UnlabelledBatch
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.models.reconstruction import RayDistribution, Reconstruction, ray_distribution, ray_outcomes
from fusionperc.objectives.pretraining import ends_in

EMPTY, VOXELS, RAYS, NETWORK = "empty world", "last sweep, voxels", "last sweep, rays", "network"
#: More rays than any sweep has.
WHOLE_SWEEP = 40_000
#: Constants of the baselines among which the likeliest are taken: densities per metre, spreads in metres, shares.
_THIN = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1)
_DENSE = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
_SPREAD_M = (0.15, 0.3, 0.6, 1.2, 2.4)
_FAILS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class AskedRays:
    """Rays of one moment of one sample, flattened: what was measured and what each forecaster makes of it.

    Attributes:
        outcome: (R,) bin in which each ray ended, K for beyond.
        range_m: (R,).
        nats, median_m: (R,) of the network.
        is_inside, is_occupied: (R, K) bins in the volume; bins in whose voxel the last sweep has a point.
        guess: (R,) outcome of the last sweep's nearest ray.
        guess_m: (R,) its range from where the asked ray starts.
    """

    outcome: Tensor
    range_m: Tensor
    nats: Tensor
    median_m: Tensor
    is_inside: Tensor
    is_occupied: Tensor
    guess: Tensor
    guess_m: Tensor


def evaluate_likelihood(
    model: FusionPercPretraining, config: Config, num_samples: int, device: torch.device | str = "cpu"
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores a network and the baselines on evenly spaced key frames of `data.split`.

    Args:
        model: in evaluation mode, on `device`; it must have a reconstruction head.
        config: of its run.
        num_samples: key frames.
        device: where the model is.

    Returns:
        By forecaster, by horizon ('0 s', '1 s', ...): 'nats' a ray, and 'error_m', the median absolute error of the
        median range over rays that ended in the volume (absent for the empty world).

    Raises:
        ValueError: the network reconstructs nothing.
    """
    if model.reconstruction is None:
        raise ValueError("the network has no reconstruction head: pretrain it with likelihood or prediction above 0")
    asked: list[list[AskedRays]] = [[] for _ in HELD_HORIZONS_S]
    for place, (dataset, index) in enumerate(held_samples(config, num_samples)):
        for moment, rays in enumerate(look(model, dataset, index, place, device)):
            asked[moment] += [] if rays is None else [rays]
    table: dict[str, dict[str, dict[str, float]]] = {EMPTY: {}, VOXELS: {}, RAYS: {}, NETWORK: {}}
    for horizon_s, those in zip(HELD_HORIZONS_S, asked, strict=True):
        if those:
            for name, values in scored(those, config.pretraining.ray_bin_m).items():
                table[name][f"{horizon_s:g} s"] = values
    return table


def report_likelihood(table: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Writes what `evaluate_likelihood` found as JSON and prints it."""
    write_json(path, table)
    horizons = list(table[NETWORK])
    shown = Table(
        title="LiDAR rays of held-out drives: nats a ray / median error of the median range, m (now: hidden ground)",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    shown.add_column("")
    for horizon in horizons:
        shown.add_column("now" if horizon == "0 s" else f"in {horizon}", justify="right")
    for name, by_horizon in table.items():
        cells = [by_horizon[horizon] for horizon in horizons]
        errors = [f" / {cell['error_m']:.2f}" if "error_m" in cell else "" for cell in cells]
        shown.add_row(name, *(f"{cell['nats']:.2f}{error}" for cell, error in zip(cells, errors, strict=True)))
    console.print(shown)
    console.print(f"report: {path}")


def held_samples(config: Config, num_samples: int) -> Iterator[tuple[UnlabelledDataset, int]]:
    """Evenly spaced key frames of the held-out split, the middle of as many equal parts."""
    dataset = UnlabelledDataset(held_drives(config), config)
    count = min(num_samples, len(dataset))
    for index in ((np.arange(count) + 0.5) * len(dataset) / count).astype(int).tolist():
        yield dataset, index


@torch.inference_mode()
def look(
    model: FusionPercPretraining, dataset: UnlabelledDataset, index: int, seed: int, device: torch.device | str
) -> list[AskedRays | None]:
    """What is asked of one key frame at each of `HELD_HORIZONS_S`; None where the drive has ended."""
    batch = collate_unlabelled([dataset[index]])
    now, later, hidden = expected(model, batch, seed, device)
    whole = dataset.drives.measured(index, (0.0,), WHOLE_SWEEP).lidar
    is_hidden = ends_in(batch.measured.lidar, hidden, model.config.grid.grid())
    seen = ~ends_in(whole, hidden, model.config.grid.grid())[0]
    asked: list[AskedRays | None] = []
    for moment in range(len(HELD_HORIZONS_S)):
        rays = _moment(batch.measured.lidar, moment)
        wanted = ~rays.range_m[0].isnan() & (is_hidden[0] if moment == 0 else True)
        if not bool(wanted.any()):
            asked.append(None)
            continue
        rays = LidarRays(rays.origin_m, rays.direction[:, wanted], rays.range_m[:, wanted])
        given = seen if moment == 0 else torch.ones_like(seen)
        sweep = LidarRays(whole.origin_m, whole.direction[:, given], whole.range_m[:, given])
        volume = now if moment == 0 else _at(later, moment - 1)
        asked.append(_asked(volume, rays, sweep, dataset.config))
    return asked


def expected(
    model: FusionPercPretraining, batch: UnlabelledBatch, seed: int, device: torch.device | str
) -> tuple[Reconstruction, Reconstruction, Tensor]:
    """What the network expects now, some of the ground hidden, and later, nothing hidden; and (1, X, Y) what was."""
    pretraining = model.pretraining.model_copy(update={"mask_sensor": 0.0, "mask_camera": 0.0})
    generator = torch.Generator().manual_seed(seed)
    masked = mask_inputs(batch.inputs, pretraining, model.config.grid.grid(), generator)
    horizon_s = batch.measured.horizon_s
    now = model(masked.inputs.to(device), horizon_s[:, :1].to(device)).reconstruction
    later = model(batch.inputs.to(device), horizon_s[:, 1:].to(device)).reconstruction
    return _on_cpu(now), _on_cpu(later), masked.hidden


def _on_cpu(reconstruction: Reconstruction) -> Reconstruction:
    return Reconstruction(
        reconstruction.volume,
        reconstruction.density.cpu(),
        reconstruction.radar_logits.cpu(),
        reconstruction.velocity_mps.cpu(),
        reconstruction.doppler_log_scale.cpu(),
    )


def _moment(lidar: LidarRays, moment: int) -> LidarRays:
    row = slice(moment, moment + 1)
    return LidarRays(lidar.origin_m[row], lidar.direction[row], lidar.range_m[row])


def _at(reconstruction: Reconstruction, moment: int) -> Reconstruction:
    row = slice(moment, moment + 1)
    return Reconstruction(
        reconstruction.volume,
        reconstruction.density[row],
        reconstruction.radar_logits[row],
        reconstruction.velocity_mps[row],
        reconstruction.doppler_log_scale[row],
    )


def _asked(volume: Reconstruction, rays: LidarRays, sweep: LidarRays, config: Config) -> AskedRays:
    bins, bin_m = config.pretraining.ray_bins, config.pretraining.ray_bin_m
    network = ray_distribution(volume.density, volume.volume, rays.origin_m, rays.direction, bins, bin_m)
    points = sweep.origin_m[:, None] + sweep.direction * sweep.range_m[..., None]
    occupied = torch.zeros_like(volume.density[:1])
    at, inside = volume.volume.voxel_indices(points[0])
    occupied[0, at[inside][:, 2], at[inside][:, 0], at[inside][:, 1]] = 1
    along_m = (torch.arange(bins) + 0.5) * bin_m
    centers = rays.origin_m[:, None] + rays.direction[0, :, None] * along_m[:, None]
    cell, is_inside = volume.volume.voxel_indices(centers.flatten(0, 1))
    is_occupied = (occupied[0, cell[:, 2], cell[:, 0], cell[:, 1]] > 0) & is_inside
    guess_m = nearest_range_m(rays, sweep)
    return AskedRays(
        outcome=network.outcome(rays.range_m)[0],
        range_m=rays.range_m[0],
        nats=network.negative_log_likelihood(rays.range_m)[0],
        median_m=network.median_m()[0],
        is_inside=network.is_inside[0],
        is_occupied=is_occupied.view(-1, bins),
        guess=network.outcome(guess_m[None])[0],
        guess_m=guess_m,
    )


def nearest_range_m(rays: LidarRays, sweep: LidarRays) -> Tensor:
    """(R,) how far each ray of one moment gets if it ends where the sweep's point nearest to its direction lies, seen
    from where the ray starts; infinite where that firing of the sweep met nothing."""
    points = sweep.origin_m + sweep.direction[0] * sweep.range_m[0, :, None]
    offset = points - rays.origin_m
    distance = offset.norm(dim=1)
    returned = distance.isfinite()
    direction = torch.where(returned[:, None], offset / distance[:, None], sweep.direction[0])
    _, nearest = cKDTree(direction.numpy()).query(rays.direction[0].numpy())
    return torch.where(returned, distance, torch.inf)[torch.from_numpy(nearest)]


def scored(asked: list[AskedRays], bin_m: float) -> dict[str, dict[str, float]]:
    """The forecasters' scores over all rays of one horizon."""
    whole = AskedRays(**{name: torch.cat([getattr(one, name) for one in asked]) for name in vars(asked[0])})
    ended = whole.outcome < whole.is_inside.shape[1]
    occupied = whole.is_occupied.float()
    empty = {thin: ray_outcomes((occupied * 0 + thin)[None], whole.is_inside[None], bin_m) for thin in _THIN}
    voxels = {
        (dense, thin): ray_outcomes((occupied * (dense - thin) + thin)[None], whole.is_inside[None], bin_m)
        for dense, thin in product(_DENSE, _THIN)
        if dense > thin
    }
    best_voxels = min(voxels.values(), key=lambda rays: _nats(rays, whole.outcome))
    return {
        EMPTY: {"nats": min(_nats(rays, whole.outcome) for rays in empty.values())},
        VOXELS: {
            "nats": _nats(best_voxels, whole.outcome),
            "error_m": _error_m(best_voxels.median_m()[0], whole.range_m, ended),
        },
        RAYS: {
            "nats": min(ray_guess_nats(whole, bin_m, spread, fails) for spread, fails in product(_SPREAD_M, _FAILS)),
            "error_m": _error_m(whole.guess_m, whole.range_m, ended),
        },
        NETWORK: {"nats": float(whole.nats.mean()), "error_m": _error_m(whole.median_m, whole.range_m, ended)},
    }


def _nats(rays: RayDistribution, outcome: Tensor) -> float:
    each = torch.cat([rays.log_probability[0], rays.log_beyond[0][:, None]], 1)
    return float(-each.gather(1, outcome[:, None]).mean())


def ray_guess_nats(rays: AskedRays, bin_m: float, spread_m: float, fails: float) -> float:
    """Mean nats of: with probability 1 - `fails` around the guess (Laplace over bins, 'beyond' exactly), else as rays
    end on the whole."""
    bins = rays.is_inside.shape[1]
    usual = torch.bincount(rays.outcome, minlength=bins + 1).float() / len(rays.outcome)
    away_m = (torch.arange(bins) - rays.guess[:, None]).abs() * bin_m
    near = torch.exp(-away_m / spread_m) * rays.is_inside
    near = near / near.sum(1, keepdim=True).clamp(min=1e-9)
    is_beyond = (rays.guess == bins)[:, None]
    around = torch.cat([near * ~is_beyond, is_beyond.float()], 1)
    mixed = (1 - fails) * around + fails * usual
    return float(-mixed.gather(1, rays.outcome[:, None]).clamp(min=1e-9).log().mean())


def _error_m(expected_m: Tensor, range_m: Tensor, ended: Tensor) -> float:
    """The median over rays that ended in the volume; one expected to get beyond counts as infinitely wrong."""
    return float((expected_m - range_m)[ended].abs().median()) if bool(ended.any()) else float("nan")
