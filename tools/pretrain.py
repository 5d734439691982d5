"""Pretrain on unlabelled drives: python tools/pretrain.py CONFIG data.root=DIR run.dir=DIR [key=value ...]

Nothing but what the sensors measured is read: the drives may have annotation tables or none. Several folders:
  pretraining.drives="[{root: data/unlabelled, version: v1.0-test}, {root: data/sim, split: sim_train}]"
data.split of data.root is held out. The run folder is that of tools/train.py, which then starts from it:
  python tools/train.py configs/pretraining.yaml data.root=DIR run.dir=OTHER train.init_from=RUN data.label_fraction=0.1
"""

from __future__ import annotations

import argparse

from fusionperc.config import load_config
from fusionperc.console import console, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, e.g. configs/pretraining.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. pretraining.contrast=0")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)

    from fusionperc.training.pretrain import pretrain

    checkpoint = pretrain(config)
    console.print(f"pretrained: {checkpoint}")


if __name__ == "__main__":
    run_tool(main)
