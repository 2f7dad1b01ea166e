"""The coordinate-wise trimmed mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import CoordinateRule, Tolerant
from gossamer.columns import order

if TYPE_CHECKING:
    from torch import Tensor


class TrimmedMean(Tolerant, CoordinateRule):
    """Coordinate-wise mean without the f smallest and the f largest values.

    Needs n >= 2f + 1. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import TrimmedMean
        >>> TrimmedMean(f=1)(np.array([[1.0], [2.0], [3.0], [1e9]]))
        array([2.5])
    """

    source: ClassVar[str] = "Yin et al. 2018, Definition 2"

    kind: Literal["trimmed_mean"] = "trimmed_mean"

    def on_columns(self, block_NC: Tensor, f: int) -> Tensor:
        n = len(block_NC)
        kept = order(block_NC, f, n - f, sort=False) if f else list(block_NC.unbind(0))
        total = kept[0]
        for row in kept[1:]:
            total = total.add_(row)
        return total.div_(len(kept))
