"""FLTrust: updates are trusted as far as they agree with one that certainly is honest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import GramRule, place_of
from gossamer.errors import AggregationError

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram
    from gossamer.layout import Layout


class FLTrust(GramRule):
    """Mean of the updates at the length of a trusted one, weighted by their cosine to it where that is positive.

    The trusted update is the one that a server finds on root data of its own, or the receiver's own on a graph. It is
    not averaged itself; where no update has a positive cosine it is the result. Withstands any number of hostile
    updates. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import FLTrust
        >>> FLTrust()(np.array([[5.0, 0.0], [0.0, 1e9], [-1.0, 0.0]]), own=np.array([2.0, 0.0]))
        array([2., 0.])
    """

    source: ClassVar[str] = "Cao, Fang, Liu and Gong 2021, Algorithm 2"
    trusts: ClassVar[bool] = True

    kind: Literal["fltrust"] = "fltrust"

    def tolerates(self, n: int) -> int:
        return n

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        import torch

        if own_D is None:
            raise AggregationError(
                "fltrust needs an update it can trust: give the server root data of its own, or pass own="
            )
        if not own_D.isfinite().all():
            raise AggregationError("fltrust: the trusted update holds NaN or infinity")
        if place_of(own_D, updates_ND) is None:
            updates_ND = torch.cat([own_D[None], updates_ND])
            weights_N = torch.cat([weights_N.new_ones(1), weights_N])
        return super().aggregate(updates_ND, weights_N, own_D, layout)

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        if own is None:
            raise AggregationError("fltrust: 'before' leaves no update that can be trusted; use one that keeps each")
        lengths_N = gram.norms
        products_N = gram.products[own]
        positive_N = (products_N > 0) & (lengths_N > 0)
        positive_N[own] = False
        if not positive_N.any():
            alone_N = lengths_N.new_zeros(len(gram))
            alone_N[own] = 1.0
            return alone_N
        safe_N = lengths_N.where(positive_N, lengths_N.new_ones(()))
        # The length of the trusted update cancels from the ratio of cosines.
        trust_N = (products_N / safe_N).where(positive_N, products_N.new_zeros(()))
        return trust_N / trust_N.sum() * (lengths_N[own] / safe_N)
