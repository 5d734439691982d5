"""Heatmaps and losses against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fusionperc.geometry import BevGrid
from fusionperc.models.boxes import BoxParameters
from fusionperc.objectives.detection import box_losses, draw_heatmaps, gaussian_focal_loss, gaussian_radius
from fusionperc.types import Boxes

GRID = BevGrid(-8.0, 8.0, -8.0, 8.0, -5.0, 3.0, 1.0)


def one_box(x: float, y: float, class_index: int = 0, attribute: int = 0, vx: float = 1.0) -> Boxes:
    return Boxes(
        center_m=torch.tensor([[x, y, 0.5]]),
        size_lwh_m=torch.tensor([[4.0, 2.0, 1.5]]),
        yaw_rad=torch.tensor([math.pi / 2]),
        velocity_mps=torch.tensor([[vx, 0.0]]),
        class_index=torch.tensor([class_index]),
        attribute_index=torch.tensor([attribute]),
    )


def perfect(boxes: Boxes) -> BoxParameters:
    logits = torch.full((len(boxes), 8), -20.0)
    logits[torch.arange(len(boxes)), boxes.attribute_index.clamp(min=0)] = 20.0
    return BoxParameters(
        center_m=boxes.center_m.clone(),
        log_size=boxes.size_lwh_m.log(),
        sin_cos=torch.stack([boxes.yaw_rad.sin(), boxes.yaw_rad.cos()], -1),
        velocity_mps=boxes.velocity_mps.nan_to_num(),
        attribute_logits=logits,
    )


def test_heatmap_peaks_at_the_centres_cell_of_its_class_and_sample() -> None:
    heatmap = draw_heatmaps([Boxes.empty(), one_box(2.99, -3.0, class_index=5)], GRID)
    assert heatmap.shape == (2, 10, 16, 16)
    assert (heatmap == 1).nonzero().tolist() == [[1, 5, 10, 5]]
    assert heatmap[1, 5, 11, 5] == heatmap[1, 5, 9, 5] > heatmap[1, 5, 11, 6] > 0
    assert heatmap[0].sum() == 0


def test_overlapping_objects_keep_both_peaks() -> None:
    pair = one_box(0.5, 0.5)
    both = Boxes(
        **{
            name: torch.cat([getattr(pair, name), getattr(one_box(1.5, 0.5), name)])
            for name in ("center_m", "size_lwh_m", "yaw_rad", "velocity_mps", "class_index", "attribute_index")
        }
    )
    heatmap = draw_heatmaps([both], GRID)
    assert (heatmap[0, 0] == 1).sum() == 2


def test_radius_leaves_the_stated_overlap() -> None:
    length, width = torch.tensor([4.0, 10.0]), torch.tensor([2.0, 3.0])
    r = gaussian_radius(length, width)
    intersection = (length - r) * (width - r)
    union = 2 * length * width - intersection
    torch.testing.assert_close(intersection / union, torch.full((2,), 0.1))


def test_focal_loss_is_small_only_for_the_right_map() -> None:
    truth = draw_heatmaps([one_box(0.5, 0.5)], GRID)
    right = torch.where(truth == 1, 8.0, -8.0)
    labelled = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    good = gaussian_focal_loss(right, truth, labelled, 1)
    assert good < 0.01 < gaussian_focal_loss(-right, truth, labelled, 1)
    assert gaussian_focal_loss(-right, truth, ~labelled, 1) == 0


def test_perfect_boxes_cost_nothing_and_each_error_its_own_term() -> None:
    boxes = one_box(1, 1)
    losses = box_losses(perfect(boxes), boxes, 1)
    assert all(float(value) < 1e-5 for value in losses.values())
    shifted = perfect(boxes)
    shifted.center_m[0, 0] += 0.5
    shifted.velocity_mps[0, 1] += 2.0
    losses = box_losses(shifted, boxes, 1)
    assert float(losses["box"]) == pytest.approx(0.5, abs=1e-5)
    assert float(losses["velocity"]) == pytest.approx(2.0, abs=1e-5)


def test_unknown_velocity_and_attribute_are_not_learnt() -> None:
    boxes = one_box(1, 1, attribute=-1, vx=float("nan"))
    wrong = perfect(one_box(1, 1))
    wrong.velocity_mps[:] = 100
    losses = box_losses(wrong, boxes, 1)
    assert float(losses["velocity"]) == 0
    assert float(losses["attribute"]) == 0


def test_unknown_yaw_is_not_learnt_and_all_else_is() -> None:
    boxes = one_box(1, 1)
    unknown = replace(boxes, yaw_rad=torch.full_like(boxes.yaw_rad, float("nan")))
    guess = perfect(boxes)
    guess.sin_cos[:] = torch.tensor([3.0, -2.0])
    guess.center_m[0, 0] += 0.5
    guess.sin_cos.requires_grad_()
    guess.center_m.requires_grad_()
    loss = box_losses(guess, unknown, 1)["box"]
    assert loss.item() == pytest.approx(0.5, abs=1e-5)
    loss.backward()
    assert guess.sin_cos.grad is not None and guess.center_m.grad is not None
    assert not guess.sin_cos.grad.any() and guess.center_m.grad.isfinite().all()


def test_attributes_of_other_classes_do_not_compete() -> None:
    pedestrian = one_box(1, 1, class_index=5, attribute=5)
    guess = perfect(pedestrian)
    guess.attribute_logits[0, 0] = 50.0  # vehicle.moving, which no pedestrian may carry
    assert float(box_losses(guess, pedestrian, 1)["attribute"]) < 1e-5
