"""Scores of planners on a split: every protocol, the trivial plans beside, by command and by situation.

What belongs beside every score is made here, not asked for: the ground truth's own trajectory, standing still, constant
velocity, constant turn rate and acceleration, and a perceptron that knows the ego's status only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionperc.config import DataConfig
from fusionperc.data.errors import DataError
from fusionperc.data.loading import recorded_at_training
from fusionperc.data.nuscenes import NuScenesDrives
from fusionperc.evaluation.planning_baselines import BASELINES, EgoStatusPlanner
from fusionperc.evaluation.planning_comfort import EgoState
from fusionperc.evaluation.planning_pdm import PdmTerms, pdm
from fusionperc.evaluation.planning_protocols import DEFAULT_PROTOCOL, PROTOCOLS, Score
from fusionperc.evaluation.planning_scene import Array, PlanningScene
from fusionperc.evaluation.planning_situations import SITUATIONS, situations_of
from fusionperc.types import COMMANDS

TRUTH = "ground truth"
PERCEPTRON = "ego-status MLP"


@dataclass(frozen=True)
class Planner:
    """Plans of one planner, (8, 3) or (6, 3) by sample token, and what it was told.

    Attributes:
        uses_ego_status: speed, accelerations, turn rate or past poses were given to it.
        uses_command: the driving command was.
        uses_map: the drivable area was.
    """

    name: str
    plans: Mapping[str, Array]
    uses_ego_status: bool
    uses_command: bool
    uses_map: bool = False


@dataclass(frozen=True)
class Means:
    """Means over samples at 1, 2 and 3 s, and their average; terms that no sample has are None.

    `truth_collision` is how often the ground truth's own trajectory collides by the same rules.
    """

    count: int
    l2_m: tuple[float, ...]
    collision: tuple[float, ...]
    truth_collision: tuple[float, ...]
    off_road: tuple[float, ...] | None
    comfort: float | None
    progress: float | None

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Means:
        """Of at least one score."""

        def row(name: str) -> tuple[float, ...] | None:
            values = [getattr(score, name) for score in scores if getattr(score, name) is not None]
            if not values:
                return None
            mean = np.mean(values, axis=0)
            return (*mean.tolist(), float(mean.mean()))

        def number(name: str) -> float | None:
            values = [getattr(score, name) for score in scores if getattr(score, name) is not None]
            return float(np.mean(values)) if values else None

        return cls(
            count=len(scores),
            l2_m=row("l2_m") or (),
            collision=row("collision") or (),
            truth_collision=row("truth_collision") or (),
            off_road=row("off_road"),
            comfort=number("comfort"),
            progress=number("progress"),
        )


@dataclass(frozen=True)
class PlannerScores:
    """Every sample's scores of one planner.

    Attributes:
        planner: whose.
        samples: by protocol, one per scene, in the scenes' order.
        pdm: by scene; None where NAVSIM's terms cannot be told.
    """

    planner: Planner
    samples: dict[str, list[Score]]
    pdm: list[PdmTerms | None]

    def means(self, protocol: str = DEFAULT_PROTOCOL, keep: NDArray[np.bool_] | None = None) -> Means | None:
        """Over the samples of a mask, all by default; None if there are none."""
        scores = self.samples[protocol]
        kept = [score for place, score in enumerate(scores) if keep is None or keep[place]]
        return Means.of(kept) if kept else None

    def pdm_means(self, keep: NDArray[np.bool_] | None = None) -> dict[str, float] | None:
        """Means of NAVSIM's terms, the score as "PDMS" and the number of samples; None if no sample has them."""
        kept = [term for place, term in enumerate(self.pdm) if term is not None and (keep is None or keep[place])]
        if not kept:
            return None
        terms = {
            "NC": [t.no_collision for t in kept], "DAC": [t.drivable for t in kept],
            "TTC": [t.time_to_collision for t in kept], "C": [t.comfort for t in kept],
            "EP": [t.progress for t in kept], "PDMS": [t.score for t in kept],
        }  # fmt: skip
        return {name: float(np.mean(values)) for name, values in terms.items()} | {"count": float(len(kept))}


@dataclass(frozen=True)
class PlanningResult:
    """Scores of several planners on the same scenes.

    Attributes:
        scores: in the order of tables.
        groups: masks (samples,) by name, e.g. "situation: turning" or "command: left".
        command_source: "route" or "endpoint" (of the ground truth: it tells a part of the answer).
        has_map: whether any scene has a drivable area.
        notes: what is absent and why.
    """

    scores: list[PlannerScores]
    groups: dict[str, NDArray[np.bool_]]
    command_source: str
    has_map: bool
    notes: list[str]


def scorable_scenes(drives: NuScenesDrives) -> list[PlanningScene]:
    """The key frames with one before and six after them. Raises `DataError` if there is none."""
    surroundings = [drives.surroundings(index) for index in range(len(drives))]
    scenes = [PlanningScene(item) for item in surroundings if PlanningScene.is_scorable(item)]
    if not scenes:
        raise DataError(
            f"{drives.root / drives.version}, split '{drives.split}': no annotated key frame has one before and six "
            "after it: no plan can be scored; set data.split"
        )
    return scenes


def baseline_planners(
    scenes: Sequence[PlanningScene], train: DataConfig, *, seed: int = 0
) -> tuple[list[Planner], list[str]]:
    """The ground truth, the trivial planners, and the perceptron where there are drives to learn from.

    Args:
        scenes: to plan for.
        train: the perceptron learns from its `train_split` and `drives`: what a model beside it learnt from.
        seed: of the perceptron.

    Returns:
        Planners, and notes on those that are absent.
    """
    states = {scene.surroundings.token: EgoState.of(scene.surroundings) for scene in scenes}
    truth = {scene.surroundings.token: _known(scene.future) for scene in scenes}
    planners = [Planner(TRUTH, truth, uses_ego_status=False, uses_command=False)]
    for name, baseline in BASELINES.items():
        plans = {token: baseline(state) for token, state in states.items()}
        planners.append(Planner(name, plans, uses_ego_status=name != "standing still", uses_command=False))
    try:
        learnt_from = recorded_at_training(train.model_copy(update={"scenes": None}), train.cache)
        perceptron = EgoStatusPlanner(learnt_from, [item.command(train.command) for item in learnt_from], seed=seed)
    except ValueError as error:  # no such split here, or too few key frames
        return planners, [f"{PERCEPTRON}: absent ({error})"]
    source = train.command
    plans = {s.surroundings.token: perceptron.plan(s.surroundings, s.surroundings.command(source)) for s in scenes}
    return [*planners, Planner(PERCEPTRON, plans, uses_ego_status=True, uses_command=True)], []


def open_tables(data: DataConfig, split: str) -> NuScenesDrives:
    """A split read for its tables only: missing sensor files do not matter."""
    tables_only = data.model_copy(update={"missing": "absent_sensor"})
    return NuScenesDrives(data.root, data.version, split, config=tables_only, cache=data.cache)


def _known(future: Array) -> Array:
    """As far as the recording goes: eight waypoints or six."""
    return future if np.isfinite(future).all() else future[:6]


def score_planners(
    scenes: Sequence[PlanningScene], planners: Sequence[Planner], command_source: str, notes: Sequence[str] = ()
) -> PlanningResult:
    """Scores all planners on all scenes under every protocol.

    Raises:
        ValueError: a plan is missing, not finite or has another shape than (6, 3) or (8, 3).
    """
    scores = []
    for planner in planners:
        samples: dict[str, list[Score]] = {name: [] for name in PROTOCOLS}
        terms: list[PdmTerms | None] = []
        for scene in scenes:
            plan = _checked(planner, scene.surroundings.token)
            for name, protocol in PROTOCOLS.items():
                samples[name].append(protocol(plan, scene))
            terms.append(pdm(plan, scene))
        scores.append(PlannerScores(planner, samples, terms))
    has_map = any(scene.surroundings.drivable is not None for scene in scenes)
    absent = [] if has_map else ["map expansion: absent, so off-road rates and NAVSIM's terms are absent too"]
    return PlanningResult(scores, _groups(scenes, command_source), command_source, has_map, [*notes, *absent])


def _checked(planner: Planner, token: str) -> Array:
    if token not in planner.plans:
        raise ValueError(f"planner '{planner.name}': has no plan for sample {token}")
    plan = planner.plans[token]
    if plan.shape not in {(6, 3), (8, 3)} or not np.isfinite(plan).all():
        raise ValueError(
            f"planner '{planner.name}', sample {token}: a plan is (6, 3) or (8, 3) finite numbers (x, y, yaw every "
            f"0.5 s), this one is {plan.shape}{'' if np.isfinite(plan).all() else ' with NaN or infinity'}"
        )
    return plan


def _groups(scenes: Sequence[PlanningScene], source: str) -> dict[str, NDArray[np.bool_]]:
    found = [situations_of(scene) for scene in scenes]
    groups = {f"situation: {name}": np.array([name in here for here in found]) for name in SITUATIONS}
    commands = np.array([scene.surroundings.command(source) for scene in scenes])
    groups |= {f"command: {name}": commands == index for index, name in enumerate(COMMANDS)}
    groups["command: unknown"] = commands < 0
    return {name: mask for name, mask in groups.items() if mask.any()}
