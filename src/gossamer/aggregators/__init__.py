"""Aggregators: how a receiver turns what it heard into one update.

An aggregator plug is one file with an `aggregate` over stacked updates. One that is a weighted mean says
`linear = True`: then the engine folds messages as they arrive (server) or lifts the whole population to one sparse
matrix product (graph), and `aggregate` is never called on the hot path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class Aggregator(Plug):
    """Base of the aggregators: `aggregate` maps updates [N, D] and weights [N] to one update [D]."""

    linear: ClassVar[bool] = False
    """True where the result is sum_i weights_i * updates_i / sum_i weights_i, put through `finish`."""

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        """One update [D] from N updates with non-negative weights.

        On a graph the receiver's own row is among the updates (with its own weight) and is also given as `own_D`.
        """
        raise NotImplementedError

    def statistics(self, update_D: Tensor, layout: Layout) -> Tensor | None:
        """What a linear rule wants to know of each message besides its sum: numbers [S]; None: nothing."""
        return None

    def finish(self, mixed_D: Tensor, stats_NS: Tensor, weights_N: Tensor, own: int | None, layout: Layout) -> Tensor:
        """The result of a linear rule from the weighted mean and the statistics of the N messages in it.

        `own` is the place of the receiver's own model among them. Asked only where `statistics` gives numbers.
        """
        return mixed_D
