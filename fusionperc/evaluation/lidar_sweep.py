"""A LiDAR file taken apart into returns, pulses that did not come back, and returns of the own vehicle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BEAMS = 32
#: A point this close to where its pulse started is none. Returns of the own roof begin at 0.45 m.
_AT_ORIGIN_M = 0.1
#: Nearer returns, no further to the side, are the own vehicle's: its roof to 1.3 m, bonnet and boot to 2.4 m.
OWN_VEHICLE_RANGE_M, OWN_VEHICLE_HALF_WIDTH_M = 2.5, 1.1


@dataclass(frozen=True, eq=False)
class LidarSweep:
    """The returns of a sweep, and how many pulses brought none.

    Attributes:
        xyz_m: (P, 3) in the LiDAR's frame at the sweep's stamp.
        range_m: (P,) from where the LiDAR was when the pulse left.
        intensity: (P,) 0 to 255.
        ring: (P,) 0 (lowest) to 31.
        num_missing: (32,) pulses of each ring without a return.
    """

    xyz_m: NDArray[np.float32]
    range_m: NDArray[np.float32]
    intensity: NDArray[np.float32]
    ring: NDArray[np.int64]
    num_missing: NDArray[np.int64]

    @property
    def is_own_vehicle(self) -> NDArray[np.bool_]:
        """(P,) which returns come from the vehicle that carries the LiDAR (whose x axis points to the right)."""
        is_beside = np.abs(self.xyz_m[:, 0]) > OWN_VEHICLE_HALF_WIDTH_M
        is_own: NDArray[np.bool_] = (self.range_m < OWN_VEHICLE_RANGE_M) & ~is_beside
        return is_own


def split_sweep(points: NDArray[np.float32]) -> LidarSweep:
    """Takes a sweep apart.

    nuScenes' files hold every pulse, column by column, 32 to a column from ring 0 up; a pulse that did not come back
    has range 0. All points are compensated for ego motion, and so a missing one lies where the LiDAR was: up to half a
    metre behind the frame's origin at the start of the sweep, at the origin at its end, the same for all missing
    pulses of a column. Nothing is returned from the frame's origin itself either. A file not made of whole columns
    leaves missing ones out: every beam is then taken to have sent as many pulses as came back in the fullest ring.

    Args:
        points: (N, 5) as `data.pointclouds.read_lidar` gives them.
    """
    xyz, ring = points[:, :3], points[:, 4].astype(np.int64)
    has_all_pulses = len(ring) > 0 and len(ring) % NUM_BEAMS == 0
    has_all_pulses = has_all_pulses and bool((ring.reshape(-1, NUM_BEAMS) == np.arange(NUM_BEAMS)).all())
    origin = _origins(xyz) if has_all_pulses else np.zeros((1, 3), dtype=np.float32)
    range_m = np.linalg.norm(xyz - origin, axis=1)
    is_return = (range_m >= _AT_ORIGIN_M) & (np.linalg.norm(xyz, axis=1) >= _AT_ORIGIN_M)
    num_returns = np.bincount(ring[is_return], minlength=NUM_BEAMS)[:NUM_BEAMS]
    num_pulses = len(ring) // NUM_BEAMS if has_all_pulses else int(num_returns.max(initial=0))
    return LidarSweep(
        xyz_m=xyz[is_return],
        range_m=range_m[is_return],
        intensity=points[is_return, 3],
        ring=ring[is_return],
        num_missing=num_pulses - num_returns,
    )


def _origins(xyz_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 3) where the LiDAR was at each of N pulses: a straight line through the places that a column repeats.

    Two pulses of a column have different elevations: only at the origin can their points be the same.
    """
    columns = np.ascontiguousarray(xyz_m).reshape(-1, NUM_BEAMS, 3)
    bits = columns.view(np.uint32).astype(np.uint64)
    key = (bits[..., 0] << np.uint64(32)) | bits[..., 1]
    order = np.argsort(key, axis=1, kind="stable")
    ordered = np.take_along_axis(key, order, axis=1)
    column, place = np.nonzero(ordered[:, 1:] == ordered[:, :-1])
    if len(np.unique(column)) < 2:
        return np.zeros((len(xyz_m), 3), dtype=np.float32)
    repeated = columns[column, order[column, place]].astype(np.float64)
    slope, start = np.polyfit(column, repeated, 1)
    line = start + slope * np.arange(len(columns))[:, None]
    return np.repeat(line, NUM_BEAMS, axis=0).astype(np.float32)
