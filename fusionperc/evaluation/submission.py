"""nuScenes' detection submissions: writing, checking, reading back.

A submission holds boxes in the world's frame, as width, length, height and a quaternion. It is the border where this
package's ego-frame boxes leave it, and where those of others come in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fusionperc.files import whole_file
from fusionperc.geometry import (
    inverse,
    quaternion_from_yaw,
    rotation_from_quaternion,
    rotation_from_yaw,
    transform_points,
    yaw_from_rotation,
)
from fusionperc.types import ATTRIBUTES, CLASSES, SENSORS, Detections, Sensor

#: The official evaluation takes no more boxes than this per sample.
MAX_BOXES_PER_SAMPLE = 500

_VECTORS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}


class SubmissionError(ValueError):
    """A submission that cannot be scored; its one-line message names the file, what is wrong in it and the remedy."""


def write_submission(
    path: Path,
    detections: Mapping[str, Detections],
    global_T_ego: Callable[[str], Tensor],
    sensors: Sequence[Sensor],
) -> None:
    """Writes detections as a nuScenes submission, whole or not at all.

    Of a sample with more than 500 detections the best 500 are written. Boxes stand upright in the world, as nuScenes'
    annotations do, with that heading whose projection onto the (slightly tilted) ego's ground plane is their yaw.
    Velocity lies in the ego's ground plane; an unknown (NaN) one is written as 0.

    Args:
        path: the JSON file; its folder is made if missing.
        detections: per sample token, in the sample's ego frame; every sample of the split must be there, if only with
            no detection.
        global_T_ego: (4, 4) float64 pose of a sample's ego frame, e.g. `NuScenesDrives.global_T_ego`.
        sensors: what the detections were made from; goes into the file's `meta`.
    """
    meta = {f"use_{sensor}": sensor in sensors for sensor in SENSORS} | {"use_map": False, "use_external": False}

    def pieces() -> Iterator[str]:
        # Sample by sample: all boxes of a full split as Python objects would take gigabytes.
        yield f'{{"meta": {json.dumps(meta)}, "results": {{'
        separator = "\n"
        for token, found in detections.items():
            boxes = submission_boxes(token, found, global_T_ego(token))
            yield f"{separator}{json.dumps(token)}: {json.dumps(boxes, allow_nan=False)}"
            separator = ",\n"
        yield "\n}}\n"

    with whole_file(path) as part, part.open("w") as stream:
        stream.writelines(pieces())


def submission_boxes(token: str, detections: Detections, global_T_ego: Float[Tensor, "4 4"]) -> list[dict[str, Any]]:
    """The best detections of one sample as a submission's boxes, best first."""
    best = torch.argsort(detections.score, descending=True, stable=True)[:MAX_BOXES_PER_SAMPLE]
    kept = detections[best].to("cpu")
    if len(kept) == 0:
        return []
    pose = global_T_ego.double()
    heading = rotation_from_yaw(kept.yaw_rad.double())[:, :2, 0] @ torch.linalg.inv(pose[:2, :2])
    columns = zip(
        transform_points(pose, kept.center_m.double()).tolist(),
        kept.size_lwh_m.double()[:, [1, 0, 2]].tolist(),
        quaternion_from_yaw(torch.atan2(heading[:, 1], heading[:, 0])).tolist(),
        (kept.velocity_mps.double().nan_to_num(0.0) @ pose[:2, :2].T).tolist(),
        kept.class_index.tolist(),
        kept.score.double().tolist(),
        kept.attribute_index.tolist(),
        strict=True,
    )
    return [
        {
            "sample_token": token,
            "translation": translation,
            "size": size_wlh,
            "rotation": wxyz,
            "velocity": velocity,
            "detection_name": CLASSES[class_index],
            "detection_score": score,
            "attribute_name": ATTRIBUTES[attribute] if attribute >= 0 else "",
        }
        for translation, size_wlh, wxyz, velocity, class_index, score, attribute in columns
    ]


def detections_from_boxes(boxes: Sequence[dict[str, Any]], global_T_ego: Float[Tensor, "4 4"]) -> Detections:
    """The inverse of `submission_boxes`: one sample's boxes of a submission, in its ego frame (float32).

    A tilted box, which nuScenes does not have, comes back upright.
    """

    def column(name: str, size: int) -> Tensor:
        return torch.tensor([box[name] for box in boxes], dtype=torch.float64).reshape(-1, size)

    ego_T_global = inverse(global_T_ego.double())
    rotation = ego_T_global[:3, :3] @ rotation_from_quaternion(column("rotation", 4))
    attributes = [box["attribute_name"] for box in boxes]
    return Detections(
        center_m=transform_points(ego_T_global, column("translation", 3)).float(),
        size_lwh_m=column("size", 3)[:, [1, 0, 2]].float(),
        yaw_rad=yaw_from_rotation(rotation).float(),
        velocity_mps=(column("velocity", 2) @ torch.linalg.inv(global_T_ego[:2, :2].double()).T).float(),
        class_index=torch.tensor([CLASSES.index(box["detection_name"]) for box in boxes], dtype=torch.int64),
        attribute_index=torch.tensor([ATTRIBUTES.index(a) if a else -1 for a in attributes], dtype=torch.int64),
        score=column("detection_score", 1)[:, 0].float(),
    )


def read_submission(path: Path) -> tuple[dict[str, bool], dict[str, list[dict[str, Any]]]]:
    """`meta` and the boxes per sample token of a submission, checked box by box.

    Raises:
        SubmissionError: no such file, no JSON, another structure, an unknown class or attribute, a number that is
            none, more than 500 boxes of one sample.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SubmissionError(f"{path}: cannot read the submission ({error.strerror}); name another file") from None
    except ValueError as error:
        raise SubmissionError(f"{path}: is no JSON ({error}); is the file complete?") from None
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not isinstance(content.get("meta"), dict):
        raise SubmissionError(
            f'{path}: is no nuScenes submission: expected {{"meta": {{...}}, "results": {{sample token: [boxes]}}}}'
        )
    for token, boxes in results.items():
        if not isinstance(boxes, list):
            raise SubmissionError(f"{path}: sample {token} holds a {type(boxes).__name__}, expected a list of boxes")
        if len(boxes) > MAX_BOXES_PER_SAMPLE:
            raise SubmissionError(
                f"{path}: sample {token} has {len(boxes)} boxes, more than {MAX_BOXES_PER_SAMPLE}; keep the best"
            )
        for number, box in enumerate(boxes):
            if problem := _problem(token, box):
                raise SubmissionError(f"{path}: sample {token}, box {number}: {problem}")
    return content["meta"], results


def _problem(token: str, box: Any) -> str | None:
    """What is wrong with a box, None if it can be scored."""
    if not isinstance(box, dict):
        return f"is a {type(box).__name__}, expected an object"
    if missing := {"sample_token", *_VECTORS, "detection_name", "detection_score", "attribute_name"} - box.keys():
        return f"has no '{sorted(missing)[0]}'"
    if box["sample_token"] != token:
        return f"sample_token '{box['sample_token']}' is not the sample it is listed under"
    for name, size in _VECTORS.items():
        value = box[name]
        is_vector = isinstance(value, list) and len(value) == size and all(isinstance(x, int | float) for x in value)
        # The devkit itself gives NaN as the velocity of boxes seen once, so submissions made of ground truth hold it.
        if not is_vector or (name != "velocity" and not all(math.isfinite(x) for x in value)):
            return f"'{name}' = {value} is not {size} finite numbers"
    if not any(box["rotation"]):
        return f"'rotation' = {box['rotation']} is no quaternion"
    if box["detection_name"] not in CLASSES:
        return f"unknown detection_name '{box['detection_name']}'; known: {', '.join(CLASSES)}"
    if box["attribute_name"] and box["attribute_name"] not in ATTRIBUTES:
        return f"unknown attribute_name '{box['attribute_name']}'; known: '', {', '.join(ATTRIBUTES)}"
    score = box["detection_score"]
    if not isinstance(score, int | float) or not math.isfinite(score):
        return f"'detection_score' = {score} is no finite number"
    return None
