"""Where the time of a training step goes: loader, encoders, fusion, head, each with its share of the backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from fusionperc.benchmarks.timing import Times, alternate
from fusionperc.config import Config
from fusionperc.data.loading import make_loader
from fusionperc.environment import trains_in_bf16
from fusionperc.models.fusionperc import FusionPerc, FusionPercOutput
from fusionperc.objectives.detection import DetectionObjective
from fusionperc.types import SENSORS, Batch, Sensor


def training_step(config: Config, rounds: int, device: torch.device) -> dict[str, Times]:
    """Times of each part by name, forward and backward together, and of the whole step.

    A part is run by itself on what the part before gave, with a gradient of ones at its output. The loader is one
    process here; training overlaps it with the step.
    """
    one_process = config.model_copy(update={"data": config.data.model_copy(update={"workers": 0})})
    loader = make_loader(one_process, config.data.train_split, training=True)
    seconds, batches = [], []
    iterator = iter(loader)
    for _ in range(rounds):
        started = time.perf_counter()
        batches.append(next(iterator))
        seconds.append(time.perf_counter() - started)
    model = FusionPerc(config.model).to(device).train()
    parts = _Parts(config, model, [batch.to(device) for batch in batches])
    candidates: dict[str, Callable[[], object]] = {
        f"{sensor} encoder": partial(parts.encode, sensor) for sensor in config.model.sensor_names
    }
    candidates |= {
        "fusion transformer": parts.fuse,
        "detection head and objective": parts.detect,
        "optimiser": parts.optimise,
        "whole step": parts.step,
    }
    return {"loader (one process)": Times(tuple(seconds)), **alternate(candidates, rounds, device)}


class _Parts:
    """The parts of one step, each on a batch of its own turn."""

    def __init__(self, config: Config, model: FusionPerc, batches: Sequence[Batch]) -> None:
        self.config, self.model, self.batches = config, model, batches
        self.objective = DetectionObjective(config.objective, config.model)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        self.turn = 0
        batch = batches[0]
        with torch.no_grad(), self._precision():
            self.bevs: dict[Sensor, Tensor] = {sensor: self._encoded(sensor, batch) for sensor in self._sensors(batch)}
            self.fused = model.fusion(self.bevs, self._present(batch))

    def _precision(self) -> AbstractContextManager[object]:
        device_type = next(self.model.parameters()).device.type
        return torch.autocast(
            device_type, torch.bfloat16, enabled=trains_in_bf16(self.config.train.precision, device_type)
        )

    def _next(self) -> Batch:
        self.turn += 1
        return self.batches[self.turn % len(self.batches)]

    def _sensors(self, batch: Batch) -> list[Sensor]:
        given = {"camera": batch.inputs.cameras, "radar": batch.inputs.radar, "lidar": batch.inputs.lidar}
        return [sensor for sensor in self.config.model.sensor_names if given[sensor] is not None]

    def _present(self, batch: Batch) -> dict[Sensor, Tensor]:
        return {sensor: batch.inputs.present[:, column] for column, sensor in enumerate(SENSORS)}

    def _encoded(self, sensor: Sensor, batch: Batch) -> Tensor:
        inputs, model = batch.inputs, self.model
        match sensor:
            case "camera":
                assert model.camera is not None and inputs.cameras is not None
                bev: Tensor = model.camera(inputs.cameras).bev
            case "radar":
                assert model.radar is not None
                bev = model.radar(inputs.radar)
            case "lidar":
                assert model.lidar is not None
                bev = model.lidar(inputs.lidar)
        return bev

    def encode(self, sensor: Sensor) -> None:
        batch = self._next()
        if sensor in self._sensors(batch):
            with self._precision():
                bev = self._encoded(sensor, batch)
            _backward(bev.float().sum())
            self.optimizer.zero_grad()

    def fuse(self) -> None:
        bevs = {sensor: bev.detach().requires_grad_() for sensor, bev in self.bevs.items()}
        with self._precision():
            fused = self.model.fusion(bevs, self._present(self.batches[0]))
        _backward(fused.float().sum())
        self.optimizer.zero_grad()

    def detect(self) -> None:
        fused = self.fused.detach().requires_grad_()
        with self._precision():
            detection = self.model.detection(fused)
        output = FusionPercOutput(detection=detection, depth_logits=None, sensor_heatmap_logits={})
        _backward(self.objective(output, self.batches[0].targets)["total"])
        self.optimizer.zero_grad()

    def optimise(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self) -> None:
        batch = self._next()
        with self._precision():
            output = self.model(batch.inputs)
        _backward(self.objective(output, batch.targets)["total"])
        self.optimizer.step()
        self.optimizer.zero_grad()


def _backward(loss: Tensor) -> None:
    torch.autograd.backward(loss)
