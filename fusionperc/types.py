"""What flows through the package: points, sensor inputs, boxes, targets, detections.

Frozen dataclasses that check themselves on construction: a wrong shape, dtype or length fails where it is made, with
the field's name, not three modules later. All are in the ego frame at the key frame's LiDAR timestamp (see
`fusionperc.geometry`), metres, seconds, radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from fusionperc.geometry import box_corners, rotation_from_yaw, transform_points, wrap_angle
from fusionperc.tensor_record import TensorRecord, check_shape

#: The ten detection classes, in the order of every class index of this package.
CLASSES = (
    "car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle", "traffic_cone",
    "barrier",
)  # fmt: skip

#: The eight attributes of nuScenes, in the order of every attribute index; -1 means none.
ATTRIBUTES = (
    "vehicle.moving", "vehicle.parked", "vehicle.stopped", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down",
)  # fmt: skip

#: Attributes a class may carry (indices into `ATTRIBUTES`); cones and barriers carry none.
CLASS_ATTRIBUTES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), (0, 1, 2)), "pedestrian": (5, 6, 7),
    **dict.fromkeys(("motorcycle", "bicycle"), (3, 4)), **dict.fromkeys(("traffic_cone", "barrier"), ()),
}  # fmt: skip

Sensor = Literal["camera", "radar", "lidar"]
#: Order of the columns of `SensorInputs.present`; their first letters C, R, L name subsets.
SENSORS: tuple[Sensor, ...] = ("camera", "radar", "lidar")

#: Order of the cameras in a picture tensor.
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
LIDAR = "LIDAR_TOP"

#: Columns of a LiDAR point's features.
LIDAR_FEATURES = ("intensity", "time_delta_s")
#: Columns of a radar point's features: radar cross section in dBsm, velocity over ground along ego x and y (only its
#: radial part is measured), age.
RADAR_FEATURES = ("rcs_dbsm", "vx_mps", "vy_mps", "time_delta_s")

#: Columns of `Odometry.motion`: along the heading, counter-clockwise.
EGO_MOTION = ("speed_mps", "acceleration_mps2", "yaw_rate_radps")

#: The 18 fields of a nuScenes radar file.
RADAR_DTYPE = np.dtype(
    [
        ("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("dyn_prop", "i1"), ("id", "<i2"), ("rcs", "<f4"),
        ("vx", "<f4"), ("vy", "<f4"), ("vx_comp", "<f4"), ("vy_comp", "<f4"), ("is_quality_valid", "i1"),
        ("ambig_state", "i1"), ("x_rms", "i1"), ("y_rms", "i1"), ("invalid_state", "i1"), ("pdh0", "i1"),
        ("vx_rms", "i1"), ("vy_rms", "i1"),
    ]
)  # fmt: skip

#: The usual driving commands, from the ego's lateral displacement at 3 s.
COMMANDS = ("right", "left", "straight")

#: Columns of `EgoInputs.status` and `Targets.can_bus`: along the heading, to the left, counter-clockwise.
EGO_STATUS = ("speed_mps", "acceleration_mps2", "lateral_mps2", "yaw_rate_radps")
#: Where `EGO_MOTION` stands in it.
MOTION_COLUMNS = [EGO_STATUS.index(name) for name in EGO_MOTION]


def sensors_from_letters(letters: str) -> tuple[Sensor, ...]:
    """('camera', 'lidar') from 'CL' (any order, no repeats), in the order of `SENSORS`.

    Raises:
        ValueError: empty, repeated or unknown letters.
    """
    upper = letters.upper()
    if not upper or len(set(upper)) != len(upper) or not set(upper) <= set("CRL"):
        raise ValueError(f"sensors: '{letters}' is not a subset of C (camera), R (radar), L (lidar); write e.g. CRL")
    return tuple(sensor for sensor in SENSORS if sensor[0].upper() in upper)


def letters_from_sensors(sensors: Sequence[Sensor]) -> str:
    """'CL' from ('camera', 'lidar')."""
    return "".join(sensor[0].upper() for sensor in SENSORS if sensor in sensors)


@dataclass(frozen=True)
class Points(TensorRecord):
    """Ragged points of a batch; no padding.

    Attributes:
        xyz_m: (P, 3) float32.
        features: (P, F) float32; columns are `LIDAR_FEATURES` or `RADAR_FEATURES`.
        sample_index: (P,) int64 in [0, batch_size).
        batch_size: stated, never read off the last point: a sample may have none.
    """

    xyz_m: Tensor
    features: Tensor
    sample_index: Tensor
    batch_size: int

    def __post_init__(self) -> None:
        check_shape(self, "xyz_m", self.xyz_m, (None, 3), floating=True)
        count = self.xyz_m.shape[0]
        check_shape(self, "features", self.features, (count, None), floating=True)
        check_shape(self, "sample_index", self.sample_index, (count,), floating=False)
        if self.batch_size < 1:
            raise ValueError(f"Points.batch_size = {self.batch_size} must be at least 1")
        # On the CPU only, where points are made: elsewhere it would wait for the device.
        is_readable = count > 0 and self.sample_index.device.type == "cpu"
        if is_readable and not 0 <= int(self.sample_index.min()) <= int(self.sample_index.max()) < self.batch_size:
            raise ValueError(f"Points.sample_index must lie in [0, batch_size = {self.batch_size})")

    def __len__(self) -> int:
        return self.xyz_m.shape[0]

    @classmethod
    def collate(cls, samples: Sequence[Points]) -> Points:
        """One batch of several samples of batch size 1."""
        counts = torch.tensor([len(sample) for sample in samples])
        return cls(
            xyz_m=torch.cat([sample.xyz_m for sample in samples]),
            features=torch.cat([sample.features for sample in samples]),
            sample_index=torch.repeat_interleave(torch.arange(len(samples)), counts),
            batch_size=len(samples),
        )

    def of_sample(self, index: int) -> Points:
        """The points of one sample as a batch of one."""
        keep = self.sample_index == index
        return Points(self.xyz_m[keep], self.features[keep], torch.zeros_like(self.sample_index[keep]), 1)


@dataclass(frozen=True)
class CameraInputs(TensorRecord):
    """Pictures and where they look.

    Attributes:
        images: (B, N, 3, H, W) uint8 RGB; the encoder normalises.
        intrinsics: (B, N, 3, 3) of the picture as given (resize, crop and flip folded in), pixels.
        camera_T_ego: (B, N, 4, 4); folds in the camera's own timestamp, ego motion and the augmentation of space.
        present: (B, N) bool; an absent picture is black and must not be read.
    """

    images: Tensor
    intrinsics: Tensor
    camera_T_ego: Tensor
    present: Tensor

    def __post_init__(self) -> None:
        check_shape(self, "images", self.images, (None, None, 3, None, None), floating=False)
        batch, cameras = self.images.shape[:2]
        check_shape(self, "intrinsics", self.intrinsics, (batch, cameras, 3, 3), floating=True)
        check_shape(self, "camera_T_ego", self.camera_T_ego, (batch, cameras, 4, 4), floating=True)
        check_shape(self, "present", self.present, (batch, cameras), floating=False)

    @property
    def batch_size(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True)
class Odometry(TensorRecord):
    """How the ego moves and came here, in the vehicle's own axes: x along its heading.

    Attributes:
        motion: (B, 3) `EGO_MOTION`; NaN where unknown.
        past_m: (B, P, 3) x, y, yaw at `data.sample.PAST_TIMES_S`; NaN where unknown.
    """

    motion: Tensor
    past_m: Tensor

    def __post_init__(self) -> None:
        check_shape(self, "motion", self.motion, (None, len(EGO_MOTION)), floating=True)
        check_shape(self, "past_m", self.past_m, (self.motion.shape[0], None, 3), floating=True)

    @property
    def batch_size(self) -> int:
        return self.motion.shape[0]

    @classmethod
    def unknown(cls, past_m: Tensor) -> Odometry:
        """Of past poses of any value (B, P, 3), as many that are unknown."""
        return cls(torch.full_like(past_m[:, 0], torch.nan), torch.full_like(past_m, torch.nan))

    @classmethod
    def of_radar_and_lidar(cls, radar: Odometry, lidar: Odometry) -> Odometry:
        """How far by Doppler, how turned by matched sweeps, which tell it better; one alone if the other does not."""

        def of_both(radar: Tensor, lidar: Tensor) -> Tensor:
            # Speed, acceleration, turn rate; x, y, yaw.
            by_radar = torch.tensor([True, True, False], device=radar.device)
            better, other = torch.where(by_radar, radar, lidar), torch.where(by_radar, lidar, radar)
            return torch.where(better.isfinite(), better, other)

        return cls(of_both(radar.motion, lidar.motion), of_both(radar.past_m, lidar.past_m))


@dataclass(frozen=True)
class SensorInputs(TensorRecord):
    """All a model sees.

    Attributes:
        cameras, radar, lidar: None where the sensor is absent from the whole batch.
        present: (B, 3) bool in the order of `SENSORS`: absent from one sample is False; a sensor that is present and
            saw nothing is True.
        radar_odometry, lidar_odometry: how the ego moves as its radars or its LiDAR measured it; None where the sensor
            is absent from the whole batch or nobody plans.
    """

    cameras: CameraInputs | None
    radar: Points | None
    lidar: Points | None
    present: Tensor
    radar_odometry: Odometry | None = None
    lidar_odometry: Odometry | None = None

    def __post_init__(self) -> None:
        check_shape(self, "present", self.present, (None, 3), floating=False)
        for column, name in enumerate(("cameras", "radar", "lidar")):
            if getattr(self, name) is None and bool(self.present[:, column].any()):
                raise ValueError(f"SensorInputs.{name} is None but `present` says a sample has it")
        for name in ("cameras", "radar", "lidar", "radar_odometry", "lidar_odometry"):
            value: CameraInputs | Points | Odometry | None = getattr(self, name)
            if value is not None and value.batch_size != self.batch_size:
                raise ValueError(f"SensorInputs.{name} holds {value.batch_size} samples, `present` {self.batch_size}")

    @property
    def batch_size(self) -> int:
        return self.present.shape[0]

    def only(self, sensors: Sequence[Sensor]) -> SensorInputs:
        """The same batch with every other sensor absent."""
        keep = torch.tensor([sensor in sensors for sensor in SENSORS], device=self.present.device)
        return SensorInputs(
            cameras=self.cameras if "camera" in sensors else None,
            radar=self.radar if "radar" in sensors else None,
            lidar=self.lidar if "lidar" in sensors else None,
            present=self.present & keep,
            radar_odometry=self.radar_odometry if "radar" in sensors else None,
            lidar_odometry=self.lidar_odometry if "lidar" in sensors else None,
        )

    def odometry(self) -> Odometry | None:
        """How the ego moves and came here, by whatever tells it; None where nothing does."""
        if self.radar_odometry is None or self.lidar_odometry is None:
            return self.radar_odometry or self.lidar_odometry
        return Odometry.of_radar_and_lidar(self.radar_odometry, self.lidar_odometry)


@dataclass(frozen=True)
class EgoInputs(TensorRecord):
    """What a planner is told beside the sensors: where to go and, perhaps, how the vehicle moves.

    Attributes:
        command: (B,) int64 into `COMMANDS`, -1 unknown.
        heading_rad: (B,) the vehicle's heading in the frame of the inputs: 0 unless augmentation turned space.
        status: (B, 4) `EGO_STATUS`; NaN where unknown or withheld.
        past_m: (B, P, 3) as `Targets.ego_past_m`; NaN where unknown or withheld.
        drivable: (B, X, Y) 1 in cells of the fused map that a map says can be driven on, else 0; NaN without a map.
    """

    command: Tensor
    heading_rad: Tensor
    status: Tensor
    past_m: Tensor
    drivable: Tensor

    def __post_init__(self) -> None:
        check_shape(self, "command", self.command, (None,), floating=False)
        batch = self.command.shape[0]
        check_shape(self, "heading_rad", self.heading_rad, (batch,), floating=True)
        check_shape(self, "status", self.status, (batch, len(EGO_STATUS)), floating=True)
        check_shape(self, "past_m", self.past_m, (batch, None, 3), floating=True)
        check_shape(self, "drivable", self.drivable, (batch, None, None), floating=True)

    def without_status(self, withheld: Tensor | None = None) -> EgoInputs:
        """The same without the ego's status, for the samples of a mask (B,) or for all."""
        if withheld is None:
            withheld = torch.ones_like(self.command, dtype=torch.bool)
        return replace(
            self,
            status=self.status.masked_fill(withheld[:, None], torch.nan),
            past_m=self.past_m.masked_fill(withheld[:, None, None], torch.nan),
        )

    def and_without_status(self) -> EgoInputs:
        """(2 B) these, and then the same samples without the ego's status."""
        return EgoInputs.joined([self, self.without_status()])


@dataclass(frozen=True)
class Boxes(TensorRecord):
    """Oriented boxes in the ego frame.

    Attributes:
        center_m: (N, 3) geometric centre.
        size_lwh_m: (N, 3) length (along heading), width, height.
        yaw_rad: (N,) in (-pi, pi], counter-clockwise from +x; NaN where unknown.
        velocity_mps: (N, 2) over ground, along ego axes; NaN where unknown.
        class_index: (N,) int64 into `CLASSES`.
        attribute_index: (N,) int64 into `ATTRIBUTES`, -1 for none.
    """

    center_m: Tensor
    size_lwh_m: Tensor
    yaw_rad: Tensor
    velocity_mps: Tensor
    class_index: Tensor
    attribute_index: Tensor

    def __post_init__(self) -> None:
        count = self.center_m.shape[0]
        check_shape(self, "center_m", self.center_m, (None, 3), floating=True)
        check_shape(self, "size_lwh_m", self.size_lwh_m, (count, 3), floating=True)
        check_shape(self, "yaw_rad", self.yaw_rad, (count,), floating=True)
        check_shape(self, "velocity_mps", self.velocity_mps, (count, 2), floating=True)
        check_shape(self, "class_index", self.class_index, (count,), floating=False)
        check_shape(self, "attribute_index", self.attribute_index, (count,), floating=False)

    def __len__(self) -> int:
        return self.center_m.shape[0]

    def __getitem__(self, keep: Tensor) -> Self:
        """The boxes of a boolean mask or an index tensor."""
        return replace(self, **{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    @classmethod
    def empty(cls) -> Boxes:
        index = torch.zeros(0, dtype=torch.int64)
        return Boxes(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 2), index, index.clone())

    def corners_m(self) -> Tensor:
        """(N, 8, 3) in the order of `geometry.CORNER_SIGNS`."""
        return box_corners(self.center_m, self.size_lwh_m, self.yaw_rad)

    def moved(self, dst_T_ego: Tensor) -> Self:
        """The boxes in another upright frame: rotated about z, possibly mirrored, scaled and shifted.

        Sizes and velocities scale along; heading and velocity turn (and mirror) with the frame.
        """
        linear = dst_T_ego[:3, :3].to(self.center_m.dtype)
        scale = linear.det().abs() ** (1 / 3)
        heading = rotation_from_yaw(self.yaw_rad)[:, :, 0] @ linear.T
        return replace(
            self,
            center_m=transform_points(dst_T_ego.to(self.center_m.dtype), self.center_m),
            size_lwh_m=self.size_lwh_m * scale,
            yaw_rad=wrap_angle(torch.atan2(heading[:, 1], heading[:, 0])),
            velocity_mps=self.velocity_mps @ linear[:2, :2].T,
        )


@dataclass(frozen=True)
class Detections(Boxes):
    """Predicted boxes of one sample, with `score` (N,) in [0, 1]."""

    score: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shape(self, "score", self.score, (self.center_m.shape[0],), floating=True)


@dataclass(frozen=True)
class PlanningTargets(TensorRecord):
    """What planning learns from beside the ego's own future.

    Attributes:
        agent_future_m: B items of (N_b, F, 3): x, y, yaw of each of `Targets.boxes` at 0.5, 1.0, ... s; NaN where not
            annotated then.
        off_road_m: (B, X, Y) how far each cell's centre lies off the drivable area; NaN where there is no map.
    """

    agent_future_m: list[Tensor]
    off_road_m: Tensor

    def __post_init__(self) -> None:
        for future in self.agent_future_m:
            check_shape(self, "agent_future_m", future, (None, None, 3), floating=True)
        check_shape(self, "off_road_m", self.off_road_m, (len(self.agent_future_m), None, None), floating=True)


@dataclass(frozen=True)
class Targets(TensorRecord):
    """What a sample's truth is; it never reaches a model's `forward`.

    Attributes:
        boxes: B items.
        num_points: B items of (N_b, 2) int64: the official LiDAR and radar point counts of each box.
        depth_m: (B, N, H / stride, W / stride) nearest LiDAR depth in each camera feature cell, 0 where none was
            measured; None without pictures or LiDAR.
        ego_past_m: (B, P, 3) past ego x, y, yaw in the key frame's ego frame, oldest first; NaN where unrecorded.
        ego_future_m: (B, F, 3) the same at 0.5, 1.0, ... s ahead.
        command: (B,) int64 into `COMMANDS`, -1 where the future is not recorded.
        can_bus: (B, 4) `EGO_STATUS`: m/s, m/s^2, m/s^2, rad/s; NaN where absent.
        is_labelled: (B,) bool: False for drives without annotations (then `boxes` says nothing).
        planning: None unless planning is learnt.
    """

    boxes: list[Boxes]
    num_points: list[Tensor]
    depth_m: Tensor | None
    ego_past_m: Tensor
    ego_future_m: Tensor
    command: Tensor
    can_bus: Tensor
    is_labelled: Tensor
    planning: PlanningTargets | None = None

    def __post_init__(self) -> None:
        batch = len(self.boxes)
        if len(self.num_points) != batch:
            raise ValueError(f"Targets.num_points has {len(self.num_points)} items, `boxes` {batch}")
        for boxes, counts in zip(self.boxes, self.num_points, strict=True):
            check_shape(self, "num_points", counts, (len(boxes), 2), floating=False)
        if self.depth_m is not None:
            check_shape(self, "depth_m", self.depth_m, (batch, None, None, None), floating=True)
        check_shape(self, "ego_past_m", self.ego_past_m, (batch, None, 3), floating=True)
        check_shape(self, "ego_future_m", self.ego_future_m, (batch, None, 3), floating=True)
        check_shape(self, "command", self.command, (batch,), floating=False)
        check_shape(self, "can_bus", self.can_bus, (batch, 4), floating=True)
        check_shape(self, "is_labelled", self.is_labelled, (batch,), floating=False)


@dataclass(frozen=True)
class Batch(TensorRecord):
    """One step's samples: what the model sees, what is true, who they are (nuScenes sample tokens), and what a planner
    is told (None unless planning is asked for)."""

    inputs: SensorInputs
    targets: Targets
    sample_tokens: list[str]
    ego: EgoInputs | None = None

    def __post_init__(self) -> None:
        sizes = (self.inputs.batch_size, len(self.targets.boxes), len(self.sample_tokens))
        if len(set(sizes)) != 1:
            raise ValueError(f"Batch: inputs, targets and sample_tokens hold {sizes} samples")

    def __len__(self) -> int:
        return self.inputs.batch_size
