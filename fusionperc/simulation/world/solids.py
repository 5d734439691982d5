"""Building blocks of parametric meshes: materials, and solids collected into a mesh in the unit box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.world.surfaces import FACADE, FOLIAGE, PLAIN

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """Albedo = own + tint * object colour; reflectivity at 905 nm in [0, 1]; gloss 0 matte to 1 mirror-like; glow:
    light given off when lamps are on, relative to a headlight; kind: the procedural look of `surfaces` it has."""

    albedo: tuple[float, float, float]
    tint: float
    reflectivity: float
    gloss: float
    glow: float = 0.0
    kind: int = PLAIN


#: Reflectivities at 905 nm: what is black to the eye (cloth, plants) often is not, what is white (paint on steel) less
#: so than it looks; rubber, tar and glass throw nearly nothing back.
MATERIALS: dict[str, Material] = {
    "paint": Material((0.0, 0.0, 0.0), 1.0, 0.35, 0.6),
    "cloth": Material((0.0, 0.0, 0.0), 1.0, 0.40, 0.0),
    "trousers": Material((0.02, 0.02, 0.03), 0.35, 0.30, 0.0),
    "skin": Material((0.45, 0.30, 0.22), 0.0, 0.45, 0.05),
    "hair": Material((0.06, 0.04, 0.03), 0.0, 0.20, 0.05),
    "bag": Material((0.10, 0.07, 0.05), 0.15, 0.30, 0.05),
    "seat": Material((0.06, 0.06, 0.065), 0.0, 0.22, 0.0),
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
    "wall": Material((0.0, 0.0, 0.0), 1.0, 0.45, 0.0, kind=FACADE),
    "bark": Material((0.12, 0.085, 0.055), 0.0, 0.35, 0.0),
    "leaf": Material((0.0, 0.0, 0.0), 1.0, 0.48, 0.0, kind=FOLIAGE),
    "wood": Material((0.28, 0.18, 0.10), 0.0, 0.45, 0.05),
    "steel": Material((0.33, 0.34, 0.35), 0.0, 0.40, 0.3),
    "sign": Material((0.55, 0.12, 0.08), 0.0, 0.95, 0.1),
    "board": Material((0.03, 0.20, 0.10), 0.0, 0.92, 0.1),
    "concrete": Material((0.42, 0.41, 0.39), 0.1, 0.42, 0.0),
    "roof": Material((0.20, 0.12, 0.09), 0.15, 0.30, 0.0),
    "street lamp": Material((0.95, 0.80, 0.55), 0.0, 0.40, 0.3, 0.8),
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
        kind: (T,) uint8 which procedural look overrides these (see `surfaces`).
    """

    vertices: NDArray[np.float32]
    triangles: NDArray[np.int32]
    own: NDArray[np.float32]
    tint: NDArray[np.float32]
    reflectivity: NDArray[np.float32]
    gloss: NDArray[np.float32]
    glow: NDArray[np.float32]
    kind: NDArray[np.uint8]


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

    def skin(self, rings: Array, materials: str | Sequence[Sequence[str]], caps: str = "") -> None:
        """A closed skin over rings of points, one after the other.

        Args:
            rings: (N, M, 3); point m of a ring is joined to point m of the next.
            materials: of all, or N - 1 rows of M names: of the panels between points m and m + 1; "" leaves one out.
            caps: material of the two ends; "" leaves them open.
        """
        count, sides = rings.shape[:2]
        index = np.arange(count * sides).reshape(count, sides)
        a, b = index[:-1], np.roll(index, -1, 1)[:-1]
        c, d = index[1:], np.roll(index, -1, 1)[1:]
        quads = np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], axis=2).reshape(-1, 2, 3)
        names = np.full(len(quads), materials) if isinstance(materials, str) else np.array(materials).reshape(-1)
        points = rings.reshape(-1, 3)
        triangles, names = quads.reshape(-1, 3), np.repeat(names, 2)
        corners = points[triangles]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        kept = (names != "") & (area > 1e-9)
        if caps:
            middles = np.stack([rings[0].mean(0), rings[-1].mean(0)])
            first, last = index[0], index[-1]
            fans = [
                np.stack([np.roll(first, -1), np.full(sides, len(points)), first], 1),
                np.stack([last, np.full(sides, len(points) + 1), np.roll(last, -1)], 1),
            ]
            points = np.concatenate([points, middles])
            triangles = np.concatenate([triangles[kept], *fans])
            names = np.concatenate([names[kept], np.full(2 * sides, caps)])
        else:
            triangles, names = triangles[kept], names[kept]
        self.vertices.append(points)
        self.triangles.append(triangles + self._count)
        self.materials += names.tolist()
        self._count += len(points)

    def loft(self, sections: Array, materials: str | Sequence[Sequence[str]], caps: str = "") -> None:
        """A skin over cross-sections that are mirrored at y = 0.

        Args:
            sections: (N, K, 3) left halves, each from the lowest point to the highest.
            materials: of all, or N - 1 rows of K - 1 names, from the lowest strip to the highest; "" leaves one out.
            caps: material of the two ends; "" leaves them open.
        """
        right = sections[:, ::-1] * [1.0, -1.0, 1.0]
        # Between the halves are strips without width: `skin` drops them, unless the halves do not meet.
        rows = materials if isinstance(materials, str) else [[*row, row[-1], *row[::-1], row[0]] for row in materials]
        self.skin(np.concatenate([sections, right], axis=1), rows, caps)

    def tube(
        self, start: tuple[float, float, float], end: tuple[float, float, float], radii: tuple[float, float],
        material: str, sides: int = 8, *, is_closed: bool = True,
    ) -> None:  # fmt: skip
        """A cylinder or cone between two points."""
        a, b = np.array(start), np.array(end)
        axis = (b - a) / np.linalg.norm(b - a)
        helper = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        u = np.cross(axis, helper)
        u /= np.linalg.norm(u)
        v = np.cross(axis, u)
        angle = np.arange(sides) * 2 * np.pi / sides
        ring = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
        self.skin(np.stack([a + radii[0] * ring, b + radii[1] * ring]), material, material if is_closed else "")

    def column(self, levels: Sequence[tuple[float, float, float, float]], material: str, sides: int = 8) -> None:
        """An upright body of elliptic sections; `levels` are (x of the middle, z, radius along x, radius along y)."""
        angle = np.arange(sides) * 2 * np.pi / sides
        x, z, radius_x, radius_y = np.array(levels).T[:, :, None]
        ring_x, ring_y = x + radius_x * np.cos(angle), radius_y * np.sin(angle)
        self.skin(np.stack([ring_x, ring_y, np.broadcast_to(z, ring_x.shape)], axis=-1), material, material)

    def wheel(self, x: float, y: float, radius: float, width: float) -> None:
        """A wheel standing on z = 0 with its middle at (x, y)."""
        tyre, side = 0.45 * width, np.copysign(1.0, y)
        self.tube((x, y - tyre, radius), (x, y + tyre, radius), (radius, radius), "rubber", 10)
        # The hub stands out a little: coplanar faces would flicker.
        rim = radius * 0.62
        self.tube((x, y, radius), (x, y + side * width / 2, radius), (rim, rim), "metal", 7)

    def ball(
        self, center: tuple[float, float, float], radii: tuple[float, float, float], material: str,
        rows: int = 5, sides: int = 8,
    ) -> None:  # fmt: skip
        """An ellipsoid."""
        polar = np.linspace(0, np.pi, rows + 1)[:, None]
        around = np.arange(sides)[None] * 2 * np.pi / sides
        unit = np.stack(
            [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar) + 0 * around], axis=-1
        )
        self.skin(unit * np.array(radii) + np.array(center), material)

    def scatter(self, centers: Array, size: Array | float, material: str, rng: np.random.Generator) -> None:
        """Random triangles about centers (N, 3), as leaves are; `size` is the spread of their corners."""
        corners = centers[:, None] + rng.normal(size=(len(centers), 3, 3)) * np.asarray(size).reshape(-1, 1, 1)
        self.add(corners.reshape(-1, 3), np.arange(3 * len(centers)).reshape(-1, 3), material)

    def metric_mesh(self) -> Mesh:
        """The mesh in metres, as it was built."""
        return self.mesh((np.full(3, -0.5), np.full(3, 0.5)))

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
            kind=np.array([row.kind for row in rows], dtype=np.uint8),
        )
