"""One key frame as read from a nuScenes folder."""

from __future__ import annotations

from dataclasses import dataclass

from shapely.geometry.base import BaseGeometry
from torch import Tensor

from fusionperc.types import Boxes, Points

#: Times at which the ego's trajectory is given, relative to the key frame, seconds: nuScenes' protocols score the first
#: three seconds, NAVSIM's four.
PAST_TIMES_S = (-2.0, -1.5, -1.0, -0.5)
FUTURE_TIMES_S = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


@dataclass(frozen=True)
class Labels:
    """Annotations of a key frame in its ego frame; only the ten detection classes.

    Attributes:
        boxes: n boxes; velocity along the ground, whose horizontal part is the devkit's `box_velocity`.
        box_rotation: (n, 3, 3) float32 whole rotation of each box: boxes stand upright in the world, against which the
            ego frame is slightly tilted; `boxes.yaw_rad` leaves that out.
        num_points: (n, 2) int64 official LiDAR and radar point counts.
        visibility: (n,) int64 1 (below 40 %) to 4 (above 80 %), 0 unknown.
        annotation_tokens: n tokens.
        instance: (n,) int64 the same number for the same object within the folder.
        is_labelled: False for drives without annotations: then no box says nothing.
    """

    boxes: Boxes
    box_rotation: Tensor
    num_points: Tensor
    visibility: Tensor
    annotation_tokens: list[str]
    instance: Tensor
    is_labelled: bool


@dataclass(frozen=True)
class ObjectTracks:
    """All objects annotated at a key frame or in the seconds after it, in the key frame's ego frame seen from above.

    Attributes:
        instance: (A,) int64 as `Labels.instance`.
        class_index: (A,) int64 into `types.CLASSES`.
        size_lwh_m: (A, 3) float32.
        pose_m: (A, 1 + 8, 3) float32 x, y, yaw at 0 s and at `FUTURE_TIMES_S`; NaN where not annotated.
        visibility: (A, 1 + 8) int64 at the nearest key frame, as `Labels.visibility`; 0 where not annotated there.
    """

    instance: Tensor
    class_index: Tensor
    size_lwh_m: Tensor
    pose_m: Tensor
    visibility: Tensor


@dataclass(frozen=True)
class Surroundings:
    """What is known, from the tables and the map alone, of how a key frame goes on: what a plan is scored against.

    Attributes:
        token, scene: nuScenes sample token, name of the drive.
        num_past, num_future: key frames of the drive before and after this one.
        ego_past_m, ego_future_m, can_bus: as in `Sample`.
        ego_path_m: (P, 3) x, y, yaw of the ego at this and all later key frames of the drive.
        route_command, endpoint_command: what the recorded route says (-1 where none is), and what the ego's place
            after three seconds says, as indices into `types.COMMANDS`.
        objects: their tracks.
        is_labelled: False for drives without annotations.
        drivable: the drivable area around the ego, in its ego frame; None without a map expansion.
    """

    token: str
    scene: str
    num_past: int
    num_future: int
    ego_past_m: Tensor
    ego_future_m: Tensor
    can_bus: Tensor
    ego_path_m: Tensor
    route_command: int
    endpoint_command: int
    objects: ObjectTracks
    is_labelled: bool
    drivable: BaseGeometry | None

    def command(self, source: str) -> int:
        """Index into `types.COMMANDS`, -1 unknown; of the source that `config.command` names."""
        return self.route_command if source == "route" else self.endpoint_command


@dataclass(frozen=True)
class Readings:
    """What the sensors of a key frame and its sweeps read, in the ego frame at the LiDAR's key frame.

    Attributes:
        images: (N, 3, H, W) uint8 RGB in the order of `types.CAMERAS`; black where absent.
        camera_present: (N,) bool.
        intrinsics: (N, 3, 3) float32 of the pictures as given.
        camera_T_ego: (N, 4, 4) float32 from the ego frame at the LiDAR's time to the camera at its own time.
        lidar: sweeps newest first, or None where the sensor is absent.
        num_keyframe_points: so many first points of `lidar` are the key frame's own sweep.
        radar: all radars' sweeps, or None.
        present: (3,) bool in the order of `types.SENSORS`.
    """

    images: Tensor
    camera_present: Tensor
    intrinsics: Tensor
    camera_T_ego: Tensor
    lidar: Points | None
    num_keyframe_points: int
    radar: Points | None
    present: Tensor


@dataclass(frozen=True)
class Sample(Labels, Readings):
    """A key frame without augmentation, in the ego frame at its LiDAR timestamp.

    Attributes:
        token: nuScenes sample token.
        scene: name of the drive.
        timestamp_us: of the LiDAR's key frame.
        ego_past_m, ego_future_m: (4, 3), (8, 3) float32 x, y, yaw at `PAST_TIMES_S` and `FUTURE_TIMES_S`; NaN where not
            recorded.
        command: index into `types.COMMANDS`, -1 unknown; from the source that `config.command` names.
        can_bus: (4,) float32 as `types.Targets.can_bus`.
    """

    token: str
    scene: str
    timestamp_us: int
    ego_past_m: Tensor
    ego_future_m: Tensor
    command: int
    can_bus: Tensor
