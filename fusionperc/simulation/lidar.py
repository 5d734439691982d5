"""A spinning 32-beam LiDAR in the world: ranges, intensities and what does not come back.

A sweep is taken at one instant, its stamp: as in nuScenes, where ego motion within a sweep is already compensated.

Source: Velodyne HDL-32E data sheet (elevations -30.67 to +10.67 degrees, 1.33 degrees apart, 2 cm accuracy, 100 m).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.world import World

NUM_BEAMS = 32
NUM_AZIMUTHS = 1085
ELEVATIONS_RAD = np.radians(np.linspace(-30.67, 10.67, NUM_BEAMS))
MAX_RANGE_M = 100.0
MIN_RANGE_M = 1.0
RANGE_NOISE_M = 0.02
#: Signal of a white wall met at right angles at the maximum range, in units at which 63 % of pulses come back.
_SIGNAL_GAIN = 60.0
_INTENSITY_GAIN = 120.0
#: From this reflectivity on, a surface throws the light back to where it came from (signs, licence plates).
_RETROREFLECTIVE = 0.9


def ray_directions(num_azimuths: int = NUM_AZIMUTHS) -> NDArray[np.float32]:
    """(azimuths * 32, 3) unit vectors in the LiDAR's frame (x right, y forward, z up), in order of firing.

    All beams fire together, lowest (ring 0) first; the head turns clockwise from the left.
    """
    azimuth = np.pi - 2 * np.pi * np.arange(num_azimuths) / num_azimuths
    cos, sin = np.cos(ELEVATIONS_RAD), np.sin(ELEVATIONS_RAD)
    x = np.cos(azimuth)[:, None] * cos
    y = np.sin(azimuth)[:, None] * cos
    z = np.broadcast_to(sin, x.shape)
    rays: NDArray[np.float32] = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)
    return rays


def scan(
    world: World,
    world_T_lidar: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    num_azimuths: int = NUM_AZIMUTHS,
    range_noise_m: float = RANGE_NOISE_M,
) -> NDArray[np.float32]:
    """One sweep.

    Args:
        world: what the rays meet, its actors already placed.
        world_T_lidar: (4, 4) pose of the sensor.
        rng: draws range noise and drop-outs.
        num_azimuths: columns of a turn.
        range_noise_m: standard deviation of a range.

    Returns:
        (P, 5) x, y, z in metres in the LiDAR's frame, intensity 0 to 255, ring: nuScenes' `.pcd.bin` columns.
    """
    in_lidar = ray_directions(num_azimuths)
    directions = in_lidar @ world_T_lidar[:3, :3].T.astype(np.float32)
    hits = world.cast(world_T_lidar[:3, 3], directions)
    # Draws come before the selection, so that one point more or less does not change all others.
    noise_m = rng.standard_normal(len(in_lidar), dtype=np.float32) * np.float32(range_noise_m)
    luck, flicker = rng.random((2, len(in_lidar)), dtype=np.float32)

    cos_incidence = np.abs(np.einsum("rc,rc->r", hits.normal, directions))
    distance = np.minimum(hits.distance_m, np.float32(10 * MAX_RANGE_M))
    p_return = return_probability(distance, cos_incidence, hits.reflectivity, hits.gloss)
    kept = (luck < p_return) & (distance > MIN_RANGE_M) & (distance < MAX_RANGE_M)
    points = np.empty((int(kept.sum()), 5), dtype=np.float32)
    points[:, :3] = in_lidar[kept] * (distance + noise_m)[kept, None]
    points[:, 3] = intensity(distance, cos_incidence, hits.reflectivity, flicker)[kept]
    points[:, 4] = np.tile(np.arange(NUM_BEAMS, dtype=np.float32), num_azimuths)[kept]
    return points


def return_probability(
    distance_m: NDArray[np.float32],
    cos_incidence: NDArray[np.float32],
    reflectivity: NDArray[np.float32],
    gloss: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Chance (R,) that a pulse comes back strong enough.

    Light scattered back falls with the square of the range and with the cosine of incidence (Lambert); a glossy
    surface mirrors most of it away unless it is met at right angles.
    """
    mirrored = gloss * (1 - cos_incidence**4)
    signal = reflectivity * cos_incidence * (1 - np.float32(0.85) * mirrored)
    signal *= np.float32(_SIGNAL_GAIN) * (np.float32(MAX_RANGE_M) / np.maximum(distance_m, np.float32(1.0))) ** 2
    # Even close by a few pulses are lost.
    chance: NDArray[np.float32] = np.float32(0.995) * (1 - np.exp(-signal))
    return chance


def intensity(
    distance_m: NDArray[np.float32],
    cos_incidence: NDArray[np.float32],
    reflectivity: NDArray[np.float32],
    flicker: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Stored intensities (R,), whole numbers 0 to 255; `flicker` in [0, 1) varies them by a fifth."""
    facing = np.float32(0.35) + np.float32(0.65) * cos_incidence
    value = np.float32(_INTENSITY_GAIN) * reflectivity * facing / (1 + (distance_m / np.float32(60.0)) ** 2)
    value *= np.float32(0.9) + np.float32(0.2) * flicker
    value = np.where(reflectivity > _RETROREFLECTIVE, value * np.float32(2.5), value)
    stored: NDArray[np.float32] = np.clip(np.rint(value), 0, 255).astype(np.float32)
    return stored
