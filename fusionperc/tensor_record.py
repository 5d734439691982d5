"""What all records of tensors can do: move as one, and refuse tensors of another shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Self, cast

import torch
from torch import Tensor


def check_shape(
    owner: object, name: str, value: Tensor, shape: tuple[int | None, ...], *, floating: bool | None
) -> None:
    """Raises `ValueError` where a field has another shape (None: any size) or kind of number than it must have."""
    label = f"{type(owner).__name__}.{name}"
    fits = value.ndim == len(shape) and all(w is None or w == h for w, h in zip(shape, value.shape, strict=True))
    if not fits:
        want = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{label} has shape {tuple(value.shape)}, expected ({want})")
    if floating is not None and value.dtype.is_floating_point != floating:
        raise ValueError(f"{label} has dtype {value.dtype}, expected {'a float' if floating else 'an integer or bool'}")


class TensorRecord:
    """Moves every tensor of a frozen dataclass at once (also through nested records and lists)."""

    @classmethod
    def joined(cls, items: Sequence[Self]) -> Self:
        """One record of several, one behind the other; of a class whose fields are all tensors."""
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: torch.cat([getattr(item, name) for item in items]) for name in names})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return cast(Self, _moved(self, lambda tensor: tensor.to(device, non_blocking=non_blocking)))

    def pin_memory(self) -> Self:
        return cast(Self, _moved(self, lambda tensor: tensor.pin_memory()))


def _moved(value: Any, move: Any) -> Any:
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, TensorRecord):
        changes = {f.name: _moved(getattr(value, f.name), move) for f in fields(value)}  # type: ignore[arg-type]
        return replace(value, **changes)  # type: ignore[type-var]
    if isinstance(value, list):
        return [_moved(item, move) for item in value]
    return value
