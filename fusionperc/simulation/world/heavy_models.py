"""Parametric trucks, buses, trailers and machines, in metres: x forward, y left, z up from the ground."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusionperc.simulation.world.solids import Builder


def truck(style: int) -> Builder:
    """A rigid truck: closed box, tipper, canvas, flat bed with a load, concrete mixer or refuse truck."""
    b = Builder()
    b.block(-3.4, 3.0, 0.45, 0.55, 0.85, "dark")
    _cab(b, 1.75, 3.45, 1.17, 2.45)
    match style:
        case 0:
            b.block(-3.45, 1.45, 1.25, 0.95, 2.85, "box")
        case 1:
            _tub(b, -3.45, 1.45, 0.95, 2.0)
            b.hexahedron((1.3, 1.45, -1.2, 1.2, 2.0), (1.3, 2.5, -1.2, 1.2, 2.75), "paint")
        case 2:
            _canvas(b, -3.45, 1.5, 1.0, 2.8)
            b.hexahedron((1.75, 3.1, -1.1, 1.1, 2.45), (1.75, 2.0, -1.05, 1.05, 2.8), "paint")
        case 3:
            _flat_bed(b, -3.45, 1.5, 1.0)
            b.block(-2.9, -1.0, 0.85, 1.15, 2.1, "wood")
            b.block(-0.7, 0.9, 0.7, 1.15, 1.75, "concrete")
        case 4:
            b.column([(-0.95, 0.9, 2.3, 1.0), (-0.95, 1.1, 2.3, 1.0)], "dark", 8)
            turned = [(-3.2, 0.45, 2.5), (-2.4, 0.95, 2.2), (-0.6, 1.15, 1.95), (1.1, 0.7, 1.75)]
            _drum(b, turned)
            b.hexahedron((-3.45, -2.9, -0.4, 0.4, 2.2), (-3.4, -2.7, -0.5, 0.5, 2.85), "metal")
        case _:
            b.block(-2.6, 1.5, 1.22, 0.95, 2.75, "paint")
            b.hexahedron((-3.45, -2.6, -1.2, 1.2, 0.7), (-3.1, -2.6, -1.2, 1.2, 2.75), "dark")
    _axles(b, (2.5, -1.75, -2.75) if style != 3 else (2.5, -2.2), 1.2, 0.48)
    b.block(-3.44, -3.36, 1.15, 0.5, 0.62, "metal")
    _tank_and_guards(b, -1.0, 1.5)
    _marks(b, 3.42, -3.44, 1.15, 0.72)
    return b


def tractor(style: int) -> Builder:
    """The vehicle in front of a semi-trailer: high cab, with or without a bonnet, low rear with the coupling."""
    b = Builder()
    b.block(-3.1, 2.2, 0.45, 0.6, 0.95, "dark")
    if style == 0:
        _cab(b, 1.0, 3.1, 1.23, 3.1)
        b.hexahedron((1.0, 2.6, -1.15, 1.15, 3.1), (1.0, 1.5, -1.0, 1.0, 3.6), "paint")
    else:
        _cab(b, 0.1, 1.9, 1.2, 2.9)
        b.hexahedron((1.9, 3.1, -0.95, 0.95, 0.6), (1.9, 3.0, -0.75, 0.75, 1.65), "paint")
        b.tube((-0.05, 1.05, 0.9), (-0.05, 1.05, 3.6), (0.09, 0.09), "metal", 6)
    b.block(-2.9, -0.9, 0.5, 0.95, 1.15, "dark")
    _axles(b, (2.15, -1.35, -2.5), 1.23, 0.5)
    _tank_and_guards(b, -0.6, 0.9)
    _marks(b, 3.08, -3.1, 1.15, 0.75)
    return b


def _cab(b: Builder, rear_x: float, front_x: float, half_y: float, top_z: float) -> None:
    """A cab above the front axle, its front rounded in plan and slanting above the dashboard."""
    belt = 0.52 * top_z + 0.2
    plan = ((rear_x, 1.0), (front_x - 0.3, 1.0), (front_x - 0.06, 0.88), (front_x, 0.6), (front_x + 0.01, 0.0))
    levels = ((0.55, 0.0, 0.98), (belt, 0.0, 1.0), (top_z - 0.2, 0.18, 0.95), (top_z, 0.35, 0.85))
    sections = [[(x - (back if k else 0), share * lean * half_y, z) for z, back, lean in levels] + [
        (x - (0.35 if k else 0), 0.0, top_z + 0.03)
    ] for k, (x, share) in enumerate(plan)]  # fmt: skip
    rows = [["paint", "paint", "paint", "paint"], *[["paint", "glass", "paint", "paint"]] * 3]
    b.loft(np.array(sections), rows, "paint")
    b.block(front_x - 0.2, front_x - 0.02, half_y * 0.6, 0.55, 1.0, "dark")
    b.brick((rear_x + 0.25, -half_y + 0.2, belt - 0.5), (rear_x + 0.45, half_y - 0.2, belt + 0.3), "seat")
    for side in (-1, 1):
        y0, y1 = sorted((side * (half_y - 0.01), side * (half_y + 0.015)))
        b.brick((rear_x + 0.75, y0, belt), (front_x - 0.5, y1, top_z - 0.35), "glass")
        y0, y1 = sorted((side * (half_y + 0.03), side * (half_y + 0.16)))
        b.brick((front_x - 0.25, y0, belt), (front_x - 0.15, y1, belt + 0.55), "dark")


def _drum(b: Builder, levels: Sequence[tuple[float, float, float]]) -> None:
    """A mixer's drum: (x, radius, z of the middle) from the rear to the front."""
    angle = np.arange(12) * np.pi / 6
    rings = [np.stack([np.full(12, x), r * np.cos(angle), z + r * np.sin(angle)], axis=-1) for x, r, z in levels]
    b.skin(np.stack(rings), "box", "dark")


def _tub(b: Builder, x0: float, x1: float, z0: float, z1: float) -> None:
    """An open tub: floor and four walls."""
    b.block(x0, x1, 1.1, z0, z0 + 0.12, "dark")
    for side in (-1, 1):
        y0, y1 = sorted((side * 1.15, side * 1.23))
        b.brick((x0, y0, z0), (x1, y1, z1), "paint")
        for x in np.linspace(x0 + 0.1, x1 - 0.2, 5):
            y0, y1 = sorted((side * 1.23, side * 1.27))
            b.brick((x, y0, z0), (x + 0.1, y1, z1), "paint")
    for x in (x0, x1 - 0.06):
        b.brick((x, -1.2, z0), (x + 0.06, 1.2, z1), "paint")


def _canvas(b: Builder, x0: float, x1: float, z0: float, z1: float) -> None:
    """A tarpaulin over bows: sides that sag a little between the bows."""
    x = np.linspace(x0, x1, 7)
    half = 1.25 - 0.03 * (np.arange(7) % 2)
    top = np.full(7, z1) - 0.04 * (np.arange(7) % 2)
    profile = [(0 * x, z0 + 0 * x), (half, z0 + 0 * x), (half, top - 0.1), (half - 0.12, top - 0.01), (0 * x, top)]
    b.loft(np.stack([np.stack([x, y, z], axis=-1) for y, z in profile], axis=1), "paint", "paint")


def _flat_bed(b: Builder, x0: float, x1: float, z: float) -> None:
    b.block(x0, x1, 1.23, z - 0.05, z + 0.12, "metal")
    b.block(x1 - 0.1, x1, 1.2, z, z + 1.2, "metal")


def _axles(b: Builder, places_x: Sequence[float], half_y: float, radius: float) -> None:
    for x in places_x:
        for side in (-1, 1):
            b.wheel(x, side * (half_y - 0.15), radius, 0.3)


def _tank_and_guards(b: Builder, x0: float, x1: float) -> None:
    """What hangs between the axles: fuel tank on one side, guard rails on the other."""
    b.tube((x0, 0.9, 0.68), (x0 + 0.6 * (x1 - x0), 0.9, 0.68), (0.26, 0.26), "metal", 7)
    for z in (0.5, 0.75):
        b.brick((x0, -1.12, z), (x1, -1.08, z + 0.1), "metal")


def _marks(b: Builder, front_x: float, rear_x: float, half_y: float, z: float) -> None:
    """Lights and plates."""
    for side in (-1, 1):
        y0, y1 = sorted((side * half_y * 0.62, side * half_y * 0.95))
        b.brick((front_x - 0.06, y0, z), (front_x + 0.01, y1, z + 0.16), "lamp")
        b.brick((rear_x - 0.01, y0, z), (rear_x + 0.05, y1, z + 0.16), "tail")
    b.brick((rear_x - 0.012, -0.26, z - 0.15), (rear_x + 0.02, 0.26, z - 0.02), "plate")
    b.brick((front_x - 0.02, -0.26, z - 0.2), (front_x + 0.012, 0.26, z - 0.08), "plate")


def bus(style: int) -> Builder:
    """A city bus, a coach, or a double-decker."""
    height, belt, lintel = ((3.2, 1.2, 2.55), (3.45, 1.7, 2.95), (4.2, 1.2, 2.1))[style]
    half, length = 1.27, 5.6
    b = Builder()
    plan = ((-length, 0.93, 0.0), (-length + 0.12, 1.0, 0.0), (length - 0.5, 1.0, 0.0), (length - 0.08, 0.9, 0.1))
    sections = []
    for x, share, lean in (*plan, (length, 0.6, 0.2), (length + 0.01, 0.0, 0.2)):
        y = share * half
        below = ((0.0, 0.32), (0.94 * y, 0.32), (y, 0.5), (y, belt))
        above = ((0.985 * y, lintel), (0.97 * y, height - 0.15), (0.85 * y, height - 0.02), (0.0, height))
        sections.append([(x - lean * max(z - 1.0, 0) / height, w, z) for w, z in (*below, *above)])
    rows = [["dark", "dark", "paint", "glass", "paint", "paint", "paint"]] * 5
    b.loft(np.array(sections), rows, "paint")
    for x in np.linspace(-length + 0.3, length - 0.6, 7):
        for side in (-1, 1):
            y0, y1 = sorted((side * (half - 0.03), side * (half + 0.004)))
            b.brick((x - 0.06, y0, belt), (x + 0.06, y1, lintel), "paint")
    _upper_deck(b, style, half, length, height)
    b.block(-length + 0.4, length - 0.4, half - 0.12, 0.62, 0.68, "dark")
    for row in np.linspace(-length + 1.2, length - 2.2, 5):
        for side in (-1, 1):
            y0, y1 = sorted((side * 0.3, side * 1.1))
            b.brick((row, y0, 0.68), (row + 0.12, y1, belt + 0.45), "seat")
    for side in (-1, 1):
        y0, y1 = sorted((side * (half + 0.02), side * (half + 0.17)))
        b.brick((length - 0.15, y0, 1.8), (length - 0.05, y1, 2.3), "dark")
    _axles(b, (2.9, -2.9), half + 0.012, 0.48)
    _marks(b, length - 0.01, -length, half * 0.95, 0.7)
    return b


def bendy_front(_style: int) -> Builder:
    """The front section of an articulated bus, as far as the bellows."""
    b = bus(0)
    _bellows(b, -6.1, -5.6)
    return b


def bendy_rear(_style: int) -> Builder:
    """The rear section of an articulated bus: bellows instead of a front."""
    b = Builder()
    half, front = 1.27, 3.6
    plan = ((-3.8, 0.93), (-3.68, 1.0), (front, 1.0))
    sections = []
    for x, share in plan:
        y = share * half
        below = ((0.0, 0.32), (0.94 * y, 0.32), (y, 0.5), (y, 1.2))
        above = ((0.985 * y, 2.55), (0.97 * y, 3.05), (0.85 * y, 3.18), (0.0, 3.2))
        sections.append([(x, w, z) for w, z in (*below, *above)])
    b.loft(np.array(sections), [["dark", "dark", "paint", "glass", "paint", "paint", "paint"]] * 2, "paint")
    _bellows(b, front, 4.1)
    b.block(-2.4, -0.4, 0.85, 3.18, 3.42, "box")
    _axles(b, (-0.9,), half + 0.012, 0.48)
    for side in (-1, 1):
        y0, y1 = sorted((side * 0.75, side * 1.15))
        b.brick((-3.82, y0, 0.75), (-3.74, y1, 0.95), "tail")
    b.brick((-3.815, -0.26, 0.6), (-3.77, 0.26, 0.73), "plate")
    return b


def _bellows(b: Builder, x0: float, x1: float) -> None:
    """Folds between the sections of an articulated bus."""
    x = np.linspace(x0, x1, 7)
    half = 1.18 - 0.07 * (np.arange(7) % 2)
    profile = ((0 * x, 0 * x + 0.5), (half, 0 * x + 0.5), (half, 0 * x + 3.0), (0 * x, 0 * x + 3.0))
    b.loft(np.stack([np.stack([x, y, z], axis=-1) for y, z in profile], axis=1), "dark", "dark")


def _upper_deck(b: Builder, style: int, half: float, length: float, height: float) -> None:
    """What tells the styles apart: the cooler on a roof, luggage flaps, a second row of windows."""
    match style:
        case 0:
            b.block(-3.6, -1.2, 0.85, height - 0.02, height + 0.25, "box")
            b.block(1.0, 2.6, 0.7, height - 0.02, height + 0.16, "box")
        case 1:
            b.block(-1.0, 1.0, 0.75, height - 0.02, height + 0.15, "box")
        case _:
            for side in (-1, 1):
                y0, y1 = sorted((side * (half - 0.03), side * (half + 0.005)))
                b.brick((-length + 0.4, y0, 2.65), (length - 0.9, y1, 3.6), "glass")


def trailer(style: int) -> Builder:
    """A semi-trailer: closed box, canvas, tank, container on a frame, or flat with a load."""
    b = Builder()
    b.block(-5.9, 5.9, 0.45, 0.95, 1.2, "dark")
    match style:
        case 0:
            b.block(-6.1, 6.1, 1.3, 1.2, 3.87, "box")
        case 1:
            _canvas(b, -6.1, 6.1, 1.15, 3.87)
        case 2:
            angle = np.arange(14) * 2 * np.pi / 14
            rings = [
                np.stack([np.full(14, x), 1.26 * r * np.cos(angle), 2.35 + 1.15 * r * np.sin(angle)], axis=-1)
                for x, r in ((-6.05, 0.7), (-5.8, 1.0), (5.8, 1.0), (6.05, 0.7))
            ]
            b.skin(np.stack(rings), "metal", "metal")
            b.block(-4.0, 4.0, 0.25, 3.45, 3.65, "metal")
        case 3:
            b.block(-6.1, 6.0, 1.22, 1.25, 3.8, "paint")
            for x in np.linspace(-5.7, 5.6, 16):
                for side in (-1, 1):
                    y0, y1 = sorted((side * 1.22, side * 1.26))
                    b.brick((x, y0, 1.4), (x + 0.3, y1, 3.7), "paint")
        case _:
            _flat_bed(b, -6.1, 6.1, 1.2)
            for x, long, high in ((-4.6, 2.2, 1.2), (-1.5, 3.0, 0.8), (2.4, 2.4, 1.6)):
                b.block(x - long / 2, x + long / 2, 0.95, 1.32, 1.32 + high, "wood" if high < 1.5 else "steel")
    _axles(b, (-3.0, -4.25, -5.5), 1.27, 0.5)
    for side in (-1, 1):
        b.brick((2.8, side * 0.8 - 0.08, 0.08), (3.0, side * 0.8 + 0.08, 1.0), "metal")
        y0, y1 = sorted((side * 1.18, side * 1.24))
        b.brick((-2.2, y0, 0.55), (2.6, y1, 0.67), "metal")
        b.brick((-2.2, y0, 0.85), (2.6, y1, 0.97), "metal")
    b.block(-6.05, -5.98, 1.2, 0.45, 0.6, "metal")
    for side in (-1, 1):
        y0, y1 = sorted((side * 0.8, side * 1.2))
        b.brick((-6.11, y0, 0.98), (-6.05, y1, 1.12), "tail")
    b.brick((-6.11, -0.26, 0.7), (-6.05, 0.26, 0.85), "plate")
    return b


def machine(style: int) -> Builder:
    """Excavator with its arm bent, wheel loader, excavator with its arm stretched, or road roller."""
    b = Builder()
    match style:
        case 0:
            _crawler(b)
            _boom(b, ((0.5, 1.6), (1.9, 3.1), (2.9, 1.4)))
            b.hexahedron((2.4, 3.1, -0.9, 0.2, 0.5), (2.6, 3.2, -0.9, 0.2, 1.4), "metal")
        case 1:
            _loader(b)
        case 2:
            _crawler(b)
            _boom(b, ((0.5, 1.6), (2.6, 2.7), (3.9, 0.9)))
            b.hexahedron((3.5, 4.2, -0.9, 0.2, 0.1), (3.6, 4.3, -0.9, 0.2, 0.9), "metal")
        case _:
            _roller(b)
    return b


def _crawler(b: Builder) -> None:
    """Tracks, platform, engine and cab of an excavator."""
    for side in (-1, 1):
        y0, y1 = sorted((side * 0.85, side * 1.42))
        b.hexahedron((-1.9, 1.3, y0, y1, 0.0), (-2.1, 1.5, y0, y1, 0.45), "dark")
        b.hexahedron((-2.1, 1.5, y0, y1, 0.45), (-1.9, 1.3, y0, y1, 0.85), "dark")
    b.block(-1.7, 1.1, 0.9, 0.5, 1.0, "dark")
    b.column([(-1.3, 1.0, 1.9, 1.25), (-1.3, 1.7, 1.9, 1.25), (-1.4, 2.0, 1.6, 1.05)], "paint", 10)
    _operator_cab(b, (-0.9, 0.75), (0.2, 1.2), 1.5, 3.05)


def _operator_cab(b: Builder, x: tuple[float, float], y: tuple[float, float], z0: float, z1: float) -> None:
    """Glass between four posts, a seat, a roof."""
    b.hexahedron((*x, *y, z0), (x[0], x[1] - 0.2, *y, z1), "glass")
    b.brick((x[0] + 0.3, y[0] + 0.3, z0), (x[0] + 0.5, y[1] - 0.3, z0 + 0.9), "seat")
    b.brick((x[0] - 0.03, y[0] - 0.03, z1), (x[1] - 0.1, y[1] + 0.03, z1 + 0.1), "paint")
    for px, lean in ((x[0], 0.0), (x[1], -0.2)):
        for py in y:
            b.tube((px, py, z0), (px + lean, py, z1), (0.06, 0.06), "paint", 4, is_closed=False)


def _boom(b: Builder, joints: Sequence[tuple[float, float]]) -> None:
    (x0, z0), (x1, z1), (x2, z2) = joints
    b.tube((x0, -0.35, z0), (x1, -0.35, z1), (0.28, 0.22), "paint", 6)
    b.tube((x1, -0.35, z1), (x2, -0.35, z2), (0.20, 0.16), "paint", 6)
    b.tube((x0 + 0.2, -0.35, z0 - 0.2), ((x0 + x1) / 2, -0.35, (z0 + z1) / 2), (0.08, 0.06), "metal", 5)


def _loader(b: Builder) -> None:
    """A wheel loader with its bucket down."""
    for x in (-1.6, 1.1):
        for side in (-1, 1):
            b.wheel(x, side * 0.95, 0.7, 0.5)
    b.hexahedron((-2.9, -0.6, -0.8, 0.8, 0.7), (-2.8, -0.6, -0.75, 0.75, 1.9), "paint")
    b.block(-0.6, 1.6, 0.55, 0.6, 1.3, "paint")
    _operator_cab(b, (-0.7, 0.6), (-0.65, 0.65), 1.3, 3.0)
    for side in (-1, 1):
        b.tube((0.9, side * 0.45, 1.4), (2.4, side * 0.45, 0.6), (0.13, 0.10), "paint", 5)
    b.hexahedron((2.2, 2.5, -1.25, 1.25, 0.05), (2.1, 2.3, -1.25, 1.25, 1.0), "metal")
    b.hexahedron((2.2, 3.1, -1.25, 1.25, 0.05), (2.3, 2.6, -1.25, 1.25, 0.2), "metal")


def _roller(b: Builder) -> None:
    """A tandem road roller."""
    for x in (-1.5, 1.5):
        b.tube((x, -0.85, 0.65), (x, 0.85, 0.65), (0.65, 0.65), "metal", 14)
    b.block(-2.2, -0.5, 0.9, 0.9, 1.55, "paint")
    b.block(-0.5, 0.5, 0.85, 0.7, 1.2, "paint")
    b.block(0.5, 2.2, 0.9, 0.9, 1.45, "paint")
    _operator_cab(b, (-0.6, 0.7), (-0.7, 0.7), 1.2, 2.9)
