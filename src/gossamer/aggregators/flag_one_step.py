"""The Flag aggregator as its published code computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators.flag import Directions, OnSubspace

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class FlagOneStep(OnSubspace):
    """What the reference code of Flag computes: a truncated SVD of directions, for comparison.

    One step with equal weights finds the m main directions of the unit vectors x_i = g_i / |g_i|; the result is
    sum_i Y Y'x_i / m. So its length does not depend on that of the updates: p equal ones of any length give p / m times
    their direction. On a graph the g_i are differences from the receiver's own. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import FlagOneStep
        >>> FlagOneStep(components=2)(np.array([[4.0, 0.0], [6.0, 0.0], [8.0, 0.0]]))
        array([1.5, 0. ])
    """

    proven: ClassVar[bool] = False
    source: ClassVar[str] = "Almasi, Mishra, Vamanan and Ravi 2024, reference code"

    kind: Literal["flag_one_step"] = "flag_one_step"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        directions = Directions.of(gram, own)
        dimensions = directions.dimensions(self.components)
        basis_RM = directions.main(dimensions)
        return directions.combination(basis_RM @ (basis_RM.T @ directions.units_RQ.sum(1)) / dimensions)
