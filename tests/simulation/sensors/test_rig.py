"""The sensor rig: rotations agree with their quaternions, and vehicles differ as real ones do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes.eval.common.utils import Quaternion

from fusionperc.simulation.sensors.rig import RIG, draw_rig, world_T_ego


def test_quaternions_say_what_the_matrices_do() -> None:
    for rig in (RIG, draw_rig(np.random.default_rng(3))):
        for mount in rig.values():
            matrix = mount.ego_R_sensor
            np.testing.assert_allclose(Quaternion(mount.quaternion_wxyz).rotation_matrix, matrix, atol=1e-12)
            assert np.linalg.det(matrix) == pytest.approx(1.0)


def test_a_camera_looks_along_its_z_axis_and_a_tilted_lidar_leans_forward() -> None:
    np.testing.assert_allclose(
        RIG["CAM_FRONT_LEFT"].ego_R_sensor[:, 2], [np.cos(np.radians(55)), np.sin(np.radians(55)), 0]
    )
    np.testing.assert_allclose(RIG["CAM_BACK"].ego_R_sensor[:, 1], [0, 0, -1], atol=1e-12)
    # The LiDAR's y axis points ahead; leaning forward it points a little down.
    ahead = RIG["LIDAR_TOP"].ego_R_sensor[:, 1]
    np.testing.assert_allclose(ahead, [np.cos(np.radians(2)), 0, -np.sin(np.radians(2))], atol=1e-12)


def test_pitch_lowers_the_nose_and_roll_the_right_side() -> None:
    nose = world_T_ego(0.0, 0.0, 0.5, pitch_rad=0.1) @ [1, 0, 0, 1]
    assert nose[2] == pytest.approx(-np.sin(0.1))
    right = world_T_ego(0.0, 0.0, 0.5, roll_rad=0.1) @ [0, -1, 0, 1]
    assert right[2] == pytest.approx(-np.sin(0.1))
    np.testing.assert_allclose(world_T_ego(1.0, 2.0, 0.3, z_m=4.0)[:3, 3], [1, 2, 4])


def test_real_calibrations_are_among_the_drawn_ones(real_nuscenes: Path) -> None:
    """Every sensor of the real vehicles lies within what a hundred drawn vehicles span, a little widened."""
    tables = {
        name: json.loads((real_nuscenes / "v1.0-mini" / f"{name}.json").read_bytes())
        for name in ("sensor", "calibrated_sensor")
    }
    channels = {row["token"]: row["channel"] for row in tables["sensor"]}
    rigs = [draw_rig(np.random.default_rng(seed)) for seed in range(100)]
    for row in tables["calibrated_sensor"]:
        mounts = [rig[channels[row["sensor_token"]]] for rig in rigs]
        places = np.array([mount.position_m for mount in mounts])
        assert (np.array(row["translation"]) > places.min(0) - 0.03).all()
        assert (np.array(row["translation"]) < places.max(0) + 0.03).all()
        real = Quaternion(row["rotation"])
        nearest_deg = min(abs(np.degrees((real.inverse * Quaternion(mount.quaternion_wxyz)).angle)) for mount in mounts)
        assert nearest_deg < 1.6
        if row["camera_intrinsic"]:
            focal = [mount.focal_px for mount in mounts]
            assert min(focal) * 0.985 < row["camera_intrinsic"][0][0] < max(focal) * 1.015
