"""What a result was made with."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

_PACKAGES = ("fusionperc", "torch", "torchvision", "lightning", "numpy", "nuscenes-devkit", "triton")


def versions() -> dict[str, str]:
    """Versions of python, of the packages that numbers depend on, and of CUDA ('none' without a GPU)."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["cuda"] = str(torch.version.cuda) if torch.cuda.is_available() else "none"
    return found
