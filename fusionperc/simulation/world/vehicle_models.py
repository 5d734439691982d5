"""Parametric bodies of cars, in metres: x forward, y left, z up from the ground.

A car is a skin over cross-sections: its lower body is rounded in plan at both ends, with wheel arches; the cabin above
it is glass with pillars, leaning inwards, and behind the glass there are seats. Points of real LiDARs lie on just
these: corners that are not corners, slanted windscreens, and a few on the seats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.world.solids import Builder

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CarShape:
    """Profile of a car; x from the rear end at 0 to the front at `length_m`, heights above the ground, metres.

    Attributes:
        length_m, half_width_m: without mirrors.
        axles_x: rear and front.
        wheel_radius_m: of the tyres.
        sill_z: lower edge of the body's sides.
        nose_z, cowl_z: bonnet at its front and at the windscreen's foot.
        tail_z: boot lid or, where there is none, the rear window's foot.
        cowl_x, roof_front_x, roof_rear_x, rear_foot_x: windscreen's foot and top, rear window's top and foot.
        roof_z: highest point.
        rear_material: of the skin between roof and tail.
        side_material: of the sides behind the front seats, between belt and roof.
        has_rails: on the roof.
    """

    length_m: float
    half_width_m: float
    axles_x: tuple[float, float]
    wheel_radius_m: float
    sill_z: float
    nose_z: float
    cowl_z: float
    tail_z: float
    cowl_x: float
    roof_front_x: float
    roof_rear_x: float
    rear_foot_x: float
    roof_z: float
    rear_material: str = "glass"
    side_material: str = "glass"
    has_rails: bool = False


SALOON = CarShape(
    4.75, 0.91, (1.02, 3.82), 0.33, 0.21, 0.72, 0.97, 1.00, 3.32, 2.52, 1.35, 0.62, 1.45,
)  # fmt: skip
HATCHBACK = CarShape(
    4.25, 0.89, (0.72, 3.36), 0.32, 0.21, 0.72, 0.96, 0.98, 3.02, 2.22, 0.55, 0.10, 1.48,
)  # fmt: skip
ESTATE = CarShape(
    4.75, 0.91, (0.98, 3.80), 0.33, 0.21, 0.72, 0.97, 1.00, 3.32, 2.52, 0.45, 0.08, 1.48, has_rails=True,
)  # fmt: skip
COUPE = CarShape(
    4.50, 0.92, (0.85, 3.55), 0.34, 0.17, 0.66, 0.90, 0.98, 3.02, 2.10, 1.45, 0.35, 1.34,
)  # fmt: skip
CITY_CAR = CarShape(
    3.60, 0.81, (0.55, 2.95), 0.28, 0.21, 0.76, 1.00, 1.00, 2.82, 2.12, 0.28, 0.06, 1.52,
)  # fmt: skip
CROSSOVER = CarShape(
    4.45, 0.92, (0.86, 3.50), 0.35, 0.27, 0.86, 1.06, 1.08, 3.12, 2.30, 0.62, 0.12, 1.64, has_rails=True,
)  # fmt: skip
SUV = CarShape(
    4.85, 0.96, (1.00, 3.86), 0.38, 0.32, 0.98, 1.16, 1.16, 3.42, 2.62, 0.45, 0.10, 1.80, has_rails=True,
)  # fmt: skip
OFF_ROADER = CarShape(
    4.55, 0.95, (0.85, 3.62), 0.39, 0.38, 1.08, 1.18, 1.20, 3.05, 2.68, 0.14, 0.06, 1.86,
)  # fmt: skip
MINIVAN = CarShape(
    4.90, 0.96, (0.98, 3.98), 0.34, 0.22, 0.84, 1.06, 1.05, 4.00, 2.95, 0.32, 0.08, 1.78, has_rails=True,
)  # fmt: skip
DELIVERY_VAN = CarShape(
    5.20, 0.98, (1.00, 4.20), 0.34, 0.24, 0.92, 1.22, 1.30, 4.32, 3.40, 0.10, 0.03, 2.15, "paint", "paint",
)  # fmt: skip
SMALL_VAN = CarShape(
    4.40, 0.90, (0.72, 3.50), 0.32, 0.23, 0.82, 1.05, 1.10, 3.42, 2.66, 0.10, 0.03, 1.84, "paint", "paint",
)  # fmt: skip
PICKUP = CarShape(
    5.35, 0.95, (1.15, 4.35), 0.38, 0.36, 1.00, 1.14, 1.16, 3.82, 3.08, 2.02, 1.82, 1.82,
)  # fmt: skip


def car(shape: CarShape) -> Builder:
    """A car of a given profile."""
    b = Builder()
    _body(b, shape)
    _cabin(b, shape)
    _interior(b, shape)
    for x in shape.axles_x:
        for side in (-1, 1):
            b.wheel(x, side * (shape.half_width_m - 0.14), shape.wheel_radius_m, 0.22)
    _details(b, shape)
    if shape is PICKUP:
        _bed(b, shape)
    return b


def _top_z(shape: CarShape, x: Array) -> Array:
    """Height of the body's upper edge: boot, belt line, bonnet."""
    knots = (0.0, 0.06, 0.22, shape.rear_foot_x + 0.25, shape.cowl_x, shape.length_m - 0.35, shape.length_m - 0.08)
    heights = (
        shape.tail_z - 0.28, shape.tail_z - 0.06, shape.tail_z, shape.tail_z, shape.cowl_z, shape.nose_z + 0.06,
        shape.nose_z - 0.08,
    )  # fmt: skip
    return np.interp(x, (*knots, shape.length_m), (*heights, shape.nose_z - 0.24))


def _half_width(shape: CarShape, x: Array) -> Array:
    """Plan outline: rounded at both ends, narrower in front."""
    knots = (0.0, 0.06, 0.22, 0.6, shape.length_m - 0.9, shape.length_m - 0.35, shape.length_m - 0.1, shape.length_m)
    return shape.half_width_m * np.interp(x, knots, (0.70, 0.86, 0.95, 1.0, 1.0, 0.95, 0.80, 0.58))


def _body(b: Builder, shape: CarShape) -> None:
    radius = shape.wheel_radius_m + 0.06
    rear, front = shape.axles_x
    arch = np.array([-1.0, -0.72, 0.0, 0.72, 1.0]) * radius
    ends = [0.0, 0.06, 0.22], [shape.length_m - 0.35, shape.length_m - 0.1, shape.length_m]
    x = np.sort(np.concatenate([*ends, rear + arch, front + arch, [shape.rear_foot_x + 0.25, shape.cowl_x]]))
    # Stations closer than this would only add slivers.
    x = x[np.concatenate([[True], np.diff(x) > 0.03])]
    from_axle = np.minimum(abs(x - rear), abs(x - front))
    rounding = np.sqrt(np.maximum(radius**2 - from_axle**2, 0))
    sill = np.maximum(shape.sill_z, np.where(rounding > 0, shape.wheel_radius_m + rounding, 0))
    sill += np.interp(x, (0.0, 0.3, shape.length_m - 0.3, shape.length_m), (0.12, 0.0, 0.0, 0.06))
    top, half = _top_z(shape, x), _half_width(shape, x)
    under = np.full_like(x, shape.sill_z)
    height = np.maximum(top - sill, 0.05)
    zero = np.zeros_like(x)
    profile = [
        (zero, under), (0.70 * half, under), (0.72 * half, sill), (0.97 * half, sill), (half, sill + 0.4 * height),
        (0.985 * half, sill + 0.75 * height), (0.92 * half, sill + height), (zero, sill + height + 0.03),
    ]  # fmt: skip
    sections = np.stack([np.stack([x, y, z], axis=-1) for y, z in profile], axis=1)
    open_top = (x[:-1] >= shape.rear_foot_x) & (x[1:] <= shape.cowl_x + 1e-6)
    if shape is PICKUP:
        open_top = (x[:-1] > 0.05) & (x[1:] <= shape.cowl_x + 1e-6)
    rows = [["dark", "dark", *["paint"] * 4, "" if is_open else "paint"] for is_open in open_top]
    b.loft(sections, rows, "paint")


def _cabin(b: Builder, shape: CarShape) -> None:
    """Glass walls leaning inwards under a roof that is a little curved, with pillars at its edges."""
    middle = (shape.roof_front_x + shape.roof_rear_x) / 2
    drop = 0.05
    stations = [
        (shape.rear_foot_x, 0.90, shape.tail_z), (shape.roof_rear_x, 0.76, shape.roof_z - drop),
        (middle, 0.79, shape.roof_z), (shape.roof_front_x, 0.76, shape.roof_z - drop),
        (shape.cowl_x, 0.92, shape.cowl_z),
    ]  # fmt: skip
    is_boxy = shape.side_material == "paint"
    belts = _top_z(shape, np.array([x for x, _, _ in stations]))
    sections = []
    for k, (x, share, z) in enumerate(stations):
        belt, inner = 0.93 * shape.half_width_m, (share + (0.1 if is_boxy and k < 3 else 0)) * shape.half_width_m
        edge = belts[k] if k in (0, 4) else z - 0.09
        points = [(belt, belts[k] - 0.02), (inner, edge), (0.78 * inner, max(z - 0.015, edge)), (0.0, z)]
        sections.append([(x, y, h) for y, h in points])
    side, rear = shape.side_material, shape.rear_material
    rows = [
        [side, rear, rear], [side, "paint", "paint"], ["glass", "paint", "paint"], ["glass", "glass", "glass"],
    ]  # fmt: skip
    b.loft(np.array(sections), rows)
    for k, m in ((4, 3), (0, 1)):
        _pillar(b, sections[k][0], sections[m][1])
    if not is_boxy:
        _pillar(b, sections[2][0], sections[2][1])
        _pillar(b, sections[1][0], sections[1][1])
    if shape.has_rails:
        for sign in (-1, 1):
            y, z = sign * 0.68 * shape.half_width_m, shape.roof_z + 0.015
            b.tube((shape.roof_rear_x, y, z), (shape.roof_front_x, y, z), (0.02, 0.02), "dark", 4, is_closed=False)


def _pillar(b: Builder, foot: tuple[float, float, float], top: tuple[float, float, float]) -> None:
    for sign in (-1, 1):
        start, end = (foot[0], sign * foot[1], foot[2]), (top[0], sign * top[1], top[2])
        b.tube(start, end, (0.05, 0.04), "paint", 4, is_closed=False)


def _interior(b: Builder, shape: CarShape) -> None:
    """What a ray meets behind the windows: dashboard, seats with headrests, the boot's cover."""
    half, belt = 0.86 * shape.half_width_m, shape.cowl_z
    rear_x = shape.rear_foot_x + 0.2
    seat_x = shape.cowl_x - 1.15
    floor = shape.sill_z + 0.12
    b.brick((rear_x, -half, floor), (shape.cowl_x, half, floor + 0.06), "dark")
    b.brick((shape.cowl_x - 0.5, -half, belt - 0.3), (shape.cowl_x - 0.05, half, belt - 0.04), "dark")
    for y in (-0.37, 0.37):
        b.brick((seat_x, y - 0.24, floor), (seat_x + 0.5, y + 0.24, floor + 0.3), "seat")
        b.hexahedron(
            (seat_x - 0.12, seat_x + 0.04, y - 0.24, y + 0.24, floor + 0.25),
            (seat_x - 0.3, seat_x - 0.2, y - 0.2, y + 0.2, belt + 0.12),
            "seat",
        )
        b.brick((seat_x - 0.34, y - 0.12, belt + 0.15), (seat_x - 0.24, y + 0.12, belt + 0.32), "seat")
    bench_x = seat_x - 0.95
    if shape.side_material == "glass" and bench_x > rear_x:
        b.brick((bench_x, -half, floor), (bench_x + 0.45, half, floor + 0.28), "seat")
        b.hexahedron(
            (bench_x - 0.1, bench_x + 0.05, -half, half, floor + 0.25),
            (bench_x - 0.3, bench_x - 0.18, -half + 0.1, half - 0.1, belt + 0.1),
            "seat",
        )
        if bench_x - 0.4 > rear_x:
            b.brick((rear_x, -half, belt - 0.12), (bench_x - 0.2, half, belt - 0.06), "dark")


def _details(b: Builder, shape: CarShape) -> None:
    """Mirrors, lights, plates; mirrors make a car wider than its body by a twelfth."""
    half, length = shape.half_width_m, shape.length_m
    front_z, rear_z = shape.nose_z - 0.12, shape.tail_z - 0.24
    for side in (-1, 1):
        y0, y1 = sorted((side * 0.95 * half, side * 1.085 * half))
        mirror_x = shape.cowl_x - 0.30
        b.brick((mirror_x, y0, shape.cowl_z + 0.01), (mirror_x + 0.12, y1, shape.cowl_z + 0.16), "paint")
        y0, y1 = sorted((side * 0.52 * half, side * 0.82 * half))
        foot, top = (length - 0.3, length - 0.06), (length - 0.4, length - 0.14)
        b.hexahedron((*foot, y0, y1, front_z - 0.07), (*top, y0, y1, front_z + 0.09), "lamp")
        y0, y1 = sorted((side * 0.6 * half, side * 0.86 * half))
        b.brick((0.0, y0, rear_z - 0.06), (0.2, y1, rear_z + 0.10), "tail")
    b.brick((length - 0.05, -0.26, 0.36), (length + 0.01, 0.26, 0.47), "plate")
    plate_z = rear_z - 0.12
    b.brick((-0.01, -0.26, plate_z - 0.06), (0.03, 0.26, plate_z + 0.06), "plate")


def _bed(b: Builder, shape: CarShape) -> None:
    """Floor and front wall of a pick-up's bed."""
    half, z = 0.88 * shape.half_width_m, shape.sill_z + 0.3
    b.brick((0.06, -half, z), (shape.rear_foot_x + 0.2, half, z + 0.05), "dark")
    b.brick((shape.rear_foot_x, -half, z), (shape.rear_foot_x + 0.06, half, shape.tail_z), "paint")
