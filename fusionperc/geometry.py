"""Rigid transforms, yaw, projection, box corners and the bird's-eye-view grid.

This is the only place for geometry. Everything is a `torch` tensor of the caller's dtype; leading batch
dimensions broadcast. A transform is called ``dst_T_src``: a (..., 4, 4) matrix that maps homogeneous points of
frame ``src`` to frame ``dst``, so that ``a_T_c = a_T_b @ b_T_c`` reads like the chain it is.

Frames: *ego* is x forward, y left, z up; a *camera* is x right, y down, z forward; yaw turns counter-clockwise
seen from above, from +x, in (-pi, pi].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Signs of a box's eight corners along (forward, left, up): the bottom face counter-clockwise from the
#: front left, then the top face in the same order.
CORNER_SIGNS = (
    (1.0, 1.0, -1.0),
    (-1.0, 1.0, -1.0),
    (-1.0, -1.0, -1.0),
    (1.0, -1.0, -1.0),
    (1.0, 1.0, 1.0),
    (-1.0, 1.0, 1.0),
    (-1.0, -1.0, 1.0),
    (1.0, -1.0, 1.0),
)

#: The twelve edges of a box as pairs of corner indices; the last two are a heading mark's (front face) diagonals.
CORNER_EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 0),
    (4, 5), (5, 6), (6, 7), (7, 4),
    (0, 4), (1, 5), (2, 6), (3, 7),
)  # fmt: skip


#: The box of nuScenes' recording car, as its planning protocols have it: its centre lies 0.5 m ahead of the LiDAR,
#: which stands 0.985793 m ahead of the ego frame's origin.
#: Source: ST-P3's metric (size, 0.5 m); BEV-Planner's (0.985793 m, the calibration of the cars n008).
EGO_LENGTH_M, EGO_WIDTH_M = EGO_SIZE_M = 4.084, 1.85
LIDAR_AHEAD_M = 0.985793
EGO_CENTER_AHEAD_M = LIDAR_AHEAD_M + 0.5


def wrap_angle(angle_rad: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same angle in (-pi, pi]."""
    wrapped = torch.remainder(angle_rad + math.pi, 2 * math.pi) - math.pi
    return torch.where(wrapped <= -math.pi, wrapped + 2 * math.pi, wrapped)


def rotation_from_yaw(yaw_rad: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation about +z by `yaw_rad`."""
    cos, sin = torch.cos(yaw_rad), torch.sin(yaw_rad)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1)
    return rows.reshape(*yaw_rad.shape, 3, 3)


def rotation_from_quaternion(wxyz: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of a quaternion in nuScenes' order (w, x, y, z); it is normalised first.

    Raises:
        ValueError: a quaternion has no length.
    """
    norm = wxyz.norm(dim=-1, keepdim=True)
    if bool((norm < 1e-9).any()):
        raise ValueError("rotation_from_quaternion: a quaternion of length 0 is no rotation")
    w, x, y, z = (wxyz / norm).unbind(-1)
    rows = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    )  # fmt: skip
    return rows.reshape(*wxyz.shape[:-1], 3, 3)


def quaternion_from_yaw(yaw_rad: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 4"]:
    """Quaternion (w, x, y, z) of a rotation about +z."""
    half, zero = yaw_rad / 2, torch.zeros_like(yaw_rad)
    return torch.stack([torch.cos(half), zero, zero, torch.sin(half)], dim=-1)


def yaw_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Heading of the rotated x axis in the horizontal plane."""
    return torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0])


def rigid(
    rotation: Float[Tensor, "*batch 3 3"], translation_m: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """The (..., 4, 4) transform that rotates, then translates."""
    matrix = torch.zeros(*rotation.shape[:-2], 4, 4, dtype=rotation.dtype, device=rotation.device)
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = translation_m
    matrix[..., 3, 3] = 1
    return matrix


def inverse(dst_T_src: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """src_T_dst of a *rigid* transform (the rotation is transposed, not inverted)."""
    rotation = dst_T_src[..., :3, :3].transpose(-1, -2)
    return rigid(rotation, -(rotation @ dst_T_src[..., :3, 3:]).squeeze(-1))


def transform_points(
    dst_T_src: Float[Tensor, "*batch 4 4"], xyz_m: Float[Tensor, "*batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Moves points from frame `src` to frame `dst`; also takes affine (augmentation) matrices."""
    return xyz_m @ dst_T_src[..., :3, :3].transpose(-1, -2) + dst_T_src[..., None, :3, 3]


def project_points(
    intrinsics: Float[Tensor, "*batch 3 3"],
    camera_T_ego: Float[Tensor, "*batch 4 4"],
    xyz_m: Float[Tensor, "*batch points 3"],
    min_depth_m: float = 0.1,
) -> tuple[Float[Tensor, "*batch points 2"], Float[Tensor, "*batch points"]]:
    """Pinhole projection of ego-frame points.

    Returns:
        Picture coordinates (u to the right, v down, pixels; a pixel's centre lies at index + 0.5) and depth along
        the optical axis in metres. Where depth is below `min_depth_m` the coordinates are NaN.
    """
    in_camera = transform_points(camera_T_ego, xyz_m)
    depth = in_camera[..., 2]
    homogeneous = in_camera @ intrinsics.transpose(-1, -2)
    safe = torch.where(depth < min_depth_m, torch.full_like(depth, float("nan")), homogeneous[..., 2])
    return homogeneous[..., :2] / safe[..., None], depth


def box_corners(
    center_m: Float[Tensor, "*batch 3"], size_lwh_m: Float[Tensor, "*batch 3"], yaw_rad: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 8 3"]:
    """The eight corners in the order of `CORNER_SIGNS`."""
    signs = torch.tensor(CORNER_SIGNS, dtype=center_m.dtype, device=center_m.device)
    local = signs * (size_lwh_m[..., None, :] / 2)
    return local @ rotation_from_yaw(yaw_rad).transpose(-1, -2) + center_m[..., None, :]


def points_in_boxes(
    xyz_m: Float[Tensor, "points 3"],
    center_m: Float[Tensor, "boxes 3"],
    size_lwh_m: Float[Tensor, "boxes 3"],
    rotation: Float[Tensor, "boxes 3 3"],
) -> Bool[Tensor, "boxes points"]:
    """Which points lie in which (closed) boxes; `rotation` is box to frame, so tilted boxes are exact too."""
    local = (xyz_m[None] - center_m[:, None]) @ rotation
    return (local.abs() <= size_lwh_m[:, None] / 2).all(dim=-1)


def ego_center(pose: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
    """x, y, yaw of the middle of the ego's box, of poses of the ego frame."""
    ahead = torch.stack([pose[..., 2].cos(), pose[..., 2].sin(), torch.zeros_like(pose[..., 2])], -1)
    return pose + EGO_CENTER_AHEAD_M * ahead


def ego_corners(pose: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 4 2"]:
    """Corners of the ego's box at poses of the ego frame, front left first."""
    x, y, yaw = ego_center(pose)[..., None].unbind(-2)
    along = pose.new_tensor([0.5, -0.5, -0.5, 0.5]) * EGO_LENGTH_M
    aside = pose.new_tensor([0.5, 0.5, -0.5, -0.5]) * EGO_WIDTH_M
    return torch.stack([x + along * yaw.cos() - aside * yaw.sin(), y + along * yaw.sin() + aside * yaw.cos()], -1)


def box_gaps_m(
    pose: Float[Tensor, "*#shape 3"],
    length_width_m: tuple[float, float],
    place_m: Float[Tensor, "*#shape 2"],
    yaw_rad: Float[Tensor, "*#shape"],
    size_m: Float[Tensor, "*#shape 3"],
) -> Float[Tensor, "*#shape 2"]:
    """How far apart two boxes are along and across the first one, metres; negative by how much they overlap.

    The other's extent along an axis is that of its turned box, so boxes that are apart along either do not touch. All
    shapes broadcast.

    Args:
        pose: x, y, yaw of the first box's middle.
        length_width_m: its size.
        place_m, yaw_rad, size_m: middle, heading, and length, width, height of the other.
    """
    cos, sin = pose[..., 2].cos(), pose[..., 2].sin()
    dx, dy = place_m[..., 0] - pose[..., 0], place_m[..., 1] - pose[..., 1]
    ahead, left = cos * dx + sin * dy, -sin * dx + cos * dy
    turn = yaw_rad - pose[..., 2]
    length, width = size_m[..., 0] / 2, size_m[..., 1] / 2
    half_ahead = length * turn.cos().abs() + width * turn.sin().abs() + length_width_m[0] / 2
    half_left = length * turn.sin().abs() + width * turn.cos().abs() + length_width_m[1] / 2
    return torch.stack([ahead.abs() - half_ahead, left.abs() - half_left], -1)


@dataclass(frozen=True)
class BevGrid:
    """A regular bird's-eye-view grid in the ego frame.

    Index ix runs forward (+x), iy to the left (+y); a cell is half-open, [min + i*cell, min + (i+1)*cell); its centre
    is min + (i + 0.5)*cell. Tensors on the grid are (B, C, X, Y).

    Attributes:
        x_min_m, x_max_m, y_min_m, y_max_m: horizontal range, metres.
        z_min_m, z_max_m: points outside this height range do not enter the grid.
        cell_m: side of a square cell.

    Raises:
        ValueError: a range is empty or no whole number of cells.
    """

    x_min_m: float
    x_max_m: float
    y_min_m: float
    y_max_m: float
    z_min_m: float
    z_max_m: float
    cell_m: float

    def __post_init__(self) -> None:
        if not self.cell_m > 0:
            raise ValueError(f"BevGrid: cell_m = {self.cell_m} must be positive")
        for axis, low, high in (("x", self.x_min_m, self.x_max_m), ("y", self.y_min_m, self.y_max_m)):
            cells = (high - low) / self.cell_m
            if not cells >= 1 or abs(cells - round(cells)) > 1e-6 * max(1.0, cells):
                raise ValueError(
                    f"BevGrid: {axis} range [{low}, {high}] m is no whole number of {self.cell_m} m cells: change one"
                )
        if not self.z_max_m > self.z_min_m:
            raise ValueError(f"BevGrid: z range [{self.z_min_m}, {self.z_max_m}] m is empty")

    @property
    def shape(self) -> tuple[int, int]:
        """(X, Y): the number of cells forward and to the left."""
        return (
            round((self.x_max_m - self.x_min_m) / self.cell_m),
            round((self.y_max_m - self.y_min_m) / self.cell_m),
        )

    @property
    def num_cells(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def layer_m(self) -> float:
        """Height of a voxel: a cell of this grid is one column from z_min_m to z_max_m."""
        return self.z_max_m - self.z_min_m

    @property
    def layers(self) -> int:
        """Z: the number of voxels above each other in a cell."""
        return 1

    @property
    def num_voxels(self) -> int:
        return self.num_cells * self.layers

    def with_cell(self, cell_m: float) -> BevGrid:
        """The same range in cells of another size, one layer high."""
        return BevGrid(self.x_min_m, self.x_max_m, self.y_min_m, self.y_max_m, self.z_min_m, self.z_max_m, cell_m)

    def cell_indices(self, xyz_m: Float[Tensor, "points 3"]) -> tuple[Int[Tensor, "points 2"], Bool[Tensor, " points"]]:
        """(ix, iy) of each point, and whether it lies in the grid; see `voxel_indices`."""
        index, inside = self.voxel_indices(xyz_m)
        return index[:, :2], inside

    def voxel_indices(
        self, xyz_m: Float[Tensor, "points 3"]
    ) -> tuple[Int[Tensor, "points 3"], Bool[Tensor, " points"]]:
        """(ix, iy, iz) of each point, 0 outside, and whether it lies in the grid (NaN and infinities do not).

        float32 true division decides the voxel, as everywhere in this package: floor((p - min) / size).
        """
        low = torch.tensor([self.x_min_m, self.y_min_m, self.z_min_m], dtype=xyz_m.dtype, device=xyz_m.device)
        # A tensor divisor: a GPU multiplies by the reciprocal of a Python number, which moves points to other cells.
        size_m = torch.tensor([self.cell_m, self.cell_m, self.layer_m], dtype=xyz_m.dtype, device=xyz_m.device)
        count = torch.tensor([*self.shape, self.layers], dtype=xyz_m.dtype, device=xyz_m.device)
        coordinate = ((xyz_m - low) / size_m).floor_()
        inside = ((coordinate >= 0) & (coordinate < count)).all(1)
        return coordinate.masked_fill_(~inside[:, None], 0).long(), inside

    def sampled(
        self, values: Float[Tensor, "batch x y"], xy_m: Float[Tensor, "batch ... 2"]
    ) -> Float[Tensor, "batch ..."]:
        """Values of the grid at places, linear between cell centres; the nearest cell's beyond the rim."""
        half = xy_m.new_tensor([self.x_max_m - self.x_min_m, self.y_max_m - self.y_min_m]) / 2
        middle = xy_m.new_tensor([self.x_max_m + self.x_min_m, self.y_max_m + self.y_min_m]) / 2
        # grid_sample counts its first coordinate along the last dimension.
        place = ((xy_m - middle) / half).flip(-1).flatten(1, -2)[:, :, None]
        found = F.grid_sample(values[:, None], place, mode="bilinear", padding_mode="border", align_corners=False)
        return found.view(xy_m.shape[:-1])

    def centers_m(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Cell centres, (X, Y, 2)."""
        size_x, size_y = self.shape
        x = self.x_min_m + (torch.arange(size_x, dtype=dtype, device=device) + 0.5) * self.cell_m
        y = self.y_min_m + (torch.arange(size_y, dtype=dtype, device=device) + 0.5) * self.cell_m
        return torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1)


@dataclass(frozen=True)
class VoxelGrid(BevGrid):
    """A `BevGrid` cut into layers: index iz runs up from z_min_m, in voxels of cell_m x cell_m x height_m.

    Attributes:
        height_m: height of a voxel.

    Raises:
        ValueError: a range is empty or no whole number of voxels.
    """

    height_m: float

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = (self.z_max_m - self.z_min_m) / self.height_m if self.height_m > 0 else 0.0
        if not layers >= 1 or abs(layers - round(layers)) > 1e-6 * max(1.0, layers):
            raise ValueError(
                f"VoxelGrid: z range [{self.z_min_m}, {self.z_max_m}] m is no whole number of voxels of height_m = "
                f"{self.height_m}: change one"
            )

    @property
    def layer_m(self) -> float:
        return self.height_m

    @property
    def layers(self) -> int:
        return round((self.z_max_m - self.z_min_m) / self.height_m)
