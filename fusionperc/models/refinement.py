"""The plan that is driven: the best alternative, moved away from who is expected in its way and back onto the road.

What a planning head learns from a few thousand scenes hardly turns on what is around. Its detections, their predicted
motion and the drivable area do: a few gradient steps on the controls of the chosen alternative weigh the distance from
it against nearness to agents and ground that is no road. Only where a plan is driven or scored, not in training; the
vehicle still rolls, within the same limits.

Source: UniAD (arXiv 2212.10156) for optimising a plan against predicted occupancy at inference; deviates: controls are
moved, not waypoints, agents are oriented boxes, and the road counts, too.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fusionperc.geometry import EGO_WIDTH_M, BevGrid, ego_corners
from fusionperc.models.agent_motion import MARGIN_M, ExpectedBoxes
from fusionperc.models.detection import DetectionOutput
from fusionperc.models.planning import PlanningOutput, raw_scale, rolled_out

#: In metres of distance from the chosen plan: what overlapping an agent by a metre of its length costs, and one corner
#: off road, all the time. Ground that is no road only by less than the doubt costs nothing.
_AGENT_WEIGHT, _ROAD_WEIGHT, _DOUBT = 1.0, 4.0, 0.3
#: What changes of the controls cost: plans stay calm.
_CHANGE_WEIGHT = 0.05
_STEP_SIZE = 0.15
#: Gradients much smaller than this move nothing.
_LEAST_GRADIENT = 1e-3


def driven_plan(
    output: PlanningOutput, detection: DetectionOutput, grid: BevGrid, steps: int
) -> Float[Tensor, "batch steps 3"]:
    """x, y, yaw at 0.5, 1.0, ... s of the plan to be driven, without gradient.

    Args:
        output: of the planning head.
        detection: of the same samples.
        grid: of the drivable area.
        steps: of gradient descent; 0 gives `output.best()`.
    """
    mode = output.best_mode()
    chosen = output.of_mode(output.waypoints, mode)
    if steps == 0:
        return chosen
    controls, boxes = output.of_mode(output.controls, mode), ExpectedBoxes.of(output.motion, detection)
    # Tensors of inference mode take no part in gradients, their copies do.
    with torch.inference_mode(False), torch.enable_grad():
        copied = replace(boxes, **{f.name: getattr(boxes, f.name).clone() for f in fields(boxes)})
        start, heading = output.start_mps.detach().clone(), output.heading_rad.detach().clone()
        road, plan = output.road.detach().clone(), chosen.detach().clone()
        return _moved(controls.detach().clone(), start, heading, plan, road, copied, grid, steps)


def _moved(
    controls: Float[Tensor, "batch 2 steps"],
    start_mps: Float[Tensor, " batch"],
    heading_rad: Float[Tensor, " batch"],
    chosen: Float[Tensor, "batch steps 3"],
    road: Float[Tensor, "samples x y"],
    boxes: ExpectedBoxes,
    grid: BevGrid,
    steps: int,
) -> Float[Tensor, "batch steps 3"]:
    variants = chosen.shape[0] // road.shape[0]
    sureness = boxes.sureness.repeat(variants, 1)[:, :, None]
    # Smoothed, so that the way back shows from a cell away.
    off_road = F.avg_pool2d(1 - road[:, None], 3, 1, 1).squeeze(1).repeat(variants, 1, 1)
    unit = raw_scale(controls.device)
    # A map that sees no road where the ego is tells nothing of it; nor does one that nobody taught.
    here = ego_corners(F.pad(heading_rad[:, None], (2, 0)))
    trust = (1 - 2 * grid.sampled(off_road, here).mean(1)).clamp(min=0)

    def plan(change: Tensor) -> Tensor:
        waypoints, _ = rolled_out((controls + unit * change)[:, None], start_mps, heading_rad)
        return waypoints.squeeze(1)

    def cost(change: Tensor) -> Tensor:
        moved = plan(change)
        away_m = ((moved[..., :2] - chosen[..., :2]).square().sum(-1) + 1e-4).sqrt().mean(1)
        overlap_m2 = F.relu(MARGIN_M - boxes.gaps_m(moved)).prod(-1)
        near_m = (overlap_m2 / EGO_WIDTH_M * sureness).sum(1).mean(1)
        beside = trust * F.relu(grid.sampled(off_road, ego_corners(moved)) - _DOUBT).sum(-1).mean(1)
        return away_m + _AGENT_WEIGHT * near_m + _ROAD_WEIGHT * beside + _CHANGE_WEIGHT * change.square().mean((1, 2))

    change = torch.zeros_like(controls, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=_STEP_SIZE, eps=_LEAST_GRADIENT)
    for _ in range(steps):
        optimizer.zero_grad()
        cost(change).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return plan(change)
