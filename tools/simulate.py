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
    arguments = parser.parse_args()

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


if __name__ == "__main__":
    run_tool(main)
