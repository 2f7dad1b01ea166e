"""Multi-Krum: the mean of the updates with the best Krum scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import GramRule, Tolerant
from gossamer.aggregators.krum import scores

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class MultiKrum(Tolerant, GramRule):
    """Mean of the m updates with the least sums of squared distances to their n - f - 2 nearest others.

    m = 1 is Krum; with f = 0 and m left out it is the mean. Needs n >= 2f + 3; ties go to the first. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import MultiKrum
        >>> MultiKrum(f=1)(np.array([[1.0, 1.0], [1.1, 1.0], [0.9, 1.0], [1.0, 1.4], [9.0, 9.0]]))
        array([1. , 1.1])
    """

    source: ClassVar[str] = "Blanchard, El Mhamdi, Guerraoui and Stainer 2017, Section 6"

    kind: Literal["multi_krum"] = "multi_krum"
    m: int | None = Field(
        default=None, ge=1, description="updates averaged, no more than there are; default: all but f of them"
    )

    def tolerates(self, n: int) -> int:
        return (n - 3) // 2

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        n = len(gram)
        m = min(self.m or max(1, n - f), n)
        best_M = scores(gram.squares, f).argsort(stable=True)[:m]
        return weights_N.new_zeros(n).index_fill_(0, best_M, 1 / m)
