"""What pretraining is worth: from scratch against pretrained, by share of the labels, over seeds.

    python tools/simulate.py data/sim --preset sim-small
    python tools/simulate.py data/unlabelled --preset sim-unlabelled
    python tools/study_pretraining.py configs/pretraining.yaml --output runs/study data.root=data/sim \\
        pretraining.drives="[{root: data/unlabelled, version: v1.0-test, split: sim_train}, \\
                             {root: data/sim, split: sim_train}]"

Arms: `scratch`; `longer`, from scratch with the steps of pretraining added to those of fine-tuning; `configured`,
pretrained with the configuration's objectives; `all`, with every one; `likelihood`, `prediction`, `contrast`,
`matching`, `motion`, `objects`, with that one alone.
Every arm is fine-tuned for train.steps on the same labelled drives of the same seed, and scored by the official
evaluator on data.split with all sensors and with cameras alone. No town of the pretraining drives may be in data.split:
simulated sets of one seed keep to that. Finished steps are kept: after an interruption the same command goes on.
--tables-only prints what is there. Jobs run side by side (--parallel), each on its share of the cores.

With a planning head plans without ego status are scored, too, as tools/evaluate.py --task planning does; the same
pretrainings serve for it (--pretrained), and --tuning is for fine-tuning alone:

    python tools/study_pretraining.py configs/pretraining.yaml --output runs/plans --pretrained runs/study \\
        --arms scratch,all --fractions 0.3 data.root=data/sim --tuning train.task=both data.command=route \\
        data.augmentation.rotation_rad=0 "model.planning={channels: 64, modes: 3, layers: 2, heads: 4, agents: 32}"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fusionperc.config import Config, ConfigError, PretrainingConfig, load_config
from fusionperc.console import console, run_tool
from fusionperc.files import write_json

ROOT = Path(__file__).resolve().parent.parent
OBJECTIVES = ("likelihood", "prediction", "contrast", "matching", "motion", "objects")
#: Weight of an objective that the configuration leaves out, in the arms that ask for it.
WEIGHT_OF_LEFT_OUT = 0.2
ARMS = ("scratch", "longer", "configured", "all", *OBJECTIVES)
SENSORS = ("CRL", "C")
METRICS = ("nds", "map")
PLAN_METRICS = ("l2_m", "collision", "off_road", "pdms")


@dataclass(frozen=True)
class Job:
    """One step of the study: its folder below the output, what must be there before, and the tool's words."""

    folder: Path
    needs: tuple[Path, ...]
    words: tuple[str, ...]

    @property
    def done(self) -> Path:
        return self.folder / "finished"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, e.g. configs/pretraining.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs and of study.json")
    parser.add_argument("--arms", type=listed, default=ARMS, help=f"some of {','.join(ARMS)}; default: all")
    parser.add_argument("--fractions", type=shares, default=(0.1, 0.3, 1.0), help="shares of the labels: 0.1,0.3,1")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretraining-seeds", type=int, help="pretrainings of each arm, at most as many as seeds")
    parser.add_argument("--pretraining-steps", type=int, default=2400)
    parser.add_argument("--pretrained", type=Path, help="the output of another study, whose pretrainings are used")
    parser.add_argument(
        "--tuning", nargs="+", default=[], metavar="key=value", help="changes of fine-tuning alone; to be given last"
    )
    parser.add_argument("--parallel", type=int, default=1, help="jobs side by side")
    parser.add_argument("--tables-only", action="store_true", help="train nothing, print what is there")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    if not arguments.tables_only:
        run_jobs(planned(arguments), arguments.parallel)
    study = summarise(arguments)
    write_json(arguments.output / "study.json", study)
    show(study)


def listed(text: str) -> tuple[str, ...]:
    """Arms of a list with commas."""
    unknown = set(text.split(",")) - set(ARMS)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    return tuple(arm for arm in ARMS if arm in text.split(","))


def shares(text: str) -> tuple[float, ...]:
    """Shares of the labels of a list with commas."""
    values = tuple(float(part) for part in text.split(","))
    if not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: give shares above 0, at most 1")
    return values


def planned(arguments: argparse.Namespace) -> list[Job]:
    """All jobs of the study, the most telling first."""
    config = load_config(arguments.config, [*arguments.overrides, *arguments.tuning])
    configured = load_config(arguments.config, arguments.overrides).pretraining
    pretrainings = {
        (arm, seed): pretraining_job(arguments, arm, seed, configured)
        for seed in range(arguments.seeds)
        for arm in arguments.arms
    }
    jobs: list[Job] = []
    for pretraining in pretrainings.values():
        if pretraining is None or pretraining in jobs:
            continue
        # It would be made of this command's drives, in a folder of another study.
        if arguments.pretrained is not None and not pretraining.done.exists():
            raise ConfigError(f"--pretrained: {pretraining.folder} is not finished: go on with that study first")
        jobs.append(pretraining)
    for fraction in arguments.fractions:
        for seed in range(arguments.seeds):
            for arm in arguments.arms:
                jobs += fine_tuning_jobs(arguments, arm, fraction, seed, config, pretrainings[arm, seed])
    return jobs


def pretraining_job(arguments: argparse.Namespace, arm: str, seed: int, configured: PretrainingConfig) -> Job | None:
    """The pretraining that an arm starts from."""
    if arm in ("scratch", "longer"):
        return None
    seed = min(seed, (arguments.pretraining_seeds or arguments.seeds) - 1)
    folder = (arguments.pretrained or arguments.output) / f"pretrained-{arm}-{seed}"
    changes = [f"run.dir={folder}", f"train.seed={seed}", f"train.steps={arguments.pretraining_steps}"]
    changes += objectives_of(arm, configured)
    return Job(folder, (), ("tools/pretrain.py", arguments.config, *arguments.overrides, *changes))


def objectives_of(arm: str, configured: PretrainingConfig) -> list[str]:
    """What an arm changes in the weights of the objectives."""
    if arm == "configured":
        return []
    wanted = OBJECTIVES if arm == "all" else (arm,)
    off = [f"pretraining.{each}=0" for each in OBJECTIVES if each not in wanted]
    left_out = [each for each in wanted if getattr(configured, each) == 0]
    return off + [f"pretraining.{each}={WEIGHT_OF_LEFT_OUT}" for each in left_out]


def fine_tuning_jobs(
    arguments: argparse.Namespace, arm: str, fraction: float, seed: int, config: Config, pretraining: Job | None
) -> list[Job]:
    """Fine-tuning of one arm, from its pretraining if there is one, and its scoring."""
    folder = run_folder(arguments, arm, fraction, seed)
    changes = [f"run.dir={folder}", f"train.seed={seed}", f"data.label_seed={seed}", f"data.label_fraction={fraction}"]
    changes += ["train.evaluate=false", *arguments.tuning]
    if arm == "longer":
        changes.append(f"train.steps={config.train.steps + arguments.pretraining_steps}")
    if pretraining is not None:
        changes.append(f"train.init_from={pretraining.folder}")
    needs = () if pretraining is None else (pretraining.done,)
    training = Job(folder, needs, ("tools/train.py", arguments.config, *arguments.overrides, *changes))
    checkpoint = folder / "checkpoints" / "last.ckpt"
    scored = {"detection": ["+".join(SENSORS)]}
    if config.model.planning is not None:
        scored["planning"] = [config.model.sensors, "--task", "planning", "--ego-status", "without", "--worst", "0"]
    jobs = [training]
    for kind, options in scored.items():
        words = ("tools/evaluate.py", "--checkpoint", str(checkpoint), "--output", str(folder / kind), "--sensors")
        jobs.append(Job(folder / kind, (training.done,), (*words, *options)))
    return jobs


def run_folder(arguments: argparse.Namespace, arm: str, fraction: float, seed: int) -> Path:
    return arguments.output / f"{arm}-{fraction:g}-{seed}"  # type: ignore[no-any-return]


def run_jobs(jobs: Sequence[Job], parallel: int) -> None:
    """Runs what is not done, in order, as soon as what it needs is there.

    Raises:
        ChildProcessError: a tool failed; the jobs that run beside it are waited for.
    """
    waiting = [job for job in jobs if not job.done.exists()]
    console.print(f"{len(jobs)} jobs, {len(jobs) - len(waiting)} of them done")
    threads = max(1, (os.cpu_count() or 1) // parallel)
    running: dict[Future[None], Job] = {}
    with ThreadPoolExecutor(parallel) as pool:
        while waiting or running:
            ready = [job for job in waiting if all(need.exists() for need in job.needs)]
            for job in ready[: parallel - len(running)]:
                waiting.remove(job)
                running[pool.submit(run_job, job, threads)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                del running[future]
                future.result()
            console.print(f"{len(waiting) + len(running)} jobs to go")


def run_job(job: Job, threads: int) -> None:
    """Runs one tool with its own log, from its last checkpoint if there is one."""
    job.folder.mkdir(parents=True, exist_ok=True)
    words = list(job.words)
    if "--checkpoint" not in words and (job.folder / "checkpoints" / "last.ckpt").exists():
        words.append("run.resume=true")
    started_s = time.monotonic()
    with (job.folder / "log.txt").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        code = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=log, stderr=log, check=False
        ).returncode
    if code:
        raise ChildProcessError(f"{words[0]} ended with status {code}: see {job.folder / 'log.txt'}")
    job.done.touch()
    console.print(f"{Path(*job.folder.parts[-2:])}: {time.monotonic() - started_s:.0f} s")


def summarise(arguments: argparse.Namespace) -> dict[str, Any]:
    """NDS and mAP of every run that is scored, and their gain over `scratch` seed by seed."""
    rows, plans = [], []
    for fraction in arguments.fractions:
        bases = [run_folder(arguments, "scratch", fraction, seed) for seed in range(arguments.seeds)]
        for arm in arguments.arms:
            folders = [run_folder(arguments, arm, fraction, seed) for seed in range(arguments.seeds)]
            which = {"fraction": fraction, "arm": arm}
            for sensors in SENSORS:
                found, base = ([scores(folder, sensors) for folder in each] for each in (folders, bases))
                rows.append({**which, "sensors": sensors, **compared(arm, found, base, METRICS)})
            found, base = ([plan_scores(folder) for folder in each] for each in (folders, bases))
            plans.append({**which, **compared(arm, found, base, PLAN_METRICS)})
    return {"rows": rows, "plans": plans}


def compared(
    arm: str, found: Sequence[dict[str, float]], bases: Sequence[dict[str, float]], metrics: Sequence[str]
) -> dict[str, Any]:
    """Each metric over seeds, and how much more than from scratch it is, seed by seed, where both are there."""
    row = {}
    for metric in metrics:
        row[metric] = spread([one[metric] for one in found if metric in one])
        pairs = [] if arm == "scratch" else zip(found, bases, strict=True)
        row[f"{metric}_gain"] = spread([a[metric] - b[metric] for a, b in pairs if metric in a and metric in b])
    return row


def scores(folder: Path, sensors: str) -> dict[str, float]:
    """`METRICS` of a run; nothing if it is not scored."""
    path = folder / "detection" / "report.json"
    if not path.exists():
        return {}
    report = json.loads(path.read_text())
    found = report["detection"]["subsets"][sensors]
    return {"nds": found["nds"], "map": found["mean_ap"]}


def plan_scores(folder: Path) -> dict[str, float]:
    """`PLAN_METRICS` of plans without ego status by this package's protocol: L2 in metres, the others as shares.

    Nothing if they are not scored; without a map nothing is told of roads.
    """
    path = folder / "planning" / "report.json"
    if not path.exists():
        return {}
    planners = json.loads(path.read_text())["planning"]["planners"]
    (own,) = [planner for name, planner in planners.items() if name.startswith("model ")]
    found = own["protocols"]["fusionperc"]
    measured = {"l2_m": found["l2_m"]["avg"], "collision": found["collision"]["3s"]}
    if found["off_road"] is not None:
        measured["off_road"] = found["off_road"]["3s"]
    if own["pdm"] is not None:
        measured["pdms"] = own["pdm"]["PDMS"]
    return measured


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Values, mean and standard error (None below two values)."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"values": list(values), "mean": float(np.mean(values)) if values else None, "error": error}


def show(study: dict[str, Any]) -> None:
    """Prints one table, in points (hundredths): mean and standard error, and the gain over scratch seed by seed."""
    table = Table(
        title="points: mean ± standard error; gain over scratch, seed by seed", title_justify="left",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for column in ("labels", "arm", "sensors"):
        table.add_column(column)
    for column in ("seeds", "NDS", "gain", "mAP", "gain"):
        table.add_column(column, justify="right")
    for row in study["rows"]:
        if row["nds"]["values"]:
            table.add_row(
                f"{row['fraction']:.0%}", row["arm"], row["sensors"], str(len(row["nds"]["values"])),
                told(row["nds"]), told(row["nds_gain"]), told(row["map"]), told(row["map_gain"]),
            )  # fmt: skip
    console.print(table)
    if any(row["l2_m"]["values"] for row in study["plans"]):
        show_plans(study["plans"])


def show_plans(plans: Sequence[dict[str, Any]]) -> None:
    """Prints one table: L2 in metres, shares of the plans in points; each beside what it is more than from scratch."""
    table = Table(
        title="plans without ego status: L2 (mean of 1, 2, 3 s), the rest up to 3 s; mean ± standard error; pretrained "
        "less scratch, seed by seed",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for column in ("labels", "arm"):
        table.add_column(column)
    for column in ("seeds", "L2 m", "more", "hit %", "more", "off %", "more", "PDMS", "more"):
        table.add_column(column, justify="right")
    for row in plans:
        if row["l2_m"]["values"]:
            cells = []
            for metric in PLAN_METRICS:
                scale, digits = (1, 2) if metric == "l2_m" else (100, 1)
                cells += [told(row[metric], scale, digits), told(row[f"{metric}_gain"], scale, digits)]
            table.add_row(f"{row['fraction']:.0%}", row["arm"], str(len(row["l2_m"]["values"])), *cells)
    console.print(table)


def told(value: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    if value["mean"] is None:
        return "-"
    error = "" if value["error"] is None else f" ± {scale * value['error']:.{digits}f}"
    return f"{scale * value['mean']:.{digits}f}{error}"


if __name__ == "__main__":
    run_tool(main)
