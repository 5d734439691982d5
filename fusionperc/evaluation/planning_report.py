"""What an evaluation of planners leaves behind: tables and report.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fusionperc.config import DataConfig
from fusionperc.environment import versions
from fusionperc.evaluation.planning import Means, PlannerScores, PlanningResult
from fusionperc.evaluation.planning_protocols import DEFAULT_PROTOCOL, PROTOCOLS
from fusionperc.files import write_json

_COLUMNS = ("1s", "2s", "3s", "avg")
_LABELS = {"uniad": "UniAD", "st_p3": "ST-P3", "vad": "VAD", "bev_planner": "BEV-Planner", "fusionperc": "ours"}


def write_planning_report(
    output: Path,
    result: PlanningResult,
    data: DataConfig,
    source: str,
    seconds: float,
    latency_ms: dict[str, float] | None = None,
) -> Path:
    """Writes `output`/report.json and returns its path.

    Args:
        output: folder, made if missing.
        result: what was scored.
        data: on what.
        source: the checkpoint, or what else was scored.
        seconds: wall time of the whole evaluation.
        latency_ms: of the network, None without one.
    """
    content = {
        "planning": planning_dict(result),
        "latency_ms": latency_ms,
        "data": {
            "root": str(data.root),
            "version": data.version,
            "split": data.split,
            "scenes": None if data.scenes is None else list(data.scenes),
            "num_samples": _count(result),
        },
        "source": source,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
    path = output / "report.json"
    write_json(path, content, allow_nan=False)
    return path


def planning_dict(result: PlanningResult) -> dict[str, Any]:
    """For JSON: terms that are absent are None, not zero."""
    return {
        "num_samples": _count(result),
        "command_source": result.command_source,
        "has_map": result.has_map,
        "notes": result.notes,
        "groups": {name: int(mask.sum()) for name, mask in result.groups.items()},
        "planners": {scores.planner.name: _planner_dict(scores, result) for scores in result.scores},
    }


def _planner_dict(scores: PlannerScores, result: PlanningResult) -> dict[str, Any]:
    groups = {
        name: {"means": _means_dict(scores.means(keep=mask)), "pdm": scores.pdm_means(mask)}
        for name, mask in result.groups.items()
    }
    return {
        "uses_ego_status": scores.planner.uses_ego_status,
        "command": result.command_source if scores.planner.uses_command else None,
        "uses_map": scores.planner.uses_map,
        "protocols": {name: _means_dict(scores.means(name)) for name in PROTOCOLS},
        "pdm": scores.pdm_means(),
        "groups": groups,
    }


def _means_dict(means: Means | None) -> dict[str, Any] | None:
    if means is None:
        return None
    content = asdict(means)
    for name in ("l2_m", "collision", "truth_collision", "off_road"):
        if content[name] is not None:
            content[name] = dict(zip(_COLUMNS, content[name], strict=True))
    return content


def pooled_reports(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `planning_dict` would tell of all the key frames of several sets, from what it told of each.

    Only what can be told from means: "progress", which some key frames have none of, is left out; off-road rates
    suppose that all drives of a set have a map or none has. Planners that are not in all reports are left out.

    Args:
        reports: one at least, of sets that share no key frame, all with the command from one source.
    """
    groups: Counter[str] = Counter()
    for report in reports:
        groups.update(report["groups"])
    first = reports[0]
    planners = {
        name: _pooled_planner([report["planners"][name] for report in reports])
        for name in first["planners"]
        if all(name in report["planners"] for report in reports)
    }
    return {
        "num_samples": sum(report["num_samples"] for report in reports),
        "command_source": first["command_source"],
        "has_map": any(report["has_map"] for report in reports),
        "notes": list(dict.fromkeys(note for report in reports for note in report["notes"])),
        "groups": dict(groups),
        "planners": planners,
    }


def _pooled_planner(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for planner in each:
        for name, group in planner["groups"].items():
            groups.setdefault(name, []).append(group)
    return each[0] | {
        "protocols": {name: _pooled_means([planner["protocols"][name] for planner in each]) for name in PROTOCOLS},
        "pdm": _pooled_means([planner["pdm"] for planner in each]),
        "groups": {
            name: {term: _pooled_means([group[term] for group in found]) for term in ("means", "pdm")}
            for name, found in groups.items()
        },
    }


def _pooled_means(means: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Means of disjoint samples, each with its count, as those of all; absent (None) where one is."""
    known = [item for item in means if item is not None]
    if len(known) < len(means):
        return None
    counts = [item["count"] for item in known]

    def pooled(values: Sequence[Any]) -> Any:
        if any(value is None for value in values):
            return None
        if isinstance(values[0], dict):
            return {key: pooled([value[key] for value in values]) for key in values[0]}
        return float(np.average(values, weights=counts))

    terms = {name: pooled([item[name] for item in known]) for name in known[0] if name not in ("count", "progress")}
    return {"count": sum(counts), **terms}


def show_planning(console: Console, result: PlanningResult, title: str) -> None:
    """Prints the tables: the default protocol, all protocols, by situation and by command."""
    console.print(default_table(result, title))
    console.print(protocols_table(result))
    for kind in ("situation", "command"):
        console.print(groups_table(result, kind))
    for note in result.notes:
        console.print(note, highlight=False)


def default_table(result: PlanningResult, title: str) -> Table:
    """Our protocol and NAVSIM's score; told: E ego status, C command, M map."""
    table = _table(
        f"{title}: fusionperc's protocol, {_count(result)} key frames, command from the {result.command_source}"
    )
    table.add_column("told", no_wrap=True)
    for name in ("L2 1s", "2s", "3s", "avg m", "hit 1s", "2s", "3s %", "off %", "comf", "prog", "PDMS"):
        table.add_column(name, justify="right", no_wrap=True)
    for scores in result.scores:
        means, terms = scores.means(), scores.pdm_means()
        assert means is not None
        table.add_row(
            scores.planner.name,
            told(scores),
            *(f"{value:.2f}" for value in means.l2_m),
            *(f"{100 * value:.1f}" for value in means.collision[:3]),
            _percent(None if means.off_road is None else means.off_road[2]),
            _percent(means.comfort),
            _percent(means.progress),
            "-" if terms is None else f"{100 * terms['PDMS']:.1f}",
        )
    return table


def protocols_table(result: PlanningResult) -> Table:
    """Average L2 and collision rate under each protocol, and how often the ground truth collides by its rules."""
    table = _table(
        "every protocol: means of L2 (m) and collisions (%) at 1, 2, 3 s; last row: the ground truth's own collisions"
    )
    for name in PROTOCOLS:
        table.add_column(_LABELS[name], justify="right", no_wrap=True)
        table.add_column("hit", justify="right", no_wrap=True)
    for scores in result.scores:
        cells = []
        for name in PROTOCOLS:
            means = scores.means(name)
            assert means is not None
            cells += [f"{means.l2_m[3]:.2f}", f"{100 * means.collision[3]:.2f}"]
        table.add_row(scores.planner.name, *cells)
    table.add_section()
    cells = []
    for name in PROTOCOLS:
        means = result.scores[0].means(name)
        assert means is not None
        cells += ["", f"{100 * means.truth_collision[3]:.2f}"]
    table.add_row("ground truth collides", *cells)
    return table


def groups_table(result: PlanningResult, kind: str) -> Table:
    """L2 at 3 s (m) / collisions up to 3 s (%) by group of one kind, under the default protocol."""
    names = [name for name in result.groups if name.startswith(f"{kind}: ")]
    table = _table(f"by {kind}: L2 at 3 s (m) / hits up to 3 s (%); in brackets the number of key frames")
    for name in names:
        label = f"{name.removeprefix(f'{kind}: ')} ({int(result.groups[name].sum())})"
        table.add_column(label, justify="right")
    for scores in result.scores:
        table.add_row(scores.planner.name, *(_cell(scores, result.groups[name]) for name in names))
    return table


def _cell(scores: PlannerScores, mask: NDArray[np.bool_]) -> str:
    means = scores.means(DEFAULT_PROTOCOL, mask)
    return "-" if means is None else f"{means.l2_m[2]:.2f}/{100 * means.collision[2]:.0f}"


def told(scores: PlannerScores) -> str:
    """'E' where the ego's status was given, 'C' where the command was, 'M' where a map was."""
    planner = scores.planner
    given = {"E": planner.uses_ego_status, "C": planner.uses_command, "M": planner.uses_map}
    return "".join(letter if is_given else "-" for letter, is_given in given.items())


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("planner", no_wrap=True)
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _count(result: PlanningResult) -> int:
    return len(result.scores[0].pdm)
