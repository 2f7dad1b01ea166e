"""FoolsGold: senders whose updates resemble each other over time are Sybils of one attacker."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Remembering

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram

ALIKE = 1e-6
"""Distance of a cosine from 1 below which float32 rows cannot be told apart."""


class FoolsGold(Remembering):
    """Mean weighted by how little the history of a sender resembles that of any other.

    The history of a sender is the sum of its updates so far, or on a graph what `remember` says; on plain arrays, these
    updates. On a graph the receiver's own is scored like the others. Needs no number of hostile updates, but honest
    ones that differ. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import FoolsGold
        >>> FoolsGold()(np.array([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 2.0], [1.0, -1.0, 0.0]]))
        array([ 0.5, -0.5,  1. ])
    """

    source: ClassVar[str] = "Fung, Yoon and Beschastnikh 2020, Algorithm 1"
    history: ClassVar[str] = "direct"

    kind: Literal["foolsgold"] = "foolsgold"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        return self.coefficients_of(gram, weights_N, own)

    def coefficients_of(self, history: Gram, weights_N: Tensor, own: int | None) -> Tensor:
        """The coefficients [N] of the updates from what their senders sent so far (N histories)."""
        scores_N = scores(cosines(history))
        return scores_N / scores_N.sum()


def cosines(gram: Gram) -> Tensor:
    """[N, N], of the angles between the points; zero with a point that is zero."""
    lengths_N = gram.norms
    safe_N = lengths_N.where(lengths_N > 0, lengths_N.new_full((), float("inf")))
    return (gram.products / safe_N[:, None] / safe_N).clamp_(-1.0, 1.0)


def scores(cosines_NN: Tensor) -> Tensor:
    """Scores [N] from 0 (a Sybil) to 1 from the cosines of the histories; the largest is 1.

    With S the cosines and S_jj = 0: M_j = max_k S_jk + 1e-5. Senders with more alike peers than their own are
    pardoned: S_jk <- S_jk M_j / M_k where M_j < M_k. Then alpha_j = 1 - max_k S_jk in [0, 1], divided by the largest
    alpha, and the score is ln(alpha / (1 - alpha)) + 0.5, clipped to [0, 1]: 0 up to alpha = .3775 and 1 from .6225.
    Where all are alike, nobody can be told from the others: all scores are 1.
    """
    alike_NN = cosines_NN.clone().fill_diagonal_(0.0)
    most_N = alike_NN.max(1).values + 1e-5
    alike_NN *= (most_N[:, None] / most_N).clamp(max=1.0)
    alpha_N = (1.0 - alike_NN.max(1).values).clamp(0.0, 1.0)
    if float(alpha_N.max()) <= ALIKE:
        return alpha_N.new_ones(len(alpha_N))
    alpha_N = alpha_N / alpha_N.max()
    # logit(1) is infinite and logit(0) is minus infinity: the clip makes 1 and 0 of them.
    return (alpha_N.logit() + 0.5).clamp_(0.0, 1.0)
