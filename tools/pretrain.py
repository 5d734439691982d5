"""Pretrain on unlabelled drives: python tools/pretrain.py CONFIG data.root=DIR run.dir=DIR [key=value ...]

Nothing but what the sensors measured is read: the drives may have annotation tables or none. Several folders:
  pretraining.drives="[{root: data/unlabelled, version: v1.0-test}, {root: data/sim, split: sim_train}]"
data.split of data.root is held out: how likely its LiDAR sweeps are to the network, now and up to three seconds ahead,
is written to likelihood.json beside what simpler forecasts make of them, with pictures, how well it tells what moves to
motion.json, how well it boxes that to objects.json, whether sensors find each other's cells to contrast.json, and
whether it notices sensors that do not belong together to matching.json (train.evaluate=false: without).
The run folder is like that of tools/train.py, which then starts from it:
  python tools/train.py configs/pretraining.yaml data.root=DIR run.dir=OTHER train.init_from=RUN data.label_fraction=0.1
"""

from __future__ import annotations

import argparse

from fusionperc.config import load_config
from fusionperc.console import console, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, e.g. configs/pretraining.yaml")
    parser.add_argument("--samples", type=int, default=64, help="held-out key frames on which likelihood is measured")
    parser.add_argument("--pictures", type=int, default=2, help="held-out key frames of which pictures are drawn")
    parser.add_argument("--evaluate-only", action="store_true", help="measure what run.dir has already learnt")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. pretraining.motion=0")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, arguments.overrides)

    from fusionperc.evaluation.contrast import evaluate_contrast, report_contrast
    from fusionperc.evaluation.inference import choose_device
    from fusionperc.evaluation.likelihood import evaluate_likelihood, report_likelihood
    from fusionperc.evaluation.likelihood_pictures import draw_expectations
    from fusionperc.evaluation.matching import evaluate_matching, report_matching
    from fusionperc.evaluation.motion import draw_motion, evaluate_motion, report_motion
    from fusionperc.evaluation.moving_objects import draw_objects, evaluate_objects, report_objects
    from fusionperc.training.checkpoints import load_pretraining
    from fusionperc.training.pretrain import pretrain
    from fusionperc.training.run import last_checkpoint

    if arguments.evaluate_only:
        checkpoint = last_checkpoint(config)
    else:
        checkpoint = pretrain(config)
        console.print(f"pretrained: {checkpoint}")
    if not (config.train.evaluate or arguments.evaluate_only):
        return
    device = choose_device(config.train.device)
    model, _ = load_pretraining(checkpoint, device)
    pictures = config.run.dir / "pictures"
    if model.motion is not None:
        report_motion(evaluate_motion(model, config, arguments.samples, device), config.run.dir / "motion.json")
        for path in draw_motion(model, config, arguments.pictures, pictures, device):
            console.print(f"picture: {path}")
    if model.objects is not None:
        report_objects(evaluate_objects(model, config, arguments.samples, device), config.run.dir / "objects.json")
        for path in draw_objects(model, config, arguments.pictures, pictures, device):
            console.print(f"picture: {path}")
    if model.embeddings:
        report_contrast(evaluate_contrast(model, config, arguments.samples, device), config.run.dir / "contrast.json")
    if model.matching is not None:
        report_matching(evaluate_matching(model, config, arguments.samples, device), config.run.dir / "matching.json")
    if model.reconstruction is None:
        console.print("nothing is reconstructed: there is no likelihood to be measured")
        return
    table = evaluate_likelihood(model, config, arguments.samples, device)
    report_likelihood(table, config.run.dir / "likelihood.json")
    for path in draw_expectations(model, config, arguments.pictures, pictures, device):
        console.print(f"picture: {path}")


if __name__ == "__main__":
    run_tool(main)
