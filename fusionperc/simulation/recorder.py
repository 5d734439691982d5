"""Records one simulated drive: moves the world along, fires the sensors when they are due, writes what they measure."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.sensors import camera, lidar, radar
from fusionperc.simulation.sensors.rig import (
    LIDAR_PERIOD_US,
    RADAR_PERIOD_US,
    SWEEPS_PER_KEY_FRAME,
    Rig,
    draw_rig,
    picture_size_px,
)
from fusionperc.simulation.sensors.weather import WeatherKind, make_weather, sample_weather
from fusionperc.simulation.traffic.drive import Actor, EgoState, TrafficDrive, simulate_traffic
from fusionperc.simulation.world.world import World
from fusionperc.simulation.writing.can_bus import write_can_bus
from fusionperc.simulation.writing.labels import count_points, visibility_levels
from fusionperc.simulation.writing.map_expansion import write_maps
from fusionperc.simulation.writing.writer import (
    COMPACT_JPEG_QUALITY,
    JPEG_QUALITY,
    DriveName,
    DriveWriter,
    Label,
    jpeg_bytes,
    token,
)
from fusionperc.types import CAMERAS, LIDAR, RADARS

Split = Literal["train", "val", "test"]
KEY_FRAME_PERIOD_US = LIDAR_PERIOD_US * SWEEPS_PER_KEY_FRAME
#: Objects within this range are in the world; those nearer than the second are annotated.
WORLD_RADIUS_M, LABEL_RADIUS_M = 100.0, 80.0
#: Ten LiDAR sweeps and six radar scans lie before the first key frame.
_LEAD_US = 540_000
_CAMERA_SWEEPS_PER_KEY_FRAME = 6
_SECTOR_US = round(lidar.PERIOD_S * 1e6) // lidar.NUM_SECTORS
_TRAFFIC_ATTEMPTS = 5
#: A compact drive keeps every second sweep, the key frames' among them.
_COMPACT_LIDAR_STEP = 2
#: 2026-01-01 00:00 UTC: drives are an hour apart from here on.
_FIRST_START_US = 1_767_225_600_000_000


@dataclass(frozen=True)
class DriveSpec:
    """All that decides one drive's bytes.

    Attributes:
        set_name: of the set it belongs to; part of every token.
        name: nuScenes scene name.
        split: which of the set's splits it belongs to.
        number: unique in the set; start of its random numbers and its place in time.
        seed: of the set.
        town_seed: layout of the town; drives may share one.
        duration_s: half a second a key frame.
        image_scale: pictures relative to 1600x900.
        lidar_azimuths: columns of a LiDAR sweep.
        camera_sweeps: whether cameras also take pictures between key frames, at 12 Hz.
        is_labelled: whether its objects are annotated.
        compact: whether there are LiDAR sweeps at 10 Hz only, without the firings that had no echo, and pictures are
            compressed further.
        weather: of the drive; None draws it.
    """

    set_name: str
    name: str
    split: Split
    number: int
    seed: int
    town_seed: int
    duration_s: float
    image_scale: float
    lidar_azimuths: int = lidar.NUM_AZIMUTHS
    camera_sweeps: bool = False
    is_labelled: bool = True
    compact: bool = False
    weather: WeatherKind | None = None

    @property
    def num_key_frames(self) -> int:
        return max(2, round(self.duration_s * 1e6 / KEY_FRAME_PERIOD_US))

    @property
    def start_us(self) -> int:
        return _FIRST_START_US + self.number * 3_600_000_000


def record_drive(spec: DriveSpec, root: Path, on_key_frame: Callable[[], None]) -> None:
    """Simulates and writes one drive; its row file is written last.

    Args:
        spec: the drive.
        root: folder of the set.
        on_key_frame: called after each key frame.

    Raises:
        ImportError: the traffic simulator is not installed.
        OSError: the folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="fusionperc-") as folder:
        drive = drive_traffic(spec, Path(folder))
    recorder = _Recorder(spec, drive, root)
    map_token = write_maps(recorder.writer, drive.town)
    recorder.run(on_key_frame)
    recorder.writer.finish(recorder.weather.description, map_token)


def drive_traffic(spec: DriveSpec, folder: Path) -> TrafficDrive:
    """Traffic of the drive; where no car of the recording kind drove through, another seed is tried."""
    seed = spec.seed * 100_000 + spec.number
    for attempt in range(_TRAFFIC_ATTEMPTS - 1):
        try:
            return simulate_traffic(spec.town_seed, seed + 10_000 * attempt, spec.duration_s, folder)
        except RuntimeError as error:
            if "drive seed" not in str(error):
                raise
    return simulate_traffic(spec.town_seed, seed + 10_000 * (_TRAFFIC_ATTEMPTS - 1), spec.duration_s, folder)


@dataclass
class _KeyFrame:
    """What is known of a key frame until its labels can be made."""

    time_us: int
    actors: list[Actor]
    num_lidar_pts: NDArray[np.int64]
    num_radar_pts: NDArray[np.int64]
    visibility: list[int]


class _Recorder:
    """The clockwork of one drive. Times are microseconds relative to the first key frame."""

    def __init__(self, spec: DriveSpec, drive: TrafficDrive, root: Path) -> None:
        self.spec = spec
        self.drive = drive
        self.world = World(drive.town, drive.standing())
        self.size_px = picture_size_px(spec.image_scale)
        self.name = DriveName(spec.set_name, spec.name, f"simulated-town-{spec.town_seed:04d}", spec.start_us)
        self.rig: Rig = draw_rig(self._rng("rig", 0))
        self.writer = DriveWriter(root, self.name, self.size_px, self.rig)
        rng = self._rng("weather", 0)
        self.weather = make_weather(spec.weather, rng) if spec.weather else sample_weather(rng)
        self.last_us = (spec.num_key_frames - 1) * KEY_FRAME_PERIOD_US
        self.radar_due = {channel: self._radar_times(channel) for channel in RADARS}

    def run(self, on_key_frame: Callable[[], None]) -> None:
        """Fires all in order of time; actors stand still for a radar, which corrects for what they moved since."""
        key_frames: dict[int, _KeyFrame] = {}
        sweeps = range(-SWEEPS_PER_KEY_FRAME, self.last_us // LIDAR_PERIOD_US + 1)
        # A radar's key scan can come a tick before its key frame: the frames' objects are known ahead.
        for time_us in range(0, self.last_us + 1, KEY_FRAME_PERIOD_US):
            actors = self.drive.actors_at(time_us * 1e-6, LABEL_RADIUS_M)
            none = np.zeros(len(actors), dtype=np.int64)
            key_frames[time_us] = _KeyFrame(time_us, actors, none, none, [])
            self.writer.add_key_frame(self.spec.start_us + time_us)
        for sweep in sweeps:
            time_us = sweep * LIDAR_PERIOD_US
            frame = key_frames.get(time_us)
            if sweep % (_COMPACT_LIDAR_STEP if self.spec.compact else 1) == 0:
                self._lidar(time_us, frame)
            actors = self._place_actors(time_us)
            self._radars(time_us, actors, key_frames)
            if frame is not None:
                frame.visibility = visibility_levels(self.world, frame.actors, self.rig, self._ego(time_us).world_T_ego)
            self._cameras(time_us)
            if frame is not None:
                on_key_frame()
        if self.spec.is_labelled:
            for frame in key_frames.values():
                self.writer.add_labels(self.spec.start_us + frame.time_us, _labels(frame))
        write_can_bus(self.writer, self.drive, self.last_us, self._rng("can_bus", 0))

    def _rng(self, what: str, time_us: int) -> np.random.Generator:
        """Random numbers of one firing, whatever else happened before."""
        label = int(token(what)[:8], 16)
        return np.random.default_rng((self.spec.seed, self.spec.number, label, time_us + 10_000_000))

    def _ego(self, time_us: int) -> EgoState:
        return self.drive.ego_at(time_us * 1e-6)

    def _lidar(self, time_us: int, frame: _KeyFrame | None) -> None:
        """One turn, which ends at `time_us`; the actors are left where they are in the middle of its last sector."""
        bounds_us = time_us - round(lidar.PERIOD_S * 1e6) + np.arange(lidar.NUM_SECTORS + 1) * _SECTOR_US
        ego_T_lidar = self.rig[LIDAR].ego_T_sensor
        poses = np.stack([self._ego(bound).world_T_ego @ ego_T_lidar for bound in bounds_us.tolist()])
        middles_us = (bounds_us[:-1] + _SECTOR_US // 2).tolist()
        points, has_echo = lidar.scan(
            self.world,
            poses,
            self.weather,
            self._rng(LIDAR, time_us),
            num_azimuths=self.spec.lidar_azimuths,
            place_actors=lambda sector: self._place_in_sector(sector, middles_us[sector], poses[sector]),
        )
        if frame is not None:
            frame.num_lidar_pts, clear = count_points(points[:, :3], poses[-1], frame.actors)
            points[~clear, :3] = 0.0
            has_echo &= clear
        if self.spec.compact:
            points = points[has_echo]
        state = self._ego(time_us)
        self.writer.add_sensor(
            LIDAR, self.spec.start_us + time_us, state, points.tobytes(), is_key_frame=frame is not None
        )

    def _place_in_sector(self, sector: int, time_us: int, world_T_lidar: NDArray[np.float64]) -> None:
        """Places what a sector's rays may meet: most of the time goes into putting up the scene."""
        actors = self.drive.actors_at(time_us * 1e-6, WORLD_RADIUS_M)
        if not actors:
            return self.world.set_actors([])
        places = np.array([actor.center_m[:2] for actor in actors])
        reach = np.array([0.5 * math.hypot(*actor.size_lwh_m[:2]) for actor in actors])
        towards = (places - world_T_lidar[:2, 3]) @ world_T_lidar[:2, :2]
        met = lidar.in_sector(sector, towards, reach)
        return self.world.set_actors([actor for actor, is_met in zip(actors, met, strict=True) if is_met])

    def _place_actors(self, time_us: int) -> list[Actor]:
        actors = self.drive.actors_at(time_us * 1e-6, WORLD_RADIUS_M)
        self.world.set_actors(actors)
        return actors

    def _radar_times(self, channel: str) -> dict[int, int | None]:
        """Scan times of a radar, each with the key frame it belongs to or None."""
        first = -_LEAD_US + self.rig[channel].delay_us % RADAR_PERIOD_US
        times = np.arange(first, self.last_us + RADAR_PERIOD_US // 2, RADAR_PERIOD_US)
        due: dict[int, int | None] = dict.fromkeys(times.tolist())
        for key_us in range(0, self.last_us + 1, KEY_FRAME_PERIOD_US):
            due[int(times[np.argmin(np.abs(times - key_us))])] = key_us
        return due

    def _radars(self, time_us: int, actors: list[Actor], key_frames: dict[int, _KeyFrame]) -> None:
        """Fires the radars due within half a LiDAR period of the world's time (after the last sweep: all left)."""
        is_first = time_us == -SWEEPS_PER_KEY_FRAME * LIDAR_PERIOD_US
        low = -_LEAD_US if is_first else time_us - LIDAR_PERIOD_US // 2
        high = time_us + (RADAR_PERIOD_US if time_us == self.last_us else LIDAR_PERIOD_US // 2)
        for channel, due in self.radar_due.items():
            for scan_us, key_us in due.items():
                if low <= scan_us < high:
                    frame = None if key_us is None else key_frames[key_us]
                    self._radar(channel, scan_us, time_us, actors, frame)

    def _radar(self, channel: str, scan_us: int, world_us: int, actors: list[Actor], frame: _KeyFrame | None) -> None:
        state = self._ego(scan_us)
        pose = state.world_T_ego
        world_T_radar = pose @ self.rig[channel].ego_T_sensor
        lever = world_T_radar[:2, 3] - pose[:2, 3]
        velocity = state.speed_mps * pose[:2, 0] + state.yaw_rate_radps * np.array([-lever[1], lever[0]])
        delay_s = (scan_us - world_us) * 1e-6
        rng = self._rng(channel, scan_us)
        records = radar.scan(self.world, actors, world_T_radar, velocity, rng, actor_delay_s=delay_s)
        if frame is not None and np.isfinite(records["x"]).all():
            xyz = np.stack([records["x"], records["y"], records["z"]], axis=1)
            # As in nuScenes, points of all radars count, whatever their validity.
            counted, clear = count_points(xyz, world_T_radar, frame.actors)
            frame.num_radar_pts = frame.num_radar_pts + counted
            if clear.any():
                records = records[clear]
        self.writer.add_sensor(
            channel, self.spec.start_us + scan_us, state, radar.pcd_bytes(records), is_key_frame=frame is not None
        )

    def _cameras(self, sweep_us: int) -> None:
        """Takes the pictures of a key frame and, where asked for, those up to the next one."""
        if sweep_us < 0 or sweep_us % KEY_FRAME_PERIOD_US:
            return
        per_frame = _CAMERA_SWEEPS_PER_KEY_FRAME if self.spec.camera_sweeps and sweep_us < self.last_us else 1
        for shot in range(per_frame):
            for channel in CAMERAS:
                shift = shot * KEY_FRAME_PERIOD_US // _CAMERA_SWEEPS_PER_KEY_FRAME
                self._picture(channel, sweep_us + self.rig[channel].delay_us + shift, is_key_frame=shot == 0)

    def _picture(self, channel: str, time_us: int, *, is_key_frame: bool) -> None:
        state = self._ego(time_us)
        pose = state.world_T_ego
        actors = self._place_actors(time_us)
        rng = self._rng(channel, time_us)
        pixels, _ = camera.picture(self.world, self.rig[channel], pose, self.weather, actors, self.size_px, rng)
        content = jpeg_bytes(pixels, COMPACT_JPEG_QUALITY if self.spec.compact else JPEG_QUALITY)
        self.writer.add_sensor(channel, self.spec.start_us + time_us, state, content, is_key_frame=is_key_frame)


def _labels(frame: _KeyFrame) -> list[Label]:
    """Annotations of a key frame: as in nuScenes, objects with at least one LiDAR or radar point."""
    return [
        Label(actor, int(num_lidar), int(num_radar), visibility)
        for actor, num_lidar, num_radar, visibility in zip(
            frame.actors, frame.num_lidar_pts, frame.num_radar_pts, frame.visibility, strict=True
        )
        if num_lidar + num_radar > 0
    ]
