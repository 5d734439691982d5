"""Simulate drives, written as nuScenes: python tools/simulate.py OUT --preset sim-mini --seed 0 --workers 2

Goes on where it was interrupted; the result is the same however many workers there are. OUT loads in the official
devkit and wherever this package takes a data root.

On a cluster each drive is a job of its own, on any machine that sees OUT; the tables are written when all are there:
  seq 0 999 | xargs -P 32 -I{} python tools/simulate.py OUT --preset sim-unlabelled --drives-train 992 --only-drive {}
  python tools/simulate.py OUT --preset sim-unlabelled --drives-train 992 --assemble
or in a SLURM array: --only-drive $SLURM_ARRAY_TASK_ID
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.table import Table

from fusionperc.console import console, run_tool

if TYPE_CHECKING:
    from fusionperc.simulation.sets import DriveSet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the set, made if absent")
    parser.add_argument("--preset", default="sim-mini", help="demo, sim-mini, sim-small or sim-unlabelled")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another set")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--drives-train", type=int, help="number of train drives")
    parser.add_argument("--drives-val", type=int, help="number of validation drives")
    parser.add_argument("--drives-test", type=int, help="number of test drives")
    parser.add_argument("--duration", type=float, help="length of a drive in seconds")
    parser.add_argument("--image-scale", type=float, help="pictures relative to 1600x900")
    parser.add_argument("--lidar-azimuths", type=int, help="columns of a LiDAR sweep (1084 is the real sensor)")
    parser.add_argument("--weather", help="of all drives: sunny, rain, night, ...; without it each drive has its own")
    parser.add_argument("--camera-sweeps", action="store_true", help="pictures between key frames too, at 12 Hz")
    parser.add_argument("--compact", action="store_true", help="half the size: LiDAR sweeps at 10 Hz, JPEG 75")
    parser.add_argument("--only-drive", metavar="N", help="make one drive (its place from 0, or its name), no tables")
    parser.add_argument("--assemble", action="store_true", help="write the tables of drives made one by one")
    parser.add_argument("--verify", action="store_true", help="read all files of OUT and compare their checksums")
    parser.add_argument("--situations", action="store_true", help="only print what the ego meets; nothing is written")
    parser.add_argument("--compare", type=Path, metavar="DATAROOT", help="compare OUT with a real nuScenes folder")
    parser.add_argument("--compare-output", type=Path, metavar="FILE.json", help="where to write the comparison too")
    arguments = parser.parse_args()
    if arguments.situations:
        print_situations(arguments)
        return
    if arguments.verify:
        verify_set(arguments.out)
    # A set that is there is compared as it is, whatever preset it was made from.
    elif arguments.compare is None or not any(arguments.out.glob("*/scene.json")):
        make(arguments)
    if arguments.compare is not None:
        compare_with_real(arguments.out, arguments.compare, arguments.compare_output)


def plan(arguments: argparse.Namespace) -> DriveSet:
    """The drives asked for."""
    from fusionperc.simulation.sets import plan_drives

    return plan_drives(
        arguments.preset,
        arguments.seed,
        num_train=arguments.drives_train,
        num_val=arguments.drives_val,
        num_test=arguments.drives_test,
        duration_s=arguments.duration,
        image_scale=arguments.image_scale,
        lidar_azimuths=arguments.lidar_azimuths,
        weather=arguments.weather,
        camera_sweeps=arguments.camera_sweeps,
        compact=arguments.compact,
    )


def print_situations(arguments: argparse.Namespace) -> None:
    """Shares of time of the ego's situations and commands over all drives; their traffic alone is simulated."""
    from fusionperc.simulation.recorder import drive_traffic
    from fusionperc.simulation.traffic.situations import shares

    traffic = []
    for spec in track(plan(arguments).drives, "drives", console=console):
        with tempfile.TemporaryDirectory(prefix="fusionperc-") as folder:
            traffic.append(drive_traffic(spec, Path(folder)))
    table = Table("situation", "share of time")
    for name, share in shares(traffic).items():
        table.add_row(name, f"{share:.3f}")
    console.print(table)


def make(arguments: argparse.Namespace) -> None:
    """Makes the set, or what is missing of it, or one of its drives."""
    from fusionperc.simulation.drives import finish, generate, generate_one

    drives = plan(arguments)
    start = time.monotonic()
    only = arguments.only_drive
    asked = drives.num_key_frames if only is None else drives.drive(only).num_key_frames
    columns = (TextColumn("key frames"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[name]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=asked, name="")

        def tell(name: str) -> None:
            progress.update(task, advance=1, name=name)

        try:
            if arguments.assemble:
                made: list[str] = []
                finish(drives, arguments.out)
            elif only is not None:
                made = generate_one(drives, arguments.out, only, on_key_frame=tell)
            else:
                made = generate(drives, arguments.out, workers=arguments.workers, on_key_frame=tell)
        except ImportError as error:
            raise ValueError(str(error)) from error
        progress.update(task, completed=asked)
    seconds = time.monotonic() - start
    if only is not None:
        console.print(
            f"{arguments.out}: drive {drives.drive(only).name} {'made' if made else 'was there'}, {seconds:.0f} s"
        )
        return
    console.print(
        f"{arguments.out}: {len(drives.drives)} drives, {len(made)} made now in {seconds:.0f} s; "
        f"version {drives.version}, splits {', '.join(drives.splits)}"
    )


def verify_set(root: Path) -> None:
    """Compares all files of a set with its manifest; raises `ValueError` if some differ."""
    from fusionperc.simulation.writing.manifest import verify

    with Progress(TextColumn("files"), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("", total=None)
        problems = verify(root, on_file=lambda: progress.update(task, advance=1))
    for line in problems:
        console.print(line, highlight=False)
    if problems:
        raise ValueError(f"{root}: {len(problems)} files are damaged or missing: copy them again")
    console.print(f"{root}: all files are as they were written")


def compare_with_real(simulated_root: Path, real_root: Path, output: Path | None) -> None:
    """Prints how near the set comes to a real one; `output` gets the rows as JSON."""
    from fusionperc.evaluation.realism import compare, comparison_table, ring_table, write_rows
    from fusionperc.evaluation.realism_measures import measure, radars_with_files

    radars = radars_with_files(real_root)
    simulated, real = measure(simulated_root, radars=radars), measure(real_root, radars=radars)
    rows = compare(simulated, real)
    console.print(ring_table(simulated, real))
    console.print(comparison_table(rows))
    if output is not None:
        write_rows(output, rows)


if __name__ == "__main__":
    run_tool(main)
