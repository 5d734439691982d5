"""Houses of several forms, in metres about the middle of their ground: +y faces the street."""

from __future__ import annotations

import numpy as np

from fusionperc.simulation.world.plots import Building
from fusionperc.simulation.world.solids import Builder

_STOREY_M = 3.0
#: Walls go on this far below the ground, for slopes.
_FOOTING_M = 1.5


def house(item: Building) -> Builder:
    """The house's solids; walls are of the material that has windows."""
    rng = np.random.default_rng((item.variant, 83))
    length, width, height = item.size_lwh_m
    b = Builder()
    match item.form:
        case "block":
            _walls(b, length, width, height)
            _pilasters(b, length, width, height, rng)
            _parapet(b, length, width, height)
        case "setback":
            podium = min(_STOREY_M * int(rng.integers(1, 3)), height)
            inset = float(rng.uniform(1.5, 3.0))
            _walls(b, length, width, podium)
            if height > podium + 1.0:
                _walls(b, length - 2 * inset, width - 2 * inset, height, podium)
            _parapet(b, length, width, podium)
        case "gabled":
            _gabled(b, length, width, height, rng)
        case "balconies":
            _walls(b, length, width - 1.3, height, shift_y=-0.65)
            _balconies(b, length, width, height, rng)
        case "arcade":
            _arcade(b, length, width, height, rng)
        case "bays":
            _walls(b, length, width - 1.0, height, shift_y=-0.5)
            step = float(rng.uniform(4.0, 6.0))
            for x in np.arange(-length / 2 + step / 2, length / 2 - 1.2, step):
                b.brick((x - 1.1, width / 2 - 1.2, -_FOOTING_M), (x + 1.1, width / 2, height - 0.6), "wall")
            _parapet(b, length, width - 1.0, height, shift_y=-0.5)
        case _:
            _shed(b, length, width, height)
    return b


def _walls(
    b: Builder, length: float, width: float, height: float, base: float = -_FOOTING_M, shift_y: float = 0.0
) -> None:
    """Four walls and a flat roof."""
    x, y0, y1 = length / 2, shift_y - width / 2, shift_y + width / 2
    ring = np.array([(-x, y0), (x, y0), (x, y1), (-x, y1)])
    rings = np.stack([np.column_stack([ring, np.full(4, z)]) for z in (base, height)])
    b.skin(rings, "wall")
    b.add(rings[1], np.array([(0, 1, 2), (0, 2, 3)]), "roof")


def _parapet(b: Builder, length: float, width: float, height: float, shift_y: float = 0.0) -> None:
    """A cornice around the roof's edge."""
    x, y0, y1 = length / 2 + 0.2, shift_y - width / 2 - 0.2, shift_y + width / 2 + 0.2
    for low, high in (
        ((-x, y1 - 0.35, height - 0.25), (x, y1, height + 0.5)),
        ((-x, y0, height - 0.25), (x, y0 + 0.35, height + 0.5)),
        ((-x, y0, height - 0.25), (-x + 0.35, y1, height + 0.5)),
        ((x - 0.35, y0, height - 0.25), (x, y1, height + 0.5)),
    ):
        b.brick(low, high, "concrete")


def _pilasters(b: Builder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    """Ribs on the fronts, and a canopy over the door."""
    step = float(rng.uniform(3.5, 7.0))
    for x in np.arange(-length / 2, length / 2 + 0.1, step):
        for y0, y1 in ((width / 2, width / 2 + 0.3), (-width / 2 - 0.3, -width / 2)):
            b.brick((x - 0.3, y0, -_FOOTING_M), (x + 0.3, y1, height), "concrete")
    door = float(rng.uniform(-0.3, 0.3)) * length
    b.brick((door - 1.6, width / 2, 2.7), (door + 1.6, width / 2 + 1.4, 2.9), "concrete")


def _gabled(b: Builder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    """A house with a pitched roof and chimney; a garage takes part of its front."""
    garage = 3.4 if length > 12 else 0.0
    x0, x1 = -length / 2, length / 2 - garage
    middle = (x0 + x1) / 2
    half = width / 2
    ring = np.array([(x0, -half), (x1, -half), (x1, half), (x0, half)])
    b.skin(np.stack([np.column_stack([ring, np.full(4, z)]) for z in (-_FOOTING_M, height)]), "wall")
    ridge = height + float(rng.uniform(0.35, 0.9)) * half
    over = 0.45
    eaves_z = height - over * (ridge - height) / half
    if rng.random() < 0.5:
        foot = (x0 - over, x1 + over, -half - over, half + over, eaves_z)
        b.hexahedron(foot, (x0 - over, x1 + over, -0.05, 0.05, ridge), "roof")
    else:
        foot = (x0 - over, x1 + over, -half - over, half + over, eaves_z)
        b.hexahedron(foot, (x0 + 0.6 * half, x1 - 0.6 * half, -0.05, 0.05, ridge), "roof")
    b.brick((middle - 0.4, -0.9, height), (middle + 0.4, -0.3, ridge + 0.7), "concrete")
    if garage:
        b.brick((x1, -half + 1.0, -_FOOTING_M), (length / 2, half - 0.8, 2.7), "concrete")
    porch = x0 + 0.3 * (x1 - x0)
    b.brick((porch - 1.2, half, 2.5), (porch + 1.2, half + 1.3, 2.65), "roof")
    for x in (porch - 1.1, porch + 1.1):
        b.tube((x, half + 1.2, -0.5), (x, half + 1.2, 2.5), (0.07, 0.07), "wood", 5, is_closed=False)


def _balconies(b: Builder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    """Balconies with railings on every storey but the lowest."""
    step, wide = float(rng.uniform(4.0, 6.5)), float(rng.uniform(2.4, 3.6))
    y0, y1 = width / 2 - 1.3, width / 2
    for z in np.arange(_STOREY_M, height - 1.2, _STOREY_M):
        for x in np.arange(-length / 2 + step / 2, length / 2 - wide / 2, step):
            b.brick((x - wide / 2, y0, z - 0.12), (x + wide / 2, y1, z + 0.06), "concrete")
            b.brick((x - wide / 2, y1 - 0.05, z + 0.25), (x + wide / 2, y1, z + 1.0), "steel")
            for side in (-1, 1):
                edge = x + side * wide / 2
                b.brick((edge - 0.03, y0, z + 0.25), (edge + 0.03, y1, z + 1.0), "steel")
    _parapet(b, length, width - 1.3, height, shift_y=-0.65)


def _arcade(b: Builder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    """A ground floor that stands back behind columns."""
    deep = min(2.6, 0.3 * width)
    _walls(b, length, width - deep, min(3.6, height), shift_y=-deep / 2)
    if height > 4.5:
        _walls(b, length, width, height, 3.4)
        ring = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * [length / 2, width / 2]
        b.add(np.column_stack([ring, np.full(4, 3.4)]), np.array([(0, 1, 2), (0, 2, 3)]), "concrete")
    else:
        b.brick((-length / 2, -width / 2, 3.4), (length / 2, width / 2, 3.7), "roof")
    half = float(rng.uniform(0.2, 0.45))
    for x in np.linspace(-length / 2 + half, length / 2 - half, max(int(length / 4.5), 2)):
        b.brick((x - half, width / 2 - 2 * half, -_FOOTING_M), (x + half, width / 2, 3.4), "concrete")
    _parapet(b, length, width, max(height, 3.7))


def _shed(b: Builder, length: float, width: float, height: float) -> None:
    """A hall of ribbed sheet with a shallow roof and gates."""
    x, half = length / 2, width / 2
    ring = np.array([(-x, -half), (x, -half), (x, half), (-x, half)])
    b.skin(np.stack([np.column_stack([ring, np.full(4, z)]) for z in (-_FOOTING_M, height)]), "concrete")
    b.hexahedron((-x - 0.3, x + 0.3, -half - 0.3, half + 0.3, height), (-x, x, -0.1, 0.1, height + 0.15 * half), "roof")
    for place in np.arange(-x + 1.0, x - 0.5, 2.4):
        for side in (-1, 1):
            y0, y1 = sorted((side * half, side * (half + 0.15)))
            b.brick((place, y0, -_FOOTING_M), (place + 0.2, y1, height), "steel")
    for place in np.arange(-x + 2.5, x - 2.5, 7.0):
        b.brick((place - 1.7, half, -0.5), (place + 1.7, half + 0.08, 3.0), "dark")
