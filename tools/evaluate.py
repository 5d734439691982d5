"""Score detection with the official nuScenes evaluation.

    python tools/evaluate.py --checkpoint RUN/checkpoints/last.ckpt --sensors all-subsets --output DIR \\
        data.root=DIR data.version=v1.0-mini data.split=mini_val
    python tools/evaluate.py --predictions submission.json --output DIR data.root=DIR data.split=mini_val

Writes report.json, a submission per sensor subset and precision-recall pictures into the output folder. Overrides apply
on top of the checkpoint's own configuration.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from fusionperc.config import load_config
from fusionperc.console import console, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="a checkpoint written by tools/train.py")
    source.add_argument("--predictions", type=Path, help="a nuScenes detection submission (JSON)")
    parser.add_argument("--sensors", help="subset of C, R, L such as CL, or all-subsets; default: all the model takes")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results, made if missing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.split=mini_val")
    arguments = parser.parse_intermixed_args()
    if arguments.predictions is not None and arguments.sensors is not None:
        parser.error("--sensors goes with --checkpoint; a submission is scored as it is")

    from fusionperc.evaluation import inference
    from fusionperc.evaluation.report import class_table, recall_table, subset_table, write_report

    started_s = time.monotonic()
    if arguments.predictions is not None:
        config = load_config(None, arguments.overrides)
        letters, report = inference.evaluate_predictions(arguments.predictions, config.data)
        reports = {letters: report}
    else:
        from fusionperc.training.finetune import load_model

        device = inference.choose_device(arguments.device)
        model, config = load_model(arguments.checkpoint, device)
        config = inference.overridden(config, arguments.overrides)
        sensors = arguments.sensors or config.model.sensors
        reports = inference.evaluate_model(model, config, sensors, arguments.output, device)

    used = arguments.checkpoint or arguments.predictions
    path = write_report(arguments.output, reports, config.data, used, time.monotonic() - started_s)
    main_subset = max(reports, key=len)
    title = f"{main_subset or 'submission'} on {config.data.split}, {reports[main_subset].num_samples} samples"
    # Rather long lines in a log than numbers cut off.
    console.width = max(console.width, 100)
    console.print(class_table(reports[main_subset], title))
    if (recall := reports[main_subset].recall) is not None:
        console.print(recall_table(recall))
    if len(reports) > 1:
        console.print(subset_table(reports))
    console.print(f"report: {path}")


if __name__ == "__main__":
    run_tool(main)
