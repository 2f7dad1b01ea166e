"""A random regular graph."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.graphs import components
from gossamer.spectra import off_mean
from gossamer.topologies import Array, Drawn, both_ways


class RandomRegular(Drawn):
    """Every node hears `degree` others, chosen at random: once for the run, or anew each round (epidemic learning).

    A fixed graph is drawn again, up to 100 times, until it is connected; with degree 1 it is a matching, which cannot
    be. With `redraw` single rounds need not be connected, and a round keeps (1 - d / (n - 1)) / (d + 1) of the squared
    distance to consensus (n nodes, degree d), whatever the models.
    """

    source: ClassVar[str] = (
        "Steger and Wormald 1999, Kim and Vu 2003 (networkx.random_regular_graph); "
        "De Vos, Farhadkhani, Guerraoui, Kermarrec, Pires and Sharma 2023 (redrawn: EL-Oracle)"
    )

    kind: Literal["random_regular"] = "random_regular"
    degree: int = Field(default=4, ge=1, description="neighbours of each node; degree x nodes must be even")

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        if self.degree >= nodes:
            raise ExperimentError(
                f"topology.degree = {self.degree} needs at least {self.degree + 1} nodes, found nodes = {nodes}; "
                "use a smaller degree or more nodes"
            )
        if self.degree * nodes % 2:
            even = [str(d) for d in (self.degree - 1, self.degree + 1) if 0 < d < nodes]
            raise ExperimentError(
                f"topology.degree = {self.degree} with nodes = {nodes}: no such graph, their product must be even; "
                f"use degree = {' or '.join(even)}, or nodes = {nodes + 1}"
            )
        if self.redraw:
            return self._draw(nodes, rng)
        for _ in range(100):
            edges_E2 = self._draw(nodes, rng)
            if self.degree == 1 or len(components(edges_E2, nodes)) == 1:
                return edges_E2
        raise ExperimentError(
            f"topology.degree = {self.degree} with nodes = {nodes}: no connected graph in 100 draws; "
            f"use degree = {self.degree + 1} or more, or topology = 'ring'"
        )

    def contraction(self, nodes: int) -> float | None:
        if not self.redraw:
            return None
        own = 1 / (self.degree + 1) if self.own_weight is None else self.own_weight
        return off_mean(own**2 + (1 - own) ** 2 / self.degree, nodes)

    def _draw(self, nodes: int, rng: np.random.Generator) -> Array:
        import networkx as nx

        # Where most pairs are edges the pairing algorithm would restart for minutes: draw the pairs that are not.
        others = nodes - 1 - self.degree
        graph = nx.random_regular_graph(min(self.degree, others), nodes, seed=int(rng.integers(2**63)))
        if others < self.degree:
            graph = nx.complement(graph)
        return both_ways(np.array(graph.edges, dtype=np.int64))
