"""BALANCE: neighbours count if they are close enough to the own model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PrivateAttr

from gossamer.aggregators import GramRule
from gossamer.errors import AggregationError

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from gossamer.gram import Gram


class BALANCE(GramRule):
    """alpha x_own + (1 - alpha) times the mean of the neighbours accepted as similar to the own model.

        accepted: ||x_own - x_j|| <= gamma exp(-kappa t / T) ||x_own||,   t of T rounds done

    Where none is accepted the own model stays. Neighbours are judged one by one, so any number of them may be hostile:
    together they move the own model by (1 - alpha) gamma ||x_own|| at most. Outside a run t = 0. For models on graphs.
    Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import BALANCE
        >>> BALANCE(gamma=0.3, alpha=0.5)(np.array([[11.0], [9.5], [90.0]]), own=np.array([10.0]))
        array([10.125])
    """

    source: ClassVar[str] = "Fang, Zhang, Hairi, Khanduri, Liu, Lu, Liu and Gong 2024 (arXiv 2406.10416)"
    graph_only: ClassVar[bool] = True

    kind: Literal["balance"] = "balance"
    gamma: float = Field(default=0.3, gt=0, description="largest relative distance accepted in the first round")
    kappa: float = Field(default=1.0, ge=0, description="how fast that distance shrinks: by exp(-kappa) over the run")
    alpha: float = Field(default=0.5, ge=0, le=1, description="weight of the own model")
    _progress: float = PrivateAttr(default=0.0)

    def at(self, round: int, rounds: int) -> Self:
        """The rule with the threshold of a round, counted from 0."""
        rule = super().at(round, rounds).model_copy()
        rule._progress = round / rounds
        return rule

    def tolerates(self, n: int) -> int:
        return n - 1

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        if own is None:
            raise AggregationError(
                "balance needs the receiver's own update, finite and not in a bucket with others: use it on a graph, "
                "or give own"
            )
        reach = self.gamma * math.exp(-self.kappa * self._progress) * gram.norms[own]
        accepted_N = (gram.squares[own].sqrt() <= reach).to(weights_N)
        accepted_N[own] = 0.0
        coefficients_N = accepted_N * ((1 - self.alpha) / accepted_N.sum().clamp(min=1.0))
        coefficients_N[own] = 1 - coefficients_N.sum()
        return coefficients_N
