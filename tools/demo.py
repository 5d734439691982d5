"""The main job from start to finish: python tools/demo.py [--output runs/demo] [--smoke]

Simulates a handful of short drives, trains configs/demo.yaml on them, scores the held-out drives and draws one frame.
Each step is one of the other tools: the command is shown, so that it can be repeated and changed. Steps already done
are not repeated; a training cut short goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.panel import Panel
from rich.rule import Rule

from fusionperc.console import console, run_tool

ROOT = Path(__file__).resolve().parent.parent

#: Sizes at which every part still runs but nothing is learnt: a check, not a result.
SMOKE_SIMULATION = ("--drives-train", "1", "--drives-val", "1", "--duration", "3")
SMOKE_TRAINING = ("train.steps=6", "train.validate_every=3", "train.validate_samples=2", "train.save_every=3")


def run_step(title: str, *arguments: str | Path) -> None:
    """Runs one tool, its output passed through.

    Raises:
        ChildProcessError: the tool failed; it has said why.
    """
    words = ["python", *map(str, arguments)]
    console.print(Rule(f"[bold]{title}"))
    console.print(f"$ {shlex.join(words)}", style="cyan", highlight=False)
    started_s = time.monotonic()
    code = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=False).returncode
    if code:
        raise ChildProcessError(f"{title}: tools/{Path(words[1]).name} ended with status {code}; its message is above")
    console.print(f"{title}: {time.monotonic() - started_s:.0f} s", style="dim")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "demo", help="folder of everything it makes")
    parser.add_argument("--workers", type=int, default=2, help="processes that simulate")
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps on two seconds of driving: checks, not results"
    )
    arguments = parser.parse_args()
    output: Path = arguments.output.resolve()
    drives, run = output / "drives", output / "training"
    checkpoint = run / "checkpoints" / "last.ckpt"
    started_s = time.monotonic()

    size = SMOKE_SIMULATION if arguments.smoke else ()
    run_step(
        "1/4 simulate", "tools/simulate.py", drives, "--preset", "demo", "--seed", "0", "--workers",
        str(arguments.workers), *size,
    )  # fmt: skip

    training = ["tools/train.py", "configs/demo.yaml", f"data.root={drives}", f"run.dir={run}", "train.evaluate=false"]
    training += SMOKE_TRAINING if arguments.smoke else ()
    training += ["run.resume=true"] if checkpoint.exists() else []
    if not (run / "finished").exists():
        run_step("2/4 train", *training)
        (run / "finished").touch()
    where = f"data.root={drives}"
    run_step(
        "3/4 evaluate", "tools/evaluate.py", "--checkpoint", checkpoint, "--sensors", "all-subsets", "--output",
        output / "evaluation", where,
    )  # fmt: skip
    picture = output / "detections.png"
    run_step(
        "4/4 draw", "tools/visualize.py", "--checkpoint", checkpoint, "--sample", "8" if not arguments.smoke else "0",
        "--output", picture, where,
    )  # fmt: skip

    report = json.loads((output / "evaluation" / "report.json").read_text())["detection"]
    minutes = (time.monotonic() - started_s) / 60
    console.print(
        Panel(
            f"held-out drives, camera + radar + LiDAR: mAP {report['mean_ap']:.3f}, NDS {report['nds']:.3f}, "
            f"car AP {report['per_class']['car']['ap']:.3f}\n"
            f"table   {output / 'evaluation' / 'report.json'}\n"
            f"picture {picture}\n"
            f"{minutes:.1f} minutes",
            title="done",
        )
    )


if __name__ == "__main__":
    run_tool(main)
