"""Box parameters as a network predicts them, dense or per query."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fusionperc.types import ATTRIBUTES

#: Raw outputs per box: centre 3, log size 3, sin and cos 2, velocity 2, then the attributes.
NUM_RAW = 10 + len(ATTRIBUTES)
#: e^4 = 55 m: beyond any box, and far from overflow.
LOG_SIZE_LIMIT = 4.0


@dataclass(frozen=True)
class BoxParameters:
    """Boxes in the ego frame; any leading shape: (B, X, Y) for dense ones, (B, Q) for queries.

    Attributes:
        center_m: (..., 3) geometric centre.
        log_size: (..., 3) logarithms of length, width and height in metres, within +-`LOG_SIZE_LIMIT`.
        sin_cos: (..., 2) of the yaw, not normalised.
        velocity_mps: (..., 2) over ground, along ego axes.
        attribute_logits: (..., 8) over `types.ATTRIBUTES`.
    """

    center_m: Tensor
    log_size: Tensor
    sin_cos: Tensor
    velocity_mps: Tensor
    attribute_logits: Tensor

    @classmethod
    def from_raw(cls, raw: Float[Tensor, "*shape raw"], base: BoxParameters, length_m: float) -> BoxParameters:
        """Adds raw network outputs to `base`; those of the centre count in units of `length_m` (a cell)."""
        center, log_size, sin_cos, velocity, attributes = torch.split(
            raw.float(), [3, 3, 2, 2, len(ATTRIBUTES)], dim=-1
        )
        return cls(
            center_m=base.center_m + center * length_m,
            log_size=(base.log_size + log_size).clamp(-LOG_SIZE_LIMIT, LOG_SIZE_LIMIT),
            sin_cos=base.sin_cos + sin_cos,
            velocity_mps=base.velocity_mps + velocity,
            attribute_logits=base.attribute_logits + attributes,
        )

    def gather(self, cell: Int[Tensor, "batch queries"]) -> BoxParameters:
        """The boxes (B, Q) of dense ones (B, X, Y) at flat cell indices ix * Y + iy."""

        def pick(values: Tensor) -> Tensor:
            flat = values.flatten(1, 2)
            return flat.gather(1, cell[..., None].expand(-1, -1, flat.shape[-1]))

        return BoxParameters(*(pick(values) for values in self._tensors()))

    def detach(self) -> BoxParameters:
        return BoxParameters(*(values.detach() for values in self._tensors()))

    def __getitem__(self, index: int | Tensor | tuple[int | slice | Tensor, ...]) -> BoxParameters:
        """Indexes the leading dimensions."""
        return BoxParameters(*(values[index] for values in self._tensors()))

    @property
    def yaw_rad(self) -> Tensor:
        return torch.atan2(self.sin_cos[..., 0], self.sin_cos[..., 1])

    @property
    def size_lwh_m(self) -> Tensor:
        return self.log_size.exp()

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.center_m, self.log_size, self.sin_cos, self.velocity_mps, self.attribute_logits
