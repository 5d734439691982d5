"""A town's map in the layout of nuScenes' map expansion 1.3, which the devkit's `NuScenesMap` reads.

Metres, in the frame of the drives' ego poses and of the base map. What nuScenes calls a road block is one direction of
a street; a road segment is a street with both, or a junction; a carpark area is a lot or a strip at the kerb.

Source: nuscenes-devkit 1.2.0, `map_expansion/map_api.py` and its tutorial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, Point, Polygon

from fusionperc.simulation.traffic.network import Edge, Lane, Link, line_length, offset_line, resample_line
from fusionperc.simulation.world.plots import Pole, rectangle
from fusionperc.simulation.world.town import Town, polygons_of
from fusionperc.simulation.writing.arclines import arcline_paths
from fusionperc.simulation.writing.writer import DriveWriter, base_map_file, json_bytes, png_bytes, token

Record = dict[str, Any]
Array = NDArray[np.float64]
VERSION = "1.3"
LAYERS = (
    "polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane", "lane_connector", "ped_crossing",
    "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider", "traffic_light",
)  # fmt: skip
_DECIMALS = 3
#: Outlines lose corners nearer to their sides than this; junctions gain the ends of lanes that are this near.
_SIMPLIFY_M, _SNAP_M = 0.02, 0.25
#: Scraps of junctions behind a kerb's corner are none.
_LEAST_JUNCTION_M2 = 5.0
#: Two directions are one street where their inner borders come this near, end to end.
_SAME_STREET_M = 4.0
#: Where, before the end of a lane, its vehicles stop: from the line on backwards.
_STOP_AREA_M = (2.6, 0.6)
#: How far a crossing or a traffic light may be from the lane's end that it belongs to.
_CROSSING_REACH_M, _SIGNAL_REACH_M = 4.0, 12.0


def write_maps(writer: DriveWriter, town: Town) -> str:
    """Writes the town's base map (255 where one may drive, 0.1 m a pixel, row 0 in the north) and its map expansion,
    where no other drive has yet.

    Returns:
        The token of the town's row in the map table.

    Raises:
        OSError: the folder cannot be written.
    """
    location = writer.name.location
    key = token(writer.name.set_name, "map", location)
    writer.write_shared(base_map_file(key), lambda: png_bytes(town.raster("drivable")))
    writer.write_shared(f"maps/expansion/{location}.json", lambda: json_bytes(map_expansion(town, location)))
    return key


def map_expansion(town: Town, location: str) -> dict[str, Any]:
    """The contents of `maps/expansion/<location>.json`; the same town and location give the same.

    Args:
        town: the town to describe.
        location: its name in the log table; part of every token.
    """
    return _Expansion(town, location).build()


@dataclass(frozen=True, eq=False)
class _Block:
    """One direction of a street: its borders (N, 2) in driving direction, with and without the strip for parking."""

    edge: Edge
    driving: tuple[Lane, ...]
    left_m: Array
    right_m: Array
    kerb_m: Array


class _Expansion:
    """Collects the records of one town's layers."""

    def __init__(self, town: Town, location: str) -> None:
        self.town, self.location = town, location
        self.layers: dict[str, list[Record]] = {layer: [] for layer in LAYERS}
        self.arclines: dict[str, list[Record]] = {}
        self.connectivity: dict[str, dict[str, list[str]]] = {}
        self._nodes: dict[tuple[float, float], str] = {}
        self.blocks = {edge.name: _block(edge) for edge in town.edges}

    def build(self) -> dict[str, Any]:
        self._areas()
        for street in _streets(list(self.blocks.values())):
            self._street(street)
        self._lots()
        junctions = self._junctions()
        for name, block in self.blocks.items():
            for link in self.town.network.links[name]:
                self._connector(block, link)
        self._crossings(junctions)
        for block in self.blocks.values():
            self._stop_line(block)
        return {
            **self.layers,
            "arcline_path_3": self.arclines,
            "connectivity": self.connectivity,
            "canvas_edge": list(self.town.bounds_m[2:]),
            "version": VERSION,
        }

    # Tokens and geometry.

    def _token(self, layer: str, *parts: object) -> str:
        return token("map", self.location, layer, *parts)

    def _add(self, layer: str, record: Record) -> str:
        """Appends a record under a token of its own, which it returns."""
        key = self._token(layer, len(self.layers[layer]))
        self.layers[layer].append({"token": key, **record})
        return key

    def _node(self, point: Array) -> str:
        place = (round(float(point[0]), _DECIMALS), round(float(point[1]), _DECIMALS))
        if place not in self._nodes:
            self._nodes[place] = self._add("node", {"x": place[0], "y": place[1]})
        return self._nodes[place]

    def _line(self, points: Array) -> str:
        return self._add("line", {"node_tokens": [self._node(point) for point in points]})

    def _polygon(self, exterior: Array, holes: tuple[Array, ...] = ()) -> str:
        rings = [[self._node(point) for point in ring] for ring in (_untangled(exterior.round(_DECIMALS)), *holes)]
        return self._add(
            "polygon", {"exterior_node_tokens": rings[0], "holes": [{"node_tokens": ring} for ring in rings[1:]]}
        )

    def _shape(self, polygon: Polygon) -> str:
        """A shapely polygon, simplified."""
        slim = polygon.simplify(_SIMPLIFY_M)
        holes = tuple(np.asarray(ring.coords)[:-1] for ring in slim.interiors)
        return self._polygon(np.asarray(slim.exterior.coords)[:-1], holes)

    def _band(self, left_m: Array, right_m: Array) -> dict[str, str]:
        """The area between two borders, and its ends."""
        return {
            "polygon_token": self._polygon(np.concatenate([right_m, left_m[::-1]])),
            "from_edge_line_token": self._line(np.stack([left_m[0], right_m[0]])),
            "to_edge_line_token": self._line(np.stack([left_m[-1], right_m[-1]])),
        }

    # Layers.

    def _areas(self) -> None:
        """Drivable area and walkways."""
        polygons = [self._shape(part) for part in polygons_of(self.town.road)]
        self._add("drivable_area", {"polygon_tokens": polygons})
        for part in polygons_of(self.town.sidewalk):
            self._add("walkway", {"polygon_token": self._shape(part)})

    def _street(self, street: list[_Block]) -> None:
        """A road segment of one or two directions with all that lies on it."""
        opposite = street[1].kerb_m if len(street) == 2 else street[0].left_m[::-1]
        polygon = self._polygon(np.concatenate([street[0].kerb_m, opposite]))
        segment = self._add("road_segment", self._segment(polygon, is_intersection=False))
        for block in street:
            self._road_block(block, segment)
        if len(street) == 2:
            self._add("road_divider", {"line_token": self._line(street[0].left_m), "road_segment_token": segment})

    def _segment(self, polygon_token: str, *, is_intersection: bool) -> Record:
        area = self.layers["drivable_area"][0]["token"]
        return {"polygon_token": polygon_token, "is_intersection": is_intersection, "drivable_area_token": area}

    def _road_block(self, block: _Block, segment: str) -> None:
        name = block.edge.name
        key = self._token("road_block", name)
        self.layers["road_block"].append(
            {"token": key, **self._band(block.left_m, block.right_m), "road_segment_token": segment}
        )
        # The driving lanes are an edge's last ones.
        first = len(block.edge.lanes) - len(block.driving)
        dividers = [self._divider(lane) for lane in block.driving[1:]]
        right_m = block.right_m
        for number, lane in enumerate(block.driving):
            left_m = offset_line(lane.shape_m, lane.width_m / 2)
            outer = number == len(block.driving) - 1
            self._add_lane(
                "lane",
                self._lane_token(name, first + number),
                lane.shape_m,
                self._band(left_m, right_m),
                left=self._marks(left_m, "SINGLE_SOLID_YELLOW") if outer else dividers[number],
                right=dividers[number - 1] if number else [],
            )
            right_m = left_m
        strip = block.edge.lane("parking")
        if strip is not None:
            along = strip.shape_m[-1] - strip.shape_m[0]
            outline = np.concatenate([block.kerb_m, block.right_m[::-1]])
            self._carpark(outline, float(np.arctan2(along[1], along[0])), name)

    def _carpark(self, outline_m: Array, yaw_rad: float, edge: str) -> None:
        block = self._token("road_block", edge)
        record = {"polygon_token": self._polygon(outline_m), "orientation": yaw_rad, "road_block_token": block}
        self._add("carpark_area", record)

    def _lots(self) -> None:
        """Car parks beside the road, each with the road block that is nearest to its middle."""
        borders = {name: LineString(block.kerb_m) for name, block in self.blocks.items()}
        for lot in self.town.lots:
            outline = rectangle(np.array(lot.position_m), lot.yaw_rad, *lot.size_m)
            nearest = min(borders, key=lambda name: borders[name].distance(outline.centroid))
            # Its bays are across the aisle.
            self._carpark(np.asarray(outline.exterior.coords)[:-1], lot.yaw_rad + np.pi / 2, nearest)

    def _lane_token(self, edge: str, lane: int) -> str:
        return self._token("lane", edge, lane)

    def _divider(self, lane: Lane) -> list[Record]:
        """The broken line between a lane and the one to its right."""
        border = offset_line(lane.shape_m, -lane.width_m / 2)
        # nuScenes' word for it, although it paints one row of dashes, as we do.
        marks = self._marks(border, "DOUBLE_DASHED_WHITE")
        self._add("lane_divider", {"line_token": self._line(border), "lane_divider_segments": marks})
        return marks

    def _marks(self, border_m: Array, kind: str) -> list[Record]:
        """The kind of marking from each node of a border to the next; none from the last on."""
        kinds = [kind] * (len(border_m) - 1) + ["NIL"]
        return [
            {"node_token": self._node(point), "segment_type": word} for point, word in zip(border_m, kinds, strict=True)
        ]

    def _add_lane(
        self,
        layer: str,
        key: str,
        center_m: Array,
        band: dict[str, str],
        left: list[Record],
        right: list[Record],
    ) -> None:
        record = {"token": key, **band, "lane_type": "CAR"}
        self.layers[layer].append({**record, "left_lane_divider_segments": left, "right_lane_divider_segments": right})
        self.arclines[key] = arcline_paths(center_m)
        self.connectivity[key] = {"incoming": [], "outgoing": []}

    def _connector(self, block: _Block, link: Link) -> None:
        """A way over a junction, and that it leads from one lane to another."""
        lane = block.edge.lanes[link.lane]
        ends = [self._lane_token(block.edge.name, link.lane), self._lane_token(link.next_edge, link.next_lane)]
        start: Array = self.blocks[link.next_edge].edge.lanes[link.next_lane].shape_m[0]
        path = _without_repeats(np.concatenate([lane.shape_m[-1:], link.path_m, start[None]]))
        key = self._token("lane_connector", *ends)
        left_m, right_m = (offset_line(path, side * lane.width_m / 2) for side in (1, -1))
        self._add_lane("lane_connector", key, path, self._band(left_m, right_m), [], [])
        self.connectivity[key] = {"incoming": [ends[0]], "outgoing": [ends[1]]}
        self.connectivity[ends[0]]["outgoing"].append(key)
        self.connectivity[ends[1]]["incoming"].append(key)

    def _junctions(self) -> list[tuple[str, Polygon]]:
        """Road segments of the junctions, with their outlines; ends of lanes at their rims are corners of theirs."""
        ends = [border[k] for block in self.blocks.values() for border in _borders(block) for k in (0, -1)]
        junctions = []
        for outline in self.town.network.junctions:
            open_area = shapely.difference(Polygon(outline).buffer(0), self.town.sidewalk)
            for part in polygons_of(open_area):
                if part.area < _LEAST_JUNCTION_M2:
                    continue
                ring = np.asarray(part.simplify(_SIMPLIFY_M).exterior.coords)[:-1]
                polygon = self._polygon(_with_corners(ring, ends))
                junctions.append((self._add("road_segment", self._segment(polygon, is_intersection=True)), part))
        return junctions

    def _crossings(self, junctions: list[tuple[str, Polygon]]) -> None:
        """Crossings, each on the junction that is nearest to its middle."""
        for line, width in self.town.network.crossings:
            area = LineString(line).buffer(width / 2, cap_style="flat")
            segment, _ = min(junctions, key=lambda junction: junction[1].distance(area.centroid))
            self._add("ped_crossing", {"polygon_token": self._shape(area), "road_segment_token": segment})

    def _stop_line(self, block: _Block) -> None:
        """Where the vehicles of a block wait, if something makes them."""
        name = block.edge.name
        end = np.mean([lane.shape_m[-1] for lane in block.driving], axis=0)
        crossings = [
            record["token"]
            for record, (line, _) in zip(self.layers["ped_crossing"], self.town.network.crossings, strict=True)
            if LineString(line).distance(Point(end)) < _CROSSING_REACH_M
        ]
        if name in self.town.network.signalled:
            kind = "TRAFFIC_LIGHT"
        elif all(link.gives_way for link in self.town.network.links[name]):
            kind = "YIELD"
        elif crossings:
            kind = "PED_CROSSING"
        else:
            return
        lights = self._traffic_light(block) if kind == "TRAFFIC_LIGHT" else []
        left_m, right_m = (_end_of(border, *_STOP_AREA_M) for border in (block.left_m, block.right_m))
        self._add(
            "stop_line",
            {
                "polygon_token": self._polygon(np.concatenate([right_m, left_m[::-1]])),
                "stop_line_type": kind,
                "ped_crossing_tokens": crossings if kind == "PED_CROSSING" else [],
                "traffic_light_tokens": lights,
                "road_block_token": self._token("road_block", name),
            },
        )

    def _traffic_light(self, block: _Block) -> list[str]:
        """The light at the end of a block, facing those who come along it; none where its pole had no room."""
        end = block.edge.lanes[0].shape_m[-1]
        poles = [pole for pole in self.town.poles if pole.kind == "signal" and _distance(pole, end) < _SIGNAL_REACH_M]
        if not poles:
            return []
        pole = min(poles, key=lambda candidate: _distance(candidate, end))
        left = np.array([-np.sin(pole.yaw_rad), np.cos(pole.yaw_rad)])
        place = np.array(pole.position_m) + pole.reach_m * left
        step = block.driving[0].shape_m[-1] - block.driving[0].shape_m[-2]
        facing = float(np.arctan2(-step[1], -step[0]))
        arrow = self._line(np.stack([place, place + [np.cos(facing), np.sin(facing)]]))
        foot_x, foot_y = np.array(pole.position_m)[:, None]
        top = float(self.town.height_at(foot_x, foot_y)[0]) + pole.height_m
        ways = [self._token("road_block", name) for name in self.town.network.successors(block.edge.name)]
        bulbs = zip(("RED", "YELLOW", "GREEN"), (0.6, 0.3, 0.0), strict=True)
        still = {"rx": 0.0, "ry": 0.0, "rz": 0.0}
        light = {
            "line_token": arrow,
            "traffic_light_type": "VERTICAL",
            "from_road_block_token": self._token("road_block", block.edge.name),
            "items": [
                {
                    "color": colour,
                    "shape": "CIRCLE",
                    "rel_pos": {"tx": 0.0, "ty": 0.0, "tz": height, **still},
                    "to_road_block_tokens": ways,
                }
                for colour, height in bulbs
            ],
            "pose": {"tx": float(place[0]), "ty": float(place[1]), "tz": top - 0.75, **still, "rz": facing},
        }
        return [self._add("traffic_light", light)]


def _block(edge: Edge) -> _Block:
    driving = tuple(lane for lane in edge.lanes if lane.kind == "driving")
    right_m = offset_line(driving[0].shape_m, -driving[0].width_m / 2)
    left_m = offset_line(driving[-1].shape_m, driving[-1].width_m / 2)
    strip = edge.lane("parking")
    kerb_m = right_m if strip is None else offset_line(strip.shape_m, -strip.width_m / 2)
    return _Block(edge, driving, left_m, right_m, kerb_m)


def _borders(block: _Block) -> list[Array]:
    """All lines at whose ends something begins or stops: of the block, its lanes and its strip for parking."""
    return [block.kerb_m, block.right_m, *(offset_line(lane.shape_m, lane.width_m / 2) for lane in block.driving)]


def _streets(blocks: list[_Block]) -> list[list[_Block]]:
    """Each street's one or two directions: those of two run along the same inner border, one against the other."""
    streets = []
    left_over = list(blocks)
    while left_over:
        block = left_over.pop(0)
        partner = next((other for other in left_over if _is_opposite(block, other)), None)
        if partner is not None:
            left_over.remove(partner)
        streets.append([block] if partner is None else [block, partner])
    return streets


def _is_opposite(a: _Block, b: _Block) -> bool:
    backwards = b.left_m[::-1]
    gaps = [a.left_m[0] - backwards[0], a.left_m[-1] - backwards[-1]]
    if max(float(np.linalg.norm(gap)) for gap in gaps) > _SAME_STREET_M:
        return False
    return bool(LineString(a.left_m).hausdorff_distance(LineString(backwards)) < _SAME_STREET_M)


def _without_repeats(line_m: Array) -> Array:
    """A line (N, 2) without points that are less than 5 cm after the one before; its end stays."""
    kept = [line_m[0]]
    for point in line_m[1:]:
        if np.linalg.norm(point - kept[-1]) > 0.05:
            kept.append(point)
    kept[-1] = line_m[-1]
    return np.array(kept)


def _untangled(ring_m: Array) -> Array:
    """An outline (N, 2); one that crosses itself, as in the tightest bends, loses its loops."""
    outline = Polygon(ring_m)
    if outline.is_valid:
        return ring_m
    largest = max(shapely.get_parts(shapely.get_parts(shapely.make_valid(outline))), key=lambda part: part.area)
    return np.asarray(largest.exterior.coords)[:-1]


def _with_corners(ring: Array, points: list[Array]) -> Array:
    """A closed outline (N, 2) with the points near it inserted where they are nearest."""
    rim = LineString(np.concatenate([ring, ring[:1]]))
    stations = [rim.project(Point(corner)) for corner in ring]
    near = [point for point in points if rim.distance(Point(point)) < _SNAP_M]
    order = np.argsort([*stations, *(rim.project(Point(point)) for point in near)], kind="stable")
    joined: Array = np.concatenate([ring, np.array(near).reshape(-1, 2)])[order]
    return joined


def _end_of(line_m: Array, first_m: float, last_m: float) -> Array:
    """The part of a line between two distances before its end."""
    length = line_length(line_m)
    return resample_line(line_m, np.maximum(length - np.array([first_m, last_m]), 0.0))[0]


def _distance(pole: Pole, point: Array) -> float:
    return float(np.hypot(*(np.array(pole.position_m) - point)))
