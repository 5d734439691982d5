"""The static world's triangles: ground with kerbs and relief, buildings, trees, poles."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Delaunay, cKDTree
from shapely.geometry import box

from fusionperc.simulation.solids import Builder
from fusionperc.simulation.surfaces import FACADE, FOLIAGE, GROUND, PLAIN
from fusionperc.simulation.terrain import Terrain
from fusionperc.simulation.town import KERB_HEIGHT_M, Building, Pole, Town, Tree, polygons_of
from fusionperc.simulation.triangles import Triangles

#: Grass goes on this far beyond the map.
_HORIZON_M = 400.0
#: Corners of the ground's triangles: this far apart on the map, and along outlines.
_GROUND_STEP_M, _OUTLINE_STEP_M = 5.0, 1.0


def townscape(town: Town) -> Triangles:
    """The triangles of a town: ground, buildings, trees, poles; instance `STATIC` throughout."""
    parts = [*_ground(town), *(_building(item, town.terrain) for item in town.buildings)]
    for tree in town.trees:
        parts += _tree(tree, _base(tree, town.terrain))
    return Triangles.joined([*parts, *_poles(town)])


def _base(item: Tree | Pole, terrain: Terrain) -> float:
    return float(terrain.height_at(*item.position_m))


def _tree(tree: Tree, base_m: float) -> list[Triangles]:
    x, y = tree.position_m
    r, top = tree.crown_radius_m, base_m + tree.height_m
    trunk, crown = Builder(), Builder()
    trunk.tube((x, y, base_m), (x, y, top - r), (tree.trunk_radius_m, tree.trunk_radius_m * 0.7), "plain", 7)
    crown.ball((x, y, top - r), (r, r, r), "plain")
    crown.ball((x + 0.45 * r, y - 0.3 * r, top - 1.35 * r), (0.65 * r, 0.7 * r, 0.55 * r), "plain")
    crown.ball((x - 0.4 * r, y + 0.4 * r, top - 1.2 * r), (0.7 * r, 0.6 * r, 0.6 * r), "plain")
    return [Triangles.built(trunk, (0.12, 0.08, 0.05), 0.35), Triangles.built(crown, tree.colour, 0.45, FOLIAGE)]


def _ground(town: Town) -> list[Triangles]:
    """The road, everything else raised by the kerb, and the kerb's vertical face.

    Outlines are given corners every metre so that a plain Delaunay triangulation keeps to them.
    """
    x0, y0, x1, y1 = town.bounds_m
    far = box(x0 - _HORIZON_M, y0 - _HORIZON_M, x1 + _HORIZON_M, y1 + _HORIZON_M)
    rings = [ring for part in polygons_of(town.road) for ring in (part.exterior, *part.interiors)]
    dense = [np.asarray(shapely.segmentize(ring.simplify(0.02), _OUTLINE_STEP_M).coords)[:-1] for ring in rings]
    outline = np.concatenate(dense)
    steps = [np.arange(low, high + _GROUND_STEP_M / 2, _GROUND_STEP_M) for low, high in ((x0, x1), (y0, y1))]
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = grid[cKDTree(outline).query(grid)[0] > _OUTLINE_STEP_M]
    points = np.concatenate([outline, grid, np.asarray(far.exterior.coords)[:-1]])
    triangles = Delaunay(points).simplices
    middles = points[triangles].mean(axis=1)
    shapely.prepare(town.road)
    on_road = shapely.contains_xy(town.road, middles[:, 0], middles[:, 1])
    low = _on_terrain(points, town.terrain)
    high = low + [0.0, 0.0, KERB_HEIGHT_M]
    # Both looks are placeholders: where rays hit the ground, `surfaces` knows it.
    parts = [
        Triangles.uniform(low, triangles[on_road], (0.1, 0.1, 0.1), 0.15, GROUND),
        Triangles.uniform(high, triangles[~on_road], (0.1, 0.1, 0.1), 0.3, GROUND),
    ]
    for ring in dense:
        count = len(ring)
        k = np.arange(count)
        n = (k + 1) % count
        walls = np.concatenate([np.stack([k, n, n + count], 1), np.stack([k, n + count, k + count], 1)])
        foot = _on_terrain(ring, town.terrain)
        vertices = np.concatenate([foot, foot + [0.0, 0.0, KERB_HEIGHT_M]])
        parts.append(Triangles.uniform(vertices, walls, (0.42, 0.41, 0.39), 0.4))
    return parts


def _on_terrain(points_m: NDArray[np.float64], terrain: Terrain) -> NDArray[np.float64]:
    """(N, 3) points (N, 2) lifted onto the terrain."""
    return np.column_stack([points_m, terrain.height_at(points_m[:, 0], points_m[:, 1])])


def _building(item: Building, terrain: Terrain) -> Triangles:
    length, width, height = item.size_lwh_m
    builder = Builder()
    builder.block(-length / 2, length / 2, width / 2, 0.0, height, "plain")
    vertices = np.concatenate(builder.vertices)
    cos, sin = np.cos(item.yaw_rad), np.sin(item.yaw_rad)
    turned = vertices @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + np.array([*item.center_m, 0.0])
    # The floor lies below the lowest corner.
    turned[:, 2] += terrain.height_at(turned[:, 0], turned[:, 1]).min()
    soup = Triangles.uniform(turned, np.concatenate(builder.triangles), item.colour, 0.45, FACADE, item.style)
    soup.kind[:4] = PLAIN  # floor and roof
    return soup


def _poles(town: Town) -> list[Triangles]:
    steel, heads, signs = Builder(), Builder(), Builder()
    for pole in town.poles:
        x, y = pole.position_m
        base = _base(pole, town.terrain)
        head = base + pole.height_m
        ahead = np.array([np.cos(pole.yaw_rad), np.sin(pole.yaw_rad)])
        steel.tube((x, y, base), (x, y, head), (0.09, 0.06), "metal", 7)
        top = (x + 1.6 * ahead[0], y + 1.6 * ahead[1], head)
        match pole.kind:
            case "lamp":
                steel.tube((x, y, head - 0.1), top, (0.05, 0.05), "metal", 5)
                heads.brick(
                    (top[0] - 0.3, top[1] - 0.3, top[2] - 0.08), (top[0] + 0.3, top[1] + 0.3, top[2] + 0.05), "dark"
                )
            case "signal":
                heads.brick((x - 0.16, y - 0.16, head - 0.9), (x + 0.16, y + 0.16, head), "dark")
            case "sign":
                middle = np.array([x, y, head - 0.35])
                face = 0.02 * np.array([*ahead, 0.0])
                signs.tube(tuple(middle - face), tuple(middle + face), (0.36, 0.36), "band", 10)
    looks = (
        (steel, (0.35, 0.36, 0.37), 0.45, 0.0),
        (heads, (0.06, 0.06, 0.06), 0.2, 0.0),
        (signs, (0.65, 0.10, 0.08), 0.95, 0.0),
    )
    return [
        Triangles.built(builder, albedo, reflectivity, glow=glow)
        for builder, albedo, reflectivity, glow in looks
        if builder.vertices
    ]
