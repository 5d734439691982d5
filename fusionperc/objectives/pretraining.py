"""The pretraining objective: the likelihood of what is measured, and whether the sensors agree.

No label is read. Every term is a mean over what it concerns: rays, radar returns, cells, samples.

Source: masked modelling as in MAE (He et al., CVPR 2022) and Occupancy-MAE (2206.09900), here with rays instead of
points or voxels; prediction as in ViDAR (CVPR 2024); contrast as in CLIP (ICML 2021); matching as in UNITER (ECCV
2020).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fusionperc.config import Config
from fusionperc.geometry import BevGrid
from fusionperc.measurements import LidarRays, Measurements, RadarReturns, Surfaces
from fusionperc.models.detection import DensePredictions
from fusionperc.models.pretraining import CellMotion, PretrainingOutput
from fusionperc.models.reconstruction import RayDistribution, Reconstruction, ray_distribution
from fusionperc.objectives.contrast import contrast_loss, matching_loss
from fusionperc.objectives.detection import dense_box_losses, depth_loss, draw_heatmaps, gaussian_focal_loss
from fusionperc.objectives.pictures import pictured_loss
from fusionperc.types import Boxes

#: No radar is surer of a speed than this, m/s: the scatter of its own measurement.
_LEAST_DOPPLER_MPS = 0.1
#: An error of so many m/s counts as much as a nat. Were it one, the fastest would decide where every step goes.
_VELOCITY_MPS = 5.0
#: A single point that moves may be a ray that just missed an edge.
_SURE_POINTS = 2
#: Where fewer cells, or points, of a batch move, the mean is told as if so many did.
_FEWEST_MOVING = 32
#: The same of objects. No road user is as high as this, m.
_FEWEST_OBJECTS, _HIGHEST_M = 4, 4.5


class PretrainingObjective:
    """Turns outputs and measurements into named losses.

    Args:
        config: weights, rays, grid.
    """

    def __init__(self, config: Config) -> None:
        self.weights, self.camera, self.detection = config.pretraining, config.model.camera, config.objective
        self.grid = config.model.grid.grid()

    def __call__(
        self,
        output: PretrainingOutput,
        measured: Measurements,
        depth_m: Tensor | None,
        hidden: Tensor,
        is_wrong: Tensor,
        generator: torch.Generator | None = None,
        surfaces: Surfaces | None = None,
        objects: list[Boxes] | None = None,
        is_whole: Tensor | None = None,
        has_past: Tensor | None = None,
        seen: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses by name, unweighted but for ``total``, the weighted sum to minimise.

        Args:
            output: of the network.
            measured: what was measured at the moments that were to be reconstructed, the key frame's first.
            depth_m: (B, N, h, w) as `types.Targets.depth_m`, or None.
            hidden: (B, X, Y) bool: cells whose LiDAR was hidden.
            is_wrong: (B, 3) bool: which of `SENSORS` do not belong to the rest of their sample; a sample with such a
                sensor teaches matching only.
            generator: draws the cells that contrast and matching compare.
            surfaces: what moves.
            objects: (B) boxes of what moves.
            is_whole: (B,) bool: samples that teach what moves, by default all.
            has_past: (B,) bool: samples in which motion could be seen, by default all; of the others it is not asked.
            seen: what `pictures.PictureTeacher` saw at the places the network was asked about, and where.
        """
        weights, belongs, present = self.weights, ~is_wrong.any(1), output.features.present
        teaches_objects = belongs if is_whole is None else belongs & is_whole
        knows_motion = teaches_objects if has_past is None else teaches_objects & has_past
        losses: dict[str, Tensor] = {}
        if output.reconstruction is not None:
            losses |= self._reconstruction(output.reconstruction, measured, hidden, belongs)
        wants_depth = weights.likelihood > 0 and weights.depth > 0
        if wants_depth and depth_m is not None and output.features.depth_logits is not None:
            told = depth_m * belongs[:, None, None, None]
            losses["depth"] = depth_loss(output.features.depth_logits, told, self.camera)
        if weights.wants_pictures and output.pictured is not None and seen is not None:
            losses["pictures"] = pictured_loss(output.pictured, seen[0], seen[1] & belongs[:, None])
        if weights.contrast > 0 and len(output.embeddings) > 1:
            losses["contrast"] = contrast_loss(
                output.embeddings, present, measured, belongs, self.grid, weights, generator
            )
        if output.match_logits is not None:
            losses["matching"] = matching_loss(
                output.match_logits, present, is_wrong, measured, self.grid, weights, generator
            )
        if output.motion is not None and surfaces is not None:
            losses |= motion_losses(output.motion, surfaces, knows_motion)
        if output.objects is not None and surfaces is not None and objects is not None:
            losses |= object_losses(output.objects, objects, surfaces, self.grid, teaches_objects, knows_motion)
        of = {
            "likelihood": weights.likelihood,
            "radar": weights.likelihood * weights.radar,
            "doppler": weights.likelihood * weights.radar,
            "depth": weights.likelihood * weights.depth,
            "pictures": weights.likelihood * weights.pictures,
            "prediction": weights.prediction,
            "prediction_radar": weights.prediction * weights.radar,
            "prediction_doppler": weights.prediction * weights.radar,
            "motion": weights.motion,
            "motion_velocity": weights.motion / _VELOCITY_MPS,
            "objects_heatmap": weights.objects * self.detection.heatmap,
            "objects_box": weights.objects * self.detection.box,
            "objects_velocity": weights.objects * self.detection.box * self.detection.velocity,
            "contrast": weights.contrast,
            "matching": weights.matching,
        }
        # A batch of one sensor alone may leave nothing to learn: the sum still has a gradient, of zero.
        losses["total"] = output.features.fused.sum() * 0
        for name, weight in of.items():
            if name in losses:
                losses["total"] = losses["total"] + weight * losses[name]
        return losses

    def rays(self, reconstruction: Reconstruction, lidar: LidarRays) -> RayDistribution:
        """Where the rays of the moments end, as the network has it."""
        bins, bin_m = self.weights.ray_bins, self.weights.ray_bin_m
        return ray_distribution(
            reconstruction.density, reconstruction.volume, lidar.origin_m, lidar.direction, bins, bin_m
        )

    def _reconstruction(
        self, reconstruction: Reconstruction, measured: Measurements, hidden: Tensor, belongs: Tensor
    ) -> dict[str, Tensor]:
        """LiDAR in nats a ray, radar occupancy in nats a return, Doppler in nats a return; now and later apart."""
        batch, horizons = measured.horizon_s.shape
        nats = self.rays(reconstruction, measured.lidar).negative_log_likelihood(measured.lidar.range_m)
        is_now = torch.arange(horizons, device=nats.device).repeat(batch) == 0
        counts = belongs.repeat_interleave(horizons)
        was_hidden = ends_in(measured.lidar, hidden, self.grid)
        weight = torch.where(was_hidden | ~is_now[:, None], 1.0, self.weights.visible) * counts[:, None]
        weight = weight * ~measured.lidar.range_m.isnan()
        losses: dict[str, Tensor] = {}
        if self.weights.likelihood > 0:
            losses["likelihood"] = _mean(nats[is_now], weight[is_now])
        if self.weights.prediction > 0:
            losses["prediction"] = _mean(nats[~is_now], weight[~is_now])
        if self.weights.radar == 0:
            return losses
        radar, doppler, has_radar = radar_terms(reconstruction, measured.radar, self.grid)
        if self.weights.likelihood > 0:
            scanned = (has_radar & is_now & counts).float()
            losses |= {"radar": _mean(radar, scanned), "doppler": _mean(doppler, scanned)}
        if self.weights.prediction > 0:
            scanned = (has_radar & ~is_now & counts).float()
            losses |= {"prediction_radar": _mean(radar, scanned), "prediction_doppler": _mean(doppler, scanned)}
        return losses


def ends_in(lidar: LidarRays, cells: Bool[Tensor, "batch x y"], grid: BevGrid) -> Bool[Tensor, "moments rays"]:
    """Which rays end in cells of a mask; those that end nowhere do not."""
    moments, rays = lidar.range_m.shape
    ends = lidar.origin_m[:, None] + lidar.direction * lidar.range_m[..., None]
    at, inside = grid.cell_indices(ends.flatten(0, 1))
    sample = torch.arange(moments, device=cells.device) // (moments // cells.shape[0])
    found = cells[sample.repeat_interleave(rays), at[:, 0], at[:, 1]] & inside
    return found.view(moments, rays)


def radar_terms(
    reconstruction: Reconstruction, radar: RadarReturns, grid: BevGrid
) -> tuple[Float[Tensor, " moments"], Float[Tensor, " moments"], Bool[Tensor, " moments"]]:
    """Nats per return of which cells return something and of their Doppler (a density, per m/s), and which moments
    have a return to be told."""
    at, inside = grid.cell_indices(radar.xyz_m)
    at, moment = at[inside], radar.moment_index[inside]
    logits = reconstruction.radar_logits
    hit = torch.zeros_like(logits)
    hit[moment, at[:, 0], at[:, 1]] = 1
    cells = hit.sum((1, 2))
    nats = F.binary_cross_entropy_with_logits(logits, hit, reduction="none").sum((1, 2))

    velocity = reconstruction.velocity_mps[moment, :, at[:, 0], at[:, 1]]
    radial = (velocity * radar.line_of_sight[inside]).sum(1)
    spread = reconstruction.doppler_log_scale[moment, at[:, 0], at[:, 1]].exp() + _LEAST_DOPPLER_MPS
    laplace = (radial - radar.radial_mps[inside]).abs() / spread + torch.log(2 * spread)
    returns = torch.zeros_like(cells).index_add_(0, moment, torch.ones_like(laplace))
    doppler = torch.zeros_like(cells).index_add_(0, moment, laplace)
    return nats / cells.clamp(min=1), doppler / returns.clamp(min=1), radar.is_measured & (returns > 0)


def motion_losses(motion: CellMotion, surfaces: Surfaces, counts: Bool[Tensor, " batch"]) -> dict[str, Tensor]:
    """Which cells hold something that moves, in nats per moving cell, and its velocity: mean absolute error, m/s.

    Args:
        motion: what the network expects.
        surfaces: the points.
        counts: which samples count; of the others, and of those that were not compared, nothing is asked.
    """
    moves, is_unsure, _ = moving_cells(surfaces, motion.grid)
    is_asked = ~is_unsure & (counts & surfaces.is_compared)[:, None, None]
    nats = F.binary_cross_entropy_with_logits(motion.logits, moves.float(), reduction="none")
    at, inside = motion.grid.cell_indices(surfaces.xyz_m)
    known = inside & ~surfaces.velocity_mps.isnan().any(1) & counts[surfaces.sample_index]
    told = motion.velocity_mps[surfaces.sample_index[known], :, at[known, 0], at[known, 1]]
    error = (told - surfaces.velocity_mps[known]).abs().sum(1)
    return {
        "motion": (nats * is_asked).sum() / (moves & is_asked).sum().clamp(min=_FEWEST_MOVING),
        "motion_velocity": error.sum() / known.sum().clamp(min=_FEWEST_MOVING),
    }


def object_losses(
    predicted: DensePredictions,
    objects: list[Boxes],
    surfaces: Surfaces,
    grid: BevGrid,
    counts: Bool[Tensor, " batch"],
    knows_motion: Bool[Tensor, " batch"],
) -> dict[str, Tensor]:
    """The detection losses with the objects that move as the truth, as means over them.

    What stays may be an object, too: where there is something low that is not known to move, nothing is asked of the
    heatmap.

    Args:
        predicted: what the network expects.
        objects: of each sample; those outside the grid do not count.
        surfaces: the points.
        grid: of the fused map.
        counts: which samples count; those that were not compared do not either.
        knows_motion: samples of whose objects velocity is asked.
    """
    counts = counts & surfaces.is_compared
    truth = []
    for boxes, is_asked, is_told in zip(objects, counts.tolist(), knows_motion.tolist(), strict=True):
        inside = grid.cell_indices(boxes.center_m)[1] & is_asked
        velocity = boxes.velocity_mps if is_told else torch.full_like(boxes.velocity_mps, torch.nan)
        truth.append(replace(boxes, velocity_mps=velocity)[inside])
    count = max(_FEWEST_OBJECTS, sum(len(boxes) for boxes in truth))
    heatmap = draw_heatmaps(truth, grid)
    is_object = heatmap.amax(1, keepdim=True) > 0
    asked = (is_object | ~may_hold_objects(surfaces, grid)[:, None]) & counts[:, None, None, None]
    box = dense_box_losses(predicted.boxes, truth, grid, count)
    return {
        "objects_heatmap": gaussian_focal_loss(predicted.heatmap_logits, heatmap, asked, count),
        "objects_box": box["box"],
        "objects_velocity": box["velocity"],
    }


def may_hold_objects(surfaces: Surfaces, grid: BevGrid) -> Bool[Tensor, "batch x y"]:
    """Cells with points, and their neighbours, unless a point in them is higher than any road user."""
    # Whatever is above the grid counts.
    at, inside = grid.cell_indices(surfaces.xyz_m * surfaces.xyz_m.new_tensor([1.0, 1.0, 0.0]))
    top = torch.zeros(len(surfaces.is_compared), *grid.shape, device=at.device)
    flat = (surfaces.sample_index * grid.shape[0] + at[:, 0]) * grid.shape[1] + at[:, 1]
    top.view(-1).scatter_reduce_(0, flat[inside], surfaces.xyz_m[inside, 2], "amax")
    near = F.max_pool2d((top > 0).float(), 3, stride=1, padding=1) > 0
    return near & (top < _HIGHEST_M)


def moving_cells(
    surfaces: Surfaces, grid: BevGrid
) -> tuple[Bool[Tensor, "batch x y"], Bool[Tensor, "batch x y"], Bool[Tensor, "batch x y"]]:
    """Cells in which something moves, of which that is not sure, and in which there are points.

    A cell moves if two of its points do, and as many as stay. It is not sure of cells with a single moving point, nor
    of those with points of which nothing is known.
    """
    at, inside = grid.cell_indices(surfaces.xyz_m)
    place = (surfaces.sample_index[inside], at[inside, 0], at[inside, 1])
    counts = torch.zeros(3, len(surfaces.is_compared), *grid.shape, device=at.device)
    counts.index_put_((surfaces.moves[inside].long(), *place), counts.new_ones(()), accumulate=True)
    staying, moving, unknown = counts
    moves = (moving >= _SURE_POINTS) & (moving >= staying)
    is_unsure = ~moves & ((moving > 0) | ((staying == 0) & (unknown > 0)))
    return moves, is_unsure, counts.sum(0) > 0


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean; what weighs nothing may be NaN, all else is not hidden. 0 where nothing weighs."""
    return torch.where(weight > 0, values * weight, 0.0).sum() / weight.sum().clamp(min=1e-6)
