"""Sizes and colours of road users, drawn from class-typical ranges.

The means follow nuScenes' per-class averages (Caesar et al., CVPR 2020); a barrier's length is its thin side.
"""

from __future__ import annotations

import numpy as np

#: The recording car: overall size, and where its rear axle sits.
EGO_SIZE_LWH_M = (4.08, 1.85, 1.56)
EGO_REAR_AXLE_TO_FRONT_M = 3.43
EGO_WHEELBASE_M = 2.59

#: kind: mean (length, width, height), relative spread of each.
_SIZES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "car": ((4.5, 1.83, 1.62), (0.085, 0.08, 0.08)),
    "suv": ((4.75, 1.93, 1.80), (0.07, 0.07, 0.06)),
    "van": ((5.0, 1.97, 2.10), (0.09, 0.06, 0.09)),
    "truck": ((6.7, 2.42, 2.75), (0.24, 0.10, 0.20)),
    "tractor": ((6.2, 2.5, 3.1), (0.08, 0.04, 0.08)),
    "bus": ((10.8, 2.88, 3.4), (0.15, 0.05, 0.08)),
    "bendy_front": ((9.6, 2.85, 3.4), (0.04, 0.02, 0.05)),
    "bendy_rear": ((7.6, 2.85, 3.4), (0.04, 0.02, 0.05)),
    "trailer": ((11.2, 2.75, 3.8), (0.16, 0.06, 0.12)),
    "construction": ((6.2, 2.65, 3.1), (0.18, 0.11, 0.16)),
    "motorcycle": ((2.1, 0.76, 1.62), (0.12, 0.15, 0.08)),
    "motorcycle_parked": ((2.06, 0.7, 1.28), (0.12, 0.15, 0.08)),
    "scooter": ((1.85, 0.68, 1.6), (0.08, 0.12, 0.06)),
    "bicycle": ((1.75, 0.6, 1.68), (0.09, 0.16, 0.07)),
    "bicycle_parked": ((1.7, 0.56, 1.12), (0.09, 0.18, 0.09)),
    "pedestrian": ((0.73, 0.67, 1.76), (0.25, 0.19, 0.095)),
    "child": ((0.48, 0.47, 1.3), (0.2, 0.16, 0.11)),
    "worker": ((0.74, 0.70, 1.77), (0.22, 0.17, 0.06)),
    "cone": ((0.40, 0.39, 0.98), (0.17, 0.18, 0.24)),
    "barrier": ((0.57, 2.3, 1.02), (0.18, 0.13, 0.12)),
}
#: Share of a size's variance that its length, width and height have in common.
_COMMON_SHARE = 0.4
#: Nobody taller counts as a child, nobody shorter walks alone.
_CHILD_HEIGHT_M = (1.0, 1.5)
_PAINTS = (
    (0.75, 0.75, 0.76), (0.55, 0.56, 0.58), (0.05, 0.05, 0.06), (0.18, 0.19, 0.21), (0.45, 0.05, 0.05),
    (0.06, 0.12, 0.35), (0.30, 0.33, 0.36), (0.80, 0.79, 0.75), (0.08, 0.20, 0.12), (0.55, 0.42, 0.25),
)  # fmt: skip
_CLOTHES = (
    (0.10, 0.12, 0.25), (0.35, 0.06, 0.06), (0.07, 0.07, 0.08), (0.50, 0.48, 0.42), (0.12, 0.28, 0.15),
    (0.55, 0.40, 0.10), (0.30, 0.30, 0.33), (0.45, 0.20, 0.35),
)  # fmt: skip


def draw_size(kind: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Length, width, height of a random member of a kind; within two and a half spreads of the mean."""
    mean, spread = _SIZES[kind]
    own, common = rng.normal(size=3), rng.normal()
    deviation = np.sqrt(1 - _COMMON_SHARE) * own + np.sqrt(_COMMON_SHARE) * common
    length, width, height = np.array(mean) * (1 + np.clip(deviation, -2.5, 2.5) * np.array(spread))
    if kind == "child":
        height = np.clip(height, *_CHILD_HEIGHT_M)
    return round(float(length), 3), round(float(width), 3), round(float(height), 3)


def draw_colour(kind: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Base albedo (linear RGB) of a random member of a kind."""
    match kind:
        case "construction":
            base: tuple[float, float, float] = (0.80, 0.48, 0.04)
        case "cone":
            base = (0.85, 0.22, 0.04)
        case "barrier":
            base = (0.62, 0.60, 0.57) if rng.random() < 0.6 else (0.80, 0.25, 0.06)
        case "worker":
            base = ((0.85, 0.32, 0.03), (0.62, 0.78, 0.05))[rng.integers(2)]
        case "pedestrian" | "child" | "bicycle" | "bicycle_parked":
            base = _CLOTHES[rng.integers(len(_CLOTHES))]
        case "bus" | "bendy_front" | "bendy_rear":
            base = ((0.65, 0.10, 0.08), (0.75, 0.72, 0.62), (0.10, 0.25, 0.50), (0.15, 0.40, 0.22))[rng.integers(4)]
        case _:
            base = _PAINTS[rng.integers(len(_PAINTS))]
    red, green, blue = np.clip(np.array(base) * rng.uniform(0.85, 1.15), 0, 1)
    return float(red), float(green), float(blue)
