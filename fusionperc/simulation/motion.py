"""From recorded positions to smooth poses: filtering, trailing axles, overlap of upright boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from fusionperc.simulation.flows import HITCH_GAP_M, RATE_HZ, Mover
from fusionperc.simulation.sizes import EGO_REAR_AXLE_TO_FRONT_M

Array = NDArray[np.float64]
#: Recorded time before and after the span of interest that the filter needs.
FILTER_MARGIN_S = 1.6
_FILTER_S = 0.45


@dataclass(frozen=True)
class Track:
    """One body's poses at `RATE_HZ`: centre (T, 2), unwrapped yaw (T,); kinds are keys of `sizes`."""

    name: str
    kind: str
    size_lwh_m: tuple[float, float, float]
    center_m: Array
    yaw_rad: Array

    @property
    def distance_m(self) -> Array:
        """(T,) path length since the first frame."""
        return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(self.center_m, axis=0), axis=1))])


def smoothed(points: Array) -> Array:
    """Positions (T, ...) low-passed in time; differentiable, without the corners of lane geometry."""
    filtered: Array = gaussian_filter1d(points, _FILTER_S * RATE_HZ, axis=0, mode="nearest")
    return filtered


def trailing_yaw(leading_m: Array, first_yaw_rad: float, length_m: float, substeps: int = 4) -> Array:
    """(T,) heading of a rigid body whose front point follows `leading_m` and whose rear axle, `length_m` behind,
    only rolls along the heading (the tractrix; a bicycle model without slip). Standing bodies keep their heading."""
    fine = np.linspace(0, len(leading_m) - 1, (len(leading_m) - 1) * substeps + 1)
    xs, ys = (np.interp(fine, np.arange(len(leading_m)), leading_m[:, k]).tolist() for k in (0, 1))
    rear_x, rear_y = xs[0] - length_m * np.cos(first_yaw_rad), ys[0] - length_m * np.sin(first_yaw_rad)
    yaw = np.empty(len(fine))
    for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
        dx, dy = x - rear_x, y - rear_y
        scale = length_m / (dx * dx + dy * dy) ** 0.5
        rear_x, rear_y = x - dx * scale, y - dy * scale
        yaw[k] = np.arctan2(dy, dx)
    return np.unwrap(yaw)[::substeps]


def _behind(front_m: Array, yaw_rad: Array, distance_m: float) -> Array:
    heading = np.stack([np.cos(yaw_rad), np.sin(yaw_rad)], axis=1)
    moved: Array = front_m - distance_m * heading
    return moved


def ego_rear_axle(mover: Mover) -> tuple[Array, Array]:
    """(T, 2) ground point under the ego's rear axle and its yaw (T,)."""
    front = smoothed(mover.front_m)
    yaw = trailing_yaw(front, float(mover.heading_rad[0]), EGO_REAR_AXLE_TO_FRONT_M)
    return _behind(front, yaw, EGO_REAR_AXLE_TO_FRONT_M), yaw


def tracks_of(mover: Mover) -> list[Track]:
    """The bodies of a road user: one, or towing truck and trailer."""
    front = smoothed(mover.front_m)
    if mover.kind == "pedestrian":
        return [Track(mover.name, mover.kind, mover.size_lwh_m, front, _walking_yaw(front, mover.heading_rad))]
    first = float(mover.heading_rad[0])
    length = mover.size_lwh_m[0]
    yaw = trailing_yaw(front, first, 0.78 * length)
    kind = {"ego": "car", "trailer": "tractor"}.get(mover.kind, mover.kind)
    tracks = [Track(mover.name, kind, mover.size_lwh_m, _behind(front, yaw, length / 2), yaw)]
    if mover.trailer_lwh_m is not None:
        rear = _behind(front, yaw, length)
        reach = mover.trailer_lwh_m[0]
        towed = trailing_yaw(rear, first, HITCH_GAP_M + 0.8 * reach)
        center = _behind(rear, towed, HITCH_GAP_M + reach / 2)
        tracks.append(Track(mover.name + "+trailer", "trailer", mover.trailer_lwh_m, center, towed))
    return tracks


def _walking_yaw(position_m: Array, heading_rad: Array) -> Array:
    """Direction of walking over a second; kept while standing."""
    step = round(0.5 * RATE_HZ)
    padded = np.concatenate([position_m[:1].repeat(step, 0), position_m, position_m[-1:].repeat(step, 0)])
    move = padded[2 * step :] - padded[: -2 * step]
    moving = np.linalg.norm(move, axis=1) > 0.25
    yaw = np.where(moving, np.arctan2(move[:, 1], move[:, 0]), np.nan)
    if not moving.any():
        return np.full(len(yaw), float(heading_rad[0]))
    known = np.flatnonzero(moving)
    filled = yaw[known[np.clip(np.searchsorted(known, np.arange(len(yaw)), side="right") - 1, 0, None)]]
    return smoothed(np.unwrap(filled))


def boxes_overlap(
    center_a: Array, yaw_a: Array, size_a: Array, center_b: Array, yaw_b: Array, size_b: Array
) -> NDArray[np.bool_]:
    """Whether rectangles seen from above overlap (separating axes); arguments broadcast over leading dimensions.

    Centres and sizes (length, width) are (..., 2), yaws (...).
    """
    between = center_b - center_a
    apart = np.zeros(np.broadcast_shapes(between.shape[:-1], np.shape(yaw_a), np.shape(yaw_b)), dtype=bool)
    turn = yaw_b - yaw_a
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    for yaw, own, other in ((yaw_a, size_a, size_b), (yaw_b, size_b, size_a)):
        along = np.cos(yaw) * between[..., 0] + np.sin(yaw) * between[..., 1]
        across = -np.sin(yaw) * between[..., 0] + np.cos(yaw) * between[..., 1]
        apart |= np.abs(along) > (own[..., 0] + other[..., 0] * cos + other[..., 1] * sin) / 2
        apart |= np.abs(across) > (own[..., 1] + other[..., 0] * sin + other[..., 1] * cos) / 2
    return ~apart


def without_overlaps(tracks: list[Track], protected: str, stride: int = 2) -> list[Track]:
    """Drops tracks until no two bodies overlap at any frame; the one named `protected` and larger bodies stay.

    A trailer goes with its towing truck, whose pair is not held against them.
    """
    centers = np.stack([track.center_m[::stride] for track in tracks])
    yaws = np.stack([track.yaw_rad[::stride] for track in tracks])
    sizes = np.array([track.size_lwh_m[:2] for track in tracks]) + 0.1
    reach = np.linalg.norm(sizes, axis=1) / 2
    owner = [track.name.removesuffix("+trailer") for track in tracks]
    pairs = set()
    for frame in range(centers.shape[1]):
        at = centers[:, frame]
        near = np.linalg.norm(at[:, None] - at[None], axis=2) < reach[:, None] + reach[None]
        a, b = np.nonzero(np.triu(near, 1))
        hit = boxes_overlap(at[a], yaws[a, frame], sizes[a], at[b], yaws[b, frame], sizes[b])
        pairs |= {(owner[i], owner[j]) for i, j in zip(a[hit], b[hit], strict=True) if owner[i] != owner[j]}
    weight: dict[str, float] = {}
    for name, track in zip(owner, tracks, strict=True):
        weight[name] = weight.get(name, 0.0) + track.size_lwh_m[0] * track.size_lwh_m[1]
    weight[protected] = np.inf
    gone: set[str] = set()
    for a_name, b_name in sorted(pairs):
        if not {a_name, b_name} & gone:
            gone.add(min((a_name, b_name), key=lambda name: (weight[name], name)))
    return [track for name, track in zip(owner, tracks, strict=True) if name not in gone]
