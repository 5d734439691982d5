"""Where the tests of the operations run: on a GPU if there is one, else with Triton's interpreter."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Read when the kernels' modules are first imported; the tools never take Triton on a CPU by themselves.
    os.environ["TRITON_INTERPRET"] = "1"
