"""A star of nodes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gossamer.topologies import Array, Topology, both_ways


class Star(Topology):
    """Node 0 is the hub that all others hear; unlike a server it has data and trains too."""

    kind: Literal["star"] = "star"

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        leaves = np.arange(1, nodes)
        return both_ways(np.stack([np.zeros_like(leaves), leaves], axis=1))
