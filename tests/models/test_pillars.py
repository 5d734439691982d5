"""The pillar encoder: the folded batch norm, invariances, and where a point lands."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_fusionperc import small_config, some_points

from fusionperc.models.lidar import LidarEncoder
from fusionperc.models.pillars import LinearBatchNorm, PillarEncoder
from fusionperc.models.radar import RadarEncoder
from fusionperc.types import Points


def test_folded_norm_is_linear_then_batch_norm() -> None:
    torch.manual_seed(0)
    folded = LinearBatchNorm(5, 4)
    torch.nn.init.normal_(folded.scale)
    torch.nn.init.normal_(folded.shift)
    rows, weight = torch.randn(300, 5) @ torch.randn(5, 5) + 3, torch.randn(300, 4)

    def reference() -> torch.Tensor:
        return F.batch_norm(
            F.linear(rows, folded.weight), None, None, folded.scale, folded.shift, training=True, eps=folded.eps
        )

    torch.testing.assert_close(folded(rows), reference(), atol=1e-4, rtol=1e-4)
    parameters = list(folded.parameters())
    ours = torch.autograd.grad((folded(rows) * weight).sum(), parameters)
    theirs = torch.autograd.grad((reference() * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-3)


def test_folded_norm_learns_its_statistics() -> None:
    torch.manual_seed(0)
    folded = LinearBatchNorm(3, 2)
    rows = torch.randn(500, 3) * 2 + 1
    for _ in range(200):
        folded(rows)
    trained = folded(rows)
    folded.eval()
    torch.testing.assert_close(folded(rows), trained, atol=1e-3, rtol=1e-3)


def lidar() -> PillarEncoder:
    torch.manual_seed(0)
    return LidarEncoder(small_config()).pillars.eval()


def test_order_of_points_does_not_matter() -> None:
    encoder, points = lidar(), some_points(2, [300, 200], 5)
    order = torch.randperm(500)
    shuffled = Points(points.xyz_m[order], points.features[order], points.sample_index[order], 2)
    with torch.no_grad():
        torch.testing.assert_close(encoder(points), encoder(shuffled), atol=1e-4, rtol=1e-4)


def test_points_outside_and_nan_are_ignored() -> None:
    encoder, points = lidar(), some_points(2, [100], 5)
    extra = torch.tensor([[50.0, 0, 0], [0, 0, 9.0], [float("nan"), 0, 0], [0, float("inf"), 0]])
    more = Points(
        torch.cat([extra, points.xyz_m]), torch.cat([torch.zeros(4, 2), points.features]),
        torch.zeros(104, dtype=torch.int64), 1,
    )  # fmt: skip
    with torch.no_grad():
        assert torch.equal(encoder(points), encoder(more))


@pytest.mark.parametrize("training", [True, False])
def test_no_points_gives_the_empty_scene(training: bool) -> None:
    encoder = lidar().train(training)
    bev = encoder(some_points(2, [0, 0], 5))
    assert bev.shape == (2, 16, 24, 24)
    assert bev.isfinite().all()


def test_a_point_changes_its_own_neighbourhood_only() -> None:
    encoder = lidar()
    empty, one = some_points(2, [0], 1), Points(
        torch.tensor([[6.0, -6.0, 0.5]]), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), 1
    )  # fmt: skip
    with torch.no_grad():
        changed = (encoder(one) - encoder(empty)).abs().sum(1)[0]
    ix, iy = divmod(int(changed.argmax()), 24)
    # 6 m forward is cell 19, 6 m right is cell 4; the coarse stage smears a little.
    assert abs(ix - 19) <= 2 and abs(iy - 4) <= 2
    assert not changed[:6].any() and not changed[:, 18:].any()


def test_wrong_feature_count_names_both() -> None:
    with pytest.raises(ValueError, match="has 2 columns, this encoder takes 4"):
        RadarEncoder(small_config())(some_points(2, [5], 1))


def test_features_that_are_no_number_do_no_harm() -> None:
    encoder, points = lidar(), some_points(2, [50], 1)
    broken = replace(points, features=torch.full_like(points.features, float("nan")))
    with torch.no_grad():
        assert encoder(broken).isfinite().all()
