"""Meshes fill their boxes; rays return the distances, normals, instances and looks that geometry predicts."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import open3d as o3d
import pytest
import shapely

pytest.importorskip("sumo", reason="the traffic simulator is not installed (extra `sim`)")

from fusionperc.simulation.traffic.drive import Actor, ground_m
from fusionperc.simulation.traffic.network import build_network
from fusionperc.simulation.world.furniture_models import furniture
from fusionperc.simulation.world.models import MODELS, PERSON_VARIANTS, filled_size_m, unit_mesh
from fusionperc.simulation.world.people_models import STANDING
from fusionperc.simulation.world.plant_models import crown, crown_half_height
from fusionperc.simulation.world.plots import BAY_M, Clutter, TreeForm, rectangle
from fusionperc.simulation.world.terrain import FLAT
from fusionperc.simulation.world.town import ASPHALT, GRASS, KERB_HEIGHT_M, WHITE, YELLOW, Town, build_town
from fusionperc.simulation.world.townscape import townscape
from fusionperc.simulation.world.triangles import STATIC
from fusionperc.simulation.world.world import NOTHING, World, actor_triangles


@pytest.fixture(scope="module")
def hilly(tmp_path_factory: pytest.TempPathFactory) -> Town:
    return build_town(build_network(4, tmp_path_factory.mktemp("town")), 4)


@pytest.fixture(scope="module")
def town(hilly: Town) -> Town:
    return replace(hilly, terrain=FLAT)


@pytest.fixture(scope="module")
def world(town: Town) -> World:
    return World(town)


@pytest.fixture
def spot(town: Town) -> np.ndarray:
    """A point in the middle of a driving lane, 25 m along it."""
    lane = town.edges[0].lanes[-1].shape_m
    return np.array([*lane[len(lane) // 2], 0.0])


def _actor(
    model: str, center: np.ndarray, size: tuple[float, float, float], yaw: float = 0.0, attribute: str = ""
) -> Actor:
    x, y, z = center.tolist()
    return Actor(7, "any", model, (x, y, z), yaw, size, (0.0, 0.0), attribute, (0.5, 0.2, 0.1), 0.0)


@pytest.mark.parametrize("model", sorted(set(MODELS) - {"pedestrian", "child", "worker"}))
def test_a_mesh_fills_its_box_but_for_a_margin(model: str) -> None:
    """Every body style stands on the box's floor and leaves little free at the other faces."""
    for variant in range(MODELS[model].num_variants):
        mesh = unit_mesh(model, variant)
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        assert low[2] == pytest.approx(-0.5, abs=1e-6)
        assert (low >= -0.5 - 1e-6).all() and (high <= 0.5 + 1e-6).all() and (high - low >= 0.85).all()
        assert mesh.triangles.min() >= 0 and mesh.triangles.max() < len(mesh.vertices)
        assert len(mesh.triangles) == len(mesh.own) == len(mesh.glow) == len(mesh.kind) <= 1200


def test_cars_are_narrower_than_their_mirrors_and_rounded_at_the_corners() -> None:
    """A box's corners are a tell: at bumper height the middle of a car's ends comes first, its corners well behind."""
    for model in ("car", "suv", "van"):
        for variant in range(MODELS[model].num_variants):
            vertices = unit_mesh(model, variant).vertices
            low = vertices[vertices[:, 2] < -0.1]
            assert 0.44 < np.abs(low[:, 1]).max() < 0.475
            for sign in (-1, 1):
                end, corner = (sign * low[near, 0] for near in (np.abs(low[:, 1]) < 0.3, np.abs(low[:, 1]) > 0.42))
                assert end.max() > corner.max() + 0.02


@pytest.mark.parametrize("model", ["pedestrian", "child", "worker"])
def test_people_stay_in_their_boxes_and_stride(model: str) -> None:
    lengths = np.zeros((MODELS[model].num_variants // PERSON_VARIANTS, PERSON_VARIANTS))
    for variant in range(MODELS[model].num_variants):
        vertices = unit_mesh(model, variant).vertices
        assert np.abs(vertices).max() <= 0.52
        assert vertices[:, 2].min() < -0.45 and 0.44 < vertices[:, 2].max() <= 0.5
        # Bodies and arms leave room at the sides, as in annotated boxes.
        assert 0.6 < np.ptp(vertices[:, 1]) < 1.0
        lengths[divmod(variant, PERSON_VARIANTS)] = np.ptp(vertices[:, 0])
    assert (lengths.max(1) > 0.85).all() and (lengths[:, STANDING] < 0.65).all()


def test_an_actor_lies_in_its_turned_box() -> None:
    actor = _actor("truck", np.array([100.0, 50.0, 1.5]), (7.0, 2.5, 3.0), yaw=0.7)
    offset = actor_triangles(actor, FLAT).vertices - np.array(actor.center_m)
    along = offset[:, 0] * np.cos(0.7) + offset[:, 1] * np.sin(0.7)
    across = -offset[:, 0] * np.sin(0.7) + offset[:, 1] * np.cos(0.7)
    np.testing.assert_allclose([along.min(), along.max()], [-3.5, 3.5], atol=0.06)
    np.testing.assert_allclose([across.min(), across.max()], [-1.25, 1.25], atol=1e-3)


def test_models_differ_in_silhouette() -> None:
    """The share of an upright grid of rays through the unit box that pass is a model's own."""
    passed = {}
    for model in ("car", "truck", "excavator", "bicycle", "motorcycle", "bus"):
        soup_actor = _actor(model, np.array([0.0, 0.0, 0.5]), (1.0, 1.0, 1.0))
        soup = actor_triangles(soup_actor, FLAT)
        y, z = np.meshgrid(np.linspace(-0.48, 0.48, 40), np.linspace(0.02, 0.98, 40))
        origins = np.stack([y.ravel(), np.full(y.size, -2.0), z.ravel()], axis=1)
        rays = np.concatenate([origins, np.tile([0.0, 1.0, 0.0], (y.size, 1))], axis=1).astype(np.float32)
        hit = soup.scene().cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy()
        passed[model] = float(np.isinf(hit).mean())
    assert passed["bicycle"] > 0.3 and passed["excavator"] > 0.2
    assert passed["bus"] < 0.15 < passed["car"] < 0.4
    assert len({round(share, 3) for share in passed.values()}) == len(passed)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="unicorn"):
        unit_mesh("unicorn", 0)


def test_the_ground_lies_where_trigonometry_says(world: World, spot: np.ndarray) -> None:
    world.set_actors([])
    down = np.radians([90.0, 60.0, 45.0])
    directions = np.stack([np.cos(down), 0 * down, -np.sin(down)], axis=1)
    hits = world.cast(spot + np.array([0, 0, 1.5]), directions)
    np.testing.assert_allclose(hits.distance_m, 1.5 / np.sin(down), rtol=1e-5)
    np.testing.assert_allclose(hits.normal, np.tile([0, 0, 1], (3, 1)), atol=1e-6)
    assert (hits.instance == STATIC).all()


def test_a_barrier_stands_where_it_was_put(world: World, spot: np.ndarray) -> None:
    """From 2 m beside it, the base's face is 2 m less half its thickness (and the box's slack of 4 cm in 58 cm) away;
    its long side is its width."""
    center = spot + np.array([0, 0, 0.5])
    world.set_actors([replace(_actor("barrier", center, (0.58, 2.5, 1.0)), instance=6)])
    low = np.array([center[0] - 2.0, center[1], 0.06])
    distance, instance = world.cast_distance(low, np.array([[1.0, 0.0, 0.0]]))
    assert distance[0] == pytest.approx(1.75, abs=1e-3) and instance[0] == 6
    for aside, is_met in ((1.2, True), (1.3, False)):
        _, who = world.cast_distance(low + np.array([0, aside, 0]), np.array([[1.0, 0.0, 0.0]]))
        assert (who[0] == 6) == is_met
    world.set_actors([])
    distance, instance = world.cast_distance(low, np.array([[1.0, 0.0, 0.0]]))
    assert instance[0] != 6


def test_cast_and_cast_distance_agree(world: World, spot: np.ndarray) -> None:
    world.set_actors([_actor("car", spot + np.array([9.0, 1.0, 0.8]), (4.6, 1.9, 1.6), yaw=0.4)])
    directions = np.random.default_rng(0).normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hits = world.cast(spot + np.array([0, 0, 1.8]), directions)
    distance, instance = world.cast_distance(spot + np.array([0, 0, 1.8]), directions)
    assert np.array_equal(hits.distance_m, distance) and np.array_equal(hits.instance, instance)
    missed = instance == NOTHING
    assert np.isinf(distance[missed]).all() and missed.any() and not hits.albedo[missed].any()
    met = ~missed
    np.testing.assert_allclose(np.linalg.norm(hits.normal[met], axis=1), 1, atol=1e-4)
    assert (np.einsum("ij,ij->i", hits.normal[met], directions[met]) <= 1e-5).all()
    for values in (hits.albedo, hits.reflectivity, hits.gloss):
        assert values.min() >= 0 and values.max() <= 1.01
    assert (instance == 7).any()


def test_one_origin_and_many_are_the_same(world: World, spot: np.ndarray) -> None:
    directions = np.tile([0.6, 0.0, -0.8], (3, 1))
    one = world.cast(spot + np.array([0, 0, 2.0]), directions)
    many = world.cast(np.tile(spot + np.array([0, 0, 2.0]), (3, 1)), directions)
    for field in fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(many, field.name))


def test_shadow_rays(world: World, spot: np.ndarray) -> None:
    world.set_actors([_actor("bus", spot + np.array([0, 0, 1.75]), (11.0, 2.9, 3.5))])
    up, above = np.array([[0.0, 0.0, 1.0]]), spot + np.array([0, 0, 4.0])
    assert world.occluded(spot + np.array([0, 0, 0.02]), up, 50.0)[0]
    assert not world.occluded(above, up, 50.0)[0]
    assert world.occluded(above, -up, 1.0)[0] and not world.occluded(above, -up, 0.3)[0]


def test_looks_of_the_ground(world: World, town: Town) -> None:
    """Straight down from 5 m: paint is brighter and throws back more than asphalt; grass is green."""
    world.set_actors([])
    rows = town.surface.shape[0]
    looks = {}
    for label in (GRASS, ASPHALT, WHITE, YELLOW):
        row, col = (index[:: max(len(index) // 300, 1)] for index in np.nonzero(town.surface == label))
        xy = np.stack([col + 0.5, rows - row - 0.5], axis=1) * town.surface_resolution_m
        origins = np.column_stack([xy, np.full(len(xy), 0.5)])
        hits = world.cast(origins, np.tile([0.0, 0.0, -1.0], (len(xy), 1)))
        looks[label] = (np.median(hits.albedo, axis=0), np.median(hits.reflectivity))
    white, asphalt, grass = (looks[k] for k in (WHITE, ASPHALT, GRASS))
    assert white[0].mean() > 4 * asphalt[0].mean() and white[1] > 3 * asphalt[1]
    assert grass[0][1] > 1.05 * grass[0][0] and grass[0][1] > 1.3 * grass[0][2]
    assert looks[YELLOW][0][2] < 0.5 * looks[YELLOW][0][0]


def test_facades_have_windows(world: World, town: Town) -> None:
    world.set_actors([])
    house = max((item for item in town.buildings if item.form == "block"), key=lambda item: item.size_lwh_m[2])
    out = np.array([-np.sin(house.yaw_rad), np.cos(house.yaw_rad), 0.0])
    along = np.array([np.cos(house.yaw_rad), np.sin(house.yaw_rad), 0.0])
    start = np.array([*house.center_m, 0.0]) + out * (house.size_lwh_m[1] / 2 + 1.0)
    s, z = np.meshgrid(
        np.linspace(-0.45, 0.45, 60) * house.size_lwh_m[0], np.linspace(4, house.size_lwh_m[2] - 0.5, 60)
    )
    origins = start + s.ravel()[:, None] * along + z.ravel()[:, None] * np.array([0, 0, 1.0])
    hits = world.cast(origins, np.tile(-out, (s.size, 1)))
    wall = hits.distance_m < 1.01
    glass = hits.gloss[wall] > 0.5
    assert wall.mean() > 0.5 and 0.1 < glass.mean() < 0.8
    assert hits.reflectivity[wall][glass].mean() < 0.5 * hits.reflectivity[wall][~glass].mean()


def test_kerbs_rise_beside_the_road(world: World, town: Town, spot: np.ndarray) -> None:
    world.set_actors([])
    path = town.edges[0].lanes[0].shape_m
    beside = np.array([*path[len(path) // 2], 2.0])
    distance, _ = world.cast_distance(beside, np.array([[0.0, 0.0, -1.0]]))
    assert distance[0] == pytest.approx(2.0 - KERB_HEIGHT_M, abs=1e-4)
    assert town.height_at(spot[:1], spot[1:2])[0] == 0


def test_the_ground_follows_the_relief(hilly: Town) -> None:
    rng = np.random.default_rng(5)
    x0, y0, x1, y1 = hilly.bounds_m
    places = rng.uniform((x0 + 20, y0 + 20), (x1 - 20, y1 - 20), (2000, 2))
    above = np.column_stack([places, np.full(len(places), 60.0)])
    distance, _ = World(replace(hilly, buildings=(), trees=(), poles=(), clutter=())).cast_distance(
        above, np.tile([0.0, 0.0, -1.0], (len(places), 1))
    )
    error = 60.0 - distance - hilly.height_at(places[:, 0], places[:, 1])
    # The kerb's grid is coarser than the kerb; triangles of 5 m stay within centimetres of the hills.
    assert np.median(np.abs(error)) < 0.01 and np.quantile(np.abs(error), 0.95) < 0.07
    assert np.ptp(hilly.terrain.height_at(places[:, 0], places[:, 1])) > 0.3


def test_the_slope_is_the_derivative_of_the_height(hilly: Town) -> None:
    x, y, step = np.array([20.0, 133.0]), np.array([77.0, 310.0]), 1e-4
    terrain = hilly.terrain
    to_x, to_y = terrain.slope_at(x, y)
    np.testing.assert_allclose(to_x, (terrain.height_at(x + step, y) - terrain.height_at(x - step, y)) / (2 * step))
    np.testing.assert_allclose(to_y, (terrain.height_at(x, y + step) - terrain.height_at(x, y - step)) / (2 * step))


def test_wheels_follow_the_slope_under_them(hilly: Town) -> None:
    x, y = 150.0, 200.0
    to_x, to_y = hilly.terrain.slope_at(x, y)
    actor = _actor("car", np.array([x, y, 0.8]), (4.6, 1.9, 1.6), yaw=0.4)
    flat, tilted = (actor_triangles(actor, terrain).vertices for terrain in (FLAT, hilly.terrain))
    rise = (flat[:, 0] - x) * to_x + (flat[:, 1] - y) * to_y
    np.testing.assert_allclose(tilted[:, 2] - flat[:, 2], rise, atol=1e-5)
    np.testing.assert_array_equal(tilted[:, :2], flat[:, :2])


def test_standing_actors_stay(town: Town) -> None:
    post = _actor("cone", np.array([150.0, 200.0, 10.0]), (0.4, 0.4, 1.0))
    world = World(town, [post])
    down = np.array([[0.0, 0.0, -1.0]])
    for actors in ([], [post]):
        world.set_actors(actors)
        distance, instance = world.cast_distance(np.array([150.0, 200.0, 12.0]), down)
        assert instance[0] == 7 and distance[0] == pytest.approx(1.5, abs=1e-5)


def test_raster_layers(town: Town) -> None:
    drivable, sidewalk, crossing, marking = (town.raster(k) for k in ("drivable", "sidewalk", "crossing", "marking"))
    assert drivable.shape == (round(town.bounds_m[3] / 0.1), round(town.bounds_m[2] / 0.1))
    assert not (drivable & sidewalk).any() and (crossing <= drivable).all() and (marking <= drivable).all()
    assert 0.05 < drivable.mean() < 0.5 and 0.02 < sidewalk.mean() < 0.3


def test_nothing_stands_on_the_road(town: Town) -> None:
    """Trunks, poles and the whole length of walls and hedges stand on grass; so do the corners of houses."""
    places = town.obstacle_points()
    assert len(places) > len(town.trees) + len(town.poles) + len(town.clutter)
    for house in town.buildings:
        outline = rectangle(np.array(house.center_m), house.yaw_rad, *house.size_lwh_m[:2])
        places = np.concatenate([places, np.asarray(outline.exterior.coords)])
    assert (town.label_at(places[:, 0], places[:, 1]) == GRASS).all()


def test_overhanging_things_leave_room_below(world: World, town: Town) -> None:
    """Straight up from driving lanes there is nothing lower than a truck is high."""
    world.set_actors([])
    lanes = [lane.shape_m for edge in town.edges for lane in edge.lanes if lane.kind == "driving"]
    places = np.concatenate([line[::2] for line in lanes])
    start = np.column_stack([places, np.full(len(places), 0.3)])
    distance, _ = world.cast_distance(start, np.tile([0.0, 0.0, 1.0], (len(places), 1)))
    assert np.isinf(distance).mean() > 0.8 and distance.min() > 3.5


def test_a_town_is_furnished(town: Town) -> None:
    assert len({house.form for house in town.buildings}) >= 5 and len({tree.form for tree in town.trees}) >= 4
    assert len({thing.kind for thing in town.clutter}) >= 10
    assert {"lamp", "signal", "sign"} <= {pole.kind for pole in town.poles}
    soup = townscape(town)
    assert 100_000 < len(soup.triangles) < 400_000 and np.isfinite(soup.vertices).all()


def test_the_same_seed_gives_the_same_town(town: Town) -> None:
    again = build_town(town.network, town.seed)
    assert (again.buildings, again.trees, again.poles, again.clutter) == (
        town.buildings,
        town.trees,
        town.poles,
        town.clutter,
    )
    few = replace(town, buildings=town.buildings[:9], trees=town.trees[:20], clutter=town.clutter[:40])
    first, second = townscape(few), townscape(few)
    for look in fields(first):
        assert np.array_equal(getattr(first, look.name), getattr(second, look.name))


@pytest.mark.parametrize("form", ["round", "tall", "cone", "wide", "bush"])
def test_crowns_are_porous(form: TreeForm) -> None:
    """Of rays through the middle of a crown a fair share passes, and the others end at any depth."""
    leaves = crown(form, np.random.default_rng(2)).metric_mesh()
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(leaves.vertices), o3d.core.Tensor.from_numpy(leaves.triangles.astype(np.uint32))
    )
    y, z = np.meshgrid(np.linspace(-0.5, 0.5, 40), np.linspace(-0.5, 0.5, 40) * crown_half_height(form))
    rays = np.zeros((y.size, 6), dtype=np.float32)
    rays[:, 0], rays[:, 1], rays[:, 2], rays[:, 3] = -3.0, y.ravel(), z.ravel(), 1.0
    depth = scene.cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy() - 3.0
    assert 0.05 < np.isinf(depth).mean() < 0.6
    assert depth[np.isfinite(depth)].std() > 0.2
    assert np.abs(leaves.vertices[:, :2]).max() < 1.5


def test_rays_pass_between_the_bars_of_a_fence() -> None:
    shares = {}
    for kind in ("railing", "fence", "hedge", "wall"):
        item = Clutter(kind, (0.0, 0.0), 0.0, (4.0, 0.3, 1.5), (0.3, 0.3, 0.3))
        mesh = furniture(item, np.random.default_rng(0)).metric_mesh()
        scene = o3d.t.geometry.RaycastingScene()
        scene.add_triangles(
            o3d.core.Tensor.from_numpy(mesh.vertices), o3d.core.Tensor.from_numpy(mesh.triangles.astype(np.uint32))
        )
        x, z = np.meshgrid(np.linspace(-1.9, 1.9, 97), np.linspace(0.1, 1.1, 50))
        rays = np.zeros((x.size, 6), dtype=np.float32)
        rays[:, 0], rays[:, 1], rays[:, 2], rays[:, 4] = x.ravel(), -3.0, z.ravel(), 1.0
        shares[kind] = np.isinf(scene.cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy()).mean()
    assert shares["wall"] == shares["hedge"] == 0 < 0.1 < shares["fence"] < 0.5 < shares["railing"] < 0.9


def test_people_do_not_grow_with_wide_boxes() -> None:
    """A person in a box of 1 m x 1 m is no wider than one in a box that fits; a car fills its box whatever its size."""
    assert filled_size_m("pedestrian", (1.0, 1.0, 1.79))[1] == pytest.approx(0.67)
    assert filled_size_m("pedestrian", (0.6, 0.5, 1.79)) == (0.6, 0.5, 1.79)
    assert filled_size_m("car", (9.0, 5.0, 2.0)) == (9.0, 5.0, 2.0)


def test_parking_lots_keep_off_the_streets_and_hold_their_bays(town: Town) -> None:
    assert len(town.lots) > 3
    for lot in town.lots:
        ground = rectangle(np.array(lot.position_m), lot.yaw_rad, *lot.size_m)
        assert not ground.intersects(town.road)
        bays = [rectangle(spot, yaw, *BAY_M) for spot, yaw in zip(*lot.bays(), strict=True)]
        assert len(bays) >= 8
        assert all(ground.buffer(1e-6).contains(bay) for bay in bays)
        assert shapely.union_all(bays).area == pytest.approx(sum(bay.area for bay in bays), rel=1e-6)
        # Cars there stand on the pavement, not in it.
        spots, _ = lot.bays()
        height = ground_m(town, ["car"] * len(spots), spots)
        np.testing.assert_allclose(height, town.height_at(spots[:, 0], spots[:, 1]), atol=1e-6)
        assert (height > 0.9 * KERB_HEIGHT_M).all()
