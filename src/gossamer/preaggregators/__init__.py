"""Pre-aggregators: what is done to updates before a robust rule sees them, as a matrix that mixes them.

A pre-aggregator plug is one file with a `matrix` that is found from the Gram matrix alone. Chained, the matrices are
multiplied; the updates themselves are touched once, by the rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from gossamer.plugs import Plug, by_class

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class PreAggregator(Plug):
    """Base of the pre-aggregators: `matrix` turns P updates into Q points, of which at most `f` count as hostile."""

    def matrix(self, gram: Gram, f: int, own: int | None) -> Tensor:
        """[Q, P] in float64: the points as combinations of the updates.

        `f` is the number of hostile updates that the rule behind it is to withstand; `own` the place of the receiver's
        own among the updates, on a graph.
        """
        raise NotImplementedError

    def points(self, n: int) -> int:
        """How many points it makes of n updates."""
        return n

    def at(self, round: int, rounds: int) -> Self:
        """The step as it is in a round of a run, for those that change over time."""
        return self


def __getattr__(name: str) -> type[Plug]:
    """The kinds by the names of their classes."""
    return by_class(PreAggregator, name)
