"""Submissions: ego to world and back, the devkit's view of them, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.eval.detection.data_classes import DetectionBox
from pyquaternion import Quaternion
from torch import Tensor

from fusionperc.evaluation.submission import (
    MAX_BOXES_PER_SAMPLE,
    SubmissionError,
    detections_from_boxes,
    read_submission,
    submission_boxes,
    write_submission,
)
from fusionperc.geometry import rigid, rotation_from_quaternion
from fusionperc.types import CLASS_ATTRIBUTES, CLASSES, Detections


def some_detections(count: int, seed: int = 0) -> Detections:
    generator = torch.Generator().manual_seed(seed)
    class_index = torch.randint(len(CLASSES), (count,), generator=generator)
    attributes = [(CLASS_ATTRIBUTES[CLASSES[index]] or (-1,))[0] for index in class_index.tolist()]
    return Detections(
        center_m=torch.randn(count, 3, generator=generator) * 20,
        size_lwh_m=torch.rand(count, 3, generator=generator) * 5 + 0.3,
        yaw_rad=(torch.rand(count, generator=generator) * 2 - 1) * 3.14,
        velocity_mps=torch.randn(count, 2, generator=generator) * 5,
        class_index=class_index,
        attribute_index=torch.tensor(attributes, dtype=torch.int64),
        score=torch.rand(count, generator=generator),
    )


def pose(yaw_rad: float, pitch_rad: float = 0.0) -> Tensor:
    rotation = Quaternion(axis=[0, 0, 1], radians=yaw_rad) * Quaternion(axis=[0, 1, 0], radians=pitch_rad)
    wxyz = torch.tensor(rotation.elements, dtype=torch.float64)
    return rigid(rotation_from_quaternion(wxyz), torch.tensor([1200.0, 850.0, 0.0], dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(yaw=st.floats(-math.pi, math.pi), pitch=st.floats(-0.05, 0.05), seed=st.integers(0, 1000))
def test_round_trip_through_the_world_is_the_identity(yaw: float, pitch: float, seed: int) -> None:
    made = some_detections(20, seed)
    order = torch.argsort(made.score, descending=True, stable=True)
    back = detections_from_boxes(submission_boxes("a", made, pose(yaw, pitch)), pose(yaw, pitch))
    torch.testing.assert_close(back.center_m, made.center_m[order], atol=1e-4, rtol=0)
    torch.testing.assert_close(back.size_lwh_m, made.size_lwh_m[order])
    turned = torch.remainder(back.yaw_rad - made.yaw_rad[order] + math.pi, 2 * math.pi) - math.pi
    assert turned.abs().max() < 1e-5
    torch.testing.assert_close(back.velocity_mps, made.velocity_mps[order], atol=1e-5, rtol=1e-5)
    assert back.class_index.tolist() == made.class_index[order].tolist()
    assert back.attribute_index.tolist() == made.attribute_index[order].tolist()
    torch.testing.assert_close(back.score, made.score[order])


def test_the_devkit_reads_what_a_hand_computes() -> None:
    """An ego looking along world +y: what is ahead of it lies along +y, what is to its left along -x."""
    car = Detections(
        center_m=torch.tensor([[10.0, 2.0, 0.8]]),
        size_lwh_m=torch.tensor([[4.0, 1.8, 1.5]]),
        yaw_rad=torch.tensor([math.pi / 2]),
        velocity_mps=torch.tensor([[3.0, 0.0]]),
        class_index=torch.tensor([0]),
        attribute_index=torch.tensor([1]),
        score=torch.tensor([0.75]),
    )
    (written,) = submission_boxes("a", car, pose(math.pi / 2))
    box = DetectionBox.deserialize(written)
    assert box.translation == pytest.approx((1198.0, 860.0, 0.8))
    assert box.size == pytest.approx((1.8, 4.0, 1.5))
    assert abs(quaternion_yaw(Quaternion(box.rotation))) == pytest.approx(math.pi)
    assert box.velocity == pytest.approx((0.0, 3.0), abs=1e-6)
    assert (box.detection_name, box.attribute_name, box.detection_score) == ("car", "vehicle.parked", 0.75)


def test_only_the_best_500_are_written_and_none_is_fine(tmp_path: Path) -> None:
    many = some_detections(MAX_BOXES_PER_SAMPLE + 100)
    path = tmp_path / "new" / "submission.json"
    write_submission(path, {"a": many, "b": some_detections(0)}, lambda token: pose(0.3), ("camera", "lidar"))
    meta, results = read_submission(path)
    assert meta == {
        "use_camera": True, "use_radar": False, "use_lidar": True, "use_map": False, "use_external": False,
    }  # fmt: skip
    scores = [box["detection_score"] for box in results["a"]]
    assert scores == pytest.approx(sorted(many.score.tolist(), reverse=True)[:MAX_BOXES_PER_SAMPLE])
    assert results["b"] == []
    assert [file.name for file in path.parent.iterdir()] == ["submission.json"]


def test_cones_carry_no_attribute_and_unknown_velocity_is_zero() -> None:
    cone = Detections(
        torch.zeros(1, 3), torch.ones(1, 3), torch.zeros(1), torch.full((1, 2), float("nan")),
        torch.tensor([CLASSES.index("traffic_cone")]), torch.tensor([-1]), score=torch.ones(1),
    )  # fmt: skip
    (box,) = submission_boxes("a", cone, pose(1.0))
    assert (box["attribute_name"], box["velocity"]) == ("", [0.0, 0.0])


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    path.write_text("old")

    def no_pose(token: str) -> Tensor:
        raise ValueError("no pose")

    with pytest.raises(ValueError, match="no pose"):
        write_submission(path, {"a": some_detections(3)}, no_pose, ("lidar",))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def changed(**changes: Any) -> dict[str, Any]:
    return submission_boxes("a", some_detections(1), pose(0.0))[0] | changes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "no nuScenes submission"),
        ({"meta": {}}, "no nuScenes submission"),
        ({"meta": {}, "results": {"a": 3}}, "expected a list of boxes"),
        ({"meta": {}, "results": {"a": [changed(detection_name="tram")]}}, "unknown detection_name 'tram'"),
        ({"meta": {}, "results": {"a": [changed(attribute_name="flying")]}}, "unknown attribute_name 'flying'"),
        ({"meta": {}, "results": {"a": [changed(sample_token="b")]}}, "sample_token 'b'"),
        ({"meta": {}, "results": {"a": [changed(size=[1, 2])]}}, "'size' = \\[1, 2\\]"),
        ({"meta": {}, "results": {"a": [changed(translation=[1, 2, float("nan")])]}}, "'translation'"),
        ({"meta": {}, "results": {"a": [changed(rotation=[0, 0, 0, 0])]}}, "no quaternion"),
        ({"meta": {}, "results": {"a": [changed(detection_score="high")]}}, "'detection_score' = high"),
        ({"meta": {}, "results": {"a": [{"sample_token": "a"}]}}, "box 0: has no 'attribute_name'"),
        ({"meta": {}, "results": {"a": [changed()] * 501}}, "501 boxes"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SubmissionError, match=message) as raised:
        read_submission(path)
    assert "bad.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"none\.json: cannot read"):
        read_submission(tmp_path / "none.json")
