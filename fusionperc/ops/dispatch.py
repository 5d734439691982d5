"""Which implementation of an operation runs: chosen by device, logged once, or forced by the caller.

Every operation has a reference in stock torch that runs everywhere. Beside it there may be numba (CPU) and Triton (GPU)
versions with the same results; each is used where its library is installed.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import Literal

import torch

log = logging.getLogger(__name__)

#: 'auto' takes the fastest that can run: Triton on a GPU, numba on a CPU, else torch.
Implementation = Literal["auto", "torch", "numba", "triton"]

#: The kind of device each implementation is made for; torch runs on any.
_HOME = {"numba": "cpu", "triton": "cuda"}


def choose(
    operation: str, device: torch.device, implementation: Implementation, offered: tuple[Implementation, ...]
) -> Implementation:
    """The implementation that will run, never 'auto'.

    Args:
        operation: its name, for messages.
        device: where the tensors are.
        implementation: what the caller asks for.
        offered: what the operation has beside 'torch', in order of preference.

    Raises:
        ValueError: the implementation asked for does not exist for the operation, or cannot run here.
    """
    if implementation == "auto":
        chosen = available(device, offered)[0]
        _log_once(operation, device.type, chosen)
        return chosen
    if implementation == "torch":
        return implementation
    if implementation not in offered:
        obstacle = f"there are {', '.join(('torch', *offered))}"
    elif not _is_installed(implementation):
        obstacle = f"pip install {implementation}"
    elif implementation == "triton" and triton_is_interpreted():
        return implementation
    elif device.type != _HOME[implementation]:
        obstacle = f"it runs on {_HOME[implementation]}"
    else:
        return implementation
    raise ValueError(f"{operation}: implementation='{implementation}' cannot run on {device}: {obstacle}")


def available(device: torch.device, offered: tuple[Implementation, ...]) -> list[Implementation]:
    """Those of `offered` that are made for the device and installed, then 'torch'."""
    return [name for name in offered if device.type == _HOME[name] and _is_installed(name)] + ["torch"]


def triton_is_interpreted() -> bool:
    """Whether Triton kernels run on the CPU, one program after another (a slow way to test them)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


@functools.cache
def _log_once(operation: str, device_type: str, chosen: str) -> None:
    log.info("%s on %s: %s", operation, device_type, chosen)
