"""What is hidden is gone and nothing else; what does not belong together is wrong in the way it is meant to be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fusionperc.config import PretrainingConfig
from fusionperc.data import masking
from fusionperc.data.masking import hide_past, mask_inputs, mask_patches, mismatch, with_taken, wrong_calibrations
from fusionperc.geometry import BevGrid, project_points, rigid, rotation_from_yaw, transform_points
from fusionperc.types import SENSORS, CameraInputs, Points, Sensor, SensorInputs

GRID = BevGrid(-16.0, 16.0, -16.0, 16.0, -5.0, 3.0, 1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config_of(**changes: float) -> PretrainingConfig:
    whole = {"mask_block_m": 4.0, "mask_sensor": 0.0, "mask_patch_px": 16, "mask_past": 0.0, "whole": 0.0}
    return PretrainingConfig.model_validate({**whole, **changes})


def points(batch: int, columns: int, seed: int, count: int = 400) -> Points:
    generator = seeded(seed)
    samples = [
        Points(
            torch.rand(count, 3, generator=generator) * torch.tensor([32.0, 32, 6]) - torch.tensor([16.0, 16, 4]),
            torch.rand(count, columns, generator=generator),
            torch.zeros(count, dtype=torch.int64),
            1,
        )
        for _ in range(batch)
    ]
    return Points.collate(samples)


def make_inputs(batch: int = 3) -> SensorInputs:
    generator = seeded(9)
    camera_R_body = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    views = torch.stack(
        [
            rigid(camera_R_body @ rotation_from_yaw(torch.tensor(yaw)), torch.rand(3, generator=generator))
            for yaw in (0.1, 2.0)
        ]
    )
    cameras = CameraInputs(
        torch.randint(0, 100, (batch, 2, 3, 40, 72), dtype=torch.uint8, generator=generator),
        torch.tensor([[60.0, 0, 36], [0, 60.0, 20], [0, 0, 1]]).expand(batch, 2, 3, 3).clone(),
        views.repeat(batch, 1, 1, 1),
        torch.ones(batch, 2, dtype=torch.bool),
    )
    return SensorInputs(cameras, points(batch, 4, 1), points(batch, 2, 2), torch.ones(batch, 3, dtype=torch.bool))


def parts(inputs: SensorInputs) -> tuple[CameraInputs, Points, Points]:
    assert inputs.cameras is not None and inputs.radar is not None and inputs.lidar is not None
    return inputs.cameras, inputs.radar, inputs.lidar


def rows(value: Points) -> set[tuple[float, ...]]:
    """Each point with its features and sample."""
    table = torch.cat([value.xyz_m, value.features, value.sample_index[:, None].float()], 1)
    return {tuple(row) for row in table.tolist()}


# -- hiding -----------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), lidar=st.floats(0, 0.99), radar=st.floats(0, 0.99))
def test_what_is_hidden_is_gone_and_the_rest_stays(seed: int, lidar: float, radar: float) -> None:
    inputs = make_inputs()
    masked = mask_inputs(inputs, config_of(mask_lidar=lidar, mask_radar=radar), GRID, seeded(seed))
    _, old_radar, old_lidar = parts(inputs)
    _, new_radar, new_lidar = parts(masked.inputs)
    at, _ = GRID.cell_indices(old_lidar.xyz_m)
    gone = masked.hidden[old_lidar.sample_index, at[:, 0], at[:, 1]]
    kept = Points(old_lidar.xyz_m[~gone], old_lidar.features[~gone], old_lidar.sample_index[~gone], 3)
    assert torch.equal(new_lidar.xyz_m, kept.xyz_m) and torch.equal(new_lidar.features, kept.features)
    assert torch.equal(new_lidar.sample_index, kept.sample_index)
    assert rows(new_radar) <= rows(old_radar)
    # The same squares: one sensor's are among the other's.
    at, _ = GRID.cell_indices(new_radar.xyz_m)
    if radar >= lidar:
        assert not bool(masked.hidden[new_radar.sample_index, at[:, 0], at[:, 1]].any())
    assert masked.inputs.present.equal(inputs.present)


def test_a_single_moment_is_left_where_the_past_is_hidden() -> None:
    inputs = make_inputs(batch=4)
    cameras, radar, lidar = parts(inputs)
    left, has_past = hide_past(inputs, 0.5, seeded(1))
    assert sorted(set(has_past.tolist())) == [False, True]
    assert left.cameras is cameras
    assert torch.equal(left.present, torch.stack([torch.ones(4).bool(), has_past, torch.ones(4).bool()], 1))
    assert rows(parts(left)[1]) == {row for row in rows(radar) if has_past[int(row[-1])]}
    # Features in [0, 1): the last LiDAR column is the age.
    assert rows(parts(left)[2]) == {row for row in rows(lidar) if has_past[int(row[-1])] or row[4] < 0.03}
    assert hide_past(inputs, 0.0, seeded())[1].all() and not hide_past(inputs, 1.0, seeded())[1].any()
    assert mask_inputs(inputs, config_of(mask_past=1.0), GRID, seeded()).has_past.tolist() == [False] * 4


def test_radar_alone_keeps_its_past() -> None:
    left, has_past = hide_past(make_inputs().only(["radar"]), 1.0, seeded())
    assert has_past.all() and left.present[:, 1].all() and left.radar is not None and len(left.radar) == 1200


def test_whole_samples_stay_as_they_are() -> None:
    inputs = make_inputs(batch=8)
    masked = mask_inputs(inputs, config_of(whole=0.5, mask_camera=0.6), GRID, seeded(2))
    assert sorted(set(masked.is_whole.tolist())) == [False, True]
    for number, is_whole in enumerate(masked.is_whole.tolist()):
        assert bool(masked.hidden[number].any()) != is_whole
        assert torch.equal(parts(masked.inputs)[0].images[number], parts(inputs)[0].images[number]) == is_whole
        for before, after in zip(parts(inputs)[1:], parts(masked.inputs)[1:], strict=True):
            same = int((before.sample_index == number).sum()) == int((after.sample_index == number).sum())
            assert same == is_whole


@pytest.mark.parametrize("share", [0.25, 0.6, 0.9])
def test_so_much_is_hidden_as_asked_in_squares(share: float) -> None:
    inputs = make_inputs()
    generator = seeded()
    hidden = torch.cat([mask_inputs(inputs, config_of(mask_lidar=share), GRID, generator).hidden for _ in range(60)])
    assert float(hidden.float().mean()) == pytest.approx(share, abs=0.03)
    # Squares of four cells: a neighbour is hidden alike but at their borders, one in four.
    alike = (hidden[:, 1:] == hidden[:, :-1]).float().mean()
    assert float(alike) == pytest.approx(1 - 2 * share * (1 - share) / 4, abs=0.03)
    borders = (hidden[:, 1:] != hidden[:, :-1]).float().sum((0, 2))
    assert float(borders.min()) > 0.4 * float(borders.mean()), "their corners must not always be at the same place"
    assert not torch.equal(hidden[0], hidden[1])


def test_nothing_is_hidden_at_share_zero() -> None:
    inputs = make_inputs()
    masked = mask_inputs(inputs, config_of(mask_lidar=0, mask_radar=0, mask_camera=0), GRID, seeded())
    assert not bool(masked.hidden.any())
    for old, new in zip(parts(inputs)[1:], parts(masked.inputs)[1:], strict=True):
        assert isinstance(old, Points) and isinstance(new, Points) and torch.equal(old.xyz_m, new.xyz_m)
    assert torch.equal(parts(inputs)[0].images, parts(masked.inputs)[0].images)


def test_without_lidar_everything_is_hidden() -> None:
    inputs = make_inputs()
    config, generator = config_of(mask_sensor=1.0, mask_lidar=0.3), seeded()
    seen = set()
    for _ in range(30):
        masked = mask_inputs(inputs, config, GRID, generator)
        has_lidar = masked.inputs.lidar is not None
        assert bool(masked.hidden.all()) != has_lidar
        seen.add(tuple(masked.inputs.present[0].tolist()))
    assert len(seen) == 6, "every proper subset, none of them empty"
    some = make_inputs()
    some = replace(some, present=torch.tensor([[True, True, True], [True, True, False], [True, True, True]]))
    hidden = mask_inputs(some, config_of(mask_lidar=0.3), GRID, seeded()).hidden
    assert hidden.flatten(1).all(1).tolist() == [False, True, False]


def test_hidden_patches_are_grey_and_others_untouched() -> None:
    images = make_inputs().cameras
    assert images is not None
    old = images.images
    new = mask_patches(old, config_of(mask_camera=0.4), seeded())
    assert new.dtype == torch.uint8 and new.shape == old.shape
    # No pixel of the pictures is as bright as the grey.
    is_grey = new[:, :, 0] == masking._GREY[0]
    torch.testing.assert_close(torch.where(is_grey[:, :, None], old, new), old)
    assert bool((new.movedim(2, -1)[is_grey] == torch.tensor(masking._GREY, dtype=torch.uint8)).all())
    # 40 x 72 px: three rows and five columns of patches, the last of each cut off.
    patches = [is_grey[:, :, y : y + 16, x : x + 16] for y in range(0, 40, 16) for x in range(0, 72, 16)]
    whole = torch.stack([patch.flatten(2).float().mean(2) for patch in patches])
    assert bool(((whole == 0) | (whole == 1)).all())
    many = [mask_patches(old, config_of(mask_camera=0.4), seeded(seed))[:, :, 0] == 124 for seed in range(30)]
    assert float(torch.stack(many).float().mean()) == pytest.approx(0.4, abs=0.04)


def test_hiding_is_decided_by_the_generator_alone() -> None:
    inputs, config = make_inputs(), config_of(mask_sensor=0.5)
    one, same, other = (mask_inputs(inputs, config, GRID, seeded(seed)) for seed in (3, 3, 4))
    torch.manual_seed(17)
    assert torch.equal(one.hidden, same.hidden) and not torch.equal(one.hidden, other.hidden)
    assert one.inputs.present.equal(same.inputs.present)
    first, second = one.inputs.cameras, same.inputs.cameras
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert torch.equal(first.images, second.images)


# -- what does not belong together ------------------------------------------------------------------------------------


def changed(old: SensorInputs, new: SensorInputs) -> dict[Sensor, list[bool]]:
    """Of each sensor: which samples are not as they were."""
    found: dict[Sensor, list[bool]] = {"camera": [], "radar": [], "lidar": []}
    (old_cameras, *old_points), (new_cameras, *new_points) = parts(old), parts(new)
    for sample in range(old.batch_size):
        same = torch.equal(old_cameras.images[sample], new_cameras.images[sample])
        same &= torch.equal(old_cameras.camera_T_ego[sample], new_cameras.camera_T_ego[sample])
        found["camera"].append(not same)
        for sensor, one, other in zip(("radar", "lidar"), old_points, new_points, strict=True):
            a, b = one.of_sample(sample), other.of_sample(sample)
            is_same = a.xyz_m.shape == b.xyz_m.shape and torch.equal(a.xyz_m, b.xyz_m)
            found[sensor].append(not (is_same and torch.equal(a.features, b.features)))  # type: ignore[index]
    return found


def test_exactly_the_wrong_samples_are_changed_in_one_sensor() -> None:
    inputs, generator = make_inputs(4), seeded()
    counts, sensors = 0, set()
    for _ in range(60):
        mixed, is_wrong = mismatch(inputs, 0.4, generator)
        found = changed(inputs, mixed)
        touched = [sensor for sensor in SENSORS if any(found[sensor])]
        assert len(touched) == int(is_wrong.any())
        for column, sensor in enumerate(SENSORS):
            assert found[sensor] == is_wrong[:, column].tolist()
        sensors.update(touched)
        counts += int(is_wrong.sum())
    assert sensors == set(SENSORS)
    assert counts / 240 == pytest.approx(0.4, abs=0.1)


def test_at_share_zero_nothing_changes() -> None:
    inputs = make_inputs()
    mixed, is_wrong = mismatch(inputs, 0.0, seeded())
    assert mixed is inputs and not bool(is_wrong.any())
    alone = inputs.only(("lidar",))
    mixed, is_wrong = mismatch(alone, 0.9, seeded())
    assert mixed is alone and not bool(is_wrong.any()), "with one sensor nothing can be wrong"


def test_a_wrong_sample_has_anothers_data_or_moved_ones() -> None:
    """Swapped data equal the sample's before it; moved ones are no one's."""
    inputs, generator = make_inputs(4), seeded(1)
    _, _, old = parts(inputs)
    kinds = []
    for _ in range(80):
        mixed, is_wrong = mismatch(inputs, 0.5, generator)
        new = mixed.lidar
        assert new is not None
        if not any(changed(inputs, mixed)["lidar"]):
            continue
        for sample in torch.nonzero(is_wrong.any(1)).flatten().tolist():
            own, taken = new.of_sample(sample), old.of_sample((sample - 1) % 4)
            kinds.append(torch.equal(own.xyz_m, taken.xyz_m))
            if not kinds[-1]:
                assert torch.equal(own.features, old.of_sample(sample).features)
                assert torch.equal(own.xyz_m[:, 2], old.of_sample(sample).xyz_m[:, 2])
    assert len(kinds) > 20 and 0.25 < sum(kinds) / len(kinds) < 0.75


def test_a_batch_of_one_is_moved_only() -> None:
    inputs, generator = make_inputs(1), seeded()
    wrong = 0
    for _ in range(20):
        mixed, is_wrong = mismatch(inputs, 0.7, generator)
        found = changed(inputs, mixed)
        assert [found[sensor][0] for sensor in SENSORS] == is_wrong[0].tolist()
        assert torch.equal(parts(mixed)[0].images, parts(inputs)[0].images)
        wrong += int(is_wrong.sum())
    assert 8 < wrong < 20


def test_what_lacks_a_sensor_is_not_made_wrong_with_it() -> None:
    inputs = make_inputs(2)
    only_lidar = torch.tensor([[False, False, True], [True, False, True]])
    assert inputs.cameras is not None
    inputs = replace(inputs, radar=None, present=only_lidar)
    generator = seeded()
    for _ in range(30):
        mixed, is_wrong = mismatch(inputs, 0.9, generator)
        assert not bool(is_wrong[0].any() | is_wrong[:, 1].any()) and mixed.present.equal(only_lidar)


def test_wrong_calibrations_are_rigid_and_not_small() -> None:
    matrices = wrong_calibrations(500, seeded())
    rotation, shift = matrices[:, :3, :3], matrices[:, :3, 3]
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(500, 3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(500))
    assert bool((rotation[:, 2, 2] == 1).all()) and not bool(shift[:, 2].any())
    yaw_deg = torch.rad2deg(torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    assert 2.99 < float(yaw_deg.abs().min()) < 3.5 and 14.5 < float(yaw_deg.abs().max()) < 15.01
    assert 0.4 < float((yaw_deg > 0).float().mean()) < 0.6
    assert 1.4 < float(shift[:, :2].abs().max()) <= 1.5 and float(shift.mean(0).abs().max()) < 0.2


@pytest.mark.parametrize("sensor", SENSORS)
def test_a_wrong_calibration_moves_a_sensor_as_a_whole(sensor: Sensor) -> None:
    inputs, itself = make_inputs(2), torch.arange(2)
    moved = wrong_calibrations(2, seeded())
    result = with_taken(inputs, sensor, itself, moved)
    assert [any(changed(inputs, result)[name]) for name in SENSORS] == [name == sensor for name in SENSORS]
    (old_cameras, *old_points), (new_cameras, *new_points) = parts(inputs), parts(result)
    for sample in range(2):
        matrix = moved[sample]
        if sensor == "camera":
            # A point is seen at the same pixel if it moves along.
            place = torch.rand(50, 3, generator=seeded(5)).expand(2, 50, 3) * 20 - 10
            before, depth = project_points(old_cameras.intrinsics[sample], old_cameras.camera_T_ego[sample], place)
            after, _ = project_points(
                new_cameras.intrinsics[sample],
                new_cameras.camera_T_ego[sample],
                transform_points(matrix.expand(2, 4, 4), place),
            )
            assert bool((depth > 1).any())
            torch.testing.assert_close(after[depth > 1], before[depth > 1], rtol=1e-4, atol=1e-3)
            continue
        column = 0 if sensor == "radar" else 1
        old, new = old_points[column].of_sample(sample), new_points[column].of_sample(sample)
        torch.testing.assert_close(new.xyz_m, transform_points(matrix, old.xyz_m))
        if sensor == "radar":
            check_velocities(old, new, matrix)


def check_velocities(old: Points, new: Points, matrix: Tensor) -> None:
    """A radar's velocity turns with it: a step of its motion, moved, is its motion after being moved."""
    step = torch.cat([old.features[:, 1:3], torch.zeros(len(old), 1)], 1)
    ahead = transform_points(matrix, old.xyz_m + step) - transform_points(matrix, old.xyz_m)
    torch.testing.assert_close(new.features[:, 1:3], ahead[:, :2], rtol=1e-4, atol=1e-5)
    assert torch.equal(new.features[:, [0, 3]], old.features[:, [0, 3]])
    torch.testing.assert_close(new.features[:, 1:3].norm(dim=1), old.features[:, 1:3].norm(dim=1))
    assert not math.isclose(float(new.features[0, 1]), float(old.features[0, 1]), rel_tol=1e-3)
