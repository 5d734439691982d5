"""What the ego does on a drive: driving commands, and labels of situations with the shares of time they take.

print(shares([simulate_traffic(0, seed, 20.0, folder) for seed in range(10)]))
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString

from fusionperc.simulation.traffic.drive import TIME_MARGIN_S, EgoState, TrafficDrive
from fusionperc.simulation.traffic.motion import passes_first
from fusionperc.simulation.traffic.network import Turn
from fusionperc.simulation.traffic.sizes import EGO_REAR_AXLE_TO_FRONT_M

Situation = Literal[
    "free", "following", "stopping", "stopped", "turning left", "turning right", "lane change", "yielding"
]
STEP_S = 0.5

Array = NDArray[np.float64]
#: nuScenes' usual command: where the ego will be after this time, and how far to the side.
_COMMAND_AFTER_S, _COMMAND_SIDE_M = 3.0, 2.0
#: A turn is announced this far ahead of its junction.
_COMMAND_AHEAD_M = 30.0
_STANDING_MPS = 0.3
#: Braking this hard and slower than this soon after is stopping.
_BRAKING_MPS2, _STOPPING_MPS, _STOPPING_WITHIN_S = -0.3, 1.0, 4.0
#: Change of heading over two seconds of driving that is a turn.
_TURN_RAD = 0.25
#: A leader is at most this time ahead, and this far even at walking pace.
_FOLLOWING_S, _FOLLOWING_M = 2.5, 12.0
_LANE_M = 1.6
_SLOW_MPS = 3.5
#: Whoever passes first within this time is given way to; lights are this far ahead at most.
_COMING_S, _AT_LIGHT_M = 2.0, 25.0
_SIGHT_M = 60.0
_IN_TRAFFIC = ("vehicle.moving", "vehicle.stopped", "cycle.with_rider", "pedestrian.moving")


def driving_command(drive: TrafficDrive, time_s: float, source: Literal["endpoint", "route"] = "endpoint") -> Turn:
    """Where the ego is told to go.

    Args:
        drive: the drive.
        time_s: in [0, duration].
        source: "endpoint" is nuScenes' usual command, from where the ego will be in three seconds (or at the drive's
            end): more than 2 m to its left or right. "route" is what a navigation system would say: the way its route
            takes at a junction that it is passing or will reach within 30 m.

    Returns:
        "left", "right" or "straight".
    """
    state = drive.ego_at(time_s)
    if source == "route":
        station, _ = drive.route.stations_of(np.array([[state.x_m, state.y_m]]), np.array([state.yaw_rad]))
        return drive.route.next_turn(float(station[0]), _COMMAND_AHEAD_M)
    later = drive.ego_at(min(time_s + _COMMAND_AFTER_S, drive.duration_s + TIME_MARGIN_S))
    dx, dy = later.x_m - state.x_m, later.y_m - state.y_m
    left = -np.sin(state.yaw_rad) * dx + np.cos(state.yaw_rad) * dy
    return "left" if left > _COMMAND_SIDE_M else "right" if left < -_COMMAND_SIDE_M else "straight"


def situations(drive: TrafficDrive) -> dict[Situation, NDArray[np.bool_]]:
    """Which situations the ego is in, every `STEP_S` from 0 to the drive's end; several may hold at once.

    Returns:
        (N,) for each situation. "free" is driving with none of the others.
    """
    times = np.arange(0.0, drive.duration_s + 1e-6, STEP_S)
    states = [drive.ego_at(float(time)) for time in times]
    speed = np.array([state.speed_mps for state in states])
    yaw = np.unwrap([state.yaw_rad for state in states])
    second = round(1.0 / STEP_S)
    turned = np.array([yaw[min(k + second, len(yaw) - 1)] - yaw[max(k - second, 0)] for k in range(len(yaw))])
    soon = np.array([speed[k : k + round(_STOPPING_WITHIN_S / STEP_S)].min() for k in range(len(speed))])
    braking = np.array([state.acceleration_mps2 for state in states]) < _BRAKING_MPS2
    drives = speed > _STANDING_MPS
    following, yielding = _encounters(drive, times, states)
    found: dict[Situation, NDArray[np.bool_]] = {
        "following": following & drives,
        "stopping": drives & braking & (soon < _STOPPING_MPS),
        "stopped": ~drives,
        "turning left": drives & (turned > _TURN_RAD),
        "turning right": drives & (turned < -_TURN_RAD),
        "lane change": _changes_lane(drive, states) & drives,
        "yielding": yielding,
    }
    return {"free": drives & ~np.any([*found.values()], axis=0), **found}


def shares(drives: Sequence[TrafficDrive]) -> dict[str, float]:
    """Shares of time, in [0, 1], of each situation, and of the commands of either source other than "straight"."""
    every = [situations(drive) for drive in drives]
    report = {name: float(np.concatenate([found[name] for found in every]).mean()) for name in get_args(Situation)}
    sources: tuple[Literal["endpoint", "route"], ...] = ("endpoint", "route")
    for source in sources:
        commands = [
            driving_command(drive, float(time), source)
            for drive in drives
            for time in np.arange(0.0, drive.duration_s + 1e-6, STEP_S)
        ]
        for turn in get_args(Turn):
            report[f"command {turn} ({source})"] = commands.count(turn) / len(commands)
    return report


def _changes_lane(drive: TrafficDrive, states: list[EgoState]) -> NDArray[np.bool_]:
    """(N,) whether the ego is within a second of passing from a lane to another one of the same street."""
    lanes = [
        (edge.name, index, LineString(lane.shape_m))
        for edge in drive.town.edges
        for index, lane in enumerate(edge.lanes)
        if lane.kind == "driving"
    ]
    places = shapely.points([(state.x_m, state.y_m) for state in states])
    distance = shapely.distance(np.array([line for *_, line in lanes])[:, None], places[None])
    nearest = [
        lanes[k][:2] if d < _LANE_M + 0.2 else None for k, d in zip(distance.argmin(0), distance.min(0), strict=True)
    ]
    found = np.zeros(len(states), dtype=bool)
    second = round(1.0 / STEP_S)
    for k, (before, after) in enumerate(pairwise(nearest), start=1):
        if before is not None and after is not None and before[0] == after[0] and before[1] != after[1]:
            found[max(k - second, 0) : k + second] = True
    return found


class _Traffic:
    """Those in traffic around the ego, every `STEP_S`; arrays are (N, T, ...), not a number while out of sight."""

    def __init__(self, drive: TrafficDrive, times_s: Array) -> None:
        seen = [
            (k, actor)
            for k, time in enumerate(times_s)
            for actor in drive.actors_at(float(time), _SIGHT_M)
            if actor.attribute in _IN_TRAFFIC
        ]
        row = {instance: k for k, instance in enumerate(sorted({actor.instance for _, actor in seen}))}
        self.place_m = np.full((len(row), len(times_s), 2), np.nan)
        self.yaw_rad = np.full((len(row), len(times_s)), np.nan)
        self.length_m = np.zeros((len(row), 1))
        self.walks = np.zeros((len(row), 1), dtype=bool)
        for k, actor in seen:
            index = row[actor.instance]
            self.place_m[index, k] = actor.center_m[:2]
            self.yaw_rad[index, k] = actor.yaw_rad
            self.length_m[index] = actor.size_lwh_m[0]
            self.walks[index] = actor.attribute.startswith("pedestrian")


def _encounters(
    drive: TrafficDrive, times_s: Array, states: list[EgoState]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) whether the ego is behind someone, and (N,) whether it gives way to someone who passes first."""
    traffic = _Traffic(drive, times_s)
    rear_m = np.array([(state.x_m, state.y_m) for state in states])
    yaw = np.array([state.yaw_rad for state in states])
    speed = np.array([state.speed_mps for state in states])
    bumper_m = rear_m + EGO_REAR_AXLE_TO_FRONT_M * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    station, _ = drive.route.stations_of(bumper_m, yaw)

    seen = np.isfinite(traffic.yaw_rad)
    others, left = np.full((2, *seen.shape), np.nan)
    others[seen], left[seen] = drive.route.stations_of(traffic.place_m[seen], traffic.yaw_rad[seen])
    gap = others - traffic.length_m / 2 - station
    in_lane = ~traffic.walks & (np.abs(left) < _LANE_M) & (gap > 0)
    following = (in_lane & (gap < np.maximum(_FOLLOWING_M, _FOLLOWING_S * speed))).any(axis=0)

    first = passes_first(bumper_m, yaw, traffic.place_m, traffic.yaw_rad, STEP_S).any(axis=0)
    # Others are given way to while they come, too, and standing at a red light is no courtesy.
    soon = np.array([first[k : k + round(_COMING_S / STEP_S) + 1].any() for k in range(len(first))])
    slow = (speed < _SLOW_MPS) | (np.array([state.acceleration_mps2 for state in states]) < _BRAKING_MPS2)
    lights = np.array([junction.start_m for junction in drive.route.junctions if junction.is_signalled])
    to_light = lights[None] - station[:, None]
    at_light = ((to_light > -2.0) & (to_light < _AT_LIGHT_M)).any(axis=1)
    return following, soon & slow & ~at_light
