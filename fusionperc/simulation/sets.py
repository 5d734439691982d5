"""Sets of simulated drives by name and seed: how many, how long, under which names, in which towns.

Drives of train, validation and test splits and unlabelled drives never share a town, not even across sets of one seed.

Scene names are nuScenes' own of the same split, so that the devkit's predefined splits accept them, and go on with
numbers that nuScenes does not use. `splits.json` names them as `sim_train`, `sim_val` and `sim_test` as well. Source:
nuscenes-devkit 1.2.0, `utils/splits.py` (names of the splits) and `can_bus/can_bus_api.py` (scenes without CAN bus).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from fusionperc.simulation.recorder import DriveSpec, Split
from fusionperc.simulation.sensors.lidar import NUM_AZIMUTHS
from fusionperc.simulation.sensors.weather import WeatherKind

#: Changes whenever the same seed would give other bytes.
FORMAT = 2
SPLITS: tuple[Split, ...] = get_args(Split)

_MINI = {"train": "61 553 655 757 796 1077 1094 1100", "val": "103 916"}
#: nuScenes' scenes by split, less those for which the devkit refuses to read CAN bus messages.
_OFFICIAL = {
    "train": (
        "1-2 4-11 19-34 41-76 120-135 138-139 149-152 154-155 157-160 177-185 187-188 190-196 199-200 202-204 206-214 "
        "218-220 222 224-264 283-306 315-318 321 323-324 328 347-386 388-403 405-408 410-459 461-465 467-469 471-472 "
        "474-480 499-502 504-515 517-518 525-539 541-546 566 568 570-578 580 582-600 639-679 681 683-689 695-698 "
        "700-701 703-719 726-728 730-731 733-741 744 746-747 749-752 757-765 767-769 786-787 789-792 803-806 808-813 "
        "815-817 819-822 847-856 858 860-866 868-873 875-878 880 882-903 945 947 949 952-953 955-961 975-984 988-992 "
        "994-1025 1044-1058 1074-1102 1104-1110"
    ),
    "val": (
        "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 770-771 775 "
        "777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073"
    ),
    "test": (
        "77-91 111-119 140 142-148 265-266 279-282 307-308 333-343 481-498 547-551 601-604 606-624 827-831 833-842 "
        "844-846 932-933 935-943 1026-1043"
    ),
}
#: An unlabelled set is a nuScenes test version: all its scenes are nuScenes' test scenes.
_UNLABELLED = {
    "train": "77-91 111-119 140 142-148 265-266 279-282 307-308 333-343 481-498 547-551 601-604 606-624 827-831",
    "val": "833-842 844-846 932-933 935-943 1026-1043",
}
#: Numbers of further scenes; nuScenes ends with 1110, and the devkit's CAN bus reader takes four digits.
_FURTHER = {
    (True, "train"): "2000-4999",
    (True, "val"): "5000-5999",
    (True, "test"): "6000-6999",
    (False, "train"): "7000-8999",
    (False, "val"): "9000-9899",
    (False, "test"): "9900-9999",
}
_GROUPS = list(_FURTHER)
#: Drives that share a town, and how many towns and numbers of drives a group may take.
_DRIVES_PER_TOWN = {"train": 4, "val": 3, "test": 3}
_TOWNS_PER_GROUP, _NUMBERS_PER_GROUP = 1000, 10_000


@dataclass(frozen=True)
class Preset:
    """What a named set is made of.

    Attributes:
        version: nuScenes version folder.
        scenes: numbers of the scenes whose names it takes first, as ranges by split.
        counts: number of drives by split.
        duration_s, image_scale, lidar_azimuths: of each drive.
        is_labelled: whether there are annotations.
    """

    version: Literal["v1.0-mini", "v1.0-trainval", "v1.0-test"]
    scenes: dict[str, str]
    counts: dict[Split, int]
    duration_s: float
    image_scale: float
    lidar_azimuths: int = NUM_AZIMUTHS
    is_labelled: bool = True


PRESETS: dict[str, Preset] = {
    "demo": Preset("v1.0-mini", _MINI, {"train": 8, "val": 2}, 8.0, 0.25, 543),
    "sim-mini": Preset("v1.0-mini", _MINI, {"train": 8, "val": 2}, 20.0, 0.44),
    "sim-small": Preset("v1.0-trainval", _OFFICIAL, {"train": 48, "val": 12, "test": 6}, 10.0, 0.25),
    "sim-unlabelled": Preset("v1.0-test", _UNLABELLED, {"train": 92, "val": 8}, 10.0, 0.25, is_labelled=False),
}


@dataclass(frozen=True)
class DriveSet:
    """A planned set of drives.

    Attributes:
        preset: name of the preset it came from.
        version: nuScenes version folder.
        drives: train, then validation, then test drives.
    """

    preset: str
    version: str
    drives: tuple[DriveSpec, ...] = field(repr=False)

    def names(self, split: Split) -> list[str]:
        return [drive.name for drive in self.drives if drive.split == split]

    @property
    def splits(self) -> dict[str, list[str]]:
        """Scene names by name of the split, without empty splits."""
        return {f"sim_{split}": self.names(split) for split in SPLITS if self.names(split)}

    @property
    def num_key_frames(self) -> int:
        return sum(drive.num_key_frames for drive in self.drives)

    def drive(self, which: str) -> DriveSpec:
        """The drive with a scene name, or at a place, counted from 0.

        Raises:
            ValueError: no drive of the set.
        """
        for place, drive in enumerate(self.drives):
            if which in (drive.name, str(place)):
                return drive
        raise ValueError(
            f"drive '{which}' is none of this set's {len(self.drives)}: give 0 to {len(self.drives) - 1}, or a name "
            f"such as {self.drives[0].name}"
        )

    def identity(self) -> dict[str, Any]:
        """What must agree for a folder to be gone on with; the number of drives may grow."""
        shared = asdict(self.drives[0])
        keys = (
            "seed", "duration_s", "image_scale", "lidar_azimuths", "camera_sweeps", "is_labelled", "compact", "weather",
        )  # fmt: skip
        return {"format": FORMAT, "preset": self.preset, **{key: shared[key] for key in keys}}


def scene_names(ranges: str) -> list[str]:
    """['scene-0001', 'scene-0002', 'scene-0005'] from '1-2 5'."""
    names = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        names += [f"scene-{number:04d}" for number in range(int(first), int(last or first) + 1)]
    return names


def plan_drives(
    preset: str,
    seed: int,
    *,
    num_train: int | None = None,
    num_val: int | None = None,
    num_test: int | None = None,
    duration_s: float | None = None,
    image_scale: float | None = None,
    lidar_azimuths: int | None = None,
    weather: str | None = None,
    camera_sweeps: bool = False,
    compact: bool = False,
) -> DriveSet:
    """A set of drives from a preset; what is not None overrides it.

    Raises:
        ValueError: unknown preset or weather, or a value out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset '{preset}' is unknown; choose one of {', '.join(PRESETS)}")
    base = PRESETS[preset]
    duration = base.duration_s if duration_s is None else duration_s
    scale = base.image_scale if image_scale is None else image_scale
    azimuths = base.lidar_azimuths if lidar_azimuths is None else lidar_azimuths
    if not 1.0 <= duration <= 60:
        raise ValueError(f"duration {duration} s must be between 1 and 60")
    if not 0.02 <= scale <= 1:
        raise ValueError(f"image scale {scale} must be between 0.02 and 1 (1 is 1600x900)")
    if not 8 <= azimuths <= 4096:
        raise ValueError(f"LiDAR azimuths {azimuths} must be between 8 and 4096")
    if not 0 <= seed < 10_000:
        raise ValueError(f"seed {seed} must be between 0 and 9999")
    wanted = {"train": num_train, "val": num_val, "test": num_test}
    drives = tuple(
        DriveSpec(
            set_name=f"{preset}-{seed}",
            name=name,
            split=split,
            number=_GROUPS.index((base.is_labelled, split)) * _NUMBERS_PER_GROUP + place,
            seed=seed,
            town_seed=town_seed(seed, split, place, is_labelled=base.is_labelled),
            duration_s=duration,
            image_scale=scale,
            lidar_azimuths=azimuths,
            camera_sweeps=camera_sweeps,
            is_labelled=base.is_labelled,
            compact=compact,
            weather=_weather(weather),
        )
        for split in SPLITS
        for place, name in enumerate(_names(preset, split, wanted[split]))
    )
    if not drives:
        raise ValueError("a set without drives: ask for at least one")
    return DriveSet(preset, base.version, drives)


def _names(preset: str, split: Split, wanted: int | None) -> list[str]:
    """Names of a split's drives: nuScenes' own first."""
    base = PRESETS[preset]
    count = base.counts.get(split, 0) if wanted is None else wanted
    further = scene_names(_FURTHER[base.is_labelled, split])
    names = scene_names(base.scenes.get(split, "")) + further
    if not 0 <= count <= len(names):
        raise ValueError(
            f"number of {split} drives {count} must be between 0 and {len(names)} for preset {preset}, whose names end "
            f"with {further[-1]}: make the others as another set, with another seed"
        )
    return names[:count]


def _weather(name: str | None) -> WeatherKind | None:
    for kind in get_args(WeatherKind):
        if kind == name:
            known: WeatherKind = kind
            return known
    if name is not None:
        raise ValueError(f"weather '{name}' is unknown; choose one of {', '.join(get_args(WeatherKind))}")
    return None


def town_seed(seed: int, split: Split, place: int, *, is_labelled: bool = True) -> int:
    """Town of a split's drive; other splits, unlabelled drives and other seeds have others."""
    town = seed * _TOWNS_PER_GROUP + place // _DRIVES_PER_TOWN[split]
    return len(_GROUPS) * town + _GROUPS.index((is_labelled, split))
