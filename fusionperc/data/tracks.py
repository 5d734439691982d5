"""Tracks of annotated objects over the seconds after a key frame."""

from __future__ import annotations

import numpy as np
import torch

from fusionperc.data.index import Index
from fusionperc.data.sample import FUTURE_TIMES_S, ObjectTracks
from fusionperc.data.trajectory import object_tracks, planar_poses

#: Key frames are at least 0.45 s apart: so many lie within the longest future.
_KEY_FRAMES = 10


def tracks_of(tables: Index, sample: int, stop: int, ego_T_global: torch.Tensor) -> ObjectTracks:
    """Objects annotated at a sample or soon after it.

    Args:
        tables: the index.
        sample: of the key frame.
        stop: the drive's last sample, plus 1.
        ego_T_global: (4, 4) of the key frame.
    """
    frames = np.arange(sample, min(sample + _KEY_FRAMES, stop))
    start = tables.box_start
    rows = slice(start[frames[0]], start[frames[-1] + 1])
    frame = np.repeat(np.arange(len(frames)), np.diff(start[frames[0] : frames[-1] + 2]))
    instances, first, of = np.unique(tables.box_instance[rows], return_index=True, return_inverse=True)
    time_us = tables.row_time_us[tables.sample_reference[frames]]

    boxes = torch.from_numpy(np.array(tables.box_pose[rows]))
    pose = torch.full((len(instances), len(frames), 3), float("nan"), dtype=torch.float64)
    pose[of, frame] = planar_poses(boxes, ego_T_global)
    visibility = torch.zeros(len(instances), len(frames), dtype=torch.int64)
    visibility[of, frame] = torch.from_numpy(np.array(tables.box_visibility[rows])).long()
    time_s = torch.from_numpy((time_us - time_us[0]) * 1e-6)
    tracks, nearest = object_tracks(time_s, pose, (0.0, *FUTURE_TIMES_S))
    return ObjectTracks(
        instance=torch.from_numpy(instances).long(),
        class_index=torch.from_numpy(np.array(tables.box_class[rows][first])).long(),
        size_lwh_m=torch.from_numpy(np.array(tables.box_size_lwh_m[rows][first])).float(),
        pose_m=tracks.float(),
        visibility=visibility[:, nearest],
    )
