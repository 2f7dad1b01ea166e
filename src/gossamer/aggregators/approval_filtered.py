"""Approval without those who approve of the same odd edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Tolerant
from gossamer.aggregators.approval import GRAIN, Approving
from gossamer.aggregators.caf import CAF
from gossamer.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor


class ApprovalFiltered(Tolerant, Approving):
    """Approval in which voters lose weight who deviate together.

    The weights are those of CAF on the votes from -1 to 1: they fall along the direction of the largest variance. Far
    from the boundary honest voters agree and their votes are all whole, so that what is left to vary are the edges that
    are contested, and hostile voters who exchange the same edges stand out there, however little they move them. Needs
    n >= 2f + 1. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import ApprovalFiltered
        >>> honest = [[0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 2.0, 3.0], [0.0, 1.0, 3.0, 2.0], [0.0, 2.0, 1.0, 3.0]]
        >>> ApprovalFiltered(f=2)(np.array([*honest, [2.0, 3.0, 0.0, 1.0], [2.0, 3.0, 0.0, 1.0]]))
        array([0., 1., 2., 3.])
    """

    source: ClassVar[str] = "ours, with the filter of Allouah, Guerraoui and Stephan 2025, Algorithm 2"

    kind: Literal["approval_filtered"] = "approval_filtered"

    def tally(self, votes_ND: Tensor, f: int) -> Tensor:
        equal_N = votes_ND.new_ones(len(votes_ND)).double()
        shares_N = CAF().coefficients(Gram.of(votes_ND), equal_N, f, None)
        return (shares_N.to(votes_ND) @ votes_ND).div_(GRAIN).round_()
