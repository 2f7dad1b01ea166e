"""A ring."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gossamer.topologies import Array, Topology, both_ways


class Ring(Topology):
    """Node i hears i-1 and i+1 (modulo the number of nodes)."""

    kind: Literal["ring"] = "ring"

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        i = np.arange(nodes)
        return both_ways(np.stack([i, (i + 1) % nodes], axis=1))
