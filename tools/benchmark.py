"""Measure speed, as ratios within one run:

    python tools/benchmark.py ops --output DIR [--data ROOT --version v1.0-mini --split sim_val]
    python tools/benchmark.py step configs/tiny.yaml --output DIR data.root=ROOT

`ops` times voxelization, padding and BEV pooling beside their peers (those of spconv, torch_scatter and numba that are
installed), after checking that each peer gives the same voxels, and draws how time grows with the number of points.
`step` shows where the time of a training step goes. Both write JSON. Close other programs first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fusionperc.config import load_config
from fusionperc.console import console, run_tool
from fusionperc.environment import versions
from fusionperc.files import whole_file

if TYPE_CHECKING:
    import torch

    from fusionperc.benchmarks.operations import Row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    ops = what.add_parser("ops", help="voxelization and BEV pooling beside their peers")
    ops.add_argument("--data", type=Path, help="a nuScenes folder to take ten LiDAR sweeps from; default: made up")
    ops.add_argument("--version", default="v1.0-mini", help="its table folder")
    ops.add_argument("--split", default="sim_val", help="its split")
    step = what.add_parser("step", help="a training step in its parts")
    step.add_argument("config", help="YAML file, e.g. configs/tiny.yaml")
    step.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.root=data/sim")
    for command in (ops, step):
        command.add_argument("--output", type=Path, required=True, help="folder of the results, made if missing")
        command.add_argument("--rounds", type=int, default=15, help="times each candidate runs")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    # With sub-commands argparse takes positional arguments in one place only; overrides may stand anywhere.
    arguments, rest = parser.parse_known_args()
    if rest and (arguments.what != "step" or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: must be at least 1")

    from fusionperc.evaluation.inference import choose_device

    device = choose_device(arguments.device)
    if arguments.what == "ops":
        benchmark_operations(arguments, device)
    else:
        benchmark_step(arguments, [*arguments.overrides, *rest], device)


def benchmark_operations(arguments: argparse.Namespace, device: torch.device) -> None:
    from fusionperc.benchmarks import operations

    output, rounds = arguments.output, arguments.rounds
    if arguments.data is None:
        points = operations.made_up_cloud()
    else:
        points = operations.recorded_cloud(arguments.data, arguments.version, arguments.split, output / "cache")
    points = points.to(device)
    rows = operations.compare_voxelization(points, rounds)
    rows += operations.compare_padding(points, rounds)
    rows += operations.compare_pooling(rounds, device)
    for case in dict.fromkeys(row.case for row in rows):
        console.print(comparison([row for row in rows if row.case == case]))
    growth = operations.scaling(points, min(rounds, 7))
    draw_growth(growth, output / "scaling.png")
    listed = [
        {
            "case": row.case,
            "candidate": row.candidate,
            "returns": row.returns,
            "median_ms": row.times.median_ms,
            "minimum_ms": row.times.minimum_ms,
            "memory_mib": row.memory_mib,
        }
        for row in rows
    ]
    write_json(output / "ops.json", device, {"comparisons": listed, "milliseconds_by_points": growth})


def comparison(rows: Sequence[Row]) -> Table:
    """The last column compares with the fastest peer of the case."""
    fastest_ms = min((row.times.median_ms for row in rows if not row.is_ours), default=float("nan"))
    table = Table(title=rows[0].case, title_justify="left")
    has_memory = rows[0].memory_mib is not None
    for name in ("", "returns", "median ms", "minimum ms", "to fastest peer", *(["peak MiB"] if has_memory else [])):
        table.add_column(name, justify="left" if name in ("", "returns") else "right")
    for row in sorted(rows, key=lambda row: row.times.median_ms):
        times = (f"{row.times.median_ms:.2f}", f"{row.times.minimum_ms:.2f}", f"{row.times.median_ms / fastest_ms:.3f}")
        memory = [] if row.memory_mib is None else [f"{row.memory_mib:.1f}"]
        table.add_row(row.candidate, row.returns, *times, *memory, style="bold" if row.is_ours else "")
    return table


def draw_growth(growth: dict[str, dict[int, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    from fusionperc.visualization.plots import save_figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    table = Table(title="voxelization with means, median ms", title_justify="left")
    table.add_column("points", justify="right")
    for name, by_size in growth.items():
        axes.loglog(list(by_size), list(by_size.values()), "o-", label=name)
        table.add_column(name, justify="right")
    for size in next(iter(growth.values())):
        table.add_row(f"{size:,}", *(f"{by_size[size]:.2f}" for by_size in growth.values()))
    sizes = list(next(iter(growth.values())))
    lowest = min(by_size[sizes[-1]] for by_size in growth.values())
    axes.loglog(sizes, [lowest * size / sizes[-1] for size in sizes], "k:", label="proportional to the points")
    axes.set(xlabel="points", ylabel="ms", title="Voxelization with means")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
    console.print(table)
    console.print(f"picture: {path}")


def benchmark_step(arguments: argparse.Namespace, overrides: Sequence[str], device: torch.device) -> None:
    from fusionperc.benchmarks.training_step import training_step

    config = load_config(arguments.config, [*overrides, f"run.dir={arguments.output}"])
    times = training_step(config, arguments.rounds, device)
    table = Table(title=f"{arguments.config} on {device}", title_justify="left")
    for name in ("", "median ms", "minimum ms", "share of the step"):
        table.add_column(name, justify="right" if name else "left")
    whole_ms = times["whole step"].median_ms
    for name, part in times.items():
        share = f"{part.median_ms / whole_ms:.0%}"
        table.add_row(name, f"{part.median_ms:.1f}", f"{part.minimum_ms:.1f}", share)
    console.print(table)
    parts = {name: {"median_ms": part.median_ms, "minimum_ms": part.minimum_ms} for name, part in times.items()}
    write_json(arguments.output / "step.json", device, {"config": arguments.config, "parts": parts})


def write_json(path: Path, device: torch.device, content: dict[str, Any]) -> None:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**content, "device": name, "versions": versions()}, indent=2))
    console.print(f"report: {path}")


if __name__ == "__main__":
    run_tool(main)
