"""Messages of bounded length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.passages import Form, Passage
    from gossamer.wire import Message

PART = 65_536
"""Numbers widened to float64 at a time, so that they stay in the cache."""


class Clip(Transform):
    """Shorten a message to a Euclidean norm of at most c: x min(1, c / ||x||), all its fields together.

    Never longer, whatever rounding does. Integers and single numbers (a weight, a mass) neither count nor change. A
    message with NaN or infinity goes on as it is, for its receiver to refuse.
    """

    source: ClassVar[str] = "Pascanu et al. 2013, Algorithm 1; Abadi et al. 2016, Algorithm 1 (of what one sender adds)"
    needs: ClassVar[Form] = "whole"
    for_changes: ClassVar[bool] = True
    leaves: ClassVar[Form] = "whole"
    binding: ClassVar[bool] = False

    kind: Literal["clip"] = "clip"
    norm: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="c, largest norm, in the messages' own unit"
    )

    @property
    def masks(self) -> bool:
        return True

    def outline(self, like: Message, layout: Layout) -> Message:
        return dict(like)

    def forward(self, message: Message, passage: Passage) -> Message:
        import torch

        fields = {name: value for name, value in message.items() if numbers(value)}
        shortened = fields
        times = longer = _times(fields.values(), self.norm)
        # Factor and products are rounded, by half an epsilon each where they are no denormal numbers.
        margin = max([2.0**-40, *(2 * torch.finfo(value.dtype).eps for value in fields.values())])
        while longer > 1:
            factor = (1 - margin) / times
            shortened = {name: value * factor for name, value in fields.items()}
            longer, margin = _times(shortened.values(), self.norm), min(1.0, 4 * margin)
        return {**message, **shortened}

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        return message


def _times(values: Collection[Tensor], norm: float) -> float:
    """The Euclidean norm of all numbers together, divided by `norm`; NaN where one is NaN or infinite."""
    import torch

    peaks = [abs(float(extreme)) for value in values for extreme in torch.aminmax(value)]
    if not all(map(math.isfinite, peaks)):
        return math.nan
    # In a unit near the largest number, as squares of 1e200 or 1e-200 would be infinite or 0.
    unit = math.ldexp(0.5, math.frexp(max(peaks, default=0.0))[1])

    def length(value: Tensor) -> float:
        if value.dtype == torch.float64:
            return float(torch.linalg.vector_norm(value / unit))
        # Squares of the other types are within the range of float64.
        parts = torch.split(value.reshape(-1), PART)
        return math.hypot(*(float(torch.linalg.vector_norm(part.double())) for part in parts)) / unit

    return math.hypot(*map(length, values)) * (unit / norm)
