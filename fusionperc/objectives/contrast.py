"""Contrast: what one sensor sees in a cell is like what another sees there, and unlike other drives at that place.

Cells are compared with the same cell of other samples, never with other cells: where a cell lies is told by every map,
by the density of LiDAR's rings or the reach of a camera, whatever it shows, and would be all that is learnt. (With the
other cells of a batch three cells in five found themselves in another drive's map; `evaluation/contrast.py` measures
it.) The other samples are those of the batch and the last ones before it.

Source: CLIP (Radford et al., ICML 2021) for the symmetric loss; Wang et al., "Cross-Batch Memory for Embedding
Learning" (CVPR 2020) for embeddings of earlier batches as they were then.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fusionperc.config import PretrainingConfig
from fusionperc.geometry import BevGrid
from fusionperc.measurements import Measurements
from fusionperc.types import Sensor


class CellContrast(nn.Module):
    """InfoNCE between every two sensors' embeddings of the cells where LiDAR met something.

    The maps of the last `contrast_memory` samples are kept, half as precise, in training mode only; checkpoints hold
    them.

    Args:
        config: its cells, temperature, channels and memory.
        grid: of the maps.
        sensors: which there may be.
    """

    def __init__(self, config: PretrainingConfig, grid: BevGrid, sensors: Sequence[Sensor]) -> None:
        super().__init__()
        self.config, self.grid, self.sensors = config, grid, tuple(sensors)
        shape = (config.contrast_memory, len(self.sensors))
        self.maps: Tensor
        self.is_kept: Tensor
        self.oldest: Tensor
        self.register_buffer("maps", torch.zeros(*shape, config.contrast_channels, *grid.shape, dtype=torch.float16))
        self.register_buffer("is_kept", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        embeddings: dict[Sensor, Float[Tensor, "batch channels x y"]],
        present: dict[Sensor, Bool[Tensor, " batch"]],
        measured: Measurements,
        belongs: Bool[Tensor, " batch"],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss in nats a cell; 0 where no sample has two sensors, or there is no other sample yet.

        Args:
            embeddings: of length one.
            present: which samples have which sensor.
            measured: tells where LiDAR met something.
            belongs: samples whose sensors belong together; the others are left out.
            generator: draws the cells.
        """
        sample, cell = surface_cells(measured, belongs, self.grid, self.config.contrast_cells, generator)
        has = {sensor: present[sensor] & belongs for sensor in embeddings}
        terms = [
            self._nats(embeddings, one, other, sample, cell, has)
            for one, other in permutations(embeddings, 2)
            if bool((has[one] & has[other]).any())
        ]
        nothing = torch.stack([bev.sum() for bev in embeddings.values()]).sum() * 0
        loss = torch.stack(terms).mean() if terms and len(sample) else nothing
        if self.training:
            self._keep(embeddings, has)
        return loss

    def _nats(
        self,
        embeddings: dict[Sensor, Tensor],
        one: Sensor,
        other: Sensor,
        sample: Int[Tensor, " cells"],
        cell: Int[Tensor, "cells 2"],
        has: dict[Sensor, Tensor],
    ) -> Tensor:
        """One sensor's cells look for the sample they are of among the other sensor's maps."""
        asks = (has[one] & has[other])[sample]
        sample, x, y = sample[asks], cell[asks, 0], cell[asks, 1]
        asked = embeddings[one][sample, :, x, y]
        kept = self.maps[:, self.sensors.index(other)]
        among = torch.cat([embeddings[other][:, :, x, y], kept[:, :, x, y].float()])
        allowed = torch.cat([has[other], self.is_kept[:, self.sensors.index(other)]])
        logits = torch.einsum("kd,sdk->ks", asked, among) / self.config.temperature
        return F.cross_entropy(logits.masked_fill(~allowed, -torch.inf), sample)

    @torch.no_grad()
    def _keep(self, embeddings: dict[Sensor, Tensor], has: dict[Sensor, Tensor]) -> None:
        """The newest samples take the places of the oldest."""
        some = torch.stack(list(has.values())).any(0)
        for index in torch.nonzero(some).flatten().tolist() if len(self.is_kept) else ():
            slot = int(self.oldest)
            for place, sensor in enumerate(self.sensors):
                is_there = sensor in has and bool(has[sensor][index])
                self.is_kept[slot, place] = is_there
                if is_there:
                    self.maps[slot, place] = embeddings[sensor][index].to(self.maps.dtype)
            self.oldest.fill_((slot + 1) % len(self.is_kept))


def surface_cells(
    measured: Measurements, belongs: Tensor, grid: BevGrid, most: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """(K,) samples and (K, 2) cells in which key-frame rays end, at most so many of each sample, each once."""
    horizons = measured.horizon_s.shape[1]
    samples, cells = [], []
    for index in torch.nonzero(belongs).flatten().tolist():
        moment = index * horizons
        lidar = measured.lidar
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
