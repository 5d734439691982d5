"""The detection objective: heatmaps, boxes at object centres, a set loss per decoder layer, camera depth.

A total of weighted terms, each a mean over what it concerns (objects, matched queries, measured depths), so that the
weights of `ObjectiveConfig` do not depend on the batch.

Source: CenterNet eq. 1 (heatmap focal loss), CenterPoint section 4 (box terms at centres), TransFusion section 3.4 (set
loss, focal classification), BEVDepth section 3.2 (explicit depth supervision; deviates: cross-entropy over bins).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from fusionperc.config import CameraEncoderConfig, ModelConfig, ObjectiveConfig
from fusionperc.geometry import BevGrid
from fusionperc.models.boxes import BoxParameters
from fusionperc.models.detection import QueryPredictions, allowed_attributes
from fusionperc.models.fusionperc import FusionPercOutput
from fusionperc.objectives.matching import FOCAL_ALPHA, FOCAL_GAMMA, MatchingCosts, match_queries
from fusionperc.types import CLASSES, Boxes, Targets

#: Overlap that a box shifted by the heatmap's radius must keep with the object (CenterPoint: 0.1).
MIN_OVERLAP = 0.1
MIN_RADIUS_M = 1.6
MAX_RADIUS_CELLS = 9


class DetectionObjective:
    """Turns a model's output and a batch's targets into named losses.

    Args:
        objective: weights and matching costs.
        model: the network's configuration (grid and depth bins).
    """

    def __init__(self, objective: ObjectiveConfig, model: ModelConfig) -> None:
        self.weights = objective
        self.grid = model.grid.grid()
        self.camera = model.camera
        self.costs = MatchingCosts(
            objective.match_class, objective.match_center, objective.match_box, objective.match_reach_m
        )

    def __call__(self, output: FusionPercOutput, targets: Targets) -> dict[str, Tensor]:
        """Losses by name, unweighted but for ``total``, the weighted sum to minimise.

        Samples without annotations (`Targets.is_labelled` False) teach depth only.
        """
        truth = [
            self._learnable(boxes, counts) for boxes, counts in zip(targets.boxes, targets.num_points, strict=True)
        ]
        labelled = targets.is_labelled
        truth = [boxes if bool(labelled[index]) else boxes[boxes.class_index < 0] for index, boxes in enumerate(truth)]
        heatmap = draw_heatmaps(truth, self.grid)
        count = max(1, sum(len(boxes) for boxes in truth))
        counts = labelled[:, None, None, None]

        detection = output.detection
        losses = {"heatmap": gaussian_focal_loss(detection.heatmap_logits, heatmap, counts, count)}
        if output.sensor_heatmap_logits:
            each = [
                gaussian_focal_loss(logits, heatmap, counts, count) for logits in output.sensor_heatmap_logits.values()
            ]
            losses["sensor_heatmap"] = torch.stack(each).mean()
        losses |= dense_box_losses(detection.dense, truth, self.grid, count)
        losses |= self._set_losses(detection.layers, truth, labelled, count)
        if output.depth_logits is not None and targets.depth_m is not None:
            losses["depth"] = depth_loss(output.depth_logits, targets.depth_m, self.camera)
        losses["total"] = self._total(losses)
        return losses

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        weight = self.weights
        of = {
            "heatmap": weight.heatmap,
            "sensor_heatmap": weight.sensor_heatmap,
            "box": weight.box,
            "velocity": weight.box * weight.velocity,
            "attribute": weight.attribute,
            "query_class": weight.classification,
            "query_box": weight.box,
            "query_velocity": weight.box * weight.velocity,
            "query_attribute": weight.attribute,
            "depth": weight.depth,
        }
        return torch.stack([of[name] * value for name, value in losses.items()]).sum()

    def _learnable(self, boxes: Boxes, num_points: Tensor) -> Boxes:
        """Boxes inside the grid with enough measured points."""
        _, inside = self.grid.cell_indices(boxes.center_m)
        return boxes[inside & (num_points.sum(dim=1) >= self.weights.min_points)]

    def _set_losses(
        self, layers: list[QueryPredictions], truth: list[Boxes], labelled: Tensor, count: int
    ) -> dict[str, Tensor]:
        """The matched set loss, averaged over decoder layers."""
        if not layers:
            return {}
        terms = [self._layer_losses(layer, truth, labelled, count) for layer in layers]
        return {f"query_{name}": torch.stack([term[name] for term in terms]).mean() for name in terms[0]}

    def _layer_losses(
        self, layer: QueryPredictions, truth: list[Boxes], labelled: Tensor, count: int
    ) -> dict[str, Tensor]:
        wanted = torch.zeros_like(layer.class_logits, dtype=torch.float32)
        samples, queries, matched = [], [], []
        for index, boxes in enumerate(truth):
            guess = layer.boxes[index]
            query, box = match_queries(
                layer.class_logits[index], guess.center_m, guess.log_size, guess.sin_cos, boxes, self.costs
            )
            wanted[index, query, boxes.class_index[box]] = 1
            samples.append(torch.full_like(query, index))
            queries.append(query)
            matched.append(boxes[box])
        focal = sigmoid_focal_loss(layer.class_logits.float(), wanted, alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA)
        predicted = layer.boxes[torch.cat(samples), torch.cat(queries)]
        losses = box_losses(predicted, _concatenate(matched), count)
        return losses | {"class": (focal * labelled[:, None, None]).sum() / count}


def dense_box_losses(dense: BoxParameters, truth: list[Boxes], grid: BevGrid, count: int) -> dict[str, Tensor]:
    """CenterPoint's terms: `box_losses` of the dense boxes (B, X, Y) at the cells where objects' centres lie."""
    cells = [grid.cell_indices(boxes.center_m)[0] for boxes in truth]
    sample = torch.cat([torch.full((len(cell),), index) for index, cell in enumerate(cells)]).long()
    at = torch.cat(cells)
    return box_losses(dense[sample.to(at.device), at[:, 0], at[:, 1]], _concatenate(truth), count)


def box_losses(predicted: BoxParameters, truth: Boxes, count: int) -> dict[str, Tensor]:
    """L1 of centre (m), log-size and sin/cos of known yaws; of known velocities; cross-entropy of known attributes.

    Args:
        predicted: one prediction per box of `truth`.
        count: what the sums are divided by (objects in the batch).
    """
    headed = torch.isfinite(truth.yaw_rad)
    yaw = torch.stack([truth.yaw_rad.sin(), truth.yaw_rad.cos()], dim=-1)[headed]
    box = (
        (predicted.center_m.float() - truth.center_m).abs().sum()
        + (predicted.log_size.float() - truth.size_lwh_m.clamp(min=1e-2).log()).abs().sum()
        + (predicted.sin_cos.float()[headed] - yaw).abs().sum()
    )
    known = torch.isfinite(truth.velocity_mps).all(dim=1)
    velocity = (predicted.velocity_mps.float()[known] - truth.velocity_mps[known]).abs().sum()

    allowed = allowed_attributes(truth.class_index.device)[truth.class_index]
    has_attribute = truth.attribute_index >= 0
    has_attribute &= allowed.gather(1, truth.attribute_index.clamp(min=0)[:, None]).squeeze(1)
    logits = predicted.attribute_logits.float().masked_fill(~allowed, -1e4)
    attribute = F.cross_entropy(logits[has_attribute], truth.attribute_index[has_attribute], reduction="sum")
    return {"box": box / count, "velocity": velocity / count, "attribute": attribute / count}


def gaussian_focal_loss(
    logits: Float[Tensor, "b k x y"], heatmap: Float[Tensor, "b k x y"], counts: Bool[Tensor, "b k x y"], count: int
) -> Tensor:
    """CenterNet's penalty-reduced focal loss (alpha 2, beta 4); `heatmap` is 1 at objects' cells.

    Args:
        logits: of every class.
        heatmap: as `draw_heatmaps` draws it.
        counts: where anything is asked, may be of size one along any axis.
        count: what the sum is divided by (objects in the batch).
    """
    logits = logits.float()
    probability = logits.sigmoid()
    positive = heatmap >= 1
    at_peak = F.logsigmoid(logits) * (1 - probability) ** 2
    elsewhere = F.logsigmoid(-logits) * probability**2 * (1 - heatmap) ** 4
    return -(torch.where(positive, at_peak, elsewhere) * counts).sum() / count


def depth_loss(
    logits: Float[Tensor, "b n bins h w"], depth_m: Float[Tensor, "b n h w"], camera: CameraEncoderConfig
) -> Tensor:
    """Cross-entropy of the depth bin at the picture cells where LiDAR measured one."""
    low, high, bins = camera.depth_min_m, camera.depth_max_m, camera.depth_bins
    index = torch.floor((depth_m - low) / ((high - low) / bins)).long()
    measured = (index >= 0) & (index < bins) & (depth_m > 0)
    if not bool(measured.any()):
        return logits.sum() * 0
    return F.cross_entropy(logits.float().movedim(2, -1)[measured], index[measured])


def draw_heatmaps(truth: list[Boxes], grid: BevGrid) -> Float[Tensor, "b k x y"]:
    """One Gaussian per object in its class's map: 1 at the centre's cell, falling off over the object's radius."""
    size_x, size_y = grid.shape
    boxes = _concatenate(truth)
    device = boxes.center_m.device
    sample = torch.cat([torch.full((len(item),), index) for index, item in enumerate(truth)]).long().to(device)
    heatmap = torch.zeros(len(truth), len(CLASSES), size_x, size_y, device=device)
    if len(boxes) == 0:
        return heatmap

    cells, _ = grid.cell_indices(boxes.center_m)
    radius = gaussian_radius(boxes.size_lwh_m[:, 0], boxes.size_lwh_m[:, 1]).clamp(min=MIN_RADIUS_M) / grid.cell_m
    radius = radius.floor().clamp(1, MAX_RADIUS_CELLS)
    reach = torch.arange(-MAX_RADIUS_CELLS, MAX_RADIUS_CELLS + 1, device=device)
    dx, dy = (axis.reshape(1, -1) for axis in torch.meshgrid(reach, reach, indexing="ij"))
    sigma = ((2 * radius + 1) / 6)[:, None]
    value = torch.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    ix, iy = cells[:, :1] + dx, cells[:, 1:] + dy
    keep = (dx.abs() <= radius[:, None]) & (dy.abs() <= radius[:, None])
    keep &= (ix >= 0) & (ix < size_x) & (iy >= 0) & (iy < size_y)
    flat = ((sample * len(CLASSES) + boxes.class_index)[:, None] * size_x + ix) * size_y + iy
    heatmap.view(-1).scatter_reduce_(0, flat[keep], value[keep].to(heatmap.dtype), "amax")
    return heatmap


def gaussian_radius(length_m: Float[Tensor, " n"], width_m: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Largest shift along both axes at which two equal boxes still overlap by `MIN_OVERLAP` (IoU), metres.

    Solves (l - r)(w - r) = 2 o l w / (1 + o) for r.
    """
    total = length_m + width_m
    product = length_m * width_m * (1 - 2 * MIN_OVERLAP / (1 + MIN_OVERLAP))
    return (total - torch.sqrt((total**2 - 4 * product).clamp(min=0))) / 2


def _concatenate(items: list[Boxes]) -> Boxes:
    return Boxes(
        **{
            name: torch.cat([getattr(item, name) for item in items])
            for name in ("center_m", "size_lwh_m", "yaw_rad", "velocity_mps", "class_index", "attribute_index")
        }
    )
