"""The weighted mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Aggregator
from gossamer.errors import AggregationError

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class Mean(Aggregator):
    """Weighted mean: sum_i w_i x_i / sum_i w_i. One liar moves it anywhere (breakdown point 0).

    Raises AggregationError where an update holds NaN or infinity.

        >>> import numpy as np
        >>> from gossamer.aggregators import Mean
        >>> Mean()(np.array([[1.0, 2.0], [4.0, 8.0]]), weights=[2, 1])
        array([2., 4.])
    """

    source: ClassVar[str] = "McMahan et al. 2017, Algorithm 1"
    linear: ClassVar[bool] = True

    kind: Literal["mean"] = "mean"

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        mean_D = (weights_N / weights_N.sum()).to(updates_ND.dtype) @ updates_ND
        # One sum tells of NaN and infinity anywhere, ten times as fast as looking at each number.
        if not mean_D.sum().isfinite():
            finite_N = updates_ND.isfinite().all(1).tolist()
            if False in finite_N:
                raise AggregationError(
                    f"update {finite_N.index(False)} of {len(finite_N)} (counted from 0) holds NaN or infinity, which "
                    "no mean withstands; a robust rule such as 'median' drops it"
                )
        return mean_D
