"""How near a simulated nuScenes folder comes to a real one: a two-sample statistic for each of `measure`'s quantities.

    rows = compare(measure(Path("data/sim")), measure(Path("data/nuscenes")))
    console.print(comparison_table(rows))

The statistic is the two-sample Kolmogorov-Smirnov distance: the largest difference of the two cumulative
distributions, 0 for the same distribution, 1 for samples that do not overlap.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.stats import ks_2samp

from fusionperc.evaluation.lidar_sweep import NUM_BEAMS
from fusionperc.evaluation.realism_measures import Group, Sample, Samples, Values
from fusionperc.files import write_json

Verdict = Literal["met", "missed", "few", "absent"]

#: Largest distance at which a quantity counts as met.
AIMS: dict[Group, float] = {"lidar": 0.15, "boxes": 0.25, "radar": 0.25, "ego": 0.25}
#: With fewer independent values than this on either side the distance says little: the row is marked, not judged.
ENOUGH_VALUES = 20


@dataclass(frozen=True)
class Row:
    """One quantity compared.

    Attributes:
        name: what was measured.
        group: the part of the table.
        unit: of the quantiles.
        num_simulated, num_real: numbers of values.
        simulated, real: their 10 %, 50 % and 90 % quantiles; NaN without values.
        distance: Kolmogorov-Smirnov; NaN where either side has no values.
        aim: largest distance wanted.
        verdict: 'met' or 'missed'; 'few' with too few values to judge by, 'absent' where one side has none.
    """

    name: str
    group: Group
    unit: str
    num_simulated: int
    num_real: int
    simulated: tuple[float, float, float]
    real: tuple[float, float, float]
    distance: float
    aim: float
    verdict: Verdict


def compare(simulated: Samples, real: Samples) -> list[Row]:
    """One row per quantity that either side has values of, in the order of `measure`."""
    rows = (_row(name, simulated[name], real[name]) for name in simulated)
    return [row for row in rows if row.num_simulated or row.num_real]


def _row(name: str, simulated: Sample, real: Sample) -> Row:
    ks, aim = distance(simulated.values, real.values), AIMS[real.group]
    verdict: Verdict = "met" if ks <= aim else "missed"
    if not math.isfinite(ks):
        verdict = "absent"
    elif min(simulated.evidence, real.evidence) < ENOUGH_VALUES:
        verdict = "few"
    return Row(
        name=name,
        group=real.group,
        unit=real.unit,
        num_simulated=len(simulated.values),
        num_real=len(real.values),
        simulated=_quantiles(simulated.values),
        real=_quantiles(real.values),
        distance=ks,
        aim=aim,
        verdict=verdict,
    )


def distance(a: Values, b: Values) -> float:
    """Two-sample Kolmogorov-Smirnov distance of values (N,) and (M,); NaN if either is empty."""
    if len(a) == 0 or len(b) == 0:
        return math.nan
    return float(ks_2samp(a, b, method="asymp").statistic)


def comparison_table(rows: list[Row]) -> Table:
    """The rows for a console: numbers of values, medians with 10 and 90 % quantiles, distance and verdict."""
    table = Table(title="simulated against real", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("n sim", "n real", "sim 50 (10, 90) %", "real 50 (10, 90) %", "KS", "aim"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    styles = {"met": "green", "missed": "red"}
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row(group, style="bold")
        table.add_row(
            f"{row.name}, {row.unit}" if row.unit else row.name,
            str(row.num_simulated),
            str(row.num_real),
            _text(row.simulated),
            _text(row.real),
            f"{row.distance:.3f}" if math.isfinite(row.distance) else "-",
            f"{row.aim:.2f}",
            row.verdict,
            style=styles.get(row.verdict, "dim"),
        )
    return table


def ring_table(simulated: Samples, real: Samples) -> Table:
    """Per LiDAR ring and side: its share of all returns, of all missing returns and of the own vehicle's, in %."""
    table = Table(title="LiDAR rings, % of all", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = []
    kinds = {
        "return": "ring of a return",
        "missing": "ring of a missing return",
        "own": "ring of an own-vehicle return",
    }
    for kind, name in kinds.items():
        for side, samples in (("sim", simulated), ("real", real)):
            columns.append((f"{kind}, {side}", samples[name].values))
    table.add_column("ring", justify="right")
    for title, _ in columns:
        table.add_column(title, justify="right")
    counts = [np.bincount(values.astype(np.int64), minlength=NUM_BEAMS) for _, values in columns]
    for ring in range(NUM_BEAMS):
        table.add_row(str(ring), *(f"{100 * count[ring] / max(count.sum(), 1):.1f}" for count in counts))
    return table


def write_rows(path: Path, rows: list[Row]) -> None:
    """Writes the rows as JSON, whole or not at all; a number that there is none of is null."""
    content = [asdict(row) for row in rows]
    write_json(path, _finite(content), allow_nan=False)


def _finite(value: object) -> object:
    """The same without NaN, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _quantiles(values: Values) -> tuple[float, float, float]:
    if len(values) == 0:
        return (math.nan, math.nan, math.nan)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return (float(low), float(middle), float(high))


def _text(quantiles: tuple[float, float, float]) -> str:
    if not math.isfinite(quantiles[1]):
        return "-"
    low, middle, high = (f"{value:.0f}" if abs(value) >= 1000 else f"{round(value, 3):.3g}" for value in quantiles)
    return f"{middle} ({low}, {high})"
