"""The sky of one drive: a panorama with clouds, glow around the sun and a skyline in the haze, painted once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from fusionperc.simulation.sensors.planes import Float
from fusionperc.simulation.sensors.weather import Weather

#: Side of the panorama, a disc with the zenith in the middle and the horizon as its edge.
_SIDE_PX = 896
_CLOUD_TILE_PX = 512
#: Mean height of the clouds in cloud tiles' texels, and curvature that keeps them finite at the horizon.
_CLOUD_SCALE, _CURVATURE = 95.0, 0.09
#: How far off the skyline is, for the haze.
_SKYLINE_M = 500.0


class Sky:
    """Radiance from every direction above the horizon.

    The panorama's texel at (x, y) is the direction whose stereographic projection it is: no angles, no poles.
    """

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        axis = (np.arange(_SIDE_PX, dtype=np.float32) + 0.5) / _SIDE_PX * 2 - 1
        x, y = np.meshgrid(axis, axis)
        square = np.minimum(x * x + y * y, 1.0)
        up = (1 - square) / (1 + square)
        flat = np.stack([x, y]) / np.maximum(np.sqrt(x * x + y * y), 1e-6) * np.sqrt(1 - up * up)
        light = _clear(np.stack([*flat, up]), weather)
        rng = np.random.default_rng(weather.cloud_seed)
        light = _with_clouds(light, flat, up, weather, rng)
        light = _with_skyline(light, np.arctan2(y, x), up, weather, rng)
        # Texels of one colour lie together: a lookup touches one line of memory per corner.
        self._panorama = np.ascontiguousarray(light.reshape(3, -1), dtype=np.float32)

    def light(self, directions: Float, *, has_disc: bool) -> Float:
        """(3, R) radiance along unit vectors (3, R); below the horizon what is at the horizon."""
        x, y, z = directions
        scale = np.float32(_SIDE_PX / 2) / (1 + np.maximum(z, 0))
        # Below the horizon a vector is shorter than the disc's edge: bring it there.
        scale = np.where(z < 0, np.float32(_SIDE_PX / 2) / np.sqrt(np.maximum(x * x + y * y, 1e-6)), scale)
        column = np.clip(x * scale + np.float32(_SIDE_PX / 2 - 0.5), 0, _SIDE_PX - 2)
        row = np.clip(y * scale + np.float32(_SIDE_PX / 2 - 0.5), 0, _SIDE_PX - 2)
        left, top = column.astype(np.int32), row.astype(np.int32)
        right, below = column - left, row - top
        right, below = right.astype(np.float32), below.astype(np.float32)
        corner = top * _SIDE_PX + left
        light = np.empty((3, len(x)), dtype=np.float32)
        for channel, plane in enumerate(self._panorama):
            upper = plane[corner]
            upper += (plane[corner + 1] - upper) * right
            lower = plane[corner + _SIDE_PX]
            lower += (plane[corner + _SIDE_PX + 1] - lower) * right
            light[channel] = upper + (lower - upper) * below
        if has_disc and self._weather.softness == 0:
            disc = np.flatnonzero(np.array(self._weather.to_sun, dtype=np.float32) @ directions > np.float32(0.9997))
            light[:, disc] += 8 * np.array(self._weather.sun, dtype=np.float32)[:, None]
        return light


@lru_cache(maxsize=4)
def sky_of(weather: Weather) -> Sky:
    """The sky of a weather; painting one takes a second, so it is kept."""
    return Sky(weather)


def _clear(directions: NDArray[np.float32], weather: Weather) -> Float:
    """(3, ...) radiance without clouds: bright at the horizon, a glow around the sun."""
    zenith, horizon, sun = (
        np.array(colour, dtype=np.float32)[:, None, None] for colour in (weather.zenith, weather.horizon, weather.sun)
    )
    light = zenith + (horizon - zenith) * (1 - np.clip(directions[2], 0, 1)) ** 4
    if weather.softness == 0:
        cos = np.clip(np.tensordot(np.array(weather.to_sun, dtype=np.float32), directions, 1), 0, 1)
        light = light + sun * (0.22 * np.exp(24 * (cos - 1)) + 0.5 * np.exp(300 * (cos - 1)))
    return np.asarray(light, dtype=np.float32)


def _with_clouds(light: Float, flat: Float, up: Float, weather: Weather, rng: np.random.Generator) -> Float:
    white = rng.standard_normal((_CLOUD_TILE_PX, _CLOUD_TILE_PX), dtype=np.float32)
    layers = [gaussian_filter(white, sigma, mode="wrap") for sigma in (1.5, 4.0, 11.0, 30.0)]
    tile = sum(weight * layer / layer.std() for weight, layer in zip((0.13, 0.3, 0.6, 0.8), layers, strict=True))
    tile = tile / tile.std()
    # A layer over a round earth: near the horizon the clouds are small, but not infinitely so.
    scale = _CLOUD_SCALE / np.sqrt(up * up + _CURVATURE)
    places = flat[::-1] * scale
    towards_sun = np.array(weather.to_sun[1::-1])[:, None, None] * 5.0
    density, shifted = (
        map_coordinates(tile, p, order=1, mode="grid-wrap", output=np.float32) for p in (places, places + towards_sun)
    )
    limit = float(np.interp(weather.clouds, [0, 0.5, 1], [3.0, 0.1, -2.2]))
    cover = np.clip((density - limit) * 0.9, 0, 1)
    cover = cover * cover * (3 - 2 * cover) * np.clip(up * 14, 0, 1)
    sun, zenith, horizon = (
        np.array(colour)[:, None, None] for colour in (weather.sun, weather.zenith, weather.horizon)
    )
    if weather.softness > 0:
        shade = np.clip(1 + 0.16 * (density - 0.4) + 0.12 * (density - shifted), 0.55, 1.5)
        cloud = (0.5 * horizon + 0.5 * zenith) * shade * 1.08
    else:
        shade = np.clip(0.86 - 0.10 * (density - limit) + 0.16 * (density - shifted), 0.6, 1.0)
        cloud = shade * (0.75 * sun + 0.5 * horizon)
    return np.asarray(light + (cloud - light) * cover, dtype=np.float32)


def _with_skyline(light: Float, azimuth: Float, up: Float, weather: Weather, rng: np.random.Generator) -> Float:
    """Blocks of a distant town and tree tops between them, grey in the haze."""
    blocks = np.repeat(rng.uniform(0.0, 0.045, 90) * (rng.random(90) < 0.6), 8)
    trees = zoom(rng.uniform(0.006, 0.022, 240), 3, order=1)
    height = np.maximum(blocks, trees)
    place = ((azimuth / (2 * np.pi)) % 1.0 * len(height)).astype(np.int32) % len(height)
    inside = np.clip((height[place] - up) * 400 + 0.5, 0, 1)
    shade = np.where(blocks[place] > trees[place], 0.30, 0.16).astype(np.float32)
    haze, horizon = (np.array(colour)[:, None, None] for colour in (weather.haze, weather.horizon))
    clear = np.exp(-_SKYLINE_M / weather.visibility_m)
    lit = haze + (horizon * shade - haze) * clear
    return np.asarray(light + (lit - light) * inside, dtype=np.float32)
