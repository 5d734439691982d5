"""Whether a network notices sensors that do not belong together: the score of one that knows what was recorded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from test_likelihood import small_yaml
from torch import Tensor

from fusionperc.config import load_config
from fusionperc.evaluation.matching import evaluate_matching
from fusionperc.models.pretraining import FusionPercPretraining
from fusionperc.types import SensorInputs


class Comparing:
    """Answers by how far LiDAR's points and the cameras' pictures and poses are from those it was shown first."""

    matching = True

    def __init__(self) -> None:
        self.recorded: Tensor | None = None

    def __call__(self, inputs: SensorInputs, horizon_s: Tensor) -> Any:
        cameras, lidar = inputs.cameras, inputs.lidar
        assert cameras is not None and lidar is not None and tuple(horizon_s.shape) == (2, 1)
        shown = torch.stack(
            [
                torch.cat([
                    lidar.of_sample(sample).xyz_m.double().mean(0),
                    cameras.images[sample].double().mean()[None],
                    cameras.camera_T_ego[sample].double().flatten(),
                ])
                for sample in range(2)
            ]
        )  # fmt: skip
        self.recorded = shown if self.recorded is None else self.recorded
        logits = -(shown - self.recorded).abs().sum(1).float()
        return SimpleNamespace(match_logits={("camera", "lidar"): logits[:, None, None].expand(2, 4, 4)})


def test_what_was_recorded_is_told_from_what_was_not(tiny_drives: Path, tmp_path: Path) -> None:
    """Radar is not looked at: what is done to it is not noticed."""
    config = load_config(small_yaml(tiny_drives, tmp_path))
    scores = evaluate_matching(cast(FusionPercPretraining, Comparing()), config, 2)
    assert len(scores) == 6
    for name, areas in scores.items():
        assert areas == {"chance": 0.5, "network": 0.5 if name.startswith("radar") else 1.0}, name
    alone = load_config(small_yaml(tiny_drives, tmp_path), ["model.sensors=L"])
    assert evaluate_matching(cast(FusionPercPretraining, Comparing()), alone, 2) == {}


def test_a_network_without_the_head_is_refused(tiny_drives: Path, tmp_path: Path) -> None:
    config = load_config(small_yaml(tiny_drives, tmp_path))
    network = FusionPercPretraining(config.model, config.pretraining).eval()
    with pytest.raises(ValueError, match=r"no matching head: pretrain it with pretraining\.matching above 0"):
        evaluate_matching(network, config, 2)
