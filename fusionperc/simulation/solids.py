"""Building blocks of parametric meshes: materials, and solids collected into a mesh in the unit box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """Albedo = own + tint * object colour; reflectivity at 905 nm in [0, 1]; gloss 0 matte to 1 mirror-like; glow:
    light given off when lamps are on, relative to a headlight."""

    albedo: tuple[float, float, float]
    tint: float
    reflectivity: float
    gloss: float
    glow: float = 0.0


MATERIALS: dict[str, Material] = {
    "paint": Material((0.0, 0.0, 0.0), 1.0, 0.35, 0.6),
    "cloth": Material((0.0, 0.0, 0.0), 1.0, 0.40, 0.0),
    "trousers": Material((0.02, 0.02, 0.03), 0.35, 0.30, 0.0),
    "skin": Material((0.45, 0.30, 0.22), 0.0, 0.45, 0.05),
    "hair": Material((0.06, 0.04, 0.03), 0.0, 0.20, 0.05),
    "glass": Material((0.03, 0.04, 0.05), 0.0, 0.06, 0.95),
    "rubber": Material((0.03, 0.03, 0.03), 0.0, 0.06, 0.05),
    "metal": Material((0.40, 0.40, 0.42), 0.0, 0.40, 0.5),
    "dark": Material((0.05, 0.05, 0.05), 0.0, 0.12, 0.1),
    "box": Material((0.62, 0.62, 0.60), 0.2, 0.50, 0.2),
    "plate": Material((0.80, 0.80, 0.75), 0.0, 0.95, 0.1),
    "tail": Material((0.50, 0.02, 0.02), 0.0, 0.75, 0.6, 0.15),
    "lamp": Material((0.85, 0.85, 0.80), 0.0, 0.50, 0.9, 1.0),
    "band": Material((0.85, 0.85, 0.85), 0.0, 0.95, 0.1),
    "plain": Material((0.0, 0.0, 0.0), 1.0, 0.45, 0.0),
}


@dataclass(frozen=True)
class Mesh:
    """A model in the unit box.

    Attributes:
        vertices: (V, 3) float32 in [-0.5, 0.5].
        triangles: (T, 3) int32.
        own: (T, 3) float32 the material's own albedo.
        tint: (T,) float32 share of the object's colour.
        reflectivity, gloss, glow: (T,) float32.
    """

    vertices: NDArray[np.float32]
    triangles: NDArray[np.int32]
    own: NDArray[np.float32]
    tint: NDArray[np.float32]
    reflectivity: NDArray[np.float32]
    gloss: NDArray[np.float32]
    glow: NDArray[np.float32]


class Builder:
    """Collects solids of one model, in metres."""

    def __init__(self) -> None:
        self.vertices: list[Array] = []
        self.triangles: list[NDArray[np.int64]] = []
        self.materials: list[str] = []
        self._count = 0

    def add(self, vertices: Array, triangles: NDArray[np.int64], material: str) -> None:
        """A triangle mesh: vertices (V, 3), triangles (T, 3)."""
        self.vertices.append(vertices)
        self.triangles.append(triangles + self._count)
        self.materials += [material] * len(triangles)
        self._count += len(vertices)

    def hexahedron(self, bottom: tuple[float, ...], top: tuple[float, ...], material: str) -> None:
        """A block between two rectangles (x0, x1, y0, y1, z)."""
        corners = [(r[i], r[j], r[4]) for r in (bottom, top) for i, j in ((0, 2), (1, 2), (1, 3), (0, 3))]
        quads = ((3, 2, 1, 0), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))
        triangles = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
        self.add(np.array(corners), triangles, material)

    def block(self, x0: float, x1: float, half_y: float, z0: float, z1: float, material: str) -> None:
        """An axis-aligned block, symmetric about y = 0."""
        self.hexahedron((x0, x1, -half_y, half_y, z0), (x0, x1, -half_y, half_y, z1), material)

    def brick(self, low: tuple[float, float, float], high: tuple[float, float, float], material: str) -> None:
        """An axis-aligned block between two corners."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        self.hexahedron((x0, x1, y0, y1, z0), (x0, x1, y0, y1, z1), material)

    def tube(
        self, start: tuple[float, float, float], end: tuple[float, float, float], radii: tuple[float, float],
        material: str, sides: int = 8,
    ) -> None:  # fmt: skip
        """A closed cylinder or cone between two points."""
        a, b = np.array(start), np.array(end)
        axis = (b - a) / np.linalg.norm(b - a)
        helper = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        u = np.cross(axis, helper)
        u /= np.linalg.norm(u)
        v = np.cross(axis, u)
        angle = np.arange(sides) * 2 * np.pi / sides
        ring = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
        vertices = np.concatenate([a + radii[0] * ring, b + radii[1] * ring, a[None], b[None]])
        k = np.arange(sides)
        n = (k + 1) % sides
        walls = np.concatenate([np.stack([k, n, n + sides], 1), np.stack([k, n + sides, k + sides], 1)])
        caps = np.concatenate(
            [
                np.stack([n, k, np.full(sides, 2 * sides)], 1),
                np.stack([k + sides, n + sides, np.full(sides, 2 * sides + 1)], 1),
            ]
        )
        self.add(vertices, np.concatenate([walls, caps]), material)

    def wheel(self, x: float, y: float, radius: float, width: float) -> None:
        """A wheel standing on z = 0 with its middle at (x, y)."""
        tyre = 0.45 * width
        self.tube((x, y - tyre, radius), (x, y + tyre, radius), (radius, radius), "rubber", 12)
        # The hub stands out a little: coplanar faces would flicker.
        self.tube((x, y, radius), (x, y + np.copysign(width / 2, y), radius), (radius * 0.6, radius * 0.55), "metal", 7)

    def ball(self, center: tuple[float, float, float], radii: tuple[float, float, float], material: str) -> None:
        """An ellipsoid."""
        rows, cols = 5, 8
        polar = np.linspace(0, np.pi, rows + 1)[:, None]
        around = np.arange(cols)[None] * 2 * np.pi / cols
        unit = np.stack(
            [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar) + 0 * around], axis=-1
        )
        index = np.arange((rows + 1) * cols).reshape(rows + 1, cols)
        a, b = index[:-1], np.roll(index, -1, 1)[:-1]
        c, d = index[1:], np.roll(index, -1, 1)[1:]
        triangles = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
        self.add(unit.reshape(-1, 3) * np.array(radii) + np.array(center), triangles, material)

    def mesh(self, box: tuple[Array, Array] | None = None) -> Mesh:
        """The unit-box mesh; `box` (low, high) is what becomes the unit box, by default the mesh's own extent."""
        vertices = np.concatenate(self.vertices)
        low, high = box if box is not None else (vertices.min(0), vertices.max(0))
        unit = (vertices - low) / (high - low) - 0.5
        rows = [MATERIALS[name] for name in self.materials]
        return Mesh(
            vertices=unit.astype(np.float32),
            triangles=np.concatenate(self.triangles).astype(np.int32),
            own=np.array([row.albedo for row in rows], dtype=np.float32),
            tint=np.array([row.tint for row in rows], dtype=np.float32),
            reflectivity=np.array([row.reflectivity for row in rows], dtype=np.float32),
            gloss=np.array([row.gloss for row in rows], dtype=np.float32),
            glow=np.array([row.glow for row in rows], dtype=np.float32),
        )
