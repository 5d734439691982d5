"""Simulated pictures: where things are, and how light falls on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fusionperc.geometry import box_corners, inverse, project_points
from fusionperc.simulation.sensors import camera
from fusionperc.simulation.sensors.lamps import Lamp, irradiance, lamps_near
from fusionperc.simulation.sensors.rig import RIG, picture_size_px, world_T_ego
from fusionperc.simulation.sensors.shading import Seen, Shader
from fusionperc.simulation.sensors.weather import Weather, WeatherKind, make_weather
from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.plots import Pole
from fusionperc.simulation.world.surfaces import Surfaces
from fusionperc.simulation.world.terrain import FLAT
from fusionperc.simulation.world.town import ASPHALT, WHITE, Town
from fusionperc.simulation.world.world import NOTHING, World
from fusionperc.types import CAMERAS

EGO = world_T_ego(150.0, 150.0, 0.4)
SIZE = picture_size_px(0.15)
#: One weather throughout, so that its sky is painted once.
CLEAR = replace(
    make_weather("sunny", np.random.default_rng(0)), to_sun=(0.0, 0.0, 1.0), sun=(1.0, 1.0, 1.0), clouds=0.0,
    visibility_m=1e6, noise=0.0, exposure=0.0,
)  # fmt: skip


def take(
    world: World, channel: str, weather: Weather, actors: list[Actor], seed: int = 0, size: tuple[int, int] = SIZE
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    world.set_actors(actors)
    return camera.picture(world, RIG[channel], EGO, weather, actors, size, np.random.default_rng(seed))


def look(world: World, weather: Weather, actors: list[Actor]) -> tuple[Shader, Seen]:
    """What CAM_FRONT sees, with the shader that lights it."""
    world.set_actors(actors)
    pose = EGO @ RIG["CAM_FRONT"].ego_T_sensor
    shader = Shader(world, weather, pose[:3, 3], actors, [], 0.005)
    return shader, shader.see(pose[:3, :3].astype(np.float32) @ camera.pixel_rays(RIG["CAM_FRONT"], *SIZE))


def ahead(distance_m: float, left_m: float = 0.0) -> tuple[float, float]:
    place = EGO @ np.array([distance_m, left_m, 0.0, 1.0])
    return float(place[0]), float(place[1])


@pytest.mark.parametrize("channel", CAMERAS)
def test_an_objects_pixels_lie_inside_its_projected_box(
    channel: str, field_world: World, make_car: Callable[..., Actor]
) -> None:
    mount = RIG[channel]
    along = EGO[:3, :3] @ mount.ego_R_sensor @ np.array([0.12, 0.0, 1.0])
    place = EGO[:3, 3] + 14.0 * along
    car = make_car(float(place[0]), float(place[1]), yaw_rad=1.1)
    _, instance = take(field_world, channel, CLEAR, [car])
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


@pytest.mark.parametrize("place", [(3.0, 2.5), (5.0, -1.0), (60.0, 20.0), (0.5, 3.0)])
def test_rays_that_are_not_tried_on_actors_miss_them(
    place: tuple[float, float], field_world: World, make_car: Callable[..., Actor]
) -> None:
    """The rectangles in which moving actors are looked for hide none of them, however near."""
    car = make_car(*ahead(*place), yaw_rad=0.9)
    for channel in ("CAM_FRONT", "CAM_FRONT_LEFT"):
        _, instance = take(field_world, channel, CLEAR, [car])
        pose = EGO @ RIG[channel].ego_T_sensor
        rays = (pose[:3, :3].astype(np.float32) @ camera.pixel_rays(RIG[channel], *SIZE)).T
        np.testing.assert_array_equal(instance.ravel(), field_world.cast_distance(pose[:3, 3], rays)[1])


def test_quaternion_and_matrix_of_every_mount_agree() -> None:
    from pyquaternion import Quaternion

    for mount in RIG.values():
        np.testing.assert_allclose(Quaternion(mount.quaternion_wxyz).rotation_matrix, mount.ego_R_sensor, atol=1e-12)
        assert mount.quaternion_wxyz[0] >= 0


def test_rays_invert_the_intrinsics() -> None:
    mount = RIG["CAM_FRONT"]
    rays = camera.pixel_rays(mount, 1600, 900)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=0), 1.0, atol=1e-6)
    pixels = mount.intrinsics(1600, 900) @ (rays / rays[2])
    np.testing.assert_allclose(pixels[:, [0, 1601]].T, [[0.5, 0.5, 1.0], [1.5, 1.5, 1.0]], atol=1e-3)


def test_shadow_lies_beside_the_car(field_world: World, make_car: Callable[..., Actor]) -> None:
    car = make_car(*ahead(12.0), yaw_rad=0.4)
    weather = replace(CLEAR, to_sun=(float(np.sin(-0.4)) * 0.7, float(-np.cos(-0.4)) * 0.7, 0.714))
    shader, seen = look(field_world, weather, [car])
    lit = shader.light(seen, shader.sunlit(seen, seen.is_solid)).mean(0)
    ground = seen.is_ground & (seen.hits.distance_m < 16)
    dark, bright = np.percentile(lit[ground], [1, 60])
    assert dark < 0.6 * bright


def test_a_clouded_sky_leaves_it_dark_under_the_car(field_world: World, make_car: Callable[..., Actor]) -> None:
    weather = replace(make_weather("overcast", np.random.default_rng(1)), visibility_m=1e6)
    car = make_car(*ahead(10.0), yaw_rad=0.4)
    lit = []
    for actors in ([], [car]):
        shader, seen = look(field_world, weather, actors)
        local = np.linalg.inv(EGO)[:3, :3] @ (seen.points - EGO[:3, 3:])
        behind = seen.is_ground & (np.abs(local[0] - 7.5) < 0.2) & (np.abs(local[1]) < 0.8)
        light = shader.light(seen, np.full(len(behind), 0.5, dtype=np.float32)).mean(0)
        lit.append(light[behind].mean())
    assert lit[1] < 0.9 * lit[0]


def test_haze_brings_far_things_to_its_colour(field_world: World) -> None:
    weather = replace(CLEAR, visibility_m=20.0)
    shader, seen = look(field_world, weather, [])
    light = shader.light(seen, shader.sunlit(seen, seen.is_solid))
    far = (seen.hits.instance != NOTHING) & (seen.hits.distance_m > 120)
    assert far.any()
    np.testing.assert_allclose(light[:, far].T, np.broadcast_to(weather.haze, (int(far.sum()), 3)), atol=0.01)


def test_a_wet_road_mirrors_what_stands_on_it(field_world: World, make_car: Callable[..., Actor]) -> None:
    """Where a ray mirrored by level ground meets the car, the road shows the car's red."""
    car = make_car(*ahead(15.0), yaw_rad=2.0)
    rain = replace(make_weather("rain", np.random.default_rng(3)), visibility_m=1e6, lamps_on=False)
    shader, seen = look(field_world, rain, [car])
    flipped = seen.directions * np.array([[1], [1], [-1]], dtype=np.float32)
    ground = np.flatnonzero(seen.is_ground & (seen.hits.distance_m < 30) & (flipped[2] > 0.03))
    meets = field_world.cast_distance(seen.points[:, ground].T + [0, 0, 0.03], flipped[:, ground].T)[1] == car.instance
    assert meets.sum() > 30
    image = shader.mirror_image(seen, ground)
    red = image[0] / image.sum(0)
    assert np.median(red[meets]) > np.median(red[~meets]) + 0.03


def test_texture_fades_with_distance(open_field: Town) -> None:
    """Seen from afar the ground has its mean colour; without a footprint it has no texture at all."""
    surfaces = Surfaces(open_field)
    x, y = np.random.default_rng(0).uniform(20, 280, (2, 20_000)).astype(np.float32)
    near, far = (surfaces.ground(x, y, np.full_like(x, footprint)).albedo[0] for footprint in (0.005, 1.0))
    plain = surfaces.ground(x, y, None).albedo[0]
    assert np.ptp(plain) == 0
    assert far.std() < 0.5 * near.std()
    assert near.mean() == pytest.approx(far.mean(), rel=0.05) == pytest.approx(plain[0], rel=0.05)


def test_borders_of_labels_are_smoother_than_the_maps_texels(open_field: Town) -> None:
    """A slanting edge drawn in texels of 5 cm: the look's edge is straighter than the staircase."""
    rows, cols = np.mgrid[:200, :200]
    slope = 0.3
    painted = np.where(199 - rows < 60 + slope * cols, WHITE, ASPHALT).astype(np.uint8)
    town = replace(open_field, bounds_m=(0.0, 0.0, 10.0, 10.0), surface=painted, surface_resolution_m=0.05)
    surfaces = Surfaces(town)
    x, y = (axis.ravel().astype(np.float32) for axis in np.meshgrid(np.arange(2, 8, 0.01), np.arange(2.5, 7, 0.01)))
    is_paint = surfaces.ground(x, y, np.full_like(x, 0.005)).reflectivity > 0.5
    is_texel = town.label_at(x, y) == WHITE
    truth = y < 3.0 + slope * x + 0.01
    assert (is_paint != truth).sum() < 0.8 * (is_texel != truth).sum()


def test_irradiance_under_a_street_lamp_falls_off_as_it_must() -> None:
    lamp = Lamp(np.array([0.0, 0.0, 8.0]), np.array([0.0, 0.0, -1.0]), np.ones(3), 18.0, is_beam=False)
    below = np.array([[0.0, 6.0, 30.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    up = np.tile(np.array([[0.0], [0.0], [1.0]], dtype=np.float32), 3)
    light = irradiance([lamp], below, up)
    np.testing.assert_array_equal(light[0], light[1])
    assert light[0, 0] > 2 * light[0, 1] > 0 and light[0, 2] == 0
    np.testing.assert_array_equal(irradiance([lamp], below, -up), 0)
    np.testing.assert_allclose(irradiance([lamp, lamp], below, up), 2 * light)


def test_headlights_shine_ahead_and_below_their_cut_off(make_car: Callable[..., Actor]) -> None:
    lamps = lamps_near(EGO[:3, 3], EGO, [], (), FLAT)
    assert len(lamps) == 1
    spots = [[20.0, 0.0, 0.3], [20.0, 0.0, 2.0], [-5.0, 0.0, 0.3], [20.0, 18.0, 0.3]]
    points = (EGO @ np.column_stack([spots, np.ones(4)]).T)[:3].astype(np.float32)
    towards_ego = np.tile(-EGO[:3, :1].astype(np.float32), 4)
    road, above, behind, aside = irradiance(lamps, points, towards_ego)[0]
    assert road > 4 * above and road > 10 * aside and behind == 0
    moving, far = make_car(*ahead(20.0)), make_car(*ahead(90.0))
    parked = replace(moving, attribute="vehicle.parked")
    pole = Pole("lamp", ahead(10.0), 0.0, 7.5)
    assert len(lamps_near(EGO[:3, 3], EGO, [moving, parked, far], (pole,), FLAT)) == 3


def test_lamps_light_the_night(field_world: World, make_car: Callable[..., Actor]) -> None:
    """The road ahead is lit by the ego, that behind is not; tail lamps of a parked car are off."""
    night = replace(make_weather("night", np.random.default_rng(0)), noise=0.0)
    car = make_car(*ahead(14.0), yaw_rad=0.4)
    front, instance = take(field_world, "CAM_FRONT", night, [car])
    parked, _ = take(field_world, "CAM_FRONT", night, [replace(car, attribute="vehicle.parked")])
    body = instance == car.instance
    assert np.ptp(front[SIZE[1] // 2 :].mean(-1), axis=0).max() > 60
    redness = [picture[body].astype(float)[:, 0] - picture[body].astype(float)[:, 2] for picture in (front, parked)]
    assert redness[0].max() > redness[1].max() + 15


def test_more_rays_smooth_the_edges(field_world: World, make_car: Callable[..., Actor]) -> None:
    """A picture's silhouettes come nearer to those of one four times as fine."""
    car = make_car(*ahead(11.0), yaw_rad=0.9)
    fine = take(field_world, "CAM_FRONT", CLEAR, [car], size=(4 * SIZE[0], 4 * SIZE[1]))[0].astype(float)
    reference = fine.reshape(SIZE[1], 4, SIZE[0], 4, 3).mean((1, 3))
    smooth, _ = take(field_world, "CAM_FRONT", CLEAR, [car])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camera, "_JAGGED_STEP", 10.0)
        jagged, _ = take(field_world, "CAM_FRONT", CLEAR, [car])
    worst_smooth, worst_jagged = (
        np.percentile(np.abs(picture - reference).mean(-1), 99.5) for picture in (smooth, jagged)
    )
    assert worst_smooth < 0.87 * worst_jagged


@pytest.mark.parametrize("kind", get_args(WeatherKind))
def test_pictures_are_well_exposed_in_any_light(kind: WeatherKind, field_world: World) -> None:
    pixels, _ = take(field_world, "CAM_FRONT", make_weather(kind, np.random.default_rng(4)), [])
    assert pixels.dtype == np.uint8 and pixels.shape == (SIZE[1], SIZE[0], 3)
    low, high = (15, 120) if "night" in kind else (50, 200)
    assert low < pixels.mean() < high
    assert (pixels == 255).mean() < 0.3


@pytest.mark.parametrize("kind", ["sunny", "night_rain"])
def test_same_seed_same_picture(kind: WeatherKind, field_world: World, make_car: Callable[..., Actor]) -> None:
    weather = make_weather(kind, np.random.default_rng(4))
    actors = [make_car(*ahead(-12.0))]
    one, other = (take(field_world, "CAM_BACK", weather, actors, seed=5)[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (take(field_world, "CAM_BACK", weather, actors, seed=6)[0] != one).any()


def test_picture_size_follows_the_scale() -> None:
    assert picture_size_px(0.44) == (704, 396)
    with pytest.raises(ValueError, match="image scale"):
        picture_size_px(1.5)
