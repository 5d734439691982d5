"""From a trained network to official scores: inference on a split, submissions, reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader

from fusionperc.config import Config, ConfigError, DataConfig, build_config
from fusionperc.console import console
from fusionperc.data.loading import make_loader
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.evaluation.detection import DetectionReport, OfficialEvaluation
from fusionperc.evaluation.recall import recall_by_class
from fusionperc.evaluation.report import class_table, recall_table, subset_table, write_report
from fusionperc.evaluation.submission import read_submission, write_submission
from fusionperc.models.fusionperc import FusionPerc
from fusionperc.types import SENSORS, Batch, Detections, Sensor, letters_from_sensors, sensors_from_letters

log = logging.getLogger(__name__)

#: The seven subsets of camera, radar and LiDAR, in the order of tables.
ALL_SUBSETS = ("C", "R", "L", "CR", "CL", "RL", "CRL")


def choose_device(name: str) -> torch.device:
    """'auto' is CUDA where there is one, else the CPU. Raises `ConfigError` if 'cuda' is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """A checkpoint's configuration with another data folder, split, batch size ...

    Raises:
        ConfigError: an override does not fit, or would change the trained network.
    """
    changed = build_config(config.model_dump(mode="json"), overrides, source="overrides")
    if changed.model != config.model:
        key = next(override for override in overrides if override.startswith("model"))
        raise ConfigError(f"override '{key}': the network is the checkpoint's and cannot be changed; leave model.* out")
    return changed


def subsets_of(letters: str, available: Sequence[Sensor]) -> tuple[str, ...]:
    """Sensor subsets to evaluate: 'CRL+C' -> ('CRL', 'C'); 'all-subsets' -> every subset of what the model takes.

    Raises:
        ConfigError: the model has no encoder of a sensor that is asked for.
    """
    known = letters_from_sensors(available)
    if letters == "all-subsets":
        return tuple(subset for subset in ALL_SUBSETS if set(subset) <= set(known))
    asked = tuple(letters_from_sensors(sensors_from_letters(part)) for part in letters.split("+"))
    if not set("".join(asked)) <= set(known):
        raise ConfigError(f"--sensors {letters}: the model takes {known} only (model.sensors); ask for these")
    return asked


def predict(
    model: FusionPerc, loader: DataLoader[Batch], subsets: Sequence[str], device: torch.device | str
) -> dict[str, dict[str, Detections]]:
    """Detections of every sample for every sensor subset, on the CPU; each batch is read once for all subsets.

    Samples that have none of a subset's sensors get no detections; their number is logged.

    Args:
        model: in evaluation mode, on `device`.
        loader: batches of a split.
        subsets: letters, e.g. ('C', 'CRL').
        device: where the model is.

    Returns:
        Per subset, per sample token.
    """
    found: dict[str, dict[str, Detections]] = {subset: {} for subset in subsets}
    blind = dict.fromkeys(subsets, 0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with torch.inference_mode(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for batch in progress.track(loader, description=f"detecting with {', '.join(subsets)}"):
            for subset in subsets:
                inputs = batch.inputs.only(sensors_from_letters(subset))
                sees = inputs.present.any(dim=1).tolist()
                detections = model.detect(inputs.to(device)) if any(sees) else [_nothing()] * len(batch)
                for token, has_sensor, boxes in zip(batch.sample_tokens, sees, detections, strict=True):
                    found[subset][token] = boxes.to("cpu") if has_sensor else _nothing()
                blind[subset] += sees.count(False)
    for subset, count in blind.items():
        if count:
            log.warning("%s: %d samples have none of these sensors and count as without detections", subset, count)
    return found


def _nothing() -> Detections:
    index = torch.zeros(0, dtype=torch.int64)
    return Detections(
        torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 2), index, index, score=torch.zeros(0)
    )


def open_drives(config: Config) -> NuScenesDrives:
    """The drives of `data.split`, with the index cache at `data.cache` or in the run folder if that is here."""
    data, cache = config.data, config.data.cache
    if cache is None and config.run.dir.is_dir():
        cache = config.run.dir / "cache"
    return NuScenesDrives(data.root, data.version, data.split, config=data, cache=cache)


def evaluate_model(
    model: FusionPerc, config: Config, sensors: str, output: Path, device: torch.device | str = "cpu"
) -> dict[str, DetectionReport]:
    """Detects on `data.split`, writes a submission per sensor subset and scores each.

    Args:
        model: in evaluation mode, on `device`.
        config: its data record says what to evaluate on.
        sensors: letters such as 'CRL', or 'all-subsets'.
        output: folder of the files submission_<subset>.json.
        device: where the model is.

    Returns:
        Reports by subset letters.

    Raises:
        ConfigError, DataError, EvaluationError: as the parts.
    """
    subsets = subsets_of(sensors, config.model.sensor_names)
    # First, so that a wrong split is told before the long part.
    official = OfficialEvaluation(config.data.root, config.data.version, config.data.split, config.data.scenes)
    drives = open_drives(config)
    started_s = time.monotonic()
    found = predict(model, make_loader(config, config.data.split, training=False, drives=drives), subsets, device)
    log.info("detected on %d samples in %.0f s", len(drives), time.monotonic() - started_s)
    unread = [token for token in official.sample_tokens if token not in drives.sample_tokens]
    if unread:
        log.warning("%d samples of the split lack files (data.missing) and count as without detections", len(unread))
    reports = {}
    labels = {token: drives.labels(index) for index, token in enumerate(drives.sample_tokens)}
    truth = {token: (label.boxes, label.num_points) for token, label in labels.items()}
    for subset in subsets:
        path = output / f"submission_{subset}.json"
        complete = found[subset] | {token: _nothing() for token in unread}
        write_submission(path, complete, lambda token: _pose(drives, token), sensors_from_letters(subset))
        recall = recall_by_class(found[subset], truth)
        reports[subset] = replace(official.score(path), recall=recall)
    return reports


def report_model(
    model: FusionPerc, config: Config, sensors: str, output: Path, source: Path, device: torch.device | str = "cpu"
) -> None:
    """Evaluates a model as `evaluate_model` does, writes `output`/report.json and its pictures, prints the tables.

    Args:
        model, config, sensors, output, device: as in `evaluate_model`.
        source: the checkpoint, named in the report.
    """
    started_s = time.monotonic()
    reports = evaluate_model(model, config, sensors, output, device)
    path = write_report(output, reports, config.data, source, time.monotonic() - started_s)
    show_reports(reports, config.data.split)
    console.print(f"report: {path}")


def show_reports(reports: Mapping[str, DetectionReport], split: str) -> None:
    """Prints the tables of the largest subset and, where there are several, of all subsets."""
    main = max(reports, key=len)
    console.print(class_table(reports[main], f"{main or 'submission'} on {split}"))
    if (recall := reports[main].recall) is not None:
        console.print(recall_table(recall))
    if len(reports) > 1:
        console.print(subset_table(reports))


def evaluate_predictions(path: Path, data: DataConfig) -> tuple[str, DetectionReport]:
    """Scores an existing submission on `data.split`. Returns the sensors its meta names, as letters, and the report."""
    meta, _ = read_submission(path)
    report = OfficialEvaluation(data.root, data.version, data.split, data.scenes).score(path)
    return letters_from_sensors([sensor for sensor in SENSORS if meta.get(f"use_{sensor}")]), report


def _pose(drives: NuScenesDrives, token: str) -> Tensor:
    """Samples that were not read have no detections, so any pose does."""
    return drives.global_T_ego(token) if token in drives.sample_tokens else torch.eye(4, dtype=torch.float64)
