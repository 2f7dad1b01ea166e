"""The random graph of Erdos, Renyi and Gilbert."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.graphs import components
from gossamer.spectra import off_mean
from gossamer.topologies import Array, Drawn, Topology, both_ways


class ErdosRenyi(Drawn):
    """Each pair of nodes is joined with probability p: once for the run, or anew each round.

    A fixed graph is drawn again, up to 100 times, until it is connected; with `redraw` single rounds need not be.
    """

    source: ClassVar[str] = "Gilbert 1959, G(n, p); Erdos and Renyi 1960 (connected above p = ln(n)/n)"

    kind: Literal["erdos_renyi"] = "erdos_renyi"
    p: float = Field(default=0.3, ge=0, le=1, description="probability of each edge")
    connected: bool = Field(
        default=True, description="draw a fixed graph again, up to 100 times, until it is connected"
    )

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        if self.redraw or not self.connected:
            return self._draw(nodes, rng)
        for _ in range(100):
            edges_E2 = self._draw(nodes, rng)
            if len(components(edges_E2, nodes)) == 1:
                return edges_E2
        # At p = (ln n + 3) / n a draw is connected with probability near exp(-exp(-3)) = 0.95.
        enough = min(1.0, math.ceil(100 * (math.log(nodes) + 3) / nodes) / 100)
        raise ExperimentError(
            f"topology.p = {self.p:g} with nodes = {nodes}: no connected graph in 100 draws; "
            f"use a larger p such as {enough:g}, or connected = false"
        )

    def thinned(self, share: float) -> tuple[Topology, float]:
        return (self.model_copy(update={"p": self.p * share}), 1.0) if self.redraw else (self, share)

    def contraction(self, nodes: int) -> float | None:
        """For graphs drawn anew with Metropolis weights, from E sum_j W_ij^2 of a node i by the degree d that it has.

        A neighbour j has 1 + Bin(n - 2, p) neighbours. Two of them, j and k, depend on each other only through the
        link between them: given it or its absence they have 1 or 0 more than 1 + Bin(n - 3, p), independently.
        """
        if not self.redraw or self.weights != "metropolis" or self.own_weight is not None:
            return None
        from scipy.stats import binom

        d_N = np.arange(nodes)
        weight_N = 1 / (1.0 + d_N)

        def mean(power: int, sure: int, others: int) -> Array:
            """E (1 / (1 + max(d, D)))^power over D = sure + Bin(others, p), for every d."""
            chance_N = binom.pmf(d_N - sure, max(0, others), self.p)
            below_N, larger_N = np.cumsum(chance_N), np.cumsum((weight_N**power * chance_N)[::-1])[::-1]
            mean_N: Array = weight_N**power * below_N + np.append(larger_N[1:], 0.0)
            return mean_N

        one_N, square_N = mean(1, 1, nodes - 2), mean(2, 1, nodes - 2)
        two_N = (1 - self.p) * mean(1, 1, nodes - 3) ** 2 + self.p * mean(1, 2, nodes - 3) ** 2
        squares_N = 1 - 2 * d_N * one_N + 2 * d_N * square_N + d_N * (d_N - 1) * two_N
        return off_mean(float(binom.pmf(d_N, nodes - 1, self.p) @ squares_N), nodes)

    def _draw(self, nodes: int, rng: np.random.Generator) -> Array:
        """Draw a binomial number of the numbered pairs (0, 1), (0, 2), ..., (n-2, n-1): memory for the edges only."""
        pairs = nodes * (nodes - 1) // 2
        chosen_K = rng.choice(pairs, size=rng.binomial(pairs, self.p), replace=False, shuffle=False)
        end_N = np.cumsum(np.arange(nodes - 1, -1, -1))
        low_K = np.searchsorted(end_N, chosen_K, side="right")
        high_K = chosen_K - end_N[low_K] + nodes
        return both_ways(np.stack([low_K, high_K], axis=1))
