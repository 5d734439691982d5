"""CAN bus messages: signs, units and rates, and the official `NuScenesCanBus`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from fusionperc.simulation.traffic.drive import EgoState
from fusionperc.simulation.writing.can_bus import STEERING_RATIO, can_bus_messages, statistics

mpl.use("Agg")
from nuscenes.can_bus.can_bus_api import NuScenesCanBus

SPEED_MPS, YAW_RATE_RADPS = 8.0, 0.25
MESSAGES = ("pose", "ms_imu", "steeranglefeedback", "vehicle_monitor")


def circling(count: int = 401, pitch_rad: float = 0.0) -> tuple[np.ndarray, list[EgoState]]:
    """Four seconds of a left-hand circle at a constant speed."""
    times_us = 1_000_000 + 10_000 * np.arange(count)
    states = []
    for time_s in (times_us - times_us[0]) * 1e-6:
        yaw = 0.3 + YAW_RATE_RADPS * time_s
        radius = SPEED_MPS / YAW_RATE_RADPS
        states.append(
            EgoState(
                x_m=radius * np.sin(yaw),
                y_m=-radius * np.cos(yaw),
                z_m=0.0,
                yaw_rad=yaw,
                pitch_rad=pitch_rad,
                roll_rad=0.0,
                speed_mps=SPEED_MPS,
                acceleration_mps2=0.0,
                yaw_rate_radps=YAW_RATE_RADPS,
                steering_rad=0.08,
            )
        )
    return times_us, states


def messages(times_us: np.ndarray, states: list[EgoState]) -> dict[str, list[dict]]:
    return can_bus_messages(times_us, states, np.random.default_rng(0))


def test_a_left_turn_has_nuscenes_signs() -> None:
    made = messages(*circling())
    pose, monitor = made["pose"], made["vehicle_monitor"]
    np.testing.assert_allclose(
        np.mean([m["accel"] for m in pose], axis=0), [0, SPEED_MPS * YAW_RATE_RADPS, 9.81], atol=0.02
    )
    np.testing.assert_allclose(np.mean([m["rotation_rate"] for m in pose], axis=0), [0, 0, YAW_RATE_RADPS], atol=2e-3)
    assert {tuple(m["vel"]) for m in pose} == {(SPEED_MPS, 0.0, 0.0)}
    assert made["steeranglefeedback"][0]["value"] == pytest.approx(0.08 * STEERING_RATIO), (
        "the steering wheel, left is +"
    )
    first = monitor[0]
    assert first["steering"] == pytest.approx(np.degrees(0.08 * STEERING_RATIO), abs=0.05)
    assert first["vehicle_speed"] == pytest.approx(28.8)
    assert first["yaw_rate"] == pytest.approx(np.degrees(YAW_RATE_RADPS), abs=0.05)
    assert first["rear_left_rpm"] < first["rear_right_rpm"]
    assert (first["left_signal"], first["right_signal"]) == (1, 0)
    assert first["throttle"] > 0 and first["brake"] == 0 and first["brake_switch"] == 1


def test_an_accelerometer_feels_the_slope() -> None:
    times_us, states = circling(pitch_rad=0.1)
    still = [replace(state, speed_mps=0.0, yaw_rate_radps=0.0, yaw_rad=0.3) for state in states]
    made = messages(times_us, still)
    # Downhill: what holds the car up pushes it backwards.
    force = np.mean([m["linear_accel"] for m in made["ms_imu"]], axis=0)
    np.testing.assert_allclose(force, [-9.81 * np.sin(0.1), 0, 9.81 * np.cos(0.1)], atol=2e-3)
    assert made["vehicle_monitor"][0]["brake_switch"] == 3


def test_braking_and_speeding_up_use_the_pedals() -> None:
    times_us, states = circling()
    hard = messages(times_us, [replace(state, acceleration_mps2=-3.0) for state in states])["vehicle_monitor"][0]
    fast = messages(times_us, [replace(state, acceleration_mps2=2.0) for state in states])["vehicle_monitor"][0]
    assert hard["brake"] > 10 and hard["throttle"] == 0
    assert fast["brake"] == 0 and fast["throttle"] > 300


def test_rates_and_noise() -> None:
    times_us, states = circling()
    made = messages(times_us, states)
    for name, period_us in zip(MESSAGES, (20_000, 10_000, 10_000, 500_000), strict=True):
        assert set(np.diff([m["utime"] for m in made[name]])) == {period_us}, name
    assert messages(times_us, states) == made
    spread = np.std([m["accel"] for m in made["pose"]], axis=0)
    assert (spread > 0.005).all() and (spread < 0.08).all()


def test_statistics_are_of_values_and_differences() -> None:
    rows = [{"utime": 500_000 * k, "value": float(k * k)} for k in range(5)]
    found = statistics(rows)
    assert found["message_count"] == 5
    assert found["message_freq"] == pytest.approx(2.0)
    assert found["timespan"] == pytest.approx(2.0)
    stats = found["var_stats"]["value"]
    assert (stats["min"], stats["max"], stats["mean"]) == (0.0, 16.0, 6.0)
    assert (stats["diff_min"], stats["diff_max"], stats["diff_mean"]) == (1.0, 7.0, 4.0)


def test_messages_are_as_the_real_ones(tiny_drives: Path, real_nuscenes: Path) -> None:
    real = json.loads((real_nuscenes / "can_bus" / "scene-0061_pose.json").read_text())
    ours = json.loads((tiny_drives / "can_bus" / "scene-0061_pose.json").read_text())
    assert set(ours[0]) == set(real[0])
    assert all(len(ours[0][key]) == len(real[0][key]) for key in real[0] if key != "utime")
    assert min(row["orientation"][0] for row in ours) >= 0
    assert np.mean([row["accel"][2] for row in ours]) == pytest.approx(
        np.mean([row["accel"][2] for row in real]), abs=0.2
    )


def test_pose_messages_agree_with_each_other_and_the_samples(tiny_drives: Path) -> None:
    ours = json.loads((tiny_drives / "can_bus" / "scene-0061_pose.json").read_text())
    rows = json.loads((tiny_drives / ".drives" / "scene-0061.json").read_text())["tables"]
    times = np.array([message["utime"] for message in ours])
    assert times[0] <= rows["sample"][0]["timestamp"]
    assert times[-1] >= rows["sample"][-1]["timestamp"] - 20_000
    places = np.array([message["pos"] for message in ours])
    driven = np.linalg.norm(np.diff(places, axis=0), axis=1).sum()
    spoken = np.mean([message["vel"][0] for message in ours]) * (times[-1] - times[0]) * 1e-6
    assert driven == pytest.approx(spoken, rel=0.02, abs=0.05)
    poses = {row["timestamp"]: row for row in rows["ego_pose"]}
    same = [(message, poses[message["utime"]]) for message in ours if message["utime"] in poses]
    assert len(same) > 10
    for message, pose in same:
        np.testing.assert_allclose(message["pos"], pose["translation"], atol=1e-6)
        assert abs(np.dot(message["orientation"], pose["rotation"])) == pytest.approx(1, abs=1e-6)


def test_the_official_reader_reads_and_plots(tiny_drives: Path, tmp_path: Path) -> None:
    can_bus = NuScenesCanBus(dataroot=str(tiny_drives))
    for name in ("scene-0061", "scene-0553", "scene-0103"):
        route, pose = can_bus.get_pose_and_route(name, print_warnings=False)
        assert route.ndim == 2 and route.shape[1] == 2
        assert np.linalg.norm(route[:, None] - pose[None, ::10], axis=2).min(axis=0).max() < 5.0
        meta = can_bus.get_messages(name, "meta")
        assert set(meta) == set(MESSAGES)
        for message in MESSAGES:
            assert meta[message]["message_count"] == len(can_bus.get_messages(name, message))
    assert can_bus.list_misaligned_routes() == []
    can_bus.plot_baseline_route("scene-0061", out_path=str(tmp_path / "route.png"))
    can_bus.plot_message_data("scene-0061", "steeranglefeedback", "value", out_path=str(tmp_path / "steering.png"))
    can_bus.plot_message_data("scene-0061", "pose", "accel", dimension=1, out_path=str(tmp_path / "accel.png"))
    can_bus.print_all_message_stats("scene-0061")
    mpl.pyplot.close("all")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("route.png", "steering.png", "accel.png"))


def test_every_key_frame_has_its_commands(tiny_drives: Path) -> None:
    commands = json.loads((tiny_drives / "can_bus" / "scene-0061_command.json").read_text())
    samples = json.loads((tiny_drives / ".drives" / "scene-0061.json").read_text())["tables"]["sample"]
    assert [row["sample_token"] for row in commands] == [row["token"] for row in samples]
    assert [row["utime"] for row in commands] == [row["timestamp"] for row in samples]
    assert {row[kind] for row in commands for kind in ("route", "endpoint")} <= {"left", "right", "straight"}
