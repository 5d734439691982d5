"""Which query answers for which object: the one-to-one assignment of least cost.

Source: Carion et al., End-to-End Object Detection with Transformers (DETR), eq. 1; the class cost is the focal one of
Deformable DETR, as in TransFusion. Deviates: the boxes' cost is L1 in metres, log-sizes and sin/cos instead of an IoU,
and far pairs are not matched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from fusionperc.types import Boxes

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
#: Above any real cost.
UNMATCHED = 1e4


@dataclass(frozen=True)
class MatchingCosts:
    """Weights of the three costs: class (focal), centre (per metre), log-size and sin/cos of yaw.

    A query further than `reach_m` from an object is never matched to it: a query sees the cells around it only, and
    would learn noise from what lies beyond.
    """

    classification: float
    center: float
    box: float
    reach_m: float


@torch.no_grad()
def match_queries(
    class_logits: Float[Tensor, "queries classes"],
    center_m: Float[Tensor, "queries 3"],
    log_size: Float[Tensor, "queries 3"],
    sin_cos: Float[Tensor, "queries 2"],
    truth: Boxes,
    costs: MatchingCosts,
) -> tuple[Int[Tensor, " matched"], Int[Tensor, " matched"]]:
    """The assignment of least total cost for one sample.

    Returns:
        Indices of queries and of boxes, equally long: at most min(queries, boxes) pairs.
    """
    log_probability = F.logsigmoid(class_logits.float())[:, truth.class_index]
    log_complement = F.logsigmoid(-class_logits.float())[:, truth.class_index]
    probability = log_probability.exp()
    positive = -FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * log_probability
    negative = -(1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * log_complement

    truth_sin_cos = torch.stack([truth.yaw_rad.sin(), truth.yaw_rad.cos()], dim=-1)
    cost = (
        costs.classification * (positive - negative)
        + costs.center * torch.cdist(center_m[:, :2].float(), truth.center_m[:, :2], p=1)
        + costs.box * torch.cdist(log_size.float(), truth.size_lwh_m.log(), p=1)
        + costs.box * torch.cdist(sin_cos.float(), truth_sin_cos, p=1).where(truth.yaw_rad.isfinite(), 0.0)
    )
    is_far = torch.cdist(center_m[:, :2].float(), truth.center_m[:, :2]) > costs.reach_m
    cost = torch.nan_to_num(cost, nan=UNMATCHED, posinf=UNMATCHED).masked_fill(is_far, UNMATCHED)
    queries, boxes = (torch.as_tensor(index) for index in linear_sum_assignment(cost.cpu().numpy()))
    near = ~is_far.cpu()[queries, boxes]
    return queries[near].to(class_logits.device), boxes[near].to(class_logits.device)
