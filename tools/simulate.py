"""Simulate drives, written as nuScenes: python tools/simulate.py OUT --preset sim-mini --seed 0 --workers 2

Goes on where it was interrupted; the result is the same however many workers there are. OUT loads in the official
devkit and wherever this package takes a data root.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fusionperc.console import console, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the set, made if absent")
    parser.add_argument("--preset", default="sim-mini", help="demo, sim-mini or sim-small")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another set")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--drives-train", type=int, help="number of train drives")
    parser.add_argument("--drives-val", type=int, help="number of validation drives")
    parser.add_argument("--duration", type=float, help="length of a drive in seconds")
    parser.add_argument("--image-scale", type=float, help="pictures relative to 1600x900")
    parser.add_argument("--lidar-azimuths", type=int, help="columns of a LiDAR sweep (1085 is the real sensor)")
    parser.add_argument("--camera-sweeps", action="store_true", help="pictures between key frames too, at 12 Hz")
    parser.add_argument("--compare", type=Path, metavar="DATAROOT", help="compare OUT with a real nuScenes folder")
    parser.add_argument("--compare-output", type=Path, metavar="FILE.json", help="where to write the comparison too")
    arguments = parser.parse_args()
    # A set that is there is compared as it is, whatever preset it was made from.
    if arguments.compare is None or not any(arguments.out.glob("*/scene.json")):
        make(arguments)
    if arguments.compare is not None:
        compare_with_real(arguments.out, arguments.compare, arguments.compare_output)


def make(arguments: argparse.Namespace) -> None:
    """Makes the set, or what is missing of it."""
    from fusionperc.simulation.drives import generate, plan_drives

    drives = plan_drives(
        arguments.preset,
        arguments.seed,
        num_train=arguments.drives_train,
        num_val=arguments.drives_val,
        duration_s=arguments.duration,
        image_scale=arguments.image_scale,
        lidar_azimuths=arguments.lidar_azimuths,
        camera_sweeps=arguments.camera_sweeps,
    )
    start = time.monotonic()
    columns = (TextColumn("key frames"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[name]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=drives.num_key_frames, name="")
        try:
            made = generate(
                drives,
                arguments.out,
                workers=arguments.workers,
                on_key_frame=lambda name: progress.update(task, advance=1, name=name),
            )
        except ImportError as error:
            raise ValueError(str(error)) from error
        done = sum(drive.num_key_frames for drive in drives.drives)
        progress.update(task, completed=done)
    console.print(
        f"{arguments.out}: {len(drives.drives)} drives, {len(made)} made now in {time.monotonic() - start:.0f} s; "
        f"version {drives.version}, splits sim_train and sim_val"
    )


def compare_with_real(simulated_root: Path, real_root: Path, output: Path | None) -> None:
    """Prints how near the set comes to a real one; `output` gets the rows as JSON."""
    from fusionperc.evaluation.realism import compare, comparison_table, ring_table, write_rows
    from fusionperc.evaluation.realism_measures import measure

    simulated, real = measure(simulated_root), measure(real_root)
    rows = compare(simulated, real)
    console.print(ring_table(simulated, real))
    console.print(comparison_table(rows))
    if output is not None:
        write_rows(output, rows)


if __name__ == "__main__":
    run_tool(main)
