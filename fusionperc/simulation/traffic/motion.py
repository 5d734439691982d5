"""From recorded positions to smooth poses: filtering, trailing axles, overlap of upright boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from fusionperc.simulation.traffic.flows import RATE_HZ, TOWED, Mover
from fusionperc.simulation.traffic.sizes import EGO_REAR_AXLE_TO_FRONT_M

Array = NDArray[np.float64]
#: Recorded time before and after the span of interest that the filter needs.
FILTER_MARGIN_S = 1.6
_FILTER_S = 0.45
#: Nobody walks faster; SUMO moves walkers sideways by a stripe in one step.
WALK_MPS = 2.0
#: Where the axle is that does not steer, as a share of the length from the front.
AXLE_SHARE, TOWED_AXLE_SHARE = 0.78, 0.8
#: Who crosses the way of another this long before, this near, on a course so different, is let go first.
_SOON_S, _IN_WAY_M, _CROSSING_RAD, _MOVES_MPS = 6.0, 1.4, 0.6, 0.4
#: Walkers turn round about this slowly.
_TURN_ROUND_S = 0.8


@dataclass(frozen=True)
class Track:
    """One body's poses at `RATE_HZ`; kinds are keys of `sizes`.

    Before and after it is there, the body goes on straight, so that all tracks have T frames.

    Attributes:
        name: of the mover; a towed body's name ends in "+towed".
        kind: key of `sizes`.
        size_lwh_m: length, width, height.
        center_m: (T, 2).
        yaw_rad: (T,) unwrapped.
        first, last: the frames between which it is there, both included.
    """

    name: str
    kind: str
    size_lwh_m: tuple[float, float, float]
    center_m: Array
    yaw_rad: Array
    first: int
    last: int

    @property
    def distance_m(self) -> Array:
        """(T,) path length since the first frame."""
        return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(self.center_m, axis=0), axis=1))])


def smoothed(points: Array, over_s: float = _FILTER_S) -> Array:
    """Positions (T, ...) low-passed in time; differentiable, without the corners of lane geometry."""
    filtered: Array = gaussian_filter1d(points, over_s * RATE_HZ, axis=0, mode="nearest")
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


def tracks_of(mover: Mover, frames: int) -> list[Track]:
    """The bodies of a road user over a recording of so many frames: one, or a towing and a towed one; none if the
    mover is there for too short a time."""
    margin = round(FILTER_MARGIN_S * RATE_HZ)
    if len(mover.front_m) <= 2 * margin + 2:
        return []
    user = mover.user
    if user.is_walker:
        place = smoothed(_chased(mover.front_m, WALK_MPS / RATE_HZ))
        bodies = [(mover.name, user.kind, user.size_lwh_m, place, _walking_yaw(place, mover.heading_rad))]
    else:
        bodies = _vehicle_bodies(mover)
    return [
        Track(
            name,
            kind,
            size,
            _extended(center, mover.first, frames, margin),
            _extended(yaw[:, None], mover.first, frames, margin)[:, 0],
            mover.first + margin,
            mover.first + len(center) - 1 - margin,
        )
        for name, kind, size, center, yaw in bodies
    ]


_Body = tuple[str, str, tuple[float, float, float], Array, Array]


def _vehicle_bodies(mover: Mover) -> list[_Body]:
    user = mover.user
    front = smoothed(mover.front_m)
    first = float(mover.heading_rad[0])
    length = user.size_lwh_m[0]
    yaw = trailing_yaw(front, first, AXLE_SHARE * length)
    kind = "car" if user.kind == "ego" else user.kind
    bodies = [(mover.name, kind, user.size_lwh_m, _behind(front, yaw, length / 2), yaw)]
    if user.towed_lwh_m is not None:
        towed_kind, gap = TOWED[user.kind]
        rear = _behind(front, yaw, length)
        reach = user.towed_lwh_m[0]
        towed = trailing_yaw(rear, first, gap + TOWED_AXLE_SHARE * reach)
        bodies.append(
            (mover.name + "+towed", towed_kind, user.towed_lwh_m, _behind(rear, towed, gap + reach / 2), towed)
        )
    return bodies


def _chased(position_m: Array, step_m: float) -> Array:
    """Positions (T, 2) of one who follows `position_m` with at most `step_m` a frame."""
    chased = position_m.copy()
    x, y = position_m[0].tolist()
    for frame, (goal_x, goal_y) in enumerate(position_m.tolist()):
        dx, dy = goal_x - x, goal_y - y
        share = min(1.0, step_m / max((dx * dx + dy * dy) ** 0.5, 1e-9))
        x, y = x + share * dx, y + share * dy
        chased[frame] = x, y
    return chased


def _extended(values: Array, first: int, frames: int, margin: int) -> Array:
    """(frames, C) values known from frame `first` on, less `margin` at both ends, gone on with linearly."""
    known = values[margin : len(values) - margin]
    before, after = first + margin, frames - (first + len(values) - margin)
    head = known[0] - np.arange(before, 0, -1)[:, None] * (known[1] - known[0])
    tail = known[-1] + np.arange(1, after + 1)[:, None] * (known[-1] - known[-2])
    return np.concatenate([head, known, tail])


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
    return smoothed(np.unwrap(filled), _TURN_ROUND_S)


def passes_first(
    own_m: Array, own_yaw_rad: Array, others_m: Array, others_yaw_rad: Array, step_s: float
) -> NDArray[np.bool_]:
    """(N, T) whether somebody is just where one will be within `_SOON_S`, on another course: who passes first.

    Args:
        own_m, own_yaw_rad: front bumper (T, 2) and heading (T,) every `step_s`.
        others_m, others_yaw_rad: places (N, T, 2) and headings (N, T), not a number while away.
        step_s: time between frames.
    """
    found = np.zeros(others_m.shape[:2], dtype=bool)
    # Between two frames the other one moves on: half of that counts as being there.
    step_m = np.linalg.norm(np.gradient(others_m, axis=1), axis=2)
    for later in range(1, round(_SOON_S / step_s) + 1):
        own, yaw = own_m[later:], own_yaw_rad[later:]
        there = slice(0, len(own))
        near = np.linalg.norm(others_m[:, there] - own, axis=2) < _IN_WAY_M + step_m[:, there] / 2
        turned = np.abs(np.angle(np.exp(1j * (others_yaw_rad[:, there] - yaw))))
        moves = step_m[:, there] > _MOVES_MPS * step_s
        found[:, there] |= near & moves & (turned > _CROSSING_RAD)
    return found


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
    """Drops tracks until no two bodies that are there overlap at any frame; the one named `protected` and larger
    bodies stay.

    A towed body goes with the towing one, whose pair is not held against them.
    """
    centers = np.stack([track.center_m[::stride] for track in tracks])
    yaws = np.stack([track.yaw_rad[::stride] for track in tracks])
    sizes = np.array([track.size_lwh_m[:2] for track in tracks]) + 0.1
    reach = np.linalg.norm(sizes, axis=1) / 2
    first, last = (np.array([getattr(track, name) for track in tracks]) for name in ("first", "last"))
    owner = [track.name.removesuffix("+towed") for track in tracks]
    pairs = set()
    for frame in range(centers.shape[1]):
        there = np.flatnonzero((first <= frame * stride) & (frame * stride <= last))
        at = centers[there, frame]
        near = np.linalg.norm(at[:, None] - at[None], axis=2) < reach[there, None] + reach[None, there]
        a, b = (there[k] for k in np.nonzero(np.triu(near, 1)))
        hit = boxes_overlap(centers[a, frame], yaws[a, frame], sizes[a], centers[b, frame], yaws[b, frame], sizes[b])
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


def without_apparitions(tracks: list[Track], viewer_m: Array, distance_m: float) -> list[Track]:
    """Drops tracks that begin or end within `distance_m` of the viewer (T, 2), together with what they tow.

    What is there from the first frame that counts to the last one neither begins nor ends.
    """
    margin = round(FILTER_MARGIN_S * RATE_HZ)
    begin, end = margin, len(viewer_m) - 1 - margin
    gone = set()
    for track in tracks:
        for frame, is_cut in ((track.first, track.first > begin), (track.last, track.last < end)):
            if is_cut and np.linalg.norm(track.center_m[frame] - viewer_m[frame]) < distance_m:
                gone.add(track.name.removesuffix("+towed"))
    return [track for track in tracks if track.name.removesuffix("+towed") not in gone]
