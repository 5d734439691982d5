"""Cameras in the world: a ray a pixel, more of them where the picture is jagged, developed like a photograph.

Radiance is linear RGB in units in which a white surface in full noon sun is about 1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from fusionperc.simulation.sensors.lamps import lamps_near
from fusionperc.simulation.sensors.lens import develop, gain, toned
from fusionperc.simulation.sensors.planes import Float, put, taken
from fusionperc.simulation.sensors.rig import Mount
from fusionperc.simulation.sensors.shading import Seen, Shader
from fusionperc.simulation.sensors.weather import Weather
from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.world import World

#: Side of the squares over which shadows under clouds are smoothed: half its pixels are as many as `NUM_LOOKS`.
_SMOOTHING_PX = 8
#: Pixels whose brightness (square root of the tone curve's output) differs more than this from a neighbour's are jagged
#: and get more rays, but at most this share of a picture; the rays' places in the pixel.
_JAGGED_STEP, _JAGGED_SHARE = 0.07, 0.06
_PLACES_PX = ((-0.375, -0.125), (0.125, -0.375), (0.25, 0.375))
#: Light above this (1 is white) does not count more in a pixel's mean: edges of lamps would stay jagged.
_MEAN_LIMIT = np.float32(6.0)
#: A wet road's mirror image is taken at every second pixel and smoothed over (rows, columns) of those.
_MIRROR_STEP_PX, _MIRROR_SMOOTHING_PX = 2, (15, 3)


@lru_cache(maxsize=8)
def _pixel_planes(width: int, height: int) -> Float:
    u, v = np.meshgrid(np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5)
    return np.asarray(np.stack([u.ravel(), v.ravel()]), dtype=np.float32)


def pixel_rays(mount: Mount, width_px: int, height_px: int) -> Float:
    """(3, height * width) unit vectors through the pixels' centres, row by row, in the camera's frame."""
    return _rays_through(mount, _pixel_planes(width_px, height_px), (width_px, height_px))


def _rays_through(mount: Mount, pixels: Float, size_px: tuple[int, int]) -> Float:
    """(3, R) unit vectors through points (2, R) of the picture."""
    matrix = mount.intrinsics(*size_px).astype(np.float32)
    x = (pixels[0] - matrix[0, 2]) / matrix[0, 0]
    y = (pixels[1] - matrix[1, 2]) / matrix[1, 1]
    scale = 1 / np.sqrt(x * x + y * y + 1)
    return np.stack([x * scale, y * scale, scale])


def picture(
    world: World,
    mount: Mount,
    world_T_ego: NDArray[np.float64],
    weather: Weather,
    actors: list[Actor],
    size_px: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Takes a picture.

    Args:
        world: what is seen, its actors already placed.
        mount: the camera.
        world_T_ego: (4, 4) pose of the ego vehicle.
        weather: light and air.
        actors: those the world was given, for their lamps and the shade under them.
        size_px: width, height.
        rng: draws the noise.

    Returns:
        (height, width, 3) sRGB picture and (height, width) `Hits.instance` of each pixel.
    """
    width, height = size_px
    world_T_camera = world_T_ego @ mount.ego_T_sensor
    turn, origin = world_T_camera[:3, :3].astype(np.float32), world_T_camera[:3, 3]
    lamps = []
    if weather.lamps_on and weather.sun[1] < 0.1:
        lamps = lamps_near(origin, world_T_ego, actors, world.town.poles, world.town.terrain)
    spread_rad = 1.0 / float(mount.intrinsics(*size_px)[0, 0])
    shader = Shader(world, weather, origin, actors, lamps, spread_rad)
    may_meet = _covered(actors, mount, world_T_camera, size_px)
    seen = shader.see(turn @ pixel_rays(mount, width, height), may_meet=may_meet)
    sunlit = _sunlit(shader, seen, weather, size_px)
    mirrored = _mirror_image(shader, seen, size_px) if weather.wetness > 0 else None
    light = shader.light(seen, sunlit, mirrored)
    exposure = np.float32(gain(light, weather))
    light *= exposure
    # A pixel's rays follow each other: near rays are quicker together.
    jagged = _jagged(light, size_px)
    rays = np.repeat(jagged, len(_PLACES_PX))
    pixels = taken(_pixel_planes(*size_px), rays) + np.tile(np.array(_PLACES_PX, np.float32).T, len(jagged))
    more = shader.see(turn @ _rays_through(mount, pixels, size_px), may_meet=may_meet[rays])
    share = sunlit[rays] if weather.softness > 0 else shader.sunlit(more, more.is_solid)
    finer = shader.light(more, share, None if mirrored is None else taken(mirrored, rays))
    finer = np.minimum(finer * exposure, _MEAN_LIMIT).reshape(3, -1, len(_PLACES_PX)).sum(2)
    put(light, jagged, (np.minimum(taken(light, jagged), _MEAN_LIMIT) + finer) / np.float32(1 + len(_PLACES_PX)))
    if mount.channel == "CAM_BACK":
        _add_own_body(light.reshape(3, height, width))
    return develop(light, weather, size_px, rng), seen.hits.instance.reshape(height, width)


def _add_own_body(planes: Float) -> None:
    """The ego vehicle's own boot lid at the lower edge, mirroring what is above the horizon."""
    _, height, width = planes.shape
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)[:, int(0.93 * height) :]
    edge = (np.float32(0.957) + np.float32(0.045) * (u / width * 2 - 1) ** 2) * height
    cover = np.clip(v - edge, 0, 1)
    sky = planes[:, : height // 3].mean((1, 2))[:, None, None]
    paint = sky * (np.float32(0.20) + np.float32(0.25) * np.exp(-(v - edge) / np.float32(0.012 * height)))
    lower = planes[:, int(0.93 * height) :]
    lower += (paint - lower) * cover


def _covered(
    actors: list[Actor], mount: Mount, world_T_camera: NDArray[np.float64], size_px: tuple[int, int]
) -> NDArray[np.bool_]:
    """(P,) pixels inside the rectangle around some actor's box, a little enlarged."""
    width, height = size_px
    covered = np.zeros((height, width), dtype=bool)
    if not actors:
        return covered.ravel()
    centers = np.array([actor.center_m for actor in actors])
    # A cube around the box serves whatever the heading, slope and stride.
    half = np.array([np.linalg.norm(actor.size_lwh_m) for actor in actors]) / 2 + 0.3
    signs = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(8, 3)
    camera_R_world = world_T_camera[:3, :3].T
    middle = (centers - world_T_camera[:3, 3]) @ camera_R_world.T
    corners = middle[:, None] + half[:, None, None] * signs
    depth = np.maximum(corners[..., 2], 0.05)
    matrix = mount.intrinsics(*size_px)
    u, v = (corners[..., axis] / depth * matrix[axis, axis] + matrix[axis, 2] for axis in (0, 1))
    low = np.maximum(np.stack([u.min(1), v.min(1)], 1) - 2, 0)
    high = np.minimum(np.stack([u.max(1), v.max(1)], 1) + 2, size_px)
    for (u0, v0), (u1, v1) in zip(low[middle[:, 2] > -half], high[middle[:, 2] > -half], strict=True):
        if u0 < u1 and v0 < v1:
            covered[int(v0) : int(v1) + 1, int(u0) : int(u1) + 1] = True
    return covered.ravel()


def _jagged(light: Float, size_px: tuple[int, int]) -> NDArray[np.int64]:
    """Flat indices of the pixels that differ most from the one beside or below them, or those from them."""
    width, height = size_px
    tone = np.sqrt(toned(light.mean(0))).reshape(height, width)
    step = np.zeros_like(tone)
    across, down = np.abs(np.diff(tone, axis=1)), np.abs(np.diff(tone, axis=0))
    for part, change in ((step[:, 1:], across), (step[:, :-1], across), (step[1:], down), (step[:-1], down)):
        np.maximum(part, change, out=part)
    count = int(_JAGGED_SHARE * step.size)
    limit = max(float(np.partition(step.ravel(), -count)[-count]), _JAGGED_STEP)
    return np.flatnonzero(step.ravel() > limit)


def _sunlit(shader: Shader, seen: Seen, weather: Weather, size_px: tuple[int, int]) -> Float:
    """(P,) share of the sun's light on every pixel: asked at every second one, like the black squares of a chessboard.

    Under a sun the other pixels take their neighbours' answer where all agree. Under clouds every square of
    `_SMOOTHING_PX` looks into all directions once, so that its mean has no grain.
    """
    width, height = size_px
    rows, cols = np.ogrid[:height, :width]
    asked = (rows + cols) % 2 == 0
    if weather.softness > 0:
        look = (rows % _SMOOTHING_PX * _SMOOTHING_PX + cols % _SMOOTHING_PX) // 2
        share = shader.sunlit(seen, asked.ravel(), look.ravel()).reshape(height, width)
        asked &= seen.is_solid.reshape(height, width)
        count = uniform_filter(asked.astype(np.float32), _SMOOTHING_PX)
        total = uniform_filter(share * asked, _SMOOTHING_PX)
        return np.asarray(total / np.maximum(count, np.float32(1e-6)), dtype=np.float32).ravel()
    share = shader.sunlit(seen, asked.ravel()).reshape(height, width)
    around = np.pad(share, 1, mode="reflect")
    beside = np.stack([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
    low, high = beside.min(0), beside.max(0)
    again = ~asked & (low != high)
    share = np.where(asked, share, low)
    share[again] = shader.sunlit(seen, again.ravel()).reshape(height, width)[again]
    return share.ravel()


def _mirror_image(shader: Shader, seen: Seen, size_px: tuple[int, int]) -> Float:
    """(3, P) what the wet ground mirrors at every pixel: smeared upright, as rough water does."""
    width, height = size_px
    step = _MIRROR_STEP_PX
    is_ground = seen.is_ground.reshape(height, width)[::step, ::step]
    rows, cols = np.nonzero(is_ground)
    image = np.zeros((3, *is_ground.shape), dtype=np.float32)
    image[:, rows, cols] = np.minimum(shader.mirror_image(seen, rows * step * width + cols * step), _MEAN_LIMIT)
    weight = np.maximum(uniform_filter(is_ground.astype(np.float32), _MIRROR_SMOOTHING_PX), np.float32(1e-3))
    smeared = np.stack([uniform_filter(plane, _MIRROR_SMOOTHING_PX) / weight for plane in image])
    return np.ascontiguousarray(smeared.repeat(step, 1).repeat(step, 2)[:, :height, :width]).reshape(3, -1)
