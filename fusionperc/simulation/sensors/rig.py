"""The sensor rig of the simulated ego vehicle: where each sensor sits, where it looks, when it fires.

`RIG` has typical magnitudes of a nuScenes vehicle, rounded; `draw_rig` varies them as real vehicles and their
calibrations differ from each other, so that no drive has the same. Transforms are float64 (4, 4) numpy arrays
called ``dst_T_src``. The ego frame is x forward, y left, z up with its origin on the ground under the rear axle.

Source: Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020 (sensor layout and rates).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fusionperc.types import CAMERAS, LIDAR, RADARS

Modality = Literal["camera", "lidar", "radar"]

#: Size of the pictures the intrinsics below belong to.
FULL_WIDTH_PX, FULL_HEIGHT_PX = 1600, 900
LIDAR_PERIOD_US = 50_000
RADAR_PERIOD_US = 77_000
#: Every tenth LiDAR sweep is a key frame.
SWEEPS_PER_KEY_FRAME = 10

_FRONT_FOCAL_PX, _BACK_FOCAL_PX = 1266.0, 809.0
#: The LiDAR's own spin axis leans forward by about this much on nuScenes' vehicles.
_LIDAR_TILT_RAD = math.radians(-2.0)


@dataclass(frozen=True)
class Mount:
    """One sensor on the vehicle.

    Attributes:
        channel: nuScenes channel name.
        modality: what kind of sensor it is.
        position_m: in the ego frame.
        yaw_rad: where it looks (a camera's optical axis, a radar's and the LiDAR's x axis), from ego +x.
        focal_px: of the full-size picture; 0 for the others.
        tilt_rad: turns about the sensor's own x, y and z axes, in this order, on top of where it looks.
        center_px: principal point of the full-size picture.
        delay_us: a camera's shot relative to the LiDAR's stamp; a radar's first scan relative to the grid of its scans.
    """

    channel: str
    modality: Modality
    position_m: tuple[float, float, float]
    yaw_rad: float
    focal_px: float = 0.0
    delay_us: int = 0
    tilt_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    center_px: tuple[float, float] = (816.0, 480.0)

    @property
    def ego_R_sensor(self) -> NDArray[np.float64]:
        """Rotation (3, 3): a camera is x right, y down, z forward; others x forward, y left, z up."""
        turned = Rotation.from_euler("z", self.yaw_rad)
        if self.modality == "camera":
            turned *= Rotation.from_matrix([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        matrix: NDArray[np.float64] = (turned * Rotation.from_euler("XYZ", self.tilt_rad)).as_matrix()
        return matrix

    @property
    def ego_T_sensor(self) -> NDArray[np.float64]:
        matrix = np.eye(4)
        matrix[:3, :3] = self.ego_R_sensor
        matrix[:3, 3] = self.position_m
        return matrix

    @property
    def quaternion_wxyz(self) -> tuple[float, float, float, float]:
        """Rotation of `ego_R_sensor` in nuScenes' order, positive w."""
        x, y, z, w = Rotation.from_matrix(self.ego_R_sensor).as_quat(canonical=True).tolist()
        return (w, x, y, z)

    def intrinsics(self, width_px: int, height_px: int) -> NDArray[np.float64]:
        """Pinhole matrix (3, 3) of this camera's picture written in another size."""
        scale_x, scale_y = width_px / FULL_WIDTH_PX, height_px / FULL_HEIGHT_PX
        return np.array(
            [
                [self.focal_px * scale_x, 0.0, self.center_px[0] * scale_x],
                [0.0, self.focal_px * scale_y, self.center_px[1] * scale_y],
                [0.0, 0.0, 1.0],
            ]
        )


def picture_size_px(image_scale: float) -> tuple[int, int]:
    """Width and height of a picture at a scale of the full size.

    Raises:
        ValueError: the scale is not in (0, 1].
    """
    if not 0.02 <= image_scale <= 1:
        raise ValueError(
            f"image scale {image_scale} must be between 0.02 and 1 (1 is {FULL_WIDTH_PX}x{FULL_HEIGHT_PX})"
        )
    return round(FULL_WIDTH_PX * image_scale), round(FULL_HEIGHT_PX * image_scale)


#: The mounts of one vehicle by channel.
Rig = dict[str, Mount]


def world_T_ego(
    x_m: float, y_m: float, yaw_rad: float, *, z_m: float = 0.0, pitch_rad: float = 0.0, roll_rad: float = 0.0
) -> NDArray[np.float64]:
    """Pose (4, 4) of the ego vehicle: turned by yaw, then pitch (positive: nose down), then roll (positive: to the
    right), each about the axis the turns before left it."""
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(a), math.sin(a)) for a in (yaw_rad, pitch_rad, roll_rad))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, x_m],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, y_m],
            [-sp, cp * sr, cp * cr, z_m],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _rig() -> Rig:
    # The LiDAR turns clockwise from the left; each camera fires as it sweeps past (nuScenes paper, section 3).
    cameras = {
        "CAM_FRONT": ((1.70, 0.0, 1.51), 0.0, _FRONT_FOCAL_PX, -35_000),
        "CAM_FRONT_RIGHT": ((1.55, -0.50, 1.50), -55.0, _FRONT_FOCAL_PX, -27_000),
        "CAM_BACK_RIGHT": ((1.02, -0.48, 1.56), -110.0, _FRONT_FOCAL_PX, -19_500),
        "CAM_BACK": ((0.03, 0.0, 1.57), 180.0, _BACK_FOCAL_PX, -10_000),
        "CAM_BACK_LEFT": ((1.03, 0.48, 1.56), 110.0, _FRONT_FOCAL_PX, -500),
        "CAM_FRONT_LEFT": ((1.52, 0.50, 1.51), 55.0, _FRONT_FOCAL_PX, -43_000),
    }
    radars = {
        "RADAR_FRONT": ((3.41, 0.0, 0.50), 0.0, 9_000),
        "RADAR_FRONT_LEFT": ((2.42, 0.80, 0.77), 90.0, 24_000),
        "RADAR_FRONT_RIGHT": ((2.42, -0.80, 0.77), -90.0, 39_000),
        "RADAR_BACK_LEFT": ((-0.56, 0.62, 0.53), 174.0, 54_000),
        "RADAR_BACK_RIGHT": ((-0.56, -0.62, 0.53), -174.0, 69_000),
    }
    mounts = [
        Mount(name, "camera", position, math.radians(yaw), focal, delay)
        for name, (position, yaw, focal, delay) in cameras.items()
    ]
    mounts.append(Mount(LIDAR, "lidar", (0.96, 0.0, 1.84), math.radians(-90.0), tilt_rad=(_LIDAR_TILT_RAD, 0.0, 0.0)))
    mounts += [
        Mount(name, "radar", position, math.radians(yaw), delay_us=delay)
        for name, (position, yaw, delay) in radars.items()
    ]
    return {mount.channel: mount for mount in mounts}


#: All sensors by channel, in the order of `types.CAMERAS`, LIDAR, `types.RADARS`.
RIG = _rig()
CHANNELS = (*CAMERAS, LIDAR, *RADARS)


def draw_rig(rng: np.random.Generator) -> Rig:
    """A vehicle's own rig: mounts a centimetre or two and a degree away from `RIG`, lenses a per cent."""
    return {channel: _varied(mount, rng) for channel, mount in RIG.items()}


def _varied(mount: Mount, rng: np.random.Generator) -> Mount:
    shift, turn, lens = rng.normal(size=3), rng.normal(size=3), rng.normal(size=3)
    tilt = np.array(mount.tilt_rad)
    match mount.modality:
        case "camera":
            tilt += np.radians([0.3, 0.8, 0.3] + np.array([0.6, 0.8, 0.4]) * turn)
        case "lidar":
            tilt += np.radians([0.5, 0.2, 0.1] * turn)
        case "radar":
            tilt[2] += math.radians(1.0) * turn[2]
    x, y, z = (np.array(mount.position_m) + np.array([0.02, 0.008, 0.01]) * shift).tolist()
    focal, center_x, center_y = (1 + 0.005 * lens[0], 12.0 * lens[1], 14.0 * lens[2])
    return replace(
        mount,
        position_m=(x, y, z),
        tilt_rad=(float(tilt[0]), float(tilt[1]), float(tilt[2])),
        focal_px=float(mount.focal_px * focal),
        center_px=(float(mount.center_px[0] + center_x), float(mount.center_px[1] + center_y)),
    )
