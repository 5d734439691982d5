"""Training checkpoints: reading them back, as a network or as where another run begins."""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusionperc.config import Config, ConfigError, ModelConfig, build_config
from fusionperc.models.encoder import ENCODER_PARTS, BevEncoder
from fusionperc.models.fusionperc import FusionPerc
from fusionperc.models.pretraining import FusionPercPretraining

log = logging.getLogger(__name__)

#: Key under which a checkpoint keeps its run's configuration.
CONFIG_KEY = "fusionperc_config"
#: What the names of the planning head's weights begin with.
PLANNING_PART = "planning."
#: The same of the part of it that is fitted before all else (`training/prior.py`) and then stays.
PRIOR_PART = "planning.prior."
#: The same of the head that boxes what moves, and of the one it becomes.
_OBJECTS_PART, _DENSE_PART = "objects.", "detection.dense."


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the remedy."""


def start_from(checkpoint: Path, model: FusionPerc) -> None:
    """Takes a checkpoint's weights; the planning head may be new. Raises `CheckpointError`."""
    weights = _weights(read_checkpoint(checkpoint))
    own = model.state_dict()
    fresh = {name: value for name, value in own.items() if name.startswith(PLANNING_PART) and name not in weights}
    _check_weights(checkpoint, own, weights | fresh)
    model.load_state_dict(weights | fresh)


def init_from(run: Path, model: BevEncoder) -> None:
    """Takes the encoders and the fusion of a pretraining run, all that the model has, and the dense head where the run
    learnt one, and logs what was not taken.

    Args:
        run: its folder, or one of its checkpoints.
        model: its sensors may be fewer than the run's.

    Raises:
        CheckpointError: the checkpoint cannot be read, or lacks a weight or has it in another shape.
    """
    checkpoint = run / "checkpoints" / "last.ckpt" if run.is_dir() else run
    weights = {_fine_tuned_name(name): value for name, value in _weights(read_checkpoint(checkpoint)).items()}
    has_head = any(name.startswith(_DENSE_PART) for name in weights)
    parts = (*ENCODER_PARTS, _DENSE_PART) if has_head else ENCODER_PARTS
    own = model.state_dict()
    wanted = {name: value for name, value in own.items() if name.startswith(parts)}
    taken = {name: weights[name] for name in wanted if name in weights}
    _check_weights(checkpoint, wanted, taken)
    model.load_state_dict(own | taken)
    log.info("%s: taken: %s", checkpoint, _by_part(taken))
    log.info("not taken from it: %s", _by_part(weights.keys() - taken.keys()) or "nothing")
    log.info("as initialised: %s", _by_part(own.keys() - taken.keys()) or "nothing")


def _fine_tuned_name(name: str) -> str:
    """What a weight of `FusionPercPretraining` is called in `FusionPerc`."""
    return _DENSE_PART + name.removeprefix(_OBJECTS_PART) if name.startswith(_OBJECTS_PART) else name


def _by_part(names: Iterable[str]) -> str:
    """'camera 3, fusion 20': numbers of weights by part."""
    counts = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{part} {count}" for part, count in sorted(counts.items()))


def _weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's weights under the network's own names."""
    return {name.removeprefix("model."): value for name, value in content["state_dict"].items()}


def load_model(checkpoint: Path, device: torch.device | str = "cpu") -> tuple[FusionPerc, Config]:
    """The network of a checkpoint, in evaluation mode, and the configuration it was trained with.

    Only tensors and plain values are read (no pickled code runs).

    Raises:
        CheckpointError: the file is missing, is no checkpoint of this package, or its weights do not fit the network
            its configuration describes.
    """
    weights, config = _weights_and_config(checkpoint)
    model = FusionPerc(_bare(config))
    _check_weights(checkpoint, model.state_dict(), weights)
    model.load_state_dict(weights)
    return model.to(device).eval(), config


def load_pretraining(checkpoint: Path, device: torch.device | str = "cpu") -> tuple[FusionPercPretraining, Config]:
    """The same of a pretraining run's checkpoint."""
    weights, config = _weights_and_config(checkpoint)
    model = FusionPercPretraining(_bare(config), config.pretraining)
    _check_weights(checkpoint, model.state_dict(), weights)
    model.load_state_dict(weights)
    return model.to(device).eval(), config


def _weights_and_config(checkpoint: Path) -> tuple[dict[str, Tensor], Config]:
    content = read_checkpoint(checkpoint)
    try:
        config = build_config(dict(content[CONFIG_KEY]), source=str(checkpoint))
    except ConfigError as error:
        raise CheckpointError(
            f"{error}: the checkpoint is of another version of this package; train it again"
        ) from None
    return _weights(content), config


def _bare(config: Config) -> ModelConfig:
    """The checkpoint holds every weight: nothing is to be fetched to build the network."""
    return config.model.model_copy(update={"camera": config.model.camera.model_copy(update={"weights": "none"})})


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """The raw content of a training checkpoint of this package. Raises `CheckpointError`."""
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: no such checkpoint; training writes RUN/checkpoints/last.ckpt")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{checkpoint}: cannot be read as a checkpoint ({first}); is the file complete?"
        ) from None
    if not isinstance(content, dict) or CONFIG_KEY not in content or "state_dict" not in content:
        raise CheckpointError(f"{checkpoint}: holds no '{CONFIG_KEY}': not a checkpoint written by tools/train.py")
    return content


def _check_weights(checkpoint: Path, wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    missing = sorted(wanted.keys() - given.keys())
    extra = sorted(given.keys() - wanted.keys())
    reshaped = sorted(name for name in wanted.keys() & given.keys() if wanted[name].shape != given[name].shape)
    if missing or extra or reshaped:
        first = (reshaped or missing or extra)[0]
        raise CheckpointError(
            f"{checkpoint}: weights of another architecture: {len(missing)} missing, {len(extra)} unknown, "
            f"{len(reshaped)} of another shape, first '{first}'; use the model configuration it was trained with"
        )
