"""Detection as nuScenes scores it: the official evaluation of a submission.

The numbers come from the devkit's own `DetectionEval` with its configuration detection_cvpr_2019; this module only
prepares its input, words its complaints and keeps its results.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusionperc.data.nuscenes import known_splits
from fusionperc.evaluation.recall import Recall
from fusionperc.evaluation.submission import SubmissionError, read_submission

if TYPE_CHECKING:
    from nuscenes import NuScenes
    from nuscenes.eval.detection.evaluate import DetectionEval

#: Centre distances at which a detection counts as a match, metres.
MATCH_DISTANCES_M = (0.5, 1.0, 2.0, 4.0)

#: The true positives' errors, by the devkit's names: translation (m), scale (1 - IoU), orientation (rad), velocity
#: (m/s), attribute (1 - accuracy).
TP_ERRORS = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}

#: What the devkit asks of the version's name for its own splits.
_SPLIT_VERSIONS = {
    "train": "trainval", "val": "trainval", "train_detect": "trainval", "train_track": "trainval",
    "mini_train": "mini", "mini_val": "mini", "test": "test",
}  # fmt: skip


class EvaluationError(ValueError):
    """Data that cannot be scored; the message names the folder or key and the remedy."""


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class at one match distance: (101,) each, recall 0, 0.01, ..., 1."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]


@dataclass(frozen=True)
class ClassResult:
    """Of one class: average precision, errors of the true positives at 2 m (NaN where not defined).

    Attributes:
        ap: mean over the match distances.
        ap_at: by match distance.
        tp_errors: by the values of `TP_ERRORS`.
        num_ground_truth: annotated boxes within the class's range; without any, the devkit counts AP 0.
        curves: by match distance.
    """

    ap: float
    ap_at: dict[float, float]
    tp_errors: dict[str, float]
    num_ground_truth: int
    curves: dict[float, Curve]


@dataclass(frozen=True)
class DetectionReport:
    """The official scores of one submission.

    Attributes:
        mean_ap, nds: in [0, 1].
        tp_errors: means over classes, mATE, mASE, mAOE, mAVE, mAAE.
        per_class: in the order of `types.CLASSES`.
        num_samples: samples scored.
        recall: of clearly measured objects, by class; None where only a submission was scored.
    """

    mean_ap: float
    nds: float
    tp_errors: dict[str, float]
    per_class: dict[str, ClassResult]
    num_samples: int
    recall: dict[str, Recall] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: undefined numbers are None, curves are left out."""
        return {
            "mean_ap": self.mean_ap,
            "nds": self.nds,
            "tp_errors": {name: _or_none(value) for name, value in self.tp_errors.items()},
            "per_class": {
                name: {
                    "ap": result.ap,
                    "ap_at_m": {str(distance): ap for distance, ap in result.ap_at.items()},
                    "tp_errors": {error: _or_none(value) for error, value in result.tp_errors.items()},
                    "num_ground_truth": result.num_ground_truth,
                }
                for name, result in self.per_class.items()
            },
            "num_samples": self.num_samples,
            "recall": None if self.recall is None else {name: asdict(item) for name, item in self.recall.items()},
        }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


class OfficialEvaluation:
    """The devkit's evaluation of one split; the tables are read once for any number of submissions.

    Args:
        root, version, split: as in `DataConfig`; the split is the devkit's or one of <version>/splits.json.
        scenes: score only these drives of the split; None scores all.

    Raises:
        EvaluationError: no such version or split, they do not fit, or the split has no samples or annotations here.
    """

    def __init__(self, root: Path, version: str, split: str, scenes: Sequence[str] | None = None) -> None:
        from nuscenes import NuScenes

        self.split = split
        self._where = f"{root / version}, split '{split}'"
        names = set(_scene_names(root, version, split))
        try:
            self._tables: NuScenes = NuScenes(version=version, dataroot=str(root), verbose=False)
        except (AssertionError, OSError, KeyError, ValueError) as error:
            raise EvaluationError(f"{root / version}: the devkit cannot read it ({error}); copy it again") from None
        scene_of = {scene["token"]: scene["name"] for scene in self._tables.scene}
        samples = {row["token"]: scene_of[row["scene_token"]] for row in self._tables.sample}
        self._split_tokens = [token for token, scene in samples.items() if scene in names]
        chosen = names if scenes is None else names & set(scenes)
        self.sample_tokens = [token for token in self._split_tokens if samples[token] in chosen]
        if not self.sample_tokens:
            raise EvaluationError(f"{self._where}: none of its drives is here; set data.split (or data.scenes)")
        if not any(self._tables.get("sample", token)["anns"] for token in self.sample_tokens):
            raise EvaluationError(f"{self._where}: has no annotations, nothing can be scored; set data.split")

    def score(self, submission: Path) -> DetectionReport:
        """Scores a submission file. Raises `SubmissionError` if it is none or is not of this split."""
        meta, results = read_submission(submission)
        self._check_samples(submission, results)
        # The devkit compares with the whole split, finds it odd that nothing at all was detected, and prints.
        complete: dict[str, list[dict[str, Any]]] = {token: results.get(token, []) for token in self._split_tokens}
        if not any(complete.values()):
            complete[self.sample_tokens[0]] = [_unreachable_box(self.sample_tokens[0])]
        with tempfile.TemporaryDirectory(prefix="fusionperc-evaluation-") as folder:
            file = Path(folder) / "submission.json"
            file.write_text(json.dumps({"meta": meta, "results": complete}))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return self._run(file, Path(folder))

    def _check_samples(self, submission: Path, results: Mapping[str, Any]) -> None:
        missing = [token for token in self.sample_tokens if token not in results]
        if missing:
            raise SubmissionError(
                f"{submission}: {len(missing)} of {len(self.sample_tokens)} samples of {self._where} are missing, "
                f"first {missing[0]}; list every sample, those without detections as [], or set data.split"
            )
        extra = sorted(results.keys() - set(self._split_tokens))
        if extra:
            raise SubmissionError(
                f"{submission}: {len(extra)} samples are not in {self._where}, first {extra[0]}; set data.split"
            )

    def _run(self, file: Path, folder: Path) -> DetectionReport:
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.detection.evaluate import DetectionEval

        evaluation: DetectionEval = DetectionEval(
            self._tables, config_factory("detection_cvpr_2019"), str(file), self.split, str(folder), verbose=False
        )
        for boxes in (evaluation.gt_boxes, evaluation.pred_boxes):
            boxes.boxes = {token: boxes.boxes[token] for token in self.sample_tokens}
        with warnings.catch_warnings():
            # Means over classes of which none has a true positive.
            warnings.simplefilter("ignore", RuntimeWarning)
            metrics, curves = evaluation.evaluate()
            summary = metrics.serialize()
        counts = dict.fromkeys(evaluation.cfg.class_names, 0)
        for box in evaluation.gt_boxes.all:
            counts[box.detection_name] += 1
        return DetectionReport(
            mean_ap=float(summary["mean_ap"]),
            nds=float(summary["nd_score"]),
            tp_errors={f"m{label}": float(summary["tp_errors"][name]) for name, label in TP_ERRORS.items()},
            per_class={
                name: ClassResult(
                    ap=float(summary["mean_dist_aps"][name]),
                    ap_at={distance: float(summary["label_aps"][name][distance]) for distance in MATCH_DISTANCES_M},
                    tp_errors={
                        label: float(summary["label_tp_errors"][name][error]) for error, label in TP_ERRORS.items()
                    },
                    num_ground_truth=counts[name],
                    curves={d: Curve(curves[(name, d)].recall, curves[(name, d)].precision) for d in MATCH_DISTANCES_M},
                )
                for name in evaluation.cfg.class_names
            },
            num_samples=len(self.sample_tokens),
        )


def _unreachable_box(token: str) -> dict[str, Any]:
    """A box so far away that the evaluation drops it."""
    return {
        "sample_token": token, "translation": [1e7, 1e7, 0.0], "size": [1.0, 1.0, 1.0],
        "rotation": [1.0, 0.0, 0.0, 0.0], "velocity": [0.0, 0.0], "detection_name": "car", "detection_score": 0.0,
        "attribute_name": "",
    }  # fmt: skip


def _scene_names(root: Path, version: str, split: str) -> list[str]:
    if not (root / version / "scene.json").is_file():
        found = sorted(file.parent.name for file in root.glob("*/scene.json"))
        raise EvaluationError(
            f"{root}: has no version '{version}' (found: {', '.join(found) or 'none'}); set data.version or data.root"
        )
    ending = _SPLIT_VERSIONS.get(split)
    if ending is not None and not version.endswith(ending):
        fitting = [name for name, wanted in _SPLIT_VERSIONS.items() if version.endswith(wanted)]
        raise EvaluationError(
            f"data.split = {split} does not fit data.version = {version}: the devkit takes "
            f"{', '.join([*fitting, 'the splits of splits.json'])} with it"
        )
    splits = known_splits(root, version)
    if split not in splits:
        raise EvaluationError(f"{root / version}: unknown split '{split}'; known: {', '.join(splits)}")
    return splits[split]


def evaluate_submission(
    path: Path, root: Path, version: str, split: str, scenes: Sequence[str] | None = None
) -> DetectionReport:
    """Scores one submission file with the official evaluation; see `OfficialEvaluation`."""
    return OfficialEvaluation(root, version, split, scenes).score(path)
