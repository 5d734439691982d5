"""nuScenes' point cloud files: LiDAR `.pcd.bin` and binary radar `.pcd`, as numpy arrays in the sensor's frame.

Both are read with one copy and checked: a file that is cut off, whose header does not fit its data or that holds
numbers that are none is damaged, and says so by name.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fusionperc.data.errors import DataError
from fusionperc.types import RADAR_DTYPE

#: Columns of a LiDAR file, all float32.
LIDAR_COLUMNS = 5
#: Stored LiDAR intensities are 0 to 255.
LIDAR_INTENSITY_MAX = 255.0

#: nuScenes' LiDAR fires all its rings at once, column after column.
LIDAR_RINGS = 32
#: A firing without return is stored nearer to the sensor than this.
_NO_RETURN_M = 1.0
#: How far from the sensor a firing that looks down more steeply than this leaves the vehicle's own roof behind.
_ROOF_M, _ROOF_SINE = 1.5, -0.12

#: LiDAR returns inside this box around the own vehicle, x, y, z in its ego frame (origin on the ground below the rear
#: axle), are its own body, and the sensor's 'no return' at its origin.
EGO_VEHICLE_M = ((-0.9, 3.5), (-1.1, 1.1), (-0.2, 2.2))

_REMEDY = "fetch the file again, or set data.missing=skip after removing it"
_RADAR_FLOATS = tuple(name for name in RADAR_DTYPE.names or () if RADAR_DTYPE[name].kind == "f")


class SensorFile(Protocol):
    """What is read of a file: of a `Path`, or of one that a shard holds. Its name in messages is its `str`."""

    def is_file(self) -> bool: ...

    def read_bytes(self) -> bytes: ...


def read_lidar(path: SensorFile) -> NDArray[np.float32]:
    """(P, 5) of x, y, z in metres in the LiDAR's frame, intensity 0 to 255, ring; not to be written to.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file's size is no whole number of points, or a value is NaN or infinite.
    """
    content = path.read_bytes()
    size = len(content)
    if size % (4 * LIDAR_COLUMNS):
        raise DataError(
            f"{path}: {size} bytes are no whole number of 20-byte LiDAR points, the file is cut off: {_REMEDY}"
        )
    values = np.frombuffer(content, dtype="<f4")
    points = values.reshape(-1, LIDAR_COLUMNS)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(points)).any(1).sum())
        raise DataError(f"{path}: {bad} of {len(points)} LiDAR points are NaN or infinite: {_REMEDY}")
    return points.astype(np.float32, copy=False)


def read_radar(path: SensorFile, point_filter: Literal["devkit", "none"] = "devkit") -> NDArray[Any]:
    """Radar points as a structured array of `RADAR_DTYPE`, in the radar's frame (x front, y left).

    Args:
        path: a binary PCD file with nuScenes' 18 fields.
        point_filter: 'devkit' keeps what the devkit's `RadarPointCloud` keeps by default (valid, of unambiguous
            Doppler, not 'stopped'), 'none' keeps everything.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the header does not say what nuScenes' says, does not fit the data, or a value is NaN or infinite.
            As in the devkit, a first point with NaN says that the cloud is empty.
    """
    content = path.read_bytes()
    header, data = _split_header(path, content)
    count = _checked_count(path, header)
    need = count * RADAR_DTYPE.itemsize
    if len(data) < need:
        raise DataError(f"{path}: POINTS {count} need {need} bytes, only {len(data)} follow the header: {_REMEDY}")
    # The data set's own files are padded with zeros; anything else after the last point is a point not counted.
    if any(data[need:]):
        raise DataError(f"{path}: POINTS {count} leave data uncounted ({len(data) - need} bytes): {_REMEDY}")
    points = np.frombuffer(data, dtype=RADAR_DTYPE, count=count)
    if count == 0:
        return points
    finite = np.all([np.isfinite(points[name]) for name in _RADAR_FLOATS], axis=0)
    if not finite[0]:
        return points[:0]
    if not finite.all():
        raise DataError(f"{path}: {int((~finite).sum())} of {count} radar points are NaN or infinite: {_REMEDY}")
    if point_filter == "none":
        return points
    keep = (points["invalid_state"] == 0) & (points["ambig_state"] == 3)
    keep &= (points["dyn_prop"] >= 0) & (points["dyn_prop"] <= 6)
    filtered: NDArray[Any] = points[keep]
    return filtered


def is_own_vehicle(xyz_m: NDArray[np.float32], ego_T_sensor: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(P,) which (P, 3) points in the sensor's frame lie in `EGO_VEHICLE_M`; `ego_T_sensor` is the calibration."""
    in_ego = xyz_m @ ego_T_sensor[:3, :3].T + ego_T_sensor[:3, 3]
    inside: NDArray[np.bool_] = np.ones(len(in_ego), dtype=bool)
    for axis, (low, high) in enumerate(EGO_VEHICLE_M):
        inside &= (in_ego[:, axis] >= low) & (in_ego[:, axis] <= high)
    return inside


def lidar_rays(
    points: NDArray[np.float32], ego_T_sensor: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each firing of a sweep looked and how far it got, in the LiDAR's frame.

    A firing that met nothing is stored near the sensor's origin, without its direction: that is the mean azimuth of its
    column of firings and the median elevation of its ring, of which what the own roof returns is far off: it is too
    near to be measured well. Firings that met the own vehicle are left out, and those that met nothing where the file
    does not hold whole columns.

    Args:
        points: as `read_lidar`.
        ego_T_sensor: (4, 4) calibration.

    Returns:
        (R, 3) unit vectors, (R,) ranges in metres, infinite where nothing came back.
    """
    xyz = points[:, :3]
    distance = np.linalg.norm(xyz, axis=1)
    returned = distance > _NO_RETURN_M
    direction = xyz / np.maximum(distance, 1e-6)[:, None]
    rings = points[:LIDAR_RINGS, 4]
    is_whole = len(points) % LIDAR_RINGS == 0 and len(np.unique(rings)) == LIDAR_RINGS
    if is_whole and bool((points[:, 4].reshape(-1, LIDAR_RINGS) == rings).all()):
        direction, is_known = _completed(direction, returned)
    else:
        is_known = returned
    # The roof right below the sensor is too near to be measured: what looks down at it is no free space.
    is_own = is_own_vehicle(np.where(returned[:, None], xyz, _ROOF_M * direction), ego_T_sensor)
    kept = is_known & ~(is_own & (returned | (direction[:, 2] < _ROOF_SINE)))
    return direction[kept], np.where(returned, distance, np.float32(np.inf))[kept]


def _completed(
    direction: NDArray[np.float32], returned: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Directions of all firings of whole columns, and which are known."""
    table = np.where(returned[:, None], direction, 0).reshape(-1, LIDAR_RINGS, 3)
    column = table[..., :2].sum(1)
    length = np.linalg.norm(column, axis=1)
    azimuth = column / np.maximum(length, 1e-6)[:, None]
    hits = returned.reshape(-1, LIDAR_RINGS)
    sine = _medians(table[..., 2], hits)
    cosine = np.sqrt(np.maximum(0, 1 - sine**2))
    guess = np.empty_like(table)
    guess[..., :2] = azimuth[:, None] * cosine[None, :, None]
    guess[..., 2] = sine
    is_known = hits | ((length > 0.5)[:, None] & (hits.sum(0) > 0))
    return np.where(hits[..., None], table, guess).reshape(-1, 3), is_known.reshape(-1)


def _medians(values: NDArray[np.float32], is_known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The median of what is known of each column, 0 of nothing."""
    count = is_known.sum(0)
    ascending = np.sort(np.where(is_known, values, np.inf), axis=0)
    middle = np.take_along_axis(ascending, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return np.where(count > 0, middle, 0.0).astype(np.float32)


def _split_header(path: SensorFile, content: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The header's words by key, and the bytes after its DATA line."""
    start = content.find(b"\nDATA ")
    end = content.find(b"\n", start + 1)
    if start < 0 or end < 0:
        raise DataError(f"{path}: no PCD file (no DATA line in its header): {_REMEDY}")
    lines = content[:end].decode("ascii", errors="replace").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return {line[0]: line[1:] for line in words if line}, content[end + 1 :]


def _checked_count(path: SensorFile, header: dict[str, list[str]]) -> int:
    """The number of points after holding the header against nuScenes' own."""
    names = list(RADAR_DTYPE.names or ())
    expected = {
        "FIELDS": names,
        "SIZE": [str(RADAR_DTYPE[name].itemsize) for name in names],
        "TYPE": ["F" if RADAR_DTYPE[name].kind == "f" else "I" for name in names],
        "COUNT": ["1"] * len(names),
        "HEIGHT": ["1"],
        "DATA": ["binary"],
    }
    for key, value in expected.items():
        if header.get(key) != value:
            found = " ".join(header[key]) if key in header else "missing"
            raise DataError(f"{path}: PCD header {key} is '{found}', nuScenes radar has '{' '.join(value)}': {_REMEDY}")
    try:
        width, points = (int(header[key][0]) for key in ("WIDTH", "POINTS"))
    except (KeyError, IndexError, ValueError):
        raise DataError(f"{path}: PCD header without numbers for WIDTH and POINTS: {_REMEDY}") from None
    if width != points or points < 0:
        raise DataError(f"{path}: PCD header has WIDTH {width} but POINTS {points}, they must be equal: {_REMEDY}")
    return points
