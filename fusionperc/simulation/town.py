"""The static layout of a simulated town: road surface and markings as a raster, buildings, trees and poles."""

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

from fusionperc.simulation.network import Edge, Network, line_length, offset_line, resample_line
from fusionperc.simulation.terrain import Terrain, draw_terrain

GRASS, SIDEWALK, ASPHALT, PARKING, CROSSING, WHITE, YELLOW, STRIPE = range(8)
#: Everything that is not road lies this much higher.
KERB_HEIGHT_M = 0.12
#: Free ground between sidewalk and buildings, at least.
MIN_VERGE_M = 4.5
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
class Building:
    """An upright cuboid on the ground; `style` picks the facade's window pattern."""

    center_m: tuple[float, float]
    yaw_rad: float
    size_lwh_m: tuple[float, float, float]
    colour: tuple[float, float, float]
    style: int


@dataclass(frozen=True)
class Tree:
    """Trunk and crown; `height_m` is the crown's top."""

    position_m: tuple[float, float]
    trunk_radius_m: float
    height_m: float
    crown_radius_m: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Pole:
    """A street lamp (with an arm towards `yaw_rad`), a traffic light or a sign."""

    kind: Literal["lamp", "signal", "sign"]
    position_m: tuple[float, float]
    yaw_rad: float
    height_m: float


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
        road: outline of all asphalt.
        edges: the streets' lanes.
        buildings, trees, poles: what stands beside the road.
    """

    seed: int
    bounds_m: tuple[float, float, float, float]
    surface: NDArray[np.uint8]
    surface_resolution_m: float
    kerb: NDArray[np.float32]
    kerb_resolution_m: float
    terrain: Terrain
    road: MultiPolygon
    edges: tuple[Edge, ...]
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    poles: tuple[Pole, ...]

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
    surface = _draw_surface(network, edges, sidewalk, road, _SURFACE_RESOLUTION_M)
    kerb = _kerb_grid(road, (width, depth), _KERB_RESOLUTION_M)
    buildings = _place_buildings(edges, shapely.union(sidewalk, road), (width, depth), rng)
    trees, poles = _place_plants(network, edges, sidewalk, road, buildings, rng)
    return Town(
        seed=seed,
        bounds_m=(0.0, 0.0, width, depth),
        surface=surface,
        surface_resolution_m=_SURFACE_RESOLUTION_M,
        kerb=kerb,
        kerb_resolution_m=_KERB_RESOLUTION_M,
        terrain=draw_terrain(np.random.default_rng((seed, 29))),
        road=road,
        edges=edges,
        buildings=buildings,
        trees=trees,
        poles=poles,
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
    return shapely.difference(sidewalk, road), road


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
    network: Network, edges: tuple[Edge, ...], sidewalk: BaseGeometry, road: MultiPolygon, resolution_m: float
) -> NDArray[np.uint8]:
    canvas = _Canvas(network.size_m, resolution_m)
    canvas.fill(road, ASPHALT)
    canvas.fill(sidewalk, SIDEWALK)
    # Blocks enclosed by sidewalk and road alike were holes of both: what is left is drawn last, on top.
    for part in polygons_of(road):
        canvas.fill(part, ASPHALT)
        for ring in part.interiors:
            canvas.fill(shapely.intersection(Polygon(ring), sidewalk), SIDEWALK)
    for edge in edges:
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
    canvas.strip(offset_line(driving[-1].shape_m, driving[-1].width_m / 2 - 0.12), 0.12, YELLOW)
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


def _rectangle(center: NDArray[np.float64], yaw_rad: float, length_m: float, width_m: float) -> Polygon:
    along = np.array([np.cos(yaw_rad), np.sin(yaw_rad)])
    left = np.array([-along[1], along[0]])
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return Polygon([center + along * sx * length_m / 2 + left * sy * width_m / 2 for sx, sy in signs])


_FACADES = ((0.55, 0.50, 0.44), (0.50, 0.28, 0.22), (0.62, 0.60, 0.56), (0.42, 0.44, 0.48), (0.66, 0.56, 0.40))


def _place_buildings(
    edges: tuple[Edge, ...], streets: BaseGeometry, size_m: tuple[float, float], rng: np.random.Generator
) -> tuple[Building, ...]:
    shapely.prepare(streets)
    placed: list[Polygon] = []
    buildings: list[Building] = []
    for edge in edges:
        path = edge.lanes[0]
        length = line_length(path.shape_m)
        station = float(rng.uniform(0, 6))
        while station < length:
            front, deep = float(rng.uniform(9, 24)), float(rng.uniform(9, 15))
            verge = MIN_VERGE_M + float(rng.uniform(0, 2.5))
            point, heading = resample_line(path.shape_m, np.array([min(station + front / 2, length)]))
            yaw = float(heading[0])
            right = np.array([np.sin(yaw), -np.cos(yaw)])
            center = point[0] + right * (path.width_m / 2 + verge + deep / 2)
            outline = _rectangle(center, yaw, front, deep)
            station += front + float(rng.uniform(0.5, 7))
            near = outline.buffer(MIN_VERGE_M - 0.5)
            if streets.intersects(near) or any(outline.intersects(other) for other in placed):
                continue
            if not (0 < center[0] < size_m[0] and 0 < center[1] < size_m[1]):
                continue
            placed.append(outline)
            colour = np.clip(np.array(_FACADES[rng.integers(len(_FACADES))]) * rng.uniform(0.8, 1.15), 0, 1)
            size = (front, deep, float(rng.choice([5.5, 8.5, 11.5, 14.5, 20.0]) + rng.uniform(-0.5, 1.5)))
            buildings.append(
                Building((float(center[0]), float(center[1])), yaw, size, _rgb(colour), int(rng.integers(3)))
            )
    return tuple(buildings)


def _rgb(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _place_plants(
    network: Network,
    edges: tuple[Edge, ...],
    sidewalk: BaseGeometry,
    road: MultiPolygon,
    buildings: tuple[Building, ...],
    rng: np.random.Generator,
) -> tuple[tuple[Tree, ...], tuple[Pole, ...]]:
    """Trees 1.4 m and poles 0.35 m behind the sidewalks, clear of sidewalks, road and walls."""
    walls = [_rectangle(np.array(b.center_m), b.yaw_rad, b.size_lwh_m[0], b.size_lwh_m[1]) for b in buildings]
    blocked = shapely.union_all([sidewalk, road, *walls])
    shapely.prepare(blocked)
    trees: list[Tree] = []
    poles: list[Pole] = []
    for edge in edges:
        path = edge.lanes[0]
        length = line_length(path.shape_m)
        for station in np.arange(float(rng.uniform(2, 9)), length, 11.0):
            spot, heading = _beside(path.shape_m, station, path.width_m / 2 + 1.4)
            if rng.random() < 0.6 and not blocked.intersects(shapely.Point(spot).buffer(0.7)):
                green = np.array([0.10, 0.22, 0.06]) * rng.uniform(0.7, 1.4)
                crown = float(rng.uniform(1.3, 2.4))
                height = 2.6 + 2 * crown + float(rng.uniform(0, 1.5))
                trees.append(
                    Tree((float(spot[0]), float(spot[1])), float(rng.uniform(0.12, 0.24)), height, crown, _rgb(green))
                )
        for station in np.arange(7.0, length, 29.0):
            spot, heading = _beside(path.shape_m, station, path.width_m / 2 + 0.35)
            if not blocked.intersects(shapely.Point(spot).buffer(0.2)):
                poles.append(Pole("lamp", (float(spot[0]), float(spot[1])), heading + np.pi / 2, 7.5))
        kind: Literal["signal", "sign"] = "signal" if edge.name in network.signalled else "sign"
        spot, heading = _beside(path.shape_m, length - 2.0, path.width_m / 2 + 0.35)
        if not blocked.intersects(shapely.Point(spot).buffer(0.2)):
            poles.append(Pole(kind, (float(spot[0]), float(spot[1])), heading, 3.6 if kind == "signal" else 2.6))
    return tuple(trees), tuple(poles)


def _beside(shape_m: NDArray[np.float64], station_m: float, right_m: float) -> tuple[NDArray[np.float64], float]:
    point, heading = resample_line(shape_m, np.array([station_m]))
    yaw = float(heading[0])
    return point[0] + right_m * np.array([np.sin(yaw), -np.cos(yaw)]), yaw
