"""The static layout of a simulated town: road surface and markings as a raster, and what stands beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import uniform_filter
from shapely.geometry import LineString, MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from fusionperc.simulation.traffic.network import Edge, Network, line_length, offset_line, resample_line
from fusionperc.simulation.world.plots import Building, Clutter, Lot, Pole, Tree, furnish_plots, rectangle
from fusionperc.simulation.world.terrain import Terrain, draw_terrain

GRASS, SIDEWALK, ASPHALT, PARKING, CROSSING, WHITE, YELLOW, STRIPE = range(8)
#: Everything that is not road lies this much higher.
KERB_HEIGHT_M = 0.12
#: Pixel of `Town.raster`, as in nuScenes' map masks.
RASTER_RESOLUTION_M = 0.1
# Cameras see markings from close by, so the surface is finer than the masks.
_SURFACE_RESOLUTION_M = 0.05
_KERB_RESOLUTION_M = 0.2

Layer = Literal["drivable", "sidewalk", "crossing", "marking"]
_LAYER_LABELS: dict[str, tuple[int, ...]] = {
    "drivable": (ASPHALT, PARKING, CROSSING, WHITE, YELLOW, STRIPE),
    "sidewalk": (SIDEWALK,),
    "crossing": (CROSSING, STRIPE),
    "marking": (WHITE, YELLOW, STRIPE),
}


@dataclass(frozen=True)
class Town:
    """Static layout of one map. Origin (0, 0) is the south-west corner, x east, y north, metres.

    Attributes:
        seed: of the layout.
        bounds_m: (0, 0, width, height) covered by `surface`; grass goes on beyond.
        surface: (rows, cols) uint8 labels (`GRASS` ... `STRIPE`); row 0 is the north edge, as in nuScenes' map masks.
        surface_resolution_m: metres a pixel of `surface`.
        kerb: (rows, cols) float32 height above the terrain on a coarser grid, row 0 is the SOUTH edge; smooth at kerbs.
        kerb_resolution_m: metres a cell of `kerb`.
        terrain: relief on which all lies.
        road, sidewalk: outlines of all asphalt and of all sidewalks.
        edges: the streets' lanes.
        network: the streets with their junctions and crossings.
        buildings, trees, poles, clutter: what stands beside the road.
        lots: where cars park off the road.
    """

    seed: int
    bounds_m: tuple[float, float, float, float]
    surface: NDArray[np.uint8]
    surface_resolution_m: float
    kerb: NDArray[np.float32]
    kerb_resolution_m: float
    terrain: Terrain
    road: MultiPolygon
    sidewalk: BaseGeometry
    edges: tuple[Edge, ...]
    network: Network
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    poles: tuple[Pole, ...]
    clutter: tuple[Clutter, ...] = ()
    lots: tuple[Lot, ...] = ()

    def obstacle_points(self) -> NDArray[np.float64]:
        """(N, 2) where trees, poles and furniture stand; at most half a metre apart along walls and hedges."""
        single = [tree.position_m for tree in self.trees] + [pole.position_m for pole in self.poles]
        return np.concatenate([np.array(single).reshape(-1, 2), *(item.footprint_points() for item in self.clutter)])

    def raster(self, layer: Layer) -> NDArray[np.bool_]:
        """(rows, cols) mask of a layer, `RASTER_RESOLUTION_M` a pixel; row 0 is the north edge.

        Raises:
            ValueError: unknown layer.
        """
        if layer not in _LAYER_LABELS:
            raise ValueError(f"layer '{layer}' is unknown; choose one of {', '.join(_LAYER_LABELS)}")
        step = round(RASTER_RESOLUTION_M / self.surface_resolution_m)
        table = np.zeros(256, dtype=bool)
        table[list(_LAYER_LABELS[layer])] = True
        mask: NDArray[np.bool_] = table[self.surface[::step, ::step]]
        return mask

    def label_at(self, x_m: NDArray[np.floating[Any]], y_m: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """Surface labels at points (...), grass outside the bounds."""
        rows, cols = self.surface.shape
        scale = np.float32(1 / self.surface_resolution_m)
        col = np.clip(x_m * scale, 0, cols - 1).astype(np.int32)
        row = np.clip(rows - y_m * scale, 0, rows - 1).astype(np.int32)
        labels: NDArray[np.uint8] = self.surface.ravel()[row * cols + col]
        return labels

    def height_at(self, x_m: NDArray[np.floating[Any]], y_m: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Ground height at points (...): the terrain on the road, `KERB_HEIGHT_M` above it elsewhere, between the two
        within 0.4 m of the kerb."""
        rows, cols = self.kerb.shape
        col = np.clip(x_m / self.kerb_resolution_m, 0, cols - 1).astype(np.int32)
        row = np.clip(y_m / self.kerb_resolution_m, 0, rows - 1).astype(np.int32)
        return (self.kerb[row, col] + self.terrain.height_at(x_m, y_m)).astype(np.float32)


def build_town(network: Network, seed: int) -> Town:
    """Derives surfaces from a street network and plants buildings, trees and poles; deterministic by `seed`."""
    rng = np.random.default_rng((seed, 23))
    width, depth = network.size_m
    sidewalk, road = _outlines(network)
    edges = tuple(network.edges[name] for name in sorted(network.edges))
    kerb = _kerb_grid(road, (width, depth), _KERB_RESOLUTION_M)
    beside = furnish_plots(edges, network.signalled, shapely.union(sidewalk, road), (width, depth), rng)
    surface = _draw_surface(network, edges, sidewalk, road, beside.lots, _SURFACE_RESOLUTION_M)
    return Town(
        seed=seed,
        bounds_m=(0.0, 0.0, width, depth),
        surface=surface,
        surface_resolution_m=_SURFACE_RESOLUTION_M,
        kerb=kerb,
        kerb_resolution_m=_KERB_RESOLUTION_M,
        terrain=draw_terrain(np.random.default_rng((seed, 29))),
        road=road,
        sidewalk=sidewalk,
        edges=edges,
        network=network,
        buildings=beside.buildings,
        trees=beside.trees,
        poles=beside.poles,
        clutter=beside.clutter,
        lots=beside.lots,
    )


def _band(shape_m: NDArray[np.float64], width_m: float) -> Polygon:
    band = LineString(shape_m).buffer(width_m / 2, cap_style="flat", join_style="mitre")
    return Polygon(band.exterior) if isinstance(band, Polygon) else Polygon()


def polygons_of(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons of any shapely geometry."""
    return [part for part in shapely.get_parts(geometry) if isinstance(part, Polygon) and not part.is_empty]


def _outlines(network: Network) -> tuple[BaseGeometry, MultiPolygon]:
    """Outlines of the sidewalks and of the asphalt."""
    walking = [Polygon(shape).buffer(0) for shape in network.walking_areas]
    paths: list[Polygon] = []
    roads: list[Polygon] = []
    for edge in network.edges.values():
        for lane in edge.lanes:
            (paths if lane.kind == "sidewalk" else roads).append(_band(lane.shape_m, lane.width_m + 0.02))
    sidewalk = shapely.union_all([*paths, *walking]).buffer(0.03)
    lanes = shapely.union_all(roads)
    junctions = shapely.union_all([Polygon(shape).buffer(0) for shape in network.junctions])
    open_junctions = shapely.difference(junctions, sidewalk)
    asphalt = shapely.union(lanes.buffer(0.02), open_junctions).buffer(0.3).buffer(-0.3)
    # A junction's outline may bulge past the sidewalk around a bend: only what touches a lane is road.
    road = MultiPolygon([part for part in polygons_of(asphalt) if part.intersects(lanes)])
    for x, y, radius in network.islands:
        road = _with_island(road, sidewalk, shapely.Point(x, y), radius)
    return shapely.difference(sidewalk, road), road


def _with_island(road: MultiPolygon, sidewalk: BaseGeometry, center: shapely.Point, radius_m: float) -> MultiPolygon:
    """Makes a roundabout's island round and its road reach the sidewalk without wedges of grass."""
    zone = center.buffer(radius_m + 9.0, quad_segs=24)
    ring = shapely.union(shapely.intersection(road, zone), center.buffer(radius_m + 5.0, quad_segs=24))
    ring = shapely.difference(ring.buffer(1.2).buffer(-1.2), sidewalk)
    # Where cars cut from arm to arm the lane comes nearer to the middle than the planned circle.
    whole = shapely.difference(shapely.union(road, ring), center.buffer(radius_m - 0.5, quad_segs=24))
    return MultiPolygon(polygons_of(whole))


class _Canvas:
    """Draws shapely outlines into a label picture whose row 0 is the north edge."""

    def __init__(self, size_m: tuple[float, float], resolution_m: float) -> None:
        self.resolution_m = resolution_m
        cols, rows = (round(side / resolution_m) for side in size_m)
        self.image = Image.new("L", (cols, rows), GRASS)
        self.draw = ImageDraw.Draw(self.image)

    def _pixels(self, shape_m: NDArray[np.float64]) -> list[tuple[float, float]]:
        points = np.asarray(shape_m)[:, :2] / self.resolution_m
        return [(float(x) - 0.5, self.image.height - float(y) - 0.5) for x, y in points]

    def fill(self, geometry: BaseGeometry, label: int, hole_label: int = GRASS) -> None:
        for part in polygons_of(geometry):
            self.draw.polygon(self._pixels(np.asarray(part.exterior.coords)), fill=label)
            for ring in part.interiors:
                self.draw.polygon(self._pixels(np.asarray(ring.coords)), fill=hole_label)

    def strip(self, shape_m: NDArray[np.float64], width_m: float, label: int) -> None:
        if len(shape_m) >= 2 and LineString(shape_m).length > 0:
            self.fill(_band(shape_m, width_m), label)


def _dashes(shape_m: NDArray[np.float64], dash_m: float, gap_m: float) -> Iterable[NDArray[np.float64]]:
    length = line_length(shape_m)
    for start in np.arange(1.0, length - dash_m, dash_m + gap_m):
        yield resample_line(shape_m, np.linspace(start, start + dash_m, 3))[0]


def _draw_surface(
    network: Network,
    edges: tuple[Edge, ...],
    sidewalk: BaseGeometry,
    road: MultiPolygon,
    lots: tuple[Lot, ...],
    resolution_m: float,
) -> NDArray[np.uint8]:
    canvas = _Canvas(network.size_m, resolution_m)
    for lot in lots:
        # Paved like a sidewalk.
        canvas.fill(rectangle(np.array(lot.position_m), lot.yaw_rad, *lot.size_m), SIDEWALK)
    canvas.fill(road, ASPHALT)
    canvas.fill(sidewalk, SIDEWALK)
    # Blocks enclosed by sidewalk and road alike were holes of both: what is left is drawn last, on top.
    for part in polygons_of(road):
        canvas.fill(part, ASPHALT)
        for ring in part.interiors:
            canvas.fill(shapely.intersection(Polygon(ring), sidewalk), SIDEWALK)
    for edge in edges:
        if edge.name not in network.ring_edges:
            _draw_edge(canvas, edge)
    for line, width in network.crossings:
        canvas.strip(line, width, CROSSING)
        count = max(int(line_length(line) / 1.0), 1)
        for station in (np.arange(count) + 0.5) * line_length(line) / count:
            canvas.strip(resample_line(line, np.array([station - 0.25, station + 0.25]))[0], width, STRIPE)
    return np.asarray(canvas.image, dtype=np.uint8).copy()


def _draw_edge(canvas: _Canvas, edge: Edge) -> None:
    driving = [lane for lane in edge.lanes if lane.kind == "driving"]
    for lane in driving[1:]:
        for dash in _dashes(offset_line(lane.shape_m, -lane.width_m / 2), 3.0, 5.0):
            canvas.strip(dash, 0.15, WHITE)
    canvas.strip(offset_line(driving[-1].shape_m, driving[-1].width_m / 2 - 0.15), 0.12, YELLOW)
    for lane in driving:
        end = line_length(lane.shape_m)
        stop, _ = resample_line(lane.shape_m, np.array([end - 1.0, end - 0.6]))
        canvas.strip(stop, lane.width_m - 0.3, WHITE)
    parking = edge.lane("parking")
    if parking is not None:
        canvas.strip(parking.shape_m, parking.width_m, PARKING)
        canvas.strip(offset_line(parking.shape_m, parking.width_m / 2), 0.12, WHITE)


def _kerb_grid(road: MultiPolygon, size_m: tuple[float, float], resolution: float) -> NDArray[np.float32]:
    canvas = _Canvas(size_m, resolution)
    canvas.fill(road, 1)
    off_road = (np.asarray(canvas.image)[::-1] != 1).astype(np.float32)
    blurred: NDArray[np.float32] = uniform_filter(off_road, 5)
    return blurred * np.float32(KERB_HEIGHT_M)
