"""Nested records of tensors, compared bit for bit."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from fusionperc.measurements import UnlabelledBatch


def tensors_of(value: Any, name: str = "") -> dict[str, Any]:
    """All tensors and lists of a nested record, or of a list of records, by name."""
    if isinstance(value, list) and value and is_dataclass(value[0]):
        return {key: leaf for n, item in enumerate(value) for key, leaf in tensors_of(item, f"{name}[{n}]").items()}
    if not is_dataclass(value):
        return {name: value}
    return {
        key: leaf for f in fields(value) for key, leaf in tensors_of(getattr(value, f.name), f"{name}.{f.name}").items()
    }


def assert_same(first: UnlabelledBatch, second: UnlabelledBatch) -> None:
    """Bit for bit; NaN (no ray) is as good as NaN."""
    one, other = tensors_of(first), tensors_of(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, Tensor):
            assert value.dtype == other[name].dtype and value.shape == other[name].shape, name
            assert torch.equal(value.nan_to_num(nan=-1.0), other[name].nan_to_num(nan=-1.0)), name
        else:
            assert value == other[name], name
