"""Topologies: who hears whom.

A topology plug is one file with an `edges(nodes, round, rng)`. With a server there is one receiver and no graph;
without, the edges of a round become a mixing matrix (`gossamer.mixing`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.plugs import Plug

Array = np.ndarray[Any, Any]


class Topology(Plug):
    """Base of the topologies: `edges` lists who sends to whom."""

    has_server: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    """Whether the edges change from round to round."""

    weights: Literal["metropolis", "uniform"] = Field(
        default="metropolis",
        description="mixing weights: Metropolis-Hastings (doubly stochastic on undirected graphs) or 1/(degree+1)",
    )

    @property
    def one_way(self) -> bool:
        """Whether some edges may go one way only, so that Metropolis weights do not exist."""
        return False

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        """Directed edges (sender, receiver) as int64 [E, 2], without self-loops; undirected ones appear both ways.

        `round` and `rng` matter only where `varies`; a fixed graph is drawn once with round 0.
        Raises ExperimentError where no such graph exists.
        """
        raise NotImplementedError

    @classmethod
    def adopt(cls, value: object) -> Plug | None:
        from gossamer.topologies.edge_list import EdgeList

        return EdgeList.wrap(value)


def both_ways(pairs: Array) -> Array:
    """Undirected pairs [E, 2] as directed edges in both directions, sorted by receiver then sender, without doubles."""
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    directed = np.concatenate([pairs, pairs[:, ::-1]])
    return np.unique(directed[:, ::-1], axis=0)[:, ::-1].copy()
