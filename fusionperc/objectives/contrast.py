"""What one sensor sees in a cell is like what another sees there, and unlike what is not there.

*Contrast* asks of which sample of the batch it is; *matching*, whether two sensors are of one moment and calibration.

Cells are compared with the same cell of the batch's other samples, never with other cells: where a cell lies is told by
every map, by the density of LiDAR's rings or the reach of a camera, whatever it shows, and was all that was learnt when
cells were told apart from all others of the batch. Nor are samples of earlier batches compared with: to move away from
what the network was a moment ago is easier than to look. So the batch is what there is to be told from: of two samples
little is learnt; of eight, cells find theirs among held-out samples 1.6 to 4 times as often, and cameras gain.

Source: CLIP (Radford et al., ICML 2021) for the symmetric loss of contrast, SigLIP (Zhai et al., ICCV 2023) for that of
matching.
"""

from __future__ import annotations

from itertools import permutations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fusionperc.config import PretrainingConfig
from fusionperc.geometry import BevGrid
from fusionperc.measurements import Measurements
from fusionperc.types import SENSORS, Sensor


def contrast_loss(
    embeddings: dict[Sensor, Float[Tensor, "batch channels x y"]],
    present: dict[Sensor, Bool[Tensor, " batch"]],
    measured: Measurements,
    belongs: Bool[Tensor, " batch"],
    grid: BevGrid,
    config: PretrainingConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """InfoNCE between every two sensors' embeddings of cells where LiDAR met something, in nats a cell.

    Args:
        embeddings: of length one.
        present: which samples have which sensor.
        measured: tells where LiDAR met something.
        belongs: samples whose sensors belong together; the others are left out.
        grid: of the maps.
        config: cells of a sample, temperature.
        generator: draws the cells.

    Returns:
        0 where no two samples have two sensors.
    """
    sample, cell = surface_cells(measured, belongs, grid, config.contrast_cells, generator)
    has = {sensor: present[sensor] & belongs for sensor in embeddings}
    terms = []
    for one, other in permutations(embeddings, 2):
        asks = (has[one] & has[other])[sample]
        if not bool(asks.any()) or int(has[other].sum()) < 2:
            continue
        asking, x, y = sample[asks], cell[asks, 0], cell[asks, 1]
        alike = torch.einsum("kd,bdk->kb", embeddings[one][asking, :, x, y], embeddings[other][:, :, x, y])
        terms.append(F.cross_entropy((alike / config.temperature).masked_fill(~has[other], -torch.inf), asking))
    nothing = torch.stack([bev.sum() for bev in embeddings.values()]).sum() * 0
    return torch.stack(terms).mean() if terms else nothing


def matching_loss(
    logits: dict[tuple[Sensor, Sensor], Float[Tensor, "batch x y"]],
    present: dict[Sensor, Bool[Tensor, " batch"]],
    is_wrong: Bool[Tensor, "batch sensors"],
    measured: Measurements,
    grid: BevGrid,
    config: PretrainingConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Whether every two sensors belong together where LiDAR met something, in nats a cell.

    Args:
        logits: of each pair, in cells.
        present: which samples have which sensor.
        is_wrong: sensors, as `SENSORS`, of another moment or calibration than the rest of their sample.
        measured: tells where LiDAR met something in truth.
        grid: of the maps.
        config: cells of a sample.
        generator: draws the cells.

    Returns:
        0 where no sample has two sensors.
    """
    if not logits:
        return torch.zeros((), device=is_wrong.device)
    everything = torch.ones(len(is_wrong), dtype=torch.bool, device=is_wrong.device)
    sample, cell = surface_cells(measured, everything, grid, config.contrast_cells, generator)
    told, truth = [], []
    for (one, other), pair in logits.items():
        belongs = ~(is_wrong[:, SENSORS.index(one)] | is_wrong[:, SENSORS.index(other)])
        asked = (present[one] & present[other])[sample]
        told.append(pair[sample[asked], cell[asked, 0], cell[asked, 1]])
        truth.append(belongs[sample[asked]].float())
    nats = F.binary_cross_entropy_with_logits(torch.cat(told), torch.cat(truth), reduction="none")
    return nats.sum() / max(1, len(nats))


def surface_cells(
    measured: Measurements, belongs: Tensor, grid: BevGrid, most: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """(K,) samples and (K, 2) cells in which key-frame rays end, at most so many of each sample, each once."""
    horizons, lidar = measured.horizon_s.shape[1], measured.lidar
    samples, cells = [], []
    for index in torch.nonzero(belongs).flatten().tolist():
        moment = index * horizons
        ends = lidar.origin_m[moment] + lidar.direction[moment] * lidar.range_m[moment, :, None]
        at, inside = grid.cell_indices(ends)
        at = torch.unique(at[inside], dim=0)
        order = torch.randperm(len(at), generator=generator)[:most]
        cells.append(at[order.to(at.device)])
        samples.append(torch.full((len(order),), index, device=at.device))
    if not cells:
        nothing = torch.zeros(0, 2, dtype=torch.int64, device=belongs.device)
        return nothing[:, 0], nothing
    return torch.cat(samples), torch.cat(cells)
