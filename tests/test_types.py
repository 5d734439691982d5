"""The records check themselves, split and join without loss, and move with the frame they are in."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fusionperc.geometry import rotation_from_yaw, transform_points
from fusionperc.types import (
    ATTRIBUTES,
    CLASS_ATTRIBUTES,
    CLASSES,
    SENSORS,
    Batch,
    Boxes,
    CameraInputs,
    Detections,
    Points,
    SensorInputs,
    Targets,
    letters_from_sensors,
    sensors_from_letters,
)

BATCH = 2


def points(counts: tuple[int, ...] = (3, 0), num_features: int = 2) -> Points:
    total = sum(counts)
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    xyz = torch.arange(3.0 * total).reshape(total, 3)
    return Points(xyz, -torch.arange(float(num_features * total)).reshape(total, num_features), index, len(counts))


def cameras(batch: int = BATCH) -> CameraInputs:
    return CameraInputs(
        images=torch.zeros(batch, 6, 3, 4, 8, dtype=torch.uint8),
        intrinsics=torch.eye(3).expand(batch, 6, 3, 3),
        camera_T_ego=torch.eye(4).expand(batch, 6, 4, 4),
        present=torch.ones(batch, 6, dtype=torch.bool),
    )


def inputs() -> SensorInputs:
    return SensorInputs(cameras(), points((2, 1), 4), points(), torch.ones(BATCH, 3, dtype=torch.bool))


def boxes(count: int = 3) -> Boxes:
    generator = torch.Generator().manual_seed(count)
    return Boxes(
        center_m=torch.randn(count, 3, generator=generator) * 20,
        size_lwh_m=torch.rand(count, 3, generator=generator) * 5 + 0.2,
        yaw_rad=torch.rand(count, generator=generator) * 6 - 3,
        velocity_mps=torch.randn(count, 2, generator=generator) * 5,
        class_index=torch.arange(count) % 10,
        attribute_index=torch.arange(count) % 8 - 1,
    )


def targets() -> Targets:
    return Targets(
        boxes=[boxes(3), Boxes.empty()],
        num_points=[torch.ones(3, 2, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)],
        depth_m=torch.zeros(BATCH, 6, 2, 4),
        ego_past_m=torch.zeros(BATCH, 4, 3),
        ego_future_m=torch.zeros(BATCH, 6, 3),
        command=torch.zeros(BATCH, dtype=torch.int64),
        can_bus=torch.zeros(BATCH, 4),
        is_labelled=torch.ones(BATCH, dtype=torch.bool),
    )


# -- vocabulary -------------------------------------------------------------------------------------------------------


def test_every_class_has_its_attributes() -> None:
    assert tuple(CLASS_ATTRIBUTES) == CLASSES
    families = {0: "vehicle", 3: "cycle", 5: "pedestrian"}
    for name, indices in CLASS_ATTRIBUTES.items():
        assert all(ATTRIBUTES[index].startswith(families[indices[0]]) for index in indices), name


@pytest.mark.parametrize(
    ("letters", "sensors"),
    [
        ("C", ("camera",)),
        ("LC", ("camera", "lidar")),
        ("crl", ("camera", "radar", "lidar")),
        ("RL", ("radar", "lidar")),
    ],
)
def test_letters_name_sensors(letters: str, sensors: tuple[str, ...]) -> None:
    assert sensors_from_letters(letters) == sensors
    assert set(letters_from_sensors(sensors_from_letters(letters))) == set(letters.upper())


def test_letters_come_in_one_order() -> None:
    assert letters_from_sensors(("lidar", "camera")) == "CL"
    assert letters_from_sensors(()) == ""


@pytest.mark.parametrize("letters", ["", "X", "CC", "C,L", "camera", "C "])
def test_other_letters_are_refused(letters: str) -> None:
    with pytest.raises(ValueError, match=f"'{letters}' is not a subset of C"):
        sensors_from_letters(letters)


# -- self-checks ------------------------------------------------------------------------------------------------------

LONG = torch.int64

WRONG: list[tuple[Any, str, Any]] = [
    (points(), "xyz_m", torch.zeros(3, 2)),
    (points(), "xyz_m", torch.zeros(3, 3, dtype=LONG)),
    (points(), "features", torch.zeros(4, 2)),
    (points(), "features", torch.zeros(3)),
    (points(), "features", torch.zeros(3, 2, dtype=LONG)),
    (points(), "sample_index", torch.zeros(2, dtype=LONG)),
    (points(), "sample_index", torch.zeros(3)),
    (points(), "batch_size", 0),
    (cameras(), "images", torch.zeros(2, 6, 3, 4, 8)),
    (cameras(), "images", torch.zeros(2, 6, 1, 4, 8, dtype=torch.uint8)),
    (cameras(), "images", torch.zeros(6, 3, 4, 8, dtype=torch.uint8)),
    (cameras(), "intrinsics", torch.zeros(2, 6, 4, 4)),
    (cameras(), "camera_T_ego", torch.zeros(2, 5, 4, 4)),
    (cameras(), "present", torch.ones(2, 6)),
    (cameras(), "present", torch.ones(6, dtype=torch.bool)),
    (inputs(), "present", torch.ones(2, 2, dtype=torch.bool)),
    (inputs(), "present", torch.ones(2, 3)),
    (inputs(), "cameras", None),
    (inputs(), "cameras", cameras(3)),
    (inputs(), "radar", None),
    (inputs(), "radar", points((1, 1, 1))),
    (inputs(), "lidar", None),
    (inputs(), "lidar", points((1,))),
    (boxes(), "center_m", torch.zeros(3, 2)),
    (boxes(), "size_lwh_m", torch.zeros(2, 3)),
    (boxes(), "yaw_rad", torch.zeros(3, 1)),
    (boxes(), "yaw_rad", torch.zeros(3, dtype=LONG)),
    (boxes(), "velocity_mps", torch.zeros(3, 3)),
    (boxes(), "class_index", torch.zeros(3)),
    (boxes(), "attribute_index", torch.zeros(4, dtype=LONG)),
    (Detections(**vars(boxes()), score=torch.ones(3)), "score", torch.ones(2)),
    (Detections(**vars(boxes()), score=torch.ones(3)), "score", torch.ones(3, dtype=LONG)),
    (targets(), "num_points", [torch.ones(3, 2, dtype=LONG)]),
    (targets(), "num_points", [torch.ones(2, 2, dtype=LONG), torch.zeros(0, 2, dtype=LONG)]),
    (targets(), "depth_m", torch.zeros(1, 6, 2, 4)),
    (targets(), "ego_past_m", torch.zeros(2, 4, 2)),
    (targets(), "ego_future_m", torch.zeros(3, 6, 3)),
    (targets(), "command", torch.zeros(2)),
    (targets(), "can_bus", torch.zeros(2, 3)),
    (targets(), "is_labelled", torch.zeros(2)),
]


@pytest.mark.parametrize(
    ("record", "field", "value"), WRONG, ids=[f"{type(record).__name__}.{field}" for record, field, _ in WRONG]
)
def test_a_wrong_field_is_named(record: Any, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{type(record).__name__}\.{field}\b"):
        replace(record, **{field: value})


def test_targets_need_no_depth() -> None:
    assert replace(targets(), depth_m=None).depth_m is None


@pytest.mark.parametrize("change", [{"sample_tokens": ["a"]}, {"sample_tokens": ["a", "b", "c"]}])
def test_a_batch_of_two_sizes_is_refused(change: dict[str, Any]) -> None:
    batch = Batch(inputs(), targets(), ["a", "b"])
    assert len(batch) == BATCH
    with pytest.raises(ValueError, match="Batch: .*sample_tokens hold"):
        replace(batch, **change)


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        points().batch_size = 3  # type: ignore[misc]


# -- points -----------------------------------------------------------------------------------------------------------


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_collating_and_taking_apart_are_inverse(counts: list[int]) -> None:
    singles = [replace(points((count,)), xyz_m=torch.full((count, 3), float(i))) for i, count in enumerate(counts)]
    batch = Points.collate(singles)
    assert batch.batch_size == len(counts)
    assert len(batch) == sum(counts)
    assert torch.bincount(batch.sample_index, minlength=len(counts)).tolist() == counts
    for index, single in enumerate(singles):
        again = batch.of_sample(index)
        assert again.batch_size == 1
        assert torch.equal(again.xyz_m, single.xyz_m)
        assert torch.equal(again.features, single.features)
        assert torch.equal(again.sample_index, single.sample_index)


def test_points_need_not_be_sorted_by_sample() -> None:
    mixed = replace(points((2, 2)), sample_index=torch.tensor([1, 0, 1, 0]))
    assert torch.equal(mixed.of_sample(1).xyz_m, mixed.xyz_m[[0, 2]])


# -- sensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", ["C", "R", "L", "CR", "CL", "RL", "CRL"])
def test_only_some_sensors(letters: str) -> None:
    present = torch.tensor([[True, False, True], [True, True, True]])
    whole = replace(inputs(), present=present)
    kept = whole.only(sensors_from_letters(letters))
    assert kept.cameras is (whole.cameras if "C" in letters else None)
    assert kept.radar is (whole.radar if "R" in letters else None)
    assert kept.lidar is (whole.lidar if "L" in letters else None)
    for column, sensor in enumerate(SENSORS):
        expected = present[:, column] if sensor[0].upper() in letters else torch.zeros(2, dtype=torch.bool)
        assert torch.equal(kept.present[:, column], expected)
    assert torch.equal(whole.present, present), "the original changed"


def test_absent_and_empty_differ() -> None:
    saw_nothing = points((0, 0))
    none_present = torch.tensor([[True, True, False]] * 2)
    assert SensorInputs(cameras(), saw_nothing, None, none_present).present[:, 1].all()
    # Absent from every sample of the batch, but not left out of it: allowed.
    assert SensorInputs(cameras(), None, saw_nothing, none_present & torch.tensor([1, 0, 0]).bool()).lidar is not None
    with pytest.raises(ValueError, match="SensorInputs.lidar is None but"):
        SensorInputs(cameras(), saw_nothing, None, torch.tensor([[True, True, False], [True, True, True]]))


# -- boxes ------------------------------------------------------------------------------------------------------------


def test_boxes_are_chosen_by_mask_and_by_index() -> None:
    all_boxes = Detections(**vars(boxes(4)), score=torch.tensor([0.1, 0.4, 0.3, 0.2]))
    best = all_boxes[all_boxes.score.argsort(descending=True)]
    assert isinstance(best, Detections)
    assert torch.equal(best.score, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    assert torch.equal(best.center_m, all_boxes.center_m[[1, 2, 3, 0]])
    kept = all_boxes[all_boxes.score > 0.25]
    assert torch.equal(kept.class_index, torch.tensor([1, 2]))
    assert len(all_boxes[torch.zeros(4, dtype=torch.bool)]) == 0


def test_no_boxes() -> None:
    empty = Boxes.empty()
    assert len(empty) == 0
    assert empty.corners_m().shape == (0, 8, 3)
    assert len(empty.moved(torch.eye(4))) == 0


@st.composite
def upright_frames(draw: st.DrawFn) -> Tensor:
    """dst_T_ego of a rotation about z, mirrors, a scale and a shift."""
    numbers = st.floats(-50, 50)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation_from_yaw(torch.tensor(draw(st.floats(-7, 7)), dtype=torch.float64))
    matrix[:3, 0] *= draw(st.sampled_from([1, -1]))
    matrix[:3, 1] *= draw(st.sampled_from([1, -1]))
    matrix[:3, :3] *= draw(st.floats(0.5, 2))
    matrix[:3, 3] = torch.tensor([draw(numbers), draw(numbers), draw(numbers)])
    return matrix


@given(dst_T_ego=upright_frames())
@settings(max_examples=60, deadline=None)
def test_moved_boxes_are_the_moved_points(dst_T_ego: Tensor) -> None:
    before = boxes(5)
    before = replace(before, **{n: v.double() for n, v in vars(before).items() if v.is_floating_point()})
    after = before.moved(dst_T_ego)
    scale = float(dst_T_ego[:3, 0].norm())

    # As sets: a mirror swaps left and right corners.
    expected = transform_points(dst_T_ego, before.corners_m().reshape(-1, 3)).reshape(-1, 8, 3)
    distance = (after.corners_m()[:, :, None] - expected[:, None]).norm(dim=-1)
    assert distance.min(dim=1).values.max() < 1e-9
    assert distance.min(dim=2).values.max() < 1e-9

    # The front stays the front: corner sets alone do not tell it from the back.
    def fronts(some: Boxes) -> Tensor:
        return some.center_m + rotation_from_yaw(some.yaw_rad)[:, :, 0] * some.size_lwh_m[:, :1] / 2

    torch.testing.assert_close(fronts(after), transform_points(dst_T_ego, fronts(before)))
    assert bool(((after.yaw_rad > -math.pi) & (after.yaw_rad <= math.pi)).all())
    torch.testing.assert_close(after.size_lwh_m, before.size_lwh_m * scale)

    later = torch.cat([before.center_m[:, :2] + before.velocity_mps, before.center_m[:, 2:]], dim=1)
    travelled = transform_points(dst_T_ego, later) - transform_points(dst_T_ego, before.center_m)
    torch.testing.assert_close(after.velocity_mps, travelled[:, :2])
    assert torch.equal(after.class_index, before.class_index)
    assert torch.equal(after.attribute_index, before.attribute_index)


def test_moving_by_hand() -> None:
    one = Boxes(
        center_m=torch.tensor([[10.0, 2.0, 1.0]]),
        size_lwh_m=torch.tensor([[4.0, 2.0, 1.5]]),
        yaw_rad=torch.tensor([math.pi / 6]),
        velocity_mps=torch.tensor([[3.0, 1.0]]),
        class_index=torch.tensor([0]),
        attribute_index=torch.tensor([0]),
    )
    mirrored = one.moved(torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0])))
    torch.testing.assert_close(mirrored.center_m, torch.tensor([[10.0, -2.0, 1.0]]))
    torch.testing.assert_close(mirrored.yaw_rad, torch.tensor([-math.pi / 6]))
    torch.testing.assert_close(mirrored.velocity_mps, torch.tensor([[3.0, -1.0]]))
    torch.testing.assert_close(mirrored.size_lwh_m, one.size_lwh_m)
    turned = one.moved(torch.tensor([[0.0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    torch.testing.assert_close(turned.center_m, torch.tensor([[3.0, 10.0, 1.0]]))
    torch.testing.assert_close(turned.yaw_rad, torch.tensor([math.pi / 6 + math.pi / 2]))
    torch.testing.assert_close(turned.velocity_mps, torch.tensor([[-1.0, 3.0]]))


def test_an_unknown_velocity_stays_unknown() -> None:
    unknown = replace(boxes(2), velocity_mps=torch.full((2, 2), float("nan")))
    moved = unknown.moved(torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])))
    assert moved.velocity_mps.isnan().all()
    assert moved.center_m.isfinite().all() and moved.yaw_rad.isfinite().all()


# -- devices ----------------------------------------------------------------------------------------------------------


def test_to_moves_everything_nested() -> None:
    moved = Batch(inputs(), targets(), ["a", "b"]).to("meta")
    assert moved.sample_tokens == ["a", "b"]
    assert moved.inputs.cameras is not None and moved.inputs.radar is not None and moved.inputs.lidar is not None
    records = [moved.inputs, moved.inputs.cameras, moved.inputs.radar, moved.inputs.lidar, moved.targets]
    tensors = [value for record in [*records, *moved.targets.boxes] for value in vars(record).values()]
    tensors = [value for value in tensors if isinstance(value, Tensor)] + moved.targets.num_points
    assert len(tensors) > 25
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_to_leaves_absent_sensors_absent() -> None:
    moved = inputs().only(("lidar",)).to("cpu")
    assert moved.cameras is None and moved.radar is None and moved.lidar is not None
