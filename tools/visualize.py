"""Look at one sample: six pictures, the 3D view and the bird's-eye view with ground truth and detections.

    python tools/visualize.py --checkpoint RUN/checkpoints/last.ckpt --sample 0 --output sample.png data.root=DIR
    python tools/visualize.py --predictions submission.json --sample TOKEN --output sample.png data.root=DIR

With neither a checkpoint nor predictions the ground truth is drawn alone. --window opens an Open3D window too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fusionperc.config import load_config
from fusionperc.console import console, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, help="a checkpoint written by tools/train.py")
    source.add_argument("--predictions", type=Path, help="a nuScenes detection submission (JSON)")
    parser.add_argument("--sample", required=True, help="sample token, or its index in data.split")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="detections below are not drawn")
    parser.add_argument("--sensors", help="detect with this subset of C, R, L only; default: all that the model takes")
    parser.add_argument("--window", action="store_true", help="also open an Open3D window")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.root=DIR data.split=mini_val")
    arguments = parser.parse_intermixed_args()
    if arguments.output.suffix.lower() != ".png":
        parser.error(f"--output {arguments.output}: a PNG is written, name it so")
    if arguments.sensors is not None and arguments.checkpoint is None:
        parser.error("--sensors goes with --checkpoint")

    from fusionperc.evaluation import inference, picture
    from fusionperc.types import sensors_from_letters
    from fusionperc.visualization.open3d_view import show
    from fusionperc.visualization.plots import draw_sheet

    detections, label = None, "ground truth"
    if arguments.checkpoint is not None:
        from fusionperc.training.checkpoints import load_model

        device = inference.choose_device(arguments.device)
        model, config = load_model(arguments.checkpoint, device)
        config = inference.overridden(config, arguments.overrides)
        (letters,) = inference.subsets_of(arguments.sensors or config.model.sensors, config.model.sensor_names)
        drives = inference.open_drives(config)
        index = picture.sample_index(drives, arguments.sample)
        detections = picture.detect_sample(model, config, drives, index, sensors_from_letters(letters), device)
        label = f"detected with {letters}"
    else:
        config = load_config(None, arguments.overrides)
        drives = inference.open_drives(config)
        index = picture.sample_index(drives, arguments.sample)
        if arguments.predictions is not None:
            detections = picture.read_detections(arguments.predictions, drives, index)
            label = arguments.predictions.name
    scene = picture.draw_sample(drives, index, detections, arguments.score_threshold, config.model.grid.range_m)
    draw_sheet(scene, arguments.output, f"{drives.sample_tokens[index]}   {config.data.split}   {label}")
    console.print(f"picture: {arguments.output}")
    if arguments.window:
        show(scene)


if __name__ == "__main__":
    run_tool(main)
