"""What a frozen picture network sees where LiDAR rays end: targets for the map that all sensors are fused into.

Source: SLidR (Sautier et al., CVPR 2022). Deviates: one feature per ray, no superpixels; squared errors of features
standardised over the batch, which is a Gaussian likelihood of unit variance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fusionperc.geometry import project_points
from fusionperc.measurements import LidarRays
from fusionperc.models.camera import FEATURE_STRIDE_PX, Backbone
from fusionperc.types import CameraInputs


class PictureTeacher:
    """A picture backbone that never learns. It is part of no checkpoint.

    Args:
        backbone: with the weights that it is to teach; frozen here.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone: Backbone = backbone.eval().requires_grad_(False)

    @torch.no_grad()
    def see(
        self, cameras: CameraInputs, places_m: Float[Tensor, "batch places 3"]
    ) -> tuple[Float[Tensor, "batch places channels"], Bool[Tensor, "batch places"]]:
        """Features of the pictures at places, standardised over all of them, and which places a picture shows.

        A place that several pictures show is taken from the last.
        """
        batch, num_cameras, _, height, width = cameras.images.shape
        backbone = self.backbone.to(cameras.images.device)
        mean = torch.tensor(backbone.pixel_mean, device=cameras.images.device)[:, None, None]
        std = torch.tensor(backbone.pixel_std, device=cameras.images.device)[:, None, None]
        maps = backbone.features((cameras.images.flatten(0, 1).float() - mean) / std)[0].float()
        maps = maps.view(batch, num_cameras, *maps.shape[1:])
        pixel, depth = project_points(
            cameras.intrinsics, cameras.camera_T_ego, places_m[:, None].expand(-1, num_cameras, -1, -1), min_depth_m=1.0
        )
        size = pixel.new_tensor([width, height])
        shown = ((pixel >= 0) & (pixel < size)).all(-1) & (depth >= 1.0) & cameras.present[..., None]
        features = places_m.new_zeros(*places_m.shape[:2], maps.shape[2])
        feature_px = size.new_tensor([maps.shape[-1], maps.shape[-2]]) * FEATURE_STRIDE_PX
        for camera in range(num_cameras):
            at = (pixel[:, camera] / feature_px * 2 - 1).nan_to_num()[:, :, None]
            read = F.grid_sample(maps[:, camera], at, padding_mode="border", align_corners=False)[..., 0].transpose(
                1, 2
            )
            features = torch.where(shown[:, camera, :, None], read, features)
        is_shown = shown.any(1)
        known = features[is_shown]
        if len(known) > 1:
            features = (features - known.mean(0)) / known.std(0).clamp(min=1e-3)
        return features, is_shown


def ends_of_rays(lidar: LidarRays, horizons: int) -> Float[Tensor, "batch rays 3"]:
    """Where the key frame's rays end; NaN for those that end nowhere."""
    range_m = torch.where(lidar.range_m.isfinite(), lidar.range_m, torch.nan)[::horizons]
    return lidar.origin_m[::horizons, None] + lidar.direction[::horizons] * range_m[..., None]


def pictured_loss(
    pictured: Float[Tensor, "batch places channels"],
    features: Float[Tensor, "batch places channels"],
    counts: Bool[Tensor, "batch places"],
) -> Tensor:
    """Mean squared error over the places that count."""
    if not bool(counts.any()):
        return pictured.sum() * 0
    return F.mse_loss(pictured[counts], features[counts])
