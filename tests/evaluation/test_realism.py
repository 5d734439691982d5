"""The comparison of nuScenes folders against sweeps, boxes, radar files and drives whose numbers are known."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import ks_2samp

from fusionperc.data.errors import DataError
from fusionperc.data.pointclouds import read_lidar
from fusionperc.evaluation.lidar_sweep import NUM_BEAMS, split_sweep
from fusionperc.evaluation.realism import AIMS, compare, comparison_table, distance, ring_table, write_rows
from fusionperc.evaluation.realism_measures import Sample, measure, only_version, radars_with_files
from fusionperc.types import RADAR_DTYPE

ROOT = Path(__file__).resolve().parents[2]
ELEVATION_RAD = np.radians(np.linspace(-30.67, 10.67, NUM_BEAMS))


def whole_sweep(num_columns: int, range_m: np.ndarray, moved_m: float) -> np.ndarray:
    """A file with all pulses: ranges (columns, 32), 0 where nothing came back, of a LiDAR moving along its y axis."""
    share = np.arange(num_columns) / num_columns
    azimuth = np.pi - 2 * np.pi * share
    rays = np.stack(
        [
            np.outer(np.cos(azimuth), np.cos(ELEVATION_RAD)),
            np.outer(np.sin(azimuth), np.cos(ELEVATION_RAD)),
            np.tile(np.sin(ELEVATION_RAD), (num_columns, 1)),
        ],
        axis=-1,
    )
    points = np.zeros((num_columns, NUM_BEAMS, 5), dtype=np.float32)
    points[..., :3] = rays * range_m[..., None]
    points[..., 1] += (-moved_m * (1 - share))[:, None]
    points[..., 3] = 20
    points[..., 4] = np.arange(NUM_BEAMS)
    return points.reshape(-1, 5)


@pytest.fixture(scope="module")
def ranges() -> np.ndarray:
    """(360, 32): rings 0 to 3 meet the own roof, of 28 to 31 every third pulse is lost, and all of column 7."""
    range_m = np.random.default_rng(0).uniform(4.0, 80.0, (360, NUM_BEAMS))
    range_m[:, :4] = 0.7
    range_m[::3, 28:] = 0.0
    range_m[7] = 0.0
    return range_m


@pytest.mark.parametrize("moved_m", [0.0, 0.45, 1.2])
def test_missing_pulses_and_the_own_roof_are_told_apart_at_any_speed(ranges: np.ndarray, moved_m: float) -> None:
    sweep = split_sweep(whole_sweep(360, ranges, moved_m))
    np.testing.assert_array_equal(sweep.num_missing, (ranges == 0).sum(0))
    assert sweep.is_own_vehicle.sum() == ((ranges > 0) & (ranges < 2.5)).sum()
    np.testing.assert_allclose(sweep.range_m, ranges[ranges > 0], rtol=1e-4)
    np.testing.assert_array_equal(np.bincount(sweep.ring), (ranges > 0).sum(0))


def test_a_neighbour_close_by_is_not_the_own_vehicle(ranges: np.ndarray) -> None:
    points = whole_sweep(360, ranges, 0.0)
    points[:NUM_BEAMS, :3] = (-1.9, 0.2, -0.3)
    points[NUM_BEAMS : 2 * NUM_BEAMS, :3] = 0.0
    sweep = split_sweep(points)
    expected = ranges.copy()
    expected[0], expected[1] = 80.0, 0.0
    assert sweep.is_own_vehicle.sum() == (expected == 0.7).sum()
    np.testing.assert_array_equal(sweep.num_missing, (expected == 0).sum(0))


def test_a_file_of_returns_only_counts_what_lacks_to_the_fullest_ring(ranges: np.ndarray) -> None:
    points = whole_sweep(360, ranges, 0.0)
    sweep = split_sweep(points[np.linalg.norm(points[:, :3], axis=1) > 0])
    np.testing.assert_array_equal(sweep.num_missing, (ranges == 0).sum(0) - 1)  # nothing is known of column 7
    assert len(split_sweep(points[:0]).range_m) == 0


def test_the_real_sweeps_come_apart(real_nuscenes: Path) -> None:
    files = sorted(real_nuscenes.glob("s*/LIDAR_TOP/*.pcd.bin"))
    if not files:
        pytest.skip("the real subset has no LiDAR files")
    for file in files:
        points = read_lidar(file)
        sweep = split_sweep(points)
        assert len(sweep.range_m) + sweep.num_missing.sum() == len(points)
        # Nothing lies between where the pulses start and the own roof: the two are told apart without a doubt.
        assert sweep.range_m.min() > 0.4
        assert ((sweep.ring == 0) & sweep.is_own_vehicle).sum() > 500
        assert 3500 < sweep.is_own_vehicle.sum() < 5000


def test_distance_of_known_distributions() -> None:
    uniform = np.linspace(0, 1, 2001)
    assert distance(uniform, uniform[::-1]) == 0
    assert distance(uniform, uniform + 0.3) == pytest.approx(0.3, abs=1e-3)
    assert distance(uniform, uniform + 5) == 1
    assert distance(np.zeros(3), np.array([0.0, 0.0, 1.0])) == pytest.approx(1 / 3)
    assert math.isnan(distance(uniform, np.zeros(0)))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=2, max_size=30),
    st.lists(st.integers(-5, 5), min_size=2, max_size=30),
)
def test_distance_is_symmetric_and_does_not_see_the_scale(a: list[int], b: list[int]) -> None:
    first, second = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    known = distance(first, second)
    assert known == pytest.approx(ks_2samp(first, second, method="asymp").statistic)
    assert distance(second, first) == pytest.approx(known)
    assert distance(np.exp(first), np.exp(second)) == pytest.approx(known)


class Folder:
    """A nuScenes folder of one drive of four samples: the ego stands, a car drives off at 2 m/s, another is parked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        upright, turned = [1.0, 0.0, 0.0, 0.0], [math.sqrt(0.5), 0.0, 0.0, -math.sqrt(0.5)]
        times = [1_000_000 + 500_000 * place for place in range(4)]
        samples = [{"token": f"s{t}", "timestamp": t, "scene_token": "d"} for t in times]
        rows = []
        for channel in ("LIDAR_TOP", "RADAR_FRONT"):
            for t in times:
                row = {"token": f"{channel}{t}", "sample_token": f"s{t}", "ego_pose_token": f"p{t}", "timestamp": t}
                row |= {"calibrated_sensor_token": f"cal{channel}", "is_key_frame": True, "prev": "", "next": ""}
                rows.append({**row, "filename": f"samples/{channel}/{t}.{'pcd.bin' if channel[0] == 'L' else 'pcd'}"})
        self.annotations: list[dict[str, Any]] = []
        for car, speed in (("fast", 2.0), ("parked", 0.1)):
            for place in range(len(times)):
                self._annotate(car, [10.0 + speed * 0.5 * place, 0.0, 0.8], place, times, visibility="4")
        self.tables: dict[str, list[dict[str, Any]]] = {
            "scene": [{"token": "d", "name": "scene-0001"}],
            "sample": samples,
            "sample_data": rows,
            "ego_pose": [{"token": f"p{t}", "translation": [0.0, 0.0, 0.0], "rotation": upright} for t in times],
            "sensor": [{"token": c, "channel": c} for c in ("LIDAR_TOP", "RADAR_FRONT")],
            "calibrated_sensor": [
                {
                    "token": f"cal{channel}", "sensor_token": channel, "camera_intrinsic": [],
                    "translation": [1.0, 0.0, z], "rotation": rotation,
                }
                for channel, z, rotation in (("LIDAR_TOP", 1.84, turned), ("RADAR_FRONT", 0.5, upright))
            ],
            "category": [{"token": "c", "name": "vehicle.car"}],
            "attribute": [],
            "instance": [{"token": car, "category_token": "c"} for car in ("fast", "parked")],
            "sample_annotation": self.annotations,
        }  # fmt: skip

    def _annotate(self, car: str, center: list[float], place: int, times: list[int], visibility: str) -> None:
        tokens = ["", *(f"{car}{t}" for t in times), ""]
        self.annotations.append(
            {
                "token": tokens[place + 1], "prev": tokens[place], "next": tokens[place + 2], "instance_token": car,
                "sample_token": f"s{times[place]}", "translation": center, "rotation": [1.0, 0.0, 0.0, 0.0],
                "size": [1.9, 4.6, 1.7], "attribute_tokens": [], "visibility_token": visibility,
                "num_lidar_pts": 100 if car == "fast" else 0, "num_radar_pts": 3 if car == "fast" else 0,
            }
        )  # fmt: skip

    def write(self) -> Path:
        folder = self.root / "v1.0-mini"
        folder.mkdir(parents=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows))
        return self.root

    def lidar(self, sample: int, points: np.ndarray) -> None:
        path = self.root / self.tables["sample_data"][sample]["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(points.astype(np.float32).tobytes())

    def radar(self, path: Path, speed_mps: list[float], invalid: list[int]) -> None:
        records = np.zeros(len(speed_mps), dtype=RADAR_DTYPE)
        records["x"], records["y"], records["ambig_state"] = 3.0, 4.0, 3
        records["vx_comp"], records["vy_comp"] = 0.6 * np.array(speed_mps), 0.8 * np.array(speed_mps)
        records["rcs"], records["invalid_state"] = 5.0, invalid
        kinds = ["F" if RADAR_DTYPE[name].kind == "f" else "I" for name in RADAR_DTYPE.names]
        header = (
            f"VERSION 0.7\nFIELDS {' '.join(RADAR_DTYPE.names)}\n"
            f"SIZE {' '.join(str(RADAR_DTYPE[name].itemsize) for name in RADAR_DTYPE.names)}\n"
            f"TYPE {' '.join(kinds)}\nCOUNT {' '.join('1' * len(kinds))}\nWIDTH {len(records)}\nHEIGHT 1\n"
            f"POINTS {len(records)}\nDATA binary\n"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header.encode() + records.tobytes())

    def can_bus(self, speed_mps: np.ndarray, yaw_rate_radps: float) -> None:
        path = self.root / "can_bus" / "scene-0001_pose.json"
        path.parent.mkdir()
        messages = [
            {"utime": 5 + 20_000 * n, "vel": [v, 0, 0], "accel": [9, 9, 9], "rotation_rate": [0, 0, yaw_rate_radps]}
            for n, v in enumerate(speed_mps)
        ]
        path.write_text(json.dumps(messages[::-1]))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "drives")


def test_boxes_are_measured_from_the_tables_alone(folder: Folder) -> None:
    samples = measure(folder.write())
    np.testing.assert_array_equal(samples["car boxes a sample"].values, [2, 2, 2, 2])
    np.testing.assert_array_equal(samples["pedestrian boxes a sample"].values, [0, 0, 0, 0])
    # Boxes without a point are left out; what hardly moves stands.
    np.testing.assert_array_equal(samples["car: LiDAR points, 0-20 m"].values, [100] * 4)
    np.testing.assert_array_equal(np.sort(samples["car: radar points, 0-40 m"].values), [0] * 4 + [3] * 4)
    np.testing.assert_allclose(np.sort(samples["car: speed"].values), [0] * 4 + [2] * 4)
    np.testing.assert_allclose(samples["car: speed if moving"].values, [2] * 4)
    np.testing.assert_allclose(
        np.sort(samples["car: distance"].values), np.sort([10, 11, 12, 13, 10, 10.05, 10.1, 10.15])
    )
    np.testing.assert_array_equal(samples["car: visibility level"].values, [4] * 8)
    np.testing.assert_allclose(samples["car: length"].values, [4.6, 4.6])
    assert samples["car: distance"].evidence == 2
    assert samples["car boxes a sample"].evidence == 2
    assert all(len(samples[name].values) == 0 for name in ("range", "RCS of a point", "ego speed"))


def test_unknown_visibility_is_left_out(folder: Folder) -> None:
    for row in folder.annotations[:3]:
        row["visibility_token"] = ""
    assert len(measure(folder.write())["car: visibility level"].values) == 5


def test_lidar_is_measured_where_files_are(folder: Folder, ranges: np.ndarray) -> None:
    root = folder.write()
    folder.lidar(1, whole_sweep(360, ranges, 0.4))
    folder.lidar(3, whole_sweep(360, ranges, 0.0))
    samples = measure(root)
    num_returns = (ranges > 0).sum()
    np.testing.assert_array_equal(samples["returns a sweep"].values, [num_returns] * 2)
    np.testing.assert_array_equal(samples["own-vehicle returns a sweep"].values, [(ranges == 0.7).sum()] * 2)
    assert samples["returns in a 10° sector"].values.sum() == 2 * (ranges > 2.5).sum()
    assert len(samples["returns in a 10° sector"].values) == 72
    assert samples["missing share of a ring"].values[31] == pytest.approx(100 * (ranges[:, 31] == 0).mean())
    # The LiDAR sits 1.84 m above the ground, a ring's height follows from its elevation.
    expected = 1.84 + np.sin(ELEVATION_RAD) * ranges
    height = np.sort(samples["height above ground"].values[: (ranges > 2.5).sum()])
    np.testing.assert_allclose(height, np.sort(expected[ranges > 2.5]), atol=1e-3)
    assert len(measure(root, max_files=1)["returns a sweep"].values) == 1


def test_radar_files_are_found_with_and_without_tables(folder: Folder) -> None:
    root = folder.write()
    folder.radar(root / "extra" / "log__RADAR_BACK_LEFT__1.pcd", [4.0, 0.2], [0, 0])
    assert measure(root)["points a scan"].values.tolist() == [2]
    assert radars_with_files(root) == ["RADAR_BACK_LEFT"]
    assert len(measure(root, radars=["RADAR_FRONT"])["points a scan"].values) == 0
    named = root / next(r["filename"] for r in folder.tables["sample_data"] if "RADAR" in r["filename"])
    folder.radar(named, [-3.0, -0.5, 0.1], [0, 0, 4])
    samples = measure(root)
    assert samples["points a scan"].values.tolist() == [2]
    assert samples["points a scan, unfiltered"].values.tolist() == [3]
    np.testing.assert_allclose(samples["Doppler speed"].values, [3.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(samples["Doppler speed if standing"].values, [0.5], rtol=1e-6)
    np.testing.assert_allclose(samples["range of a point"].values, 5.0)


def test_ego_motion_is_the_mean_over_half_seconds(folder: Folder) -> None:
    root = folder.write()
    folder.can_bus(3.0 + 1.5 * 0.02 * np.arange(201), yaw_rate_radps=-0.2)
    samples = measure(root)
    np.testing.assert_allclose(samples["ego acceleration"].values, 1.5)
    np.testing.assert_allclose(samples["ego yaw rate, absolute"].values, 0.2)
    np.testing.assert_allclose(samples["ego speed"].values, 3.0 + 0.75 * np.arange(len(samples["ego speed"].values)))
    (root / "can_bus" / "scene-0002_pose.json").write_text('[{"utime": 1}]')  # of a drive not in the tables
    with pytest.raises(DataError, match=r"scene-0002_pose\.json: no list of pose messages"):
        measure(root)


def test_the_version_must_be_clear(folder: Folder) -> None:
    with pytest.raises(DataError, match="no version folder"):
        only_version(folder.root)
    assert only_version(folder.write()) == "v1.0-mini"
    (folder.root / "v1.0-test").mkdir()
    (folder.root / "v1.0-test" / "scene.json").write_text("[]")
    with pytest.raises(DataError, match="several versions"):
        measure(folder.root)


def test_verdicts() -> None:
    many, few = np.linspace(0, 1, 50), np.linspace(0, 1, 5)

    def verdict(simulated: np.ndarray, real: np.ndarray, num_objects: int | None = None) -> str:
        (row,) = compare(
            {"x": Sample("lidar", "m", simulated, num_objects)}, {"x": Sample("lidar", "m", real, num_objects)}
        )
        return row.verdict

    assert verdict(many, many) == "met"
    assert verdict(many + AIMS["lidar"] + 0.1, many) == "missed"
    assert verdict(many, few) == verdict(few, many) == verdict(many, many, num_objects=3) == "few"
    assert verdict(many, few[:0]) == "absent"


def test_rows_as_text_and_as_json(folder: Folder, ranges: np.ndarray, tmp_path: Path) -> None:
    root = folder.write()
    folder.lidar(0, whole_sweep(360, ranges, 0.4))
    here, elsewhere = measure(root), measure(Folder(tmp_path / "other").write())
    rows = compare(here, elsewhere)
    out = Console(width=120, record=True, file=(tmp_path / "log").open("w"))
    out.print(ring_table(here, elsewhere))
    out.print(comparison_table(rows))
    text = out.export_text()
    assert "…" not in text
    assert "returns in a 10° sector" in text
    write_rows(tmp_path / "rows.json", rows)
    read = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert read["range"]["verdict"] == "absent"
    assert read["range"]["distance"] is None
    assert read["range"]["num_simulated"] == (ranges > 2.5).sum()
    assert read["car: length"]["distance"] == 0
    assert "pedestrian: length" not in read


def test_the_tool_compares_a_set_that_is_there(
    tiny_drives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "rows.json"
    arguments = [str(tiny_drives), "--compare", str(tiny_drives), "--compare-output", str(output)]
    monkeypatch.setattr(sys, "argv", ["simulate", *arguments])
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    runpy.run_path(str(ROOT / "tools" / "simulate.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "simulated against real" in printed
    assert "…" not in printed
    rows = json.loads(output.read_text())
    assert {row["group"] for row in rows} == {"lidar", "boxes", "radar", "ego"}
    assert {row["distance"] for row in rows if row["verdict"] != "absent"} == {0.0}
