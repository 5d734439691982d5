"""Trees, bushes and hedges as clouds of leaves: rays pass between them or end at any depth, as in real crowns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.world.plots import TreeForm
from fusionperc.simulation.world.solids import Builder

Array = NDArray[np.float64]

#: Per form of a crown of radius 1: half its height, number of leaves, spread of a leaf's corners, number of clumps (or
#: fronds), clumps' radius.
_CROWNS: dict[TreeForm, tuple[float, int, float, int, float]] = {
    "round": (1.0, 420, 0.095, 16, 0.34),
    "tall": (1.8, 430, 0.110, 18, 0.36),
    "cone": (1.6, 420, 0.095, 20, 0.26),
    "wide": (0.55, 600, 0.068, 24, 0.30),
    "palm": (0.5, 0, 0.0, 9, 0.0),
    "bush": (0.6, 220, 0.095, 8, 0.36),
}


def crown_half_height(form: TreeForm) -> float:
    """Half the height of a crown, relative to its radius."""
    return _CROWNS[form][0]


def crown(form: TreeForm, rng: np.random.Generator) -> Builder:
    """A crown of radius 1 about the origin: branches, and leaves in clumps at their ends."""
    half, num_leaves, leaf, num_clumps, spread = _CROWNS[form]
    b = Builder()
    if form == "palm":
        _fronds(b, num_clumps, rng)
        return b
    direction = rng.normal(size=(num_clumps, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    clumps = direction * np.cbrt(rng.uniform(0.1, 1.0, (num_clumps, 1))) * (1 - 0.8 * spread)
    if form == "cone":
        # Narrow at the top, wide at the foot.
        clumps[:, :2] *= ((1 - clumps[:, 2:]) / 1.7) ** 0.8
    for clump in clumps[:5] if form != "bush" else ():
        foot = (0.0, 0.0, -half * float(rng.uniform(0.5, 1.0)))
        end = (float(clump[0]), float(clump[1]), float(clump[2]) * half)
        b.tube(foot, end, (0.035, 0.012), "bark", 4, is_closed=False)
    owner = rng.integers(num_clumps, size=num_leaves)
    offset = rng.normal(size=(num_leaves, 3)) * spread * 0.6
    leaves = (clumps[owner] + offset) * [1.0, 1.0, half]
    b.scatter(leaves, leaf * rng.uniform(0.7, 1.3, num_leaves), "leaf", rng)
    return b


def _fronds(b: Builder, count: int, rng: np.random.Generator) -> None:
    """A palm's leaves: strips that rise from the top of the stem and hang down at their ends."""
    for k in range(count):
        turn = 2 * np.pi * (k + float(rng.uniform(-0.3, 0.3))) / count
        reach = float(rng.uniform(0.8, 1.1))
        along = np.array([0.05, 0.4, 0.8, 1.0]) * reach
        rise = np.array([0.0, 0.35, 0.2, -0.25]) + float(rng.uniform(-0.15, 0.15))
        half = np.array([0.05, 0.14, 0.12, 0.02])
        out, side = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        edges = [np.column_stack([along[:, None] * out + s * half[:, None] * side, rise]) for s in (-1, 0, 1)]
        edges[1][:, 2] += 0.08
        strip = np.stack(edges, axis=1)
        index = np.arange(12).reshape(4, 3)
        quads = [
            (index[i, j], index[i + 1, j], index[i + 1, j + 1], index[i, j + 1]) for i in range(3) for j in range(2)
        ]
        b.add(strip.reshape(-1, 3), np.array([t for p, q, r, s in quads for t in ((p, q, r), (p, r, s))]), "leaf")


def trunk() -> Builder:
    """A trunk of radius and height 1 that stands a little in the ground and tapers above."""
    b = Builder()
    levels = ((-0.08, 1.25), (0.3, 1.0), (1.0, 0.6))
    b.column([(0.0, z, radius, radius) for z, radius in levels], "bark", 7)
    return b


def hedge(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Builder:
    """Leaves around a core that lets nothing through."""
    length, width, height = size_lwh_m
    b = Builder()
    inner = 0.5 * width - 0.14
    b.block(-length / 2, length / 2, max(inner, 0.03), -0.1, height - 0.15, "leaf")
    area = 2 * length * height + length * width
    places = rng.uniform(-0.5, 0.5, (int(22 * area), 3)) * [length, width, height]
    places[:, 2] += height / 2
    outer = (np.abs(places[:, 1]) > inner - 0.05) | (places[:, 2] > height - 0.25)
    b.scatter(places[outer], 0.085, "leaf", rng)
    return b
