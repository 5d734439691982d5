"""Procedural facades: storeys, windows with frames and sills, balconies, glass walls, doors and shops."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fusionperc.simulation.sensors.planes import Float, put, scale, taken
from fusionperc.simulation.world.noise import Noise
from fusionperc.simulation.world.plots import Building
from fusionperc.simulation.world.town import Town

#: One texel of the picture that tells which building a point belongs to; how far inside the wall it is asked.
_INDEX_M, _INSIDE_M = 0.5, np.float32(0.5)
_SIGNS = ((0.40, 0.05, 0.05), (0.05, 0.10, 0.30), (0.05, 0.20, 0.10), (0.45, 0.33, 0.05), (0.5, 0.5, 0.48), (0.05,) * 3)
_FRAME_M = np.float32(0.06)
_GLASS = np.array([[0.030], [0.036], [0.042]], dtype=np.float32)
_CURTAIN = np.array([[0.30], [0.27], [0.22]], dtype=np.float32)
_LIT = np.array([[0.42], [0.30], [0.15]], dtype=np.float32)
_LIT_GLOW = np.float32(0.022)


@dataclass(frozen=True)
class Look:
    """Albedo (3, R), reflectivity (R,), gloss (R,) and, of what may be lit, glow (R,); all float32."""

    albedo: Float
    reflectivity: Float
    gloss: Float
    glow: Float | None = None


@dataclass(frozen=True)
class _Plans:
    """How N facades are laid out, metres; a window's `half` is half its width, `low` and `high` are above its floor."""

    middle_x: Float
    middle_y: Float
    base: Float
    top: Float
    cos: Float
    sin: Float
    half_length: Float
    half_width: Float
    ground: Float  # height of the ground floor
    storey: Float
    bay: Float
    half: Float
    low: Float
    high: Float
    ground_half: Float
    ground_low: Float
    ground_high: Float
    is_glass: Float  # the wall between the windows is glass, too
    has_sign: Float
    has_balcony: Float
    course: Float  # height of a course of bricks, 0 for plaster
    lit: Float  # share of lit windows
    trim: Float
    red: Float  # of the shop sign and of the doors
    green: Float
    blue: Float

    def of(self, number: NDArray[np.int32]) -> _Plans:
        """The plans (R,) of facades by number."""
        return _Plans(*(getattr(self, item.name).take(number) for item in fields(self)))


class Facades:
    """The facades of a town's buildings."""

    def __init__(self, town: Town, noise: Noise) -> None:
        self._noise = noise
        rng = np.random.default_rng((town.seed, 61))
        # Number 0 serves walls that belong to no building.
        nowhere = Building((0.0, 0.0), 0.0, (200.0, 200.0, 100.0), (0.5, 0.5, 0.5), 0)
        plans = [_plan(building, town, rng) for building in (nowhere, *town.buildings)]
        self._plans = _Plans(*(np.array(column, dtype=np.float32) for column in zip(*plans, strict=True)))
        cols, rows = (max(1, round(side / _INDEX_M)) for side in town.bounds_m[2:])
        picture = Image.new("I", (cols, rows), 0)
        draw = ImageDraw.Draw(picture)
        for number, building in enumerate(town.buildings, 1):
            draw.polygon(_outline(building, 0.6), fill=number)
        self._number = np.asarray(picture).astype(np.int32)

    def look(self, xyz_m: Float, normal: Float, colour: Float, footprint_m: Float | None) -> Look:
        """Looks of walls.

        Args:
            xyz_m, normal: (3, R) points and unit normals, world frame.
            colour: (3, R) linear RGB of the walls.
            footprint_m: (R,) what a pixel covers there; None leaves the small detail out.
        """
        (x, y, z), (nx, ny, _) = xyz_m, np.ascontiguousarray(normal)
        rows, cols = self._number.shape
        col = np.clip((x - _INSIDE_M * nx) * np.float32(1 / _INDEX_M), 0, cols - 1).astype(np.int32)
        row = np.clip((y - _INSIDE_M * ny) * np.float32(1 / _INDEX_M), 0, rows - 1).astype(np.int32)
        number = self._number.ravel()[row * cols + col]
        plan = self._plans.of(number)
        u = (y - plan.middle_y) * nx - (x - plan.middle_x) * ny
        is_gable = np.abs(nx * plan.cos + ny * plan.sin) > np.float32(0.7)
        end = np.where(is_gable, plan.half_width, plan.half_length)
        wall = np.ascontiguousarray(colour)
        return self._painted(u, z - plan.base, end, plan, number.astype(np.float32), wall, footprint_m)

    def _painted(
        self, u: Float, v: Float, end: Float, plan: _Plans, number: Float, wall: Float,
        footprint: Float | None,
    ) -> Look:  # fmt: skip
        """Looks at `u` along walls that reach from `-end` to `end`, at heights `v`."""
        is_ground = v < plan.ground
        level = np.where(is_ground, np.float32(0), np.floor((v - plan.ground) / plan.storey) + 1)
        above = np.where(is_ground, v, v - plan.ground - (level - 1) * plan.storey)
        column = np.floor(u / plan.bay + np.float32(0.5))
        beside = np.abs(u - column * plan.bay)
        turn = column.astype(np.int32)
        chance = self._noise.at(column * 29 + number * 7, level * 37 + number, 1.0)
        is_door = is_ground & (plan.has_sign == 0) & (turn & 3 == 2)
        has_balcony = (plan.has_balcony > 0) & ~is_ground & (turn & 1 == 0)
        half = np.where(is_ground, plan.ground_half, plan.half)
        low = np.where(is_door | has_balcony, np.float32(0.05), np.where(is_ground, plan.ground_low, plan.low))
        high = np.where(is_ground, plan.ground_high, plan.high)
        # How far inside the window's edge; walls end with whole windows below the roof's edge.
        inside = np.minimum(half - beside, np.minimum(above - low, high - above))
        fits = (np.abs(column) * plan.bay + plan.bay / 2 < end + np.float32(0.1)) & (v - above + high < plan.top - 0.3)
        is_window = (inside > 0) & fits

        self._grain(wall, u, v, plan, footprint)
        is_glass = plan.is_glass > 0
        glass = np.flatnonzero(is_glass)
        put(wall, glass, np.float32(1.5) * _GLASS + np.float32(0.12) * taken(wall, glass))
        is_trim = (v > plan.top - np.float32(0.35)) & ~is_glass
        is_trim |= fits & ~is_glass & (above < low) & (above > low - np.float32(0.11)) & (beside < half + 0.08)
        is_trim |= has_balcony & fits & (above < np.float32(0.18))
        trim = np.flatnonzero(is_trim)
        put(wall, trim, plan.trim[trim])
        scale(wall, np.flatnonzero((v < np.float32(0.5)) & ~is_glass), 0.7)
        self._sign(wall, u, above, is_ground & (plan.has_sign > 0), plan, number)

        is_lit = is_window & ~is_door & (_fraction(chance * np.float32(7.3)) < plan.lit)
        self._windows(wall, np.flatnonzero(is_window), inside, above, high, chance, is_lit, plan, footprint)
        door = np.flatnonzero(is_door & is_window & (inside > _FRAME_M))
        put(wall, door, np.stack([plan.red[door], plan.green[door], plan.blue[door]]) * np.float32(0.6))
        self._railing(wall, np.flatnonzero(has_balcony & fits & (above < np.float32(1.05))), u, above, plan)
        mirrors = np.where(is_window | is_glass, np.float32(0.9), np.float32(0.02))
        return Look(
            wall,
            np.where(is_window | is_glass, np.float32(0.08), np.float32(0.45)),
            mirrors,
            np.where(is_lit, _LIT_GLOW, np.float32(0)),
        )

    def _grain(self, wall: Float, u: Float, v: Float, plan: _Plans, px: Float | None) -> None:
        """Courses of bricks, streaks and stains."""
        if px is None:
            return
        near = 1 / (1 + (px * np.float32(12)) ** 2)
        tone = (
            1
            + np.float32(0.035) * self._noise.at(u, v * np.float32(0.3), 0.4)
            + np.float32(0.06) * near * (self._noise.at(u, v, 0.03))
        )
        brick = np.flatnonzero(plan.course > 0)
        row = np.floor(v[brick] / plan.course[brick])
        part = self._noise.at(np.floor(u[brick] * 4 + 0.5 * (row.astype(np.int32) & 1).astype(np.float32)), row, 1.0)
        joint = (v[brick] / plan.course[brick] - row) > np.float32(0.84)
        tone[brick] *= 1 + (np.float32(0.10) * part + np.float32(0.28) * joint - np.float32(0.045)) * near[brick]
        wall *= tone

    def _windows(
        self, wall: Float, at: NDArray[np.int64], inside: Float, above: Float, high: Float, chance: Float,
        is_lit: NDArray[np.bool_], plan: _Plans, footprint: Float | None,
    ) -> None:  # fmt: skip
        """Panes with curtains, lit rooms, frames and the shadow under the lintel."""
        pane = _GLASS * np.maximum(1 + np.float32(0.5) * chance[at], np.float32(0.2))
        drawn = _fraction(chance[at] * np.float32(3.1))
        has_curtain = (drawn > 0.55) & (above[at] > high[at] - (drawn - np.float32(0.5)) * 3)
        pane = np.where(has_curtain, _CURTAIN, pane)
        # Lamps hang from ceilings: a lit room is brighter above.
        room = np.clip(np.float32(1.1) + np.float32(0.4) * (above[at] - high[at]), 0.4, 1) * (0.8 + 0.4 * drawn)
        pane = np.where(is_lit[at], _LIT * room, pane)
        pane *= np.where(above[at] > high[at] - np.float32(0.14), np.float32(0.45), np.float32(1))
        width = _FRAME_M if footprint is None else np.clip(_FRAME_M, None, 3 * _FRAME_M - footprint[at])
        put(wall, at, np.where(inside[at] < width, plan.trim[at], pane))

    def _sign(
        self, wall: Float, u: Float, above: Float, is_shop: NDArray[np.bool_], plan: _Plans, number: Float
    ) -> None:
        """The board above a shop, with something like letters."""
        at = np.flatnonzero(
            is_shop & (above > plan.ground - np.float32(0.75)) & (above < plan.ground - np.float32(0.1))
        )
        board = np.stack([plan.red[at], plan.green[at], plan.blue[at]])
        middle = np.abs(above[at] - plan.ground[at] + np.float32(0.42))
        letters = (middle < 0.16) & (self._noise.at(u[at] + number[at], middle, 0.06) > 0.5)
        word = self._noise.at(np.floor(u[at] / 5), number[at], 1.0) > np.float32(-0.3)
        put(wall, at, np.where(letters & word, np.float32(0.75) - board * np.float32(0.5), board))

    def _railing(self, wall: Float, at: NDArray[np.int64], u: Float, above: Float, plan: _Plans) -> None:
        """Bars and a handrail in front of a balcony's door."""
        is_bar = (_fraction(u[at] * np.float32(7)) < np.float32(0.3)) | (above[at] > np.float32(0.98))
        bars = at[is_bar]
        put(wall, bars, plan.trim[bars] * np.float32(0.35))


def _fraction(value: Float) -> Float:
    """Part after the point; several times faster than numpy's remainder."""
    return np.asarray(value - np.floor(value), dtype=np.float32)


def _outline(building: Building, margin_m: float) -> list[tuple[float, float]]:
    """Corners in texels of the picture of numbers."""
    half_length, half_width = (side / 2 + margin_m for side in building.size_lwh_m[:2])
    cos, sin = np.cos(building.yaw_rad), np.sin(building.yaw_rad)
    corners = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * [half_length, half_width]
    turned = corners @ np.array([[cos, sin], [-sin, cos]]) + building.center_m
    return [(float(x) / _INDEX_M, float(y) / _INDEX_M) for x, y in turned]


def _plan(building: Building, town: Town, rng: np.random.Generator) -> tuple[float, ...]:
    """Fields of `_Plans` for one building; its style (modulo 3) is plain, shops below, or an office."""
    length, width, height = building.size_lwh_m
    corners = np.array(_outline(building, 0.0)) * _INDEX_M
    base = float(town.terrain.height_at(corners[:, 0], corners[:, 1]).min())
    style, luck = building.style % 3, rng.uniform(0, 1, 6)
    ground, storey = float(rng.uniform(3.3, 4.2)), float(rng.uniform(2.8, 3.5))
    bay = float(rng.uniform(1.9, 3.6))
    half, low = bay * float(rng.uniform(0.22, 0.36)), float(rng.uniform(0.75, 1.0))
    high = float(rng.uniform(2.1, 2.45))
    ground_half, ground_low, ground_high = half, low, high + 0.2
    is_office, is_glass = style == 2, style == 2 and luck[0] < 0.5
    if is_office:
        half, high = bay / 2 - 0.04, storey - 0.35
        ground_half, ground_low, ground_high = half, 0.2, ground - 0.3
    if is_glass:
        half, low, high = bay / 2 - 0.02, 0.25, storey - 0.02
    if style == 1:
        ground_half, ground_low, ground_high = bay / 2 - 0.18, 0.45, ground - 0.9
    is_brick = building.colour[0] > 1.4 * building.colour[2]
    sign = _SIGNS[int(rng.integers(len(_SIGNS)))]
    return (
        *building.center_m, base, height, float(np.cos(building.yaw_rad)), float(np.sin(building.yaw_rad)),
        length / 2, width / 2, ground, storey, bay, half, low, high, ground_half, ground_low, ground_high,
        float(is_glass), float(style == 1), float(style == 0 and luck[1] < 0.5), 0.085 if is_brick else 0.0,
        0.12 + 0.3 * luck[2], (0.10, 0.42, 0.55)[int(luck[3] * 3)], *sign,
    )  # fmt: skip
