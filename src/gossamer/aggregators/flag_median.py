"""Flag against colluders: a geometric median within the main directions of the updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators.flag import Directions, OnSubspace

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class FlagMedian(OnSubspace):
    """Geometric median of the updates' unit vectors within their main directions, at the median length.

    The subspace is that of Flag's first step, with equal weights. It removes what is in one update alone, mostly noise,
    which otherwise makes all updates equally far from each other and the geometric median a mean. Need not be told how
    many are hostile. On a graph all this is about differences from the receiver's own. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import FlagMedian
        >>> updates = np.array([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [0.0, 1e9]])
        >>> FlagMedian()(updates).round(3) + 0.0
        array([3., 0.])
    """

    proven: ClassVar[bool] = False
    source: ClassVar[str] = "ours; the subspace is that of Almasi, Mishra, Vamanan and Ravi 2024"

    kind: Literal["flag_median"] = "flag_median"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        directions = Directions.of(gram, own)
        basis_RM = directions.main(directions.dimensions(self.components))
        centre_M = geometric_median(directions.coordinates(basis_RM))
        return directions.combination(basis_RM @ centre_M * directions.median)


def geometric_median(points_PM: Tensor, smoothing: float = 1e-6, iterations: int = 1000) -> Tensor:
    """The point [M] with the least sum of distances to points in the unit ball, by Weiszfeld's iteration.

    Distances below `smoothing` count as that. It ends when the point moves by less than a thousandth of it.
    """
    centre_M = points_PM.mean(0)
    for _ in range(iterations):
        inverse_P = 1.0 / (points_PM - centre_M).square().sum(1).sqrt().clamp(min=smoothing)
        moved_M = inverse_P @ points_PM / inverse_P.sum()
        step = float((moved_M - centre_M).square().sum().sqrt())
        centre_M = moved_M
        if step <= 1e-3 * smoothing:
            break
    return centre_M
