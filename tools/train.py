"""Train detection: python tools/train.py configs/tiny.yaml data.root=DIR run.dir=DIR [key=value ...]

The run folder keeps the resolved configuration, versions, metrics (CSV, TensorBoard) and checkpoints; a killed run goes
on exactly where its last checkpoint was with run.resume=true.
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

    from fusionperc.training.run import finetune

    checkpoint = finetune(config)
    console.print(f"done: {checkpoint}")


if __name__ == "__main__":
    run_tool(main)
