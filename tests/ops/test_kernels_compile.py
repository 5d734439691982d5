"""Every Triton kernel compiles to machine code for the GPUs in use, on a machine that has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = {
    "backward_kernel",
    "count_kernel",
    "keys_kernel",
    "pad_kernel",
    "rows_kernel",
    "segment_max_kernel",
    "segment_sum_kernel",
}


@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_kernels_compile(architecture: int, tmp_path: Path) -> None:
    """A100, H100 and H200, Blackwell's workstation cards."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)  # nothing that was compiled before
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, str(script), str(architecture)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    built = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _, _ in built} == KERNELS
    assert all(int(size) > 500 for _, _, size in built)


def test_every_kernel_is_compiled_here() -> None:
    import fusionperc.ops

    sources = Path(fusionperc.ops.__file__).parent.glob("*_triton.py")
    defined = {
        line.removeprefix("def ").split("(")[0]
        for source in sources
        for line in source.read_text().splitlines()
        if line.startswith("def ") and "_kernel(" in line
    }
    assert defined == KERNELS
