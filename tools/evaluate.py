"""Score detection with the official nuScenes evaluation, or plans under every open-loop protocol.

    python tools/evaluate.py --checkpoint RUN/checkpoints/last.ckpt --sensors all-subsets --output DIR \\
        data.root=DIR data.version=v1.0-mini data.split=mini_val
    python tools/evaluate.py --predictions submission.json --output DIR data.root=DIR data.split=mini_val
    python tools/evaluate.py --task planning --checkpoint FILE --sensors all-subsets+blank --output DIR
    python tools/evaluate.py --task planning --baselines-only --output DIR data.root=DIR data.split=mini_val

Writes report.json, a submission per sensor subset and precision-recall pictures into the output folder. Overrides apply
on top of the checkpoint's own configuration. --baselines-only scores plans that look at nothing: it needs the tables
only, no sensor files.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from fusionperc.config import Config, DataConfig, load_config
from fusionperc.console import console, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="a checkpoint written by tools/train.py")
    source.add_argument("--predictions", type=Path, help="a nuScenes detection submission (JSON)")
    source.add_argument("--baselines-only", action="store_true", help="with --task planning: no model")
    parser.add_argument("--task", choices=("detection", "planning"), default="detection")
    parser.add_argument(
        "--sensors",
        help="subset of C, R, L such as CL, several joined by + as in CRL+C, or all-subsets; default: all the model "
        "takes; with --task planning also 'blank', sensors that saw nothing, and 'newest', without past sweeps",
    )
    parser.add_argument(
        "--ego-status", choices=("with", "without", "both"), default="both", help="with --task planning"
    )
    parser.add_argument("--worst", type=int, default=6, help="with --task planning: pictures of the worst cases")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results, made if missing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.split=mini_val")
    arguments = parser.parse_intermixed_args()
    if arguments.checkpoint is None and arguments.sensors is not None:
        parser.error("--sensors goes with --checkpoint; anything else is scored as it is")
    wanted = {"planning": arguments.predictions, "detection": arguments.baselines_only or None}[arguments.task]
    if wanted is not None:
        parser.error("--baselines-only goes with --task planning, --predictions with --task detection")
    if arguments.baselines_only:
        score_baselines(load_config(None, arguments.overrides), arguments.output)
        return

    from fusionperc.evaluation import inference

    if arguments.predictions is not None:
        score_predictions(arguments.predictions, load_config(None, arguments.overrides).data, arguments.output)
        return
    from fusionperc.training.checkpoints import load_model

    device = inference.choose_device(arguments.device)
    model, trained = load_model(arguments.checkpoint, device)
    config = inference.overridden(trained, arguments.overrides)
    sensors = arguments.sensors or config.model.sensors
    if arguments.task == "planning":
        from fusionperc.evaluation.planning_model import report_plans, variants_of

        variants = variants_of(sensors, arguments.ego_status, config)
        report_plans(
            model, config, trained.data, variants, arguments.output, arguments.checkpoint, device, arguments.worst
        )
        return
    inference.report_model(model, config, sensors, arguments.output, arguments.checkpoint, device)


def score_baselines(config: Config, output: Path) -> None:
    """Plans that look at nothing, from the tables alone."""
    from fusionperc.evaluation.planning import baseline_planners, open_tables, scorable_scenes, score_planners
    from fusionperc.evaluation.planning_report import show_planning, write_planning_report

    started_s = time.monotonic()
    scenes = scorable_scenes(open_tables(config.data, config.data.split))
    planners, notes = baseline_planners(scenes, config.data)
    result = score_planners(scenes, planners, config.data.command, notes)
    path = write_planning_report(output, result, config.data, "baselines", time.monotonic() - started_s)
    show_planning(console, result, config.data.split)
    console.print(f"report: {path}")


def score_predictions(predictions: Path, data: DataConfig, output: Path) -> None:
    from fusionperc.evaluation import inference
    from fusionperc.evaluation.report import write_report

    started_s = time.monotonic()
    letters, report = inference.evaluate_predictions(predictions, data)
    path = write_report(output, {letters: report}, data, predictions, time.monotonic() - started_s)
    inference.show_reports({letters: report}, data.split)
    console.print(f"report: {path}")


if __name__ == "__main__":
    run_tool(main)
