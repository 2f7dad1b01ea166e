"""Nearest-neighbour averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import GramRule, Tolerant
from gossamer.errors import AggregationError

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class NNA(Tolerant, GramRule):
    """Mean of the own update and its n - f - 1 nearest others.

    For graphs: n counts the receiver's own update. Needs n >= 2f + 1; ties go to the first. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import NNA
        >>> NNA(f=1)(np.array([[3.0], [-9.0], [1.0]]), own=np.array([2.0]))
        array([2.])
    """

    source: ClassVar[str] = "Farhadkhani, Guerraoui, Gupta, Hoang, Pinot and Stephan 2023, Algorithm 1 (mixing)"
    graph_only: ClassVar[bool] = True

    kind: Literal["nna"] = "nna"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        if own is None:
            raise AggregationError(
                "nna needs the receiver's own update, finite and not in a bucket with others: use it on a graph, or "
                "give own; at a server monna takes the trusted one by its place"
            )
        return nearest(gram.squares[own], f, own)


def nearest(squares_N: Tensor, f: int, place: int) -> Tensor:
    """Equal coefficients [N] for the update at a place and the n - f - 1 others with the least `squares_N`."""
    import torch

    n = len(squares_N)
    others = squares_N.argsort(stable=True)
    others = others[others != place][: max(0, n - f - 1)]
    kept = torch.cat([others, others.new_tensor([place])])
    return torch.zeros_like(squares_N).index_fill_(0, kept, 1 / len(kept))
