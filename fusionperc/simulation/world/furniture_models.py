"""Street furniture, walls, fences and poles, in metres: the middle of the ground is the origin, +y faces the street."""

from __future__ import annotations

import numpy as np

from fusionperc.simulation.world.plant_models import hedge
from fusionperc.simulation.world.plots import Clutter, Pole
from fusionperc.simulation.world.solids import Builder

Size = tuple[float, float, float]


def furniture(item: Clutter, rng: np.random.Generator) -> Builder:
    """The solids of one thing; `rng` scatters leaves and stacks."""
    b = Builder()
    length, width, height = size = item.size_lwh_m
    match item.kind:
        case "hedge":
            return hedge(size, rng)
        case "wall":
            b.block(-length / 2, length / 2, width / 2 - 0.03, -0.5, height - 0.08, "plain")
            b.block(-length / 2, length / 2, width / 2, height - 0.08, height, "concrete")
        case "fence" | "railing":
            _fence(b, size, is_railing=item.kind == "railing")
        case "bin":
            b.column([(0, 0.1, width / 2, width / 2), (0, 0.8 * height, width / 2, width / 2)], "plain", 10)
            b.column([(0, 0.8 * height, width / 2, width / 2), (0, height, width / 4, width / 4)], "dark", 10)
            b.tube((0, 0, -0.2), (0, 0, 0.15), (0.05, 0.05), "steel", 5)
        case "wheelie bins":
            _wheelie_bins(b, size, rng)
        case "post box":
            b.block(-length / 2, length / 2, width / 2, 0.35 * height, 0.92 * height, "plain")
            b.column([(0, 0.92 * height, length / 2, width / 2), (0, height, length / 3, width / 4)], "plain", 8)
            b.brick((-0.06, -0.06, -0.2), (0.06, 0.06, 0.35 * height), "steel")
        case "bench":
            _bench(b, size)
        case "shelter":
            _shelter(b, size)
        case "hydrant":
            radius = width / 2.6
            b.column(
                [(0, -0.1, radius, radius), (0, 0.8 * height, radius, radius), (0, height, 0.05, 0.05)], "plain", 8
            )
            b.tube((0, -width / 2, 0.6 * height), (0, width / 2, 0.6 * height), (0.07, 0.07), "steel", 6)
        case "bollard":
            b.tube((0, 0, -0.2), (0, 0, height), (width / 2, 0.8 * width / 2), "plain", 7)
            b.tube((0, 0, 0.8 * height), (0, 0, 0.9 * height), (0.45 * width, 0.45 * width), "band", 7, is_closed=False)
        case "column":
            b.column([(0, -0.2, width / 2, width / 2), (0, height - 0.35, width / 2, width / 2)], "plain", 12)
            b.column([(0, height - 0.35, 0.56 * width, 0.56 * width), (0, height, 0.1, 0.1)], "dark", 12)
        case "meter":
            b.tube((0, 0, -0.2), (0, 0, 0.75 * height), (0.04, 0.04), "steel", 6)
            b.block(-0.1, 0.1, 0.08, 0.75 * height, height, "dark")
        case "planter":
            b.block(-length / 2, length / 2, width / 2, -0.1, 0.45, "concrete")
            places = rng.uniform(-0.45, 0.45, (60, 3)) * [length, width, height - 0.5] + [
                0,
                0,
                0.45 + (height - 0.5) / 2,
            ]
            b.scatter(places, 0.09, "leaf", rng)
        case "billboard":
            b.brick((-length / 2, -0.06, 1.1), (length / 2, 0.06, height), "plain")
            for x in (-length / 3, length / 3):
                b.brick((x - 0.06, -width / 2, -0.3), (x + 0.06, 0.0, 1.2), "steel")
        case _:
            _boxes(b, item, rng)
    return b


def _boxes(b: Builder, item: Clutter, rng: np.random.Generator) -> None:
    """Cabinets, kiosks, skips, stacked crates and stones."""
    length, width, height = item.size_lwh_m
    match item.kind:
        case "cabinet":
            b.block(-length / 2 + 0.03, length / 2 - 0.03, width / 2 - 0.03, -0.2, height - 0.06, "steel")
            b.block(-length / 2, length / 2, width / 2, height - 0.06, height, "steel")
        case "kiosk":
            b.block(-length / 2 + 0.1, length / 2 - 0.1, width / 2 - 0.3, -0.2, height - 0.2, "plain")
            b.block(-length / 2, length / 2, width / 2, height - 0.2, height, "roof")
            b.brick((-length / 2 + 0.4, width / 2 - 0.32, 1.0), (length / 2 - 0.4, width / 2 - 0.2, 1.9), "dark")
        case "skip":
            x = length / 2
            b.hexahedron(
                (-0.6 * x, 0.6 * x, -width / 2 + 0.1, width / 2 - 0.1, 0.05),
                (-x, x, -width / 2, width / 2, height),
                "plain",
            )
            for _ in range(4):
                place, high = float(rng.uniform(-0.6, 0.6)) * x, float(rng.uniform(0.05, 0.4))
                b.block(place - 0.4, place + 0.4, 0.6 * width / 2, height - 0.1, height + high, "wood")
        case "stack":
            for level in range(3):
                shift = float(rng.uniform(-0.1, 0.1))
                top = height * (level + 1) / 3
                b.block(
                    -0.42 * length + shift, 0.42 * length + shift, 0.42 * width, top - height / 3, top - 0.03, "plain"
                )
        case _:
            lumps = rng.uniform(0.75, 1.0, (4, 9, 1))
            polar = np.linspace(0.02, np.pi - 0.02, 4)[:, None]
            around = np.arange(9)[None] * 2 * np.pi / 9
            ball = np.stack(
                [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar) + 0 * around], -1
            )
            b.skin(ball * lumps * [length / 2, width / 2, height * 0.6] + [0, 0, 0.4 * height], "concrete", "concrete")


def _fence(b: Builder, size: Size, *, is_railing: bool) -> None:
    """Posts, rails and thin bars or boards with gaps: rays pass between them."""
    length, _, height = size
    for x in (-length / 2 + 0.04, 0.0, length / 2 - 0.04):
        b.brick((x - 0.04, -0.04, -0.3), (x + 0.04, 0.04, height), "steel" if is_railing else "wood")
    for z in (0.2, height - 0.12):
        b.brick((-length / 2, -0.02, z), (length / 2, 0.02, z + 0.05), "steel" if is_railing else "wood")
    step, half = (0.13, 0.012) if is_railing else (0.16, 0.055)
    middle = np.arange(-length / 2 + step / 2, length / 2, step)
    corners = np.array([(-half, 0, 0.08), (half, 0, 0.08), (half, 0, height - 0.04), (-half, 0, height - 0.04)])
    vertices = corners[None] + np.column_stack([middle, np.zeros((len(middle), 2))])[:, None]
    quads = np.array([(0, 1, 2), (0, 2, 3)])[None] + 4 * np.arange(len(middle))[:, None, None]
    b.add(vertices.reshape(-1, 3), quads.reshape(-1, 3), "plain")


def _wheelie_bins(b: Builder, size: Size, rng: np.random.Generator) -> None:
    length, width, height = size
    for x in np.arange(-length / 2 + 0.32, length / 2, 0.64):
        y = float(rng.uniform(-0.05, 0.05))
        foot = (x - 0.2, x + 0.2, y - 0.3 * width, y + 0.25 * width, 0.05)
        b.hexahedron(foot, (x - 0.28, x + 0.28, y - 0.42 * width, y + 0.42 * width, 0.92 * height), "plain")
        b.brick((x - 0.3, y - 0.46 * width, 0.92 * height), (x + 0.3, y + 0.46 * width, height), "plain")


def _bench(b: Builder, size: Size) -> None:
    length, width, height = size
    for y in np.linspace(-0.3, 0.4, 4) * width:
        b.brick((-length / 2, y, 0.42), (length / 2, y + 0.1, 0.46), "wood")
    for z in (0.58, 0.74):
        b.brick((-length / 2, -width / 2, z), (length / 2, -width / 2 + 0.04, min(z + 0.1, height)), "wood")
    for x in (-0.4 * length, 0.4 * length):
        b.brick((x - 0.03, -width / 2, -0.1), (x + 0.03, width / 2, 0.42), "steel")
        b.brick((x - 0.03, -width / 2, 0.42), (x + 0.03, -width / 2 + 0.05, height), "steel")


def _shelter(b: Builder, size: Size) -> None:
    """A bus shelter: posts, glass behind and at the sides, a roof, a bench, a showcase."""
    length, width, height = size
    b.block(-length / 2, length / 2, width / 2, height - 0.15, height, "steel")
    for x in (-length / 2 + 0.1, 0.0, length / 2 - 0.1):
        b.brick((x - 0.04, -width / 2 + 0.02, -0.2), (x + 0.04, -width / 2 + 0.1, height - 0.15), "steel")
    b.brick((-length / 2 + 0.1, -width / 2 + 0.04, 0.3), (length / 2 - 0.1, -width / 2 + 0.06, height - 0.3), "glass")
    b.brick((length / 2 - 0.14, -width / 2 + 0.1, 0.2), (length / 2 - 0.06, width / 2 - 0.3, height - 0.3), "dark")
    b.brick((-length / 3, -width / 2 + 0.15, 0.42), (length / 4, -width / 2 + 0.5, 0.47), "wood")


def pole(item: Pole) -> Builder:
    """A lamp, traffic light or sign; x is along `Pole.yaw_rad`."""
    b = Builder()
    top = item.height_m
    b.tube((0, 0, -0.3), (0, 0, top), (0.09, 0.06), "steel", 7)
    match item.kind:
        case "lamp":
            reach = item.reach_m
            b.tube((0, 0, top - 0.3), (reach, 0, top), (0.05, 0.04), "steel", 5, is_closed=False)
            b.brick((reach - 0.35, -0.14, top - 0.02), (reach + 0.3, 0.14, top + 0.08), "dark")
            b.brick((reach - 0.3, -0.11, top - 0.04), (reach + 0.25, 0.11, top - 0.02), "street lamp")
        case "signal":
            heads = [(0.0, 3.4)] if item.height_m > 4 else [(0.0, top)]
            if item.reach_m:
                b.tube((0, 0, top - 0.3), (0, item.reach_m, top - 0.1), (0.08, 0.05), "steel", 6, is_closed=False)
                heads += [(item.reach_m - 0.3, top + 0.35), (item.reach_m / 2, top + 0.3)]
            for y, z in heads:
                b.brick((-0.2, y - 0.17, z - 0.95), (0.1, y + 0.17, z), "dark")
                b.brick((0.1, y - 0.3, z - 1.05), (0.12, y + 0.3, z + 0.1), "dark")
            b.brick((-0.1, -0.14, 1.0), (0.05, 0.14, 1.25), "steel")
        case _:
            if item.reach_m:
                b.tube((0, 0, top - 0.2), (0, item.reach_m, top - 0.2), (0.09, 0.07), "steel", 6, is_closed=False)
                b.brick((-0.15, item.reach_m - 2.4, top - 0.7), (-0.08, item.reach_m, top + 0.9), "board")
            else:
                b.tube((-0.11, 0, top - 0.36), (-0.08, 0, top - 0.36), (0.36, 0.36), "sign", 10)
                b.brick((-0.11, -0.3, top - 1.05), (-0.08, 0.3, top - 0.78), "band")
    return b
