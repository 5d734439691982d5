"""Which car of the traffic becomes the ego: one of a drawn mean speed, with something to do and in company."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fusionperc.simulation.traffic.flows import RATE_HZ, Mover
from fusionperc.simulation.traffic.motion import passes_first
from fusionperc.simulation.traffic.network import Network

Array = NDArray[np.float64]
#: Mean speeds of drives, as usual in nuScenes: some stand at a light, a few are on open roads.
_MEAN_SPEEDS_MPS = (0.0, 0.0, 1.5, 4.5, 6.4, 7.0, 9.0, 11.0, 12.0, 13.0)
_COMPANY_M = 45.0
_SLOW_MPS = 4.0
_LOOKS_HZ = 2.5


def choose_ego(network: Network, movers: list[Mover], frames: int, rng: np.random.Generator) -> Mover:
    """A recording car that is there in all frames.

    Raises:
        RuntimeError: there is none; another drive seed has one.
    """
    candidates = [mover for mover in movers if mover.user.kind == "ego" and len(mover.front_m) == frames]
    if not candidates:
        raise RuntimeError("no recording car was on the road during the whole drive; take another drive seed")
    scene = _Scene(movers, frames)
    wanted_mps = float(rng.choice(_MEAN_SPEEDS_MPS))
    weights = []
    for mover in candidates:
        mean_mps = float(np.linalg.norm(np.diff(mover.front_m, axis=0), axis=1).mean()) * RATE_HZ
        events = 1.0 + 4.0 * min(_lane_changes(mover), 2) + 4.0 * min(scene.gives_way_s(mover, network), 2.0)
        company = 2.0 + min(scene.company(mover), 10)
        weights.append(np.exp(-1.2 * abs(mean_mps - wanted_mps)) * events * company)
    share = np.array(weights) / np.sum(weights)
    return candidates[int(rng.choice(len(candidates), p=share))]


def _lane_changes(mover: Mover) -> int:
    """How often it passes from a lane to another one of the same street."""
    names = [name.rpartition("_") for name in mover.lanes]
    return sum(a[0] == b[0] and a[2] != b[2] for a, b in pairwise(names) if not a[0].startswith(":"))


class _Scene:
    """Where everyone is, `_LOOKS_HZ` times a second; not a number while away."""

    def __init__(self, movers: list[Mover], frames: int) -> None:
        self._stride = round(RATE_HZ / _LOOKS_HZ)
        table = np.full((len(movers), frames, 3), np.nan)
        for row, mover in zip(table, movers, strict=True):
            row[mover.first : mover.first + len(mover.front_m)] = np.column_stack([mover.front_m, mover.heading_rad])
        self._pose = table[:, :: self._stride]
        self._drives = np.array([not mover.user.is_walker for mover in movers])

    def company(self, mover: Mover) -> int:
        """How many drive near a car in the middle of the drive."""
        middle = self._pose.shape[1] // 2
        distance = np.linalg.norm(self._pose[self._drives, middle, :2] - mover.front_m[middle * self._stride], axis=1)
        return int((distance < _COMPANY_M).sum())

    def gives_way_s(self, mover: Mover, network: Network) -> float:
        """For how long it goes slowly, not at a light, while others pass first."""
        own, yaw = mover.front_m[:: self._stride], mover.heading_rad[:: self._stride]
        near = np.nanmin(np.linalg.norm(self._pose[..., :2] - own, axis=2), axis=1) < _COMPANY_M
        others = self._pose[near]
        first = passes_first(own, yaw, others[..., :2], others[..., 2], 1 / _LOOKS_HZ).any(axis=0)
        slow = np.linalg.norm(np.gradient(own, axis=0), axis=1) * _LOOKS_HZ < _SLOW_MPS
        at_light = [name.rpartition("_")[0] in network.signalled for name in mover.lanes[:: self._stride]]
        return float((first & slow & ~np.array(at_light)).sum()) / _LOOKS_HZ
