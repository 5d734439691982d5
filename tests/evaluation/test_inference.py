"""From a network to detections per sample and subset."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from fusionperc.config import Config, ConfigError
from fusionperc.evaluation.inference import ALL_SUBSETS, choose_device, overridden, predict, subsets_of
from fusionperc.types import SENSORS, Batch, Boxes, Detections, Points, SensorInputs, Targets, letters_from_sensors


class CountingModel:
    """Finds as many boxes as there are sensors, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def detect(self, inputs: SensorInputs) -> list[Detections]:
        self.seen.append(
            letters_from_sensors([s for s, has in zip(SENSORS, inputs.present.any(0), strict=True) if has])
        )
        assert not torch.is_grad_enabled()
        found = []
        for present in inputs.present:
            count = int(present.sum())
            index = torch.zeros(count, dtype=torch.int64)
            boxes = Boxes(
                torch.zeros(count, 3), torch.ones(count, 3), torch.zeros(count), torch.zeros(count, 2), index, index
            )
            found.append(Detections(**vars(boxes), score=torch.ones(count)))
        return found


def batch(tokens: list[str], present: list[list[bool]]) -> Batch:
    size = len(tokens)
    index = torch.zeros(0, dtype=torch.int64)
    mask = torch.tensor(present)
    lidar = Points(torch.zeros(0, 3), torch.zeros(0, 2), index, size) if bool(mask[:, 2].any()) else None
    radar = Points(torch.zeros(0, 3), torch.zeros(0, 4), index, size) if bool(mask[:, 1].any()) else None
    unknown = torch.full((size,), -1)
    targets = Targets(
        [Boxes.empty()] * size, [torch.zeros(0, 2, dtype=torch.int64)] * size, None, torch.zeros(size, 4, 3),
        torch.zeros(size, 6, 3), unknown, torch.zeros(size, 4), torch.ones(size, dtype=torch.bool),
    )  # fmt: skip
    return Batch(SensorInputs(None, radar, lidar, mask), targets, tokens)


class Loader:
    """Batches that may be read once only."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.reads = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        self.reads += 1
        return iter(self.batches)


def test_each_batch_is_read_once_for_all_subsets_and_blind_samples_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    batches = [batch(["a", "b"], [[False, True, True], [False, False, True]]), batch(["c"], [[False, True, False]])]
    loader, model = Loader(batches), CountingModel()
    with caplog.at_level(logging.WARNING):
        found = predict(cast(Any, model), cast(Any, loader), ("R", "L", "RL"), "cpu")
    assert loader.reads == 1
    counts = {subset: {token: len(boxes) for token, boxes in per.items()} for subset, per in found.items()}
    assert counts == {"R": {"a": 1, "b": 0, "c": 1}, "L": {"a": 1, "b": 1, "c": 0}, "RL": {"a": 2, "b": 1, "c": 1}}
    # The model is never asked about a batch in which no sample has a sensor of the subset.
    assert model.seen == ["R", "L", "RL", "R", "R"]
    assert [record.message for record in caplog.records] == [
        f"{subset}: 1 samples have none of these sensors and count as without detections" for subset in "RL"
    ]


def test_subsets_are_those_the_model_takes() -> None:
    assert subsets_of("all-subsets", SENSORS) == ALL_SUBSETS
    assert subsets_of("all-subsets", ("camera", "lidar")) == ("C", "L", "CL")
    assert subsets_of("lc", SENSORS) == ("CL",)
    with pytest.raises(ConfigError, match="the model takes CL only"):
        subsets_of("R", ("camera", "lidar"))
    with pytest.raises(ValueError, match="'XY' is not a subset"):
        subsets_of("XY", SENSORS)


def test_overrides_change_the_data_but_never_the_network() -> None:
    config = overridden(Config(), ["data.split=mini_train", "data.batch_size=5"])
    assert (config.data.split, config.data.batch_size) == ("mini_train", 5)
    with pytest.raises(ConfigError, match=r"override 'model\.fusion\.layers=7': the network is the checkpoint's"):
        overridden(Config(), ["data.batch_size=5", "model.fusion.layers=7"])
    with pytest.raises(ConfigError, match=r"unknown key 'data\.splt'"):
        overridden(Config(), ["data.splt=x"])


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device cuda"):
        choose_device("cuda")
