"""From radiance to the picture file's bytes: bloom, drops on the lens, vignette, exposure, tone curve, noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter1d

from fusionperc.simulation.sensors.planes import Float
from fusionperc.simulation.sensors.weather import Weather

_GAMMA_STEPS = 4096
#: The automatic exposure's range.
_MIN_GAIN, _MAX_GAIN = 0.4, 26.0
#: A sensor's colours are paler than the scene's.
_SATURATION = np.float32(0.66)
#: Share of a pixel's light that goes to each neighbour.
_SPREAD = np.float32(0.05)
#: By day only the sun in the picture is brighter than this and makes a bloom.
_DAZZLING = 5.0
#: Bloom is worked out on squares of this side: widths of its two halos, and their shares of the light above white.
_BLOOM_PX = 4
_BLOOM_SIGMAS, _BLOOM_SHARES = (1.2, 6.0), (0.16, 0.05)


def gain(light: Float, weather: Weather) -> float:
    """The automatic exposure of a picture's radiance (3, R)."""
    # The geometric mean ignores the sun's disc and a bright sky better than the mean does.
    brightness = float(np.exp(np.log(light[:, ::17].mean(0) + 1e-4).mean()))
    return float(min(max(weather.key / brightness, _MIN_GAIN), _MAX_GAIN) * 2.0**weather.exposure)


def toned(exposed: Float) -> Float:
    """Tone curve: linear in the shadows, rolling off towards white."""
    return exposed / (np.float32(0.55) + exposed * np.float32(0.55))


def develop(exposed: Float, weather: Weather, size_px: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture (height, width, 3) of exposed radiance (3, height * width), which is overwritten."""
    width, height = size_px
    planes = exposed.reshape(3, height, width)
    if weather.lamps_on or planes[1].max() > _DAZZLING:
        _add_bloom(planes)
    if weather.rain_mmph > 0:
        _add_streaks(planes, weather.rain_mmph, rng)
        _add_drops(planes, weather.rain_mmph, rng)
    _blur(planes)
    planes *= _vignette(width, height)
    grey = planes.mean(0)
    planes -= grey
    planes *= _SATURATION
    planes += grey
    code = toned(planes) * np.float32(_GAMMA_STEPS)
    np.clip(code, 0, _GAMMA_STEPS, out=code)
    pixels = np.ascontiguousarray(_gamma_table()[code.astype(np.int16)].transpose(1, 2, 0))
    # A pool of noise read from a random place looks the same and costs a tenth of fresh draws.
    pool = np.rint(rng.standard_normal(1 << 16, dtype=np.float32) * np.float32(weather.noise)).astype(np.int16)
    pixels += np.resize(np.roll(pool, int(rng.integers(len(pool)))), pixels.size).reshape(pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _gamma_table() -> NDArray[np.int16]:
    """sRGB code value of the tone curve's output in steps of 1 / `_GAMMA_STEPS`."""
    linear = np.arange(_GAMMA_STEPS + 1) / _GAMMA_STEPS
    code = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: NDArray[np.int16] = np.rint(code * 255).astype(np.int16)
    return table


@lru_cache(maxsize=4)
def _vignette(width: int, height: int) -> Float:
    """(height, width) fall-off of a lens towards the corners."""
    u, v = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height) * height / width)
    return np.asarray(1 - 0.18 * (u * u + v * v), dtype=np.float32)


def _blur(planes: Float) -> None:
    """A lens is never quite sharp: a little of each pixel's light goes to its neighbours."""
    for axis in (1, 2):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        flow = (planes[tuple(ahead)] - planes[tuple(behind)]) * _SPREAD
        planes[tuple(behind)] += flow
        planes[tuple(ahead)] -= flow


def _add_bloom(planes: Float) -> None:
    """Spreads the light of what is brighter than white around it."""
    _, height, width = planes.shape
    rows, cols = height // _BLOOM_PX, width // _BLOOM_PX
    inner = planes[:, : rows * _BLOOM_PX, : cols * _BLOOM_PX]
    tall = np.add.reduce([inner[:, first::_BLOOM_PX] for first in range(_BLOOM_PX)])
    bright = np.add.reduce([tall[:, :, first::_BLOOM_PX] for first in range(_BLOOM_PX)]) / np.float32(_BLOOM_PX**2)
    excess = np.clip(bright - np.float32(1.2), 0, 12)
    for plane, source in zip(inner, excess, strict=True):
        halo = np.zeros_like(source)
        for sigma, share in zip(_BLOOM_SIGMAS, _BLOOM_SHARES, strict=True):
            halo += np.float32(share) * gaussian_filter(source, sigma)
        plane += np.asarray(Image.fromarray(halo).resize(plane.shape[::-1], Image.Resampling.BILINEAR))


def _add_streaks(planes: Float, rain_mmph: float, rng: np.random.Generator) -> None:
    """Falling drops close by: faint upright streaks, a little brighter than what is behind them."""
    _, height, width = planes.shape
    seeds = (rng.random((height, width), dtype=np.float32) < np.float32(0.0004 * rain_mmph**0.5)).astype(np.float32)
    streaks = uniform_filter1d(seeds, max(3, height // 30), axis=0) * np.float32(height / 30)
    planes += streaks * (np.float32(0.10) * planes.mean() + np.float32(0.05) * planes)


def _add_drops(planes: Float, rain_mmph: float, rng: np.random.Generator) -> None:
    """Drops on the lens: blurred discs that show what is around them upside down."""
    _, height, width = planes.shape
    for _ in range(int(rng.poisson(1.5 + 0.25 * rain_mmph))):
        radius = int(rng.uniform(0.012, 0.04) * height) + 2
        reach = 2 * radius
        if 2 * reach >= height:
            continue
        x, y = int(rng.integers(reach, width - reach)), int(rng.integers(reach, height - reach))
        around = planes[:, y - reach : y + reach, x - reach : x + reach]
        v, u = np.mgrid[-reach:reach, -reach:reach].astype(np.float32) / radius
        cover = np.clip((1.15 - np.hypot(u, v)) * 2.2, 0, 1) * np.float32(0.75)
        image = gaussian_filter(around[:, ::-1, ::-1], (0, radius * 0.5, radius * 0.5))
        around += (image - around) * cover
