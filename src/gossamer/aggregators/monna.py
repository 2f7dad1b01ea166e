"""MoNNA: the mean of the updates nearest to a trusted one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import GramRule, Tolerant, finite
from gossamer.aggregators.nna import nearest
from gossamer.errors import AggregationError

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram
    from gossamer.layout import Layout


class MoNNA(Tolerant, GramRule):
    """Mean of the n - f updates nearest to a trusted one, itself among them.

    The trusted one is the receiver's own where there is one, else that at the place `pivot`. (Momentum, the other half
    of the paper's algorithm, is the learner's affair.) Needs n >= 2f + 1; ties go to the first. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import MoNNA
        >>> MoNNA(f=1)(np.array([[1.0, 2.0], [4.0, 5.0], [7.0, 8.0]]))
        array([2.5, 3.5])
    """

    source: ClassVar[str] = "Farhadkhani, Guerraoui, Gupta, Hoang, Pinot and Stephan 2023, Algorithm 1"

    kind: Literal["monna"] = "monna"
    pivot: int = Field(default=0, ge=0, description="place of the trusted update, where the receiver has none itself")

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        """One update [D]; raises AggregationError where the trusted one is missing or not finite."""
        rule = self if own_D is not None else self.model_copy(update={"pivot": self._place(updates_ND)})
        return super(MoNNA, rule).aggregate(updates_ND, weights_N, own_D, layout)

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        if len(gram) != len(gram.kernel) - 1:
            raise AggregationError("monna finds no trusted update in buckets: leave 'bucketing' out of `before`")
        place = self.pivot if own is None else own
        return nearest(gram.squares[place], f, place)

    def _place(self, updates_ND: Tensor) -> int:
        """The place of the trusted update among the finite ones."""
        if self.pivot >= len(updates_ND):
            raise AggregationError(f"monna.pivot = {self.pivot}, but there are {len(updates_ND)} updates; count from 0")
        kept = finite(updates_ND[: self.pivot + 1])
        if self.pivot not in kept:
            raise AggregationError(f"monna.pivot = {self.pivot}: that update holds NaN or infinity; trust another one")
        return len(kept) - 1
