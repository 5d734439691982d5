"""What is annotated at a key frame: points in boxes, and how much of each object the cameras see."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fusionperc.geometry import points_in_boxes, rotation_from_yaw
from fusionperc.simulation.sensors.rig import Rig, picture_size_px
from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.world import World
from fusionperc.types import CAMERAS

#: Points closer to a box's face than this are dropped from a key frame's scan: whether they are inside would depend on
#: the rounding of whoever counts (the devkit counts in float32, 30 micrometres at 400 m from the origin).
FACE_MARGIN_M = 3e-4
#: Places looked at along each axis of a box.
_SAMPLES_PER_AXIS = 4
#: Lower bounds of visibility levels 2, 3 and 4.
_LEVELS = (0.4, 0.6, 0.8)


def count_points(
    xyz_m: NDArray[np.float32], world_T_sensor: NDArray[np.float64], actors: list[Actor]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Counts a scan's points in the objects' boxes.

    Args:
        xyz_m: (P, 3) in the sensor's frame.
        world_T_sensor: (4, 4) pose.
        actors: the objects at the annotation's time.

    Returns:
        (A,) number of points in each box, and (P,) which points are clear of every face by `FACE_MARGIN_M`; points that
        are not clear are not counted and must be dropped from the scan.
    """
    count = np.zeros(len(actors), dtype=np.int64)
    clear = np.ones(len(xyz_m), dtype=bool)
    if not actors or len(xyz_m) == 0:
        return count, clear
    inside: list[tuple[int, NDArray[np.int64]]] = []
    in_world = xyz_m.astype(np.float64) @ world_T_sensor[:3, :3].T + world_T_sensor[:3, 3]
    for place, actor in enumerate(actors):
        length, width, _ = actor.size_lwh_m
        reach = 0.5 * float(np.hypot(length, width)) + 2 * FACE_MARGIN_M
        x, y, _ = actor.center_m
        near = np.flatnonzero((np.abs(in_world[:, 0] - x) < reach) & (np.abs(in_world[:, 1] - y) < reach))
        if len(near):
            inner, outer = _inside(in_world[near], actor)
            clear[near] &= inner == outer
            inside.append((place, near[inner & outer]))
    for place, indices in inside:
        count[place] = clear[indices].sum()
    return count, clear


def _inside(xyz_m: NDArray[np.float64], actor: Actor) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points (P, 3) lie in the object's box shrunk, and grown, by `FACE_MARGIN_M` on each side; world frame."""
    margin = torch.tensor([[-2.0], [2.0]], dtype=torch.float64) * FACE_MARGIN_M
    sizes = (torch.tensor([actor.size_lwh_m], dtype=torch.float64) + margin).clamp_min(0)
    center = torch.tensor([actor.center_m], dtype=torch.float64).expand(2, 3)
    rotation = rotation_from_yaw(torch.tensor([actor.yaw_rad], dtype=torch.float64)).expand(2, 3, 3)
    inner, outer = points_in_boxes(torch.from_numpy(xyz_m), center, sizes, rotation).numpy()
    return inner, outer


def visibility_levels(world: World, actors: list[Actor], rig: Rig, world_T_ego: NDArray[np.float64]) -> list[int]:
    """Level 1 to 4 of each object: which share of it the six cameras together see.

    A grid of places inside each box is looked at from the camera whose picture it falls into. A ray that ends on the
    object sees it; one stopped by something else before does not, nor does a place outside all pictures; a ray that
    passes through the box without meeting anything says nothing. Between nuScenes' human estimate and counting pixels.
    """
    if not actors:
        return []
    places = _sample_places(actors)
    owner = np.repeat(np.array([actor.instance for actor in actors]), places.shape[1])
    flat = places.reshape(-1, 3)
    rays, origins, in_picture = _rays_from_cameras(flat, rig, world_T_ego)
    reach = np.linalg.norm(rays, axis=1)
    directions = (rays / reach[:, None]).astype(np.float32)
    seen, judged = np.zeros(len(flat), dtype=bool), ~in_picture
    looked = np.flatnonzero(in_picture)
    if len(looked):
        distance, instance = world.cast_distance(origins[looked], directions[looked])
        on_object = instance == owner[looked]
        sizes = np.array([max(actor.size_lwh_m) for actor in actors]).repeat(places.shape[1])[looked]
        blocked = ~on_object & (distance < reach[looked] + 0.5 * sizes)
        seen[looked] = on_object
        judged[looked] = on_object | blocked
    seen, judged = seen.reshape(len(actors), -1), judged.reshape(len(actors), -1)
    share = seen.sum(1) / np.maximum(judged.sum(1), 1)
    return [int(level) for level in 1 + np.searchsorted(_LEVELS, share, side="right")]


def _sample_places(actors: list[Actor]) -> NDArray[np.float64]:
    """(A, S, 3) a grid of places inside each box, world frame."""
    steps = (np.arange(_SAMPLES_PER_AXIS) + 0.5) / _SAMPLES_PER_AXIS - 0.5
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    local = grid[None] * np.array([actor.size_lwh_m for actor in actors])[:, None]
    yaw = np.array([actor.yaw_rad for actor in actors])[:, None]
    x = np.cos(yaw) * local[..., 0] - np.sin(yaw) * local[..., 1]
    y = np.sin(yaw) * local[..., 0] + np.cos(yaw) * local[..., 1]
    centers = np.array([actor.center_m for actor in actors])
    places: NDArray[np.float64] = np.stack([x, y, local[..., 2]], axis=-1) + centers[:, None]
    return places


def _rays_from_cameras(
    places_m: NDArray[np.float64], rig: Rig, world_T_ego: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Vector to and origin of the camera that pictures each place (R, 3), and whether any does (R,)."""
    width, height = picture_size_px(1.0)
    rays, origins = np.ones_like(places_m), np.zeros_like(places_m)
    pictured = np.zeros(len(places_m), dtype=bool)
    for channel in CAMERAS:
        mount = rig[channel]
        world_T_camera = world_T_ego @ mount.ego_T_sensor
        towards = places_m - world_T_camera[:3, 3]
        in_camera = towards @ world_T_camera[:3, :3]
        depth = in_camera[:, 2]
        pixel = in_camera @ mount.intrinsics(width, height).T
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = pixel[:, 0] / depth, pixel[:, 1] / depth
        inside = (depth > 0.3) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & ~pictured
        rays[inside], origins[inside] = towards[inside], world_T_camera[:3, 3]
        pictured |= inside
    return rays, origins, pictured
