"""Small scenes made by hand: where the ego went, who else was there, where one may drive."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from shapely.geometry.base import BaseGeometry

from fusionperc.data.sample import FUTURE_TIMES_S, ObjectTracks, Surroundings
from fusionperc.evaluation.planning_scene import PlanningScene
from fusionperc.types import CLASSES

TIMES = np.array((0.0, *FUTURE_TIMES_S))


def straight(speed_mps: float) -> np.ndarray:
    """(8, 3) straight ahead."""
    return np.stack([speed_mps * TIMES[1:], np.zeros(8), np.zeros(8)], 1)


def agent(
    x: Any, y: Any, yaw: float = 0.0, *, kind: str = "car", size: tuple[float, float] = (4.0, 2.0), visibility: int = 4
) -> dict[str, Any]:
    """An object at x, y (numbers, or nine of them)."""
    pose = np.stack([np.broadcast_to(x, 9), np.broadcast_to(y, 9), np.full(9, yaw)], 1).astype(float)
    return {"pose": pose, "kind": kind, "size": size, "visibility": visibility}


def scene(
    future: np.ndarray, *agents: dict[str, Any], drivable: BaseGeometry | None = None, speed_mps: float | None = None
) -> PlanningScene:
    """A scene in which the ego goes along `future` (8, 3)."""
    count = len(agents)
    known = float(np.linalg.norm(future[0, :2]) / 0.5) if speed_mps is None else speed_mps
    past = np.stack([np.array([-2.0, -1.5, -1.0, -0.5]) * known, np.zeros(4), np.zeros(4)], 1)
    pose = np.stack([a["pose"] for a in agents]) if count else np.zeros((0, 9, 3))
    visibility = torch.tensor([[a["visibility"]] * 9 for a in agents], dtype=torch.int64).reshape(count, 9)
    return PlanningScene(
        Surroundings(
            token="sample",
            scene="scene",
            num_past=2,
            num_future=8,
            ego_past_m=torch.from_numpy(past).float(),
            ego_future_m=torch.from_numpy(future).float(),
            can_bus=torch.tensor([known, 0.0, 0.0, 0.0]),
            ego_path_m=torch.from_numpy(np.concatenate([np.zeros((1, 3)), future])).float(),
            route_command=2,
            endpoint_command=2,
            objects=ObjectTracks(
                instance=torch.arange(count),
                class_index=torch.tensor([CLASSES.index(a["kind"]) for a in agents], dtype=torch.int64),
                size_lwh_m=torch.tensor([[*a["size"], 1.5] for a in agents]).reshape(count, 3),
                pose_m=torch.from_numpy(pose).float(),
                visibility=visibility,
            ),
            is_labelled=True,
            drivable=drivable,
        )
    )


def turned(plan: np.ndarray, yaw: float) -> np.ndarray:
    """The plan with another heading everywhere."""
    return np.concatenate([plan[:, :2], np.full((len(plan), 1), yaw)], 1)


QUARTER = math.pi / 4
