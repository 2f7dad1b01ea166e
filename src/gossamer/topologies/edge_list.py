"""A graph of the user's own."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.plugs import Plug
from gossamer.topologies import Array, Topology, both_ways


class EdgeList(Topology):
    """Any graph: pairs of node numbers, or a networkx graph passed from Python. Undirected unless `directed`."""

    kind: Literal["edge_list"] = "edge_list"
    pairs: tuple[tuple[int, int], ...] = Field(description="pairs of node numbers; (sender, receiver) if directed")
    directed: bool = False

    @classmethod
    def wrap(cls, value: object) -> Plug | None:
        """A networkx graph, or a list of pairs, as a topology; None for anything else."""
        if hasattr(value, "edges") and hasattr(value, "is_directed"):
            graph: Any = value
            order = {name: i for i, name in enumerate(sorted(graph.nodes))}
            pairs = tuple((order[a], order[b]) for a, b in graph.edges())
            return cls(pairs=pairs, directed=bool(graph.is_directed()))
        if isinstance(value, (list, tuple)):
            return cls(pairs=tuple((int(a), int(b)) for a, b in value))
        return None

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        pairs = np.asarray(self.pairs, dtype=np.int64).reshape(-1, 2)
        if len(pairs) and (pairs.min() < 0 or pairs.max() >= nodes):
            raise ExperimentError(f"topology.pairs: nodes are 0..{nodes - 1}, found {pairs.min()}..{pairs.max()}")
        if not self.directed:
            return both_ways(pairs)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        return np.unique(pairs[:, ::-1], axis=0)[:, ::-1].copy()
