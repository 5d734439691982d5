"""The scene rays are cast into: the static town and the actors of one instant.

Every sensor sees the same triangles. The town is one ray-casting scene built once; the actors are merged into a
second, small one that is rebuilt whenever they move. A ray takes the nearer of both hits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.world.models import PERSON_VARIANTS, filled_size_m, unit_mesh
from fusionperc.simulation.world.people_models import STANDING, WALK_STEPS
from fusionperc.simulation.world.surfaces import FACADE, FOLIAGE, GROUND, Surfaces
from fusionperc.simulation.world.terrain import Terrain
from fusionperc.simulation.world.town import Town
from fusionperc.simulation.world.townscape import townscape
from fusionperc.simulation.world.triangles import THREADS, Array, Float, Triangles

NOTHING = -2  #: `Hits.instance` where a ray left the world.


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
        glow: (R,) float32 light given off when lamps are on, relative to a headlight.
    """

    distance_m: Float
    normal: Float
    instance: NDArray[np.int32]
    albedo: Float
    reflectivity: Float
    gloss: Float
    glow: Float


class World:
    """The town with its actors, ready for rays.

    Args:
        town: what never changes; built into a scene here, once (about a second).
        standing: actors that never move; they stay for good, whatever `set_actors` is told.
    """

    def __init__(self, town: Town, standing: list[Actor] | None = None) -> None:
        self.town = town
        self._surfaces = Surfaces(town)
        self._standing = {actor.instance for actor in standing or []}
        self._static = Triangles.joined([townscape(town), *(actor_triangles(a, town.terrain) for a in standing or [])])
        self._static_scene = self._static.scene()
        self._moving: Triangles | None = None
        self._moving_scene: o3d.t.geometry.RaycastingScene | None = None

    def set_actors(self, actors: list[Actor]) -> None:
        """Replaces the actors, except the standing ones."""
        moving = [actor for actor in actors if actor.instance not in self._standing]
        if not moving:
            self._moving, self._moving_scene = None, None
            return
        self._moving = Triangles.joined([actor_triangles(actor, self.town.terrain) for actor in moving])
        self._moving_scene = self._moving.scene()

    def cast(
        self, origins: Array, directions: Array, spread_rad: float = 0.0, may_meet: NDArray[np.bool_] | None = None
    ) -> Hits:
        """First hits of rays, with looks.

        Args:
            origins: (R, 3) or (3,), world, metres.
            directions: (R, 3) unit vectors.
            spread_rad: angle between neighbouring rays, so that texture finer than that is left out; 0 leaves out all
                fine texture.
            may_meet: (R,) rays that may meet an actor that moves; the others are not tried on them. None: all may.
        """
        rays = _rays(origins, directions)
        distance, triangle, normal = self._nearest(rays, may_meet, with_normals=True)
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
            glow=np.zeros(count, dtype=np.float32),
        )
        for name in ("instance", "albedo", "reflectivity", "gloss", "glow"):
            getattr(result, name)[hit] = self._look(name, index)
        footprint_m = None
        if spread_rad:
            footprint_m = distance * np.float32(spread_rad) / np.sqrt(np.maximum(np.abs(along), 0.02))
        self._texture(result, rays, hit, index, footprint_m)
        return result

    def _look(self, name: str, triangle: NDArray[np.int64]) -> NDArray[Any]:
        """A look (R, ...) of triangles, numbered through the static ones and then the moving ones."""
        static = getattr(self._static, name)
        if self._moving is None:
            return np.asarray(static[triangle])
        count = len(self._static.triangles)
        look = static.take(np.minimum(triangle, count - 1), axis=0)
        moving = np.flatnonzero(triangle >= count)
        look[moving] = getattr(self._moving, name)[triangle[moving] - count]
        return np.asarray(look)

    def _texture(
        self, hits: Hits, rays: Float, hit: NDArray[np.int64], triangle: NDArray[np.int64], footprint_m: Float | None
    ) -> None:
        """Overwrites looks where the surface has a procedural one."""
        kind = self._look("kind", triangle)
        for which in (GROUND, FACADE, FOLIAGE):
            at = hit[kind == which]
            if not len(at):
                continue
            reach = hits.distance_m[at]
            points = np.stack([rays[at, axis] + rays[at, 3 + axis] * reach for axis in range(3)])
            wide = None if footprint_m is None else footprint_m[at]
            if which == FOLIAGE:
                hits.albedo[at] *= self._surfaces.foliage(points, wide)[:, None]
                continue
            if which == GROUND:
                look = self._surfaces.ground(points[0], points[1], wide)
            else:
                look = self._surfaces.facade(points, hits.normal[at].T, hits.albedo[at].T, wide)
            hits.albedo[at], hits.reflectivity[at], hits.gloss[at] = look.albedo.T, look.reflectivity, look.gloss
            if look.glow is not None:
                hits.glow[at] = look.glow

    def cast_distance(self, origins: Array, directions: Array) -> tuple[Float, NDArray[np.int32]]:
        """Distances (R,), inf where nothing, and instances (R,) of first hits; arguments as in `cast`."""
        distance, triangle, _ = self._nearest(_rays(origins, directions), None, with_normals=False)
        instance = np.where(triangle >= 0, self._look("instance", np.maximum(triangle, 0)), np.int32(NOTHING))
        return distance, instance.astype(np.int32)

    def occluded(self, origins: Array, directions: Array, max_distance_m: float) -> NDArray[np.bool_]:
        """(R,) whether anything lies within `max_distance_m` along each ray; start shadow rays off the surface."""
        rays = o3d.core.Tensor.from_numpy(_rays(origins, directions))
        blocked: NDArray[np.bool_] = self._static_scene.test_occlusions(rays, 0.0, max_distance_m, THREADS).numpy()
        if self._moving_scene is not None:
            blocked = blocked | self._moving_scene.test_occlusions(rays, 0.0, max_distance_m, THREADS).numpy()
        return blocked

    def _nearest(
        self, rays: Float, may_meet: NDArray[np.bool_] | None, *, with_normals: bool
    ) -> tuple[Float, NDArray[np.int64], Float]:
        """Distance, number of the triangle (-1 for none) and unoriented normal of the nearer hit of both scenes."""
        tensor = o3d.core.Tensor.from_numpy(rays)
        found = self._static_scene.cast_rays(tensor, nthreads=THREADS)
        distance: Float = found["t_hit"].numpy()
        triangle = np.where(np.isfinite(distance), found["primitive_ids"].numpy().astype(np.int64), -1)
        normal: Float = found["primitive_normals"].numpy()
        if self._moving_scene is not None:
            tried = np.arange(len(rays)) if may_meet is None else np.flatnonzero(may_meet)
            some = tensor if may_meet is None else o3d.core.Tensor.from_numpy(rays[tried])
            moving = self._moving_scene.cast_rays(some, nthreads=THREADS)
            found_m = moving["t_hit"].numpy()
            meets = np.flatnonzero(found_m < distance[tried])
            nearer = tried[meets]
            distance[nearer] = found_m[meets]
            triangle[nearer] = moving["primitive_ids"].numpy()[meets].astype(np.int64) + len(self._static.triangles)
            if with_normals:
                normal[nearer] = moving["primitive_normals"].numpy()[meets]
        if with_normals:
            normal[triangle < 0] = 0
        return distance, triangle, normal


def _rays(origins: Array, directions: Array) -> Float:
    rays = np.empty((len(directions), 6), dtype=np.float32)
    rays[:, :3] = origins
    rays[:, 3:] = directions
    return rays


def _variant(actor: Actor) -> int:
    """Body style by instance, and what people and cycles do; see `models.MODELS`."""
    match actor.model:
        case "motorcycle" | "scooter" | "bicycle":
            return 2 * actor.instance + int(actor.attribute == "cycle.with_rider")
        case "pedestrian" | "child" | "worker":
            walks = actor.attribute == "pedestrian.moving"
            step = round(actor.phase_rad / (2 * np.pi) * WALK_STEPS) % WALK_STEPS if walks else STANDING
            return PERSON_VARIANTS * actor.instance + step
        case _:
            return actor.instance


def actor_triangles(actor: Actor, terrain: Terrain) -> Triangles:
    """An actor's triangles in the world; its wheels follow the slope under it."""
    mesh = unit_mesh(actor.model, _variant(actor))
    scaled = mesh.vertices * np.array(filled_size_m(actor.model, actor.size_lwh_m), dtype=np.float32)
    cos, sin = np.cos(actor.yaw_rad), np.sin(actor.yaw_rad)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=np.float32)
    offset = scaled @ turn
    to_x, to_y = terrain.slope_at(*actor.center_m[:2])
    offset[:, 2] += offset[:, 0] * np.float32(to_x) + offset[:, 1] * np.float32(to_y)
    count = len(mesh.triangles)
    return Triangles(
        vertices=offset + np.array(actor.center_m, dtype=np.float32),
        triangles=mesh.triangles,
        albedo=np.clip(mesh.own + mesh.tint[:, None] * np.array(actor.colour, dtype=np.float32), 0, 1),
        reflectivity=mesh.reflectivity,
        gloss=mesh.gloss,
        glow=mesh.glow,
        kind=np.zeros(count, dtype=np.uint8),
        style=np.zeros(count, dtype=np.uint8),
        instance=np.full(count, actor.instance, dtype=np.int32),
    )
