"""LiDAR and radar files: equal to the devkit's reading; damaged ones are told by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fusionperc.data.errors import DataError
from fusionperc.data.pictures import PictureCrop, read_picture
from fusionperc.data.pointclouds import is_own_vehicle, read_lidar, read_radar
from fusionperc.types import RADAR_DTYPE

RadarBytes = Callable[..., bytes]
XYZ = np.array([[1.0, 2, 3], [4, 5, 6]])
VELOCITY = np.array([1.0, 2.0])


def test_lidar_round_trip(tmp_path: Path) -> None:
    points = np.arange(15, dtype=np.float32).reshape(3, 5)
    file = tmp_path / "a.pcd.bin"
    file.write_bytes(points.tobytes())
    np.testing.assert_array_equal(read_lidar(file), points)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_cut_lidar_file_is_named(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "cut.pcd.bin"
    file.write_bytes(np.zeros((3, 5), dtype=np.float32).tobytes()[:-cut])
    with pytest.raises(DataError, match=r"cut\.pcd\.bin: \d+ bytes .* fetch the file again"):
        read_lidar(file)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_lidar_point_that_is_no_number(tmp_path: Path, value: float) -> None:
    points = np.zeros((3, 5), dtype=np.float32)
    points[1, 2] = value
    file = tmp_path / "bad.pcd.bin"
    file.write_bytes(points.tobytes())
    with pytest.raises(DataError, match=r"bad\.pcd\.bin: 1 of 3 LiDAR points"):
        read_lidar(file)


def test_real_radar_files_equal_the_devkit(real_nuscenes: Path) -> None:
    from nuscenes.utils.data_classes import RadarPointCloud

    files = sorted((real_nuscenes / "extra_radar_unmatched").glob("*.pcd"))
    assert sorted(len(read_radar(file)) for file in files) == [56, 69, 70]
    everything = {"invalid_states": range(18), "dynprop_states": range(8), "ambig_states": range(5)}
    for file in files:
        for name, states in (("devkit", {}), ("none", everything)):
            ours, theirs = read_radar(file, name), RadarPointCloud.from_file(str(file), **states).points
            assert len(ours) == theirs.shape[1]
            for row, field in enumerate(RADAR_DTYPE.names or ()):
                np.testing.assert_array_equal(ours[field].astype(np.float64), theirs[row], err_msg=field)


def test_radar_filter_keeps_the_devkits_states(tmp_path: Path, radar_bytes: RadarBytes) -> None:
    content = radar_bytes(np.zeros((5, 3)), VELOCITY)
    head = len(content) - 5 * RADAR_DTYPE.itemsize
    points = np.frombuffer(content[head:], dtype=RADAR_DTYPE).copy()
    points["invalid_state"][1], points["dyn_prop"][2], points["ambig_state"][3] = 4, 7, 2
    file = tmp_path / "r.pcd"
    file.write_bytes(content[:head] + points.tobytes())
    assert len(read_radar(file)) == 2
    assert len(read_radar(file, "none")) == 5


def test_radar_cloud_without_points_and_with_the_empty_mark(tmp_path: Path, radar_bytes: RadarBytes) -> None:
    file = tmp_path / "r.pcd"
    file.write_bytes(radar_bytes(np.zeros((0, 3)), VELOCITY))
    assert len(read_radar(file)) == 0
    file.write_bytes(radar_bytes(np.full((1, 3), np.nan), VELOCITY))
    assert len(read_radar(file)) == 0


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"POINTS": "3", "WIDTH": "3"}, "POINTS 3 need 129 bytes, only 86"),
        ({"POINTS": "1", "WIDTH": "1"}, "POINTS 1 leave data uncounted"),
        ({"POINTS": "1"}, "WIDTH 2 but POINTS 1"),
        ({"POINTS": "-2", "WIDTH": "-2"}, "WIDTH -2 but POINTS -2"),
        ({"POINTS": "many"}, "without numbers"),
        ({"FIELDS": "x y z"}, "header FIELDS is 'x y z'"),
        ({"TYPE": "F"}, "header TYPE"),
        ({"DATA": "ascii"}, "header DATA is 'ascii'"),
    ],
)
def test_radar_header_that_lies(tmp_path: Path, radar_bytes: RadarBytes, header: dict[str, str], message: str) -> None:
    file = tmp_path / "lies.pcd"
    file.write_bytes(radar_bytes(XYZ, VELOCITY, **header))
    with pytest.raises(DataError, match=rf"lies\.pcd: .*{message}"):
        read_radar(file)


def test_radar_padding_is_taken_as_such(tmp_path: Path, radar_bytes: RadarBytes) -> None:
    file = tmp_path / "r.pcd"
    file.write_bytes(radar_bytes(XYZ, VELOCITY) + bytes(200))
    np.testing.assert_array_equal(read_radar(file)["x"], XYZ[:, 0].astype(np.float32))


def test_radar_nan_beyond_the_first_point_and_no_pcd(tmp_path: Path, radar_bytes: RadarBytes) -> None:
    file = tmp_path / "nan.pcd"
    file.write_bytes(radar_bytes(np.array([[1.0, 2, 3], [np.nan, 5, 6]]), VELOCITY))
    with pytest.raises(DataError, match=r"nan\.pcd: 1 of 2 radar points"):
        read_radar(file)
    file.write_bytes(b"hello")
    with pytest.raises(DataError, match="no PCD file"):
        read_radar(file)


def test_own_vehicle_is_seen_in_its_own_frame() -> None:
    calibration = np.eye(4, dtype=np.float32)
    calibration[:3, 3] = [0.9, 0, 1.84]
    points = np.array([[0, 0, 0], [2, 0, -1], [0, 0, 0.5], [4, 0, 0], [0, 1.5, 0]], dtype=np.float32)
    assert is_own_vehicle(points, calibration).tolist() == [True, True, False, False, False]


def test_picture_coordinates_follow_the_returned_map(tmp_path: Path) -> None:
    """A bright square is found where the map sends its centre, for any zoom, shift and reduced decoding."""
    from PIL import Image

    canvas = np.zeros((450, 800, 3), dtype=np.uint8)
    canvas[300:340, 500:540] = 255
    file = tmp_path / "square.jpg"
    Image.fromarray(canvas).save(file, quality=98)
    for crop in (PictureCrop((64, 192)), PictureCrop((128, 352), 1.15, 0.7), PictureCrop((96, 192), 0.9, -0.4)):
        picture, map_px = read_picture(file, crop)
        assert picture.shape == (3, *crop.size)
        weight = picture[0].astype(np.float64) * (picture[0] > 40)
        v, u = (np.arange(size) + 0.5 for size in crop.size)
        found = np.array([(weight * u).sum(), (weight * v[:, None]).sum()]) / weight.sum()
        expected = (map_px @ [520.0, 320.0, 1.0])[:2]
        np.testing.assert_allclose(found, expected, atol=0.15)


def test_picture_fits_the_width_and_keeps_the_bottom() -> None:
    scale, left, top = PictureCrop((128, 352)).scale_and_origin((900, 1600))
    assert (scale, left) == (0.22, 0.0)
    assert top == pytest.approx(900 * 0.22 - 128)
    picture_edges = PictureCrop((128, 352), 1.1, -1.0).scale_and_origin((900, 1600))
    assert picture_edges[1] == 0.0


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_cut_picture_is_named(tmp_path: Path, share: float) -> None:
    from PIL import Image

    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)).save(whole)
    file = tmp_path / "cut.jpg"
    file.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    for crop in (PictureCrop((32, 64)), None):
        with pytest.raises(DataError, match=r"cut\.jpg: cannot be read as a picture .* fetch the file again"):
            read_picture(file, crop)
