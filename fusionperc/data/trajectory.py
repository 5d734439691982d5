"""The ego's own recorded trajectory and the driving command."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fusionperc.geometry import rotation_from_quaternion, wrap_angle, yaw_from_rotation
from fusionperc.types import COMMANDS

#: Beyond the first and the last recorded pose a trajectory is continued by at most this: key frames are 0.45 to 0.55 s
#: apart, so the sixth next one may come a little before 3 s.
_SLACK_S = 0.1
#: Between poses further apart than this nothing is interpolated.
_LARGEST_GAP_S = 1.5
#: Before and after now, to tell the present acceleration.
HALF_S = 0.5
_COMMAND_TIME_S = 3.0
_COMMAND_OFFSET_M = 2.0


def ego_trajectory(time_s: Tensor, pose: Tensor, ego_T_global: Tensor, at_s: tuple[float, ...]) -> Tensor:
    """Ego x, y, yaw at given times, linear between recorded poses.

    Args:
        time_s: (R,) increasing times of the poses relative to the key frame.
        pose: (R, 7) global_T_ego as x, y, z, quaternion w, x, y, z.
        ego_T_global: (4, 4) of the key frame.
        at_s: wanted times.

    Returns:
        (len(at_s), 3) in the key frame's ego frame, metres and radians; NaN where not recorded.
    """
    wanted = torch.tensor(at_s, dtype=torch.float64)
    if len(time_s) < 2:
        return wanted.new_full((len(at_s), 3), float("nan"))
    after = torch.searchsorted(time_s, wanted).clamp(1, len(time_s) - 1)
    before = after - 1
    gap = time_s[after] - time_s[before]
    share = ((wanted - time_s[before]) / gap)[:, None]
    low, high = (planar_poses(pose[place], ego_T_global) for place in (before, after))
    position = torch.lerp(low[:, :2], high[:, :2], share)
    yaw = low[:, 2:] + share * wrap_angle(high[:, 2:] - low[:, 2:])
    known = (wanted >= time_s[0] - _SLACK_S) & (wanted <= time_s[-1] + _SLACK_S) & (gap <= _LARGEST_GAP_S) & (gap > 0)
    values = torch.cat([position, wrap_angle(yaw)], dim=1)
    return torch.where(known[:, None], values, torch.full_like(values, float("nan")))


def planar_poses(pose: Tensor, ego_T_global: Tensor) -> Tensor:
    """(..., 3) x, y, yaw in the ego frame of global poses (..., 7)."""
    rotation = ego_T_global[:3, :3] @ rotation_from_quaternion(pose[..., 3:])
    position = pose[..., :3] @ ego_T_global[:3, :3].T + ego_T_global[:3, 3]
    return torch.cat([position[..., :2], yaw_from_rotation(rotation)[..., None]], dim=-1)


def acceleration_over_ground(before_m: Float[Tensor, "batch 3"], after_m: Float[Tensor, "batch 3"]) -> Tensor:
    """(B,) m/s^2 along the vehicle's way, from x, y, yaw of `HALF_S` ago and from now in the vehicle's own frame.

    An accelerometer, and so the CAN bus, feels slopes, too: a vehicle that stands uphill is told to accelerate.
    """
    ways_m = []
    for pose in (before_m, after_m):
        x, y, yaw = pose.unbind(-1)
        # Along an arc: its chord is shorter and turned by half the angle. What lies behind is negative.
        ways_m.append((x * (yaw / 2).cos() + y * (yaw / 2).sin()) / torch.sinc(yaw / 2 / torch.pi))
    return (ways_m[0] + ways_m[1]) / HALF_S**2


def driving_command(future_m: Tensor, times_s: tuple[float, ...]) -> int:
    """Index into `COMMANDS`: left or right if the ego is more than 2 m aside at 3 s, else straight; -1 if unknown.

    Source: the protocol of UniAD (arXiv 2212.10156) and VAD (arXiv 2303.12077).
    """
    lateral_m = float(future_m[times_s.index(_COMMAND_TIME_S), 1])
    if lateral_m != lateral_m:
        return -1
    if abs(lateral_m) <= _COMMAND_OFFSET_M:
        return COMMANDS.index("straight")
    return COMMANDS.index("left" if lateral_m > 0 else "right")


def object_tracks(
    time_s: Tensor, pose_m: Tensor, at_s: tuple[float, ...]
) -> tuple[Float[Tensor, "objects times 3"], Int[Tensor, " times"]]:
    """x, y, yaw of annotated objects at given times, linear between key frames.

    Args:
        time_s: (F,) increasing times of the key frames.
        pose_m: (A, F, 3) x, y, yaw at these, NaN where an object is not annotated.
        at_s: wanted times.

    Returns:
        (A, T, 3), NaN where an object is not annotated on both sides of a time (nor at a key frame within 0.1 s of it),
        and (T,) the key frame nearest to each time.
    """
    wanted = torch.tensor(at_s, dtype=torch.float64)
    distance = (time_s[None] - wanted[:, None]).abs()
    nearest = distance.argmin(dim=1)
    is_near = distance.amin(dim=1) <= _SLACK_S
    unknown = pose_m.new_full((pose_m.shape[0], len(at_s), 3), float("nan"))
    at_key_frame = torch.where(is_near[None, :, None], pose_m[:, nearest], unknown)
    if len(time_s) < 2:
        return at_key_frame, nearest
    after = torch.searchsorted(time_s, wanted).clamp(1, len(time_s) - 1)
    before = after - 1
    gap = time_s[after] - time_s[before]
    share = ((wanted - time_s[before]) / gap)[None, :, None]
    low, high = pose_m[:, before], pose_m[:, after]
    turn = wrap_angle(high[..., 2:] - low[..., 2:])
    between = torch.cat([torch.lerp(low[..., :2], high[..., :2], share), wrap_angle(low[..., 2:] + share * turn)], -1)
    known = (wanted >= time_s[0] - _SLACK_S) & (wanted <= time_s[-1] + _SLACK_S) & (gap <= _LARGEST_GAP_S)
    between = torch.where(known[None, :, None], between, unknown)
    return torch.where(torch.isfinite(between), between, at_key_frame), nearest
