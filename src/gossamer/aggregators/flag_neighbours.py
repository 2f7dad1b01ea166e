"""Flag against colluders: nearest-neighbour mixing and a trimmed mean within the main directions of the updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Tolerant
from gossamer.aggregators.flag import Directions, OnSubspace
from gossamer.aggregators.flag_trimmed import trimmed

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class FlagNeighbours(Tolerant, OnSubspace):
    """FlagTrimmed with each direction replaced by the mean of its n - f nearest within the subspace.

    What tells honest updates apart, noise above all, is removed before distances are measured, so that the nearest are
    honest more often than among the updates themselves. Keeps more of honest updates than FlagTrimmed does while
    hostile ones are few, and less when they are almost half. Needs n >= 2f + 1. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import FlagNeighbours
        >>> updates = np.array([[3.0, 0.1], [3.0, 0.0], [3.0, -0.1], [0.0, 1e9]])
        >>> FlagNeighbours(f=1)(updates).round(1) + 0.0
        array([3., 0.])
    """

    source: ClassVar[str] = "ours; mixing as in Allouah et al. 2023, subspace as in Almasi et al. 2024"

    kind: Literal["flag_neighbours"] = "flag_neighbours"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        directions = Directions.of(gram, own)
        basis_RM = directions.main(directions.dimensions(self.components))
        coordinates_PM = directions.coordinates(basis_RM)
        squares_PP = (coordinates_PM[:, None] - coordinates_PM).square().sum(2)
        nearest_PK = squares_PP.sort(dim=1, stable=True).indices[:, : len(gram) - f]
        centre_M = trimmed(coordinates_PM[nearest_PK].mean(1), f)
        return directions.combination(basis_RM @ centre_M * directions.median)
