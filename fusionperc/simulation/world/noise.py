"""Periodic noise, looked up by position: what all procedural looks are made of."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from fusionperc.simulation.sensors.planes import Float

_TILE = 512


class Noise:
    """Periodic noise of unit strength about zero: cheap and seamless.

    Args:
        seed: of the draws.
        grains: widths of its grains in texels, each with its weight.
    """

    def __init__(
        self, seed: int, grains: tuple[tuple[float, float], ...] = ((0.6, 0.5), (2.5, 0.6), (9.0, 0.6))
    ) -> None:
        white = np.random.default_rng((seed, 53)).standard_normal((_TILE, _TILE))
        layers = [(gaussian_filter(white, width, mode="wrap"), weight) for width, weight in grains]
        total = np.sum([weight / layer.std() * layer for layer, weight in layers], axis=0)
        self._tile: Float = np.clip(total, -2, 2).astype(np.float32).ravel()

    def at(self, u_m: Float, v_m: Float, cell_m: float) -> Float:
        """(R,) values at surface coordinates, one texel per `cell_m`."""
        scale = np.float32(1 / cell_m)
        column = (u_m * scale).astype(np.int32) & (_TILE - 1)
        row = (v_m * scale).astype(np.int32) & (_TILE - 1)
        return self._tile[row * _TILE + column]

    def smooth_at(self, u_m: Float, v_m: Float, cell_m: float) -> Float:
        """As `at`, but between texels the values go over into each other: for what is seen from closer than a texel."""
        u, v = u_m * np.float32(1 / cell_m), v_m * np.float32(1 / cell_m)
        column, row = np.floor(u), np.floor(v)
        right, up = u - column, v - row
        left, low = column.astype(np.int32) & (_TILE - 1), (row.astype(np.int32) & (_TILE - 1)) * _TILE
        next_left, next_low = (left + 1) & (_TILE - 1), (low + _TILE) & (_TILE * _TILE - 1)
        lower = self._tile[low + left] * (1 - right) + self._tile[low + next_left] * right
        upper = self._tile[next_low + left] * (1 - right) + self._tile[next_low + next_left] * right
        return np.asarray(lower + (upper - lower) * up, dtype=np.float32)
