"""The 3D view of a scene: an Open3D window, and pictures of it with or without Vulkan, OpenGL or a display.

A driver that is missing or broken can end the whole process, so Open3D draws pictures in a process of its own
(`python -m fusionperc.visualization.open3d_view`); where that fails the next renderer is tried, last one that needs
nothing but numpy.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import logging
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fusionperc.visualization.projection import Array, project_segments
from fusionperc.visualization.scene import BACKGROUND, SceneDrawing

log = logging.getLogger(__name__)

#: Open3D's lines are one pixel wide, so they are drawn as tubes; radius for a line one pixel wide on paper, metres.
_TUBE_RADIUS_M = 0.028
_TUBE_SIDES = 5
#: Pictures are rendered larger by this and reduced, which smooths edges.
_OVERSAMPLING = 2
_TIMEOUT_S = 60

#: Renderers in the order in which they are tried.
RENDERERS = ("offscreen", "legacy", "software")


class NoWindowError(OSError):
    """There is no display to open a window on."""


@dataclass(frozen=True)
class View:
    """A virtual pinhole camera.

    Attributes:
        width_px, height_px: of the picture.
        intrinsics: (3, 3) float64.
        camera_T_ego: (4, 4) float64; x right, y down, z forward.
    """

    width_px: int
    height_px: int
    intrinsics: NDArray[np.float64]
    camera_T_ego: NDArray[np.float64]

    @classmethod
    def looking(
        cls,
        width_px: int,
        height_px: int,
        eye_m: tuple[float, float, float] = (-24.0, 0.0, 15.5),
        target_m: tuple[float, float, float] = (9.0, 0.0, 0.0),
        field_of_view_rad: float = math.radians(62),
    ) -> View:
        """From `eye_m` to `target_m`, upright, with a horizontal field of view; by default over the ego's roof."""
        forward = np.array(target_m) - np.array(eye_m)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        camera_T_ego = np.eye(4)
        camera_T_ego[:3, :3] = rotation
        camera_T_ego[:3, 3] = -rotation @ np.array(eye_m)
        focal_px = width_px / 2 / math.tan(field_of_view_rad / 2)
        intrinsics = np.array([[focal_px, 0, width_px / 2], [0, focal_px, height_px / 2], [0, 0, 1.0]])
        return cls(width_px, height_px, intrinsics, camera_T_ego)

    def enlarged(self, factor: int) -> View:
        scale = np.diag([factor, factor, 1.0])
        return View(self.width_px * factor, self.height_px * factor, scale @ self.intrinsics, self.camera_T_ego)


def render(scene: SceneDrawing, view: View, renderers: tuple[str, ...] = RENDERERS) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of the scene's points and lines by the first renderer that works here.

    Raises:
        ValueError: an unknown renderer is named, or none of those named works.
    """
    if unknown := set(renderers) - set(RENDERERS):
        raise ValueError(f"render: unknown renderers {sorted(unknown)}; known: {', '.join(RENDERERS)}")
    for renderer in renderers:
        if renderer == "offscreen" and not _has_vulkan():
            log.debug("no Vulkan library: Open3D's OffscreenRenderer is left out")
            continue
        image = _software(scene, view) if renderer == "software" else _in_own_process(scene, view, renderer)
        if image is not None:
            _log_once(renderer)
            return image
    raise ValueError(f"render: none of the renderers {', '.join(renderers)} works here; add 'software'")


@functools.cache
def _log_once(renderer: str) -> None:
    told = {
        "offscreen": "Open3D's OffscreenRenderer (Vulkan)",
        "legacy": "Open3D's legacy Visualizer (OpenGL, no window)",
        "software": "the software renderer (numpy): neither Vulkan nor OpenGL works here",
    }
    log.info("3D view drawn by %s", told[renderer])


@functools.cache
def _has_vulkan() -> bool:
    """Whether the loader library is there; without it there is no need to try."""
    name = ctypes.util.find_library("vulkan") or "libvulkan.so.1"
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


# -- Open3D -----------------------------------------------------------------------------------------------------------


def _in_own_process(scene: SceneDrawing, view: View, renderer: str) -> NDArray[np.uint8] | None:
    """The picture, or None where the renderer fails, crashes or hangs."""
    with tempfile.TemporaryDirectory(prefix="fusionperc-view-") as folder:
        source, target = Path(folder) / "scene.npz", Path(folder) / "view.png"
        np.savez(source, **_primitives(scene, view.enlarged(_OVERSAMPLING)))
        package = str(Path(__file__).resolve().parents[2])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", __name__, renderer, str(source), str(target)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            log.debug("renderer %s gave nothing within %d s", renderer, _TIMEOUT_S)
            return None
        if done.returncode != 0 or not target.is_file():
            log.debug("renderer %s ended with %d: %s", renderer, done.returncode, done.stderr.decode()[-500:])
            return None
        with Image.open(target) as picture:
            small = picture.convert("RGB").resize((view.width_px, view.height_px), Image.Resampling.LANCZOS)
        image: NDArray[np.uint8] = np.asarray(small)
    # A driver without a working back end gives an empty picture.
    return image if int(image.max()) - int(image.min()) > 8 else None


def _primitives(scene: SceneDrawing, view: View) -> dict[str, NDArray[Any]]:
    """All a renderer needs, as arrays."""
    vertices, triangles, colours = tubes(scene)
    arrays: dict[str, NDArray[Any]] = {
        "vertices": vertices, "triangles": triangles, "vertex_rgb": colours,
        "intrinsics": view.intrinsics, "camera_T_ego": view.camera_T_ego,
        "size_px": np.array([view.width_px, view.height_px]),
        "point_sizes_px": np.array([points.size_px for points in scene.points]),
    }  # fmt: skip
    for number, points in enumerate(scene.points):
        arrays[f"xyz_{number}"], arrays[f"rgb_{number}"] = points.xyz_m, points.rgb
    return arrays


def tubes(scene: SceneDrawing) -> tuple[Array, NDArray[np.int32], Array]:
    """All lines of a scene as one mesh of thin tubes: vertices (V, 3), triangles (T, 3), colours (V, 3)."""
    start = np.concatenate([lines.segments_m[:, 0] for lines in scene.lines])
    end = np.concatenate([lines.segments_m[:, 1] for lines in scene.lines])
    rgb = np.concatenate([lines.rgb for lines in scene.lines])
    radius = np.concatenate([np.full(len(lines.rgb), lines.width_px * _TUBE_RADIUS_M) for lines in scene.lines])
    along = end - start
    length = np.linalg.norm(along, axis=1)
    kept = length > 1e-6
    start, end, rgb, radius, along = start[kept], end[kept], rgb[kept], radius[kept], along[kept] / length[kept, None]
    helper = np.where(np.abs(along[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(along, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    angle = np.arange(_TUBE_SIDES) * 2 * math.pi / _TUBE_SIDES
    rim = first[:, None] * np.cos(angle)[:, None] + second[:, None] * np.sin(angle)[:, None]
    rim *= radius[:, None, None]
    vertices = np.concatenate([start[:, None] + rim, end[:, None] + rim], axis=1).reshape(-1, 3)
    own, following = np.arange(_TUBE_SIDES), (np.arange(_TUBE_SIDES) + 1) % _TUBE_SIDES
    sides = np.concatenate(
        [
            np.stack([own, following, own + _TUBE_SIDES], axis=1),
            np.stack([following, following + _TUBE_SIDES, own + _TUBE_SIDES], axis=1),
        ]
    )
    triangles = (sides[None] + 2 * _TUBE_SIDES * np.arange(len(start))[:, None, None]).reshape(-1, 3)
    return (
        vertices.astype(np.float32),
        triangles.astype(np.int32),
        np.repeat(rgb, 2 * _TUBE_SIDES, axis=0).astype(np.float32),
    )


def _geometries(arrays: Any) -> list[tuple[Any, float]]:
    """Open3D's geometries and their point sizes."""
    import open3d as o3d

    vertices = o3d.utility.Vector3dVector(arrays["vertices"].astype(np.float64))
    mesh = o3d.geometry.TriangleMesh(vertices, o3d.utility.Vector3iVector(arrays["triangles"]))
    mesh.vertex_colors = o3d.utility.Vector3dVector(arrays["vertex_rgb"].astype(np.float64))
    geometries: list[tuple[Any, float]] = [(mesh, 1.0)]
    for number, size_px in enumerate(arrays["point_sizes_px"]):
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(arrays[f"xyz_{number}"].astype(np.float64)))
        cloud.colors = o3d.utility.Vector3dVector(arrays[f"rgb_{number}"].astype(np.float64))
        if len(cloud.points):
            geometries.append((cloud, float(size_px)))
    return geometries


def _parameters(arrays: Any) -> Any:
    import open3d as o3d

    parameters = o3d.camera.PinholeCameraParameters()
    width, height = (int(size) for size in arrays["size_px"])
    parameters.intrinsic = o3d.camera.PinholeCameraIntrinsic(width, height, arrays["intrinsics"])
    parameters.extrinsic = arrays["camera_T_ego"]
    return parameters


def _visualizer(arrays: Any, *, visible: bool) -> Any:
    """Open3D's legacy Visualizer with everything in it, or None where no window or context can be made."""
    import open3d as o3d

    visualizer = o3d.visualization.Visualizer()
    width, height = (int(size) for size in arrays["size_px"])
    if not visualizer.create_window("fusionperc", width=width, height=height, visible=visible):
        return None
    options = visualizer.get_render_option()
    options.background_color = np.array(BACKGROUND)
    options.light_on = False
    options.mesh_show_back_face = True
    # One size for all points: the legacy renderer has no other.
    options.point_size = float(min(arrays["point_sizes_px"], default=1.0)) * (1 if visible else _OVERSAMPLING)
    for geometry, _ in _geometries(arrays):
        visualizer.add_geometry(geometry)
    control = visualizer.get_view_control()
    control.convert_from_pinhole_camera_parameters(_parameters(arrays), allow_arbitrary=True)
    control.set_constant_z_near(0.5)
    control.set_constant_z_far(500.0)
    return visualizer


def _render_legacy(arrays: Any) -> NDArray[np.uint8] | None:
    visualizer = _visualizer(arrays, visible=False)
    if visualizer is None:
        return None
    image = np.asarray(visualizer.capture_screen_float_buffer(do_render=True))
    visualizer.destroy_window()
    return (image * 255).round().astype(np.uint8)


def _render_offscreen(arrays: Any) -> NDArray[np.uint8] | None:
    import open3d as o3d

    width, height = (int(size) for size in arrays["size_px"])
    renderer = o3d.visualization.rendering.OffscreenRenderer(width, height)
    # Colours are to come out as given: no tone mapping. Without it a background's colour is not kept: paint it later.
    renderer.scene.view.set_post_processing(False)
    renderer.scene.set_background(np.array([0.0, 0.0, 0.0, 1.0]))
    for number, (geometry, size_px) in enumerate(_geometries(arrays)):
        material = o3d.visualization.rendering.MaterialRecord()
        material.shader = "defaultUnlit"
        material.point_size = size_px * _OVERSAMPLING
        renderer.scene.add_geometry(f"geometry {number}", geometry, material)
    renderer.setup_camera(arrays["intrinsics"], arrays["camera_T_ego"], width, height)
    image: NDArray[np.uint8] = np.array(renderer.render_to_image())
    image[(image == 0).all(axis=2)] = np.round(np.array(BACKGROUND) * 255)
    return image


def show(scene: SceneDrawing, width_px: int = 1600, height_px: int = 900) -> None:
    """Opens an interactive window (drag to turn, wheel to zoom, q to close) and returns when it is closed.

    Raises:
        NoWindowError: there is no display.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise NoWindowError("--window: there is no display here; leave it out, the picture is written anyway")
    visualizer = _visualizer(_primitives(scene, View.looking(width_px, height_px)), visible=True)
    if visualizer is None:
        raise NoWindowError("--window: Open3D cannot open a window on this display; leave it out")
    visualizer.run()
    visualizer.destroy_window()


# -- without Open3D ---------------------------------------------------------------------------------------------------


def _software(scene: SceneDrawing, view: View) -> NDArray[np.uint8]:
    """Points from far to near, then lines over them."""
    large = view.enlarged(_OVERSAMPLING)
    canvas = np.full((large.height_px, large.width_px, 3), np.array(BACKGROUND) * 255, dtype=np.uint8)
    intrinsics, camera_T_ego = torch.from_numpy(large.intrinsics), torch.from_numpy(large.camera_T_ego)
    for points in scene.points:
        _paint_points(canvas, points.xyz_m, points.rgb, large, max(1, round(points.size_px * _OVERSAMPLING)))
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for lines in scene.lines:
        segments, which = project_segments(intrinsics, camera_T_ego, lines.segments_m, near_m=0.5)
        colours = (lines.rgb[which] * 255).astype(int).tolist()
        for segment, colour in zip(segments.reshape(-1, 4).tolist(), colours, strict=True):
            draw.line(segment, fill=tuple(colour), width=max(1, round(lines.width_px * _OVERSAMPLING)))
    small = picture.resize((view.width_px, view.height_px), Image.Resampling.LANCZOS)
    image: NDArray[np.uint8] = np.asarray(small)
    return image


def _paint_points(canvas: NDArray[np.uint8], xyz_m: Array, rgb: Array, view: View, size_px: int) -> None:
    in_camera = xyz_m @ view.camera_T_ego[:3, :3].T + view.camera_T_ego[:3, 3]
    order = np.argsort(-in_camera[:, 2], kind="stable")
    order = order[in_camera[order, 2] > 0.5]
    homogeneous = in_camera[order] @ view.intrinsics.T
    column, row = np.floor(homogeneous[:, :2] / homogeneous[:, 2:]).astype(int).T
    colour = (rgb[order] * 255).astype(np.uint8)
    for down in range(size_px):
        for right in range(size_px):
            u, v = column + right, row + down
            inside = (u >= 0) & (u < view.width_px) & (v >= 0) & (v < view.height_px)
            canvas[v[inside], u[inside]] = colour[inside]


def _main(renderer: str, source: str, target: str) -> int:
    """Draws a saved scene: what the process of its own runs."""
    with np.load(source) as arrays:
        image = _render_offscreen(arrays) if renderer == "offscreen" else _render_legacy(arrays)
    if image is None:
        return 1
    Image.fromarray(image).save(target)
    # Open3D's renderers sometimes crash when they are taken down; the picture is written.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
