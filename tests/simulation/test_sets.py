"""Plans of simulated sets: names, numbers, towns."""

from __future__ import annotations

from itertools import combinations

import pytest
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.utils import splits

from fusionperc.simulation.sets import PRESETS, SPLITS, plan_drives, scene_names


def test_names_are_those_of_the_official_splits_that_have_can_bus(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("none")
    (folder / "can_bus").mkdir()
    refused = {f"scene-{number:04d}" for number in NuScenesCanBus(str(folder)).can_blacklist}
    trainval, mini, unlabelled = (PRESETS[name].scenes for name in ("sim-small", "sim-mini", "sim-unlabelled"))
    for split in SPLITS:
        assert scene_names(trainval[split]) == [name for name in getattr(splits, split) if name not in refused]
    assert scene_names(mini["train"]) == splits.mini_train
    assert scene_names(mini["val"]) == splits.mini_val
    test = scene_names(unlabelled["train"]) + scene_names(unlabelled["val"])
    assert test == scene_names(trainval["test"])


def test_sizes_of_the_ready_made_sets() -> None:
    sizes = {
        name: {split: len(plan_drives(name, 0).names(split)) for split in SPLITS} for name in PRESETS if name != "demo"
    }
    assert sizes == {
        "sim-mini": {"train": 8, "val": 2, "test": 0},
        "sim-small": {"train": 48, "val": 12, "test": 6},
        "sim-unlabelled": {"train": 92, "val": 8, "test": 0},
    }
    assert [drive.is_labelled for drive in plan_drives("sim-unlabelled", 0).drives] == [False] * 100


def test_no_town_is_in_two_splits_of_any_sets_of_one_seed() -> None:
    towns: dict[tuple[bool, str], set[int]] = {}
    for preset in PRESETS:
        plan = plan_drives(preset, 7, num_train=300, num_val=40, num_test=20)
        for drive in plan.drives:
            towns.setdefault((drive.is_labelled, drive.split), set()).add(drive.town_seed)
        assert len({drive.number for drive in plan.drives}) == len(plan.drives)
        assert len({drive.start_us for drive in plan.drives}) == len(plan.drives)
        assert len({drive.name for drive in plan.drives}) == len(plan.drives)
    assert len(towns) == 6
    for a, b in combinations(towns.values(), 2):
        assert not a & b
    other = {drive.town_seed for preset in PRESETS for drive in plan_drives(preset, 8).drives}
    assert not other & set().union(*towns.values())
    assert len(towns[True, "train"]) == 75, "four drives share a town"


def test_a_thousand_drives_have_names_and_towns() -> None:
    plan = plan_drives("sim-unlabelled", 0, num_train=960, num_val=40)
    assert len(plan.drives) == 1000
    names = plan.names("train")
    assert names[101:104] == ["scene-0831", "scene-7000", "scene-7001"]
    assert plan.drive("999") is plan.drives[-1] is plan.drive(plan.drives[-1].name)
    assert plan_drives("sim-small", 0, num_train=700).names("train")[685] == "scene-2000"


def test_a_set_grows_without_changing_what_is_there() -> None:
    few, many = plan_drives("sim-small", 0, num_train=5), plan_drives("sim-small", 0, num_train=50)
    assert set(few.drives) < set(many.drives)
    assert few.identity() == many.identity()
    assert few.splits["sim_train"] == many.splits["sim_train"][:5]
    assert list(plan_drives("sim-mini", 0).splits) == ["sim_train", "sim_val"]


def test_plan_overrides_and_errors() -> None:
    plan = plan_drives("sim-small", 0, num_train=3, num_val=2, num_test=1, duration_s=5, image_scale=0.2, weather="fog")
    assert plan.version == "v1.0-trainval"
    assert plan.num_key_frames == 60
    assert plan.names("val") == ["scene-0003", "scene-0012"]
    assert {drive.weather for drive in plan.drives} == {"fog"}
    with pytest.raises(ValueError, match="'huge' is unknown; choose one of demo, sim-mini, sim-small, sim-unlabelled"):
        plan_drives("huge", 0)
    with pytest.raises(ValueError, match=r"number of val drives 2000 must be between 0 and 1002.*end with scene-5999"):
        plan_drives("demo", 0, num_val=2000)
    with pytest.raises(ValueError, match="weather 'hail' is unknown; choose one of sunny"):
        plan_drives("demo", 0, weather="hail")
    with pytest.raises(ValueError, match="duration"):
        plan_drives("demo", 0, duration_s=0.1)
    with pytest.raises(ValueError, match="image scale"):
        plan_drives("demo", 0, image_scale=2)
    with pytest.raises(ValueError, match="at least one"):
        plan_drives("demo", 0, num_train=0, num_val=0)
