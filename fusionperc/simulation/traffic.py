"""Drives: SUMO traffic around one recording car, as smooth functions of time.

`simulate_traffic` lays out a town, lets SUMO drive and walk in it, picks the ego among the cars, and furnishes the
roadside along its route. The result answers where the ego and every object is at any instant of the drive.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from fusionperc.simulation.flows import RATE_HZ, Mover, record_traffic
from fusionperc.simulation.motion import FILTER_MARGIN_S, Track, ego_rear_axle, tracks_of, without_overlaps
from fusionperc.simulation.network import build_network
from fusionperc.simulation.rig import world_T_ego
from fusionperc.simulation.roadside import Standing, furnish
from fusionperc.simulation.sizes import EGO_WHEELBASE_M, draw_colour
from fusionperc.simulation.town import Town, build_town

logger = logging.getLogger(__name__)

#: A drive can be asked about times up to this much before its start and after its end (past sweeps need it).
TIME_MARGIN_S = 0.6
_MOVING_MPS = 0.25
_STRIDE_M = 1.5
#: How far the ego's body pitches and rolls on its springs for each m/s^2 along and across.
_DIVE_RAD_PER_MPS2, _LEAN_RAD_PER_MPS2 = 0.004, 0.006

#: kind -> (nuScenes category, mesh model).
_CATEGORIES: dict[str, tuple[str, str]] = {
    "car": ("vehicle.car", "car"),
    "suv": ("vehicle.car", "suv"),
    "van": ("vehicle.car", "van"),
    "truck": ("vehicle.truck", "truck"),
    "tractor": ("vehicle.truck", "truck"),
    "bus": ("vehicle.bus.rigid", "bus"),
    "trailer": ("vehicle.trailer", "trailer"),
    "construction": ("vehicle.construction", "excavator"),
    "motorcycle": ("vehicle.motorcycle", "motorcycle"),
    "motorcycle_parked": ("vehicle.motorcycle", "motorcycle"),
    "bicycle": ("vehicle.bicycle", "bicycle"),
    "bicycle_parked": ("vehicle.bicycle", "bicycle"),
    "pedestrian": ("human.pedestrian.adult", "pedestrian"),
    "cone": ("movable_object.trafficcone", "cone"),
    "barrier": ("movable_object.barrier", "barrier"),
}


@dataclass(frozen=True)
class Actor:
    """One annotated object at one instant, upright.

    Attributes:
        instance: unique and stable within the drive, from 0.
        category: full nuScenes category name.
        model: which parametric mesh (a key of `fusionperc.simulation.models.MODELS`).
        center_m: geometric centre, world frame.
        yaw_rad: heading, counter-clockwise from world +x, in (-pi, pi].
        size_lwh_m: length (along the heading), width, height.
        velocity_mps: world axes.
        attribute: nuScenes attribute name, "" for cones and barriers.
        colour: base albedo, linear RGB in [0, 1].
        phase_rad: walking phase.
    """

    instance: int
    category: str
    model: str
    center_m: tuple[float, float, float]
    yaw_rad: float
    size_lwh_m: tuple[float, float, float]
    velocity_mps: tuple[float, float]
    attribute: str
    colour: tuple[float, float, float]
    phase_rad: float


@dataclass(frozen=True)
class EgoState:
    """The ego's rear-axle ground point (nuScenes' ego origin), its attitude and its motion, world frame.

    Pitch is positive nose down, roll positive to the right. Speed and acceleration are along the heading; steering is
    the front wheels' angle, positive to the left.
    """

    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    pitch_rad: float
    roll_rad: float
    speed_mps: float
    acceleration_mps2: float
    yaw_rate_radps: float
    steering_rad: float

    @property
    def world_T_ego(self) -> NDArray[np.float64]:
        """Pose (4, 4)."""
        return world_T_ego(
            self.x_m, self.y_m, self.yaw_rad, z_m=self.z_m, pitch_rad=self.pitch_rad, roll_rad=self.roll_rad
        )


@dataclass(frozen=True)
class _Cast:
    """Time-independent facts of the drive's objects, moving ones first; arrays are (N, ...)."""

    kinds: tuple[str, ...]
    size_lwh_m: NDArray[np.float64]
    colours: tuple[tuple[float, float, float], ...]
    phase_rad: NDArray[np.float64]
    standing_xy_m: NDArray[np.float64]
    standing_yaw_rad: NDArray[np.float64]


class TrafficDrive:
    """One drive: the ego and every object as smooth functions of time, in seconds from the drive's start."""

    def __init__(
        self,
        town: Town,
        duration_s: float,
        times_s: NDArray[np.float64],
        ego: tuple[NDArray[np.float64], NDArray[np.float64]],
        tracks: list[Track],
        standing: list[Standing],
        rng: np.random.Generator,
    ) -> None:
        self.town = town
        self.duration_s = duration_s
        self._ego = CubicSpline(times_s, np.column_stack([ego[0], ego[1]]))
        columns = [np.column_stack([track.center_m, track.yaw_rad, track.distance_m]) for track in tracks]
        self._movers = CubicSpline(times_s, np.stack(columns, axis=1) if columns else np.zeros((len(times_s), 0, 4)))
        kinds = (*(track.kind for track in tracks), *(item.kind for item in standing))
        sizes = [*(track.size_lwh_m for track in tracks), *(item.size_lwh_m for item in standing)]
        self._cast = _Cast(
            kinds=kinds,
            size_lwh_m=np.array(sizes).reshape(-1, 3),
            colours=tuple(draw_colour(kind, rng) for kind in kinds),
            phase_rad=rng.uniform(0, 2 * np.pi, len(kinds)),
            standing_xy_m=np.array([item.center_m for item in standing]).reshape(-1, 2),
            standing_yaw_rad=np.array([item.yaw_rad for item in standing]),
        )

    def _check(self, time_s: float) -> None:
        if not -TIME_MARGIN_S - 1e-6 <= time_s <= self.duration_s + TIME_MARGIN_S + 1e-6:
            raise ValueError(
                f"time_s = {time_s} is outside the drive; ask within"
                f" [-{TIME_MARGIN_S}, {self.duration_s + TIME_MARGIN_S}]"
            )

    def ego_at(self, time_s: float) -> EgoState:
        """The ego at a time in [-0.6, duration + 0.6].

        Raises:
            ValueError: the time is outside.
        """
        self._check(time_s)
        x, y, yaw = self._ego(time_s)
        vx, vy, yaw_rate = self._ego(time_s, 1)
        ax, ay, _ = self._ego(time_s, 2)
        cos, sin = np.cos(yaw), np.sin(yaw)
        speed, acceleration = float(vx * cos + vy * sin), float(ax * cos + ay * sin)
        terrain = self.town.terrain
        to_x, to_y = terrain.slope_at(x, y)
        return EgoState(
            x_m=float(x),
            y_m=float(y),
            z_m=float(terrain.height_at(x, y)),
            yaw_rad=_wrapped(float(yaw)),
            # The body follows the ground, and leans on its springs.
            pitch_rad=float(-np.arctan(to_x * cos + to_y * sin)) - _DIVE_RAD_PER_MPS2 * acceleration,
            roll_rad=float(np.arctan(to_y * cos - to_x * sin)) + _LEAN_RAD_PER_MPS2 * speed * float(yaw_rate),
            speed_mps=speed,
            acceleration_mps2=acceleration,
            yaw_rate_radps=float(yaw_rate),
            steering_rad=float(np.arctan(EGO_WHEELBASE_M * yaw_rate / max(speed, 0.5))),
        )

    def standing(self) -> list[Actor]:
        """The objects that never move, by instance."""
        count = self._movers(0.0).shape[0]
        return [actor for actor in self.actors_at(0.0, math.inf) if actor.instance >= count]

    def actors_at(self, time_s: float, radius_m: float = 80.0) -> list[Actor]:
        """Every object (not the ego) whose centre lies within `radius_m` of the ego at a time, by instance.

        Raises:
            ValueError: the time is outside [-0.6, duration + 0.6].
        """
        self._check(time_s)
        poses = self._movers(time_s)
        rates = self._movers(time_s, 1)
        count = len(poses)
        xy = np.concatenate([poses[:, :2], self._cast.standing_xy_m])
        yaw = np.concatenate([poses[:, 2], self._cast.standing_yaw_rad])
        near = np.flatnonzero(np.linalg.norm(xy - self._ego(time_s)[:2], axis=1) <= radius_m)
        ground = self._ground_m(near, xy)
        actors = []
        for index, base in zip(near.tolist(), ground.tolist(), strict=True):
            kind = self._cast.kinds[index]
            moves = index < count
            velocity = (float(rates[index, 0]), float(rates[index, 1])) if moves else (0.0, 0.0)
            length, width, height = self._cast.size_lwh_m[index].tolist()
            walked = float(poses[index, 3]) * 2 * np.pi / _STRIDE_M if moves else 0.0
            category, model = _CATEGORIES[kind]
            actors.append(
                Actor(
                    instance=index,
                    category=category,
                    model=model,
                    center_m=(float(xy[index, 0]), float(xy[index, 1]), base + height / 2),
                    yaw_rad=_wrapped(float(yaw[index])),
                    size_lwh_m=(length, width, height),
                    velocity_mps=velocity,
                    attribute=_attribute(kind, moves, float(np.hypot(*velocity))),
                    colour=self._cast.colours[index],
                    phase_rad=float((self._cast.phase_rad[index] + walked) % (2 * np.pi)),
                )
            )
        return actors

    def _ground_m(self, indices: NDArray[np.int64], xy_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Height of the ground under objects; vehicles in traffic and on strips stand on the road."""
        height = self.town.height_at(xy_m[indices, 0], xy_m[indices, 1]).astype(np.float64)
        on_kerb = np.array([self._cast.kinds[i] in ("pedestrian", "cone", "barrier", "construction") for i in indices])
        return np.where(on_kerb, height, self.town.terrain.height_at(xy_m[indices, 0], xy_m[indices, 1]))


def _wrapped(angle_rad: float) -> float:
    return float(-((-angle_rad + np.pi) % (2 * np.pi)) + np.pi)


def _attribute(kind: str, moves: bool, speed_mps: float) -> str:
    if kind in ("cone", "barrier"):
        return ""
    if kind == "pedestrian":
        return "pedestrian.moving" if speed_mps > _MOVING_MPS else "pedestrian.standing"
    if kind.startswith(("motorcycle", "bicycle")):
        return "cycle.without_rider" if kind.endswith("_parked") else "cycle.with_rider"
    if not moves:
        return "vehicle.parked"
    return "vehicle.moving" if speed_mps > _MOVING_MPS else "vehicle.stopped"


def simulate_traffic(town_seed: int, drive_seed: int, duration_s: float, folder: Path) -> TrafficDrive:
    """One drive of `duration_s` in town `town_seed`; SUMO runs, and leaves its files, in `folder`.

    Deterministic: the same seeds and duration give the same drive.

    Raises:
        ImportError: SUMO is not installed.
        RuntimeError: SUMO failed, or no car of the recording kind was on the road.
        ValueError: the duration is not positive.
    """
    if duration_s <= 0:
        raise ValueError(f"duration_s = {duration_s} must be positive")
    folder.mkdir(parents=True, exist_ok=True)
    network = build_network(town_seed, folder)
    town = build_town(network, town_seed)
    rng = np.random.default_rng((town_seed, drive_seed, 41))
    margin = TIME_MARGIN_S + FILTER_MARGIN_S
    movers = record_traffic(network, int(rng.integers(2**31)), duration_s + 2 * margin, folder)
    times = np.arange(len(movers[0].front_m)) / RATE_HZ - margin if movers else np.zeros(0)
    ego = _choose_ego(movers, rng)
    tracks = without_overlaps([track for mover in movers for track in tracks_of(mover)], protected=ego.name)
    pose = ego_rear_axle(ego)
    standing = furnish(town, tracks, pose[0], rng)
    others = [track for track in tracks if track.name != ego.name]
    logger.debug(
        "town %d drive %d: ego %s, %d moving, %d standing", town_seed, drive_seed, ego.name, len(others), len(standing)
    )
    return TrafficDrive(town, duration_s, times, pose, others, standing, rng)


def _choose_ego(movers: list[Mover], rng: np.random.Generator) -> Mover:
    """A recording car that gets somewhere, preferably turning and in company."""
    candidates = [mover for mover in movers if mover.kind == "ego"]
    if not candidates:
        raise RuntimeError("no recording car was on the road during the whole drive; take another drive seed")
    weights = []
    for mover in candidates:
        driven = float(np.linalg.norm(np.diff(mover.front_m, axis=0), axis=1).sum())
        mean_mps = driven * RATE_HZ / len(mover.front_m)
        turned = float(np.ptp(mover.heading_rad))
        middle = mover.front_m[len(mover.front_m) // 2]
        company = sum(
            bool(np.linalg.norm(other.front_m[len(other.front_m) // 2] - middle) < 45.0)
            for other in movers
            if other.kind != "pedestrian"
        )
        pace = min(mean_mps / 4.0, 1.0) ** 3 + 1e-3
        weights.append(pace * (1.0 + 0.4 * min(turned, 1.5)) * (2.0 + min(company, 10)))
    share = np.array(weights) / np.sum(weights)
    return candidates[int(rng.choice(len(candidates), p=share))]
