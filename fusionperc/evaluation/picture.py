"""One sample as a drawing: its sensors in full size, its ground truth, and what was detected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fusionperc.config import Config
from fusionperc.data.loading import DriveDataset
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.sample import Sample
from fusionperc.evaluation.submission import SubmissionError, detections_from_boxes, read_submission
from fusionperc.models.fusionperc import FusionPerc
from fusionperc.types import CameraInputs, Detections, Sensor, SensorInputs
from fusionperc.visualization.scene import SceneDrawing, build_scene


def sample_index(drives: NuScenesDrives, name: str) -> int:
    """The place of a sample given by token or by index. Raises ValueError if it is neither."""
    if name in drives.sample_tokens:
        return drives.sample_tokens.index(name)
    if name.isdecimal() and int(name) < len(drives):
        return int(name)
    raise ValueError(
        f"--sample {name}: no such sample in split '{drives.split}'; give a token, or an index from 0 to "
        f"{len(drives) - 1}"
    )


def draw_sample(
    drives: NuScenesDrives, index: int, detections: Detections | None, score_threshold: float, range_m: float = 51.2
) -> SceneDrawing:
    """The drawing of a sample.

    Args:
        drives: where it is read.
        index: place in `drives.sample_tokens`.
        detections: in its ego frame; None draws the ground truth alone.
        score_threshold: detections below are not drawn.
        range_m: half side of the square that is drawn.
    """
    sample = drives.read(index)
    kept = None if detections is None else detections[detections.score >= score_threshold]
    return build_scene(full_size_inputs(sample), sample.boxes if sample.is_labelled else None, kept, range_m=range_m)


def full_size_inputs(sample: Sample) -> SensorInputs:
    """A sample's sensors as a batch of one, pictures as they are."""
    has_camera = bool(sample.present[0])
    return SensorInputs(
        cameras=CameraInputs(
            sample.images[None], sample.intrinsics[None], sample.camera_T_ego[None], sample.camera_present[None]
        )
        if has_camera
        else None,
        radar=sample.radar,
        lidar=sample.lidar,
        present=sample.present[None],
    )


def detect_sample(
    model: FusionPerc,
    config: Config,
    drives: NuScenesDrives,
    index: int,
    sensors: Sequence[Sensor],
    device: torch.device | str,
) -> Detections:
    """What the model detects on one sample. Raises ValueError if the sample has none of the sensors."""
    batch = DriveDataset(drives, config.data.image_size, sensors=config.model.sensor_names)[index]
    inputs = batch.inputs.only(sensors)
    if not bool(inputs.present.any()):
        raise ValueError(f"sample {drives.sample_tokens[index]}: has none of {', '.join(sensors)}; change --sensors")
    with torch.inference_mode():
        return model.detect(inputs.to(device))[0].to("cpu")


def read_detections(path: Path, drives: NuScenesDrives, index: int) -> Detections:
    """A submission's detections of one sample, moved back into its ego frame. Raises `SubmissionError`."""
    token = drives.sample_tokens[index]
    results = read_submission(path)[1]
    if token not in results:
        raise SubmissionError(f"{path}: has no sample {token}; was it made on another split?")
    return detections_from_boxes(results[token], drives.global_T_ego(token))
