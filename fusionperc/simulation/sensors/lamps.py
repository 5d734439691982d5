"""Lamps after dark: headlights of the ego and of other vehicles, street lamps; what they light up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.sensors.planes import Float, taken
from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.plots import Pole
from fusionperc.simulation.world.terrain import Terrain

Array = NDArray[np.float64]

#: Lamps farther from the camera than this light up nothing that matters.
_NEAR_M = 65.0
_EGO_REACH_M, _HEADLIGHT_REACH_M, _STREET_LAMP_REACH_M = 50.0, 32.0, 18.0
#: Irradiance at one metre, in the units of `Weather`.
_HEADLIGHT_COLOUR = np.array([44.0, 43.0, 40.0])
_BIKE_SHARE = 0.15
_STREET_LAMP_COLOUR = np.array([4.6, 3.5, 2.1])
#: Farther to the side than this, relative to the distance ahead, a beam is not worth its sums.
_BEAM_SLOPE = np.float32(1.1)
#: Points treated together.
_BLOCK = 64
_SOURCE_SQUARE = np.float32(12.0)
_PITCH_RAD = math.radians(1.0)
#: Length of a street lamp's arm.
_ARM_M = 1.6
#: Where the ego's headlights are, from its rear axle.
_EGO_FRONT_M, _LAMP_HEIGHT_M = 3.4, 0.66


@dataclass(frozen=True)
class Lamp:
    """One source of light; a vehicle's two headlights count as one.

    Attributes:
        position_m, axis: (3,) world frame; the axis is where it shines.
        colour: (3,) irradiance at one metre on the axis.
        reach_m: beyond this it is dark.
        is_beam: a low beam, wide and cut off above the axis; otherwise a street lamp.
    """

    position_m: Array
    axis: Array
    colour: Array
    reach_m: float
    is_beam: bool


def has_lamps_on(actor: Actor) -> bool:
    """Whether a vehicle's lamps are lit in the dark: unless it is parked."""
    return actor.category.startswith("vehicle.") and actor.attribute not in ("vehicle.parked", "cycle.without_rider")


def lamps_near(
    camera_m: Array, world_T_ego: Array, actors: list[Actor], poles: tuple[Pole, ...], terrain: Terrain
) -> list[Lamp]:
    """The lamps that matter around a camera at `camera_m` (3,), world frame."""
    ahead = world_T_ego[:3, 0]
    front = world_T_ego[:3, 3] + _EGO_FRONT_M * ahead + _LAMP_HEIGHT_M * world_T_ego[:3, 2]
    lamps = [Lamp(front, _dipped(ahead), _HEADLIGHT_COLOUR, _EGO_REACH_M, is_beam=True)]
    for actor in actors:
        if not has_lamps_on(actor) or actor.model in ("trailer", "bendy_rear"):
            continue
        heading = np.array([math.cos(actor.yaw_rad), math.sin(actor.yaw_rad), 0.0])
        position = np.array(actor.center_m) + heading * (actor.size_lwh_m[0] / 2 + 0.05)
        position[2] += _LAMP_HEIGHT_M - actor.size_lwh_m[2] / 2
        if np.linalg.norm(position - camera_m) < _NEAR_M:
            share = (
                _BIKE_SHARE if actor.model == "bicycle" else 0.5 if actor.model in ("motorcycle", "scooter") else 1.0
            )
            lamps.append(Lamp(position, _dipped(heading), share * _HEADLIGHT_COLOUR, _HEADLIGHT_REACH_M, is_beam=True))
    down = np.array([0.0, 0.0, -1.0])
    for pole in poles:
        if pole.kind != "lamp" or math.dist(pole.position_m, camera_m[:2]) > _NEAR_M:
            continue
        arm = np.array([math.cos(pole.yaw_rad), math.sin(pole.yaw_rad)]) * _ARM_M
        height = float(terrain.height_at(*pole.position_m)) + pole.height_m - 0.1
        position = np.array([*(np.array(pole.position_m) + arm), height])
        lamps.append(Lamp(position, down, _STREET_LAMP_COLOUR, _STREET_LAMP_REACH_M, is_beam=False))
    return lamps


def _dipped(ahead: Array) -> Array:
    axis = np.array([ahead[0], ahead[1], ahead[2] - math.sin(_PITCH_RAD)])
    return axis / float(np.linalg.norm(axis))


def irradiance(lamps: list[Lamp], points_m: Float, normals: Float) -> Float:
    """(3, R) light of all lamps on surfaces at (3, R) with unit normals (3, R); nothing casts a shadow.

    Neighbouring points, which lie near each other, are treated in blocks: a lamp skips those out of its reach.
    """
    count = points_m.shape[1]
    padding = ((0, 0), (0, -count % _BLOCK))
    points = np.pad(points_m, padding, mode="edge").reshape(3, -1, _BLOCK)
    facing = np.pad(normals, padding).reshape(3, -1, _BLOCK)
    low, high = points[:2].min(2), points[:2].max(2)
    light = np.zeros_like(points)
    for lamp in lamps:
        position, axis = lamp.position_m.astype(np.float32), lamp.axis.astype(np.float32)
        nearest = np.clip(position[:2, None], low, high) - position[:2, None]
        near = (nearest * nearest).sum(0) < np.float32(lamp.reach_m**2)
        if lamp.is_beam:
            middle, radius = (low + high) / 2 - position[:2, None], np.hypot(*(high - low)) / 2
            side = np.abs(middle[1] * axis[0] - middle[0] * axis[1])
            near &= side < _BEAM_SLOPE * (middle * axis[:2, None]).sum(0) + 2 * radius
        blocks = np.flatnonzero(near)
        if len(blocks):
            strength = _strength(lamp, taken(points, blocks) - position[:, None, None], taken(facing, blocks))
            for plane, colour in zip(light, lamp.colour.astype(np.float32), strict=True):
                plane[blocks] += colour * strength
    return light.reshape(3, -1)[:, :count]


def _strength(lamp: Lamp, away_m: Float, normals: Float) -> Float:
    """(...) irradiance relative to that at one metre on the axis, at points (3, ...) away from the lamp."""
    square = (away_m * away_m).sum(0) + np.float32(0.1)
    scale = 1 / np.sqrt(square)
    x, y, z = away_m * scale
    facing = np.maximum(-(x * normals[0] + y * normals[1] + z * normals[2]), 0)
    # Fades out before the reach ends, so that no edge is seen; a lens is no point: close to it the light stops growing.
    fade = np.clip(4 - square * scale * np.float32(4 / lamp.reach_m), 0, 1)
    return np.asarray(facing * fade * _beam(lamp, x, y, z) / (square + _SOURCE_SQUARE))


def _beam(lamp: Lamp, x: Float, y: Float, z: Float) -> Float:
    """Share of the axis' strength that a lamp sends in unit directions (x, y, z)."""
    if not lamp.is_beam:
        down = np.maximum(-z, 0)
        return np.asarray(down * np.sqrt(down) + np.float32(0.06))
    ax, ay, az = (np.float32(value) for value in lamp.axis)
    side = ax * y - ay * x
    # Behind the lamp it is dark, wherever the sides are.
    ahead = np.clip((ax * x + ay * y) * np.float32(8), 0, 1)
    above = z - az
    cut = np.clip(0.5 - above * np.float32(45), np.float32(0.02), 1)
    return np.asarray(ahead * np.exp(-(side * side) * np.float32(7) - (above * above) * np.float32(80)) * cut)
