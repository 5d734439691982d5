"""Automotive radars in the world, and nuScenes' binary PCD files with 18 fields.

A radar scans twice: near and wide, then far and narrow. A detection is a place in the sensor's horizontal plane with a
radar cross section and a radial velocity. Objects give several returns where rays meet them; walls, poles, trees and
the road give clutter, also behind what lets some of the wave pass; a few returns are ghosts. What is too weak for its
range is not detected, what stands still must stand out from the clutter, and the list is full at 125.

Source: Continental ARS 408 data sheet (near range at +-60 degrees, far range to 250 m at +-9 degrees, 13 Hz, steps of
place, speed and cross section) and its invalid states; field meanings from the nuScenes devkit,
`RadarPointCloud.from_file`. Strengths and numbers follow three nuScenes files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.sensors.radar_states import FAR_HALF_ANGLE_RAD, fill_states
from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.triangles import STATIC
from fusionperc.simulation.world.world import World
from fusionperc.types import RADAR_DTYPE

MAX_POINTS = 125
#: Weaker echoes never enter the list; out to the knee they are detected, beyond it the radar equation takes over.
_LEAST_RCS_DBSM, _KNEE_M = -5.0, 60.0
#: By how much an object that stands still must rise above that to stand out from the clutter around it.
_STANDING_LOSS_DB, _STANDING_MPS = 5.0, 0.3

#: Mean radar cross section in dBsm of each model of `traffic.Actor`, and the depth behind the surface at which the
#: strongest scatterers lie (wheel houses, axles, cargo), metres.
_REFLECTORS: dict[str, tuple[float, float]] = {
    "car": (9.0, 0.4), "suv": (11.0, 0.4), "van": (12.0, 0.5), "truck": (18.0, 0.6), "bus": (19.0, 0.6),
    "trailer": (19.0, 0.6), "excavator": (17.0, 0.6), "motorcycle": (3.0, 0.2), "bicycle": (-1.0, 0.2),
    "pedestrian": (-2.0, 0.1), "cone": (-22.0, 0.05), "barrier": (-2.0, 0.1),
    "pickup": (12.0, 0.5), "tractor": (18.0, 0.6), "bendy_front": (19.0, 0.6), "bendy_rear": (18.0, 0.6),
    "scooter": (2.0, 0.2), "child": (-5.0, 0.1), "worker": (-2.0, 0.1),
}  # fmt: skip
#: An object as a whole, and each of its returns, varies by that.
_OBJECT_SPREAD_DB, _RETURN_SPREAD_DB = 3.0, 4.5
_RAYS_PER_ACTOR = 16

#: Clutter: what a hit on something standing gives, at 20 m; a wider beam at a distance meets more of it at once.
_CLUTTER_DBSM, _CLUTTER_DB_PER_DECADE, _CLUTTER_SPREAD_DB = 1.0, 8.0, 7.5
#: Share of hits that reflect back beyond a distance, nearer fewer do: a ray then stands for less of the surface.
_WALL_SHARE, _ROAD_SHARE, _FULL_SHARE_M = 0.6, 0.06, 90.0
#: What of the wave goes on behind a hit, how much weaker, and how often that is looked at.
_PASSING_SHARE, _PASSING_LOSS_DB, _PASSINGS = 0.8, 1.5, 3
#: Elevations of clutter rays; the antenna looks level.
_ELEVATION_SPREAD_RAD = math.radians(2.5)


@dataclass(frozen=True)
class Beam:
    """One of a radar's two scans.

    Attributes:
        range_m, half_angle_rad: what it covers.
        margin_rad: how far outside it still answers; such detections are marked as invalid.
        spread_rad: standard deviation of the azimuths its clutter comes from, the antenna's pattern.
        gain_db: how much weaker echoes it detects than the near scan does.
        num_rays: along which clutter is looked for.
        azimuth_noise: its error relative to `RadarNoise.azimuth_rad`.
    """

    range_m: float
    half_angle_rad: float
    margin_rad: float
    spread_rad: float
    gain_db: float
    num_rays: int
    azimuth_noise: float

    def covers(self, xy_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which places (P, 2) of the sensor's frame the scan answers from, its margin included."""
        distance, angle = np.hypot(xy_m[:, 0], xy_m[:, 1]), np.abs(np.arctan2(xy_m[:, 1], xy_m[:, 0]))
        is_in_range = (distance < self.range_m) & (distance > 0.5)
        covered: NDArray[np.bool_] = is_in_range & (angle < self.half_angle_rad + self.margin_rad)
        return covered

    def least_rcs_dbsm(self, distance_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The weakest cross section (P,) detected: echoes fall with the fourth power of the range."""
        loss_db = 40 * np.log10(np.maximum(distance_m, 1.0) / _KNEE_M) - self.gain_db
        least: NDArray[np.float64] = _LEAST_RCS_DBSM + np.maximum(loss_db, 0.0)
        return least


NEAR = Beam(130.0, math.radians(60.0), math.radians(4.0), math.radians(21.0), 0.0, 320, 1.0)
FAR = Beam(225.0, FAR_HALF_ANGLE_RAD, math.radians(3.5), math.radians(6.5), 14.0, 300, 0.3)


@dataclass(frozen=True)
class RadarNoise:
    """How a detection differs from the truth.

    Attributes:
        range_m, azimuth_rad, doppler_mps: standard deviations.
        place_step_m, speed_step_mps: what x and y, vx and vy are rounded to; 0 leaves them as they are.
        odometry: the own speed that is taken out of the Doppler, relative to the true one.
    """

    range_m: float = 0.1
    azimuth_rad: float = math.radians(0.7)
    doppler_mps: float = 0.05
    place_step_m: float = 0.2
    speed_step_mps: float = 0.25
    odometry: float = 0.982


@dataclass(frozen=True)
class _Returns:
    """Raw returns: horizontal places in the sensor's frame, ground velocity in the sensor's axes, strength.

    Attributes:
        has_stopped: returns of what stands now but is known to have moved.
    """

    xy_m: NDArray[np.float64]
    velocity_mps: NDArray[np.float64]
    rcs_dbsm: NDArray[np.float64]
    has_stopped: NDArray[np.bool_]

    def of(self, keep: NDArray[np.bool_]) -> _Returns:
        return _Returns(self.xy_m[keep], self.velocity_mps[keep], self.rcs_dbsm[keep], self.has_stopped[keep])

    @staticmethod
    def standing(xy_m: NDArray[np.float64], rcs_dbsm: NDArray[np.float64]) -> _Returns:
        return _Returns(xy_m, np.zeros_like(xy_m), rcs_dbsm, np.zeros(len(xy_m), dtype=bool))

    @staticmethod
    def joined(parts: list[_Returns]) -> _Returns:
        names = [field.name for field in fields(_Returns)]
        return _Returns(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


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
    """One radar scan: the near list by range, then the far one, cut at `MAX_POINTS`.

    Args:
        world: occludes and gives clutter; its actors are those of `actors`.
        actors: the objects as placed in `world`.
        world_T_radar: (4, 4) pose of the sensor.
        sensor_velocity_mps: (2,) the sensor's own velocity over ground, world axes, lever arm of yaw rate included.
        rng: draws everything random.
        actor_delay_s: how much later than `actors` the scan is; returns of moving objects are moved on by that.
        noise: measurement noise; None takes the default.

    Returns:
        (P,) records of `RADAR_DTYPE` in the sensor's frame (x forward, y left), at least one and at most `MAX_POINTS`.
    """
    noise = noise or RadarNoise()
    sensor_velocity = world_T_radar[:2, :2].T @ sensor_velocity_mps
    lists = []
    for beam in (NEAR, FAR):
        seen = _object_returns(world, actors, world_T_radar, beam, rng, actor_delay_s)
        parts = [seen, _clutter(world, world_T_radar, beam, rng), _ghosts(seen, sensor_velocity, beam, rng)]
        returns = _Returns.joined(parts)
        strong = returns.rcs_dbsm >= beam.least_rcs_dbsm(np.hypot(*returns.xy_m.T))
        lists.append(_measured(returns.of(beam.covers(returns.xy_m) & strong), beam, sensor_velocity, rng, noise))
    records = np.concatenate(lists)[:MAX_POINTS]
    if len(records) == 0:
        # As in nuScenes' own files: a first point without coordinates says that nothing was seen.
        records = np.zeros(1, dtype=RADAR_DTYPE)
        for name in ("x", "y", "z"):
            records[name] = np.nan
    records["id"] = np.arange(len(records))
    return records


def _object_returns(
    world: World,
    actors: list[Actor],
    world_T_radar: NDArray[np.float64],
    beam: Beam,
    rng: np.random.Generator,
    actor_delay_s: float,
) -> _Returns:
    """Returns from where rays towards random places of each object meet that object."""
    rotation, origin = world_T_radar[:3, :3], world_T_radar[:3, 3]
    if actors:
        centers = np.array([actor.center_m for actor in actors])
        actors = [actor for actor, seen in zip(actors, _may_be_seen(centers, world_T_radar, beam), strict=True) if seen]
    if not actors:
        return _Returns.standing(np.zeros((0, 2)), np.zeros(0))
    centers = np.array([actor.center_m for actor in actors])
    sizes = np.array([actor.size_lwh_m for actor in actors])
    rays = _rays_to_objects(centers, sizes, np.array([actor.yaw_rad for actor in actors]), origin, rng)
    distance, instance = world.cast_distance(origin, rays.astype(np.float32))
    owner = np.repeat(np.arange(len(actors)), _RAYS_PER_ACTOR)
    met = instance == np.array([actor.instance for actor in actors])[owner]

    reflectors = np.array([_REFLECTORS[actor.model] for actor in actors])
    depth = reflectors[owner, 1] * rng.uniform(0.3, 1.5, len(owner))
    velocity = np.array([actor.velocity_mps for actor in actors])[owner]
    reach = np.where(met, distance, 0.0).astype(np.float64) + depth
    local = (rays[:, :2] * reach[:, None] + velocity * actor_delay_s) @ rotation[:2, :2]
    local_velocity = velocity @ rotation[:2, :2]

    # Rays point to random places: the first ones that met the object are as good as any.
    center_m = np.maximum(np.linalg.norm(centers - origin, axis=1), 2.0)
    wanted = 1 + rng.poisson(sizes[:, 0] / 4.5 * np.clip(20.0 / center_m, 0.2, 2.0))
    is_among_first = np.cumsum(met.reshape(len(actors), -1), axis=1) <= wanted[:, None]
    # A part hidden takes its share of the echo away, several returns share what there is, and close by each is only of
    # a part of the surface.
    share = np.maximum(met.reshape(len(actors), -1).mean(1), 1e-3) * np.minimum(center_m / 20.0, 1.0) / wanted
    rcs = (reflectors[:, 0] + rng.normal(0, _OBJECT_SPREAD_DB, len(actors)) + 10 * np.log10(share))[owner]
    rcs += rng.normal(0, _RETURN_SPREAD_DB, len(owner))
    radial = (local_velocity * local).sum(1) / np.maximum(np.hypot(*local.T), 0.5)
    loss_db = np.where(np.abs(radial) < _STANDING_MPS, _STANDING_LOSS_DB, 0.0)
    is_detected = rcs >= beam.least_rcs_dbsm(reach) + loss_db

    has_stopped = np.array([actor.attribute == "vehicle.stopped" for actor in actors])[owner]
    returns = _Returns(local, local_velocity, rcs, has_stopped)
    return returns.of(met & is_among_first.reshape(-1) & is_detected)


def _may_be_seen(centers_m: NDArray[np.float64], world_T_radar: NDArray[np.float64], beam: Beam) -> NDArray[np.bool_]:
    local = (centers_m[:, :2] - world_T_radar[:2, 3]) @ world_T_radar[:2, :2]
    # Long vehicles reach into the field of view with their centre outside: look a little further back.
    return beam.covers(local + np.array([6.0, 0.0])) | beam.covers(local)


def _rays_to_objects(
    centers_m: NDArray[np.float64],
    sizes_lwh_m: NDArray[np.float64],
    yaw_rad: NDArray[np.float64],
    origin_m: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Unit vectors (objects * `_RAYS_PER_ACTOR`, 3) to random places in the boxes, up to 1.6 m above the sensor."""
    inside = rng.uniform(-0.48, 0.48, (len(centers_m), _RAYS_PER_ACTOR, 3)) * sizes_lwh_m[:, None]
    inside[..., 2] = np.minimum(inside[..., 2], origin_m[2] + 1.6 - centers_m[:, None, 2])
    cos, sin = np.cos(yaw_rad)[:, None], np.sin(yaw_rad)[:, None]
    turned = (cos * inside[..., 0] - sin * inside[..., 1], sin * inside[..., 0] + cos * inside[..., 1], inside[..., 2])
    rays = (centers_m[:, None] + np.stack(turned, -1) - origin_m).reshape(-1, 3)
    unit: NDArray[np.float64] = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return unit


def _clutter(world: World, world_T_radar: NDArray[np.float64], beam: Beam, rng: np.random.Generator) -> _Returns:
    """Standing returns of walls, poles, trees, kerbs and the road, and of what is behind them.

    The road mirrors the wave forward; of other things a part goes past or through.
    """
    rotation, origin = world_T_radar[:3, :3], world_T_radar[:3, 3]
    count = beam.num_rays
    azimuth, elevation = rng.normal(0, beam.spread_rad, count), rng.normal(0, _ELEVATION_SPREAD_RAD, count)
    cos = np.cos(elevation)
    local = np.stack([cos * np.cos(azimuth), cos * np.sin(azimuth), np.sin(elevation)], axis=1)
    down, _ = world.cast_distance(origin, -rotation[:, 2:].T.astype(np.float32))
    height_m = min(float(down[0]), 2.0)

    start, rays, way_m = np.tile(origin, (count, 1)), local @ rotation.T, np.zeros(count)
    xy: list[NDArray[np.float64]] = []
    rcs: list[NDArray[np.float64]] = []
    for passing in range(_PASSINGS + 1):
        distance, instance = world.cast_distance(start, rays.astype(np.float32))
        ended = np.isfinite(distance)
        way_m = way_m + np.where(ended, distance, 0.0)
        is_road = ended & ((local[:, 2] * way_m) < -0.85 * height_m) & (instance == STATIC)
        share = np.where(is_road, _ROAD_SHARE, _WALL_SHARE) * np.minimum(way_m / _FULL_SHARE_M, 1.0)
        answers = rng.random(count) < share
        strength = _CLUTTER_DBSM + _CLUTTER_DB_PER_DECADE * np.log10(np.maximum(way_m, 1.0) / 20.0)
        strength = strength - passing * _PASSING_LOSS_DB
        strength = strength + rng.normal(0, _CLUTTER_SPREAD_DB, count)
        hit = ended & (instance == STATIC) & answers
        xy.append((local[:, :2] * way_m[:, None])[hit])
        rcs.append(strength[hit])
        goes_on = ended & (is_road | (rng.random(count) < _PASSING_SHARE))
        local, rays, is_road, way_m = local[goes_on], rays[goes_on], is_road[goes_on], way_m[goes_on]
        start = start[goes_on] + rays * (distance[goes_on, None] + 0.3)
        start[:, 2] += np.where(is_road, 0.3, 0.0)
        mirrored = is_road[:, None] & np.array([False, False, True])
        local, rays = np.where(mirrored, np.abs(local), local), np.where(mirrored, np.abs(rays), rays)
        count = len(local)
    return _Returns.standing(np.concatenate(xy), np.concatenate(rcs))


def _ghosts(seen: _Returns, sensor_velocity_mps: NDArray[np.float64], beam: Beam, rng: np.random.Generator) -> _Returns:
    """Objects seen once more at twice the range by way of the own bumper, and returns from nowhere."""
    twice = seen.of(rng.random(len(seen.rcs_dbsm)) < 0.04)
    echoed = _Returns(2 * twice.xy_m, 2 * twice.velocity_mps - sensor_velocity_mps, twice.rcs_dbsm, twice.has_stopped)
    count = int(rng.poisson(2.0))
    distance, angle = rng.uniform(3, beam.range_m, count), rng.uniform(-1, 1, count) * beam.half_angle_rad
    xy = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
    velocity = rng.normal(0, 5.0, (count, 2)) * (rng.random((count, 1)) < 0.3)
    stray = _Returns(xy, velocity, rng.normal(0.0, 4.0, count), np.zeros(count, dtype=bool))
    return _Returns.joined([echoed, stray])


def _measured(
    returns: _Returns,
    beam: Beam,
    sensor_velocity_mps: NDArray[np.float64],
    rng: np.random.Generator,
    noise: RadarNoise,
) -> NDArray[np.void]:
    """Adds measurement noise and fills the file's fields; nearest first."""
    true_m = np.hypot(*returns.xy_m.T)
    true_along = returns.xy_m / np.maximum(true_m, 1e-6)[:, None]
    distance = np.maximum(true_m + rng.normal(0, noise.range_m, len(true_m)), 0.2)
    azimuth = np.arctan2(returns.xy_m[:, 1], returns.xy_m[:, 0])
    azimuth = azimuth + rng.normal(0, noise.azimuth_rad * beam.azimuth_noise, len(true_m))
    # The lattice of y has no 0.
    x = _rounded(distance * np.cos(azimuth), noise.place_step_m)
    y = _rounded(distance * np.sin(azimuth) + noise.place_step_m / 2, noise.place_step_m) - noise.place_step_m / 2
    along = np.stack([x, y], axis=1) / np.maximum(np.hypot(x, y), 1e-6)[:, None]
    relative = ((returns.velocity_mps - sensor_velocity_mps) * true_along).sum(1)
    relative = relative + rng.normal(0, noise.doppler_mps, len(true_m))
    raw = _rounded(true_along * relative[:, None], noise.speed_step_mps)
    is_outside = np.abs(azimuth) > beam.half_angle_rad
    raw[is_outside] = 0.0
    over_ground = ((raw + noise.odometry * sensor_velocity_mps) * along).sum(1)

    records = np.zeros(len(true_m), dtype=RADAR_DTYPE)
    records["x"], records["y"] = x, y
    records["vx"], records["vy"] = raw.T
    records["vx_comp"], records["vy_comp"] = (along * over_ground[:, None]).T
    records["rcs"] = np.clip(np.rint(returns.rcs_dbsm * 2) / 2, -64, 63.5)
    fill_states(records, is_outside, returns.has_stopped, rng, is_near_scan=beam is NEAR)
    return records[np.argsort(distance, kind="stable")]


def _rounded(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    return np.rint(values / step) * step if step else values


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
