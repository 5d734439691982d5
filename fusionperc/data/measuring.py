"""What LiDAR and radars measured at the key frame and in the seconds after it, for pretraining.

Later sweeps are any sweeps, not only key frames. Everything is moved into the key frame's ego frame by ego motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fusionperc.data.index import LIDAR_COLUMN, RADAR_COLUMNS
from fusionperc.data.pointclouds import lidar_rays, read_lidar, read_radar
from fusionperc.data.sensor_files import SensorFiles
from fusionperc.measurements import LidarRays, Measurements, RadarReturns

#: A sweep further in time from the moment asked for is not taken (radars scan at 13 Hz, compact drives sweep at 10 Hz).
SLACK_S = 0.11


def measured_at(
    files: SensorFiles,
    sample: int,
    horizons_s: Sequence[float],
    num_rays: int,
    generator: np.random.Generator | None = None,
) -> Measurements:
    """The sweep and scans nearest to each moment, those of the drive's end and of missing files left out.

    Args:
        files: of the folder.
        sample: its place in the index.
        horizons_s: moments after the key frame.
        num_rays: so many rays of each sweep, drawn with `generator`, or evenly spaced over the sweep without one.
        generator: of the draw.

    Returns:
        A record of one sample.

    Raises:
        DataError: a damaged file.
    """
    moments = len(horizons_s)
    origin = np.zeros((moments, 3), dtype=np.float32)
    direction = np.zeros((moments, num_rays, 3), dtype=np.float32)
    range_m = np.full((moments, num_rays), np.nan, dtype=np.float32)
    xyz, line_of_sight, radial, moment_index = [], [], [], []
    is_measured = np.zeros(moments, dtype=bool)
    for moment, horizon_s in enumerate(horizons_s):
        sweep = lidar_sweep(files, sample, horizon_s)
        if sweep is not None:
            chosen = _chosen(len(sweep.range_m), num_rays, generator)
            origin[moment] = sweep.origin_m
            direction[moment, : len(chosen)] = sweep.direction[chosen]
            range_m[moment, : len(chosen)] = sweep.range_m[chosen]
        for column in range(RADAR_COLUMNS.start, RADAR_COLUMNS.stop):
            row = _nearest(files, sample, column, horizon_s)
            if row is None:
                continue
            is_measured[moment] = True
            places, lines, speeds = _radar(files, sample, row)
            xyz.append(places)
            line_of_sight.append(lines)
            radial.append(speeds)
            moment_index.append(np.full(len(places), moment, dtype=np.int64))
    return Measurements(
        horizon_s=torch.tensor([list(horizons_s)], dtype=torch.float32),
        lidar=LidarRays(torch.from_numpy(origin), torch.from_numpy(direction), torch.from_numpy(range_m)),
        radar=RadarReturns(
            torch.from_numpy(np.concatenate([np.zeros((0, 3), np.float32), *xyz])),
            torch.from_numpy(np.concatenate([np.zeros((0, 2), np.float32), *line_of_sight])),
            torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *radial])),
            torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *moment_index])),
            torch.from_numpy(is_measured),
        ),
    )


def _nearest(files: SensorFiles, sample: int, column: int, horizon_s: float) -> int | None:
    """The row of a channel nearest to a moment after the key frame; None if none is near enough or there is no file."""
    index = files.index
    key = int(index.sample_row[sample, column])
    if key < 0:
        return None
    first, last = int(index.row_first[key]), int(index.row_last[key])
    wanted_us = index.row_time_us[index.sample_reference[sample]] + round(horizon_s * 1e6)
    after = first + int(np.searchsorted(index.row_time_us[first : last + 1], wanted_us))
    near = [row for row in (after - 1, after) if first <= row <= last]
    row = min(near, key=lambda candidate: abs(int(index.row_time_us[candidate]) - wanted_us))
    if abs(int(index.row_time_us[row]) - wanted_us) > SLACK_S * 1e6:
        return None
    return row if files.file(row).is_file() else None


class Sweep(NamedTuple):
    """The rays of a LiDAR sweep in the key frame's ego frame.

    Attributes:
        later_s: how much later than the key frame it is.
        origin_m: (3,) where the sensor is.
        direction: (R, 3) of length one.
        range_m: (R,) where each ray ended, infinite where nothing came back.
    """

    later_s: float
    origin_m: NDArray[np.float32]
    direction: NDArray[np.float32]
    range_m: NDArray[np.float32]

    def points_m(self) -> NDArray[np.float32]:
        """(P, 3) where rays ended."""
        returned = np.isfinite(self.range_m)
        ends: NDArray[np.float32] = self.origin_m + self.direction[returned] * self.range_m[returned, None]
        return ends


def lidar_sweep(files: SensorFiles, sample: int, horizon_s: float) -> Sweep | None:
    """All rays of the sweep nearest to a moment after the key frame; None if none is near enough.

    Raises `DataError` for a damaged file.
    """
    row = _nearest(files, sample, LIDAR_COLUMN, horizon_s)
    if row is None:
        return None
    ego_T_sensor, own_T_sensor = (m[0].float().numpy() for m in files.ego_T_sensor(sample, [row]))
    points = read_lidar(files.file(row))
    direction, range_m = lidar_rays(points, own_T_sensor)
    index = files.index
    later_us = int(index.row_time_us[row]) - int(index.row_time_us[index.sample_reference[sample]])
    return Sweep(later_us / 1e6, ego_T_sensor[:3, 3], direction @ ego_T_sensor[:3, :3].T, range_m)


def _radar(
    files: SensorFiles, sample: int, row: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(P, 3) returns, (P, 2) line of sight, (P,) speed over ground along it."""
    transform = files.ego_T_sensor(sample, [row])[0][0].float().numpy()
    points = read_radar(files.file(row), files.config.radar_filter)
    own = np.stack([points["x"], points["y"], points["z"]], 1).astype(np.float32)
    turned = own @ transform[:3, :3].T
    line = turned[:, :2] / np.maximum(np.linalg.norm(turned[:, :2], axis=1, keepdims=True), 1e-6)
    velocity = np.stack([points["vx_comp"], points["vy_comp"]], 1) @ transform[:2, :2].T
    return turned + transform[:3, 3], line, (velocity * line).sum(1).astype(np.float32)


def _chosen(count: int, wanted: int, generator: np.random.Generator | None) -> NDArray[np.int64]:
    if count <= wanted:
        return np.arange(count)
    if generator is None:
        return np.linspace(0, count - 1, wanted).round().astype(np.int64)
    return generator.choice(count, wanted, replace=False)
