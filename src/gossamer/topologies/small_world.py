"""The small world of Watts and Strogatz."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gossamer.errors import ExperimentError
from gossamer.graphs import components
from gossamer.topologies import Array, Topology, both_ways


class SmallWorld(Topology):
    """A ring in which every node hears its nearest `neighbours`, and a share p of the links is moved to random nodes.

    Drawn again until connected, up to 100 times.
    """

    source: ClassVar[str] = "Watts and Strogatz 1998 (networkx.watts_strogatz_graph)"

    kind: Literal["small_world"] = "small_world"
    neighbours: int = Field(default=4, ge=2, description="nearest nodes on the ring, half of them each way; even")
    p: float = Field(
        default=0.1, ge=0, le=1, description="probability that the far end of a link moves to a random node"
    )

    @model_validator(mode="after")
    def _both_ways(self) -> SmallWorld:
        if self.neighbours % 2:
            raise ExperimentError(
                f"topology.neighbours = {self.neighbours} must be even, half of them each way around the ring; "
                f"use {self.neighbours - 1} or {self.neighbours + 1}"
            )
        return self

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        if self.neighbours >= nodes:
            raise ExperimentError(
                f"topology.neighbours = {self.neighbours} needs at least {self.neighbours + 1} nodes, found nodes = "
                f"{nodes}; use fewer neighbours or more nodes"
            )
        for _ in range(100):
            edges_E2 = self._draw(nodes, rng)
            if len(components(edges_E2, nodes)) == 1:
                return edges_E2
        raise ExperimentError(
            f"topology.neighbours = {self.neighbours}, p = {self.p:g} with nodes = {nodes}: no connected graph in 100 "
            f"draws; use neighbours = {self.neighbours + 2} or a smaller p"
        )

    def _draw(self, nodes: int, rng: np.random.Generator) -> Array:
        import networkx as nx

        graph = nx.watts_strogatz_graph(nodes, self.neighbours, self.p, seed=int(rng.integers(2**63)))
        return both_ways(np.array(graph.edges, dtype=np.int64))
