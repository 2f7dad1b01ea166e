"""The random graph of Erdos, Renyi and Gilbert."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.mixing import components
from gossamer.topologies import Array, Topology, both_ways


class ErdosRenyi(Topology):
    """Each pair of nodes is joined with probability p; drawn again until connected, up to 100 times."""

    source: ClassVar[str] = "Gilbert 1959, G(n, p); Erdos and Renyi 1960 (connected above p = ln(n)/n)"

    kind: Literal["erdos_renyi"] = "erdos_renyi"
    p: float = Field(default=0.3, ge=0, le=1, description="probability of each edge")
    connected: bool = Field(default=True, description="draw again, up to 100 times, until the graph is connected")

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        for _ in range(100 if self.connected else 1):
            edges_E2 = self._draw(nodes, rng)
            if not self.connected or len(components(edges_E2, nodes)) == 1:
                return edges_E2
        # At p = (ln n + 3) / n a draw is connected with probability near exp(-exp(-3)) = 0.95.
        enough = min(1.0, math.ceil(100 * (math.log(nodes) + 3) / nodes) / 100)
        raise ExperimentError(
            f"topology.p = {self.p:g} with nodes = {nodes}: no connected graph in 100 draws; "
            f"use a larger p such as {enough:g}, or connected = false"
        )

    def _draw(self, nodes: int, rng: np.random.Generator) -> Array:
        """Draw a binomial number of the numbered pairs (0, 1), (0, 2), ..., (n-2, n-1): memory for the edges only."""
        pairs = nodes * (nodes - 1) // 2
        chosen_K = rng.choice(pairs, size=rng.binomial(pairs, self.p), replace=False, shuffle=False)
        end_N = np.cumsum(np.arange(nodes - 1, -1, -1))
        low_K = np.searchsorted(end_N, chosen_K, side="right")
        high_K = chosen_K - end_N[low_K] + nodes
        return both_ways(np.stack([low_K, high_K], axis=1))
