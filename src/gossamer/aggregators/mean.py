"""The weighted mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Aggregator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class Mean(Aggregator):
    """Weighted mean: sum_i w_i x_i / sum_i w_i. One liar moves it anywhere (breakdown point 0)."""

    source: ClassVar[str] = "McMahan et al. 2017, Algorithm 1"
    linear: ClassVar[bool] = True

    kind: Literal["mean"] = "mean"

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        weights_N = weights_N.to(updates_ND.dtype)
        return (weights_N @ updates_ND) / weights_N.sum()
