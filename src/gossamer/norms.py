"""Euclidean norms of messages, and how to keep them below a bound whatever rounding does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

PART = 65_536
"""Numbers widened to float64 at a time, so that they stay in the cache."""


def shortened(fields: dict[str, Tensor], norm: float) -> dict[str, Tensor]:
    """Tensors scaled down, all by the same factor, to a Euclidean norm of at most `norm` together: x min(1, c / ||x||).

    Never longer, whatever rounding does. Where one holds NaN or infinity they are as they were.
    """
    import torch

    given = fields
    times = longer = in_norms(fields.values(), norm)
    # Factor and products are rounded, by half an epsilon each where they are no denormal numbers.
    margin = max([2.0**-40, *(2 * torch.finfo(value.dtype).eps for value in fields.values())])
    while longer > 1:
        factor = (1 - margin) / times
        fields = {name: value * factor for name, value in given.items()}
        longer, margin = in_norms(fields.values(), norm), min(1.0, 4 * margin)
    return fields


def in_norms(values: Collection[Tensor], norm: float) -> float:
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
