"""Plans of a trained network on a split, with any sensors, with blank ones, and with or without the ego's status."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from fusionperc.config import Config, ConfigError, DataConfig
from fusionperc.console import console
from fusionperc.data.loading import make_loader
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.data.trajectory import acceleration_over_ground
from fusionperc.evaluation.inference import open_drives, subsets_of
from fusionperc.evaluation.planning import (
    Planner,
    PlanningResult,
    baseline_planners,
    scorable_scenes,
    score_planners,
)
from fusionperc.evaluation.planning_report import show_planning, write_planning_report
from fusionperc.evaluation.planning_scene import Array, PlanningScene
from fusionperc.models.fusionperc import FusionPerc, FusionPercOutput
from fusionperc.models.refinement import driven_plan
from fusionperc.types import MOTION_COLUMNS, Batch, Points, SensorInputs, Targets, sensors_from_letters

#: Every sensor is there and saw nothing; or all but the newest sweep of each is missing.
BLANK, NEWEST = "blank", "newest"
#: Ages up to which a sweep is a sensor's newest (radars at 13 Hz are not in step with the LiDAR).
_NEWEST_LIDAR_S, _NEWEST_RADAR_S = 0.02, 0.08
_LATENCY_RUNS = 15


@dataclass(frozen=True)
class Variant:
    """What a network is given.

    Attributes:
        sensors: letters such as 'CRL', or 'blank' or 'newest'.
        with_status: the ego's status is told.
    """

    sensors: str
    with_status: bool

    @property
    def name(self) -> str:
        return f"model {self.sensors}{' + status' if self.with_status else ''}"

    def inputs(self, inputs: SensorInputs) -> SensorInputs:
        """A batch as this variant sees it."""
        match self.sensors:
            case "blank":
                return blank(inputs)
            case "newest":
                return newest(inputs)
            case letters:
                return inputs.only(sensors_from_letters(letters))


def blank(inputs: SensorInputs) -> SensorInputs:
    """The same sensors, black pictures and no points: whoever plans as well with these is not looking."""
    cameras = inputs.cameras
    return replace(
        inputs,
        cameras=None if cameras is None else replace(cameras, images=torch.zeros_like(cameras.images)),
        radar=None if inputs.radar is None else _emptied(inputs.radar),
        lidar=None if inputs.lidar is None else _emptied(inputs.lidar),
        radar_odometry=None,
        lidar_odometry=None,
    )


def newest(inputs: SensorInputs) -> SensorInputs:
    """The same without earlier sweeps and what is measured with them: nothing of the ego's motion shows any more."""
    return replace(
        inputs,
        radar=None if inputs.radar is None else _younger(inputs.radar, 3, _NEWEST_RADAR_S),
        lidar=None if inputs.lidar is None else _younger(inputs.lidar, 1, _NEWEST_LIDAR_S),
        radar_odometry=None,
        lidar_odometry=None,
    )


def _younger(points: Points, column: int, age_s: float) -> Points:
    kept = points.features[:, column] <= age_s
    return Points(points.xyz_m[kept], points.features[kept], points.sample_index[kept], points.batch_size)


def _emptied(points: Points) -> Points:
    return Points(points.xyz_m[:0], points.features[:0], points.sample_index[:0], points.batch_size)


def variants_of(sensors: str, status: str, config: Config) -> list[Variant]:
    """The variants asked for, those without the ego's status first.

    Args:
        sensors: subsets such as 'CRL+RL', 'all-subsets', 'blank' and 'newest', joined by '+'.
        status: 'with', 'without' or 'both'.
        config: of the model.

    Raises:
        ConfigError: the model has no such sensor or no planning head.
    """
    if config.model.planning is None:
        raise ConfigError("--task planning: this model has no planning head; train one with model.planning (configs/)")
    names: list[str] = []
    for word in sensors.split("+"):
        known = (word,) if word in (BLANK, NEWEST) else subsets_of(word, config.model.sensor_names)
        # The fullest first: it is the model.
        names += sorted(known, key=len, reverse=True)
    names = list(dict.fromkeys(names))
    told = {"without": (False,), "with": (True,), "both": (False, True)}[status]
    return [Variant(name, with_status) for with_status in told for name in names]


def predict_plans(
    model: FusionPerc, loader: DataLoader[Batch], variants: Sequence[Variant], device: torch.device | str
) -> tuple[dict[str, dict[str, Array]], dict[str, list[float]]]:
    """The best plan (8, 3) of every sample, by variant's name and sample token; each batch is read once.

    Beside them, by the variants' sensors, how far off the ego's motion is that these tell: mean errors of speed (m/s),
    acceleration (m/s^2) and turn rate (rad/s) against the CAN bus, the acceleration against the recorded poses, as the
    bus's feels slopes.

    Args:
        model: in evaluation mode, on `device`, with a planning head.
        loader: batches of a split, with `ego`.
        variants: what to give to it. A sample without any of a variant's sensors gets the plan of blank ones.
        device: where the model is.
    """
    found: dict[str, dict[str, Array]] = {variant.name: {} for variant in variants}
    off: dict[str, list[torch.Tensor]] = {variant.sensors: [] for variant in variants}
    with torch.inference_mode():
        for batch in loader:
            assert batch.ego is not None
            # What only differs in the ego's status is planned side by side.
            for sensors in dict.fromkeys(variant.sensors for variant in variants):
                inputs = Variant(sensors, with_status=False).inputs(batch.inputs)
                if not bool(inputs.present.any(dim=1).all()):
                    inputs = blank(batch.inputs)
                seen = model(inputs.to(device), batch.ego.and_without_status().to(device))
                output, plan = seen.planning, driven(model, seen)
                assert output is not None
                off[sensors].append((output.sensed_motion.cpu() - _recorded_motion(batch.targets)).abs())
                with_status, without = plan.double().cpu().numpy().reshape(2, len(batch), -1, 3)
                for variant in variants:
                    if variant.sensors == sensors:
                        plans = with_status if variant.with_status else without
                        found[variant.name] |= dict(zip(batch.sample_tokens, plans, strict=True))
    return found, {sensors: torch.cat(errors).nanmean(0).tolist() for sensors, errors in off.items()}


def _recorded_motion(targets: Targets) -> Float[Tensor, "batch 3"]:
    """`EGO_MOTION` over ground."""
    motion = targets.can_bus[:, MOTION_COLUMNS].clone()
    motion[:, 1] = acceleration_over_ground(targets.ego_past_m[:, -1], targets.ego_future_m[:, 0])
    return motion


def driven(model: FusionPerc, output: FusionPercOutput) -> Float[Tensor, "batch steps 3"]:
    """The plans to be driven of what a network gave; see `driven_plan`."""
    planning = model.config.planning
    assert output.planning is not None and planning is not None
    return driven_plan(output.planning, output.detection, model.config.grid.grid(), planning.refine_steps)


def evaluate_plans(
    model: FusionPerc,
    config: Config,
    trained: DataConfig,
    variants: Sequence[Variant],
    device: torch.device | str = "cpu",
) -> tuple[PlanningResult, list[PlanningScene], dict[str, float]]:
    """Scores a network's plans on `data.split`, the baselines beside them.

    Args:
        model: in evaluation mode, on `device`.
        config: its data record says what to evaluate on.
        trained: what the model learnt from; the ego-status perceptron learns from the same.
        variants: what to give to the model.
        device: where the model is.

    Returns:
        The scores, what was scored, and latencies as `latency_ms`.

    Raises:
        DataError: no key frame of the split can be scored.
    """
    drives = open_drives(config)
    scenes = scorable_scenes(drives)
    tokens = {scene.surroundings.token for scene in scenes}
    places = [place for place, token in enumerate(drives.sample_tokens) if token in tokens]
    loader = drives_loader(config, drives, places)
    train = trained.model_copy(update={"command": config.data.command})
    planners, notes = baseline_planners(scenes, train, seed=config.train.seed)
    plans, motion_errors = predict_plans(model, loader, variants, device)
    head = model.planning
    is_map_given = head is not None and head.is_map_given and any(s.surroundings.drivable is not None for s in scenes)
    planners += [
        Planner(variant.name, plans[variant.name], variant.with_status, uses_command=True, uses_map=is_map_given)
        for variant in variants
    ]
    notes += [
        f"the ego's motion as {sensors} tells it, mean error: speed {speed:.2f} m/s, turn rate {turn_rate:.3f} rad/s, "
        + (f"acceleration {acceleration:.2f} m/s2" if math.isfinite(acceleration) else "acceleration not told")
        for sensors, (speed, acceleration, turn_rate) in motion_errors.items()
        if math.isfinite(speed)
    ]
    if max(config.data.lidar_sweeps, config.data.radar_sweeps) > 1:
        notes.append(
            "sweeps of the past are placed by ego motion: a model without ego status may read its speed off them"
        )
    latency = latency_ms(model, drives_loader(config, drives, places[:1]), device)
    return score_planners(scenes, planners, config.data.command, notes), scenes, latency


def drives_loader(config: Config, drives: NuScenesDrives, places: Sequence[int]) -> DataLoader[Batch]:
    """Batches of these places of the split."""
    return make_loader(config, config.data.split, training=False, drives=drives, samples=places)


def latency_ms(model: FusionPerc, loader: DataLoader[Batch], device: torch.device | str) -> dict[str, float]:
    """Median times of the whole network, of its planning head in it, and of moving the plan then, on the loader's first
    batch, ms."""
    batch = next(iter(loader)).to(device)
    assert model.planning is not None
    marks: list[float] = []

    def mark(*_: object) -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    hooks = [model.planning.register_forward_pre_hook(mark), model.planning.register_forward_hook(mark)]
    times = []
    with torch.inference_mode():
        for _ in range(_LATENCY_RUNS):
            marks.clear()
            mark()
            output = model(batch.inputs, batch.ego)
            mark()
            driven(model, output)
            mark()
            times.append((marks[3] - marks[0], marks[2] - marks[1], marks[4] - marks[3]))
    for hook in hooks:
        hook.remove()
    names = ("model", "planning_head", "refinement")
    medians = (round(1e3 * statistics.median(column), 2) for column in zip(*times, strict=True))
    return {"batch_size": float(len(batch)), **dict(zip(names, medians, strict=True))}


def report_plans(
    model: FusionPerc,
    config: Config,
    trained: DataConfig,
    variants: Sequence[Variant],
    output: Path,
    source: Path,
    device: torch.device | str = "cpu",
    worst: int = 6,
) -> None:
    """Evaluates plans as `evaluate_plans` does, writes `output`/report.json and pictures of the worst, prints tables.

    Args:
        model, config, trained, variants, device: as in `evaluate_plans`; pictures are of the first variant.
        output: folder, made if missing.
        source: the checkpoint, named in the report.
        worst: number of pictures.
    """
    from fusionperc.evaluation.planning_pictures import draw_worst

    started_s = time.monotonic()
    result, scenes, latency = evaluate_plans(model, config, trained, variants, device)
    seconds = time.monotonic() - started_s
    path = write_planning_report(output, result, config.data, str(source), seconds, latency)
    show_planning(console, result, config.data.split)
    pictures = draw_worst(result, variants[0].name, scenes, open_drives(config), output, worst)
    console.print(
        f"one forward pass (batch {latency['batch_size']:.0f}) on {device}: {latency['model']:.0f} ms, planning head "
        f"{latency['planning_head']:.0f} ms of it; moving the plan {latency['refinement']:.0f} ms"
    )
    console.print(f"report: {path}; the {len(pictures)} worst cases of {variants[0].name}: {output}/worst_*.png")
