"""Weather: shares as in nuScenes, fields that agree with the kind."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import pytest

from fusionperc.simulation.sensors.sky import Sky
from fusionperc.simulation.sensors.weather import SHARES, Weather, WeatherKind, make_weather, sample_weather

KINDS: tuple[WeatherKind, ...] = get_args(WeatherKind)


def drawn(kind: WeatherKind, count: int = 30) -> list[Weather]:
    return [make_weather(kind, np.random.default_rng(seed)) for seed in range(count)]


def test_shares_are_those_of_nuscenes() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    words = Counter(word for _ in range(4000) for word in sample_weather(rng).description.lower().split(", "))
    assert 0.10 < words["night"] / 4000 < 0.14
    assert 0.17 < words["rain"] / 4000 < 0.23


@pytest.mark.parametrize("kind", KINDS)
def test_fields_agree_with_the_kind(kind: WeatherKind) -> None:
    for weather in drawn(kind):
        words = weather.description.lower()
        assert np.linalg.norm(weather.to_sun) == pytest.approx(1.0) and weather.to_sun[2] > 0
        assert ("rain" in words) == (weather.rain_mmph > 0) == (weather.wetness > 0) == ("rain" in kind)
        assert ("night" in words) == ("night" in kind)
        assert weather.lamps_on or kind not in ("dusk", "night", "night_rain")
        assert weather.visibility_m > 0 and 0 <= weather.clouds <= 1


def test_light_falls_from_noon_to_night() -> None:
    noon, dusk, night = (np.mean([weather.horizon for weather in drawn(kind)]) for kind in ("sunny", "dusk", "night"))
    assert noon > 4 * dusk > 40 * night


def test_fog_and_heavy_rain_shorten_the_view() -> None:
    fog, clear = (np.median([weather.visibility_m for weather in drawn(kind)]) for kind in ("fog", "overcast"))
    assert fog < 0.2 * clear
    rain = drawn("rain", 60)
    order = np.argsort([weather.rain_mmph for weather in rain])
    visibility = np.array([weather.visibility_m for weather in rain])[order]
    assert (np.diff(visibility) <= 0).all()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="weather 'hail' is unknown; choose one of sunny"):
        make_weather("hail", np.random.default_rng(0))  # type: ignore[arg-type]


def test_same_seed_same_weather_and_sky() -> None:
    one, other = (make_weather("sunny", np.random.default_rng(5)) for _ in range(2))
    assert one == other
    up = np.array([[0.3, 0.0], [0.2, 0.5], [0.9, 0.8]], dtype=np.float32)
    up /= np.linalg.norm(up, axis=0)
    np.testing.assert_array_equal(Sky(one).light(up, has_disc=False), Sky(other).light(up, has_disc=False))


def test_the_sky_is_brightest_at_the_sun_and_continues_below_the_horizon() -> None:
    weather = make_weather("sunny", np.random.default_rng(2))
    sky = Sky(weather)
    to_sun = np.array(weather.to_sun, dtype=np.float32)
    away = np.array([-to_sun[0], -to_sun[1], to_sun[2]], dtype=np.float32)
    at_sun, opposite = sky.light(np.stack([to_sun, away], axis=1), has_disc=True).mean(0)
    assert at_sun > 4 * opposite
    angle = np.linspace(0, 6, 40, dtype=np.float32)
    level, below = (
        np.stack([np.cos(angle) * flat, np.sin(angle) * flat, np.full_like(angle, z)])
        for flat, z in ((1.0, 0.0), (0.8, -0.6))
    )
    np.testing.assert_allclose(sky.light(level, has_disc=False), sky.light(below, has_disc=False), rtol=0.03)
