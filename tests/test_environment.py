"""What a device computes in."""

from __future__ import annotations

import platform

import pytest
import torch

from fusionperc.environment import trains_in_bf16


@pytest.mark.parametrize(("precision", "expected"), [("fp32", False), ("bf16", True)])
def test_a_stated_precision_is_taken(precision: str, expected: bool) -> None:
    assert trains_in_bf16(precision, "cpu") is expected


@pytest.mark.skipif(platform.machine() != "x86_64", reason="says nothing of other processors")
def test_auto_takes_bf16_where_the_processor_has_avx_512() -> None:
    assert trains_in_bf16("auto", "cpu") == torch.backends.cpu.get_cpu_capability().startswith("AVX512")
