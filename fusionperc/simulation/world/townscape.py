"""The static world's triangles: ground with kerbs and relief, and all that stands on it."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Delaunay, cKDTree
from shapely.geometry import box

from fusionperc.simulation.world.furniture_models import furniture, pole
from fusionperc.simulation.world.house_models import house
from fusionperc.simulation.world.plant_models import crown, crown_half_height, trunk
from fusionperc.simulation.world.plots import Building, Clutter, Pole, Tree, TreeForm
from fusionperc.simulation.world.solids import Mesh
from fusionperc.simulation.world.surfaces import GROUND
from fusionperc.simulation.world.terrain import Terrain
from fusionperc.simulation.world.town import KERB_HEIGHT_M, Town, polygons_of
from fusionperc.simulation.world.triangles import STATIC, Triangles

#: Grass goes on this far beyond the map.
_HORIZON_M = 400.0
#: Corners of the ground's triangles: this far apart on the map, and along outlines.
_GROUND_STEP_M, _OUTLINE_STEP_M = 5.0, 1.0
#: Different crowns of each form of tree; a town's trees share them, each turned and scaled.
_CROWNS_A_FORM = 6


def townscape(town: Town) -> Triangles:
    """The triangles of a town: ground, buildings, trees, poles, furniture; instance `STATIC` throughout."""
    rng = np.random.default_rng((town.seed, 61))
    crowns = {form: [crown(form, rng).metric_mesh() for _ in range(_CROWNS_A_FORM)] for form in _forms(town)}
    stem = trunk().metric_mesh()
    parts = _ground(town)
    for house_item in town.buildings:
        base = _lowest(house_item, town.terrain)
        parts.append(_placed(house(house_item).metric_mesh(), house_item, base, house_item.yaw_rad))
    for number, tree in enumerate(town.trees):
        leaves = crowns[tree.form][number % _CROWNS_A_FORM]
        parts += _tree(tree, leaves, stem, _base(tree, town), float(rng.uniform(0, 2 * np.pi)))
    for thing in town.clutter:
        parts.append(_placed(furniture(thing, rng).metric_mesh(), thing, _base(thing, town), thing.yaw_rad))
    for post in town.poles:
        parts.append(_placed(pole(post).metric_mesh(), post, _base(post, town), post.yaw_rad))
    return Triangles.joined(parts)


def _forms(town: Town) -> list[TreeForm]:
    return sorted({tree.form for tree in town.trees})


def _base(item: Tree | Pole | Clutter, town: Town) -> float:
    """Height of the ground beside the road, where things stand."""
    return float(town.terrain.height_at(*item.position_m)) + KERB_HEIGHT_M


def _lowest(item: Building, terrain: Terrain) -> float:
    """Height of the lowest corner of a building's floor."""
    cos, sin = np.cos(item.yaw_rad), np.sin(item.yaw_rad)
    half_x, half_y = item.size_lwh_m[0] / 2, item.size_lwh_m[1] / 2
    corners = np.array([(half_x, half_y), (-half_x, half_y), (-half_x, -half_y), (half_x, -half_y)])
    places = corners @ np.array([[cos, sin], [-sin, cos]]) + np.array(item.center_m)
    return float(terrain.height_at(places[:, 0], places[:, 1]).min()) + KERB_HEIGHT_M


def _placed(
    mesh: Mesh,
    item: Building | Tree | Pole | Clutter,
    base_m: float,
    yaw_rad: float,
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Triangles:
    """A mesh, scaled along its own axes, turned and put where an item of the town stands."""
    x, y = item.center_m if isinstance(item, Building) else item.position_m
    colour = (0.4, 0.4, 0.4) if isinstance(item, Pole) else item.colour
    style = item.style if isinstance(item, Building) else 0
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    turn = np.array(scale)[:, None] * np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    count = len(mesh.triangles)
    return Triangles(
        vertices=np.asarray(mesh.vertices @ turn + np.array([x, y, base_m]), dtype=np.float32),
        triangles=mesh.triangles,
        albedo=np.clip(mesh.own + mesh.tint[:, None] * np.array(colour, dtype=np.float32), 0, 1),
        reflectivity=mesh.reflectivity,
        gloss=mesh.gloss,
        glow=mesh.glow,
        kind=mesh.kind,
        style=np.full(count, style, dtype=np.uint8),
        instance=np.full(count, STATIC, dtype=np.int32),
    )


def _tree(tree: Tree, leaves: Mesh, stem: Mesh, base_m: float, turn_rad: float) -> list[Triangles]:
    """A crown of radius 1 and a stem of radius and height 1, scaled to a tree's; bushes have no stem."""
    radius, thickness = tree.crown_radius_m, tree.trunk_radius_m
    middle = tree.height_m - radius * crown_half_height(tree.form)
    parts = [_placed(leaves, tree, base_m + middle, turn_rad, (radius, radius, radius))]
    if thickness:
        parts.append(_placed(stem, tree, base_m, turn_rad, (thickness, thickness, middle)))
    return parts


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
