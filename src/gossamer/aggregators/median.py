"""The coordinate-wise median."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import CoordinateRule
from gossamer.columns import median

if TYPE_CHECKING:
    from torch import Tensor


class Median(CoordinateRule):
    """Coordinate-wise median (mean of the two middle values for an even number); breakdown point 1/2.

    Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import Median
        >>> Median()(np.array([[1.0, 2.0], [3.0, 4.0], [1e9, -1e9]]))
        array([3., 2.])
    """

    source: ClassVar[str] = "Yin et al. 2018, Definition 1"

    kind: Literal["median"] = "median"

    def on_columns(self, block_NC: Tensor, f: int) -> Tensor:
        return median(block_NC)
