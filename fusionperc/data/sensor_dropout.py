"""Training on random sensor subsets, so that no sensor is ignored and each works when another fails.

Source: UniBEV (modality dropout, p = 0.5); deviates: one draw for the whole batch, so that a dropped sensor's encoder
is not run at all.
"""

from __future__ import annotations

from itertools import combinations

import torch

from fusionperc.types import SENSORS, Sensor, SensorInputs


def drop_sensors(inputs: SensorInputs, probability: float, generator: torch.Generator) -> SensorInputs:
    """With `probability`, the batch with a random proper, non-empty subset of its sensors; else as it is.

    Every subset of the sensors that some sample has is equally likely; a subset that would leave a sample without
    any sensor is not drawn.
    """
    draw, choice = torch.rand(2, generator=generator).tolist()
    if draw >= probability:
        return inputs
    available = [sensor for column, sensor in enumerate(SENSORS) if bool(inputs.present[:, column].any())]
    subsets = [
        subset
        for size in range(1, len(available))
        for subset in combinations(available, size)
        if _leaves_something(inputs, subset)
    ]
    if not subsets:
        return inputs
    return inputs.only(subsets[min(int(choice * len(subsets)), len(subsets) - 1)])


def _leaves_something(inputs: SensorInputs, subset: tuple[Sensor, ...]) -> bool:
    columns = [SENSORS.index(sensor) for sensor in subset]
    return bool(inputs.present[:, columns].any(dim=1).all())
