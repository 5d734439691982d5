"""The pretraining losses: each by hand, what is switched off does not run, what does not belong teaches nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pretraining_cases import (
    FINE,
    GRID,
    TERMS,
    VOLUME,
    config_of,
    dense_boxes,
    losses_of,
    measurements,
    objects,
    outputs,
    surfaces,
)
from torch import Tensor

from fusionperc.measurements import LidarRays, RadarReturns, Surfaces
from fusionperc.models.boxes import NUM_RAW
from fusionperc.models.detection import DensePredictions
from fusionperc.models.pretraining import CellMotion, FusionPercPretraining
from fusionperc.models.reconstruction import Reconstruction
from fusionperc.objectives import pretraining as module
from fusionperc.objectives.pretraining import (
    PretrainingObjective,
    ends_in,
    may_hold_objects,
    motion_losses,
    object_losses,
    radar_terms,
)
from fusionperc.types import Boxes

# -- the whole --------------------------------------------------------------------------------------------------------


def test_total_is_the_weighted_sum() -> None:
    weights = {"likelihood": 0.7, "prediction": 1.3, "contrast": 0.2, "matching": 0.4, "depth": 0.5, "radar": 0.25,
               "pictures": 0.8, "motion": 0.6, "objects": 0.9}  # fmt: skip
    losses = losses_of(config_of(**weights), outputs())
    assert losses.keys() == TERMS | {"total"}
    of = {
        "likelihood": 0.7, "radar": 0.7 * 0.25, "doppler": 0.7 * 0.25, "depth": 0.7 * 0.5,
        "pictures": 0.7 * 0.8, "motion": 0.6, "motion_velocity": 0.6 / 5, "prediction": 1.3,
        "objects_heatmap": 0.9, "objects_box": 0.9 * 0.5, "objects_velocity": 0.9 * 0.5 * 0.2,
        "prediction_radar": 1.3 * 0.25, "prediction_doppler": 1.3 * 0.25, "contrast": 0.2, "matching": 0.4,
    }  # fmt: skip
    expected = sum(weight * losses[name] for name, weight in of.items())
    torch.testing.assert_close(losses["total"], expected)
    assert all(
        bool(losses[name].isfinite()) and losses[name].item() > 0 for name in TERMS - {"doppler", "prediction_doppler"}
    )


@pytest.mark.parametrize(
    ("off", "gone", "not_run"),
    [
        ("likelihood", {"likelihood", "radar", "doppler", "depth", "pictures"}, "pictured_loss"),
        ("prediction", {"prediction", "prediction_radar", "prediction_doppler"}, None),
        ("radar", {"radar", "doppler", "prediction_radar", "prediction_doppler"}, "radar_terms"),
        ("depth", {"depth"}, "depth_loss"),
        ("pictures", {"pictures"}, None),
        ("contrast", {"contrast"}, "contrast_loss"),
    ],
)
def test_what_weighs_nothing_is_not_computed(
    off: str, gone: set[str], not_run: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not_run is not None:
        monkeypatch.setattr(module, not_run, None)
    assert losses_of(config_of(**{off: 0}), outputs()).keys() == (TERMS - gone) | {"total"}


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ({"likelihood": 0, "prediction": 0}, {"reconstruction", "pictured"}),
        ({"pictures": 0}, {"pictured"}),
        ({"contrast": 0}, set()),
        ({"contrast": 0, "matching": 0}, {"embeddings", "matching"}),
        ({"motion": 0}, {"motion"}),
        ({"objects": 0}, {"objects"}),
        ({"matching": 0}, {"matching"}),
        ({"mismatched": 0}, {"matching"}),
    ],
)
def test_a_network_has_no_head_for_what_weighs_nothing(off: dict[str, float], gone: set[str]) -> None:
    def parts(**changes: object) -> set[str]:
        config = config_of(**changes)
        network = FusionPercPretraining(config.model, config.pretraining)
        return {name.partition(".")[0] for name, _ in network.named_parameters()}

    assert parts() - parts(**off) == gone


def test_what_does_not_belong_together_teaches_matching_only() -> None:
    output = outputs()
    losses = losses_of(config_of(), output, is_wrong=torch.tensor([[False, False, False], [False, True, False]]))
    losses["total"].backward()
    reconstruction = output.reconstruction
    assert reconstruction is not None and output.match_logits is not None
    leaves = (reconstruction.density, reconstruction.radar_logits, reconstruction.velocity_mps)
    for value in (*leaves, reconstruction.doppler_log_scale):
        assert value.grad is not None
        for moment, learns in enumerate((True, True, False, False)):
            assert bool(value.grad[moment].any()) == learns
    assert output.features.depth_logits is not None and output.features.depth_logits.grad is not None
    assert bool(output.features.depth_logits.grad[0].any()) and not bool(output.features.depth_logits.grad[1].any())
    assert all(pair.grad is not None and bool(pair.grad[1].any()) for pair in output.match_logits.values())


def test_a_batch_where_nothing_belongs_is_no_error() -> None:
    output = outputs()
    losses = losses_of(config_of(), output, is_wrong=torch.eye(3, dtype=torch.bool)[:2])
    assert all(losses[name].item() == 0 for name in TERMS - {"matching"})
    losses["total"].backward()
    assert output.reconstruction is not None and output.reconstruction.density.grad is not None
    assert not bool(output.reconstruction.density.grad.any())


# -- rays -------------------------------------------------------------------------------------------------------------


def test_rays_that_end_where_nothing_was_hidden_weigh_less() -> None:
    measured, output = measurements(batch=1), outputs(batch=1)
    hidden = torch.zeros(1, 8, 8, dtype=torch.bool)
    hidden[:, 4:] = True  # all that is ahead
    config = config_of(visible=0.3)
    assert output.reconstruction is not None
    nats = PretrainingObjective(config).rays(output.reconstruction, measured.lidar)
    nats_now, nats_later = nats.negative_log_likelihood(measured.lidar.range_m)
    ends_x = (measured.lidar.direction[0] * measured.lidar.range_m[0, :, None])[:, 0]
    weight = torch.where(ends_x >= 0, 1.0, 0.3)
    assert 0 < int((ends_x >= 0).sum()) < 12
    losses = losses_of(config, output, measured, hidden=hidden)
    torch.testing.assert_close(losses["likelihood"], (nats_now * weight).sum() / weight.sum())
    torch.testing.assert_close(losses["prediction"], nats_later.mean())


def test_rays_that_are_none_do_not_count() -> None:
    measured, output = measurements(batch=1), outputs(batch=1)
    some = measured.lidar.range_m.clone()
    some[:, ::2] = math.nan
    few = replace(measured, lidar=replace(measured.lidar, range_m=some))
    assert output.reconstruction is not None
    nats = PretrainingObjective(config_of()).rays(output.reconstruction, measured.lidar)
    expected = nats.negative_log_likelihood(measured.lidar.range_m)[:, 1::2].mean(1)
    losses = losses_of(config_of(), output, few)
    torch.testing.assert_close(torch.stack([losses["likelihood"], losses["prediction"]]), expected)


def test_a_network_that_predicts_nan_is_told() -> None:
    """It must not look like a sweep without rays: the run has to stop."""
    output = outputs()
    assert output.reconstruction is not None
    broken = replace(output.reconstruction, density=output.reconstruction.density * math.nan)
    assert bool(losses_of(config_of(), replace(output, reconstruction=broken))["total"].isnan())
    broken = replace(output.reconstruction, radar_logits=output.reconstruction.radar_logits * math.nan)
    assert bool(losses_of(config_of(), replace(output, reconstruction=broken))["total"].isnan())


def test_ends_in() -> None:
    cells = torch.zeros(2, 8, 8, dtype=torch.bool)
    cells[0, 5, 4] = True  # x 2 to 4, y 0 to 2
    cells[1, 6, 4] = True  # x 4 to 6
    ahead = torch.tensor([1.0, 0.0, 0.0]).expand(4, 5, 3)
    origin = torch.tensor([[0.0, 0.5, 0.0], [2.0, 0.5, 0.0], [0.0, 0.5, 0.0], [0.0, -0.5, 0.0]])
    range_m = torch.tensor([1.9, 2.0, 4.5, math.inf, math.nan]).expand(4, 5)
    found = ends_in(LidarRays(origin, ahead, range_m), cells, GRID)
    assert found.tolist() == [
        [False, True, False, False, False],
        [True, False, False, False, False],  # 3.9, 4.0 and 6.5 m: a later moment of the first sample
        [False, False, True, False, False],
        [False] * 5,
    ]
    steep = LidarRays(torch.zeros(2, 3), torch.tensor([[[0.0, 0, 1]]]).expand(2, 1, 3), torch.full((2, 1), 4.0))
    assert not bool(ends_in(steep, torch.ones(2, 8, 8, dtype=torch.bool), GRID).any()), "above the grid"


# -- radar ------------------------------------------------------------------------------------------------------------


def test_radar_by_hand() -> None:
    """One return in one cell of the first moment, two in one cell of the second, none that counts in the third."""
    logits = torch.full((4, 8, 8), -2.0)
    logits[0, 5, 4] = 1.0
    velocity = torch.zeros(4, 2, 8, 8)
    velocity[:, 0], velocity[:, 1] = 3.0, -1.0
    log_scale = torch.full((4, 8, 8), math.log(0.4))
    reconstruction = Reconstruction(VOLUME, torch.zeros(4, 4, 8, 8), logits, velocity, log_scale)
    radar = RadarReturns(
        torch.tensor([[3.0, 1.0, 0.0], [-7.0, 5.0, 0.0], [-6.5, 5.5, 1.0], [20.0, 0.0, 0.0]]),
        torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0], [1.0, 0.0]]),
        torch.tensor([2.0, 3.0, 0.0, 0.0]),
        torch.tensor([0, 1, 1, 2]),
        torch.tensor([True, True, True, False]),
    )
    occupied, doppler, has_radar = radar_terms(reconstruction, radar, GRID)
    assert has_radar.tolist() == [True, True, False, False]
    empty = 63 * math.log1p(math.exp(-2.0))
    assert float(occupied[0]) == pytest.approx(math.log1p(math.exp(-1.0)) + empty, rel=1e-5)
    assert float(occupied[1]) == pytest.approx(math.log1p(math.exp(2.0)) + empty, rel=1e-5)
    # Scale: 0.4 beside the radar's own 0.1. Radial: 0.6 * 3 - 0.8 * 1 = 1 against 2; 3 against 3 and 1 against 0.
    norm = math.log(2 * 0.5)
    assert float(doppler[0]) == pytest.approx(1 / 0.5 + norm, rel=1e-5)
    assert float(doppler[1]) == pytest.approx((0 / 0.5 + 1 / 0.5) / 2 + norm, rel=1e-5)


def test_a_moment_without_scan_is_not_taken_for_an_empty_one() -> None:
    measured = measurements(batch=1)
    silent = replace(measured.radar, is_measured=torch.tensor([True, False]))
    losses = losses_of(config_of(), outputs(batch=1), replace(measured, radar=silent))
    assert losses["radar"].item() > 0 and losses["prediction_radar"].item() == 0


# -- motion -----------------------------------------------------------------------------------------------------------


def moving(
    *points: tuple[float, float, int, int],
    compared: tuple[bool, bool] = (True, True),
    velocity: list[list[float]] | None = None,
) -> Surfaces:
    """Points (x, y, answer, sample)."""
    x, y, answer, sample = zip(*points, strict=True)
    return Surfaces(
        torch.tensor([x, y, [1.0] * len(x)]).T.contiguous(),
        torch.tensor(answer, dtype=torch.int8),
        torch.full((len(x), 2), math.nan) if velocity is None else torch.tensor(velocity),
        torch.tensor(sample),
        torch.tensor(compared),
    )


def motion_of(logits: Tensor, surfaces: Surfaces, counts: Tensor) -> Tensor:
    still = torch.zeros(len(logits), 2, *logits.shape[1:])
    return motion_losses(CellMotion(FINE, logits, still), surfaces, counts)["motion"]


def test_motion_by_hand() -> None:
    """Cells of 1 m: the map's are 2 m wide. Of 256 cells of two samples three are asked nothing."""
    logits = torch.full((2, 16, 16), -2.0)
    logits[0, 11, 9] = 1.0
    surfaces = moving(
        (3.5, 1.5, 1, 0), (3.2, 1.1, 1, 0), (3.9, 1.9, 0, 0),  # cell (11, 9): two move, one stays
        (-7.5, -7.5, 1, 0),  # one that moves is not sure enough
        (0.5, 0.5, -1, 0),  # nothing known
        (5.5, 5.5, 1, 1), (5.5, 5.6, 0, 1), (5.4, 5.5, 0, 1),  # one moves and two stay: neither
        (-0.5, 2.5, 0, 1), (-0.5, 2.5, -1, 1),  # stays
        (30.0, 0.0, 1, 1), (30.0, 0.0, 1, 1),  # outside
    )  # fmt: skip
    both = torch.tensor([True, True])
    stays = math.log1p(math.exp(-2.0))
    expected = math.log1p(math.exp(-1.0)) + (2 * 256 - 1 - 3) * stays
    loss = motion_of(logits, surfaces, both)
    assert float(loss) == pytest.approx(expected / 32, rel=1e-5)  # one cell, told as if there were 32
    first = motion_of(logits, surfaces, torch.tensor([True, False]))
    assert float(first) == pytest.approx((math.log1p(math.exp(-1.0)) + (256 - 3) * stays) / 32, rel=1e-5)
    later = motion_of(logits, replace(surfaces, is_compared=torch.tensor([False, False])), both)
    assert later.item() == 0
    many = moving(*[(x + 0.5, y + 0.5, 1, 0) for x in range(-8, 0) for y in range(-8, 0) for _ in range(2)])
    counted = motion_of(torch.zeros(2, 16, 16), many, both)
    assert float(counted) == pytest.approx(512 * math.log(2) / 64, rel=1e-5)  # per moving cell


def test_velocity_by_hand() -> None:
    """Of four points one has no velocity, one is outside: errors of 3 + 1 and of 0.5 + 0 m/s, told as of 32 points."""
    told = torch.zeros(2, 2, 16, 16)
    told[1, :, 13, 13] = torch.tensor([1.5, -2.0])
    points = ((3.5, 1.5, 1, 0), (-3.0, 0.5, 1, 0), (5.5, 5.5, 1, 1), (30.0, 0.0, 1, 1))
    velocity = [[3.0, -1.0], [math.nan, math.nan], [1.0, -2.0], [9.0, 9.0]]
    surfaces, motion = moving(*points, velocity=velocity), CellMotion(FINE, torch.zeros(2, 16, 16), told)
    for counts, expected in (([True, True], 4.5), ([False, True], 0.5), ([False, False], 0.0)):
        found = motion_losses(motion, surfaces, torch.tensor(counts))["motion_velocity"]
        assert float(found) == pytest.approx(expected / 32)
    many = moving(*[points[0]] * 64, velocity=[velocity[0]] * 64)
    assert float(motion_losses(motion, many, torch.tensor([True, True]))["motion_velocity"]) == pytest.approx(4.0)


# -- objects ----------------------------------------------------------------------------------------------------------


def predicted(batch: int = 2) -> DensePredictions:
    raw = torch.zeros(batch, 8, 8, NUM_RAW, requires_grad=True)
    logits = torch.zeros(batch, 10, 8, 8, requires_grad=True)
    return DensePredictions(torch.zeros(batch, 8, 8, 8), logits, dense_boxes(raw))


def object_losses_of(
    dense: DensePredictions, boxes: list[Boxes], *, counts: tuple[bool, bool] = (True, True),
    knows: tuple[bool, bool] = (True, True), points: Surfaces | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    points = surfaces() if points is None else points
    return object_losses(dense, boxes, points, GRID, torch.tensor(counts), torch.tensor(knows))


def detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in losses.items()}


def test_objects_by_hand() -> None:
    """Cell (5, 4) is centred at (3, 1) m, 1 m up; the car of each sample at (3.6, 1.2, 0.9) m."""
    found = detached(object_losses_of(predicted(), objects()))
    one = 0.6 + 0.2 + 0.1 + math.log(4.5) + math.log(2.0) + math.log(1.6) + math.sin(0.4) + math.cos(0.4)
    assert float(found["objects_box"]) == pytest.approx(2 * one / 4, rel=1e-5)  # two, told as if there were four
    assert float(found["objects_velocity"]) == pytest.approx(2 * 3.0 / 4)
    half = detached(object_losses_of(predicted(), objects(), knows=(True, False)))
    assert float(half["objects_velocity"]) == pytest.approx(3.0 / 4)
    torch.testing.assert_close(half["objects_box"], found["objects_box"])
    first = object_losses_of(predicted(), objects(), counts=(True, False))
    for name, value in found.items():
        torch.testing.assert_close(first[name], value / 2)
    outside = [replace(boxes, center_m=boxes.center_m + torch.tensor([50.0, 0, 0])) for boxes in objects()]
    assert object_losses_of(predicted(), outside)["objects_box"].item() == 0
    later = replace(surfaces(), is_compared=torch.tensor([False, False]))
    assert all(value.item() == 0 for value in object_losses_of(predicted(), objects(), points=later).values())


def test_nothing_is_asked_where_something_low_stays() -> None:
    """Around (-3, 5) m stands something: it may be a parked car. A house may not; nor is an empty street one."""
    dense = predicted()
    object_losses_of(dense, objects())["objects_heatmap"].backward()
    assert dense.heatmap_logits.grad is not None
    gradient = dense.heatmap_logits.grad[0, 0]
    assert bool((gradient[1:4, 5:8] == 0).all()), "the cell of the point, and its neighbours"
    assert gradient[5, 4] < 0, "the car's cell"
    assert bool((gradient[:, :3] > 0).all())
    tall = replace(surfaces(), xyz_m=torch.tensor([[-3.0, 5.0, 6.0]]).repeat(6, 1))
    dense = predicted()
    object_losses_of(dense, objects(), points=tall)["objects_heatmap"].backward()
    assert dense.heatmap_logits.grad is not None
    assert dense.heatmap_logits.grad[0, 0, 2, 6] > 0
    assert may_hold_objects(tall, GRID)[0].sum() == 8


def test_what_moves_is_asked_only_where_it_could_be_seen() -> None:
    config, output, measured = config_of(), outputs(), measurements()
    arguments = (output, measured, None, torch.ones(2, 8, 8, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool),
                 torch.Generator().manual_seed(0), surfaces(), objects())  # fmt: skip
    with_past = PretrainingObjective(config)(*arguments)
    every, none = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    without = PretrainingObjective(config)(*arguments, every, none)
    gone = {name for name, value in without.items() if value.item() == 0 and with_past[name].item() > 0}
    assert gone == {"motion", "motion_velocity", "objects_velocity"}
    hidden = PretrainingObjective(config)(*arguments, none, every)
    gone = {name for name, value in hidden.items() if value.item() == 0 and with_past[name].item() > 0}
    assert gone == {"motion", "motion_velocity", "objects_heatmap", "objects_box", "objects_velocity"}
