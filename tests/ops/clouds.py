"""Clouds and grids the tests of the operations share, and where each implementation runs."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from fusionperc.geometry import BevGrid, VoxelGrid
from fusionperc.types import Points

PILLARS = BevGrid(-1.2, 1.2, -0.6, 0.9, -1.0, 2.0, 0.3)  # 8 x 5 cells
VOXELS = VoxelGrid(-1.2, 1.2, -0.6, 0.9, -1.0, 2.0, 0.3, 0.75)  # 8 x 5 x 4

IMPLEMENTATIONS = [
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="no numba")),
    pytest.param("triton", marks=pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="no Triton")),
]


def device_of(implementation: str) -> torch.device:
    """Triton is interpreted where there is no GPU."""
    return torch.device("cuda" if implementation == "triton" and torch.cuda.is_available() else "cpu")


def make_points(
    xyz: np.ndarray, sample: np.ndarray, batch_size: int, device: torch.device | str = "cpu", features: int = 1
) -> Points:
    """Feature c of point i is i + 1000 * c."""
    numbers = torch.arange(len(sample), dtype=torch.float32)[:, None] + 1000 * torch.arange(features)
    return Points(
        torch.from_numpy(xyz.astype(np.float32)).reshape(-1, 3),
        numbers,
        torch.from_numpy(sample.astype(np.int64)),
        batch_size,
    ).to(device)


def random_points(count: int, batch_size: int, seed: int, device: torch.device | str = "cpu") -> Points:
    """Some of them outside `PILLARS` and `VOXELS`."""
    rng = np.random.default_rng(seed)
    return make_points(rng.uniform(-1.3, 1.3, (count, 3)), rng.integers(0, batch_size, count), batch_size, device)
