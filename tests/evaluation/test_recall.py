"""Which objects count as found."""

from __future__ import annotations

import math

import torch

from fusionperc.evaluation.recall import recall_by_class
from fusionperc.types import Boxes, Detections


def boxes_at(*places: tuple[float, float, int]) -> Boxes:
    count = len(places)
    return Boxes(
        center_m=torch.tensor([[x, y, 0.0] for x, y, _ in places]).reshape(count, 3),
        size_lwh_m=torch.ones(count, 3),
        yaw_rad=torch.zeros(count),
        velocity_mps=torch.zeros(count, 2),
        class_index=torch.tensor([c for *_, c in places], dtype=torch.int64),
        attribute_index=torch.full((count,), -1),
    )


def detections_at(*places: tuple[float, float, int, float]) -> Detections:
    boxes = boxes_at(*((x, y, c) for x, y, c, _ in places))
    fields = {name: getattr(boxes, name) for name in Boxes.__dataclass_fields__}
    return Detections(**fields, score=torch.tensor([s for *_, s in places]))


def test_class_distance_score_and_points_decide() -> None:
    truth = boxes_at((0, 0, 0), (10, 0, 0), (20, 0, 0), (30, 0, 5), (40, 0, 0))
    points = torch.tensor([[9, 0], [9, 0], [9, 0], [9, 0], [4, 9]])
    guesses = detections_at((1.9, 0, 0, 0.9), (10, 2.1, 0, 0.9), (20, 0, 0, 0.1), (30, 0, 0, 0.9), (40, 0, 0, 0.9))
    recall = recall_by_class({"a": guesses}, {"a": (truth, points)})
    assert (recall["car"].found, recall["car"].wanted) == (1, 3)
    assert (recall["pedestrian"].found, recall["pedestrian"].wanted) == (0, 1)
    assert math.isnan(recall["bus"].share) and math.isnan(recall["bus"].precision)
    # The car with four points is not asked for, but finding it is no mistake; a weak detection is none.
    assert (recall["car"].right, recall["car"].guessed) == (2, 4)
    lower = recall_by_class({"a": guesses}, {"a": (truth, points)}, min_score=0.05)
    assert (lower["car"].found, lower["car"].right, lower["car"].guessed) == (2, 3, 5)


def test_one_detection_finds_one_object_and_the_surest_chooses_first() -> None:
    truth = boxes_at((0, 0, 0), (1, 0, 0))
    points = torch.full((2, 2), 9)
    one = recall_by_class({"a": detections_at((0.4, 0, 0, 0.9))}, {"a": (truth, points)})
    assert one["car"].share == 0.5
    both = recall_by_class({"a": detections_at((0.4, 0, 0, 0.3), (0.1, 0, 0, 0.9))}, {"a": (truth, points)})
    assert both["car"].share == 1.0
    twice = recall_by_class({"a": detections_at((0, 0, 0, 0.3), (0, 0.1, 0, 0.9))}, {"a": (truth[:1], points[:1])})
    assert (twice["car"].share, twice["car"].precision) == (1.0, 0.5)


def test_nothing_detected() -> None:
    nothing = detections_at()
    recall = recall_by_class({"a": nothing}, {"a": (boxes_at((0, 0, 9)), torch.full((1, 2), 9))})
    assert recall["barrier"].share == 0


def test_objects_out_of_their_class_range_are_not_asked_for() -> None:
    truth = boxes_at((49, 0, 0), (51, 0, 0), (29, 0, 9), (31, 0, 9))
    recall = recall_by_class({"a": detections_at()}, {"a": (truth, torch.full((4, 2), 9))})
    assert (recall["car"].wanted, recall["barrier"].wanted) == (1, 1)
