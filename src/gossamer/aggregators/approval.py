"""Approval: a vote on what is kept, not on how much.

Shapes: N voters, D numbers of a row, P of one layer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.aggregators import Robust
from gossamer.aggregators.margin_cap import layers
from gossamer.columns import by_columns, median
from gossamer.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout

GRADES = 1024
"""Steps of a vote: sums of whole steps are exact, so that votes that tie do so in any order of the voters."""

GRAIN = 2.0**-20
"""Weighted votes that are closer than this tie: they differ by rounding."""


class Approving(Robust):
    """Base of the rules that rank edges by who approves of them.

    A voter approves of the largest numbers of each layer of its row, the share k of them, and disapproves of the rest:
    +1 and -1, and in between near the boundary, where one place costs what `width` says. The result has the edges in
    the order of the votes, ties in that of the median of the rows, and as numbers the medians of the voters' smallest,
    next smallest, ... numbers: of rankings the positions 0 to n - 1.
    """

    k: float = Field(
        default=0.5, gt=0, lt=1, description="share of the numbers of each layer that is kept, as the model's"
    )
    width: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="how far from the boundary a vote is whole, as a share of the numbers of the layer; 0: at once",
    )

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        import torch

        if self.before:
            map_PN = self.prepared(Gram.of(updates_ND), f, own).map_PN
            updates_ND = updates_ND if map_PN is None else map_PN.to(updates_ND) @ updates_ND
        numbers_D = torch.empty_like(updates_ND[0])
        votes_ND = torch.empty_like(updates_ND)
        for start, stop in layers(layout, len(numbers_D)):
            ascending_NP = ascending(updates_ND[:, start:stop])
            size = stop - start
            count = max(1, size - math.floor((1 - self.k) * size + 1e-9))
            votes_ND[:, start:stop] = votes(updates_ND[:, start:stop], ascending_NP, count, round(self.width * size))
            numbers_D[start:stop] = by_columns(ascending_NP, median)
        tally_D = self.tally(votes_ND, f)
        medians_D = by_columns(updates_ND, median)
        result_D = torch.empty_like(numbers_D)
        for start, stop in layers(layout, len(numbers_D)):
            order_P = medians_D[start:stop].sort(stable=True).indices
            order_P = order_P[tally_D[start:stop][order_P].sort(stable=True).indices]
            result_D[start:stop][order_P] = numbers_D[start:stop]
        return result_D

    def tally(self, votes_ND: Tensor, f: int) -> Tensor:
        """What all voters together give to each edge [D], of votes from -1 to 1; what ties is equal."""
        raise NotImplementedError


class Approval(Approving):
    """A count of who would keep an edge: a vote far from the boundary weighs no more than one near it.

    Each voter moves an edge by two votes at most, and every voter approves of as many edges as every other. What all
    honest voters put far inside stays where f < n/3 are hostile; with more it can be voted out like any other edge, for
    one that half of them would keep. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import Approval
        >>> Approval(width=0)(np.array([[0.0, 3.0, 2.0, 1.0], [1.0, 3.0, 2.0, 0.0], [3.0, 0.0, 1.0, 2.0]]))
        array([0., 3., 2., 1.])
    """

    source: ClassVar[str] = "ours; approval voting as in Brams and Fishburn 1978"

    kind: Literal["approval"] = "approval"

    def tally(self, votes_ND: Tensor, f: int) -> Tensor:
        return votes_ND.sum(0)


def ascending(part_NP: Tensor) -> Tensor:
    """Every row in ascending order."""
    import torch

    # NumPy sorts ten times faster, where it can.
    return part_NP.sort(1).values if part_NP.is_cuda else torch.from_numpy(np.sort(part_NP.numpy(), 1))


def votes(part_NP: Tensor, ascending_NP: Tensor, count: int, steps: int) -> Tensor:
    """Votes from -1 to 1 [N, P] for the `count` largest numbers of each row: whole from `steps` places off the
    boundary, which lies half way between the last number that is left out and the first that is kept."""
    import torch

    left = part_NP.shape[1] - count
    if not left or not count:
        return torch.zeros_like(part_NP)
    steps = min(max(1, steps), left, count)
    middle_N1 = ascending_NP[:, left - 1 : left] / 2 + ascending_NP[:, left : left + 1] / 2
    below_N1 = middle_N1 - ascending_NP[:, left - steps : left - steps + 1]
    above_N1 = ascending_NP[:, left + steps - 1 : left + steps] - middle_N1
    off_NP = part_NP - middle_N1
    # Where numbers are equal there is no boundary between them: none of them gets a vote.
    share_NP = (off_NP / torch.where(off_NP < 0, below_N1, above_N1)).nan_to_num_(0.0, 1.0, -1.0)
    return share_NP.clamp_(-1.0, 1.0).mul_(GRADES).round_().div_(GRADES)
