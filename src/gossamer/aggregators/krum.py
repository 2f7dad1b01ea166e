"""Krum: the update that lies closest to its nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import GramRule, Tolerant

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class Krum(Tolerant, GramRule):
    """The one update with the least sum of squared distances to its n - f - 2 nearest others.

    Needs n >= 2f + 3; ties go to the first. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import Krum
        >>> Krum(f=1)(np.array([[1.0, 1.0], [1.1, 1.0], [0.9, 1.0], [1.0, 1.1], [9.0, 9.0]]))
        array([1., 1.])
    """

    source: ClassVar[str] = "Blanchard, El Mhamdi, Guerraoui and Stainer 2017, Section 4"

    kind: Literal["krum"] = "krum"

    def tolerates(self, n: int) -> int:
        return (n - 3) // 2

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        chosen_N = weights_N.new_zeros(len(gram))
        chosen_N[scores(gram.squares, f).argmin()] = 1.0
        return chosen_N


def scores(squares_NN: Tensor, f: int) -> Tensor:
    """Of each update [N]: the sum of squared distances to its n - f - 2 nearest others."""
    nearest = squares_NN.sort(1).values
    # The first is the distance to itself, zero.
    return nearest[:, 1 : max(2, len(squares_NN) - f - 1)].sum(1)
