"""FLTrust: updates are trusted as far as they agree with one that certainly is honest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Robust, finite, own_place
from gossamer.columns import COLUMNS
from gossamer.errors import AggregationError
from gossamer.gram import Gram, combined

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class FLTrust(Robust):
    """Mean of the updates at the length of a trusted one, weighted by their cosine to it where that is positive.

    The trusted update is the one that a server finds on root data of its own, or the receiver's own on a graph. It is
    not averaged itself, nor put through `before`; where no update has a positive cosine it is the result. Withstands
    any number of hostile updates. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import FLTrust
        >>> FLTrust()(np.array([[5.0, 0.0], [0.0, 1e9], [-1.0, 0.0]]), own=np.array([2.0, 0.0]))
        array([2., 0.])
    """

    source: ClassVar[str] = "Cao, Fang, Liu and Gong 2021, Algorithm 2"
    trusts: ClassVar[bool] = True

    kind: Literal["fltrust"] = "fltrust"

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        if own_D is None:
            raise AggregationError(
                "fltrust needs an update it can trust: give the server root data of its own, or pass own="
            )
        if not own_D.isfinite().all():
            raise AggregationError("fltrust: the trusted update holds NaN or infinity")
        kept, place = finite(updates_ND), own_place(own_D, updates_ND)
        kept = kept if place is None else kept[kept != place]
        rows_ND = updates_ND if len(kept) == len(updates_ND) else updates_ND[kept]
        map_PN = None
        if self.before and len(rows_ND):
            map_PN = self.prepared(Gram.of(rows_ND), self.hostile(len(rows_ND)), None).map_PN
        products_P, lengths_P, length = _against(rows_ND, own_D, map_PN)
        agreeing_P = (products_P > 0) & (lengths_P > 0)
        if not agreeing_P.any():
            return own_D.clone()
        trust_P = (products_P / lengths_P).where(agreeing_P, 0.0)
        coefficients_P = (trust_P / trust_P.sum() * (length / lengths_P)).where(agreeing_P, 0.0)
        return combined(rows_ND, coefficients_P if map_PN is None else coefficients_P @ map_PN)


def _against(rows_ND: Tensor, own_D: Tensor, map_PN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """In float64: products [P] of the trusted update with the others (or combinations of them), their lengths, its own.

    Not from a Gram matrix: should the hostile ones be the majority, that is centred among them, and digits are lost.
    """
    count = len(rows_ND) if map_PN is None else len(map_PN)
    products_P, squares_P = rows_ND.new_zeros((2, count)).double()
    for start in range(0, rows_ND.shape[1], COLUMNS):
        block_NC = rows_ND[:, start : start + COLUMNS].double()
        points_PC = block_NC if map_PN is None else map_PN @ block_NC
        products_P += points_PC @ own_D[start : start + COLUMNS].double()
        squares_P += points_PC.square().sum(1)
    return products_P, squares_P.sqrt(), own_D.double().norm()
