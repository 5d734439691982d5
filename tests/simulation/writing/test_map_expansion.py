"""A town's map through the official `NuScenesMap`."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import shapely

from fusionperc.simulation.sensors.rig import RIG
from fusionperc.simulation.traffic.network import Network, build_network, line_length, resample_line
from fusionperc.simulation.world.town import RASTER_RESOLUTION_M, Town, build_town
from fusionperc.simulation.writing.map_expansion import LAYERS, map_expansion, write_maps
from fusionperc.simulation.writing.writer import DriveName, DriveWriter

mpl.use("Agg")
from nuscenes.map_expansion import map_api
from nuscenes.map_expansion.arcline_path_utils import discretize_lane, get_curvature_at_distance_along_lane
from nuscenes.map_expansion.map_api import NuScenesMap

LOCATION = "simulated-town-0000"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """The first town with lights and a roundabout."""
    pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")
    folder = tmp_path_factory.mktemp("sumo")
    networks = ((seed, build_network(seed, folder)) for seed in range(20))
    seed, network = next(found for found in networks if found[1].signalled and found[1].islands)
    return build_town(network, seed)


@pytest.fixture(scope="module")
def root(town: Town, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    writer = DriveWriter(folder, DriveName("test", "scene-0001", LOCATION, 0), (160, 90), RIG)
    write_maps(writer, town)
    return folder


@pytest.fixture(scope="module")
def official(root: Path) -> NuScenesMap:
    map_api.locations.append(LOCATION)
    try:
        yield NuScenesMap(str(root), LOCATION)
    finally:
        map_api.locations.remove(LOCATION)


def whole_mask(official: NuScenesMap, layers: list[str]) -> np.ndarray:
    """Masks (layers, rows, cols) of the whole town, row 0 in the south."""
    width, height = official.canvas_edge
    geometry = official.get_map_geom((width / 2, height / 2, height, width), 0, layers)
    size = (round(height / RASTER_RESOLUTION_M), round(width / RASTER_RESOLUTION_M))
    return official.explorer.map_geom_to_mask(geometry, (0, 0, height, width), size).astype(bool)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def points_along(line_m: np.ndarray, step_m: float = 5.0) -> np.ndarray:
    return resample_line(line_m, np.arange(1.0, line_length(line_m) - 1.0, step_m))[0]


def test_every_layer_is_there(official: NuScenesMap) -> None:
    assert official.version == "1.3"
    assert set(LAYERS) == set(official.layer_names)
    for layer in LAYERS:
        assert len(getattr(official, layer)) > 0, layer
        tokens = [record["token"] for record in getattr(official, layer)]
        assert len(set(tokens)) == len(tokens), layer


def test_polygons_are_valid(official: NuScenesMap) -> None:
    for record in official.polygon:
        outline = official.extract_polygon(record["token"])
        assert outline.is_valid and outline.area > 0.01


def test_masks_are_the_towns_own(official: NuScenesMap, town: Town) -> None:
    drivable, walkway, carparks = whole_mask(official, ["drivable_area", "walkway", "carpark_area"])
    assert overlap(drivable, town.raster("drivable")[::-1]) > 0.97
    # Car parks off the road are paved like sidewalks.
    assert overlap(walkway, town.raster("sidewalk")[::-1] & ~(carparks & ~drivable)) > 0.95


def test_streets_and_junctions_cover_the_road(official: NuScenesMap) -> None:
    drivable, segments, lanes = whole_mask(official, ["drivable_area", "road_segment", "lane"])
    assert (drivable & segments).sum() / drivable.sum() > 0.95
    assert (drivable & segments).sum() / segments.sum() > 0.95
    assert (lanes & drivable).sum() / lanes.sum() > 0.99


def test_the_devkits_own_patch_mask_and_pictures(official: NuScenesMap) -> None:
    # It knows the sizes of the four cities only, and asks for them whether it needs them or not.
    official.map_name = "boston-seaport"
    try:
        layers = ["drivable_area", "lane", "ped_crossing", "lane_divider"]
        mask = official.get_map_mask((200.0, 200.0, 100.0, 80.0), 30.0, layers, (200, 160))
        assert mask.shape == (4, 200, 160) and mask[0].any()
        figure, _ = official.render_map_mask((200.0, 200.0, 100.0, 80.0), 0.0, layers, (100, 80), figsize=(4, 4))
    finally:
        official.map_name = LOCATION
    mpl.pyplot.close(figure)
    figure, axes = official.render_centerlines(figsize=2)
    assert len(axes.lines) == len(official.lane) + len(official.lane_connector)
    mpl.pyplot.close(figure)


def test_lane_centres_lie_on_lane_block_segment_and_drivable_area(official: NuScenesMap, town: Town) -> None:
    for edge in town.edges[::7]:
        for lane in edge.lanes:
            if lane.kind != "driving":
                continue
            for x, y in points_along(lane.shape_m, 15.0):
                found = official.layers_on_point(x, y)
                for layer in ("lane", "road_block", "road_segment", "drivable_area"):
                    assert found[layer], (edge.name, layer, x, y)
                assert not found["walkway"]


def test_centre_lines_are_the_lanes_own(official: NuScenesMap, town: Town) -> None:
    lanes = shapely.MultiLineString([lane.shape_m for e in town.edges for lane in e.lanes if lane.kind == "driving"])
    for record in official.lane:
        poses = np.array(discretize_lane(official.get_arcline_path(record["token"]), 0.5))
        assert shapely.distance(lanes, shapely.points(poses[:, :2])).max() < 0.1
        outline = official.extract_polygon(record["polygon_token"])
        assert shapely.distance(outline, shapely.points(poses[:, :2])).max() < 0.1
    turns = [official.get_arcline_path(record["token"]) for record in official.lane_connector]
    curvature = [max(get_curvature_at_distance_along_lane(s, path) for s in np.arange(0.5, 8.0, 0.5)) for path in turns]
    assert 1 / 25 < np.quantile(curvature, 0.75) < 1 / 3


def test_lanes_connect_as_they_touch(official: NuScenesMap, town: Town) -> None:
    known = {record["token"] for record in (*official.lane, *official.lane_connector)}
    assert set(official.connectivity) == set(official.arcline_path_3) == known
    joints = 0
    for token in known:
        end = official.get_arcline_path(token)[-1]["end_pose"]
        for following in official.get_outgoing_lane_ids(token):
            assert token in official.get_incoming_lane_ids(following)
            start = official.get_arcline_path(following)[0]["start_pose"]
            assert np.hypot(end[0] - start[0], end[1] - start[1]) < 0.1
            assert np.cos(end[2] - start[2]) > 0.8
            joints += 1
    assert joints == 2 * sum(len(links) for links in town.network.links.values())
    left = [record for record in official.lane if not official.get_outgoing_lane_ids(record["token"])]
    assert len(left) < 0.1 * len(official.lane)


def test_the_next_road_is_across_the_border(official: NuScenesMap) -> None:
    found = 0
    for record in official.lane:
        path = official.get_arcline_path(record["token"])
        x, y, _ = path[0]["end_pose"]
        roads = official.get_next_roads(x, y)
        junctions = [official.get("road_segment", token) for token in roads["road_segment"]]
        found += any(junction["is_intersection"] for junction in junctions)
    assert found > 0.9 * len(official.lane)


def test_crossings_walkways_and_parking(official: NuScenesMap, town: Town) -> None:
    for line, _ in town.network.crossings:
        middle = resample_line(line, np.array([line_length(line) / 2]))[0][0]
        token = official.record_on_point(*middle, "ped_crossing")
        segment = official.get("road_segment", official.get("ped_crossing", token)["road_segment_token"])
        assert segment["is_intersection"]
    strips = 0
    for edge in town.edges[::5]:
        sidewalk, strip = edge.lane("sidewalk"), edge.lane("parking")
        for x, y in points_along(sidewalk.shape_m, 20.0) if sidewalk else ():
            assert official.record_on_point(x, y, "walkway")
        for x, y in points_along(strip.shape_m, 20.0) if strip else ():
            record = official.get("carpark_area", official.record_on_point(x, y, "carpark_area"))
            strips += 1
            assert official.get("road_block", record["road_block_token"])
    assert strips > 0
    assert town.lots
    for lot in town.lots:
        record = official.get("carpark_area", official.record_on_point(*lot.position_m, "carpark_area"))
        assert np.sin(record["orientation"] - lot.bays()[1]) == pytest.approx(0, abs=1e-9)


def test_vehicles_stop_where_the_network_says(official: NuScenesMap, town: Town) -> None:
    network: Network = town.network
    kinds = {record["stop_line_type"] for record in official.stop_line}
    assert kinds == {"TRAFFIC_LIGHT", "YIELD", "PED_CROSSING"}
    lit = [record for record in official.stop_line if record["stop_line_type"] == "TRAFFIC_LIGHT"]
    assert len(lit) == len(network.signalled)
    for edge in town.edges:
        lane = edge.lanes[-1]
        place = resample_line(lane.shape_m, np.array([line_length(lane.shape_m) - 1.5]))[0][0]
        token = official.record_on_point(*place, "stop_line")
        if edge.name in network.signalled:
            record = official.get("stop_line", token)
            assert record["stop_line_type"] == "TRAFFIC_LIGHT"
            block = official.record_on_point(*place, "road_block")
            assert record["road_block_token"] == block
            for light in record["cue"]:
                assert light["from_road_block_token"] == block
                lamp, ahead = (official.get("node", key) for key in light["node_tokens"])
                facing = np.array([ahead["x"] - lamp["x"], ahead["y"] - lamp["y"]])
                along = lane.shape_m[-1] - lane.shape_m[-2]
                assert facing @ along < -0.7 * np.linalg.norm(along), "a light faces those who come"
        elif all(not link.gives_way for link in network.links[edge.name]):
            assert not token or official.get("stop_line", token)["stop_line_type"] == "PED_CROSSING"


def test_dividers_separate_what_they_should(official: NuScenesMap, town: Town) -> None:
    two_way = [record for record in official.road_segment if not record["is_intersection"]]
    assert len(official.road_divider) == len(two_way) - len(town.network.ring_edges)
    for record in official.road_divider:
        line = official.extract_line(record["line_token"])
        segment = official.get("road_segment", record["road_segment_token"])
        assert official.extract_polygon(segment["polygon_token"]).buffer(0.1).contains(line)
    for record in official.lane:
        sides = {side: record[f"{side}_lane_divider_segments"] for side in ("left", "right")}
        assert sides["left"], "every lane has a marking to its left"
        assert {segment["segment_type"] for segment in sides["left"]} <= {
            "SINGLE_SOLID_YELLOW", "DOUBLE_DASHED_WHITE", "NIL",
        }  # fmt: skip


def test_the_same_town_gives_the_same_file(town: Town, root: Path, tmp_path: Path) -> None:
    written = (root / "maps" / "expansion" / f"{LOCATION}.json").read_bytes()
    again = map_expansion(build_town(build_network(town.seed, tmp_path), town.seed), LOCATION)
    assert json.dumps(again).encode() == written
    assert map_expansion(town, "elsewhere")["lane"][0]["token"] != again["lane"][0]["token"]
