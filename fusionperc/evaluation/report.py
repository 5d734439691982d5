"""What an evaluation leaves behind: report.json, tables, precision-recall pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fusionperc.config import DataConfig
from fusionperc.environment import versions
from fusionperc.evaluation.detection import MATCH_DISTANCES_M, TP_ERRORS, DetectionReport
from fusionperc.evaluation.recall import MATCH_DISTANCE_M, MIN_LIDAR_POINTS, MIN_SCORE, Recall
from fusionperc.files import write_json
from fusionperc.visualization.plots import save_figure

_CURVE_COLOURS = ("#d1495b", "#edae49", "#2e8b7a", "#30638e")


def write_report(
    output: Path, reports: Mapping[str, DetectionReport], data: DataConfig, source: Path, seconds: float
) -> Path:
    """Writes `output`/report.json and a precision-recall picture per subset.

    `detection` holds the scores of the largest subset; with several, `detection.subsets` holds those of each.

    Args:
        output: folder, made if missing.
        reports: by subset letters.
        data: what was evaluated on.
        source: the checkpoint or submission.
        seconds: wall time of the whole evaluation.

    Returns:
        The path of report.json.
    """
    main = max(reports, key=len)
    detection = reports[main].to_dict()
    if len(reports) > 1:
        detection["subsets"] = {subset: report.to_dict() for subset, report in reports.items()}
    content = {
        "detection": detection,
        "sensors": main,
        "data": {
            "root": str(data.root),
            "version": data.version,
            "split": data.split,
            "scenes": None if data.scenes is None else list(data.scenes),
            "num_samples": reports[main].num_samples,
        },
        "source": str(source),
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
    path = output / "report.json"
    write_json(path, content, allow_nan=False)
    for subset, report in reports.items():
        draw_curves(report, output / f"precision_recall_{subset or 'submission'}.png")
    return path


def class_table(report: DetectionReport, title: str) -> Table:
    """Scores per class and overall."""
    table = _table(title, "class")
    table.add_column("boxes", justify="right", no_wrap=True)
    table.add_column("AP", justify="right", style="bold", no_wrap=True)
    for name in (*(f"@{distance:g}m" for distance in MATCH_DISTANCES_M), *TP_ERRORS.values()):
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in report.per_class.items():
        table.add_row(
            name,
            str(result.num_ground_truth),
            _number(result.ap),
            *(_number(result.ap_at[distance]) for distance in MATCH_DISTANCES_M),
            *(_number(result.tp_errors[label]) for label in TP_ERRORS.values()),
            style="" if result.num_ground_truth else "dim",
        )
    table.add_section()
    means = [
        sum(result.ap_at[distance] for result in report.per_class.values()) / len(report.per_class)
        for distance in MATCH_DISTANCES_M
    ]
    table.add_row(
        f"NDS {report.nds:.4f}, mean",
        str(sum(result.num_ground_truth for result in report.per_class.values())),
        _number(report.mean_ap),
        *map(_number, means),
        *map(_number, report.tp_errors.values()),
    )
    return table


def recall_table(recall: Mapping[str, Recall]) -> Table:
    """Objects found and detections that are right, by class."""
    table = _table(
        f"objects with at least {MIN_LIDAR_POINTS} LiDAR points found within {MATCH_DISTANCE_M:g} m;"
        f" detections from a score of {MIN_SCORE:g} on",
        "class",
    )
    for name in ("found", "of", "recall", "right", "detections", "precision"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, item in recall.items():
        found = (str(item.found), str(item.wanted), _number(item.share))
        precision = (str(item.right), str(item.guessed), _number(item.precision))
        table.add_row(name, *found, *precision, style="" if item.wanted or item.guessed else "dim")
    return table


def subset_table(reports: Mapping[str, DetectionReport]) -> Table:
    """One row per sensor subset."""
    table = _table("sensor subsets (C camera, R radar, L LiDAR)", "sensors")
    labels = [f"m{label}" for label in TP_ERRORS.values()]
    for name in ("mAP", "NDS", *labels):
        table.add_column(name, justify="right", no_wrap=True)
    for subset, report in reports.items():
        errors = (_number(report.tp_errors[label]) for label in labels)
        table.add_row(subset, f"{report.mean_ap:.4f}", f"{report.nds:.4f}", *errors)
    return table


def _table(title: str, first: str) -> Table:
    """Narrow: 12 columns are to fit 100 characters, logs have no wider lines."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    return table


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def draw_curves(report: DetectionReport, path: Path) -> None:
    """Precision over recall, a panel per class, a curve per match distance; a PNG, written whole or not at all."""
    figure = Figure(figsize=(15, 6.4), dpi=110, layout="constrained")
    figure.suptitle(f"precision over recall: mAP {report.mean_ap:.4f}, NDS {report.nds:.4f}")
    panels: Any = figure.subplots(2, 5, sharex=True, sharey=True)
    for axes, (name, result) in zip(panels.flat, report.per_class.items(), strict=True):
        axes.set_title(f"{name}: AP {result.ap:.3f}", fontsize=11)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        if result.num_ground_truth == 0:
            axes.text(0.5, 0.5, "no annotation in range", ha="center", va="center", color="gray")
            continue
        for distance, colour in zip(MATCH_DISTANCES_M, _CURVE_COLOURS, strict=True):
            curve = result.curves[distance]
            label = f"{distance:g} m: {result.ap_at[distance]:.3f}"
            axes.plot(curve.recall, curve.precision, color=colour, label=label)
        axes.legend(fontsize=8, title="match distance", title_fontsize=8)
    figure.supxlabel("recall")
    figure.supylabel("precision")
    save_figure(figure, path)
