"""Which sensors a training step sees."""

from __future__ import annotations

from collections import Counter

import torch

from fusionperc.data.sensor_dropout import drop_sensors
from fusionperc.types import Points, SensorInputs, letters_from_sensors


def inputs(present: list[list[bool]]) -> SensorInputs:
    points = Points(torch.zeros(0, 3), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), len(present))
    table = torch.tensor(present)
    return SensorInputs(
        cameras=None,
        radar=points if table[:, 1].any() else None,
        lidar=points if table[:, 2].any() else None,
        present=table,
    )


def seen(result: SensorInputs) -> str:
    return letters_from_sensors(
        [
            sensor
            for sensor, value in (("camera", result.cameras), ("radar", result.radar), ("lidar", result.lidar))
            if value is not None
        ]
    )


def test_share_and_evenness() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = inputs([[False, True, True]])
    counts = Counter(seen(drop_sensors(batch, 0.5, generator)) for _ in range(2000))
    assert set(counts) == {"RL", "R", "L"}
    assert abs(counts["RL"] / 2000 - 0.5) < 0.05
    assert abs(counts["R"] - counts["L"]) < 150


def test_never_and_always() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = inputs([[False, True, True]])
    assert all(drop_sensors(batch, 0.0, generator) is batch for _ in range(20))
    assert all(seen(drop_sensors(batch, 1.0, generator)) in {"R", "L"} for _ in range(20))


def test_no_sample_is_left_with_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = inputs([[False, True, False], [False, True, True]])
    assert {seen(drop_sensors(batch, 1.0, generator)) for _ in range(50)} == {"R"}
    single = inputs([[False, True, False], [False, False, True]])
    assert all(drop_sensors(single, 1.0, generator) is single for _ in range(20))
