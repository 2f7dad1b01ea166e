"""Who is hostile: some of the nodes, or one attacker under many names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.plugs import Plug

if TYPE_CHECKING:
    pass

Array = np.ndarray[Any, Any]


class Hostile(Plug):
    """Base of the kinds of hostility: which nodes are hostile, and what names they have on the graph besides."""

    def sybils(self, edges_E2: Array, nodes: int, rng: np.random.Generator) -> list[Array]:
        """The honest nodes that each Sybil identity is linked to; identities come on top of the nodes."""
        return []

    def places(self, edges_E2: Array, nodes: int, rng: np.random.Generator) -> Array:
        """The hostile ones among the nodes, ascending."""
        return np.empty(0, np.int64)
