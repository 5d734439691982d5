"""The official evaluation, on real annotations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fusionperc.config import DataConfig
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.evaluation.detection import EvaluationError, OfficialEvaluation, evaluate_submission
from fusionperc.evaluation.report import draw_curves, write_report
from fusionperc.evaluation.submission import SubmissionError, write_submission
from fusionperc.types import CLASSES, SENSORS, Detections

VERSION, SPLIT = "v1.0-mini", "mini_val"
GIVEN = "gt_as_detections_mini_val.json"


@pytest.fixture(scope="module")
def official(real_nuscenes: Path) -> OfficialEvaluation:
    return OfficialEvaluation(real_nuscenes, VERSION, SPLIT)


def linked(root: Path, folder: Path, version: str = VERSION, splits: dict[str, list[str]] | None = None) -> Path:
    """A folder with the same tables under another version name, and splits of its own."""
    (folder / version).mkdir(parents=True)
    for table in (root / VERSION).glob("*.json"):
        (folder / version / table.name).symlink_to(table.resolve())
    (folder / "maps").symlink_to((root / "maps").resolve())
    if splits is not None:
        (folder / version / "splits.json").write_text(json.dumps(splits))
    return folder


def ours(drives: NuScenesDrives) -> dict[str, Detections]:
    """As this package's boxes, with certainty; those that no point hits are left out, as the evaluation does."""
    found = {}
    for index, token in enumerate(drives.sample_tokens):
        labels = drives.labels(index)
        boxes = labels.boxes[labels.num_points.sum(dim=1) > 0]
        found[token] = Detections(**vars(boxes), score=torch.ones(len(boxes)))
    return found


def test_ground_truth_scores_the_known_numbers(official: OfficialEvaluation, real_nuscenes: Path) -> None:
    report = official.score(real_nuscenes / GIVEN)
    assert round(report.mean_ap, 4) == 0.7
    assert round(report.nds, 4) == 0.7067
    assert report.num_samples == 81
    assert list(report.per_class) == list(CLASSES)
    unseen = {name for name, result in report.per_class.items() if result.num_ground_truth == 0}
    assert unseen == {"trailer", "construction_vehicle", "barrier"}
    assert all(result.ap == (0 if name in unseen else pytest.approx(1)) for name, result in report.per_class.items())


def test_ground_truth_through_our_boxes_scores_the_same(
    official: OfficialEvaluation, real_nuscenes: Path, tmp_path: Path
) -> None:
    drives = NuScenesDrives(real_nuscenes, VERSION, SPLIT, config=DataConfig(missing="absent_sensor"))
    path = tmp_path / "ours.json"
    write_submission(path, ours(drives), drives.global_T_ego, SENSORS)
    report = official.score(path)
    assert round(report.mean_ap, 4) == 0.7
    assert round(report.nds, 4) == 0.7067
    for name, result in report.per_class.items():
        if result.num_ground_truth:
            errors = {error: value for error, value in result.tp_errors.items() if value == value}
            assert max(errors.values()) < 1e-5, (name, errors)


def test_report_and_curves(official: OfficialEvaluation, real_nuscenes: Path, tmp_path: Path) -> None:
    report = official.score(real_nuscenes / GIVEN)
    data = DataConfig(root=real_nuscenes, version=VERSION, split=SPLIT)
    path = write_report(tmp_path, {"L": report, "CRL": report}, data, Path("last.ckpt"), 1.0)
    content = json.loads(path.read_text())
    assert content["detection"]["mean_ap"] == pytest.approx(0.7)
    assert content["detection"]["nds"] == pytest.approx(0.70667, abs=1e-4)
    assert content["detection"]["per_class"]["traffic_cone"]["tp_errors"]["AVE"] is None
    assert set(content["detection"]["subsets"]) == {"L", "CRL"}
    assert content["sensors"] == "CRL"
    assert content["data"]["num_samples"] == 81
    assert (tmp_path / "precision_recall_CRL.png").stat().st_size > 20_000
    draw_curves(report, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_no_detection_at_all_scores_zero(official: OfficialEvaluation, tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text(json.dumps({"meta": {}, "results": {token: [] for token in official.sample_tokens}}))
    report = official.score(path)
    assert report.mean_ap == 0
    assert report.tp_errors["mATE"] == 1


def test_missing_and_foreign_samples_are_counted(
    official: OfficialEvaluation, real_nuscenes: Path, tmp_path: Path
) -> None:
    results = json.loads((real_nuscenes / GIVEN).read_text())["results"]
    path = tmp_path / "submission.json"
    first, *others = official.sample_tokens
    path.write_text(json.dumps({"meta": {}, "results": {token: results[token] for token in others}}))
    with pytest.raises(SubmissionError, match=rf"1 of 81 samples .* missing, first {first}"):
        official.score(path)
    path.write_text(json.dumps({"meta": {}, "results": {**results, "x": []}}))
    with pytest.raises(SubmissionError, match=r"1 samples are not in .* first x"):
        official.score(path)


def test_custom_split_and_chosen_scenes(real_nuscenes: Path, tmp_path: Path) -> None:
    root = linked(real_nuscenes, tmp_path / "set", splits={"one": ["scene-0103"]})
    drives = NuScenesDrives(root, VERSION, "one", config=DataConfig(missing="absent_sensor"))
    path = tmp_path / "submission.json"
    write_submission(path, ours(drives), drives.global_T_ego, SENSORS)
    by_split = evaluate_submission(path, root, VERSION, "one")
    by_scene = evaluate_submission(path, root, VERSION, SPLIT, scenes=["scene-0103"])
    assert by_split.num_samples == by_scene.num_samples == 40
    assert by_split.mean_ap == by_scene.mean_ap > 0.3


def test_splits_that_do_not_fit_are_told(real_nuscenes: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"data\.split = val does not fit data\.version = v1\.0-mini"):
        OfficialEvaluation(real_nuscenes, VERSION, "val")
    with pytest.raises(EvaluationError, match="unknown split 'minival'"):
        OfficialEvaluation(real_nuscenes, VERSION, "minival")
    with pytest.raises(EvaluationError, match=r"no version 'v9' \(found: v1\.0-mini\)"):
        OfficialEvaluation(real_nuscenes, "v9", SPLIT)
    root = linked(real_nuscenes, tmp_path / "set", splits={"none": ["scene-0001"]})
    with pytest.raises(EvaluationError, match="none of its drives is here"):
        OfficialEvaluation(root, VERSION, "none")
