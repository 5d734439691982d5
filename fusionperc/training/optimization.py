"""Which parameters learn how fast, and how the learning rate goes over a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from fusionperc.config import TrainConfig
from fusionperc.models.encoder import ENCODER_PARTS


def parameter_groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """One group for each learning rate (picture backbone, the rest of the encoders, fusion, heads), times decayed
    (matrices) or not (norms, biases, embeddings). Parameters that take no gradient are left out."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Not those of the module `embeddings`, which maps to them.
            is_embedding = "_embedding" in name or name.endswith(".embedding")
            is_decayed = parameter.ndim > 1 and not is_embedding
            groups.setdefault((_relative_rate(name, train), is_decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": train.learning_rate * rate,
            "weight_decay": train.weight_decay if is_decayed else 0.0,
        }
        for (rate, is_decayed), parameters in groups.items()
    ]


def _relative_rate(name: str, train: TrainConfig) -> float:
    """The learning rate of a parameter relative to the heads'."""
    if name.startswith("camera.backbone."):
        return train.encoder_rate * train.backbone_rate
    if name.startswith("fusion."):
        return train.fusion_rate
    return train.encoder_rate if name.startswith(ENCODER_PARTS) else 1.0


def learning_rate_schedule(optimizer: torch.optim.Optimizer, train: TrainConfig) -> Any:
    match train.schedule:
        case "one_cycle":
            return OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=train.steps + 1,
                pct_start=max(train.warmup, 1e-6),
                div_factor=10,
                final_div_factor=100,
                cycle_momentum=False,
            )
        case "cosine":
            warm = train.warmup * train.steps

            def factor(step: int) -> float:
                if step < warm:
                    return (step + 1) / (warm + 1)
                return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, train.steps - warm))))

            return LambdaLR(optimizer, factor)
