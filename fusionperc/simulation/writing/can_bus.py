"""The messages of nuScenes' CAN bus expansion: what the vehicle measured of itself, and the route it followed.

Of nuScenes' messages `pose`, `ms_imu`, `steeranglefeedback`, `vehicle_monitor`, `route` and `meta` are written; the two
that repeat them in the raw units of one car model are not. The IMU's frame is the ego frame. Beside them lies
`<scene>_command.json`, which nuScenes does not have: the driving commands of each key frame.

Source: nuscenes-devkit 1.2.0, `can_bus/README.md` (keys, units, signs, rates).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fusionperc.simulation.sensors.rig import LIDAR_PERIOD_US, SWEEPS_PER_KEY_FRAME
from fusionperc.simulation.traffic.drive import EgoState, TrafficDrive
from fusionperc.simulation.traffic.situations import driving_command
from fusionperc.simulation.writing.writer import DriveWriter, json_bytes

Message = dict[str, Any]
Array = NDArray[np.float64]

#: Turns of the steering wheel for one of the front wheels, and the circumference and distance of the rear wheels.
STEERING_RATIO = 14.5
_TYRE_M, _TRACK_M = 1.95, 1.51
_GRAVITY_MPS2 = 9.81
#: Standard deviations of a measured acceleration (m/s^2) and rotation rate (rad/s) about x, y, z at 10 m/s, as in the
#: pose messages of nuScenes' mini drives; at rest they are a tenth of that.
_ACCELERATION_NOISE, _ROTATION_NOISE = np.array([0.02, 0.02, 0.05]), np.array([0.006, 0.006, 0.002])
_FASTEST_MESSAGES_US = 10_000
_EVERY = {"ms_imu": 1, "steeranglefeedback": 1, "pose": 2, "vehicle_monitor": 50}
#: A turn is signalled from this long before it and until it is over.
_SIGNAL_AHEAD_S, _SIGNAL_BEHIND_S, _SIGNAL_TURN_RAD = 3.0, 0.5, 0.45


def write_can_bus(writer: DriveWriter, drive: TrafficDrive, last_us: int, rng: np.random.Generator) -> None:
    """Writes a drive's `can_bus/<scene>_<message>.json`.

    Args:
        writer: of the drive.
        drive: where the ego was.
        last_us: time of the last key frame, relative to the first.
        rng: random numbers of the sensors.

    Raises:
        OSError: the folder cannot be written.
    """
    times_us = np.arange(-LIDAR_PERIOD_US * SWEEPS_PER_KEY_FRAME, last_us + 1, _FASTEST_MESSAGES_US)
    states = [drive.ego_at(time * 1e-6) for time in times_us.tolist()]
    messages = can_bus_messages(times_us + writer.name.start_us, states, rng)
    contents: dict[str, object] = {**messages, "meta": {name: statistics(rows) for name, rows in messages.items()}}
    contents["route"] = drive.route_m.round(3).tolist()
    contents["command"] = _commands(writer, drive)
    for name, content in contents.items():
        writer.write(f"can_bus/{writer.name.name}_{name}.json", json_bytes(content))


def can_bus_messages(
    times_us: NDArray[np.int64], states: list[EgoState], rng: np.random.Generator
) -> dict[str, list[Message]]:
    """Messages by type, each at its own rate.

    Args:
        times_us: (T,) timestamps, 10 ms apart.
        states: the ego at these times.
        rng: random numbers of the sensors.
    """
    speed = np.array([ego.speed_mps for ego in states])
    shaking = (0.1 + 0.9 * np.clip(speed / 10, 0, 2))[:, None]
    force = _specific_force(states) + shaking * _ACCELERATION_NOISE * rng.standard_normal((len(states), 3))
    turning = _rotation_rate(states) + shaking * _ROTATION_NOISE * rng.standard_normal((len(states), 3))
    wheel = np.array([ego.steering_rad for ego in states]) * STEERING_RATIO
    attitude = _attitude(states)
    columns: dict[str, dict[str, NDArray[Any]]] = {
        "ms_imu": {"linear_accel": force, "q": attitude, "rotation_rate": turning},
        "pose": {
            "accel": force,
            "orientation": attitude,
            "pos": np.array([[ego.x_m, ego.y_m, ego.z_m] for ego in states]),
            "rotation_rate": turning,
            "vel": np.stack([speed, np.zeros_like(speed), np.zeros_like(speed)], axis=1),
        },
        "steeranglefeedback": {"value": wheel},
        "vehicle_monitor": _vehicle_monitor(states, speed, wheel),
    }
    messages = {}
    for name, step in _EVERY.items():
        values = {key: column[::step].round(9).tolist() for key, column in columns[name].items()}
        values["utime"] = times_us[::step].tolist()
        keys = sorted(values)
        messages[name] = [dict(zip(keys, row, strict=True)) for row in zip(*(values[key] for key in keys), strict=True)]
    return messages


def _commands(writer: DriveWriter, drive: TrafficDrive) -> list[Message]:
    """What the ego is told at each key frame: by its route, and by where it will be in three seconds."""
    return [
        {
            "utime": time_us,
            "sample_token": writer.sample_token(time_us),
            "route": driving_command(drive, (time_us - writer.name.start_us) * 1e-6, "route"),
            "endpoint": driving_command(drive, (time_us - writer.name.start_us) * 1e-6, "endpoint"),
        }
        for time_us in writer.key_times_us
    ]


def statistics(messages: list[Message]) -> Message:
    """What `meta` says of one type of message."""
    times_s = np.array([message["utime"] for message in messages]) * 1e-6
    span = float(times_s[-1] - times_s[0])
    stats = {}
    for key in sorted(messages[0].keys() - {"utime"}):
        values = np.array([message[key] for message in messages], dtype=np.float64)
        stats[key] = {**_spread("", values), **_spread("diff_", np.diff(values, axis=0))}
    frequency = (len(messages) - 1) / span if span > 0 else 0.0
    return {
        "message_count": len(messages),
        "message_freq": round(frequency, 6),
        "timespan": round(span, 6),
        "var_stats": stats,
    }


def _spread(prefix: str, values: Array) -> dict[str, Any]:
    if not len(values):
        values = np.zeros((1, *values.shape[1:]))
    measures = {"max": values.max(0), "mean": values.mean(0), "min": values.min(0), "std": values.std(0)}
    return {prefix + name: np.round(value, 9).tolist() for name, value in measures.items()}


def _attitude(states: list[EgoState]) -> Array:
    """(T, 4) quaternions w, x, y, z with positive w, as in nuScenes."""
    turned = Rotation.from_matrix(np.stack([ego.world_T_ego[:3, :3] for ego in states]))
    xyzw: Array = turned.as_quat(canonical=True)
    return xyzw[:, [3, 0, 1, 2]]


def _specific_force(states: list[EgoState]) -> Array:
    """(T, 3) what an accelerometer feels in the ego frame: the acceleration and, upwards, gravity."""
    forces = []
    for ego in states:
        cos, sin = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
        along, left = ego.acceleration_mps2, ego.speed_mps * ego.yaw_rate_radps
        world = np.array([along * cos - left * sin, along * sin + left * cos, _GRAVITY_MPS2])
        forces.append(ego.world_T_ego[:3, :3].T @ world)
    return np.array(forces)


def _rotation_rate(states: list[EgoState]) -> Array:
    """(T, 3) angular velocity in the ego frame, from one state to the next."""
    turned = Rotation.from_matrix(np.stack([ego.world_T_ego[:3, :3] for ego in states]))
    if len(states) < 2:
        return np.zeros((len(states), 3))
    rates = (turned[:-1].inv() * turned[1:]).as_rotvec() / (_FASTEST_MESSAGES_US * 1e-6)
    return np.concatenate([rates, rates[-1:]])


def _vehicle_monitor(states: list[EgoState], speed_mps: Array, wheel_rad: Array) -> dict[str, NDArray[Any]]:
    """The vehicle's own instruments, rounded as in nuScenes; pedals are those that a small electric car would need."""
    count = len(states)
    acceleration = np.array([ego.acceleration_mps2 for ego in states])
    yaw_rate = np.array([ego.yaw_rate_radps for ego in states])
    left, right = _signals(np.unwrap([ego.yaw_rad for ego in states]))
    rpm = [60 / _TYRE_M * (speed_mps + side * yaw_rate * _TRACK_M / 2) for side in (-1, 1)]
    drag = 0.15 + 0.002 * speed_mps**2
    throttle = np.where(speed_mps > 0.2, np.clip(180 * (acceleration + drag), 0, 1000), 0.0)
    # Lifting the foot brakes an electric car by itself up to here; at rest the brake holds it.
    brake = np.where(speed_mps > 0.2, np.clip(12 * (-acceleration - 0.8), 0, 126), 8.0)
    wheel_deg = np.degrees(wheel_rad)
    wheel_speed = np.gradient(wheel_deg) / (_FASTEST_MESSAGES_US * 1e-6) if count > 1 else np.zeros(count)
    driven_km = np.cumsum(speed_mps) * _FASTEST_MESSAGES_US * 1e-9
    return {
        "available_distance": (110 - driven_km).astype(np.int64),
        "battery_level": (80 - driven_km / 1.5).astype(np.int64),
        "brake": brake.astype(np.int64),
        "brake_switch": np.where(brake >= 1, 3, 1),
        "gear_position": np.full(count, 7),
        "left_signal": left.astype(np.int64),
        "rear_left_rpm": np.maximum(rpm[0], 0).round(2),
        "rear_right_rpm": np.maximum(rpm[1], 0).round(2),
        "right_signal": right.astype(np.int64),
        "steering": wheel_deg.round(1),
        "steering_speed": wheel_speed.round(),
        "throttle": throttle.astype(np.int64),
        "vehicle_speed": (3.6 * speed_mps).round(2),
        "yaw_rate": np.degrees(yaw_rate).round(1),
    }


def _signals(yaw_rad: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the left and the right indicator are on, (T,) each: the heading changes soon."""
    last = len(yaw_rad) - 1
    ahead, behind = (round(span * 1e6 / _FASTEST_MESSAGES_US) for span in (_SIGNAL_AHEAD_S, _SIGNAL_BEHIND_S))
    now = np.arange(last + 1)
    turn = yaw_rad[np.minimum(now + ahead, last)] - yaw_rad[np.maximum(now - behind, 0)]
    return turn > _SIGNAL_TURN_RAD, turn < -_SIGNAL_TURN_RAD
