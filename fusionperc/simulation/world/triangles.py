"""Triangles with their looks: what the world's scenes are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from fusionperc.simulation.world.solids import Builder
from fusionperc.simulation.world.surfaces import PLAIN

STATIC = -1  #: Instance of what belongs to the town.
#: One thread a scene: drives run in parallel processes.
THREADS = 1

Array = NDArray[np.floating[Any]]
Float = NDArray[np.float32]
_LOOKS = ("albedo", "reflectivity", "gloss", "glow", "kind", "style", "instance")


@dataclass(frozen=True)
class Triangles:
    """A mesh with one look a triangle.

    Attributes:
        vertices: (V, 3) float32, world frame, metres.
        triangles: (T, 3) int32.
        albedo: (T, 3) linear RGB.
        reflectivity: (T,) in [0, 1] at 905 nm.
        gloss: (T,) 0 matte to 1 mirror-like.
        glow: (T,) light given off when lamps are on, relative to a headlight; the albedo is its colour.
        kind: (T,) which procedural look overrides the albedo (see `surfaces`).
        style: (T,) variant of that look.
        instance: (T,) `Actor.instance` or `STATIC`.
    """

    vertices: Float
    triangles: NDArray[np.int32]
    albedo: Float
    reflectivity: Float
    gloss: Float
    glow: Float
    kind: NDArray[np.uint8]
    style: NDArray[np.uint8]
    instance: NDArray[np.int32]

    @classmethod
    def joined(cls, parts: list[Triangles]) -> Triangles:
        """All of them in one, in order."""
        if not parts:
            return cls.uniform(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int32), (0.0, 0.0, 0.0), 0.0)
        counts = np.cumsum([0, *(len(part.vertices) for part in parts)])[:-1]
        shifted = [part.triangles + np.int32(first) for part, first in zip(parts, counts, strict=True)]
        looks = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _LOOKS}
        return cls(np.concatenate([part.vertices for part in parts]), np.concatenate(shifted), **looks)

    @classmethod
    def uniform(
        cls, vertices: Array, triangles: NDArray[np.integer[Any]], albedo: tuple[float, float, float],
        reflectivity: float, kind: int = PLAIN, style: int = 0, glow: float = 0.0,
    ) -> Triangles:  # fmt: skip
        """Triangles of the town that all look the same."""
        count = len(triangles)
        return cls(
            vertices=np.asarray(vertices, dtype=np.float32),
            triangles=np.asarray(triangles, dtype=np.int32),
            albedo=np.tile(np.array(albedo, dtype=np.float32), (count, 1)),
            reflectivity=np.full(count, reflectivity, dtype=np.float32),
            gloss=np.zeros(count, dtype=np.float32),
            glow=np.full(count, glow, dtype=np.float32),
            kind=np.full(count, kind, dtype=np.uint8),
            style=np.full(count, style, dtype=np.uint8),
            instance=np.full(count, STATIC, dtype=np.int32),
        )

    @classmethod
    def built(
        cls, builder: Builder, albedo: tuple[float, float, float], reflectivity: float, kind: int = PLAIN,
        glow: float = 0.0,
    ) -> Triangles:  # fmt: skip
        """All solids of a builder, in metres and world axes, whatever their materials."""
        vertices, triangles = np.concatenate(builder.vertices), np.concatenate(builder.triangles)
        return cls.uniform(vertices, triangles, albedo, reflectivity, kind, glow=glow)

    def scene(self) -> o3d.t.geometry.RaycastingScene:
        """A scene for rays; primitive ids are rows of `triangles`."""
        scene = o3d.t.geometry.RaycastingScene(nthreads=THREADS)
        if len(self.triangles):
            scene.add_triangles(
                o3d.core.Tensor.from_numpy(np.ascontiguousarray(self.vertices)),
                o3d.core.Tensor.from_numpy(np.ascontiguousarray(self.triangles.astype(np.uint32))),
            )
        return scene
