"""Cameras in the world: daylight with shadows, sky, haze and reflections, shaded in numpy.

One ray a pixel. Radiance is linear RGB in units in which a white surface in full noon sun is about 1; a tone curve and
the sRGB gamma make the picture. Everything is float32: it is the slowest part of the simulator.

Source: Schlick, "An inexpensive BRDF model for physically-based rendering", 1994 (Fresnel term).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from fusionperc.simulation.rig import Mount
from fusionperc.simulation.world import NOTHING, Hits, World

Colour = tuple[float, float, float]
FloatArray = NDArray[np.float32]

#: Start of a shadow ray above its surface, and its length.
_SHADOW_OFFSET_M, _SHADOW_LENGTH_M = 0.02, 150.0
#: Soft shadows have one draw a pixel; their mean over a square of this side hides the grain.
_SMOOTHING_PX = 7
#: Reflectance of glass and clear coat at right angles.
_FRESNEL_ZERO = np.float32(0.05)
_GAMMA_STEPS = 4096
#: Grey level of the tone curve's input that the automatic exposure aims at.
_EXPOSURE_TARGET = 0.16


@dataclass(frozen=True)
class Daylight:
    """Light and air of one drive.

    Attributes:
        to_sun: unit vector towards the sun (under clouds: towards the brightest part of the sky), world frame.
        softness: how far, relative to `to_sun`, the direction of this light scatters: 0 a sun, 1 a closed sky.
        sun, zenith, horizon, haze: linear RGB radiance.
        ambient: strength of the sky's light on surfaces relative to its own radiance.
        visibility_m: range at which haze leaves 1/e of the contrast.
        exposure: stops by which the exposure misses its target.
        noise: standard deviation of a pixel's noise in grey levels of 255.
    """

    to_sun: tuple[float, float, float]
    softness: float
    sun: Colour
    zenith: Colour
    horizon: Colour
    haze: Colour
    ambient: float
    visibility_m: float
    exposure: float
    noise: float

    @property
    def description(self) -> str:
        """A few words for the scene's description."""
        height = math.degrees(math.asin(self.to_sun[2]))
        sky = (
            "overcast" if self.softness > 0.5 else "low sun" if height < 18 else "noon sun" if height > 45 else "sunny"
        )
        return f"{sky}{', hazy' if self.visibility_m < 250 else ''}"


def sample_daylight(rng: np.random.Generator) -> Daylight:
    """Draws a time of day and weather: sunny, overcast, low and warm sun, hazy."""
    elevation, azimuth = math.radians(rng.uniform(9, 62)), rng.uniform(0, 2 * math.pi)
    overcast = bool(rng.random() < 0.25)
    dim = 0.5 + 0.5 * math.sin(elevation)
    sun: Colour
    zenith: Colour
    horizon: Colour
    if overcast:
        sun = (0.42 * dim, 0.44 * dim, 0.46 * dim)
        zenith, horizon = (0.46 * dim, 0.49 * dim, 0.53 * dim), (0.66 * dim, 0.68 * dim, 0.70 * dim)
        elevation = math.radians(80)
    else:
        warm = max(0.0, 1 - math.degrees(elevation) / 35)
        strength = 0.5 + 0.5 * math.sin(elevation)
        sun = (1.3 * strength, (1.2 - 0.3 * warm) * strength, (1.08 - 0.62 * warm) * strength)
        zenith = (0.15 * dim, 0.30 * dim, 0.64 * dim)
        horizon = ((0.56 + 0.22 * warm) * dim, (0.64 - 0.02 * warm) * dim, (0.74 - 0.25 * warm) * dim)
    flat = math.cos(elevation)
    return Daylight(
        to_sun=(flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)),
        softness=0.9 if overcast else 0.0,
        sun=sun,
        zenith=zenith,
        horizon=horizon,
        haze=(horizon[0] * 0.9, horizon[1] * 0.92, horizon[2] * 0.95),
        ambient=0.45,
        visibility_m=float(rng.choice([200.0, 500.0, 900.0, 1500.0])),
        exposure=float(rng.uniform(-0.3, 0.3)),
        noise=float(rng.uniform(0.8, 2.2)),
    )


@lru_cache(maxsize=16)
def _pixel_rays(
    focal_x: float, focal_y: float, center_x: float, center_y: float, width: int, height: int
) -> FloatArray:
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(u - center_x) / focal_x, (v - center_y) / focal_y, np.ones_like(u)], axis=-1).reshape(-1, 3)
    unit: FloatArray = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def pixel_rays(mount: Mount, width_px: int, height_px: int) -> FloatArray:
    """(height * width, 3) unit vectors through the pixels' centres, row by row, in the camera's frame."""
    matrix = mount.intrinsics(width_px, height_px)
    return _pixel_rays(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], width_px, height_px)


@lru_cache(maxsize=16)
def _vignette(width: int, height: int) -> FloatArray:
    """(height * width, 1) fall-off of a lens towards the corners."""
    u, v = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height) * height / width)
    falloff: FloatArray = (1 - 0.16 * (u * u + v * v)).reshape(-1, 1).astype(np.float32)
    return falloff


def picture(
    world: World,
    mount: Mount,
    world_T_camera: NDArray[np.float64],
    daylight: Daylight,
    size_px: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Takes a picture.

    Args:
        world: what is seen, its actors already placed.
        mount: the camera.
        world_T_camera: (4, 4) its pose (x right, y down, z forward).
        daylight: light and air.
        size_px: width, height.
        rng: draws the noise.

    Returns:
        (height, width, 3) sRGB picture and (height, width) `Hits.instance` of each pixel.
    """
    width, height = size_px
    directions = pixel_rays(mount, width, height) @ world_T_camera[:3, :3].T.astype(np.float32)
    hits = world.cast(world_T_camera[:3, 3], directions)
    light = radiance(world, world_T_camera[:3, 3], directions, hits, daylight, size_px, rng)
    light *= _vignette(width, height)
    pixels = _developed(light, daylight, rng)
    return pixels.reshape(height, width, 3), hits.instance.reshape(height, width)


def radiance(
    world: World,
    origin_m: NDArray[np.float64],
    directions: FloatArray,
    hits: Hits,
    daylight: Daylight,
    size_px: tuple[int, int],
    rng: np.random.Generator,
) -> FloatArray:
    """(height * width, 3) linear RGB along the rays of a picture, row by row."""
    to_sun = np.array(daylight.to_sun, dtype=np.float32)
    solid = np.flatnonzero(hits.instance != NOTHING)
    light = np.empty((len(directions), 3), dtype=np.float32)
    empty = np.flatnonzero(hits.instance == NOTHING)
    light[empty] = sky(directions[empty], daylight)
    if len(solid) == 0:
        return light
    view, normal, albedo = directions[solid], hits.normal[solid], hits.albedo[solid]
    distance, gloss = hits.distance_m[solid], hits.gloss[solid]

    facing_sun = normal @ to_sun
    lit = np.flatnonzero(facing_sun > 0)
    points = view[lit] * distance[lit, None] + origin_m.astype(np.float32) + normal[lit] * np.float32(_SHADOW_OFFSET_M)
    towards = _shadow_directions(to_sun, daylight.softness, len(lit), rng)
    in_sun = np.zeros(len(solid), dtype=np.float32)
    in_sun[lit] = ~world.occluded(points, towards, _SHADOW_LENGTH_M)
    if daylight.softness > 0:
        in_sun[lit] = _smoothed(in_sun[lit], solid[lit], size_px)

    sun = np.array(daylight.sun, dtype=np.float32)
    surface = (in_sun * np.maximum(facing_sun, 0))[:, None] * sun
    surface += _ambient(normal[:, 2], daylight)
    surface *= albedo
    shiny = np.flatnonzero(gloss > 0.05)
    if len(shiny):
        surface[shiny] += _reflections(view[shiny], normal[shiny], gloss[shiny], in_sun[shiny], to_sun, daylight)
    clear = np.exp(distance * np.float32(-1 / daylight.visibility_m))[:, None]
    haze = np.array(daylight.haze, dtype=np.float32)
    light[solid] = haze + (surface - haze) * clear
    return light


def _shadow_directions(to_sun: FloatArray, softness: float, count: int, rng: np.random.Generator) -> FloatArray:
    """(count, 3) where shadow rays go: to the sun, or scattered over the sky around it, one draw a pixel."""
    if softness == 0:
        return np.broadcast_to(to_sun, (count, 3))
    towards = to_sun + np.float32(softness) * rng.standard_normal((count, 3), dtype=np.float32)
    towards[:, 2] = np.abs(towards[:, 2]) + np.float32(0.05)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    return np.asarray(towards, dtype=np.float32)


def _smoothed(values: FloatArray, pixels: NDArray[np.int64], size_px: tuple[int, int]) -> FloatArray:
    """Mean of `values` (P,) at flat `pixels` over each one's neighbourhood, among these pixels only."""
    width, height = size_px
    given = np.zeros((2, height, width), dtype=np.float32)
    given.reshape(2, -1)[:, pixels] = values, np.ones_like(values)
    total, count = (uniform_filter(layer, _SMOOTHING_PX) for layer in given)
    return np.asarray((total / np.maximum(count, np.float32(1e-6))).reshape(-1)[pixels], dtype=np.float32)


def _ambient(normal_z: FloatArray, daylight: Daylight) -> FloatArray:
    """(R, 3) light from the sky's half above and, weaker, from the ground below."""
    above = (np.array(daylight.zenith) * 0.6 + np.array(daylight.horizon) * 0.4) * daylight.ambient
    below = (np.array(daylight.sun) * daylight.to_sun[2] * 0.12 + np.array(daylight.horizon) * 0.15) * daylight.ambient
    up = (np.float32(0.5) + np.float32(0.5) * normal_z)[:, None]
    return up * (above - below).astype(np.float32) + below.astype(np.float32)


def _reflections(
    view: FloatArray, normal: FloatArray, gloss: FloatArray, in_sun: FloatArray, to_sun: FloatArray, daylight: Daylight
) -> FloatArray:
    """(R, 3) mirrored sky and the sun's glint; near the horizon, where objects would be mirrored, it is darker."""
    cos = -(view * normal).sum(1)
    mirrored = view + (2 * cos)[:, None] * normal
    fresnel = _FRESNEL_ZERO + (1 - _FRESNEL_ZERO) * _fifth_power(1 - np.clip(cos, 0, 1))
    seen = sky(mirrored, daylight, has_disc=False)
    seen *= np.clip(0.25 + 3 * mirrored[:, 2:], 0.12, 1).astype(np.float32)
    glint = np.clip(mirrored @ to_sun, 0, 1) ** 180 * np.float32(14.0 * (1 - daylight.softness)) * in_sun
    seen += glint[:, None] * np.array(daylight.sun, dtype=np.float32)
    seen *= (gloss * fresnel)[:, None]
    return seen


def _fifth_power(value: FloatArray) -> FloatArray:
    """Products are ten times faster than numpy's power."""
    square = value * value
    return square * square * value


def sky(directions: FloatArray, daylight: Daylight, *, has_disc: bool = True) -> FloatArray:
    """(R, 3) radiance of the sky: bright at and below the horizon, a glow around the sun and, if wanted, its disc."""
    zenith, horizon = np.array(daylight.zenith, np.float32), np.array(daylight.horizon, np.float32)
    up = np.clip(directions[:, 2:], 0, 1)
    left = (1 - up) ** 2
    light = zenith + (horizon - zenith) * (left * left)
    towards_sun = directions @ np.array(daylight.to_sun, dtype=np.float32)
    near_sun = np.flatnonzero(towards_sun > 0.75)
    if daylight.softness == 0 and len(near_sun):
        cos = towards_sun[near_sun]
        glow = cos**24 * np.float32(0.25)
        if has_disc:
            glow += np.where(cos > 0.9993, np.float32(6.0), np.float32(0))
        light[near_sun] += glow[:, None] * np.array(daylight.sun, dtype=np.float32)
    return np.asarray(light, dtype=np.float32)


@lru_cache(maxsize=1)
def _gamma_table() -> NDArray[np.int16]:
    """sRGB code value of the tone curve's output in steps of 1 / `_GAMMA_STEPS`."""
    linear = np.arange(_GAMMA_STEPS + 1) / _GAMMA_STEPS
    code = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: NDArray[np.int16] = np.rint(code * 255).astype(np.int16)
    return table


def _developed(light: FloatArray, daylight: Daylight, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(R, 3) sRGB bytes: automatic exposure, tone curve, gamma, noise."""
    # The geometric mean ignores the sun's disc and a bright sky better than the mean does.
    brightness = float(np.exp(np.log(light[::17].mean(1) + 1e-3).mean()))
    gain = min(max(_EXPOSURE_TARGET / brightness, 0.5), 4.0) * 2.0**daylight.exposure
    exposed = light * np.float32(gain)
    # Linear in the shadows, rolling off towards white.
    exposed /= np.float32(0.55) + exposed * np.float32(0.55)
    np.clip(exposed * np.float32(_GAMMA_STEPS), 0, _GAMMA_STEPS, out=exposed)
    code = _gamma_table()[exposed.astype(np.int16)]
    # A pool of noise read from a random place looks the same and costs a tenth of fresh draws.
    pool = np.rint(rng.standard_normal(1 << 16, dtype=np.float32) * np.float32(daylight.noise)).astype(np.int16)
    start = int(rng.integers(len(pool)))
    code += np.resize(np.roll(pool, start), code.size).reshape(code.shape)
    return np.clip(code, 0, 255).astype(np.uint8)
