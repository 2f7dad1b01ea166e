"""Averaging what low-rank changes do, not their factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Aggregator
from gossamer.aggregators.mean import Mean
from gossamer.errors import AggregationError
from gossamer.lowrank import with_products

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class ProductMean(Aggregator):
    """Weighted mean of the products B_k A_k of low-rank factors, in the best approximation that a row has room for.

        B A  <-  the best approximation of rank r of  sum_k w_k B_k A_k,     everything else: the weighted mean

    Neighbours of different rank can be averaged so: the first k ranks of the result are the best approximation of rank
    k, which is what a node of rank k takes of it. What is discarded are the smallest singular values; where nodes agree
    on r directions nothing is. Ranks that the mean has no use for are free to learn: B = 0, and A is the receiver's own
    (in an all-reduce the mean). The factors are new ones each time, so momentum of old ones means nothing: with 'dsgd'
    use keep_optimizer = false.

    Only whole rows have products: not the changes or gradients that some methods send. Where a field is no row, or
    there is no layout, it is the mean. Raises AggregationError where an update holds NaN or infinity, or a model has no
    low-rank factors.
    """

    source: ClassVar[str] = "Bai et al. 2024 (FlexLoRA), Eq. 3, at every node of a graph (ours)"
    whole: ClassVar[bool] = True

    kind: Literal["product_mean"] = "product_mean"

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        mean_D = Mean().aggregate(updates_ND, weights_N)
        if layout is None or updates_ND.shape[1] != layout.size:
            return mean_D
        if not layout.factors:
            raise AggregationError(
                "aggregator.kind = 'product_mean' multiplies the factors of low-rank changes, of which the rows have "
                "none; use parametrisation = 'lora' with train = 'both', or aggregator = 'mean'"
            )
        spare_D = mean_D if own_D is None else own_D
        return with_products(mean_D, updates_ND, weights_N / weights_N.sum(), layout, spare_D)
