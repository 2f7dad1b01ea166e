"""SybilWall: nodes that send what some other node far away sends too are one attacker's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import Gossiping, shares
from gossamer.aggregators.foolsgold import cosines, scores
from gossamer.columns import by_columns, median, weighted_median
from gossamer.gram import combined

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram
    from gossamer.layout import Layout


class SybilWall(Gossiping):
    """FoolsGold's scores over the neighbours' histories and those that neighbours pass on; own model trusted fully.

    Each node sends along, to each neighbour, one record of somebody it knows, chosen with probability proportional to
    exp(-decay (distance - 1)). Scores are computed over all records, then those of the neighbours are kept, and the
    models averaged with them (`merging = "mean"`). Variants: the coordinate median of the better half by score, the
    median weighted by score, or the mean without the neighbour of the highest Krum score.

    The reference code normalises before it leaves out the passed-on records, which shrinks the mean; here they are left
    out first. Used on arrays, without a network, the only records are the updates themselves.

        >>> import numpy as np
        >>> from gossamer.aggregators import SybilWall
        >>> twins_and_three = np.array([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
        >>> SybilWall()(twins_and_three)
        array([0.        , 0.33333333, 0.33333333, 0.33333333])
    """

    source: ClassVar[str] = "Werthenbach and Pouwelse 2023 (arXiv 2306.15044), Algorithm 1"

    kind: Literal["sybilwall"] = "sybilwall"
    merging: Literal["mean", "median", "weighted_median", "krum_filter"] = Field(
        default="mean", description="how models are merged by their scores"
    )

    @property
    def combines(self) -> bool:
        return self.merging == "mean"

    def trust(self, history: Gram, heard: int) -> Tensor:
        """Scores [heard] of the first records, by all of them. Fung, Yoon and Beschastnikh 2020, Algorithm 1."""
        return scores(cosines(history))[:heard]

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        return self.coefficients_of(gram, weights_N, own)

    def coefficients_of(self, history: Gram, weights_N: Tensor, own: int | None) -> Tensor:
        import torch

        others = torch.tensor([i for i in range(len(history)) if i != own], dtype=torch.int64)
        trust_N = torch.ones_like(weights_N)
        if len(others):
            trust_N[others] = self.trust(history.part(others), len(others))
        return shares(trust_N)

    def merge(
        self, updates_ND: Tensor, trust_N: Tensor, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        """One model [D] from models and their scores (1 for the own)."""
        if self.merging == "mean":
            return combined(updates_ND, shares(trust_N))
        if self.merging == "krum_filter":
            return combined(updates_ND, shares(without_outlier(updates_ND, trust_N, own)))
        if self.merging == "median":
            # All that are as good as the worst of the better half.
            half = (trust_N >= trust_N.sort(descending=True).values[(len(trust_N) - 1) // 2]).nonzero().flatten()
            return by_columns(updates_ND[half], median)
        return by_columns(updates_ND, lambda block_NC: weighted_median(block_NC, trust_N))

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        from gossamer.gram import Gram

        if self.merging == "mean":
            return super().combine(updates_ND, weights_N, f, own, layout)
        trust_N = self.coefficients(Gram.of(updates_ND), weights_N.double(), f, own)
        return self.merge(updates_ND, trust_N / trust_N.max(), own, layout)


def without_outlier(updates_ND: Tensor, trust_N: Tensor, own: int | None) -> Tensor:
    """The scores, that of the neighbour with the highest Krum score (f = 1) set to 0."""
    from gossamer.aggregators import krum
    from gossamer.gram import Gram

    if len(updates_ND) < 4:
        return trust_N
    krum_N = krum.scores(Gram.of(updates_ND).squares, 1)
    if own is not None:
        krum_N[own] = -1.0
    left_N = trust_N.clone()
    left_N[krum_N.argmax()] = 0.0
    return left_N
