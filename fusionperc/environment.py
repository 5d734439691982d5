"""What a result was made with, and what the device can do."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

_PACKAGES = ("fusionperc", "torch", "torchvision", "lightning", "numpy", "nuscenes-devkit", "triton")


def trains_in_bf16(precision: str, device_type: str) -> bool:
    """Whether a run of this `train.precision` computes in bf16 on 'cpu' or 'cuda'.

    Processors without AVX-512 (or Arm's bf16) only imitate it, several times slower than fp32.
    """
    if precision != "auto":
        return precision == "bf16"
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
