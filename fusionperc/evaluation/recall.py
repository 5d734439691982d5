"""How many of the clearly measured objects are found, and how many detections are right: a plain check beside the
official scores.

Average precision says little about one frame; this says whether each object was found at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fusionperc.types import CLASSES, Boxes, Detections

#: A detection finds an object of its class whose centre is at most this far away (nuScenes' distance for errors).
MATCH_DISTANCE_M = 2.0
#: Objects with fewer LiDAR points are not asked for.
MIN_LIDAR_POINTS = 5
#: Nor are objects beyond the range in which nuScenes scores their class (detection_cvpr_2019), metres from the ego.
CLASS_RANGE_M = {
    "car": 50.0, "truck": 50.0, "bus": 50.0, "trailer": 50.0, "construction_vehicle": 50.0,
    "pedestrian": 40.0, "motorcycle": 40.0, "bicycle": 40.0, "traffic_cone": 30.0, "barrier": 30.0,
}  # fmt: skip
#: Detections below are not counted: a threshold at which one would act.
MIN_SCORE = 0.2


@dataclass(frozen=True)
class Recall:
    """Objects of a class that were found, of those asked for; and detections that met an object, of all of them."""

    found: int
    wanted: int
    right: int
    guessed: int

    @property
    def share(self) -> float:
        """`found` / `wanted`; NaN where none was asked for."""
        return self.found / self.wanted if self.wanted else float("nan")

    @property
    def precision(self) -> float:
        """`right` / `guessed`; NaN where nothing was detected."""
        return self.right / self.guessed if self.guessed else float("nan")


def recall_by_class(
    detections: Mapping[str, Detections], truth: Mapping[str, tuple[Boxes, Tensor]], *, min_score: float = MIN_SCORE
) -> dict[str, Recall]:
    """Recall and precision over all samples, by class.

    Each detection finds at most one object and each object counts once; the surest detections choose first, as in the
    official evaluation. An object with few points may be found or not: it is not asked for, and meeting it is right.

    Args:
        detections: by sample token.
        truth: by sample token, boxes and their (N, 2) LiDAR and radar point counts.
        min_score: detections below are not counted.
    """
    total = {name: Recall(0, 0, 0, 0) for name in CLASSES}
    for token, (boxes, num_points) in truth.items():
        for index, name in enumerate(CLASSES):
            near = boxes.center_m[:, :2].norm(dim=1) < CLASS_RANGE_M[name]
            mine = (boxes.class_index == index) & near
            objects, is_clear = boxes[mine].center_m[:, :2], num_points[mine, 0] >= MIN_LIDAR_POINTS
            guesses = detections[token]
            guesses = guesses[(guesses.class_index == index) & (guesses.score >= min_score)]
            guesses = guesses[guesses.center_m[:, :2].norm(dim=1) < CLASS_RANGE_M[name]]
            order = guesses.score.argsort(descending=True, stable=True)
            taken = _taken(guesses.center_m[order, :2], objects)
            before = total[name]
            total[name] = Recall(
                found=before.found + int((taken & is_clear).sum()),
                wanted=before.wanted + int(is_clear.sum()),
                right=before.right + int(taken.sum()),
                guessed=before.guessed + len(guesses.score),
            )
    return total


def _taken(guesses_m: Tensor, objects_m: Tensor) -> Tensor:
    """(N,) which objects are taken when each guess, in order, takes the nearest object still free."""
    free = torch.ones(len(objects_m), dtype=torch.bool)
    if len(objects_m) == 0:
        return ~free
    for distance_m in torch.cdist(guesses_m, objects_m):
        nearest = int(torch.where(free, distance_m, torch.inf).argmin())
        if free[nearest] and distance_m[nearest] <= MATCH_DISTANCE_M:
            free[nearest] = False
    return ~free
