"""Bulyan: repeated Krum, then a mean around the median of every column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Tolerant
from gossamer.aggregators.krum import scores
from gossamer.columns import by_columns, order
from gossamer.errors import AggregationError
from gossamer.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class Bulyan(Tolerant):
    """Krum selects n - 2f updates one after another; of those, per coordinate, the mean of the closest to the median.

        S <- {};  n - 2f times: move Krum's choice among the updates that are left into S
        column by column: the mean of the |S| - 2f values of S that are closest to their median

    Scores are computed anew among the updates that are left. The median of an even number is the middle of the two
    middle values. f = 0 gives the mean. Needs n >= 4f + 3. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import Bulyan
        >>> Bulyan(f=1)(np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [900.0]]))
        array([3.])
    """

    source: ClassVar[str] = "El Mhamdi, Guerraoui and Rouault 2018, Section 4"

    kind: Literal["bulyan"] = "bulyan"

    def tolerates(self, n: int) -> int:
        return (n - 3) // 4

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        points = self.prepared(Gram.of(updates_ND), f, own)
        if len(points) <= 4 * f:
            raise AggregationError(
                f"bulyan cannot withstand f = {f} with {len(points)} points left by its pre-aggregators; use smaller "
                "buckets or a smaller f"
            )
        chosen_S = selected(points.squares, f)
        if points.map_PN is None:
            return by_columns(updates_ND, lambda block_NC: around_median(block_NC[chosen_S], f))
        return by_columns(updates_ND, lambda block_SC: around_median(block_SC, f), points.map_PN[chosen_S])


def selected(squares_NN: Tensor, f: int) -> Tensor:
    """The places [n - 2f] of the updates that Krum chooses one after another, in the order of their choice."""
    import torch

    left = torch.arange(len(squares_NN), device=squares_NN.device)
    chosen = []
    for _ in range(len(squares_NN) - 2 * f):
        best = scores(squares_NN[left][:, left], f).argmin()
        chosen.append(left[best])
        left = left[left != left[best]]
    return torch.stack(chosen)


def around_median(block_SC: Tensor, f: int) -> Tensor:
    """Per column [C] the mean of all but the 2f values that are farthest from the median. Overwrites the block."""
    import torch

    size = len(block_SC)
    kept = size - 2 * f
    rows = order(block_SC)
    median_C = rows[size // 2] if size % 2 else (rows[size // 2 - 1] + rows[size // 2]) / 2
    # In ascending order the closest to the median are neighbours: only the place of the first of them is unknown.
    first_C = torch.zeros_like(median_C, dtype=torch.int32)
    reach_C = torch.full_like(median_C, math.inf)
    for start in range(2 * f + 1):
        farthest_C = torch.maximum(median_C - rows[start], rows[start + kept - 1] - median_C)
        first_C.masked_fill_(farthest_C < reach_C, start)
        torch.minimum(reach_C, farthest_C, out=reach_C)
    total_C = torch.zeros_like(median_C)
    for place, row_C in enumerate(rows):
        # Left out rather than subtracted: what is left out may be huge.
        total_C += row_C.masked_fill((first_C > place) | (first_C <= place - kept), 0.0)
    return total_C.div_(kept)
