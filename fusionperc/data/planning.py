"""What planning needs of a sample beside detection: what the ego is told, agents' futures, the drivable area.

All of it goes through the sample's augmentation: places and headings through its matrix, the command and the turning
parts of the ego's status change sides in a mirrored world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fusionperc.data.augment import Augmentation, moved_odometry, moved_trajectory
from fusionperc.data.maps import distance_to_area, moved
from fusionperc.data.sample import FUTURE_TIMES_S, Sample, Surroundings
from fusionperc.geometry import BevGrid
from fusionperc.types import Batch, EgoInputs, Odometry, PlanningTargets, Sensor


def with_planning(
    batch: Batch,
    sample: Sample,
    surroundings: Surroundings,
    odometry: Mapping[Sensor, Odometry],
    augmentation: Augmentation,
    grid: BevGrid,
) -> Batch:
    """The batch of one sample with `ego`, odometry in `inputs`, and `targets.planning`.

    Args:
        batch: the augmented sample: its command and CAN bus values are taken as they are.
        sample, surroundings, odometry: the same key frame, not augmented; odometry of the sensors that are there.
        augmentation: of the batch.
        grid: of the drivable area.
    """
    matrix = augmentation.augmented_T_ego
    off_road = torch.full(grid.shape, float("nan"))
    if surroundings.drivable is not None:
        off_road = torch.from_numpy(distance_to_area(moved(surroundings.drivable, matrix.numpy()), grid))
    ahead = moved_trajectory(torch.zeros(1, 3), matrix)
    targets = batch.targets
    measured = {sensor: moved_odometry(own, augmentation) for sensor, own in odometry.items()}
    return replace(
        batch,
        inputs=replace(batch.inputs, radar_odometry=measured.get("radar"), lidar_odometry=measured.get("lidar")),
        targets=replace(
            targets,
            planning=PlanningTargets(
                agent_future_m=[moved_trajectory(_futures(sample, surroundings), matrix)], off_road_m=off_road[None]
            ),
        ),
        ego=EgoInputs(
            command=targets.command,
            heading_rad=ahead[:, 2],
            status=targets.can_bus,
            past_m=targets.ego_past_m,
            drivable=torch.where(off_road.isfinite(), (off_road == 0).float(), off_road)[None],
        ),
    )


def _futures(sample: Sample, surroundings: Surroundings) -> Tensor:
    """(n, 8, 3) of the sample's boxes, in its ego frame."""
    objects = surroundings.objects
    if len(sample.instance) == 0:
        return torch.zeros(0, len(FUTURE_TIMES_S), 3)
    # Tracks are sorted by instance and hold every object annotated now.
    return objects.pose_m[torch.searchsorted(objects.instance, sample.instance), 1:]


def collate_ego(items: Sequence[EgoInputs | None]) -> EgoInputs | None:
    """One record of several; None if a sample has none."""
    told = [item for item in items if item is not None]
    if len(told) < len(items):
        return None
    return EgoInputs.joined(told)


def collate_odometry(items: Sequence[Odometry | None]) -> Odometry | None:
    """One record of several, NaN for a sample that has none."""
    first = next((item for item in items if item is not None), None)
    if first is None:
        return None
    return Odometry.joined([Odometry.unknown(first.past_m) if item is None else item for item in items])


def collate_planning(items: Sequence[PlanningTargets | None]) -> PlanningTargets | None:
    """One record of several; None if a sample has none."""
    known = [item for item in items if item is not None]
    if len(known) < len(items):
        return None
    return PlanningTargets(
        agent_future_m=[future for item in known for future in item.agent_future_m],
        off_road_m=torch.cat([item.off_road_m for item in known]),
    )
