"""The mean of directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import GramRule
from gossamer.aggregators.flag import Directions

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class NormalisedMean(GramRule):
    """The mean of the updates' directions (unit vectors), times their median length.

    One update moves the result by at most its share of the median length, however long it is. An update of length zero
    has no direction: it counts in the mean and not in the median. On a graph the directions are those of the
    differences from the receiver's own. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import NormalisedMean
        >>> NormalisedMean()(np.array([[3.0, 0.0], [0.0, 3.0], [0.0, 1e9]]))
        array([1., 2.])
    """

    proven: ClassVar[bool] = False

    kind: Literal["normalised_mean"] = "normalised_mean"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        directions = Directions.of(gram, own)
        return directions.rescaled(directions.median / len(gram))
