"""Light on what camera rays hit: sun or clouded sky with shadows, lamps, reflections, wet roads, haze.

Colours are planar, (3, R), and everything is float32: long rows are what numpy is fast at.

Source: Schlick, "An inexpensive BRDF model for physically-based rendering", 1994 (Fresnel term).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from fusionperc.simulation.sensors.lamps import Lamp, has_lamps_on, irradiance
from fusionperc.simulation.sensors.planes import Float, put, taken
from fusionperc.simulation.sensors.sky import sky_of
from fusionperc.simulation.sensors.weather import Weather
from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.noise import Noise
from fusionperc.simulation.world.triangles import STATIC
from fusionperc.simulation.world.world import NOTHING, Hits, World

#: Start of a shadow ray above its surface, and its length.
_SHADOW_OFFSET_M, _SHADOW_LENGTH_M = np.float32(0.02), 150.0
#: The shadows of a fainter light than this are not worth their rays.
_FAINT = 0.03
#: Reflectance of glass and clear coat at right angles.
_FRESNEL_ZERO = np.float32(0.05)
#: Radiance of a headlight seen directly.
_GLOW = np.float32(3.0)
#: Contact shadows: side of their map, one texel, how far they reach, how dark they are.
_CONTACT_SIDE_M, _CONTACT_CELL_M, _CONTACT_BLUR_M, _CONTACT_DEPTH = 72.0, 0.25, 0.4, 0.8
_PUDDLES = Noise(0)
#: Directions in which a clouded sky is looked at.
NUM_LOOKS = 32
_SCATTER = np.random.default_rng(71).standard_normal((NUM_LOOKS, 3)).astype(np.float32)


@dataclass(frozen=True)
class Seen:
    """What rays hit, planar.

    Attributes:
        directions: (3, R) unit vectors of the rays.
        hits: of the rays; their arrays are not planar.
        points, normal, albedo: (3, R) world frame, metres; linear RGB.
        is_solid: (R,) whether anything was hit.
        is_ground: (R,) whether it is part of the town and level.
    """

    directions: Float
    hits: Hits
    points: Float
    normal: Float
    albedo: Float
    is_solid: NDArray[np.bool_]
    is_ground: NDArray[np.bool_]


class Shader:
    """Light of one picture.

    Args:
        world: what is seen, its actors already placed.
        weather: light and air.
        origin_m: (3,) the camera.
        actors: those of the world: they darken the ground under them, parked ones have no lamps on.
        lamps: what is lit; none by day.
        spread_rad: angle between neighbouring rays.
    """

    def __init__(
        self, world: World, weather: Weather, origin_m: NDArray[np.float64], actors: list[Actor], lamps: list[Lamp],
        spread_rad: float,
    ) -> None:  # fmt: skip
        self._world = world
        self._weather = weather
        self._sky = sky_of(weather)
        self._origin_m = origin_m
        self._lamps = lamps
        self._spread_rad = spread_rad
        self._contact = _contact_map(origin_m, actors)
        self._has_lamps = np.ones(max((actor.instance for actor in actors), default=0) + 4, dtype=bool)
        self._has_lamps[[actor.instance + 2 for actor in actors if not has_lamps_on(actor)]] = False
        self.sun = np.array(weather.sun, dtype=np.float32)[:, None]
        self.to_sun = np.array(weather.to_sun, dtype=np.float32)

    def see(self, directions: Float, origins_m: Float | None = None, may_meet: NDArray[np.bool_] | None = None) -> Seen:
        """Casts rays along (3, R) from the camera, or from origins (3, R); `may_meet` as in `World.cast`."""
        origins = self._origin_m if origins_m is None else origins_m.T
        hits = self._world.cast(origins, directions.T, self._spread_rad, may_meet)
        is_solid = hits.instance != NOTHING
        distance = np.where(is_solid, hits.distance_m, np.float32(0))
        start = self._origin_m.astype(np.float32)[:, None] if origins_m is None else origins_m
        normal = np.ascontiguousarray(hits.normal.T)
        return Seen(
            directions=directions,
            hits=hits,
            points=directions * distance + start,
            normal=normal,
            albedo=np.ascontiguousarray(hits.albedo.T),
            is_solid=is_solid,
            is_ground=(hits.instance == STATIC) & (normal[2] > np.float32(0.9)),
        )

    def sunlit(self, seen: Seen, at: NDArray[np.bool_], look: NDArray[np.integer[Any]] | None = None) -> Float:
        """Share of the sun's light that reaches the points `at` (R,), 0 elsewhere.

        Under clouds each point looks into one direction of the sky, the one of number `look` (R,) below `NUM_LOOKS`:
        the mean over all looks is what counts.
        """
        if self._weather.sun[1] < _FAINT:
            return np.full(len(seen.is_solid), 0.7, dtype=np.float32)
        share = np.zeros(len(seen.is_solid), dtype=np.float32)
        lit = np.flatnonzero((self.to_sun @ seen.normal > 0) & seen.is_solid & at)
        start = taken(seen.points, lit) + taken(seen.normal, lit) * _SHADOW_OFFSET_M
        if look is None:
            towards = np.broadcast_to(self.to_sun, (len(lit), 3))
        else:
            scattered = self.to_sun + np.float32(self._weather.softness) * _SCATTER
            scattered[:, 2] = np.abs(scattered[:, 2]) + np.float32(0.05)
            scattered /= np.linalg.norm(scattered, axis=1, keepdims=True)
            towards = scattered.take(look[lit], axis=0)
        share[lit] = ~self._world.occluded(start.T, towards, _SHADOW_LENGTH_M)
        return share

    def light(self, seen: Seen, sunlit: Float, mirrored: Float | None = None, *, is_plain: bool = False) -> Float:
        """Radiance that arrives at the camera.

        Args:
            seen: what the rays hit.
            sunlit: (R,) share of the sun's light on it.
            mirrored: (3, R) what a wet road mirrors; None takes the sky.
            is_plain: without reflections and lamps, for what is only seen mirrored.

        Returns:
            (3, R) linear RGB.
        """
        weather = self._weather
        hits, albedo = seen.hits, seen.albedo
        wet = self._wetness(seen)
        if weather.wetness > 0:
            albedo = albedo * (1 - np.float32(0.5) * wet)
        surface = self._ambient(seen)
        surface += self.sun * (sunlit * np.maximum(self.to_sun @ seen.normal, 0))
        if self._lamps and not is_plain:
            near = np.flatnonzero(seen.is_solid & (hits.distance_m < 80))
            lit = irradiance(self._lamps, taken(seen.points, near), taken(seen.normal, near))
            put(surface, near, taken(surface, near) + lit)
        surface *= albedo
        if not is_plain:
            self._add_reflections(surface, seen, sunlit, wet, mirrored)
        if weather.lamps_on:
            glows = np.flatnonzero(hits.glow > 0)
            glows = glows[self._has_lamps[np.minimum(hits.instance[glows] + 2, len(self._has_lamps) - 1)]]
            put(surface, glows, taken(surface, glows) + taken(seen.albedo, glows) * (hits.glow[glows] * _GLOW))
        distance = np.where(seen.is_solid, hits.distance_m, np.float32(0))
        clear = np.exp(distance * np.float32(-1 / weather.visibility_m))
        haze = np.array(weather.haze, dtype=np.float32)[:, None]
        surface -= haze
        surface *= clear
        surface += haze
        empty = np.flatnonzero(~seen.is_solid)
        put(surface, empty, self._sky.light(taken(seen.directions, empty), has_disc=True))
        return surface

    def _wetness(self, seen: Seen) -> Float:
        """(R,) how much of a film of water lies on level ground: puddles and drier spots."""
        wet = np.zeros(len(seen.is_solid), dtype=np.float32)
        if self._weather.wetness > 0:
            ground = np.flatnonzero(seen.is_ground)
            spots = _PUDDLES.smooth_at(seen.points[0, ground], seen.points[1, ground], 0.3)
            film = np.clip(np.float32(0.55) + np.float32(0.3) * spots, 0.1, 0.9)
            # Grass holds no film, paving a thin one: their dry gloss tells them apart.
            film *= np.minimum(seen.hits.gloss[ground] * np.float32(18), 1)
            wet[ground] = np.float32(self._weather.wetness) * film
        return wet

    def _ambient(self, seen: Seen) -> Float:
        """(3, R) light from the sky's half above and, weaker, from the ground below; little of it under cars."""
        weather = self._weather
        zenith, horizon, sun = np.array(weather.zenith), np.array(weather.horizon), np.array(weather.sun)
        above = (zenith * 0.55 + horizon * 0.45) * weather.ambient
        below = (sun * weather.to_sun[2] * 0.12 + horizon * 0.15) * weather.ambient
        share = np.float32(0.5) + np.float32(0.5) * seen.normal[2]
        ground = np.flatnonzero(seen.is_ground)
        share[ground] *= self._openness(seen.points[0, ground], seen.points[1, ground])
        light: Float = share * (above - below).astype(np.float32)[:, None] + below.astype(np.float32)[:, None]
        return light

    def _openness(self, x_m: Float, y_m: Float) -> Float:
        """(R,) share of the sky that no vehicle hides from the ground at (R,) points."""
        side = len(self._contact)
        corner = self._origin_m[:2] - _CONTACT_SIDE_M / 2
        column = np.clip((x_m - np.float32(corner[0])) * np.float32(1 / _CONTACT_CELL_M), 0, side - 1).astype(np.int32)
        row = np.clip((y_m - np.float32(corner[1])) * np.float32(1 / _CONTACT_CELL_M), 0, side - 1).astype(np.int32)
        return np.asarray(self._contact.ravel()[row * side + column])

    def _add_reflections(self, surface: Float, seen: Seen, sunlit: Float, wet: Float, mirrored: Float | None) -> None:
        """Adds the mirrored sky and the sun's glint; near the horizon, where objects would be, it is darker."""
        gloss = np.maximum(seen.hits.gloss, wet)
        at = np.flatnonzero(gloss > np.float32(0.08))
        if not len(at):
            return
        view, normal = taken(seen.directions, at), taken(seen.normal, at)
        cos = -(view * normal).sum(0)
        there = view + (2 * cos) * normal
        fresnel = _FRESNEL_ZERO + (1 - _FRESNEL_ZERO) * _fifth_power(1 - np.clip(cos, 0, 1))
        image = self._sky.light(there, has_disc=False)
        image *= np.clip(np.float32(0.1) + 2 * there[2], np.float32(0.14), 1)
        if mirrored is not None:
            road = np.flatnonzero(wet[at] > 0)
            put(image, road, taken(mirrored, at[road]))
        if self._weather.softness == 0:
            glint = np.clip(self.to_sun @ there, 0, 1)
            for _ in range(7):
                glint *= glint
            image += self.sun * (glint * np.float32(14) * sunlit[at])
        put(surface, at, taken(surface, at) + image * (gloss[at] * fresnel))

    def mirror_image(self, seen: Seen, at: NDArray[np.int64]) -> Float:
        """(3, N) what level ground at the rays `at` (N,) mirrors; shadows are left out."""
        flipped = taken(seen.directions, at) * np.array([[1], [1], [-1]], dtype=np.float32)
        # A rough surface mirrors what is a little higher, too: never a ray along the ground.
        flipped[2] = np.maximum(flipped[2], np.float32(0.03))
        flipped /= np.sqrt((flipped * flipped).sum(0))
        start = taken(seen.points, at) + np.array([[0], [0], [0.03]], dtype=np.float32)
        image = self.see(flipped, start)
        return self.light(image, np.full(len(at), 0.6, dtype=np.float32), is_plain=True)


def _fifth_power(value: Float) -> Float:
    """Products are ten times faster than numpy's power."""
    square = value * value
    return square * square * value


def _contact_map(center_m: NDArray[np.float64], actors: list[Actor]) -> Float:
    """(S, S) share of the sky seen by the ground around a point; rows go north."""
    side = round(_CONTACT_SIDE_M / _CONTACT_CELL_M)
    picture = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(picture)
    corner = center_m[:2] - _CONTACT_SIDE_M / 2
    for actor in actors:
        if max(abs(actor.center_m[0] - center_m[0]), abs(actor.center_m[1] - center_m[1])) > _CONTACT_SIDE_M / 2:
            continue
        half_length, half_width = actor.size_lwh_m[0] / 2, actor.size_lwh_m[1] / 2
        cos, sin = math.cos(actor.yaw_rad), math.sin(actor.yaw_rad)
        corners = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * [half_length, half_width]
        turned = (corners @ np.array([[cos, sin], [-sin, cos]]) + actor.center_m[:2] - corner) / _CONTACT_CELL_M
        draw.polygon([(float(x), float(y)) for x, y in turned], fill=255)
    covered = gaussian_filter(np.asarray(picture, dtype=np.float32) / 255, _CONTACT_BLUR_M / _CONTACT_CELL_M)
    return np.asarray(1 - np.float32(_CONTACT_DEPTH) * covered, dtype=np.float32)
