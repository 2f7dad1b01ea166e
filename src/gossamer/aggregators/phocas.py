"""Phocas: the mean around the trimmed mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import CoordinateRule, Tolerant
from gossamer.aggregators.meamed import mean_of_closest
from gossamer.columns import order

if TYPE_CHECKING:
    from torch import Tensor


class Phocas(Tolerant, CoordinateRule):
    """Coordinate-wise mean of the n - f values closest to the trimmed mean.

    Of two values that are equally far from it the smaller one is taken. Needs n >= 2f + 1. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import Phocas
        >>> Phocas(f=1)(np.array([[1.0], [2.0], [3.0], [7.0], [1e9]]))
        array([3.25])
    """

    source: ClassVar[str] = "Xie, Koyejo and Gupta 2018 (Phocas: dimensional Byzantine-resilient SGD)"

    kind: Literal["phocas"] = "phocas"

    def on_columns(self, block_NC: Tensor, f: int) -> Tensor:
        n = len(block_NC)
        rows = order(block_NC)
        centre_C = rows[f].clone()
        for row_C in rows[f + 1 : n - f]:
            centre_C += row_C
        return mean_of_closest(rows, centre_C.div_(n - 2 * f), f)
