"""Parametric people and their cycles, in metres: x forward, y left, z up from the ground."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusionperc.simulation.world.solids import Builder

#: Moments of a stride that have a mesh of their own, and the one that stands still.
WALK_STEPS = 8
STANDING = WALK_STEPS
#: Adults are this tall; every box is filled by scaling.
_STATURE_M = 1.75

Point = tuple[float, float, float]
Load = Literal["nothing", "backpack", "shoulder bag", "shopping", "telephone"]
Dress = Literal["trousers", "skirt", "coat", "vest"]


@dataclass(frozen=True)
class Build:
    """A person: half breadths of shoulders and hips and the trunk's half depth, metres; what is worn and carried;
    head's size relative to an adult's."""

    shoulder: float
    hip: float
    depth: float
    dress: Dress = "trousers"
    load: Load = "nothing"
    head: float = 1.0


BUILDS = (
    Build(0.19, 0.165, 0.115),
    Build(0.165, 0.165, 0.105, "skirt", "shoulder bag"),
    Build(0.20, 0.19, 0.15, "trousers", "backpack"),
    Build(0.175, 0.16, 0.11, "trousers", "telephone"),
    Build(0.195, 0.175, 0.13, "coat"),
    Build(0.185, 0.17, 0.12, "trousers", "shopping"),
    Build(0.205, 0.18, 0.14, "coat", "shoulder bag"),
    Build(0.165, 0.155, 0.10, "trousers", "backpack"),
)
#: Drawn at an adult's height like everybody: relative to it a child has a large head and narrow shoulders.
CHILD_BUILDS = (
    Build(0.18, 0.16, 0.12, "trousers", "backpack", head=1.32),
    Build(0.17, 0.16, 0.12, "skirt", "nothing", head=1.35),
    Build(0.185, 0.165, 0.13, "trousers", "nothing", head=1.28),
)
WORKER_BUILDS = (Build(0.20, 0.18, 0.135, "vest"), Build(0.19, 0.17, 0.12, "vest", "telephone"))


def walker(build: Build, step: int) -> Builder:
    """A person at one of `WALK_STEPS` moments of the stride, or at `STANDING`."""
    b = Builder()
    phase = 2 * np.pi * step / WALK_STEPS
    swing = 0.0 if step == STANDING else 0.29 * float(np.sin(phase))
    raised = 0.0 if step == STANDING else 0.11 * float(np.cos(phase))
    # The body sinks a little when the legs are apart.
    sunk = 0.10 * swing * swing
    for side in (-1, 1):
        _leg(b, build, side, side * swing, max(0.0, raised * side))
        _arm(b, build, side, -side * swing, sunk)
    waist, chest, top = 1.02 - sunk, 1.28 - sunk, 1.45 - sunk
    shoulder, hip, depth = build.shoulder, build.hip, build.depth
    trunk = [
        (0.0, 0.86 - sunk, depth, hip), (-0.01, waist, 0.92 * depth, 0.86 * hip), (0.0, chest, depth, 0.86 * shoulder),
        (-0.01, top - 0.06, 0.85 * depth, shoulder), (-0.01, top, 0.5 * depth, 0.45 * shoulder),
    ]  # fmt: skip
    b.column(trunk, "cloth", 8)
    match build.dress:
        case "skirt":
            b.column([(0.0, 0.5, 0.19, 0.2), (0.0, 0.95 - sunk, 0.9 * depth, hip)], "cloth", 8)
        case "coat":
            b.column([(0.0, 0.58, 0.17, 1.15 * hip), (0.0, 0.95 - sunk, depth, hip)], "cloth", 8)
        case "vest":
            # Two bands around the trunk that throw light back.
            for z, wide in ((1.04 - sunk, 0.95 * hip), (1.24 - sunk, 0.9 * shoulder)):
                around = (1.04 * depth, max(wide, 0.9 * hip))
                b.column([(-0.005, z, *around), (-0.005, z + 0.06, *around)], "band", 8)
        case _:
            pass
    _head(b, build.head, sunk, "plain" if build.dress == "vest" else "hair")
    _load(b, build, sunk)
    return b


def _leg(b: Builder, build: Build, side: int, reach: float, lift: float) -> None:
    hip: Point = (0.0, side * 0.55 * build.hip, 0.9)
    foot: Point = (reach - 0.4 * lift, side * 0.1, 0.08 + lift)
    knee: Point = (0.55 * reach + 0.7 * lift + 0.02, side * 0.1, 0.5 + 0.1 * lift)
    material = "skin" if build.dress == "skirt" else "trousers"
    b.tube(hip, knee, (0.55 * build.hip, 0.07), "trousers", 6)
    b.tube(knee, foot, (0.068, 0.048), material, 6)
    x, y, z = foot
    sole, instep = (
        (x - 0.08, x + 0.19, y - 0.05, y + 0.05, z - 0.08),
        (x - 0.07, x + 0.08, y - 0.04, y + 0.04, z + 0.02),
    )
    b.hexahedron(sole, instep, "dark")


def _arm(b: Builder, build: Build, side: int, reach: float, sunk: float) -> None:
    shoulder: Point = (-0.01, side * (build.shoulder - 0.01), 1.4 - sunk)
    elbow: Point = (0.45 * reach - 0.03, side * (build.shoulder + 0.02), 1.13 - sunk)
    hand: Point = (0.95 * reach + 0.05, side * (build.shoulder + 0.01), 0.88 - sunk)
    if build.load == "telephone" and side < 0:
        elbow, hand = (0.02, -build.shoulder - 0.03, 1.14 - sunk), (0.24, -0.08, 1.28 - sunk)
    elif build.load == "shopping":
        elbow = (0.2 * reach, side * (build.shoulder + 0.03), 1.13 - sunk)
        hand = (0.3 * reach, side * (build.shoulder + 0.04), 0.84 - sunk)
    b.tube(shoulder, elbow, (0.06, 0.045), "cloth", 6)
    b.tube(elbow, hand, (0.045, 0.035), "cloth", 6)
    b.ball(hand, (0.05, 0.04, 0.06), "skin", 3, 5)


def _head(b: Builder, size: float, sunk: float, cover: str) -> None:
    top = _STATURE_M - sunk
    middle = top - 0.115 * size
    b.tube((-0.01, 0, 1.40 - sunk), (0.01, 0, middle), (0.06, 0.055), "skin", 6)
    b.ball((0.02, 0, middle), (0.1 * size, 0.08 * size, 0.115 * size), "skin")
    b.ball((0.0, 0, middle + 0.025 * size), (0.1 * size, 0.085 * size, 0.09 * size), cover)


def _load(b: Builder, build: Build, sunk: float) -> None:
    depth, shoulder = build.depth, build.shoulder
    match build.load:
        case "backpack":
            b.hexahedron(
                (-depth - 0.19, -depth + 0.02, -0.16, 0.16, 1.0 - sunk),
                (-depth - 0.13, -depth + 0.02, -0.13, 0.13, 1.45 - sunk),
                "bag",
            )
        case "shoulder bag":
            b.brick((-0.13, shoulder + 0.04, 0.78 - sunk), (0.15, shoulder + 0.12, 1.02 - sunk), "bag")
        case "shopping":
            for side in (-1, 1):
                y0, y1 = sorted((side * shoulder, side * (shoulder + 0.1)))
                b.brick((-0.16, y0, 0.4 - sunk), (0.16, y1, 0.78 - sunk), "bag")
        case _:
            pass


def _rider(b: Builder, hip: tuple[float, float], shoulder: tuple[float, float], hands: Point, foot_x: float) -> None:
    """A sitting person with a helmet; points are (x, z), hands also with their half distance."""
    middle_x, middle_z = (hip[0] + shoulder[0]) / 2, (hip[1] + shoulder[1]) / 2
    angle = np.arange(8) * np.pi / 4
    lean = np.array([shoulder[0] - hip[0], shoulder[1] - hip[1]])
    lean /= np.linalg.norm(lean)
    rings = [
        np.stack([x + r * lean[1] * np.cos(angle), w * np.sin(angle), z - r * lean[0] * np.cos(angle)], axis=-1)
        for x, z, r, w in (
            (hip[0], hip[1] - 0.05, 0.13, 0.17), (middle_x, middle_z, 0.11, 0.16), (*shoulder, 0.1, 0.2),
            (shoulder[0] + 0.07 * lean[0], shoulder[1] + 0.07 * lean[1], 0.05, 0.08),
        )
    ]  # fmt: skip
    b.skin(np.stack(rings), "cloth", "cloth")
    head = (shoulder[0] + 0.08, 0.0, shoulder[1] + 0.22)
    b.ball(head, (0.11, 0.085, 0.125), "skin")
    b.ball((head[0] - 0.01, 0.0, head[2] + 0.03), (0.14, 0.115, 0.12), "dark")
    for side in (-1, 1):
        elbow = ((shoulder[0] + hands[0]) / 2 - 0.04, side * 0.29, (shoulder[1] + hands[2]) / 2 - 0.06)
        b.tube((shoulder[0], side * 0.19, shoulder[1] - 0.03), elbow, (0.06, 0.045), "cloth", 6)
        b.tube(elbow, (hands[0], side * hands[1], hands[2]), (0.045, 0.04), "cloth", 6)
        # One knee is up while the other is down.
        knee = (hip[0] + 0.40, side * 0.15, hip[1] - 0.16 + 0.07 * side)
        foot = (foot_x, side * 0.15, max(hip[1] - 0.62 + 0.12 * side, 0.1))
        b.tube((hip[0], side * 0.1, hip[1] - 0.02), knee, (0.09, 0.065), "trousers", 6)
        b.tube(knee, foot, (0.062, 0.045), "trousers", 6)
        x, y, z = foot
        b.brick((x - 0.08, y - 0.045, z - 0.08), (x + 0.16, y + 0.045, z), "dark")


def _thin_wheel(b: Builder, x: float, radius: float, width: float) -> None:
    """A ring of short tubes, so that one can see through it."""
    angle = np.linspace(0, 2 * np.pi, 13)
    rim = radius - width / 2
    for a0, a1 in itertools.pairwise(angle):
        start = (x + rim * np.cos(a0), 0.0, radius + rim * np.sin(a0))
        end = (x + rim * np.cos(a1), 0.0, radius + rim * np.sin(a1))
        b.tube(start, end, (width / 2, width / 2), "rubber", 4, is_closed=False)
    for k in range(3):
        dx, dz = rim * np.cos(k * np.pi / 3), rim * np.sin(k * np.pi / 3)
        b.tube((x - dx, 0, radius - dz), (x + dx, 0, radius + dz), (0.008, 0.008), "metal", 3, is_closed=False)


def bicycle(style: int, *, has_rider: bool) -> Builder:
    """A city bicycle with a basket, a racing bicycle, or one with a box on its carrier."""
    b = Builder()
    is_racing = style == 1
    for x in (-0.52, 0.52):
        _thin_wheel(b, x, 0.34, 0.035 if is_racing else 0.05)
    joints = {
        "rear": (-0.52, 0.34),
        "pedal": (-0.08, 0.30),
        "seat": (-0.22, 0.85),
        "head": (0.36, 0.84),
        "front": (0.52, 0.34),
    }
    frame = ("rear pedal", "rear seat", "pedal seat", "pedal head", "seat head", "head front")
    for start, end in (tube.split() for tube in frame):
        if style == 0 and (start, end) == ("seat", "head"):
            continue
        (x0, z0), (x1, z1) = joints[start], joints[end]
        b.tube((x0, 0, z0), (x1, 0, z1), (0.025, 0.025), "paint", 5)
    bar_z = 0.92 if is_racing else 1.05
    b.tube((0.36, 0, 0.84), (0.33, 0, bar_z), (0.02, 0.02), "metal", 5)
    b.tube((0.33, -0.28, bar_z), (0.33, 0.28, bar_z), (0.022, 0.022), "dark", 5)
    b.block(-0.36, -0.1, 0.07, 0.86, 0.93, "dark")
    b.tube((-0.08, -0.13, 0.30), (-0.08, 0.13, 0.30), (0.07, 0.07), "metal", 8)
    b.brick((-0.87, -0.03, 0.6), (-0.84, 0.03, 0.66), "tail")
    if style == 0:
        b.brick((0.42, -0.18, 0.85), (0.72, 0.18, 1.05), "wood")
    elif style == 2:
        b.brick((-0.82, -0.2, 0.75), (-0.42, 0.2, 1.15), "bag")
    if has_rider:
        if is_racing:
            _rider(b, (-0.2, 0.98), (0.18, 1.32), (0.36, 0.2, bar_z + 0.03), -0.02)
        else:
            _rider(b, (-0.2, 0.96), (-0.02, 1.44), (0.33, 0.26, bar_z + 0.04), -0.02)
    return b


def motorcycle(style: int, *, has_rider: bool) -> Builder:
    """A motorcycle ridden upright or leaning forward."""
    b = Builder()
    _motorcycle_body(b)
    if has_rider:
        _rider(b, (-0.25, 0.86), (0.14 if style else 0.0, 1.27 if style else 1.33), (0.36, 0.3, 1.05), 0.0)
    return b


def scooter(style: int, *, has_rider: bool) -> Builder:
    """A scooter, or one with a box behind."""
    b = Builder()
    _scooter_body(b, has_box=style == 1)
    if has_rider:
        _rider(b, (-0.28, 0.84), (-0.2, 1.33), (0.28, 0.27, 1.04), 0.12)
    return b


def _motorcycle_body(b: Builder) -> None:
    for x in (-0.7, 0.7):
        b.wheel(x, 0.001, 0.32, 0.15)
    b.hexahedron((-0.45, 0.4, -0.16, 0.16, 0.22), (-0.35, 0.45, -0.2, 0.2, 0.66), "metal")
    b.column([(0.2, 0.66, 0.3, 0.17), (0.2, 0.86, 0.28, 0.17), (0.16, 0.96, 0.16, 0.09)], "paint", 8)
    b.hexahedron((-0.95, -0.05, -0.13, 0.13, 0.64), (-1.0, -0.05, -0.12, 0.12, 0.82), "dark")
    for side in (-1, 1):
        b.tube((0.72, side * 0.1, 0.32), (0.42, side * 0.1, 0.98), (0.035, 0.035), "metal", 5)
        b.tube((0.38, side * 0.36, 1.18), (0.36, side * 0.2, 1.02), (0.012, 0.012), "metal", 3)
        b.ball((0.38, side * 0.36, 1.2), (0.03, 0.06, 0.045), "dark", 3, 5)
    b.tube((0.4, -0.36, 1.02), (0.4, 0.36, 1.02), (0.03, 0.03), "dark", 5)
    b.ball((0.56, 0, 0.9), (0.08, 0.1, 0.1), "lamp")
    b.tube((-0.1, -0.2, 0.3), (-0.95, -0.24, 0.4), (0.05, 0.07), "metal", 6)
    b.brick((-1.03, -0.09, 0.62), (-1.0, 0.09, 0.74), "tail")


def _scooter_body(b: Builder, *, has_box: bool) -> None:
    for x in (-0.62, 0.62):
        b.wheel(x, 0.001, 0.24, 0.12)
    b.block(-0.1, 0.42, 0.17, 0.2, 0.3, "dark")
    b.hexahedron((-0.9, -0.1, -0.15, 0.15, 0.3), (-0.95, -0.05, -0.19, 0.19, 0.72), "paint")
    b.hexahedron((-0.92, -0.02, -0.16, 0.16, 0.72), (-0.88, -0.1, -0.14, 0.14, 0.82), "dark")
    b.hexahedron((0.4, 0.55, -0.2, 0.2, 0.3), (0.26, 0.38, -0.17, 0.17, 0.98), "paint")
    b.hexahedron((0.42, 0.82, -0.1, 0.1, 0.42), (0.5, 0.74, -0.07, 0.07, 0.52), "paint")
    b.tube((0.62, 0, 0.24), (0.42, 0, 0.8), (0.05, 0.05), "metal", 5)
    b.tube((0.3, -0.34, 1.02), (0.3, 0.34, 1.02), (0.03, 0.03), "dark", 5)
    for side in (-1, 1):
        b.tube((0.3, side * 0.28, 1.02), (0.3, side * 0.36, 1.2), (0.012, 0.012), "metal", 3)
        b.ball((0.3, side * 0.36, 1.22), (0.03, 0.06, 0.045), "dark", 3, 5)
    b.ball((0.38, 0, 1.0), (0.07, 0.1, 0.08), "lamp")
    b.brick((-0.98, -0.1, 0.56), (-0.94, 0.1, 0.68), "tail")
    b.brick((-0.98, -0.1, 0.36), (-0.95, 0.1, 0.5), "plate")
    if has_box:
        b.brick((-0.98, -0.2, 0.84), (-0.6, 0.2, 1.2), "box")
