"""Automotive radars in the world, and nuScenes' binary PCD files with 18 fields.

A detection is a place in the sensor's horizontal plane with a radar cross section and a radial velocity. Objects give
several returns where rays meet them; walls, poles and the road give clutter; a few returns are ghosts.

Source: Continental ARS 408 data sheet (near range 70 m at +-60 degrees, far range at +-9 degrees, 13 Hz); field
meanings from the nuScenes devkit, `RadarPointCloud.from_file`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.traffic import Actor
from fusionperc.simulation.triangles import STATIC
from fusionperc.simulation.world import World

#: The 18 fields of a nuScenes radar file.
RADAR_DTYPE = np.dtype(
    [
        ("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("dyn_prop", "i1"), ("id", "<i2"), ("rcs", "<f4"),
        ("vx", "<f4"), ("vy", "<f4"), ("vx_comp", "<f4"), ("vy_comp", "<f4"), ("is_quality_valid", "i1"),
        ("ambig_state", "i1"), ("x_rms", "i1"), ("y_rms", "i1"), ("invalid_state", "i1"), ("pdh0", "i1"),
        ("vx_rms", "i1"), ("vy_rms", "i1"),
    ]
)  # fmt: skip

NEAR_RANGE_M, NEAR_HALF_ANGLE_RAD = 70.0, math.radians(60.0)
FAR_RANGE_M, FAR_HALF_ANGLE_RAD = 120.0, math.radians(9.0)
MAX_POINTS = 125

#: Mean radar cross section in dBsm of each model of `traffic.Actor`, and the depth behind the surface at which the
#: strongest scatterers lie (wheel houses, axles, cargo), metres.
_REFLECTORS: dict[str, tuple[float, float]] = {
    "car": (10.0, 0.4), "suv": (12.0, 0.4), "van": (13.0, 0.5), "truck": (19.0, 0.6), "bus": (20.0, 0.6),
    "trailer": (20.0, 0.6), "excavator": (18.0, 0.6), "motorcycle": (3.0, 0.2), "bicycle": (-1.0, 0.2),
    "pedestrian": (-7.0, 0.1), "cone": (-24.0, 0.05), "barrier": (-2.0, 0.1),
}  # fmt: skip
_RCS_SPREAD_DB = 3.0
#: How gently the chance of being detected rises with the echo's strength.
_DETECTION_SLOPE_DB = 4.0
_RAYS_PER_ACTOR = 16
_CLUTTER_RAYS = 320


@dataclass(frozen=True)
class RadarNoise:
    """Standard deviations of a detection's range, azimuth and radial velocity."""

    range_m: float = 0.2
    azimuth_rad: float = math.radians(0.7)
    doppler_mps: float = 0.15


@dataclass(frozen=True)
class _Returns:
    """Raw returns: horizontal places in the sensor's frame, ground velocity in the sensor's axes, strength."""

    xy_m: NDArray[np.float64]
    velocity_mps: NDArray[np.float64]
    rcs_dbsm: NDArray[np.float64]
    is_clutter: NDArray[np.bool_]

    def of(self, keep: NDArray[np.bool_]) -> _Returns:
        return _Returns(self.xy_m[keep], self.velocity_mps[keep], self.rcs_dbsm[keep], self.is_clutter[keep])


def scan(
    world: World,
    actors: list[Actor],
    world_T_radar: NDArray[np.float64],
    sensor_velocity_mps: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    actor_delay_s: float = 0.0,
    noise: RadarNoise | None = None,
) -> NDArray[np.void]:
    """One radar scan.

    Args:
        world: occludes and gives clutter; its actors are those of `actors`.
        actors: the objects as placed in `world`.
        world_T_radar: (4, 4) pose of the sensor, upright.
        sensor_velocity_mps: (2,) the sensor's own velocity over ground, world axes, lever arm of yaw rate included.
        rng: draws everything random.
        actor_delay_s: how much later than `actors` the scan is; returns of moving objects are moved on by that.
        noise: measurement noise; None takes the default.

    Returns:
        (P,) records of `RADAR_DTYPE` in the sensor's frame (x forward, y left), at least one and at most `MAX_POINTS`.
    """
    noise = noise or RadarNoise()
    parts = [
        _object_returns(world, actors, world_T_radar, rng, actor_delay_s),
        _clutter(world, world_T_radar, rng),
        _ghosts(rng),
    ]
    returns = _Returns(
        np.concatenate([part.xy_m for part in parts]),
        np.concatenate([part.velocity_mps for part in parts]),
        np.concatenate([part.rcs_dbsm for part in parts]),
        np.concatenate([part.is_clutter for part in parts]),
    )
    returns = returns.of(in_field_of_view(returns.xy_m))
    # The cluster list is full at 125: the strongest stay.
    order = np.sort(np.argsort(-returns.rcs_dbsm, kind="stable")[:MAX_POINTS])
    keep = np.zeros(len(returns.rcs_dbsm), dtype=bool)
    keep[order] = True
    sensor_velocity = world_T_radar[:2, :2].T @ sensor_velocity_mps
    return _measured(returns.of(keep), sensor_velocity, rng, noise)


def in_field_of_view(xy_m: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which places (P, 2) of the sensor's frame a radar covers: wide and near, or narrow and far."""
    distance = np.hypot(xy_m[:, 0], xy_m[:, 1])
    angle = np.abs(np.arctan2(xy_m[:, 1], xy_m[:, 0]))
    near = (distance < NEAR_RANGE_M) & (angle < NEAR_HALF_ANGLE_RAD)
    far = (distance < FAR_RANGE_M) & (angle < FAR_HALF_ANGLE_RAD)
    covered: NDArray[np.bool_] = (near | far) & (distance > 0.5)
    return covered


def _object_returns(
    world: World,
    actors: list[Actor],
    world_T_radar: NDArray[np.float64],
    rng: np.random.Generator,
    actor_delay_s: float,
) -> _Returns:
    """Returns from where rays towards random places of each object meet that object."""
    rotation, origin = world_T_radar[:3, :3], world_T_radar[:3, 3]
    if actors:
        centers = np.array([actor.center_m for actor in actors])
        actors = [actor for actor, seen in zip(actors, _may_be_seen(centers, world_T_radar), strict=True) if seen]
    if not actors:
        return _Returns(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=bool))
    centers = np.array([actor.center_m for actor in actors])
    sizes = np.array([actor.size_lwh_m for actor in actors])
    yaws = np.array([actor.yaw_rad for actor in actors])
    inside = rng.uniform(-0.48, 0.48, (len(actors), _RAYS_PER_ACTOR, 3)) * sizes[:, None]
    inside[..., 2] = np.minimum(inside[..., 2], 2.0 - centers[:, None, 2])
    cos, sin = np.cos(yaws)[:, None], np.sin(yaws)[:, None]
    targets = centers[:, None] + np.stack(
        [cos * inside[..., 0] - sin * inside[..., 1], sin * inside[..., 0] + cos * inside[..., 1], inside[..., 2]], -1
    )
    rays = (targets - origin).reshape(-1, 3)
    reach = np.linalg.norm(rays, axis=1)
    rays /= reach[:, None]
    distance, instance = world.cast_distance(origin, rays.astype(np.float32))
    owner = np.repeat(np.arange(len(actors)), _RAYS_PER_ACTOR)
    met = instance == np.array([actor.instance for actor in actors])[owner]

    reflectors = np.array([_REFLECTORS[actor.model] for actor in actors])
    rcs = reflectors[:, 0] + rng.normal(0, _RCS_SPREAD_DB, len(actors))
    chosen = met & _chosen(met.reshape(len(actors), -1), rcs, centers, sizes, origin, rng)
    depth = reflectors[owner, 1] * rng.uniform(0.3, 1.5, len(owner))
    velocity = np.array([actor.velocity_mps for actor in actors])[owner]
    safe = np.where(chosen, distance, 0.0).astype(np.float64)
    # On slopes the sensor's plane is tilted: places and velocities are taken in that plane.
    towards = rays * (safe + depth)[:, None]
    towards[:, :2] += velocity * actor_delay_s
    local = (towards @ rotation)[:, :2]
    strength = rcs[owner] + rng.normal(0, _RCS_SPREAD_DB, len(owner))
    everything = _Returns(local, velocity @ rotation[:2, :2], strength, np.zeros(len(owner), dtype=bool))
    return everything.of(chosen)


def _may_be_seen(centers_m: NDArray[np.float64], world_T_radar: NDArray[np.float64]) -> NDArray[np.bool_]:
    local = (centers_m[:, :2] - world_T_radar[:2, 3]) @ world_T_radar[:2, :2]
    # Long vehicles reach into the field of view with their centre outside: look a little further back.
    return in_field_of_view(local + np.array([6.0, 0.0])) | in_field_of_view(local)


def _chosen(
    met: NDArray[np.bool_],
    rcs_dbsm: NDArray[np.float64],
    centers_m: NDArray[np.float64],
    sizes_lwh_m: NDArray[np.float64],
    origin_m: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Which rays (actors * rays,) become returns: none where the echo is too weak, more on large near objects.

    The radar equation makes the echo fall with the fourth power of the range; a part hidden takes its share away.
    """
    share = met.mean(axis=1)
    distance = np.maximum(np.linalg.norm(centers_m - origin_m, axis=1), 2.0)
    echo_db = rcs_dbsm + 40 * np.log10(60.0 / distance) + 10 * np.log10(np.maximum(share, 1e-3))
    p_seen = 0.97 / (1 + np.exp(-(echo_db - 2.0) / _DETECTION_SLOPE_DB))
    seen = (rng.random(len(met)) < p_seen) & (share > 0)
    extra = sizes_lwh_m[:, 0] / 4.5 * np.clip(20.0 / distance, 0.2, 2.0)
    wanted = np.where(seen, 1 + rng.poisson(extra), 0)
    # Rays point to random places: the first ones that met the object are as good as any.
    return ((np.cumsum(met, axis=1) <= wanted[:, None]) & met).reshape(-1)


def _clutter(world: World, world_T_radar: NDArray[np.float64], rng: np.random.Generator) -> _Returns:
    """Static returns of walls, poles, kerbs and the road."""
    azimuth = rng.uniform(-NEAR_HALF_ANGLE_RAD, NEAR_HALF_ANGLE_RAD, _CLUTTER_RAYS)
    narrow = rng.random(_CLUTTER_RAYS) < 0.25
    azimuth = np.where(narrow, azimuth * (FAR_HALF_ANGLE_RAD / NEAR_HALF_ANGLE_RAD), azimuth)
    elevation = rng.normal(math.radians(1.0), math.radians(3.0), _CLUTTER_RAYS)
    cos = np.cos(elevation)
    local = np.stack([cos * np.cos(azimuth), cos * np.sin(azimuth), np.sin(elevation)], axis=1)
    rays = local @ world_T_radar[:3, :3].T
    distance, instance = world.cast_distance(world_T_radar[:3, 3], rays.astype(np.float32))
    is_road = elevation < -np.arcsin(np.clip(0.9 * world_T_radar[2, 3] / np.maximum(distance, 0.5), 0, 1))
    keep = (instance == STATIC) & (rng.random(_CLUTTER_RAYS) < np.where(is_road, 0.12, 0.4))
    safe = np.where(np.isfinite(distance), distance, 0.0).astype(np.float64)
    rcs = np.where(is_road, -3.0, 4.0) + rng.normal(0, 5.0, _CLUTTER_RAYS)
    xy = (local[:, :2] * safe[:, None])[keep]
    return _Returns(xy, np.zeros_like(xy), rcs[keep], np.ones(len(xy), dtype=bool))


def _ghosts(rng: np.random.Generator) -> _Returns:
    """Returns from nowhere: double reflections, some of them moving."""
    count = int(rng.poisson(4.0))
    distance, angle = rng.uniform(3, NEAR_RANGE_M, count), rng.uniform(-NEAR_HALF_ANGLE_RAD, NEAR_HALF_ANGLE_RAD, count)
    xy = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
    velocity = rng.normal(0, 4.0, (count, 2)) * (rng.random((count, 1)) < 0.4)
    return _Returns(xy, velocity, rng.normal(-1.0, 4.0, count), np.ones(count, dtype=bool))


def _measured(
    returns: _Returns, sensor_velocity_mps: NDArray[np.float64], rng: np.random.Generator, noise: RadarNoise
) -> NDArray[np.void]:
    """Adds measurement noise and fills the file's fields."""
    count = len(returns.rcs_dbsm)
    if count == 0:
        # As in nuScenes' own files: a first point without coordinates says that nothing was seen.
        empty = np.zeros(1, dtype=RADAR_DTYPE)
        for name in ("x", "y", "z"):
            empty[name] = np.nan
        return empty
    distance = np.hypot(*returns.xy_m.T) + rng.normal(0, 1, count) * noise.range_m
    azimuth = np.arctan2(returns.xy_m[:, 1], returns.xy_m[:, 0]) + rng.normal(0, 1, count) * noise.azimuth_rad
    along = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)
    true_along = returns.xy_m / np.maximum(np.linalg.norm(returns.xy_m, axis=1, keepdims=True), 1e-6)
    over_ground = (returns.velocity_mps * true_along).sum(1) + rng.normal(0, 1, count) * noise.doppler_mps
    relative = over_ground - true_along @ sensor_velocity_mps

    records = np.zeros(count, dtype=RADAR_DTYPE)
    records["x"], records["y"] = (along * np.maximum(distance, 0.2)[:, None]).T
    records["vx"], records["vy"] = (along * relative[:, None]).T
    records["vx_comp"], records["vy_comp"] = (along * over_ground[:, None]).T
    records["rcs"] = np.clip(np.rint(returns.rcs_dbsm * 2) / 2, -64, 63.5)
    records["id"] = np.arange(count)
    records["dyn_prop"] = _dynamic_property(returns, along, rng)
    _fill_states(records, returns.is_clutter, rng)
    return records


def _dynamic_property(returns: _Returns, along: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """0 moving away, 2 oncoming, 6 crossing, 1 stationary, 3 stationary candidate."""
    speed = np.linalg.norm(returns.velocity_mps, axis=1)
    radial = (returns.velocity_mps * along).sum(1)
    moving = np.where(np.abs(radial) < 0.5 * speed, 6, np.where(radial < 0, 2, 0))
    still = np.where(rng.random(len(speed)) < 0.35, 3, 1)
    return np.where(speed > 0.4, moving, still)


def _fill_states(records: NDArray[np.void], is_clutter: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Validity and quality fields: clutter is doubted more often than objects are."""
    count = len(records)
    doubtful = rng.choice([4, 9, 11, 16], count)
    valid = rng.random(count) < np.where(is_clutter, 0.68, 0.94)
    records["invalid_state"] = np.where(valid, 0, doubtful)
    records["ambig_state"] = np.where(rng.random(count) < 0.96, 3, rng.choice([0, 1, 2], count))
    records["is_quality_valid"] = 1
    records["x_rms"] = rng.choice([19, 20, 21], count)
    records["y_rms"] = rng.choice([19, 20, 21, 22], count)
    records["vx_rms"], records["vy_rms"] = 16, 3
    records["pdh0"] = np.where(is_clutter & (rng.random(count) < 0.5), 3, 1)


def pcd_bytes(records: NDArray[np.void]) -> bytes:
    """A scan as nuScenes' binary PCD file.

    Raises:
        ValueError: no records; nuScenes says "nothing seen" with one point that is NaN.
    """
    if len(records) == 0:
        raise ValueError("a radar file needs at least one record; write one with NaN coordinates for an empty scan")
    names = RADAR_DTYPE.names or ()
    kinds = ["F" if RADAR_DTYPE[name].kind == "f" else "I" for name in names]
    header = "\n".join(
        [
            "# .PCD v0.7 - Point Cloud Data file format",
            "VERSION 0.7",
            f"FIELDS {' '.join(names)}",
            f"SIZE {' '.join(str(RADAR_DTYPE[name].itemsize) for name in names)}",
            f"TYPE {' '.join(kinds)}",
            f"COUNT {' '.join('1' for _ in names)}",
            f"WIDTH {len(records)}",
            "HEIGHT 1",
            "VIEWPOINT 0 0 0 1 0 0 0",
            f"POINTS {len(records)}",
            "DATA binary\n",
        ]
    )
    # The devkit wants bytes after the last point, and the data set's own files have zeros there.
    return header.encode("ascii") + records.astype(RADAR_DTYPE).tobytes() + bytes(RADAR_DTYPE.itemsize)


def passes_devkit_filter(records: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which records the devkit's `RadarPointCloud` keeps by default."""
    finite = np.isfinite(records["x"])
    usual = (records["invalid_state"] == 0) & (records["ambig_state"] == 3)
    kept: NDArray[np.bool_] = finite & usual & (records["dyn_prop"] >= 0) & (records["dyn_prop"] <= 6)
    return kept
