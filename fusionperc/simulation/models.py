"""Parametric meshes of road users and roadside things, in a unit box.

Each model is drawn in metres at a typical size and then scaled to [-0.5, 0.5]^3 (x forward, y left, z up), so that a
mesh fills whatever box an annotation has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from fusionperc.simulation.solids import Builder, Mesh


def _lights(b: Builder, front_x: float, rear_x: float, half_y: float, z: float) -> None:
    for side in (-1, 1):
        y0, y1 = sorted((side * half_y * 0.62, side * half_y * 0.95))
        b.brick((front_x - 0.05, y0, z), (front_x + 0.005, y1, z + 0.14), "lamp")
        b.brick((rear_x - 0.005, y0, z), (rear_x + 0.05, y1, z + 0.16), "tail")
    b.brick((rear_x - 0.01, -0.26, z - 0.15), (rear_x + 0.02, 0.26, z - 0.02), "plate")
    b.brick((front_x - 0.02, -0.26, z - 0.22), (front_x + 0.01, 0.26, z - 0.1), "plate")


def _four_wheels(b: Builder, front_x: float, rear_x: float, half_y: float, radius: float, width: float) -> None:
    for x in (front_x, rear_x):
        for side in (-1, 1):
            b.wheel(x, side * (half_y - width / 2), radius, width)


def _cabin(
    b: Builder, foot: tuple[float, float], roof: tuple[float, float], half_y: float, z0: float, z1: float
) -> None:
    """Glass walls leaning inwards under a painted roof."""
    lean = 0.14
    b.hexahedron((*foot, -half_y, half_y, z0), (*roof, -half_y + lean, half_y - lean, z1 - 0.05), "glass")
    b.hexahedron(
        (roof[0] - 0.04, roof[1] + 0.04, -half_y + lean - 0.02, half_y - lean + 0.02, z1 - 0.07),
        (roof[0] + 0.05, roof[1] - 0.05, -half_y + lean + 0.05, half_y - lean - 0.05, z1),
        "paint",
    )
    for x, top in ((foot[0], roof[0]), (foot[1], roof[1]), (sum(foot) / 2, sum(roof) / 2)):
        for side in (-1, 1):
            b.tube((x, side * (half_y - 0.01), z0), (top, side * (half_y - lean), z1 - 0.04), (0.05, 0.05), "paint", 4)


def _car(variant: int) -> Builder:
    b = Builder()
    b.hexahedron((-2.25, 2.25, -0.86, 0.86, 0.22), (-2.3, 2.3, -0.92, 0.92, 0.55), "paint")
    b.hexahedron((-2.3, 2.3, -0.92, 0.92, 0.55), (-2.22, 2.05, -0.88, 0.88, 0.88), "paint")
    match variant % 3:
        case 0:  # saloon
            _cabin(b, (-1.75, 0.95), (-1.05, 0.15), 0.86, 0.86, 1.48)
        case 1:  # hatchback
            _cabin(b, (-2.15, 0.95), (-1.75, 0.1), 0.86, 0.86, 1.52)
        case _:  # estate
            _cabin(b, (-2.2, 0.9), (-2.0, 0.1), 0.86, 0.86, 1.50)
    b.block(-2.1, 2.1, 0.7, 0.16, 0.24, "dark")
    _four_wheels(b, 1.4, -1.35, 0.91, 0.33, 0.22)
    _lights(b, 2.29, -2.29, 0.9, 0.58)
    return b


def _suv(variant: int) -> Builder:
    b = Builder()
    b.hexahedron((-2.3, 2.3, -0.92, 0.92, 0.3), (-2.35, 2.35, -0.97, 0.97, 0.7), "paint")
    b.hexahedron((-2.35, 2.35, -0.97, 0.97, 0.7), (-2.3, 2.1, -0.93, 0.93, 1.08), "paint")
    _cabin(b, (-2.28, 1.05), (-2.05 if variant % 2 else -1.8, 0.35), 0.91, 1.06, 1.78)
    b.block(-2.1, 2.1, 0.7, 0.24, 0.32, "dark")
    _four_wheels(b, 1.45, -1.4, 0.95, 0.38, 0.25)
    _lights(b, 2.34, -2.34, 0.95, 0.75)
    return b


def _van(_variant: int) -> Builder:
    b = Builder()
    b.hexahedron((-2.55, 2.5, -0.98, 0.98, 0.3), (-2.55, 2.45, -1.0, 1.0, 1.15), "paint")
    b.hexahedron((-2.55, 2.0, -1.0, 1.0, 1.15), (-2.5, 1.2, -0.9, 0.9, 2.1), "paint")
    b.hexahedron((1.0, 2.05, -0.97, 0.97, 1.17), (0.95, 1.32, -0.87, 0.87, 1.9), "glass")
    for side in (-1, 1):
        y0, y1 = sorted((side * 0.96, side * 1.0))
        b.brick((0.1, y0, 1.2), (0.9, y1, 1.7), "glass")
    b.brick((-2.56, -0.7, 1.25), (-2.5, 0.7, 1.8), "glass")
    b.block(-2.3, 2.3, 0.8, 0.2, 0.32, "dark")
    _four_wheels(b, 1.6, -1.6, 0.98, 0.35, 0.24)
    _lights(b, 2.5, -2.55, 0.97, 0.75)
    return b


def _truck(variant: int) -> Builder:
    b = Builder()
    b.block(-3.4, 3.3, 0.55, 0.5, 0.85, "dark")
    b.hexahedron((1.6, 3.45, -1.2, 1.2, 0.5), (1.6, 3.4, -1.2, 1.2, 1.5), "paint")
    b.hexahedron((1.6, 3.4, -1.2, 1.2, 1.5), (1.6, 3.1, -1.12, 1.12, 2.45), "paint")
    b.hexahedron((2.2, 3.43, -1.1, 1.1, 1.5), (2.2, 3.16, -1.05, 1.05, 2.2), "glass")
    match variant % 3:
        case 0:  # box body
            b.block(-3.45, 1.35, 1.25, 0.9, 2.85, "box")
        case 1:  # tipper
            b.hexahedron((-3.45, 1.35, -1.1, 1.1, 0.9), (-3.45, 1.4, -1.25, 1.25, 2.1), "paint")
            b.hexahedron((1.2, 2.4, -1.2, 1.2, 2.1), (1.2, 2.0, -1.2, 1.2, 2.85), "paint")
        case _:  # canvas with a deflector above the cab
            b.block(-3.45, 1.4, 1.25, 0.9, 2.7, "paint")
            b.hexahedron((1.5, 3.0, -1.1, 1.1, 2.4), (1.4, 1.9, -1.1, 1.1, 2.85), "paint")
    for x in (2.45, -1.7, -2.7):
        for side in (-1, 1):
            b.wheel(x, side * 1.08, 0.48, 0.3)
    b.block(-3.44, -3.38, 1.2, 0.55, 0.7, "metal")
    _lights(b, 3.44, -3.44, 1.2, 0.75)
    return b


def _bus(_variant: int) -> Builder:
    b = Builder()
    b.block(-5.5, 5.5, 1.45, 0.35, 1.35, "paint")
    b.block(-5.45, 5.45, 1.40, 1.35, 2.7, "glass")
    b.block(-5.5, 5.5, 1.45, 2.7, 3.25, "paint")
    b.block(-3.5, 1.5, 0.9, 3.25, 3.47, "box")
    for x in np.linspace(-5.45, 5.45, 8):
        for side in (-1, 1):
            y0, y1 = sorted((side * 1.38, side * 1.45))
            b.brick((x - 0.06, y0, 1.3), (x + 0.06, y1, 2.75), "paint")
    for x in (3.4, -3.0):
        for side in (-1, 1):
            b.wheel(x, side * 1.29, 0.5, 0.3)
    b.block(-5.0, 5.0, 1.1, 0.28, 0.4, "dark")
    _lights(b, 5.5, -5.5, 1.4, 0.7)
    return b


def _trailer(variant: int) -> Builder:
    b = Builder()
    b.block(-5.9, 5.9, 0.5, 0.95, 1.2, "dark")
    if variant % 3 == 2:  # tank
        b.tube((-6.0, 0, 2.5), (6.0, 0, 2.5), (1.36, 1.36), "metal", 14)
        b.block(-6.1, 6.1, 1.4, 1.15, 1.3, "dark")
    else:
        b.block(-6.1, 6.1, 1.4, 1.2, 3.87, "box" if variant % 3 == 0 else "paint")
    for x in (-3.0, -4.2, -5.4):
        for side in (-1, 1):
            b.wheel(x, side * 1.22, 0.5, 0.34)
    for side in (-1, 1):
        b.brick((2.8, side * 0.8 - 0.08, 0.1), (3.0, side * 0.8 + 0.08, 1.0), "metal")
    _lights(b, 6.1, -6.1, 1.35, 1.0)
    return b


def _excavator(_variant: int) -> Builder:
    b = Builder()
    for side in (-1, 1):
        y0, y1 = sorted((side * 0.85, side * 1.42))
        b.hexahedron((-1.9, 1.3, y0, y1, 0.0), (-2.1, 1.5, y0, y1, 0.45), "dark")
        b.hexahedron((-2.1, 1.5, y0, y1, 0.45), (-1.9, 1.3, y0, y1, 0.85), "dark")
    b.block(-1.7, 1.1, 0.9, 0.5, 1.0, "dark")
    b.block(-3.2, 0.6, 1.25, 1.0, 2.0, "paint")
    b.hexahedron((-0.9, 0.75, 0.2, 1.2, 1.6), (-0.8, 0.45, 0.25, 1.15, 3.05), "glass")
    b.brick((-0.9, 0.2, 3.0), (0.5, 1.2, 3.1), "paint")
    b.tube((0.5, -0.35, 1.6), (1.9, -0.35, 3.1), (0.28, 0.22), "paint", 6)
    b.tube((1.9, -0.35, 3.1), (2.9, -0.35, 1.4), (0.20, 0.16), "paint", 6)
    b.hexahedron((2.4, 3.1, -0.9, 0.2, 0.5), (2.6, 3.2, -0.9, 0.2, 1.4), "metal")
    return b


def _rider(
    b: Builder, hip: tuple[float, float], shoulder: tuple[float, float], hands: tuple[float, float], head_z: float
) -> None:
    """A sitting person; points are (x, z)."""
    b.tube((hip[0], 0, hip[1]), (shoulder[0], 0, shoulder[1]), (0.17, 0.2), "cloth", 8)
    b.ball((shoulder[0] + 0.08, 0, head_z), (0.13, 0.11, 0.14), "skin")
    b.ball((shoulder[0] + 0.05, 0, head_z + 0.04), (0.15, 0.13, 0.14), "dark")
    for side in (-1, 1):
        b.tube(
            (shoulder[0], side * 0.22, shoulder[1] - 0.03), (hands[0], side * 0.26, hands[1]), (0.06, 0.05), "cloth", 6
        )
        knee = (hip[0] + 0.38, side * 0.17, hip[1] - 0.12)
        b.tube((hip[0], side * 0.12, hip[1]), knee, (0.09, 0.07), "trousers", 6)
        b.tube(knee, (hip[0] + 0.22, side * 0.15, max(hip[1] - 0.6, 0.12)), (0.07, 0.05), "trousers", 6)


def _thin_wheel(b: Builder, x: float, radius: float, width: float) -> None:
    """A ring of short tubes, so that one can see through it."""
    angle = np.linspace(0, 2 * np.pi, 11)
    rim = radius - width / 2
    for a0, a1 in itertools.pairwise(angle):
        start = (x + rim * np.cos(a0), 0.0, radius + rim * np.sin(a0))
        end = (x + rim * np.cos(a1), 0.0, radius + rim * np.sin(a1))
        b.tube(start, end, (width / 2, width / 2), "rubber", 5)
    b.tube((x, 0, radius - rim), (x, 0, radius + rim), (0.01, 0.01), "metal", 3)
    b.tube((x - rim, 0, radius), (x + rim, 0, radius), (0.01, 0.01), "metal", 3)


def _bicycle(has_rider: bool) -> Builder:
    b = Builder()
    for x in (-0.52, 0.52):
        _thin_wheel(b, x, 0.34, 0.05)
    joints = {
        "rear": (-0.52, 0.34),
        "pedal": (-0.08, 0.32),
        "seat": (-0.22, 0.85),
        "head": (0.36, 0.84),
        "front": (0.52, 0.34),
    }
    for a, c in (
        ("rear", "pedal"),
        ("rear", "seat"),
        ("pedal", "seat"),
        ("pedal", "head"),
        ("seat", "head"),
        ("head", "front"),
    ):
        b.tube((joints[a][0], 0, joints[a][1]), (joints[c][0], 0, joints[c][1]), (0.028, 0.028), "paint", 5)
    b.tube((0.36, 0, 0.84), (0.32, 0, 1.05), (0.025, 0.025), "metal", 5)
    b.tube((0.32, -0.3, 1.05), (0.32, 0.3, 1.05), (0.025, 0.025), "dark", 5)
    b.block(-0.36, -0.1, 0.08, 0.85, 0.93, "dark")
    b.brick((-0.62, -0.04, 0.6), (-0.58, 0.04, 0.68), "tail")
    if has_rider:
        _rider(b, (-0.2, 0.95), (0.08, 1.42), (0.3, 1.08), 1.56)
    return b


def _motorcycle(has_rider: bool) -> Builder:
    b = Builder()
    for x in (-0.7, 0.7):
        b.wheel(x, 0.001, 0.33, 0.16)
    b.hexahedron((-0.45, 0.4, -0.16, 0.16, 0.25), (-0.35, 0.45, -0.2, 0.2, 0.7), "metal")
    b.hexahedron((-0.1, 0.45, -0.2, 0.2, 0.7), (-0.05, 0.35, -0.14, 0.14, 0.98), "paint")
    b.hexahedron((-1.0, -0.05, -0.16, 0.16, 0.66), (-1.02, -0.05, -0.12, 0.12, 0.86), "dark")
    b.tube((0.72, 0, 0.33), (0.42, 0, 1.0), (0.07, 0.07), "metal", 6)
    b.tube((0.4, -0.37, 1.06), (0.4, 0.37, 1.06), (0.035, 0.035), "dark", 5)
    b.hexahedron((0.42, 0.6, -0.17, 0.17, 0.8), (0.36, 0.44, -0.13, 0.13, 1.2), "paint")
    b.ball((0.58, 0, 0.9), (0.07, 0.1, 0.1), "lamp")
    b.brick((-1.04, -0.1, 0.6), (-1.0, 0.1, 0.76), "tail")
    if has_rider:
        _rider(b, (-0.25, 0.9), (0.02, 1.36), (0.38, 1.06), 1.52)
    return b


def _pedestrian(step: int) -> Builder:
    """A walker at one of `WALK_STEPS` moments of the stride, or standing at `STANDING`."""
    b = Builder()
    swing = 0.0 if step == STANDING else 0.27 * np.sin(2 * np.pi * step / WALK_STEPS)
    raised = 0.0 if step == STANDING else 0.10 * np.cos(2 * np.pi * step / WALK_STEPS)
    for side in (-1, 1):
        reach = side * swing
        lift = max(0.0, raised * side)
        knee = (0.55 * reach + lift, side * 0.1, 0.5)
        foot = (reach - 0.4 * lift, side * 0.1, 0.07 + lift)
        b.tube((0, side * 0.09, 0.92), knee, (0.10, 0.075), "trousers", 6)
        b.tube(knee, foot, (0.07, 0.05), "trousers", 6)
        b.brick(
            (foot[0] - 0.08, foot[1] - 0.05, foot[2] - 0.07), (foot[0] + 0.17, foot[1] + 0.05, foot[2] + 0.03), "dark"
        )
        hand = (-0.75 * reach + 0.03, side * 0.29, 0.86)
        b.tube((0, side * 0.22, 1.42), hand, (0.065, 0.045), "cloth", 6)
        b.ball(hand, (0.05, 0.045, 0.07), "skin")
    b.hexahedron((-0.11, 0.11, -0.17, 0.17, 0.86), (-0.12, 0.12, -0.23, 0.23, 1.45), "cloth")
    b.tube((0, 0, 1.43), (0.01, 0, 1.55), (0.06, 0.06), "skin", 6)
    b.ball((0.02, 0, 1.64), (0.1, 0.085, 0.13), "skin")
    b.ball((-0.005, 0, 1.67), (0.105, 0.09, 0.1), "hair")
    return b


#: Moments of a stride that have a mesh of their own, and the variant that stands still.
WALK_STEPS = 8
STANDING = WALK_STEPS
_PEDESTRIAN_BOX = (np.array([-0.36, -0.335, 0.0]), np.array([0.45, 0.335, 1.77]))


def _cone(_variant: int) -> Builder:
    b = Builder()
    b.block(-0.2, 0.2, 0.2, 0.0, 0.05, "plain")
    b.tube((0, 0, 0.05), (0, 0, 0.45), (0.16, 0.107), "plain", 12)
    b.tube((0, 0, 0.45), (0, 0, 0.65), (0.107, 0.075), "band", 12)
    b.tube((0, 0, 0.65), (0, 0, 1.0), (0.075, 0.025), "plain", 12)
    return b


def _barrier(_variant: int) -> Builder:
    """Jersey profile: the thin side is x (length), the long side y (width), as nuScenes annotates barriers."""
    b = Builder()
    half = 1.25
    b.hexahedron((-0.25, 0.25, -half, half, 0.0), (-0.25, 0.25, -half, half, 0.12), "plain")
    b.hexahedron((-0.25, 0.25, -half, half, 0.12), (-0.13, 0.13, -half, half, 0.38), "plain")
    b.hexahedron((-0.13, 0.13, -half, half, 0.38), (-0.08, 0.08, -half, half, 0.98), "plain")
    for y in (-0.8, 0.8):
        b.brick((-0.15, y - 0.12, 0.62), (0.15, y + 0.12, 0.78), "band")
    return b


MODELS: dict[str, Callable[[int], Builder]] = {
    "car": _car,
    "suv": _suv,
    "van": _van,
    "truck": _truck,
    "bus": _bus,
    "trailer": _trailer,
    "excavator": _excavator,
    "motorcycle": lambda variant: _motorcycle(has_rider=bool(variant)),
    "bicycle": lambda variant: _bicycle(has_rider=bool(variant)),
    "pedestrian": _pedestrian,
    "cone": _cone,
    "barrier": _barrier,
}


@lru_cache(maxsize=128)
def unit_mesh(model: str, variant: int) -> Mesh:
    """The mesh of a model in the unit box.

    Args:
        model: key of `MODELS`.
        variant: motorcycle, bicycle: 1 with a rider, 0 without; pedestrian: moment of the stride in [0, WALK_STEPS)
            or STANDING; others: any number, which picks among body styles.

    Raises:
        ValueError: unknown model.
    """
    if model not in MODELS:
        raise ValueError(f"model '{model}' is unknown; choose one of {', '.join(MODELS)}")
    # A walker's box does not breathe with the stride, so its limbs must not either.
    return MODELS[model](variant).mesh(_PEDESTRIAN_BOX if model == "pedestrian" else None)
