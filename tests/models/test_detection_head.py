"""The detection head: peaks, decoding, refinement."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusionperc.config import DetectionHeadConfig
from fusionperc.geometry import BevGrid
from fusionperc.models.boxes import LOG_SIZE_LIMIT, BoxParameters
from fusionperc.models.detection import (
    PRIOR_HEIGHT_M,
    DetectionHead,
    DetectionOutput,
    NeighbourhoodAttention,
    QueryPredictions,
    decode,
    heatmap_peaks,
)
from fusionperc.types import ATTRIBUTES, CLASSES

GRID = BevGrid(-8.0, 8.0, -8.0, 8.0, -5.0, 3.0, 1.0)


def blank_boxes(*shape: int) -> BoxParameters:
    return BoxParameters(
        torch.zeros(*shape, 3), torch.zeros(*shape, 3), torch.zeros(*shape, 2), torch.zeros(*shape, 2),
        torch.zeros(*shape, 8),
    )  # fmt: skip


def output_of(heatmap_logits: Tensor, dense: BoxParameters, queries: int = 5) -> DetectionOutput:
    score, query_class, cell = heatmap_peaks(heatmap_logits.sigmoid(), queries)
    return DetectionOutput(heatmap_logits, dense, cell, query_class, score, [], torch.zeros(*cell.shape, 4))


def test_a_written_peak_is_the_box_that_comes_back() -> None:
    logits = torch.full((2, 10, 16, 16), -9.0)
    bus, cone = CLASSES.index("bus"), CLASSES.index("traffic_cone")
    logits[1, bus, 12, 3] = 2.0
    logits[0, cone, 0, 15] = 1.0
    dense = blank_boxes(2, 16, 16)
    dense.center_m[1, 12, 3] = torch.tensor([4.6, -4.3, 1.5])
    dense.log_size[1, 12, 3] = torch.tensor([11.0, 3.0, 3.5]).log()
    dense.sin_cos[1, 12, 3] = 0.3 * torch.tensor([math.sin(2.5), math.cos(2.5)])
    dense.velocity_mps[1, 12, 3] = torch.tensor([-3.0, 4.0])
    # The likeliest attribute of all is none a bus may carry; among its own, 'parked' is.
    dense.attribute_logits[1, 12, 3, ATTRIBUTES.index("pedestrian.moving")] = 9.0
    dense.attribute_logits[1, 12, 3, ATTRIBUTES.index("vehicle.parked")] = 1.0
    first, second = decode(output_of(logits, dense), 0.5)
    assert first.class_index.tolist() == [cone]
    assert first.attribute_index.tolist() == [-1]
    assert len(second) == 1
    assert second.class_index.tolist() == [bus]
    assert second.attribute_index.tolist() == [ATTRIBUTES.index("vehicle.parked")]
    torch.testing.assert_close(second.center_m[0], torch.tensor([4.6, -4.3, 1.5]))
    torch.testing.assert_close(second.size_lwh_m[0], torch.tensor([11.0, 3.0, 3.5]))
    torch.testing.assert_close(second.yaw_rad[0], torch.tensor(2.5))
    torch.testing.assert_close(second.velocity_mps[0], torch.tensor([-3.0, 4.0]))
    torch.testing.assert_close(second.score[0], torch.tensor(2.0).sigmoid())


def test_decoder_scores_are_the_geometric_mean() -> None:
    logits = torch.full((1, 10, 16, 16), -9.0)
    logits[0, 0, 5, 5], logits[0, 1, 9, 9] = 2.0, 1.0
    output = output_of(logits, blank_boxes(1, 16, 16), queries=2)
    class_logits = torch.full((1, 2, 10), 5.0)
    class_logits[0, 0, 0], class_logits[0, 1, 1] = -2.0, 3.0
    output.layers.append(QueryPredictions(class_logits, blank_boxes(1, 2)))
    (found,) = decode(output, 0.0)
    expected = [(1 / (1 + math.exp(-a)) / (1 + math.exp(-b))) ** 0.5 for a, b in ((1, 3), (2, -2))]
    assert found.class_index.tolist() == [1, 0], "best first"
    torch.testing.assert_close(found.score, torch.tensor(expected))


def test_peaks_are_local_maxima_except_for_small_classes() -> None:
    heatmap = torch.zeros(1, 10, 16, 16)
    car, pedestrian = CLASSES.index("car"), CLASSES.index("pedestrian")
    heatmap[0, car, 4, 4], heatmap[0, car, 4, 5], heatmap[0, car, 4, 6] = 0.9, 0.8, 0.7
    heatmap[0, pedestrian, 9, 9], heatmap[0, pedestrian, 9, 10] = 0.6, 0.5
    score, classes, cell = heatmap_peaks(heatmap, 4)
    torch.testing.assert_close(score[0], torch.tensor([0.9, 0.6, 0.5, 0.0]))
    assert classes[0, :3].tolist() == [car, pedestrian, pedestrian]
    assert cell[0, :3].tolist() == [4 * 16 + 4, 9 * 16 + 9, 9 * 16 + 10]
    assert heatmap_peaks(heatmap[:, :, :2, :2], 999)[0].shape == (1, 40)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_fresh_head_is_finite_and_starts_at_its_priors(layers: int) -> None:
    torch.manual_seed(0)
    head = DetectionHead(DetectionHeadConfig(channels=16, queries=7, decoder_layers=layers, heads=2), GRID, 12)
    output = head(torch.zeros(2, 12, 16, 16))
    assert output.heatmap_logits.shape == (2, 10, 16, 16)
    assert len(output.layers) == layers
    assert output.dense.center_m.shape == (2, 16, 16, 3)
    torch.testing.assert_close(output.dense.center_m[0, 3, 5, 2], torch.tensor(PRIOR_HEIGHT_M), atol=0.5, rtol=0)
    assert 0.01 < float(output.heatmap_logits.detach().sigmoid().mean()) < 0.3
    for layer in output.layers:
        start = output.dense.gather(output.query_cell)
        torch.testing.assert_close(layer.boxes.center_m, start.center_m)  # refinement starts at zero
        assert layer.class_logits.shape == (2, 7, 10)
    wild = head(torch.randn(2, 12, 16, 16) * 1e4)
    assert wild.dense.log_size.abs().max() <= LOG_SIZE_LIMIT
    assert all(len(found) <= 7 for found in decode(wild, 0.0))


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    head = DetectionHead(DetectionHeadConfig(channels=16, queries=7, decoder_layers=2, heads=2), GRID, 12)
    for layer in head.layers:
        torch.nn.init.normal_(layer.refine.weight)  # type: ignore[union-attr, arg-type]
    output = head(torch.randn(2, 12, 16, 16))
    loss = output.heatmap_logits.square().sum()
    for boxes in (output.dense, *(layer.boxes for layer in output.layers)):
        loss = loss + boxes.center_m.square().sum() + boxes.log_size.square().sum() + boxes.sin_cos.square().sum()
    loss = loss + sum(layer.class_logits.square().sum() for layer in output.layers)
    loss.backward()
    missing = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_raw_outputs_add_to_the_base() -> None:
    raw = torch.zeros(1, 18)
    raw[0, :10] = torch.tensor([1, -2, 0.5, 9, 0, -9, 0.1, 0.2, 3, 4])
    boxes = BoxParameters.from_raw(raw, blank_boxes(1), 0.8)
    torch.testing.assert_close(boxes.center_m[0], torch.tensor([0.8, -1.6, 0.4]))
    assert boxes.log_size[0].tolist() == [LOG_SIZE_LIMIT, 0, -LOG_SIZE_LIMIT]
    assert boxes.velocity_mps[0].tolist() == [3, 4]


def test_gather_takes_ix_times_y_plus_iy() -> None:
    dense = blank_boxes(2, 3, 5)
    dense.center_m[1, 2, 4, 0] = 7.0
    assert dense.gather(torch.tensor([[0], [2 * 5 + 4]])).center_m[:, 0, 0].tolist() == [0, 7]


def test_neighbourhood_attention_reads_only_its_neighbourhood() -> None:
    torch.manual_seed(0)
    attention = NeighbourhoodAttention(8, 2)
    cells = torch.randn(1, 20, 24, 8, requires_grad=True)
    attention(torch.randn(1, 1, 8), torch.zeros(1, 1, 8), torch.tensor([[[2, 22]]]), cells).sum().backward()
    assert cells.grad is not None
    seen = cells.grad[0].abs().sum(-1) > 0
    expected = torch.zeros(20, 24, dtype=torch.bool)
    expected[:7, 18:] = True  # the border is cut off, not wrapped
    assert torch.equal(seen, expected)
