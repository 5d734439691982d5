"""The detection head: class heatmap, its peaks as queries, decoder layers that refine their boxes; no NMS.

Source: Bai et al., "TransFusion" (CVPR 2022) for heatmap-initialised queries and the score of a box; Yin et al.,
"CenterPoint" (CVPR 2021) for the dense head, which is all there is with no decoder layer; Carion et al., "DETR" (ECCV
2020) for the set prediction. Deviation: a query attends to the cells around its present centre, not to all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fusionperc.config import DetectionHeadConfig
from fusionperc.geometry import BevGrid
from fusionperc.models.bev import ConvNormAct
from fusionperc.models.boxes import NUM_RAW, BoxParameters
from fusionperc.types import ATTRIBUTES, CLASS_ATTRIBUTES, CLASSES, Detections

#: Bias of class logits: a prior of 0.1, as in focal loss (Lin et al., ICCV 2017).
PRIOR_LOGIT = -2.19
#: Where box regression starts: height of the centre, and logarithms of length, width, height, of a small road user.
PRIOR_HEIGHT_M = 0.9
PRIOR_LOG_SIZE = (0.9, 0.4, 0.4)
#: Classes so small that two may stand in neighbouring cells: every cell is its own peak.
POINT_CLASSES = tuple(CLASSES.index(name) for name in ("pedestrian", "traffic_cone"))
#: Side, in cells, of the neighbourhood a query attends to.
QUERY_WINDOW = 9


@dataclass(frozen=True)
class QueryPredictions:
    """One decoder layer's answer: class_logits (B, Q, 10), boxes (B, Q)."""

    class_logits: Tensor
    boxes: BoxParameters


@dataclass(frozen=True)
class DetectionOutput:
    """What the head predicts.

    Attributes:
        heatmap_logits: (B, 10, X, Y) float32.
        dense: one box per cell, (B, X, Y).
        query_cell: (B, Q) int64, flat index ix * Y + iy of each query's heatmap peak.
        query_class: (B, Q) int64, the peak's class.
        query_score: (B, Q) sigmoid of the heatmap there, without gradient; 0 for queries that are no peak.
        layers: one item per decoder layer.
        query_content: (B, Q, C) what each query has gathered: for the heads that build on it.
    """

    heatmap_logits: Tensor
    dense: BoxParameters
    query_cell: Tensor
    query_class: Tensor
    query_score: Tensor
    layers: list[QueryPredictions]
    query_content: Tensor

    def final_boxes(self) -> BoxParameters:
        """(B, Q) of the last layer."""
        return self.layers[-1].boxes if self.layers else self.dense.gather(self.query_cell)

    def final_scores(self) -> Tensor:
        """(B, Q) without decoder layers the heatmap's at the query's peak; with them its geometric mean with the last
        layer's probability of the query's class."""
        if not self.layers:
            return self.query_score
        refined = self.layers[-1].class_logits.gather(2, self.query_class[..., None]).squeeze(2).sigmoid()
        return (self.query_score * refined).sqrt()


@dataclass(frozen=True)
class DensePredictions:
    """What every cell says: features (B, C, X, Y), heatmap_logits (B, 10, X, Y) float32, boxes (B, X, Y)."""

    features: Tensor
    heatmap_logits: Tensor
    boxes: BoxParameters


class DenseHead(nn.Module):
    """Fused map (B, C, X, Y) to `DensePredictions`."""

    def __init__(self, grid: BevGrid, in_channels: int, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.shared = ConvNormAct(in_channels, channels)
        self.heatmap = nn.Sequential(ConvNormAct(channels, channels), nn.Conv2d(channels, len(CLASSES), 1))
        self.box = nn.Sequential(ConvNormAct(channels, channels), nn.Conv2d(channels, NUM_RAW, 1))
        nn.init.constant_(cast(Tensor, self.heatmap[-1].bias), PRIOR_LOGIT)
        nn.init.zeros_(cast(Tensor, self.box[-1].bias))

    def forward(self, bev: Float[Tensor, "batch channels x y"]) -> DensePredictions:
        shared = self.shared(bev)
        return DensePredictions(shared, self.heatmap(shared).float(), self._boxes(self.box(shared)))

    def _boxes(self, raw: Float[Tensor, "batch raw x y"]) -> BoxParameters:
        centers = self.grid.centers_m(device=raw.device).expand(raw.shape[0], -1, -1, -1)
        shape = centers.shape[:-1]

        def constant(*values: float) -> Tensor:
            return centers.new_tensor(values).expand(*shape, -1)

        base = BoxParameters(
            center_m=torch.cat([centers, constant(PRIOR_HEIGHT_M)], dim=-1),
            log_size=constant(*PRIOR_LOG_SIZE),
            sin_cos=constant(0.0, 0.0),
            velocity_mps=constant(0.0, 0.0),
            attribute_logits=constant(*(0.0 for _ in ATTRIBUTES)),
        )
        return BoxParameters.from_raw(raw.permute(0, 2, 3, 1), base, self.grid.cell_m)


class DetectionHead(nn.Module):
    """Fused map (B, C, X, Y) to `DetectionOutput`."""

    def __init__(self, config: DetectionHeadConfig, grid: BevGrid, in_channels: int) -> None:
        super().__init__()
        channels = config.channels
        self.queries = config.queries
        self.dense = DenseHead(grid, in_channels, channels)
        self.class_embedding = nn.Embedding(len(CLASSES), channels)
        self.layers = nn.ModuleList(DecoderLayer(config, grid) for _ in range(config.decoder_layers))
        if not config.decoder_layers:
            del self.class_embedding  # a parameter without gradient would stop distributed training

    def forward(self, bev: Float[Tensor, "batch channels x y"]) -> DetectionOutput:
        dense = self.dense(bev)
        peaks = at_peaks(dense, self.queries)
        if not self.layers:
            return peaks
        predictions: list[QueryPredictions] = []
        cells = dense.features.permute(0, 2, 3, 1)
        content = peaks.query_content + self.class_embedding(peaks.query_class)
        boxes = peaks.final_boxes()
        for layer in self.layers:
            content, prediction = layer(content, boxes.detach(), cells)
            predictions.append(prediction)
            boxes = prediction.boxes
        return replace(peaks, layers=predictions, query_content=content)


def at_peaks(dense: DensePredictions, count: int) -> DetectionOutput:
    """The `count` highest peaks of the heatmap as queries that no decoder layer has refined."""
    score, query_class, cell = heatmap_peaks(dense.heatmap_logits.detach().sigmoid(), count)
    rows = dense.features.permute(0, 2, 3, 1).flatten(1, 2)
    content = rows.gather(1, cell[..., None].expand(-1, -1, rows.shape[-1]))
    return DetectionOutput(dense.heatmap_logits, dense.boxes, cell, query_class, score, [], content)


def heatmap_peaks(
    heatmap: Float[Tensor, "batch classes x y"], count: int
) -> tuple[Float[Tensor, "batch queries"], Int[Tensor, "batch queries"], Int[Tensor, "batch queries"]]:
    """The `count` highest local maxima (3 x 3; every cell for `POINT_CLASSES`) over all classes.

    Returns:
        Scores, highest first (0 where there are fewer peaks than asked for), classes, flat cells ix * Y + iy. Where the
        map has fewer cells times classes than `count`, as many as there are.
    """
    batch, _, size_x, size_y = heatmap.shape
    peak = heatmap == F.max_pool2d(heatmap, 3, stride=1, padding=1)
    peak[:, list(POINT_CLASSES)] = True
    flat = (heatmap * peak).reshape(batch, -1)
    score, index = flat.topk(min(count, flat.shape[1]), dim=1)
    return score, index // (size_x * size_y), index % (size_x * size_y)


class DecoderLayer(nn.Module):
    """Self-attention among queries, attention to the cells around each, feed-forward, refined boxes."""

    def __init__(self, config: DetectionHeadConfig, grid: BevGrid) -> None:
        super().__init__()
        channels, self.heads, self.grid = config.channels, config.heads, grid
        self.position = nn.Sequential(nn.Linear(8, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))
        self.self_norm = nn.LayerNorm(channels)
        self.self_attention = nn.MultiheadAttention(channels, config.heads, batch_first=True)
        self.cell_attention = NeighbourhoodAttention(channels, config.heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.ReLU(inplace=True),
            nn.Linear(2 * channels, channels),
        )
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, len(CLASSES))
        self.refine = nn.Linear(channels, NUM_RAW)
        nn.init.constant_(self.classify.bias, PRIOR_LOGIT)
        # The first answer of a fresh layer is the box it was given.
        nn.init.zeros_(self.refine.weight)
        nn.init.zeros_(self.refine.bias)

    def forward(
        self,
        content: Float[Tensor, "batch queries channels"],
        boxes: BoxParameters,
        cells: Float[Tensor, "batch x y channels"],
    ) -> tuple[Float[Tensor, "batch queries channels"], QueryPredictions]:
        """Refines `boxes` (no gradient flows into them)."""
        position = self.position(self._place(boxes.center_m))
        normed = self.self_norm(content)
        asked = normed + position
        content = content + self.self_attention(asked, asked, normed, need_weights=False)[0]
        content = content + self.cell_attention(content, position, self._cell(boxes.center_m), cells)
        content = content + self.feed_forward(content)
        normed = self.norm(content)
        refined = BoxParameters.from_raw(self.refine(normed), boxes, self.grid.cell_m)
        return content, QueryPredictions(self.classify(normed).float(), refined)

    def _place(self, center_m: Float[Tensor, "batch queries 3"]) -> Float[Tensor, "batch queries 8"]:
        """Sines of x and y, in the grid's half width and a quarter of it."""
        scale = max(self.grid.x_max_m, self.grid.y_max_m)
        place = center_m[..., :2].clamp(-2 * scale, 2 * scale) / scale * math.pi / 2
        return torch.cat([place.sin(), place.cos(), (4 * place).sin(), (4 * place).cos()], dim=-1)

    def _cell(self, center_m: Float[Tensor, "batch queries 3"]) -> Int[Tensor, "batch queries 2"]:
        """(ix, iy) of the centre, held inside the grid."""
        low = center_m.new_tensor([self.grid.x_min_m, self.grid.y_min_m])
        last = center_m.new_tensor(self.grid.shape) - 1
        index = torch.floor((center_m[..., :2] - low) / self.grid.cell_m).nan_to_num()
        return torch.minimum(index.clamp_min(0), last).long()


class NeighbourhoodAttention(nn.Module):
    """Each query attends to the `QUERY_WINDOW`^2 cells around its own, with a learnt bias for each offset."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.offset_keys = nn.Parameter(torch.randn(QUERY_WINDOW**2, channels) * 0.02)

    def forward(
        self,
        content: Float[Tensor, "batch queries channels"],
        position: Float[Tensor, "batch queries channels"],
        cell: Int[Tensor, "batch queries 2"],
        cells: Float[Tensor, "batch x y channels"],
    ) -> Float[Tensor, "batch queries channels"]:
        batch, size_x, size_y, channels = cells.shape
        reach = torch.arange(QUERY_WINDOW, device=cell.device) - QUERY_WINDOW // 2
        offsets = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1).reshape(-1, 2)
        around = cell[:, :, None] + offsets
        x, y = around[..., 0], around[..., 1]
        inside = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y)
        flat = (x.clamp(0, size_x - 1) * size_y + y.clamp(0, size_y - 1)).flatten(1)
        rows = self.key_value(cells.flatten(1, 2))
        near = rows.gather(1, flat[..., None].expand(-1, -1, 2 * channels)).reshape(*inside.shape, 2 * channels)
        key, value = near.chunk(2, dim=-1)
        query = self.query(self.norm(content) + position)

        def split(tokens: Tensor) -> Tensor:
            """(B, Q, n, C) to (B * Q, heads, n, C / heads)."""
            return tokens.reshape(-1, tokens.shape[2], self.heads, channels // self.heads).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            split(query[:, :, None]),
            split(key + self.offset_keys.to(key.dtype)),
            split(value),
            attn_mask=inside.flatten(0, 1)[:, None, None],
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, -1, channels))  # type: ignore[no-any-return]


def decode(output: DetectionOutput, score_threshold: float) -> list[Detections]:
    """The boxes of each sample, best first.

    The attribute is the likeliest of those the class may carry, -1 for classes that carry none.
    """
    with torch.no_grad():
        score, boxes = output.final_scores(), output.final_boxes()
        allowed = allowed_attributes(score.device)[output.query_class]
        attribute = boxes.attribute_logits.masked_fill(~allowed, -torch.inf).argmax(-1)
        attribute = torch.where(allowed.any(-1), attribute, -1)
        return [
            _detections_of(boxes[sample], score[sample], output.query_class[sample], attribute[sample], score_threshold)
            for sample in range(score.shape[0])
        ]


def _detections_of(
    boxes: BoxParameters, score: Tensor, class_index: Tensor, attribute: Tensor, score_threshold: float
) -> Detections:
    order = score.argsort(descending=True, stable=True)
    order = order[score[order] > score_threshold]
    kept = boxes[order]
    return Detections(
        center_m=kept.center_m,
        size_lwh_m=kept.size_lwh_m,
        yaw_rad=kept.yaw_rad,
        velocity_mps=kept.velocity_mps,
        class_index=class_index[order],
        attribute_index=attribute[order],
        score=score[order],
    )


def allowed_attributes(device: torch.device) -> Tensor:
    """(10, 8) bool: which attributes a class may carry."""
    allowed = torch.zeros(len(CLASSES), len(ATTRIBUTES), dtype=torch.bool)
    for number, name in enumerate(CLASSES):
        allowed[number, list(CLASS_ATTRIBUTES[name])] = True
    return allowed.to(device)
