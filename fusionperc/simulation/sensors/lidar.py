"""A spinning 32-beam LiDAR in the world: ranges, intensities, what does not come back, and the vehicle's own roof.

A sweep takes a twentieth of a second, in which the head turns once, clockwise from the left, and the ego and everybody
else move on. As in nuScenes, ego motion is compensated: points are where they were measured, in the sensor's frame at
the sweep's stamp, its end. What stands still is not distorted, what moves is smeared.

As in nuScenes' files, every firing has a row: one that met nothing is stored at the sensor's place at that moment, a
few decimetres behind the origin while driving, with a meaningless intensity.

Source: Velodyne HDL-32E data sheet (elevations, firing times of 1.152 us, ranges in steps of 2 mm); the layout of the
files, the order of firing and the ranges of returns from the roof were read off real nuScenes sweeps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from fusionperc.simulation.sensors.weather import Weather
from fusionperc.simulation.world.solids import Builder
from fusionperc.simulation.world.triangles import Triangles
from fusionperc.simulation.world.world import Hits, World

Float = NDArray[np.float32]

NUM_BEAMS = 32
NUM_AZIMUTHS = 1084
ELEVATIONS_RAD = np.radians(np.linspace(-30.667, 10.667, NUM_BEAMS))
PERIOD_S = 0.05
MAX_RANGE_M = 105.0
#: Nearer echoes are the pulse itself.
MIN_RANGE_M = 0.3
RANGE_NOISE_M = 0.006
RANGE_STEP_M = 0.002
#: The sweep is fired in so many sectors; objects stand still within one.
NUM_SECTORS = 5
#: Azimuth of the first firing (x right, y forward), and the time from one beam's firing to the next.
_FIRST_AZIMUTH_RAD = np.radians(179.75)
_FIRING_S = 1.152e-6
#: Signal of a white wall met at right angles at 100 m, in units at which 63 % of pulses come back.
_SIGNAL_GAIN = 4.5
_INTENSITY_GAIN = 92.0
#: From this reflectivity on, a surface throws the light back to where it came from (signs, licence plates).
_RETROREFLECTIVE = 0.9
#: Of light scattered by drops on the way out, what is lost for each mm/h and metre.
_RAIN_EXTINCTION = 1.2e-4
#: Share of pulses that a drop within `_DROP_RANGE_M` sends back, for each mm/h.
_DROP_ECHO, _DROP_RANGE_M = 4e-4, 9.0


@lru_cache(maxsize=4)
def ray_directions(num_azimuths: int = NUM_AZIMUTHS) -> Float:
    """(azimuths * 32, 3) unit vectors in the LiDAR's frame (x right, y forward, z up), column by column, lowest ring
    first; each at its own firing's azimuth.

    The beams fire in the order of rings 0, 16, 1, 17, ... while the head goes on turning clockwise.
    """
    ring = np.arange(NUM_BEAMS)
    firing = 2 * (ring % 16) + ring // 16
    turn = 2 * np.pi * (np.arange(num_azimuths)[:, None] / num_azimuths + firing * _FIRING_S / PERIOD_S)
    azimuth = _FIRST_AZIMUTH_RAD - turn
    cos, sin = np.cos(ELEVATIONS_RAD), np.sin(ELEVATIONS_RAD)
    rays = np.stack([np.cos(azimuth) * cos, np.sin(azimuth) * cos, np.broadcast_to(sin, azimuth.shape)], axis=-1)
    directions: Float = rays.reshape(-1, 3).astype(np.float32)
    directions.setflags(write=False)
    return directions


def scan(
    world: World,
    world_T_lidar: NDArray[np.float64],
    weather: Weather,
    rng: np.random.Generator,
    *,
    num_azimuths: int = NUM_AZIMUTHS,
    place_actors: Callable[[int], object] = lambda sector: None,
) -> tuple[Float, NDArray[np.bool_]]:
    """One sweep.

    Args:
        world: what the rays meet.
        world_T_lidar: (NUM_SECTORS + 1, 4, 4) poses of the sensor at the sectors' bounds; the last is at the stamp.
        weather: rain and fog weaken echoes; drops give some of their own.
        rng: draws range noise and drop-outs.
        num_azimuths: columns of a turn.
        place_actors: called before each sector, to put the world's actors where they then are.

    Returns:
        (azimuths * 32, 5) x, y, z in metres in the LiDAR's frame at the stamp, intensity 0 to 255, ring: nuScenes'
        `.pcd.bin` columns; and (azimuths * 32,) which firings had an echo, the others lie where the sensor was.
    """
    in_lidar = ray_directions(num_azimuths)
    column = np.repeat(np.arange(num_azimuths), NUM_BEAMS)
    phase = column / num_azimuths * NUM_SECTORS
    sector = phase.astype(np.int64)
    # Within five milliseconds' turn of the car, mixing the matrices is as good as turning them.
    share = (phase - sector)[:, None].astype(np.float32)
    origin_m = world_T_lidar[0, :3, 3]
    relative = world_T_lidar.copy()
    relative[:, :3, 3] -= origin_m
    origins, directions = np.empty((2, len(in_lidar), 3), dtype=np.float32)
    parts: list[Hits] = []
    for index in range(NUM_SECTORS):
        place_actors(index)
        own = sector == index
        before, after = relative[index].astype(np.float32), relative[index + 1].astype(np.float32)
        rays, mix = in_lidar[own], share[own]
        origins[own] = before[:3, 3] + mix * (after[:3, 3] - before[:3, 3])
        directions[own] = rays @ before[:3, :3].T + mix * (rays @ (after[:3, :3] - before[:3, :3]).T)
        parts.append(world.cast(origins[own] + origin_m, directions[own]))
    distance_m, normal, reflectivity, gloss = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("distance_m", "normal", "reflectivity", "gloss")
    )
    # Draws are for all firings, so that one echo more or less does not change all others.
    noise_m = rng.standard_normal(len(in_lidar), dtype=np.float32) * np.float32(RANGE_NOISE_M)
    luck, flicker, drop = rng.random((3, len(in_lidar)), dtype=np.float32)
    stray = rng.lognormal(2.0, 0.8, len(in_lidar)).astype(np.float32)

    cos_incidence = np.abs(np.einsum("rc,rc->r", normal, directions))
    distance = np.minimum(distance_m, np.float32(1e4))
    returned = luck < return_probability(distance, cos_incidence, reflectivity, gloss, weather)
    value = intensity(distance, cos_incidence, reflectivity, flicker)
    returned &= (distance > MIN_RANGE_M) & (distance < MAX_RANGE_M)
    _add_drops(distance, value, returned, drop, weather)
    roof_m = roof_ranges(num_azimuths)
    on_roof = np.isfinite(roof_m)
    distance = np.where(on_roof, roof_m, distance)
    returned = np.where(on_roof, luck < 0.9, returned)
    value = np.where(on_roof, np.rint(2 + 45 * flicker**4), value)

    measured = np.rint((distance + noise_m) / np.float32(RANGE_STEP_M)) * np.float32(RANGE_STEP_M)
    places = origins + directions * np.where(returned, measured, np.float32(0))[:, None]
    stamp = relative[-1].astype(np.float32)
    points = np.empty((len(in_lidar), 5), dtype=np.float32)
    points[:, :3] = (places - stamp[:3, 3]) @ stamp[:3, :3]
    points[:, 3] = np.where(returned, value, np.clip(np.rint(stray), 0, 255))
    points[:, 4] = np.tile(np.arange(NUM_BEAMS, dtype=np.float32), num_azimuths)
    return points, returned


def in_sector(sector: int, xy_m: NDArray[np.float64], reach_m: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) which discs at (N, 2), of radius (N,), in the LiDAR's horizontal plane a sector's rays can meet."""
    width = 2 * np.pi / NUM_SECTORS
    middle = _FIRST_AZIMUTH_RAD - (sector + 0.5) * width
    distance = np.hypot(xy_m[:, 0], xy_m[:, 1])
    off = np.abs((np.arctan2(xy_m[:, 1], xy_m[:, 0]) - middle + np.pi) % (2 * np.pi) - np.pi)
    # Beams fire up to a quarter of a degree late; a margin of one covers what moved meanwhile, too.
    half_angle = np.arcsin(np.clip(reach_m / np.maximum(distance, 1e-6), 0, 1)) + np.radians(1.0)
    met: NDArray[np.bool_] = (off < width / 2 + half_angle) | (distance < reach_m + 1.0)
    return met


def return_probability(
    distance_m: Float, cos_incidence: Float, reflectivity: Float, gloss: Float, weather: Weather
) -> Float:
    """Chance (R,) that a pulse comes back strong enough.

    Light scattered back falls with the square of the range and with the cosine of incidence (Lambert); a glossy
    surface mirrors most of it away unless it is met at right angles; rain and fog take their share twice.
    """
    mirrored = gloss * (1 - cos_incidence**4)
    signal = reflectivity * cos_incidence * (1 - np.float32(0.85) * mirrored)
    signal *= np.float32(_SIGNAL_GAIN) * (np.float32(100.0) / np.maximum(distance_m, np.float32(1.0))) ** 2
    extinction = weather.rain_mmph * _RAIN_EXTINCTION + 0.5 / weather.visibility_m
    signal *= np.exp(np.float32(-2 * extinction) * distance_m)
    # Even close by a few pulses are lost.
    chance: Float = np.float32(0.995) * (1 - np.exp(-signal))
    return chance


def intensity(distance_m: Float, cos_incidence: Float, reflectivity: Float, flicker: Float) -> Float:
    """Stored intensities (R,), whole numbers 0 to 255: reflectivity as the sensor estimates it; `flicker` in [0, 1)
    spreads it over a factor of four, as paint, dirt and speckle do."""
    facing = np.float32(0.35) + np.float32(0.65) * cos_incidence
    value = np.float32(_INTENSITY_GAIN) * reflectivity * facing / (1 + (distance_m / np.float32(70.0)) ** 2)
    value = value * np.float32(4.0) ** (flicker - np.float32(0.55))
    value = np.where(reflectivity > _RETROREFLECTIVE, value * np.float32(2.5), value)
    stored: Float = np.clip(np.rint(value), 0, 255).astype(np.float32)
    return stored


def _add_drops(distance_m: Float, value: Float, returned: NDArray[np.bool_], luck: Float, weather: Weather) -> None:
    """Replaces some echoes by weak ones of rain drops close by, in place."""
    share = weather.rain_mmph * _DROP_ECHO
    if share <= 0:
        return
    hit = np.flatnonzero(luck < share)
    range_m = MIN_RANGE_M + _DROP_RANGE_M * (luck[hit] / np.float32(share)) ** 2
    nearer = range_m < distance_m[hit]
    hit, range_m = hit[nearer], range_m[nearer]
    distance_m[hit], value[hit], returned[hit] = range_m, 1.0, True


#: The ego's roof and windscreen along its middle, seen from the LiDAR: metres forward, metres up.
_ROOF_PROFILE = (
    (-1.12, -0.46), (-1.05, -0.39), (-0.9, -0.365), (-0.5, -0.345), (0.0, -0.335), (0.5, -0.345), (0.78, -0.37),
    (0.95, -0.45), (1.8, -0.79), (2.1, -0.89), (2.12, -1.3),
)  # fmt: skip
_ROOF_HALF_WIDTH_M = 0.485


@lru_cache(maxsize=4)
def roof_ranges(num_azimuths: int = NUM_AZIMUTHS) -> Float:
    """(azimuths * 32,) ranges at which the firings meet the ego's own roof, rails or windscreen, inf where none."""
    body = Builder()
    for (y0, z0), (y1, z1) in pairwise(_ROOF_PROFILE):
        corners = [(x, y, z) for y, z in ((y0, z0), (y1, z1)) for x in (-_ROOF_HALF_WIDTH_M, _ROOF_HALF_WIDTH_M)]
        body.add(np.array(corners), np.array([(0, 1, 2), (1, 3, 2)]), "paint")
    for side in (-1, 1):
        body.tube((side * 0.46, -0.03, -0.3), (side * 0.46, 0.35, -0.3), (0.03, 0.03), "metal", 6)
    body.brick((-0.08, -0.95, -0.37), (0.08, -0.78, -0.28), "dark")
    scene = Triangles.built(body, (0.0, 0.0, 0.0), 0.3).scene()
    rays = ray_directions(num_azimuths)
    ranges: Float = scene.cast_rays(
        o3d.core.Tensor.from_numpy(np.concatenate([np.zeros_like(rays), rays], axis=1)), nthreads=1
    )["t_hit"].numpy()
    ranges.setflags(write=False)
    return ranges
