"""Lines of the ego frame on pictures, cut at the near plane."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fusionperc.geometry import transform_points

Array = NDArray[np.float32]

#: What is nearer to a camera than this is cut off.
NEAR_M = 0.1


def project_segments(
    intrinsics: torch.Tensor, camera_T_ego: torch.Tensor, segments_m: Array, near_m: float = NEAR_M
) -> tuple[Array, NDArray[np.int64]]:
    """Lines of the ego frame on a picture; what lies before the near plane is cut off exactly there.

    Cutting happens in space: an edge half behind the camera keeps its visible half, and none is thrown across the
    picture.

    Args:
        intrinsics: (3, 3) pixels.
        camera_T_ego: (4, 4).
        segments_m: (S, 2, 3).
        near_m: distance of the near plane along the optical axis.

    Returns:
        (V, 2, 2) u, v of the visible segments, and (V,) which segments they are.
    """
    ends = torch.from_numpy(np.asarray(segments_m, dtype=np.float64).reshape(-1, 3))
    in_camera = transform_points(camera_T_ego.double().cpu(), ends).numpy().reshape(-1, 2, 3)
    visible = np.flatnonzero((in_camera[:, :, 2] > near_m).any(axis=1))
    kept = in_camera[visible]
    depth = kept[:, :, 2]
    for end, other in ((0, 1), (1, 0)):
        cut = depth[:, end] < near_m
        share = (near_m - depth[cut, end]) / (depth[cut, other] - depth[cut, end])
        kept[cut, end] += share[:, None] * (kept[cut, other] - kept[cut, end])
    homogeneous = kept @ intrinsics.double().cpu().numpy().T
    return (homogeneous[..., :2] / homogeneous[..., 2:]).astype(np.float32), visible


def segments_in_rectangle(segments_px: Array, width_px: float, height_px: float) -> NDArray[np.bool_]:
    """(S,) which segments' bounding rectangles touch the picture: the others cannot be seen on it."""
    low, high = segments_px.min(axis=1), segments_px.max(axis=1)
    size = np.array([width_px, height_px])
    touches: NDArray[np.bool_] = ((high >= 0) & (low <= size)).all(axis=1)
    return touches
