"""Which implementation is chosen, and what is said where it cannot run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from fusionperc.ops import dispatch

CPU = torch.device("cpu")


def test_the_cpu_takes_numba_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_is_installed", lambda library: True)
    assert dispatch.choose("x", CPU, "auto", ("triton", "numba")) == "numba"
    assert dispatch.choose("x", CPU, "auto", ("triton",)) == "torch"
    assert dispatch.choose("x", torch.device("cuda"), "auto", ("triton", "numba")) == "triton"
    monkeypatch.setattr(dispatch, "_is_installed", lambda library: False)
    assert dispatch.choose("x", CPU, "auto", ("triton", "numba")) == "torch"
    with pytest.raises(ValueError, match="x: implementation='numba' cannot run on cpu: pip install numba"):
        dispatch.choose("x", CPU, "numba", ("triton", "numba"))


def test_what_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_is_installed", lambda library: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="cannot run on cpu: it runs on cuda"):
        dispatch.choose("x", CPU, "triton", ("triton",))
    with pytest.raises(ValueError, match="cannot run on cuda: it runs on cpu"):
        dispatch.choose("x", torch.device("cuda"), "numba", ("numba",))
    with pytest.raises(ValueError, match="there are torch, triton"):
        dispatch.choose("x", CPU, "numba", ("triton",))


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        for _ in range(3):
            dispatch.choose("logged_once", CPU, "auto", ())
    assert [record.message for record in caplog.records] == ["logged_once on cpu: torch"]


def test_operations_work_without_the_optional_libraries() -> None:
    """A fresh Python that cannot find numba or Triton."""
    program = (
        "import sys; sys.modules['numba'] = sys.modules['triton'] = None\n"
        "import torch\n"
        "from fusionperc.geometry import BevGrid\n"
        "from fusionperc.ops.voxelize import reduce_voxels, voxelize\n"
        "from fusionperc.types import Points\n"
        "points = Points(torch.zeros(3, 3), torch.ones(3, 1), torch.zeros(3, dtype=torch.int64), 1)\n"
        "voxels = voxelize(points, BevGrid(-1, 1, -1, 1, -1, 1, 1.0))\n"
        "assert reduce_voxels(points.features, voxels, 'sum', order='points').tolist() == [[3.0]]\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)
