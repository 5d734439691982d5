"""The assignment against brute force, and what it must never do."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import torch
from torch.nn import functional as F

from fusionperc.objectives.matching import MatchingCosts, match_queries
from fusionperc.types import Boxes


def random_boxes(count: int, seed: int) -> Boxes:
    generator = torch.Generator().manual_seed(seed)
    return Boxes(
        center_m=torch.randn(count, 3, generator=generator) * 10,
        size_lwh_m=torch.rand(count, 3, generator=generator) * 4 + 0.5,
        yaw_rad=(torch.rand(count, generator=generator) * 2 - 1) * 3.1,
        velocity_mps=torch.randn(count, 2, generator=generator),
        class_index=torch.randint(0, 10, (count,), generator=generator),
        attribute_index=torch.full((count,), -1),
    )


def test_only_centres_matter_when_only_centres_cost() -> None:
    truth = random_boxes(4, 0)
    order = torch.tensor([2, 0, 3, 1])
    queries, boxes = match_queries(
        torch.zeros(4, 10),
        truth.center_m[order],
        torch.zeros(4, 3),
        torch.zeros(4, 2),
        truth,
        MatchingCosts(0, 1, 0, 100),
    )
    assert order[queries].tolist() == boxes.tolist()


def test_equals_the_best_of_all_assignments() -> None:
    truth = random_boxes(3, 1)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 10, generator=generator)
    center = torch.randn(5, 3, generator=generator) * 10
    size, yaw = torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)
    costs = MatchingCosts(0.7, 0.3, 0.2, 100)

    def cost(query: int, box: int) -> float:
        logit = logits[query, truth.class_index[box]]
        p = logit.sigmoid()
        focal = -0.25 * (1 - p) ** 2 * F.logsigmoid(logit) + 0.75 * p**2 * F.logsigmoid(-logit)
        target_yaw = torch.stack([truth.yaw_rad[box].sin(), truth.yaw_rad[box].cos()])
        return float(
            0.7 * focal
            + 0.3 * (center[query, :2] - truth.center_m[box, :2]).abs().sum()
            + 0.2 * (size[query] - truth.size_lwh_m[box].log()).abs().sum()
            + 0.2 * (yaw[query] - target_yaw).abs().sum()
        )

    best = min(sum(cost(query, box) for box, query in enumerate(chosen)) for chosen in permutations(range(5), 3))
    queries, boxes = match_queries(logits, center, size, yaw, truth, costs)
    found = sum(cost(int(query), int(box)) for query, box in zip(queries, boxes, strict=True))
    assert abs(found - best) < 1e-4
    assert sorted(boxes.tolist()) == [0, 1, 2]
    assert len(set(queries.tolist())) == 3


def test_an_unknown_yaw_costs_nothing_and_loses_no_match() -> None:
    truth = random_boxes(3, 1)
    given = (torch.zeros(3, 10), truth.center_m, truth.size_lwh_m.log(), torch.full((3, 2), 9.0))
    costs = MatchingCosts(0, 1, 5, 100)
    unknown = replace(truth, yaw_rad=torch.tensor([float("nan"), 0.3, float("nan")]))
    queries, boxes = match_queries(*given, unknown, costs)
    assert sorted(zip(queries.tolist(), boxes.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 2)]


def test_no_boxes_match_nothing() -> None:
    queries, boxes = match_queries(
        torch.zeros(3, 10),
        torch.zeros(3, 3),
        torch.zeros(3, 3),
        torch.zeros(3, 2),
        Boxes.empty(),
        MatchingCosts(1, 1, 1, 4),
    )
    assert len(queries) == len(boxes) == 0


def test_far_queries_are_left_alone_and_do_not_disturb_near_ones() -> None:
    truth = random_boxes(2, 3)
    center = truth.center_m + torch.tensor([[0.5, 0.0, 0.0], [0.0, 50.0, 0.0]])
    queries, boxes = match_queries(
        torch.zeros(2, 10), center, torch.zeros(2, 3), torch.zeros(2, 2), truth, MatchingCosts(1, 1, 1, 4)
    )
    assert (queries.tolist(), boxes.tolist()) == ([0], [0])
