"""The scene rays are cast into: the static town and the actors of one instant.

Every sensor sees the same triangles. The town is one ray-casting scene built once; the actors are merged into a
second, small one that is rebuilt whenever they move. A ray takes the nearer of both hits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
import shapely
from numpy.typing import NDArray
from scipy.spatial import Delaunay
from shapely.geometry import box

from fusionperc.simulation.models import STANDING, WALK_STEPS, unit_mesh
from fusionperc.simulation.solids import Builder
from fusionperc.simulation.surfaces import (
    FACADE,
    FOLIAGE,
    GROUND,
    PLAIN,
    Noise,
    facade_look,
    foliage_shade,
    ground_look,
)
from fusionperc.simulation.town import KERB_HEIGHT_M, Building, Town, Tree, polygons_of
from fusionperc.simulation.traffic import Actor

STATIC = -1  #: `Hits.instance` of the static world.
NOTHING = -2  #: `Hits.instance` where a ray left the world.
#: Grass goes on this far beyond the map.
_HORIZON_M = 400.0
#: One thread a scene: drives run in parallel processes.
_THREADS = 1

Array = NDArray[np.floating[Any]]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Hits:
    """What R rays met.

    Attributes:
        distance_m: (R,) float32, inf where nothing.
        normal: (R, 3) float32 unit normal facing the ray, 0 where nothing.
        instance: (R,) int32 `Actor.instance`, `STATIC` or `NOTHING`.
        albedo: (R, 3) float32 linear RGB with procedural texture, 0 where nothing.
        reflectivity: (R,) float32 in [0, 1] at 905 nm.
        gloss: (R,) float32, 0 matte to 1 mirror-like.
    """

    distance_m: Float
    normal: Float
    instance: NDArray[np.int32]
    albedo: Float
    reflectivity: Float
    gloss: Float


@dataclass(frozen=True)
class _Soup:
    """Triangles with their looks: vertices (V, 3), triangles (T, 3), the rest (T, ...)."""

    vertices: Float
    triangles: NDArray[np.int32]
    albedo: Float
    reflectivity: Float
    gloss: Float
    kind: NDArray[np.uint8]
    style: NDArray[np.uint8]
    instance: NDArray[np.int32]

    @classmethod
    def joined(cls, parts: list[_Soup]) -> _Soup:
        counts = np.cumsum([0, *(len(part.vertices) for part in parts)])[:-1]
        shifted = [part.triangles + np.int32(first) for part, first in zip(parts, counts, strict=True)]
        names = ("albedo", "reflectivity", "gloss", "kind", "style", "instance")
        looks = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(np.concatenate([part.vertices for part in parts]), np.concatenate(shifted), **looks)

    @classmethod
    def uniform(
        cls, vertices: Array, triangles: NDArray[np.integer[Any]], albedo: tuple[float, float, float],
        reflectivity: float, kind: int = PLAIN, style: int = 0,
    ) -> _Soup:  # fmt: skip
        count = len(triangles)
        return cls(
            vertices=np.asarray(vertices, dtype=np.float32),
            triangles=np.asarray(triangles, dtype=np.int32),
            albedo=np.tile(np.array(albedo, dtype=np.float32), (count, 1)),
            reflectivity=np.full(count, reflectivity, dtype=np.float32),
            gloss=np.zeros(count, dtype=np.float32),
            kind=np.full(count, kind, dtype=np.uint8),
            style=np.full(count, style, dtype=np.uint8),
            instance=np.full(count, STATIC, dtype=np.int32),
        )

    def scene(self) -> o3d.t.geometry.RaycastingScene:
        scene = o3d.t.geometry.RaycastingScene(nthreads=_THREADS)
        if len(self.triangles):
            scene.add_triangles(
                o3d.core.Tensor.from_numpy(np.ascontiguousarray(self.vertices)),
                o3d.core.Tensor.from_numpy(np.ascontiguousarray(self.triangles.astype(np.uint32))),
            )
        return scene


class World:
    """The town with its actors, ready for rays.

    Args:
        town: what stands still; built into a scene here, once (about a second).
    """

    def __init__(self, town: Town) -> None:
        self._town = town
        self._noise = Noise(town.seed)
        self._static = _town_soup(town)
        self._static_scene = self._static.scene()
        self._all = self._static
        self._actor_scene: o3d.t.geometry.RaycastingScene | None = None

    def set_actors(self, actors: list[Actor]) -> None:
        """Replaces the actors."""
        if not actors:
            self._all, self._actor_scene = self._static, None
            return
        moving = _Soup.joined([actor_soup(actor) for actor in actors])
        self._actor_scene = moving.scene()
        self._all = _Soup.joined([self._static, moving])

    def cast(self, origins: Array, directions: Array) -> Hits:
        """First hits of rays, with looks.

        Args:
            origins: (R, 3) or (3,), world, metres.
            directions: (R, 3) unit vectors.
        """
        rays = _rays(origins, directions)
        distance, triangle, normal = self._nearest(rays, with_normals=True)
        count = len(distance)
        hit = np.flatnonzero(triangle >= 0)
        index = triangle[hit]
        along = np.einsum("ij,ij->i", normal, rays[:, 3:])
        normal *= np.where(along > 0, np.float32(-1), np.float32(1))[:, None]
        result = Hits(
            distance_m=distance,
            normal=normal,
            instance=np.full(count, NOTHING, dtype=np.int32),
            albedo=np.zeros((count, 3), dtype=np.float32),
            reflectivity=np.zeros(count, dtype=np.float32),
            gloss=np.zeros(count, dtype=np.float32),
        )
        result.instance[hit] = self._all.instance[index]
        result.albedo[hit] = self._all.albedo[index]
        result.reflectivity[hit] = self._all.reflectivity[index]
        result.gloss[hit] = self._all.gloss[index]
        self._texture(result, rays, hit, index)
        return result

    def _texture(self, hits: Hits, rays: Float, hit: NDArray[np.int64], triangle: NDArray[np.int64]) -> None:
        """Overwrites looks where the surface has a procedural one."""
        kind = self._all.kind[triangle]
        for which in (GROUND, FACADE, FOLIAGE):
            chosen = kind == which
            at = hit[chosen]
            if not len(at):
                continue
            points = rays[at, :3] + rays[at, 3:] * hits.distance_m[at, None]
            if which == FOLIAGE:
                hits.albedo[at] *= foliage_shade(self._noise, points)[:, None]
                continue
            if which == GROUND:
                look = ground_look(self._town, self._noise, points[:, 0], points[:, 1])
            else:
                style = self._all.style[triangle[chosen]]
                look = facade_look(self._noise, points, hits.normal[at], hits.albedo[at], style)
            hits.albedo[at], hits.reflectivity[at], hits.gloss[at] = look.albedo, look.reflectivity, look.gloss

    def cast_distance(self, origins: Array, directions: Array) -> tuple[Float, NDArray[np.int32]]:
        """Distances (R,), inf where nothing, and instances (R,) of first hits; arguments as in `cast`."""
        distance, triangle, _ = self._nearest(_rays(origins, directions), with_normals=False)
        instance = np.where(triangle >= 0, self._all.instance[np.maximum(triangle, 0)], np.int32(NOTHING))
        return distance, instance.astype(np.int32)

    def occluded(self, origins: Array, directions: Array, max_distance_m: float) -> NDArray[np.bool_]:
        """(R,) whether anything lies within `max_distance_m` along each ray; start shadow rays off the surface."""
        rays = o3d.core.Tensor.from_numpy(_rays(origins, directions))
        blocked: NDArray[np.bool_] = self._static_scene.test_occlusions(rays, 0.0, max_distance_m, _THREADS).numpy()
        if self._actor_scene is not None:
            blocked = blocked | self._actor_scene.test_occlusions(rays, 0.0, max_distance_m, _THREADS).numpy()
        return blocked

    def _nearest(self, rays: Float, *, with_normals: bool) -> tuple[Float, NDArray[np.int64], Float]:
        """Distance, triangle of `_all` (-1 for none) and unoriented normal of the nearer hit of both scenes."""
        tensor = o3d.core.Tensor.from_numpy(rays)
        found = self._static_scene.cast_rays(tensor, nthreads=_THREADS)
        distance: Float = found["t_hit"].numpy()
        triangle = np.where(np.isfinite(distance), found["primitive_ids"].numpy().astype(np.int64), -1)
        normal: Float = found["primitive_normals"].numpy()
        if self._actor_scene is not None:
            moving = self._actor_scene.cast_rays(tensor, nthreads=_THREADS)
            nearer = np.flatnonzero(moving["t_hit"].numpy() < distance)
            distance[nearer] = moving["t_hit"].numpy()[nearer]
            triangle[nearer] = moving["primitive_ids"].numpy()[nearer].astype(np.int64) + len(self._static.triangles)
            if with_normals:
                normal[nearer] = moving["primitive_normals"].numpy()[nearer]
        if with_normals:
            normal[triangle < 0] = 0
        return distance, triangle, normal


def _rays(origins: Array, directions: Array) -> Float:
    rays = np.empty((len(directions), 6), dtype=np.float32)
    rays[:, :3] = origins
    rays[:, 3:] = directions
    return rays


def _variant(actor: Actor) -> int:
    match actor.model:
        case "motorcycle" | "bicycle":
            return int(actor.attribute == "cycle.with_rider")
        case "pedestrian":
            if actor.attribute != "pedestrian.moving":
                return STANDING
            return round(actor.phase_rad / (2 * np.pi) * WALK_STEPS) % WALK_STEPS
        case _:
            return actor.instance % 3


def actor_soup(actor: Actor) -> _Soup:
    """An actor's triangles in the world."""
    mesh = unit_mesh(actor.model, _variant(actor))
    scaled = mesh.vertices * np.array(actor.size_lwh_m, dtype=np.float32)
    cos, sin = np.cos(actor.yaw_rad), np.sin(actor.yaw_rad)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=np.float32)
    count = len(mesh.triangles)
    return _Soup(
        vertices=scaled @ turn + np.array(actor.center_m, dtype=np.float32),
        triangles=mesh.triangles,
        albedo=np.clip(mesh.own + mesh.tint[:, None] * np.array(actor.colour, dtype=np.float32), 0, 1),
        reflectivity=mesh.reflectivity,
        gloss=mesh.gloss,
        kind=np.zeros(count, dtype=np.uint8),
        style=np.zeros(count, dtype=np.uint8),
        instance=np.full(count, actor.instance, dtype=np.int32),
    )


def _town_soup(town: Town) -> _Soup:
    parts = [_ground(town), *_raised_ground(town), *(_building(item) for item in town.buildings)]
    for tree in town.trees:
        parts += _tree(tree)
    return _Soup.joined([*parts, *_poles(town)])


def _tree(tree: Tree) -> list[_Soup]:
    x, y = tree.position_m
    r, top = tree.crown_radius_m, tree.height_m
    trunk, crown = Builder(), Builder()
    trunk.tube((x, y, 0.0), (x, y, top - r), (tree.trunk_radius_m, tree.trunk_radius_m * 0.7), "plain", 7)
    crown.ball((x, y, top - r), (r, r, r), "plain")
    crown.ball((x + 0.45 * r, y - 0.3 * r, top - 1.35 * r), (0.65 * r, 0.7 * r, 0.55 * r), "plain")
    crown.ball((x - 0.4 * r, y + 0.4 * r, top - 1.2 * r), (0.7 * r, 0.6 * r, 0.6 * r), "plain")
    return [_raw(trunk, (0.12, 0.08, 0.05), 0.35, PLAIN), _raw(crown, tree.colour, 0.45, FOLIAGE)]


def _raw(builder: Builder, albedo: tuple[float, float, float], reflectivity: float, kind: int) -> _Soup:
    return _Soup.uniform(
        np.concatenate(builder.vertices), np.concatenate(builder.triangles), albedo, reflectivity, kind
    )


def _ground(town: Town) -> _Soup:
    x0, y0, x1, y1 = town.bounds_m
    corners = np.array([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)], dtype=np.float64)
    return _Soup.uniform(corners, np.array([(0, 1, 2), (0, 2, 3)]), (0.1, 0.1, 0.1), 0.15, GROUND)


def _raised_ground(town: Town) -> list[_Soup]:
    """Everything that is not road, raised by the kerb, and the kerb's vertical face.

    The outline is given points every metre so that a plain Delaunay triangulation keeps to it.
    """
    x0, y0, x1, y1 = town.bounds_m
    far = box(x0 - _HORIZON_M, y0 - _HORIZON_M, x1 + _HORIZON_M, y1 + _HORIZON_M)
    rings = [ring for part in polygons_of(town.road) for ring in (part.exterior, *part.interiors)]
    dense = [np.asarray(shapely.segmentize(ring.simplify(0.02), 1.0).coords)[:-1] for ring in rings]
    outline = np.concatenate(dense)
    points = np.concatenate([outline, np.asarray(far.exterior.coords)[:-1]])
    triangles = Delaunay(points).simplices
    middles = points[triangles].mean(axis=1)
    shapely.prepare(town.road)
    off_road = ~shapely.contains_xy(town.road, middles[:, 0], middles[:, 1])
    top = np.column_stack([points, np.full(len(points), KERB_HEIGHT_M)])
    parts = [_Soup.uniform(top, triangles[off_road], (0.1, 0.1, 0.1), 0.3, GROUND)]
    for ring in dense:
        count = len(ring)
        k = np.arange(count)
        n = (k + 1) % count
        walls = np.concatenate([np.stack([k, n, n + count], 1), np.stack([k, n + count, k + count], 1)])
        vertices = np.concatenate(
            [np.column_stack([ring, np.zeros(count)]), np.column_stack([ring, np.full(count, KERB_HEIGHT_M)])]
        )
        parts.append(_Soup.uniform(vertices, walls, (0.42, 0.41, 0.39), 0.4))
    return parts


def _building(item: Building) -> _Soup:
    length, width, height = item.size_lwh_m
    builder = Builder()
    builder.block(-length / 2, length / 2, width / 2, 0.0, height, "plain")
    vertices = np.concatenate(builder.vertices)
    cos, sin = np.cos(item.yaw_rad), np.sin(item.yaw_rad)
    turned = vertices @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + np.array([*item.center_m, 0.0])
    soup = _Soup.uniform(turned, np.concatenate(builder.triangles), item.colour, 0.45, FACADE, item.style)
    soup.kind[:4] = PLAIN  # floor and roof
    return soup


def _poles(town: Town) -> list[_Soup]:
    steel, heads, signs = Builder(), Builder(), Builder()
    for pole in town.poles:
        x, y = pole.position_m
        ahead = np.array([np.cos(pole.yaw_rad), np.sin(pole.yaw_rad)])
        steel.tube((x, y, 0.0), (x, y, pole.height_m), (0.09, 0.06), "metal", 7)
        top = (x + 1.6 * ahead[0], y + 1.6 * ahead[1], pole.height_m)
        match pole.kind:
            case "lamp":
                steel.tube((x, y, pole.height_m - 0.1), top, (0.05, 0.05), "metal", 5)
                heads.brick(
                    (top[0] - 0.3, top[1] - 0.3, top[2] - 0.08), (top[0] + 0.3, top[1] + 0.3, top[2] + 0.05), "dark"
                )
            case "signal":
                heads.brick((x - 0.16, y - 0.16, pole.height_m - 0.9), (x + 0.16, y + 0.16, pole.height_m), "dark")
            case "sign":
                middle = np.array([x, y, pole.height_m - 0.35])
                face = 0.02 * np.array([*ahead, 0.0])
                signs.tube(tuple(middle - face), tuple(middle + face), (0.36, 0.36), "band", 10)
    looks = ((steel, (0.35, 0.36, 0.37), 0.45), (heads, (0.06, 0.06, 0.06), 0.2), (signs, (0.65, 0.10, 0.08), 0.95))
    return [_raw(builder, albedo, reflectivity, PLAIN) for builder, albedo, reflectivity in looks if builder.vertices]
