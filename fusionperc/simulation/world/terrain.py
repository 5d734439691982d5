"""Relief of a town: gentle hills, known at every point together with their slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

#: Hills repeat after this many metres, the longest ones being the highest.
_WAVELENGTHS_M = (90.0, 130.0, 200.0, 320.0)
#: Steepness of one wave, as a share: several add up to a few per cent, what city streets have.
_STEEPNESS = 0.012


@dataclass(frozen=True)
class Terrain:
    """A sum of plane waves; none at all is flat ground at z = 0.

    Attributes:
        waves_radpm: (W, 2) wave vectors, world axes, radians a metre.
        amplitudes_m: (W,) heights.
        phases_rad: (W,).
    """

    waves_radpm: NDArray[np.float64]
    amplitudes_m: NDArray[np.float64]
    phases_rad: NDArray[np.float64]

    def height_at(self, x_m: Array | float, y_m: Array | float) -> NDArray[np.float64]:
        """Height (...) at points (...), world frame, metres."""
        x, y = np.asarray(x_m, dtype=np.float64), np.asarray(y_m, dtype=np.float64)
        height = np.zeros(np.broadcast_shapes(x.shape, y.shape))
        for (kx, ky), amplitude, phase in zip(self.waves_radpm, self.amplitudes_m, self.phases_rad, strict=True):
            height = height + amplitude * np.sin(kx * x + ky * y + phase)
        return np.asarray(height)

    def slope_at(self, x_m: Array | float, y_m: Array | float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Derivatives (...), (...) of the height towards world x and y at points (...)."""
        x, y = np.asarray(x_m, dtype=np.float64), np.asarray(y_m, dtype=np.float64)
        towards_x = np.zeros(np.broadcast_shapes(x.shape, y.shape))
        towards_y = np.zeros_like(towards_x)
        for (kx, ky), amplitude, phase in zip(self.waves_radpm, self.amplitudes_m, self.phases_rad, strict=True):
            swing = amplitude * np.cos(kx * x + ky * y + phase)
            towards_x, towards_y = towards_x + kx * swing, towards_y + ky * swing
        return np.asarray(towards_x), np.asarray(towards_y)


#: No relief.
FLAT = Terrain(np.zeros((0, 2)), np.zeros(0), np.zeros(0))


def draw_terrain(rng: np.random.Generator) -> Terrain:
    """Random hills; some towns are nearly flat, others reach slopes of about five per cent."""
    lengths = np.array(_WAVELENGTHS_M) * rng.uniform(0.85, 1.15, len(_WAVELENGTHS_M))
    direction = rng.uniform(0, 2 * np.pi, len(lengths))
    wave = 2 * np.pi / lengths
    steepness = _STEEPNESS * rng.uniform(0.2, 1.8) * rng.uniform(0.4, 1.0, len(lengths))
    return Terrain(
        waves_radpm=np.stack([wave * np.cos(direction), wave * np.sin(direction)], axis=1),
        amplitudes_m=steepness / wave,
        phases_rad=rng.uniform(0, 2 * np.pi, len(lengths)),
    )
