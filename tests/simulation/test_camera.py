"""Simulated pictures: where things are, and how light falls on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusionperc.geometry import box_corners, inverse, project_points
from fusionperc.simulation import camera
from fusionperc.simulation.rig import RIG, picture_size_px, world_T_ego
from fusionperc.simulation.traffic import Actor
from fusionperc.simulation.world import NOTHING, World
from fusionperc.types import CAMERAS

EGO = world_T_ego(150.0, 150.0, 0.4)
SIZE = picture_size_px(0.15)


def daylight(**changes: object) -> camera.Daylight:
    base = camera.sample_daylight(np.random.default_rng(0))
    clear = replace(base, to_sun=(0.0, 0.0, 1.0), softness=0.0, sun=(1.0, 1.0, 1.0), noise=0.0, exposure=0.0)
    return replace(clear, visibility_m=1e6, **changes)


def take(world: World, channel: str, light: camera.Daylight, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    mount = RIG[channel]
    return camera.picture(world, mount, EGO @ mount.ego_T_sensor, light, SIZE, np.random.default_rng(seed))


@pytest.mark.parametrize("channel", CAMERAS)
def test_an_objects_pixels_lie_inside_its_projected_box(
    channel: str, field_world: World, make_car: Callable[..., Actor]
) -> None:
    mount = RIG[channel]
    along = EGO[:3, :3] @ mount.ego_R_sensor @ np.array([0.12, 0.0, 1.0])
    place = EGO[:3, 3] + 14.0 * along
    car = make_car(float(place[0]), float(place[1]), yaw_rad=1.1)
    field_world.set_actors([car])
    _, instance = take(field_world, channel, daylight())
    rows, cols = np.nonzero(instance == car.instance)
    assert len(rows) > 40
    corners = box_corners(*(torch.tensor(value).double() for value in (car.center_m, car.size_lwh_m, car.yaw_rad)))
    camera_T_world = inverse(torch.from_numpy(EGO @ mount.ego_T_sensor))
    pixels, depth = project_points(torch.from_numpy(mount.intrinsics(*SIZE)), camera_T_world, corners)
    assert (depth > 0).all()
    low, high = pixels.min(0).values.numpy(), pixels.max(0).values.numpy()
    centers = np.stack([cols + 0.5, rows + 0.5], axis=1)
    assert (centers >= low - 0.5).all() and (centers <= high + 0.5).all()
    # And they fill it: the car's outline is most of its box's.
    covered = np.ptp(centers, axis=0) + 1
    assert (covered > 0.75 * np.minimum(high, SIZE).clip(0) - 0.75 * np.maximum(low, 0)).all()


def test_quaternion_and_matrix_of_every_mount_agree() -> None:
    from pyquaternion import Quaternion

    for mount in RIG.values():
        np.testing.assert_allclose(Quaternion(mount.quaternion_wxyz).rotation_matrix, mount.ego_R_sensor, atol=1e-12)
        assert mount.quaternion_wxyz[0] >= 0


def test_the_middle_ray_is_the_optical_axis() -> None:
    rays = camera.pixel_rays(RIG["CAM_FRONT"], 1600, 900).reshape(900, 1600, 3)
    np.testing.assert_allclose(rays[479:481, 815:817].mean((0, 1)), [0.0, 0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1.0, atol=1e-6)


def test_shadow_lies_under_the_car(field_world: World, make_car: Callable[..., Actor]) -> None:
    place = EGO @ np.array([12.0, 0.0, 0.0, 1.0])
    car = make_car(float(place[0]), float(place[1]), yaw_rad=0.4)
    light = daylight(to_sun=(float(np.sin(-0.4)) * 0.7, float(-np.cos(-0.4)) * 0.7, 0.714))
    field_world.set_actors([])
    mount = RIG["CAM_FRONT"]
    pose = EGO @ mount.ego_T_sensor
    rays = camera.pixel_rays(mount, *SIZE) @ pose[:3, :3].T.astype(np.float32)
    rng = np.random.default_rng(0)
    field_world.set_actors([car])
    hits = field_world.cast(pose[:3, 3], rays)
    lit = camera.radiance(field_world, pose[:3, 3], rays, hits, light, SIZE, rng).mean(1)
    ground = (hits.instance != NOTHING) & (hits.instance != car.instance)
    dark, bright = np.percentile(lit[ground & (hits.distance_m < 16)], [1, 60])
    assert dark < 0.6 * bright


def test_haze_brings_far_things_to_its_colour(field_world: World) -> None:
    light = replace(daylight(), visibility_m=20.0)
    mount = RIG["CAM_FRONT"]
    pose = EGO @ mount.ego_T_sensor
    rays = camera.pixel_rays(mount, *SIZE) @ pose[:3, :3].T.astype(np.float32)
    hits = field_world.cast(pose[:3, 3], rays)
    seen = camera.radiance(field_world, pose[:3, 3], rays, hits, light, SIZE, np.random.default_rng(0))
    far = np.isfinite(hits.distance_m) & (hits.distance_m > 120)
    assert far.any()
    np.testing.assert_allclose(seen[far], np.broadcast_to(light.haze, seen[far].shape), atol=0.01)


def test_pictures_are_well_exposed_in_any_light(field_world: World) -> None:
    for seed in range(12):
        light = camera.sample_daylight(np.random.default_rng(seed))
        pixels, _ = take(field_world, "CAM_FRONT", light)
        assert pixels.dtype == np.uint8 and pixels.shape == (SIZE[1], SIZE[0], 3)
        assert 50 < pixels.mean() < 200, light
        assert (pixels == 255).mean() < 0.3


def test_same_seed_same_picture(field_world: World) -> None:
    light = camera.sample_daylight(np.random.default_rng(3))
    np.testing.assert_array_equal(take(field_world, "CAM_BACK", light)[0], take(field_world, "CAM_BACK", light)[0])


def test_picture_size_follows_the_scale() -> None:
    assert picture_size_px(0.44) == (704, 396)
    with pytest.raises(ValueError, match="image scale"):
        picture_size_px(1.5)
