"""Procedural looks of the static world: ground, facades and foliage, evaluated where rays hit.

Detail fades where a pixel covers more than it: what is left is its mean, so far surfaces do not sparkle.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, zoom

from fusionperc.simulation.sensors.planes import Float, put, scale, taken
from fusionperc.simulation.traffic.network import offset_line
from fusionperc.simulation.world.facades import Facades, Look
from fusionperc.simulation.world.noise import Noise
from fusionperc.simulation.world.town import GRASS, SIDEWALK, Town

PLAIN, GROUND, FACADE, FOLIAGE = range(4)

#: Per surface label, GRASS ... STRIPE: albedo (linear RGB), reflectivity, gloss, strength of the fine and the coarse
#: grain, of asphalt's damages and of wheel tracks.
_LABELS = np.array(
    [
        (0.098, 0.112, 0.048, 0.42, 0.00, 0.42, 0.07, 0.0, 0.0),
        (0.270, 0.260, 0.245, 0.30, 0.02, 0.07, 0.05, 0.0, 0.0),
        (0.095, 0.094, 0.096, 0.14, 0.06, 0.13, 0.05, 1.0, 1.0),
        (0.110, 0.109, 0.110, 0.17, 0.05, 0.13, 0.07, 1.0, 0.3),
        (0.095, 0.094, 0.096, 0.14, 0.06, 0.13, 0.05, 1.0, 1.0),
        (0.600, 0.600, 0.580, 0.75, 0.10, 0.07, 0.05, 0.4, 0.6),
        (0.520, 0.370, 0.070, 0.70, 0.10, 0.07, 0.05, 0.4, 0.6),
        (0.600, 0.600, 0.580, 0.75, 0.10, 0.07, 0.05, 0.4, 0.6),
    ],
    dtype=np.float32,
)
_FIRST_ROAD = 2
#: Brightness of the asphalt relative to the above: each town's is of another age.
_ROAD_TONES = (0.9, 1.5)
_FIRST_PAINT = 5
_DRY_GRASS = np.array([0.20, 0.155, 0.085], dtype=np.float32)
#: Square of the radius, in texels of the map, of the window in which `Surfaces` looks for the commonest label.
_WINDOW_SQUARE = np.float32(1.7**2)
_WINDOW = np.array(
    [place for place in itertools.product((-2, -1, 0, 1, 2), repeat=2) if place[0] ** 2 + place[1] ** 2 < 8],
    dtype=np.float32,
)
_SLAB_M, _JOINT_M = np.float32(1.5), np.float32(0.025)
#: The picture of asphalt's cracks and patches: its side and one texel.
_DAMAGE_PX, _DAMAGE_M = 1024, 0.05
#: Wheel tracks: one texel, distance of a wheel from the lane's middle.
_WEAR_M, _WHEEL_M = 0.2, 0.85


class Surfaces:
    """Looks of one town."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._noise = Noise(town.seed)
        self._grit = Noise(town.seed, grains=((0.5, 0.8), (1.3, 0.4)))
        self._blotches = Noise(town.seed, grains=((4.0, 0.5), (14.0, 0.8)))
        self._labels = _LABELS.T.copy()
        self._labels[:3, _FIRST_ROAD:_FIRST_PAINT] *= np.random.default_rng((town.seed, 67)).uniform(*_ROAD_TONES)
        self._damage = _damage(np.random.default_rng((town.seed, 59)))
        self._wear = _wear(town)
        self._facades = Facades(town, self._noise)

    def ground(self, x_m: Float, y_m: Float, footprint_m: Float | None) -> Look:
        """The ground at points (R,): asphalt, markings, paving, grass.

        Args:
            x_m, y_m: world frame.
            footprint_m: (R,) what a pixel covers there; None leaves all texture out.
        """
        label = self._town.label_at(x_m, y_m)
        if footprint_m is not None:
            self._round_off(label, x_m, y_m, footprint_m)
        row = taken(self._labels, label)
        albedo = row[:3]
        if footprint_m is None:
            return Look(albedo, row[3], row[4])
        fine = self._grit.at(x_m, y_m, 0.02) * _fade(footprint_m, 0.03)
        coarse = self._blotches.at(y_m, x_m, 0.12) + 0.3 * self._noise.at(x_m, y_m, 0.05) * _fade(footprint_m, 0.12)
        tone = 1 + row[5] * fine + row[6] * coarse
        tone *= 1 + row[7] * self._damage_at(x_m, y_m) * _fade(footprint_m, 0.15)
        tone *= 1 + row[8] * self._wear_at(x_m, y_m)
        albedo *= np.maximum(tone, np.float32(0.3))
        self._mend(albedo, label, coarse, fine)
        self._joints(albedo, np.flatnonzero(label == SIDEWALK), x_m, y_m, footprint_m)
        return Look(albedo, row[3], row[4])

    def _round_off(self, label: NDArray[np.uint8], x_m: Float, y_m: Float, footprint_m: Float) -> None:
        """Replaces labels (R,) near by, where the map's texels would be seen, by a neighbouring one
        that is commoner in a round window."""
        texel = np.float32(self._town.surface_resolution_m)
        near = np.flatnonzero(footprint_m < 1.5 * texel)
        x, y, own = x_m[near], y_m[near], label[near]
        other = own
        for dx, dy in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
            beside = self._town.label_at(x + dx * texel, y + dy * texel)
            other = np.where(beside != own, beside, other)
        border = np.flatnonzero(other != own)
        x, y, own, other = x[border] / texel, y[border] / texel, own[border], other[border]
        middle_x, middle_y = (
            np.floor(x) + _WINDOW[:, :1] + np.float32(0.5),
            np.floor(y) + _WINDOW[:, 1:] + np.float32(0.5),
        )
        weight = np.maximum(_WINDOW_SQUARE - (middle_x - x) ** 2 - (middle_y - y) ** 2, 0)
        around = self._town.label_at(middle_x * texel, middle_y * texel)
        more = ((around == other) * weight).sum(0) > ((around == own) * weight).sum(0)
        label[near[border[more]]] = other[more]

    def _mend(self, albedo: Float, label: NDArray[np.uint8], coarse: Float, fine: Float) -> None:
        """Dry spots in the grass; paint that has worn off the road."""
        grass = np.flatnonzero(label == GRASS)
        if len(grass):
            dry = np.clip(0.2 * coarse[grass] + 0.15 * fine[grass] + 0.2, 0, 0.8)
            shade = np.maximum(1 + np.float32(0.42) * fine[grass], np.float32(0.4))
            green = taken(albedo, grass)
            put(albedo, grass, green + (_DRY_GRASS[:, None] * shade - green) * dry)
        paint = np.flatnonzero(label >= _FIRST_PAINT)
        if len(paint):
            bare = np.clip(0.35 * coarse[paint] + 0.22 * fine[paint] - 0.05, 0, 0.75)
            fresh = taken(albedo, paint)
            put(albedo, paint, fresh + (self._labels[:3, _FIRST_ROAD, None] - fresh) * bare)

    def _joints(self, albedo: Float, at: NDArray[np.int64], x_m: Float, y_m: Float, footprint_m: Float) -> None:
        """Dark joints between the slabs of a pavement, and slabs that differ a little."""
        if not len(at):
            return
        x, y, wide = x_m[at] / _SLAB_M, y_m[at] / _SLAB_M, footprint_m[at]
        column, row = np.floor(x), np.floor(y)
        beside = np.minimum(np.minimum(x - column, 1 - x + column), np.minimum(y - row, 1 - y + row)) * _SLAB_M
        joint = np.clip((_JOINT_M + wide - beside) / (wide + np.float32(1e-3)), 0, 1) * _JOINT_M / (_JOINT_M + wide)
        scale(albedo, at, (1 + np.float32(0.05) * self._noise.at(column, row, 1.0)) * (1 - np.float32(0.45) * joint))

    def _damage_at(self, x_m: Float, y_m: Float) -> Float:
        scale = np.float32(1 / _DAMAGE_M)
        column = (x_m * scale).astype(np.int32) & (_DAMAGE_PX - 1)
        row = (y_m * scale).astype(np.int32) & (_DAMAGE_PX - 1)
        return np.asarray(self._damage[row * _DAMAGE_PX + column])

    def _wear_at(self, x_m: Float, y_m: Float) -> Float:
        rows, cols = self._wear.shape
        column = np.clip(x_m * np.float32(1 / _WEAR_M), 0, cols - 1).astype(np.int32)
        row = np.clip(y_m * np.float32(1 / _WEAR_M), 0, rows - 1).astype(np.int32)
        return np.asarray(self._wear.ravel()[row * cols + column])

    def facade(self, xyz_m: Float, normal: Float, colour: Float, footprint_m: Float | None) -> Look:
        """Walls at points (3, R) with normals (3, R) and base colours (3, R); see `Facades.look`."""
        return self._facades.look(xyz_m, normal, colour, footprint_m)

    def foliage(self, xyz_m: Float, footprint_m: Float | None) -> Float:
        """(R,) brightness of leaves at points (3, R): single leaves near by, clumps from afar."""
        if footprint_m is None:
            return np.ones(xyz_m.shape[1], dtype=np.float32)
        x, y, z = xyz_m
        leaves = self._noise.at(x + np.float32(1.7) * z, y - np.float32(1.3) * z, 0.03) * _fade(footprint_m, 0.06)
        clumps = self._noise.at(x - z, y + z, 0.13)
        return np.clip(1 + np.float32(0.38) * leaves + np.float32(0.22) * clumps, 0.15, 2.2)


def _fade(footprint_m: Float, detail_m: float) -> Float:
    """(R,) how much is left of detail of this size under a pixel's footprint."""
    ratio = footprint_m * np.float32(1 / detail_m)
    return np.asarray(1 / (1 + ratio * ratio), dtype=np.float32)


def _damage(rng: np.random.Generator) -> Float:
    """Flat periodic picture of asphalt: relative brightness of patches, cracks and manholes, about zero."""
    side = _DAMAGE_PX
    patches = Image.new("F", (side, side), 0.0)
    draw = ImageDraw.Draw(patches)
    for _ in range(9):
        x, y = rng.integers(0, side - 240, 2)
        wide, high = rng.integers(16, 70), rng.integers(50, 240)
        if rng.random() < 0.5:
            wide, high = high, wide
        draw.rectangle(
            (int(x), int(y), int(x + wide), int(y + high)), fill=float(rng.uniform(-0.2, 0.14)), outline=-0.3
        )
    for _ in range(5):
        x, y = rng.integers(20, side - 20, 2)
        draw.ellipse((int(x) - 7, int(y) - 7, int(x) + 7, int(y) + 7), fill=-0.25, outline=-0.5)
    total = np.asarray(patches).copy()
    for sigma, width, weight in ((24.0, 0.012, 0.38), (9.0, 0.018, 0.30)):
        field, where = _periodic_field(rng, sigma), _periodic_field(rng, 56.0)
        # Where a smooth field changes its sign runs a winding line.
        total -= weight * np.exp(-((field / (3 * width)) ** 2)) * np.clip(where - 0.6, 0, 1)
    return np.asarray(total, dtype=np.float32).ravel()


def _periodic_field(rng: np.random.Generator, sigma_px: float) -> Float:
    """(S, S) smooth noise of unit strength for `_damage`, worked out on a coarser grid where it is smooth enough."""
    step = 8 if sigma_px > 40 else 2
    field = gaussian_filter(
        rng.standard_normal((_DAMAGE_PX // step,) * 2, dtype=np.float32), sigma_px / step, mode="wrap"
    )
    return np.asarray(zoom(field / field.std(), step, order=1, mode="grid-wrap", grid_mode=True), dtype=np.float32)


def _wear(town: Town) -> Float:
    """(rows, cols) relative brightness of the road where wheels roll and oil drips; row 0 is the south edge."""
    cols, rows = (max(1, round(side / _WEAR_M)) for side in town.bounds_m[2:])
    picture = Image.new("L", (cols, rows), 128)
    draw = ImageDraw.Draw(picture)
    for edge in town.edges:
        for lane in edge.lanes:
            if lane.kind != "driving":
                continue
            for offset_m, width_m, tone in ((0.0, 0.7, 104), (-_WHEEL_M, 0.5, 143), (_WHEEL_M, 0.5, 143)):
                line = np.asarray(offset_line(lane.shape_m, offset_m))[:, :2] / _WEAR_M
                draw.line([(float(x), float(y)) for x, y in line], fill=tone, width=round(width_m / _WEAR_M))
    shade = (np.asarray(picture, dtype=np.float32) - 128) / np.float32(128)
    return np.asarray(gaussian_filter(shade, 1.3), dtype=np.float32)
