"""Targets from pictures: where a place is seen, by which camera, and the loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusionperc.measurements import LidarRays
from fusionperc.models.camera import FEATURE_STRIDE_PX
from fusionperc.objectives.pictures import PictureTeacher, ends_of_rays, pictured_loss
from fusionperc.types import CameraInputs

HEIGHT_PX, WIDTH_PX, FOCAL_PX = 64, 96, 40.0
#: A camera that looks along +x of the ego frame: its x is -y, its y is -z, its z is x.
AHEAD = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
BEHIND = torch.tensor([[0.0, 1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])


class MeanColour(nn.Module):
    """The mean colour of every 16 x 16 pixels: a backbone whose features are known."""

    pixel_mean, pixel_std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    feature_channels = (3, 3)

    def features(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(images, FEATURE_STRIDE_PX), F.avg_pool2d(images, 2 * FEATURE_STRIDE_PX)]


def cameras() -> CameraInputs:
    """Two samples of a camera ahead and one behind. Red is the pixel's x, green its y, blue is the camera's."""
    picture = torch.zeros(2, 2, 3, HEIGHT_PX, WIDTH_PX, dtype=torch.uint8)
    picture[:, :, 0] = torch.arange(WIDTH_PX, dtype=torch.uint8)
    picture[:, :, 1] = torch.arange(HEIGHT_PX, dtype=torch.uint8)[:, None]
    picture[:, 1, 2] = 200
    intrinsics = torch.tensor([[FOCAL_PX, 0, WIDTH_PX / 2], [0, FOCAL_PX, HEIGHT_PX / 2], [0, 0, 1.0]])
    return CameraInputs(
        picture,
        intrinsics.expand(2, 2, 3, 3),
        torch.stack([AHEAD, BEHIND]).expand(2, 2, 4, 4),
        torch.tensor([[True, True], [True, False]]),
    )


def test_a_place_is_seen_at_its_pixel() -> None:
    """Pixels of a pinhole by hand; features are read between centres of feature pixels and then standardised."""
    places = torch.tensor(
        [
            [10.0, 0.0, 0.0],  # (48, 32): the middle
            [10.0, 5.0, 2.0],  # left and above: (28, 24)
            [10.0, -6.0, -3.0],  # right and below: (72, 44)
            [10.0, 13.0, 0.0],  # outside the picture
            [0.5, 0.0, 0.0],  # nearer than a metre
            [-10.0, 5.0, 2.0],  # behind, on the right there: (68, 24)
            [math.nan, math.nan, math.nan],
        ]
    )
    features, shown = PictureTeacher(MeanColour()).see(cameras(), places.expand(2, 7, 3))
    assert shown.tolist() == [[True, True, True, False, False, True, False], [True] * 3 + [False] * 4]
    # The mean of x over pixels 0 to 15 is 7.5, at the border between pixels at 8: the colour is x - 0.5.
    colours = torch.tensor(
        [[48, 32, 0.5], [28, 24, 0.5], [72, 44, 0.5], [68, 24, 200.5]] + [[48, 32, 0.5], [28, 24, 0.5], [72, 44, 0.5]]
    )
    colours = colours - 0.5
    expected = (colours - colours.mean(0)) / colours.std(0)
    torch.testing.assert_close(features[shown], expected, rtol=1e-4, atol=1e-4)


def test_nothing_shown_is_no_error() -> None:
    features, shown = PictureTeacher(MeanColour()).see(cameras(), torch.full((2, 3, 3), math.nan))
    assert not bool(shown.any()) and bool(features.isfinite().all())
    leaf = torch.randn(2, 3, 3, requires_grad=True)
    loss = pictured_loss(leaf, features, shown)
    loss.backward()
    assert loss.item() == 0 and leaf.grad is not None and not bool(leaf.grad.any())


def test_the_teacher_does_not_learn() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    teacher = PictureTeacher(backbone)  # type: ignore[arg-type]
    assert teacher.backbone is backbone and not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_rays_of_the_key_frame_end_where_they_were_measured() -> None:
    ahead = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    lidar = LidarRays(
        torch.tensor([[1.0, 0, 2], [9, 9, 9], [0, -1, 2], [9, 9, 9]]),
        ahead.expand(4, 3, 3),
        torch.tensor([[4.0, math.inf, 1], [7, 7, 7], [math.nan, 3, 2], [7, 7, 7]]),
    )
    ends = ends_of_rays(lidar, horizons=2)
    assert ends.shape == (2, 3, 3)
    assert ends[0, 0].tolist() == [5, 0, 2] and ends[0, 2].tolist() == [1, 0, 3]
    assert ends[1, 1].tolist() == [0, 2, 2] and ends[1, 2].tolist() == [0, -1, 4]
    assert bool(ends[0, 1].isnan().all()) and bool(ends[1, 0].isnan().all())


def test_loss_counts_what_was_seen() -> None:
    pictured = torch.tensor([[[1.0, 2], [5, 5]], [[0, 0], [3, 3]]])
    features = torch.tensor([[[0.0, 0], [9, 9]], [[0, 2], [9, 9]]])
    counts = torch.tensor([[True, False], [True, False]])
    assert pictured_loss(pictured, features, counts).item() == pytest.approx((1 + 4 + 0 + 4) / 4)
