"""Weather and time of day of a drive: the light its cameras see by and the air its LiDAR measures through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Colour = tuple[float, float, float]
WeatherKind = Literal["sunny", "low_sun", "overcast", "fog", "dusk", "rain", "night", "night_rain"]

#: Share of each kind among drives; night and rain as in nuScenes (12 % and 20 % of its scenes).
SHARES: dict[WeatherKind, float] = {
    "sunny": 0.40,
    "low_sun": 0.11,
    "overcast": 0.13,
    "fog": 0.02,
    "dusk": 0.05,
    "rain": 0.17,
    "night": 0.09,
    "night_rain": 0.03,
}
#: Words nuScenes' scene descriptions are searched for: "night" and "rain" whatever the case.
_WORDS: dict[WeatherKind, str] = {
    "sunny": "Sunny",
    "low_sun": "Low sun",
    "overcast": "Overcast",
    "fog": "Fog",
    "dusk": "Dusk",
    "rain": "Rain",
    "night": "Night",
    "night_rain": "Night, rain",
}


@dataclass(frozen=True)
class Weather:
    """Light, air and water of one drive. Radiances are linear RGB; a white surface in full noon sun has about 1.

    Attributes:
        kind: which preset it was drawn from.
        to_sun: unit vector towards the sun (under clouds: towards the brightest part of the sky), world frame.
        softness: how far, relative to `to_sun`, the direction of this light scatters: 0 a sun, 1 a closed sky.
        sun, zenith, horizon, haze: radiance of the sun's light on a white surface, of the sky and of the air.
        clouds: share of the sky covered by visible clouds, in [0, 1].
        cloud_seed: of their shapes.
        ambient: strength of the sky's light on surfaces relative to its own radiance.
        visibility_m: range at which the air leaves 1/e of the contrast (of the light).
        rain_mmph: rate of rain, 0 when dry.
        wetness: of the road, 0 dry to 1 a film of water.
        lamps_on: whether headlights, street lamps and windows are lit.
        key: grey level that the automatic exposure aims at, of the tone curve's input.
        exposure: stops by which it misses its target.
        noise: standard deviation of a pixel's noise in grey levels of 255.
    """

    kind: WeatherKind
    to_sun: tuple[float, float, float]
    softness: float
    sun: Colour
    zenith: Colour
    horizon: Colour
    haze: Colour
    clouds: float
    cloud_seed: int
    ambient: float
    visibility_m: float
    rain_mmph: float
    wetness: float
    lamps_on: bool
    key: float
    exposure: float
    noise: float

    @property
    def description(self) -> str:
        """A few words for the scene's description, in nuScenes' manner: "Night, rain"."""
        return _WORDS[self.kind]


def sample_weather(rng: np.random.Generator) -> Weather:
    """Draws a time of day and weather with the shares of `SHARES`."""
    kinds = list(SHARES)
    return make_weather(kinds[int(rng.choice(len(kinds), p=np.array(list(SHARES.values()))))], rng)


def make_weather(kind: WeatherKind, rng: np.random.Generator) -> Weather:
    """Weather of one kind, its details drawn.

    Raises:
        ValueError: unknown kind.
    """
    azimuth = rng.uniform(0, 2 * math.pi)
    exposure, noise = float(rng.uniform(-0.3, 0.3)), float(rng.uniform(0.8, 2.0))
    match kind:
        case "sunny" | "low_sun":
            low, high = (20.0, 62.0) if kind == "sunny" else (7.0, 18.0)
            return _clear(kind, rng.uniform(low, high), azimuth, rng, exposure, noise)
        case "overcast" | "fog" | "rain":
            return _clouded(kind, azimuth, rng, exposure, noise)
        case "dusk" | "night" | "night_rain":
            return _dark(kind, azimuth, rng, exposure, noise)
        case _:
            raise ValueError(f"weather '{kind}' is unknown; choose one of {', '.join(get_args(WeatherKind))}")


def _clear(
    kind: WeatherKind, height_deg: float, azimuth: float, rng: np.random.Generator, exposure: float, noise: float
) -> Weather:
    height = math.radians(height_deg)
    warm, dim = max(0.0, 1 - height_deg / 35), 0.5 + 0.5 * math.sin(height)
    horizon = ((0.78 + 0.26 * warm) * dim, (0.86 - 0.04 * warm) * dim, (0.95 - 0.33 * warm) * dim)
    return Weather(
        kind=kind,
        to_sun=_unit(height, azimuth),
        softness=0.0,
        sun=(1.3 * dim, (1.2 - 0.3 * warm) * dim, (1.08 - 0.62 * warm) * dim),
        zenith=(0.22 * dim, 0.38 * dim, 0.70 * dim),
        horizon=horizon,
        haze=(horizon[0] * 0.65, horizon[1] * 0.67, horizon[2] * 0.70),
        clouds=float(rng.uniform(0.0, 0.65)),
        cloud_seed=int(rng.integers(1 << 31)),
        ambient=0.23,
        visibility_m=float(rng.choice([900.0, 1800.0, 3000.0, 5000.0])),
        rain_mmph=0.0,
        wetness=0.0,
        lamps_on=False,
        key=0.09 if kind == "sunny" else 0.08,
        exposure=exposure,
        noise=noise,
    )


def _clouded(kind: WeatherKind, azimuth: float, rng: np.random.Generator, exposure: float, noise: float) -> Weather:
    rains = kind == "rain"
    dim = float(rng.uniform(0.35, 0.6) if rains else rng.uniform(0.6, 1.0))
    horizon = (0.66 * dim, 0.68 * dim, 0.70 * dim)
    rain_mmph = float(np.exp(rng.uniform(np.log(0.8), np.log(12.0)))) if rains else 0.0
    clear_m = {"overcast": rng.uniform(900, 3000), "fog": rng.uniform(60, 160)}.get(kind, 1500 / (1 + 0.25 * rain_mmph))
    return Weather(
        kind=kind,
        to_sun=_unit(math.radians(80), azimuth),
        softness=0.9,
        sun=(0.42 * dim, 0.44 * dim, 0.46 * dim),
        zenith=(0.46 * dim, 0.49 * dim, 0.53 * dim),
        horizon=horizon,
        haze=(horizon[0] * 0.92, horizon[1] * 0.93, horizon[2] * 0.95),
        clouds=0.8,
        cloud_seed=int(rng.integers(1 << 31)),
        ambient=0.36,
        visibility_m=float(clear_m),
        rain_mmph=rain_mmph,
        wetness=float(rng.uniform(0.7, 1.0)) if rains else 0.0,
        lamps_on=bool(rains and rng.random() < 0.6),
        key=0.085,
        exposure=exposure,
        noise=noise,
    )


def _dark(kind: WeatherKind, azimuth: float, rng: np.random.Generator, exposure: float, noise: float) -> Weather:
    rains = kind == "night_rain"
    if kind == "dusk":
        dim = float(rng.uniform(0.03, 0.08))
        zenith, horizon = (0.30 * dim, 0.42 * dim, 0.75 * dim), (0.95 * dim, 0.80 * dim, 0.72 * dim)
    else:
        dim = float(rng.uniform(0.0015, 0.004))
        # A city's sky glows faintly orange.
        zenith, horizon = (0.09 * dim, 0.09 * dim, 0.11 * dim), (0.42 * dim, 0.36 * dim, 0.30 * dim)
    rain_mmph = float(np.exp(rng.uniform(np.log(0.8), np.log(8.0)))) if rains else 0.0
    return Weather(
        kind=kind,
        to_sun=_unit(math.radians(75), azimuth),
        softness=0.9,
        sun=(0.25 * dim, 0.25 * dim, 0.28 * dim),
        zenith=zenith,
        horizon=horizon,
        haze=(horizon[0] * 0.8, horizon[1] * 0.8, horizon[2] * 0.8),
        clouds=0.4 if kind == "dusk" else 0.0,
        cloud_seed=int(rng.integers(1 << 31)),
        # After dark most of the light comes from lamps out of sight, not from the sky.
        ambient=0.6 if kind == "dusk" else 3.5,
        visibility_m=1500 / (1 + 0.25 * rain_mmph),
        rain_mmph=rain_mmph,
        wetness=float(rng.uniform(0.7, 1.0)) if rains else 0.0,
        lamps_on=True,
        key=0.055 if kind == "dusk" else 0.03,
        exposure=exposure,
        noise=noise if kind == "dusk" else noise + 2.0,
    )


def _unit(height_rad: float, azimuth_rad: float) -> tuple[float, float, float]:
    flat = math.cos(height_rad)
    return flat * math.cos(azimuth_rad), flat * math.sin(azimuth_rad), math.sin(height_rad)
