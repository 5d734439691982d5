"""Train detection, planning or both: python tools/train.py configs/tiny.yaml data.root=DIR run.dir=DIR [key=value ...]

The run folder keeps the resolved configuration, versions, metrics (CSV, TensorBoard), checkpoints and, at the end, the
official scores on the held-out drives (report.json). A killed run goes on exactly where its last checkpoint was with
run.resume=true.
"""

from __future__ import annotations

import argparse

from fusionperc.config import load_config
from fusionperc.console import console, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, e.g. configs/tiny.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.steps=500")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)

    from fusionperc.evaluation.inference import choose_device, report_model
    from fusionperc.training.checkpoints import load_model
    from fusionperc.training.run import finetune

    checkpoint = finetune(config)
    console.print(f"trained: {checkpoint}")
    if config.train.evaluate:
        device = choose_device(config.train.device)
        model, _ = load_model(checkpoint, device)
        report_model(model, config, config.model.sensors, config.run.dir, checkpoint, device)


if __name__ == "__main__":
    run_tool(main)
