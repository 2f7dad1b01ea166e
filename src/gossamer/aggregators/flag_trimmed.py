"""Flag against colluders: a trimmed mean along the main directions of the updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Tolerant
from gossamer.aggregators.flag import Directions, OnSubspace

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class FlagTrimmed(Tolerant, OnSubspace):
    """Trimmed mean of the updates' coordinates along the main directions of their unit vectors, at the median length.

    The subspace is that of Flag's first step, with equal weights: the m main directions of the unit vectors. Flag takes
    the mean there, which colluders shift by their share, and the iterations that follow turn the subspace their way,
    as it is they who are explained best. But they have something in common that others lack, so along one of the main
    directions they are outliers: in each the f smallest and the f largest coordinates are left out. On a graph all this
    is about differences from the receiver's own. Needs n >= 2f + 1. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import FlagTrimmed
        >>> updates = np.array([[3.0, 0.1], [3.0, 0.0], [3.0, -0.1], [0.0, 1e9]])
        >>> FlagTrimmed(f=1)(updates).round(1) + 0.0
        array([3., 0.])
    """

    source: ClassVar[str] = "ours; the subspace is that of Almasi, Mishra, Vamanan and Ravi 2024"

    kind: Literal["flag_trimmed"] = "flag_trimmed"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        directions = Directions.of(gram, own)
        basis_RM = directions.main(directions.dimensions(self.components))
        centre_M = trimmed(directions.coordinates(basis_RM), f)
        return directions.combination(basis_RM @ centre_M * directions.median)


def trimmed(coordinates_PM: Tensor, f: int) -> Tensor:
    """The mean [M] of every column without its f smallest and its f largest values."""
    return coordinates_PM.sort(0).values[f : len(coordinates_PM) - f].mean(0)
