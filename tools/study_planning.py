"""What the planner is worth: seeds, ego status, sensors taken away, beside what looks at nothing.

    python tools/study_planning.py configs/planning.yaml --output runs/study --held data/held --held data/more \\
        data.root=data/sim

Trains detection and planning together for every seed, then the planning head alone on what the detector sees (which
leaves detection as it is), and detection alone as a control; scores plans with and without ego status, with sensors
removed, blank and without past sweeps, on the held-out drives and, with --held, on all drives of other folders, then on
all of them together; and detection by the official evaluator. Steps that are done are not repeated: after an
interruption the same command goes on from the last checkpoint. The tables are printed at the end (--tables-only: of
what is there) and written to study.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.rule import Rule
from rich.table import Table

from fusionperc.console import console, run_tool
from fusionperc.evaluation.planning_report import pooled_reports
from fusionperc.files import write_json

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = "fusionperc"
POOLED = "all of these drives together"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file with a planning head, e.g. configs/planning.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs and of study.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--controls", type=int, default=1, help="trainings of detection alone, with the first seeds")
    parser.add_argument(
        "--held", type=Path, action="append", default=[], help="another folder, of other towns, to score plans on too"
    )
    parser.add_argument("--head-steps", type=int, default=1500, help="steps of the planning head alone; 0: none")
    parser.add_argument("--tables-only", action="store_true", help="train nothing, print what is there")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    scored = scored_on(arguments.held)
    runs = [("joint", seed) for seed in range(arguments.seeds)]
    runs += [("detection", seed) for seed in range(arguments.controls)]
    if not arguments.tables_only:
        for task, seed in runs:
            make_run(arguments, scored, task, seed)
    found = {f"{task}-{seed}": read_run(arguments.output / f"{task}-{seed}", scored) for task, seed in runs}
    studies = {title: summarise(found, title) for title in (*scored, *([POOLED] if arguments.held else []))}
    write_json(arguments.output / "study.json", studies)
    for title, study in studies.items():
        show(study, title)


def scored_on(held: Sequence[Path]) -> dict[str, tuple[str, list[str]]]:
    """What plans are scored on: by its title the folder of a run's report on it, and how it is named to the tool.

    Raises:
        ValueError: two folders have one name.
    """
    scored = {"held-out drives of the set": ("planning", [])}
    for root in held:
        scored[f"drives of {root}"] = (f"planning_{root.name}", [f"data.root={root}", "data.split=all"])
    names = [folder for folder, _ in scored.values()]
    if len(set(names)) < len(held) + 1:
        raise ValueError(f"--held: {', '.join(map(str, held))}: two have one name, by which reports are told apart")
    return scored


def make_run(arguments: argparse.Namespace, scored: Mapping[str, tuple[str, list[str]]], task: str, seed: int) -> None:
    """Trains and scores one run, or what is missing of it."""
    folder: Path = arguments.output / f"{task}-{seed}"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    train_run(arguments, folder, seed, [f"train.task={'both' if task == 'joint' else 'detection'}"])
    planner = checkpoint
    if task == "joint" and arguments.head_steps:
        changes = ["train.task=planning", f"train.initial={checkpoint}", f"train.steps={arguments.head_steps}"]
        changes += ["data.batch_size=16", "train.learning_rate=2e-3", "train.precision=fp32", "train.save_every=250"]
        train_run(arguments, folder / "head", seed, changes)
        planner = folder / "head" / "checkpoints" / "last.ckpt"
    if not (folder / "detection" / "report.json").exists():
        words = ["tools/evaluate.py", "--checkpoint", str(checkpoint), "--output", str(folder / "detection")]
        call(f"score detection of {folder.name}", words)
    for title, (name, changes) in scored.items():
        if task == "joint" and not (folder / name / "report.json").exists():
            words = ["tools/evaluate.py", "--task", "planning", "--checkpoint", str(planner), "--sensors"]
            words += ["CRL+RL+CL+CR+blank+newest", "--output", str(folder / name), "data.batch_size=1", *changes]
            call(f"score plans of {folder.name}: {title}", words)


def train_run(arguments: argparse.Namespace, folder: Path, seed: int, changes: list[str]) -> None:
    """One training, gone on with where it was cut short."""
    if (folder / "trained").exists():
        return
    words = ["tools/train.py", arguments.config, *arguments.overrides, f"run.dir={folder}", f"train.seed={seed}"]
    words += [*changes, "train.evaluate=false"]
    words += ["run.resume=true"] if (folder / "checkpoints" / "last.ckpt").exists() else []
    call(f"train {folder.relative_to(arguments.output)}", words)
    (folder / "trained").touch()


def call(title: str, words: list[str]) -> None:
    """Runs one tool. Raises `ChildProcessError` if it fails; it has said why."""
    console.print(Rule(title))
    started_s = time.monotonic()
    code = subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode
    if code:
        raise ChildProcessError(f"{title}: {words[0]} ended with status {code}; its message is above")
    console.print(f"{title}: {time.monotonic() - started_s:.0f} s")


def read_run(folder: Path, scored: Mapping[str, tuple[str, list[str]]]) -> dict[str, Any]:
    """The reports of a run that are there: of detection, and of plans by what they were scored on."""
    places = {"detection": folder / "detection"} | {title: folder / name for title, (name, _) in scored.items()}
    found = {}
    for title, place in places.items():
        path = place / "report.json"
        if path.exists():
            found[title] = json.loads(path.read_text())["detection" if title == "detection" else "planning"]
    if len(scored) > 1 and all(title in found for title in scored):
        found[POOLED] = pooled_reports([found[title] for title in scored])
    return found


def summarise(found: dict[str, dict[str, Any]], title: str) -> dict[str, Any]:
    """Means and standard deviations over seeds, of the plans scored on one set."""
    plans = [run[title] for name, run in found.items() if name.startswith("joint") and title in run]
    nds = {
        task: [run["detection"]["nds"] for name, run in found.items() if name.startswith(task) and "detection" in run]
        for task in ("joint", "detection")
    }
    rows: dict[str, Any] = {}
    for planner in plans[0]["planners"] if plans else ():
        each = [item["planners"][planner] for item in plans]
        whole = [item["protocols"][PROTOCOL] for item in each]
        rows[planner] = {
            "uses_ego_status": each[0]["uses_ego_status"],
            "all": _spread(whole),
            "pdms": _mean([item["pdm"]["PDMS"] for item in each if item["pdm"]]),
            "groups": {
                name: _spread([item["groups"][name]["means"] for item in each]) for name in each[0]["groups"]
            },
        }  # fmt: skip
    return {
        "seeds": len(plans),
        "num_samples": plans[0]["num_samples"] if plans else 0,
        "command_source": plans[0]["command_source"] if plans else None,
        "groups": plans[0]["groups"] if plans else {},
        "nds": {task: {"values": values, **_mean(values)} for task, values in nds.items()},
        "planners": rows,
    }


def _spread(means: list[dict[str, Any]]) -> dict[str, Any]:
    spread = {
        "l2_1s": _mean([item["l2_m"]["1s"] for item in means]),
        "l2_2s": _mean([item["l2_m"]["2s"] for item in means]),
        "l2_3s": _mean([item["l2_m"]["3s"] for item in means]),
        "l2_avg": _mean([item["l2_m"]["avg"] for item in means]),
        "collision_3s": _mean([item["collision"]["3s"] for item in means]),
        "comfort": _mean([item["comfort"] for item in means]),
        "progress": _mean([item["progress"] for item in means if item.get("progress") is not None]),
    }
    if all(item["off_road"] is not None for item in means):
        spread["off_road_3s"] = _mean([item["off_road"]["3s"] for item in means])
    return spread


def _mean(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "std": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def show(study: dict[str, Any], title: str) -> None:
    """Prints the tables of a study."""
    if not study["planners"]:
        console.print(f"{title}: no run has been scored yet")
        return
    table = Table(
        title=f"{title}: {study['seeds']} seeds, {study['num_samples']} key frames, command from the "
        f"{study['command_source']}; mean (standard deviation)",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("planner", no_wrap=True)
    for column in ("L2 1s", "2s", "3s m", "hit 3s %", "off %", "comf %", "prog %", "PDMS"):
        table.add_column(column, justify="right", no_wrap=True)
    for planner, row in study["planners"].items():
        values = row["all"]
        table.add_row(
            planner,
            _told(values["l2_1s"]), _told(values["l2_2s"]), _told(values["l2_3s"]),
            _told(values["collision_3s"], 100, 1), _told(values.get("off_road_3s"), 100, 1),
            _told(values["comfort"], 100, 1), _told(values["progress"], 100, 1), _told(row["pdms"], 100, 1),
        )  # fmt: skip
    console.print(table)
    table = Table(
        title="L2 at 3 s (m) / hits up to 3 s (%)", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("planner", no_wrap=True)
    for name in study["groups"]:
        table.add_column(f"{name.partition(': ')[2]} ({study['groups'][name]})", justify="right")
    for planner, row in study["planners"].items():
        cells = [row["groups"][name] for name in study["groups"]]
        table.add_row(planner, *(f"{c['l2_3s']['mean']:.2f}/{100 * c['collision_3s']['mean']:.0f}" for c in cells))
    console.print(table)
    for task, nds in study["nds"].items():
        if nds["values"]:
            shown = ", ".join(f"{value:.4f}" for value in nds["values"])
            console.print(f"NDS of {'detection alone' if task == 'detection' else 'joint training'}: {shown}")


def _told(value: dict[str, float | None] | None, scale: float = 1.0, digits: int = 2) -> str:
    if value is None or value["mean"] is None or value["std"] is None:
        return "-"
    return f"{scale * value['mean']:.{digits}f} ({scale * value['std']:.{digits}f})"


if __name__ == "__main__":
    run_tool(main)
