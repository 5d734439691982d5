"""Pictures are written, with or without Open3D, and show what they are to show."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fusionperc.types import Boxes, CameraInputs, Detections, Points, SensorInputs
from fusionperc.visualization import open3d_view
from fusionperc.visualization.open3d_view import NoWindowError, View, render, show, tubes
from fusionperc.visualization.plots import draw_sheet
from fusionperc.visualization.scene import BACKGROUND, CLASS_COLOURS, RADAR_COLOUR, Colour, SceneDrawing, build_scene

VIEW = View.looking(320, 200)
#: A car and a pedestrian ahead.
BOXES = Boxes(
    torch.tensor([[12.0, 0, 0.75], [15, -6, 0.9]]),
    torch.tensor([[4.0, 2, 1.5], [0.8, 0.8, 1.8]]),
    torch.zeros(2),
    torch.zeros(2, 2),
    torch.tensor([0, 5]),
    torch.tensor([0, 5]),
)


@pytest.fixture(scope="module")
def scene() -> SceneDrawing:
    generator = torch.Generator().manual_seed(0)
    count = 3000
    xyz = (torch.rand(count, 3, generator=generator) * 2 - 1) * torch.tensor([40.0, 40.0, 0.1])
    index = torch.zeros(count, dtype=torch.int64)
    lidar = Points(xyz, torch.zeros(count, 2), index, 1)
    radar = Points(torch.tensor([[10.0, 12.0, 0.5]]), torch.tensor([[5.0, 8.0, 0.0, 0.0]]), index[:1], 1)
    camera_T_ego = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]])
    cameras = CameraInputs(
        torch.full((1, 6, 3, 90, 160), 60, dtype=torch.uint8),
        torch.tensor([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]]).expand(1, 6, 3, 3),
        camera_T_ego.expand(1, 6, 4, 4),
        torch.tensor([[True] + [False] * 5]),
    )
    inputs = SensorInputs(cameras, radar, lidar, torch.ones(1, 3, dtype=torch.bool))
    return build_scene(inputs, BOXES, Detections(**vars(BOXES), score=torch.tensor([0.9, 0.6])))


def pixels_like(image: NDArray[np.uint8], colour: Colour, tolerance: int = 60) -> int:
    return int((np.abs(image.astype(int) - np.array(colour) * 255).sum(axis=2) < tolerance).sum())


def test_software_picture_shows_boxes_radar_and_background(scene: SceneDrawing) -> None:
    image = render(scene, VIEW, ("software",))
    assert image.shape == (200, 320, 3)
    assert pixels_like(image, BACKGROUND) > 20_000
    for colour in (CLASS_COLOURS["car"], CLASS_COLOURS["pedestrian"], RADAR_COLOUR):
        assert pixels_like(image, colour) > 5


def test_open3d_agrees_with_the_software_renderer() -> None:
    """Both draw the same camera: a box's pixels have the same extent."""
    scene = build_scene(SensorInputs(None, None, None, torch.zeros(1, 3, dtype=torch.bool)), BOXES)
    large = View.looking(960, 600)
    try:
        image = render(scene, large, ("offscreen", "legacy"))
    except ValueError as error:
        pytest.skip(str(error))
    oracle = render(scene, large, ("software",))
    for colour in (CLASS_COLOURS["car"], CLASS_COLOURS["pedestrian"]):
        places = [
            np.argwhere(np.abs(picture.astype(int) - np.array(colour) * 255).sum(axis=2) < 120)
            for picture in (image, oracle)
        ]
        assert len(places[0]) > 10
        np.testing.assert_allclose(places[0].min(axis=0), places[1].min(axis=0), atol=3)
        np.testing.assert_allclose(places[0].max(axis=0), places[1].max(axis=0), atol=3)


def test_a_renderer_that_crashes_is_passed_over(
    scene: SceneDrawing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -ABRT $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(open3d_view.sys, "executable", str(crashing))
    monkeypatch.setattr(open3d_view, "_has_vulkan", lambda: True)
    open3d_view._log_once.cache_clear()
    with caplog.at_level(logging.INFO):
        render(scene, VIEW)
        render(scene, VIEW)
    assert [record.message for record in caplog.records if "drawn by the software" in record.message] != []
    assert sum("3D view drawn by" in record.message for record in caplog.records) == 1


def test_unknown_or_no_working_renderer_is_told(scene: SceneDrawing, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"unknown renderers \['magic'\]"):
        render(scene, VIEW, ("magic",))
    monkeypatch.setattr(open3d_view, "_has_vulkan", lambda: False)
    with pytest.raises(ValueError, match="none of the renderers offscreen works here"):
        render(scene, VIEW, ("offscreen",))


def test_tubes_surround_their_lines(scene: SceneDrawing) -> None:
    vertices, triangles, colours = tubes(scene)
    segments = np.concatenate([lines.segments_m for lines in scene.lines])
    assert len(vertices) == len(colours) == 10 * len(segments)
    assert triangles.max() == len(vertices) - 1 and len(triangles) == 10 * len(segments)
    rims = vertices.reshape(len(segments), 2, 5, 3)
    np.testing.assert_allclose(rims.mean(axis=2), segments, atol=1e-4)


def test_the_view_looks_at_its_target() -> None:
    view = View.looking(300, 200, (-10.0, 0.0, 10.0), (0.0, 0.0, 0.0))
    target = view.camera_T_ego @ np.array([0, 0, 0, 1.0])
    np.testing.assert_allclose(target[:3], [0, 0, np.sqrt(200)], atol=1e-9)
    left = view.camera_T_ego @ np.array([0, 1.0, 0, 1])
    assert left[0] < 0
    assert (view.camera_T_ego @ np.array([0, 0, 1.0, 1]))[1] < 0


def test_a_sheet_shows_everything(scene: SceneDrawing, tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    draw_sheet(scene, path, "a sample")
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"]
    with Image.open(path) as picture:
        image = np.asarray(picture.convert("RGB"))
    assert image.shape[1] > 2000 and image.shape[0] > 1500
    for colour in (*CLASS_COLOURS.values(), RADAR_COLOUR):
        assert pixels_like(image, colour) > 40
    # The one camera that is there; the other five are dark.
    assert pixels_like(image[60:500, 820:1600], (60 / 255,) * 3, 10) > 200_000
    assert pixels_like(image[60:500, 10:800], (60 / 255,) * 3, 10) < 1000


def test_a_window_without_a_display_is_refused(scene: SceneDrawing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(open3d_view.sys, "platform", "linux")
    with pytest.raises(NoWindowError, match="no display"):
        show(scene)
