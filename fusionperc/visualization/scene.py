"""What is to be seen of a sample, as plain numpy primitives that any renderer can draw.

`build_scene` turns sensor data and boxes into points, lines, labels and pictures with colours; nothing here draws.
World primitives are in the ego frame, metres; picture primitives in pixels of their picture. Colours are RGB in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fusionperc.geometry import CORNER_EDGES, rotation_from_yaw
from fusionperc.types import CAMERAS, CLASSES, Boxes, CameraInputs, Detections, Points, SensorInputs
from fusionperc.visualization.projection import Array, project_segments, segments_in_rectangle

Colour = tuple[float, float, float]


def _rgb(code: str) -> Colour:
    return (int(code[1:3], 16) / 255, int(code[3:5], 16) / 255, int(code[5:7], 16) / 255)


BACKGROUND = _rgb("#0d1117")
RING_COLOUR = _rgb("#2b3440")
EGO_COLOUR = _rgb("#e6edf3")
GROUND_TRUTH_COLOUR = _rgb("#ffffff")
RADAR_COLOUR = _rgb("#ff3df2")

#: Told apart on a dark background, from each other, from white and from the radar's magenta.
CLASS_COLOURS: dict[str, Colour] = {
    "car": _rgb("#ff9e3d"),
    "truck": _rgb("#ff5d5d"),
    "bus": _rgb("#ffd23f"),
    "trailer": _rgb("#c98bff"),
    "construction_vehicle": _rgb("#c98d4b"),
    "pedestrian": _rgb("#4cc9ff"),
    "motorcycle": _rgb("#d4ff3d"),
    "bicycle": _rgb("#57e389"),
    "traffic_cone": _rgb("#00e0c6"),
    "barrier": _rgb("#7d8bff"),
}

#: Height above the ground (m) and colour: the ground stays dim, what stands on it shines.
_HEIGHT_RAMP = (
    (-1.5, "#33448f"),
    (0.0, "#3d79b3"),
    (0.4, "#35b0b5"),
    (1.2, "#6ede70"),
    (2.2, "#dfe318"),
    (4.0, "#f98e2b"),
    (8.0, "#e8476a"),
)
#: Brightness of points of earlier sweeps, which smear what moves.
_OLD_SWEEP_BRIGHTNESS = 0.55
_KEY_FRAME_AGE_S = 0.02

#: The recording vehicle, about: the ego frame's origin lies on the ground below its rear axle.
_EGO_CENTER_M = (1.35, 0.0, 0.78)
_EGO_SIZE_LWH_M = (4.1, 1.75, 1.56)

_DASH_M = 0.35
_RADAR_SLOWEST_MPS = 0.5
_ARROW_SECONDS = 1.0
_RADAR_POST_M = 0.6
#: Each radar's newest sweep is younger than this; only its returns get arrows, earlier ones would only thicken them.
_RADAR_NEWEST_S = 0.08


@dataclass(frozen=True)
class PointSet:
    """`xyz_m` (P, 3) with colours `rgb` (P, 3), drawn `size_px` wide."""

    name: str
    xyz_m: Array
    rgb: Array
    size_px: float


@dataclass(frozen=True)
class LineSet:
    """`segments_m` (S, 2, 3) with colours `rgb` (S, 3), drawn `width_px` wide."""

    name: str
    segments_m: Array
    rgb: Array
    width_px: float


@dataclass(frozen=True)
class Label:
    """A short text at a place."""

    text: str
    position_m: tuple[float, float, float]
    colour: Colour


@dataclass(frozen=True)
class PictureLines:
    """`segments_px` (S, 2, 2) u, v with colours `rgb` (S, 3), drawn `width_px` wide on a picture."""

    segments_px: Array
    rgb: Array
    width_px: float


@dataclass(frozen=True)
class Picture:
    """One camera's picture (H, W, 3) uint8 and the lines and labels (u, v, text, colour) that lie on it."""

    name: str
    image: NDArray[np.uint8]
    lines: tuple[PictureLines, ...]
    labels: tuple[tuple[float, float, str, Colour], ...]


@dataclass(frozen=True)
class SceneDrawing:
    """All there is to draw of a sample.

    Attributes:
        points, lines, labels: in the ego frame.
        pictures: in the order of `types.CAMERAS`; None where a camera is absent.
        range_m: half side of the square around the ego that is of interest.
        has_ground_truth, has_detections: what the legend is to explain.
    """

    points: tuple[PointSet, ...]
    lines: tuple[LineSet, ...]
    labels: tuple[Label, ...]
    pictures: tuple[Picture | None, ...]
    range_m: float
    has_ground_truth: bool
    has_detections: bool


def build_scene(
    inputs: SensorInputs,
    ground_truth: Boxes | None = None,
    detections: Detections | None = None,
    *,
    range_m: float = 51.2,
) -> SceneDrawing:
    """The drawing of one sample.

    Detections have their class's colour; the ground truth is dashed white beside them, and in class colours where it is
    alone.

    Args:
        inputs: a batch of one, pictures in the size in which they are to be seen.
        ground_truth, detections: in the ego frame; None leaves them out.
        range_m: half side of the square that is drawn.

    Raises:
        ValueError: more than one sample.
    """
    if inputs.batch_size != 1:
        raise ValueError(f"build_scene draws one sample, the inputs hold {inputs.batch_size}")
    boxes: list[LineSet] = []
    if ground_truth is not None:
        boxes.append(_ground_truth_lines(ground_truth, is_alone=detections is None))
    labels: tuple[Label, ...] = ()
    if detections is not None:
        boxes.append(_box_lines("detections", detections, class_colours(detections), 2.0))
        labels = _score_labels(detections)
    points: list[PointSet] = []
    arrows: list[LineSet] = []
    if inputs.lidar is not None:
        points.append(_lidar_points(inputs.lidar, range_m))
    if inputs.radar is not None:
        points.append(_radar_points(inputs.radar, range_m))
        arrows += [_radar_posts(inputs.radar, range_m), _radar_arrows(inputs.radar, range_m)]
    return SceneDrawing(
        points=tuple(points),
        lines=(_rings(range_m), _ego_lines(), *arrows, *boxes),
        labels=labels,
        pictures=_pictures(inputs.cameras, boxes, labels),
        range_m=range_m,
        has_ground_truth=ground_truth is not None,
        has_detections=detections is not None,
    )


def class_colours(boxes: Boxes) -> Array:
    """(N, 3) colour of each box's class."""
    table = np.array([CLASS_COLOURS[name] for name in CLASSES], dtype=np.float32)
    colours: Array = table[boxes.class_index.cpu().numpy()]
    return colours


def height_colours(height_m: Array) -> Array:
    """(P, 3) colour of each height above the ground."""
    heights = [height for height, _ in _HEIGHT_RAMP]
    ramp = np.array([_rgb(code) for _, code in _HEIGHT_RAMP])
    return np.stack([np.interp(height_m, heights, ramp[:, c]) for c in range(3)], axis=1).astype(np.float32)


# -- boxes ------------------------------------------------------------------------------------------------------------


def box_segments(boxes: Boxes) -> Array:
    """(N, 13, 2, 3): the twelve edges of each box and its heading mark, from the floor's centre to beyond its front."""
    corners = boxes.corners_m().cpu()
    edges = corners[:, torch.tensor(CORNER_EDGES)]
    floor = corners[:, :4].mean(dim=1)
    front = corners[:, [0, 3]].mean(dim=1)
    reach_m = (0.25 * boxes.size_lwh_m[:, :1].cpu()).clamp(max=1.0)
    ahead = rotation_from_yaw(boxes.yaw_rad.cpu())[:, :, 0] * reach_m
    heading = torch.stack([floor, front + ahead], dim=1)
    segments: Array = torch.cat([edges, heading[:, None]], dim=1).float().numpy()
    return segments


def _box_lines(name: str, boxes: Boxes, colours: Array, width_px: float) -> LineSet:
    segments = box_segments(boxes)
    rgb = np.repeat(colours, segments.shape[1], axis=0)
    return LineSet(name, segments.reshape(-1, 2, 3), rgb, width_px)


def _ground_truth_lines(boxes: Boxes, *, is_alone: bool) -> LineSet:
    if is_alone:
        return _box_lines("ground truth", boxes, class_colours(boxes), 1.6)
    white = _repeated(GROUND_TRUTH_COLOUR, len(boxes))
    return dashed(_box_lines("ground truth", boxes, white, 1.0), _DASH_M)


def dashed(lines: LineSet, dash_m: float) -> LineSet:
    """The same lines as dashes: every other piece of about `dash_m`, both ends drawn."""
    length = np.linalg.norm(lines.segments_m[:, 1] - lines.segments_m[:, 0], axis=1)
    dashes = np.ceil((np.maximum(length / dash_m, 1.0) + 1) / 2).astype(int)
    which = np.repeat(np.arange(len(length)), dashes)
    place = np.arange(len(which)) - np.repeat(np.cumsum(dashes) - dashes, dashes)
    pieces = (2 * dashes - 1)[which]
    start, end = lines.segments_m[which, 0], lines.segments_m[which, 1]
    share = np.stack([2 * place / pieces, (2 * place + 1) / pieces], axis=1)[:, :, None]
    segments = (start[:, None] + share * (end - start)[:, None]).astype(np.float32)
    return LineSet(lines.name, segments, lines.rgb[which], lines.width_px)


def _score_labels(detections: Detections) -> tuple[Label, ...]:
    top = detections.center_m + torch.stack(
        [torch.zeros(len(detections)), torch.zeros(len(detections)), detections.size_lwh_m[:, 2] / 2], dim=1
    )
    return tuple(
        Label(f"{score:.2f}".removeprefix("0"), (place[0], place[1], place[2]), CLASS_COLOURS[CLASSES[index]])
        for score, place, index in zip(
            detections.score.tolist(), top.tolist(), detections.class_index.tolist(), strict=True
        )
    )


# -- sensors ----------------------------------------------------------------------------------------------------------


def _repeated(colour: Colour, count: int) -> Array:
    """(count, 3)."""
    return np.tile(np.array(colour, dtype=np.float32), (count, 1))


def _within(points: Points, range_m: float) -> Points:
    keep = (points.xyz_m[:, :2].abs() <= range_m).all(dim=1)
    return Points(points.xyz_m[keep], points.features[keep], points.sample_index[keep], 1)


def _lidar_points(lidar: Points, range_m: float) -> PointSet:
    """Older sweeps first and darker, so that the key frame's lies on top."""
    kept = _within(lidar, range_m)
    age_s = kept.features[:, 1]
    order = torch.argsort(age_s, descending=True, stable=True)
    xyz = kept.xyz_m[order].float().numpy()
    brightness = np.where(age_s[order].numpy() > _KEY_FRAME_AGE_S, _OLD_SWEEP_BRIGHTNESS, 1.0)
    rgb = height_colours(xyz[:, 2]) * brightness[:, None].astype(np.float32)
    return PointSet("LiDAR", xyz, rgb, 2.0)


def _radar_points(radar: Points, range_m: float) -> PointSet:
    kept = _within(radar, range_m)
    return PointSet("radar", kept.xyz_m.float().numpy(), _radar_colours(kept), 4.0)


def _radar_colours(radar: Points) -> Array:
    """(P, 3), darker for earlier sweeps."""
    brightness = np.where(radar.features[:, 3].numpy() > _RADAR_NEWEST_S, _OLD_SWEEP_BRIGHTNESS, 1.0)
    colours: Array = _repeated(RADAR_COLOUR, len(radar)) * brightness[:, None].astype(np.float32)
    return colours


def _radar_posts(radar: Points, range_m: float) -> LineSet:
    """A post on each return: among LiDAR points a point alone would be lost, and radar measures no height."""
    kept = _within(radar, range_m)
    xyz = kept.xyz_m.float().numpy()
    half = np.array([0.0, 0.0, _RADAR_POST_M / 2], dtype=np.float32)
    return LineSet("radar", np.stack([xyz - half, xyz + half], axis=1), _radar_colours(kept), 2.0)


def _radar_arrows(radar: Points, range_m: float) -> LineSet:
    """Where each moving return of the newest sweeps would be in a second, with an arrow head."""
    kept = _within(radar, range_m)
    velocity = kept.features[:, 1:3].float().numpy()
    moving = np.linalg.norm(velocity, axis=1) > _RADAR_SLOWEST_MPS
    moving &= kept.features[:, 3].numpy() <= _RADAR_NEWEST_S
    start = kept.xyz_m.float().numpy()[moving]
    way = np.zeros_like(start)
    way[:, :2] = velocity[moving] * _ARROW_SECONDS
    side = np.stack([-way[:, 1], way[:, 0], way[:, 2]], axis=1)
    tip = start + way
    back = tip - 0.25 * way
    strokes = [(start, tip), (tip, back + 0.12 * side), (tip, back - 0.12 * side)]
    segments = np.stack([np.stack(stroke, axis=1) for stroke in strokes], axis=1).reshape(-1, 2, 3)
    return LineSet("radar velocity", segments, _repeated(RADAR_COLOUR, len(segments)), 1.2)


def _rings(range_m: float) -> LineSet:
    """Circles every 10 m on the ground."""
    angle = np.linspace(0, 2 * math.pi, 121)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    rings = [radius * np.stack([circle[:-1], circle[1:]], axis=1) for radius in range(10, int(range_m) + 1, 10)]
    segments = np.concatenate(rings or [np.zeros((0, 2, 3))]).astype(np.float32)
    return LineSet("range rings", segments, _repeated(RING_COLOUR, len(segments)), 1.0)


def _ego_lines() -> LineSet:
    index = torch.zeros(1, dtype=torch.int64)
    ego = Boxes(
        torch.tensor([_EGO_CENTER_M]), torch.tensor([_EGO_SIZE_LWH_M]), torch.zeros(1), torch.zeros(1, 2), index, index
    )
    return _box_lines("ego", ego, _repeated(EGO_COLOUR, 1), 1.6)


# -- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(
    cameras: CameraInputs | None, boxes: list[LineSet], labels: tuple[Label, ...]
) -> tuple[Picture | None, ...]:
    if cameras is None:
        return (None,) * len(CAMERAS)
    return tuple(
        _picture(cameras, number, name, boxes, labels) if bool(cameras.present[0, number]) else None
        for number, name in enumerate(CAMERAS)
    )


def _picture(cameras: CameraInputs, number: int, name: str, boxes: list[LineSet], labels: tuple[Label, ...]) -> Picture:
    image = cameras.images[0, number].permute(1, 2, 0).contiguous().cpu().numpy()
    height, width = image.shape[:2]
    intrinsics, camera_T_ego = cameras.intrinsics[0, number], cameras.camera_T_ego[0, number]
    lines = []
    for line_set in boxes:
        segments, which = project_segments(intrinsics, camera_T_ego, line_set.segments_m)
        seen = segments_in_rectangle(segments, width, height)
        lines.append(PictureLines(segments[seen], line_set.rgb[which[seen]], line_set.width_px))
    places = np.array([label.position_m for label in labels], dtype=np.float32).reshape(-1, 1, 3)
    segments, which = project_segments(intrinsics, camera_T_ego, np.repeat(places, 2, axis=1))
    texts = [
        (u, v, labels[number].text, labels[number].colour)
        for (u, v), number in zip(segments[:, 0].tolist(), which.tolist(), strict=True)
        if 0 <= u < width and 0 <= v < height
    ]
    return Picture(name, image, tuple(lines), tuple(texts))
