"""Clipped gossip: what neighbours differ in is clipped before it is averaged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import GramRule, Tolerant
from gossamer.errors import AggregationError

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class ClippedGossip(Tolerant, GramRule):
    """Self-centred clipping: x_own + sum_j W_j (x_j - x_own) min(1, tau / ||x_j - x_own||).

    W are the weights, divided by their sum. Without a `tau` it is that of the paper's theorem,

        tau^2 = sum_{j honest} W_j ||x_j - x_own||^2 / sum_{j hostile} W_j,

    where the f farthest take the places of the hostile, whom a node does not know; however far they are, all of them
    together then move it no more than sqrt(hostile weight) root-mean-square distances. With f = 0 nothing is clipped:
    plain gossip. For graphs. Needs n >= 2f + 1, the own update among the n.

        >>> import numpy as np
        >>> from gossamer.aggregators import ClippedGossip
        >>> ClippedGossip(f=1)(np.array([[1.0], [2.0], [900.0]]), own=np.array([0.0]))
        array([1.30901699])
        >>> ClippedGossip(tau=1.0)(np.array([[1.0], [2.0], [900.0]]), own=np.array([0.0]))
        array([0.75])
    """

    source: ClassVar[str] = "He, Karimireddy and Jaggi 2022 (arXiv 2202.01545), Algorithm 1 and Theorem I"
    graph_only: ClassVar[bool] = True

    kind: Literal["clipped_gossip"] = "clipped_gossip"
    tau: float | None = Field(
        default=None, gt=0, description="clipping radius; default: found from the distances and f"
    )

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        import torch

        if own is None:
            raise AggregationError(
                "clipped_gossip needs the receiver's own update, finite and not in a bucket with others: use it on a "
                "graph, or give own; at a server centered_clipping does without"
            )
        shares_N = weights_N / weights_N.sum()
        distances_N = gram.squares[own].sqrt()
        tau = self.tau or radius(distances_N, shares_N, f, own)
        kept_N = torch.where(distances_N > tau, tau / distances_N, 1.0)
        coefficients_N = shares_N * kept_N
        coefficients_N[own] += 1 - coefficients_N.sum()
        return coefficients_N


def radius(distances_N: Tensor, shares_N: Tensor, f: int, own: int) -> float:
    """The paper's tau with the f farthest taken for hostile; infinite where they have no weight."""
    others = distances_N.argsort(stable=True)
    others = others[others != own]
    near, far = others[: max(0, len(others) - f)], others[max(0, len(others) - f) :]
    hostile = float(shares_N[far].sum())
    if hostile == 0:
        return math.inf
    return math.sqrt(float(shares_N[near] @ distances_N[near].square()) / hostile)
