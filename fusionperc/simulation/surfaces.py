"""Procedural looks of the static world: ground, facades and foliage, evaluated where rays hit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fusionperc.simulation.town import Town

Float = NDArray[np.float32]

PLAIN, GROUND, FACADE, FOLIAGE = range(4)

#: Per surface label, GRASS ... STRIPE: albedo (linear RGB), reflectivity, gloss, strength of the grain.
_LABELS = np.array(
    [
        (0.11, 0.17, 0.06, 0.42, 0.00, 0.45),
        (0.34, 0.33, 0.31, 0.30, 0.02, 0.12),
        (0.085, 0.085, 0.09, 0.14, 0.06, 0.22),
        (0.11, 0.11, 0.115, 0.17, 0.05, 0.22),
        (0.085, 0.085, 0.09, 0.14, 0.06, 0.22),
        (0.62, 0.62, 0.60, 0.75, 0.10, 0.12),
        (0.60, 0.44, 0.06, 0.70, 0.10, 0.12),
        (0.62, 0.62, 0.60, 0.75, 0.10, 0.12),
    ],
    dtype=np.float32,
)
_TILE = 512


@dataclass(frozen=True)
class Look:
    """Albedo (R, 3), reflectivity (R,) and gloss (R,), all float32."""

    albedo: Float
    reflectivity: Float
    gloss: Float


class Noise:
    """Periodic noise of unit strength about zero, looked up by position: cheap and seamless."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng((seed, 53))
        white = rng.standard_normal((_TILE, _TILE))
        layers = [gaussian_filter(white, sigma, mode="wrap") for sigma in (0.6, 2.5, 9.0)]
        total = sum(weight * layer / layer.std() for weight, layer in zip((0.5, 0.6, 0.6), layers, strict=True))
        self._tile: Float = np.clip(total, -2, 2).astype(np.float32).ravel()

    def at(self, u_m: Float, v_m: Float, cell_m: float) -> Float:
        """(R,) values at surface coordinates, one texel per `cell_m`."""
        scale = np.float32(1 / cell_m)
        column = (u_m * scale).astype(np.int32) & (_TILE - 1)
        row = (v_m * scale).astype(np.int32) & (_TILE - 1)
        return self._tile[row * _TILE + column]


def ground_look(town: Town, noise: Noise, x_m: Float, y_m: Float) -> Look:
    """The ground at points (R,): asphalt, markings, paving, grass."""
    labels = town.label_at(x_m, y_m)
    rows = _LABELS[labels]
    grain = 1 + rows[:, 5] * (0.6 * noise.at(x_m, y_m, 0.05) + 0.5 * noise.at(y_m, x_m, 0.6))
    return Look(rows[:, :3] * np.maximum(grain, 0.3)[:, None], rows[:, 3], rows[:, 4])


def facade_look(noise: Noise, xyz_m: Float, normal: Float, colour: Float, style: NDArray[np.uint8]) -> Look:
    """Walls with rows of windows at points (R, 3): `style` (R,) 0 single windows, 1 shop below, 2 bands of glass."""
    u = xyz_m[:, 1] * normal[:, 0] - xyz_m[:, 0] * normal[:, 1] + np.float32(1000.0)
    v = xyz_m[:, 2]
    storey, above = np.divmod(v, np.float32(3.0))
    bay, beside = np.divmod(u, np.float32(2.6))
    is_window = (above > 0.9) & (above < 2.3) & (beside > 0.7) & (beside < 1.9)
    is_window |= (style == 2) & (above > 0.9) & (above < 2.5) & (beside > 0.12)
    is_window |= (style == 1) & (storey == 0) & (above > 0.4) & (above < 2.6) & (beside > 0.25)
    grain = 1 + 0.10 * noise.at(u, v, 0.08) + 0.08 * noise.at(v, u, 0.9)
    grain = np.where(above > 2.85, grain * np.float32(0.8), grain)
    albedo = colour * np.clip(grain, 0.4, 1.6)[:, None]
    # Each pane differs a little: curtains, lamps, reflections of nothing in particular.
    pane = noise.at(bay, storey, 1.0)
    glass = np.array([0.05, 0.06, 0.075], dtype=np.float32) * (1.2 + 0.5 * pane)[:, None]
    albedo = np.where(is_window[:, None], np.clip(glass, 0.01, 1), albedo)
    return Look(
        albedo.astype(np.float32),
        np.where(is_window, np.float32(0.08), np.float32(0.45)),
        np.where(is_window, np.float32(0.9), np.float32(0.02)),
    )


def foliage_shade(noise: Noise, xyz_m: Float) -> Float:
    """(R,) brightness of leaves at points (R, 3)."""
    spots = noise.at(xyz_m[:, 0] + xyz_m[:, 2], xyz_m[:, 1] - xyz_m[:, 2], 0.07)
    return np.clip(1 + 0.4 * spots, 0.2, 2.0)
