"""MeaMed: the mean around the median."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import CoordinateRule, Tolerant
from gossamer.columns import order

if TYPE_CHECKING:
    from torch import Tensor


class MeaMed(Tolerant, CoordinateRule):
    """Coordinate-wise mean of the n - f values closest to the median.

    For an even number of updates the median is the mean of the two middle values. Of two values that are equally far
    from it the smaller one is taken. Needs n >= 2f + 1. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import MeaMed
        >>> MeaMed(f=1)(np.array([[1.0], [2.0], [2.5], [4.5], [1e9]]))
        array([2.5])
    """

    source: ClassVar[str] = "Xie, Koyejo and Gupta 2018 (generalized Byzantine-tolerant SGD), 'mean around median'"

    kind: Literal["meamed"] = "meamed"

    def on_columns(self, block_NC: Tensor, f: int) -> Tensor:
        n = len(block_NC)
        rows = order(block_NC)
        middle_C = rows[n // 2] if n % 2 else (rows[n // 2 - 1] + rows[n // 2]) / 2
        return mean_of_closest(rows, middle_C, f)


def mean_of_closest(rows: list[Tensor], centre_C: Tensor, f: int) -> Tensor:
    """The mean [C] of the n - f values of each column that are closest to its centre; of equally far ones the smaller.

    `rows` are in ascending order and lie within the reach of the centre: n >= 2f + 1. In sorted order the closest are
    neighbours, a window of n - f places that begins at one of the first f + 1. All windows share the middle, and of
    the places j and n - f + j each holds one: the closer. So nothing is subtracted from a sum, and a huge value that
    is left out leaves no trace.
    """
    import torch

    n = len(rows)
    total_C = rows[f].clone()
    for row_C in rows[f + 1 : n - f]:
        total_C += row_C
    for low_C, high_C in zip(rows[:f], rows[n - f :], strict=True):
        total_C += torch.where(high_C - centre_C < centre_C - low_C, high_C, low_C)
    return total_C.div_(n - f)
