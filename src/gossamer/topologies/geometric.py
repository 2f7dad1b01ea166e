"""A random geometric graph."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gossamer.errors import ExperimentError
from gossamer.graphs import components
from gossamer.topologies import Array, Topology, both_ways


class Geometric(Topology):
    """Nodes at random places in the unit square hear all others within a radius, as radios do.

    The radius is given, or that at which a node away from the border hears `degree` others on average; with neither, it
    is sqrt((ln n + 3) / (pi n)) for n nodes, at which most draws are connected.
    """

    source: ClassVar[str] = "Gilbert 1961; Penrose 1997 (connected above pi r^2 = ln(n)/n)"

    kind: Literal["geometric"] = "geometric"
    radius: float | None = Field(default=None, gt=0, description="largest distance of nodes that hear each other")
    degree: float | None = Field(default=None, gt=0, description="or: nodes within the radius, on average")
    max_degree: int | None = Field(
        default=None, ge=1, description="a node with more neighbours loses links at random until it has so many"
    )
    connected: bool = Field(default=True, description="draw again, up to 100 times, until the graph is connected")

    @model_validator(mode="after")
    def _not_both(self) -> Geometric:
        if self.radius is not None and self.degree is not None:
            raise ExperimentError(
                f"topology.radius = {self.radius:g} and topology.degree = {self.degree:g} say the same thing; give one"
            )
        return self

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        radius = self._radius(nodes)
        for _ in range(100 if self.connected else 1):
            edges_E2 = _links(rng.random((nodes, 2)), radius)
            if self.max_degree is not None:
                edges_E2 = _pruned(edges_E2, nodes, self.max_degree, rng)
            if not self.connected or len(components(edges_E2, nodes)) == 1:
                return edges_E2
        enough = math.ceil(100 * _likely(nodes)) / 100
        field = f"degree = {self.degree:g} (radius {radius:.2g})" if self.radius is None else f"radius = {radius:g}"
        raise ExperimentError(
            f"topology.{field} with nodes = {nodes}: no connected graph in 100 draws; "
            f"use a larger one such as radius = {enough:g}, or connected = false"
        )

    def _radius(self, nodes: int) -> float:
        if self.radius is not None:
            return self.radius
        if self.degree is not None:
            return math.sqrt(self.degree / (math.pi * max(1, nodes - 1)))
        return _likely(nodes)


def _pruned(edges_E2: Array, nodes: int, most: int, rng: np.random.Generator) -> Array:
    """The graph without random links of nodes that have more than `most`, node after node."""
    neighbours: list[set[int]] = [set() for _ in range(nodes)]
    for sender, receiver in edges_E2.tolist():
        neighbours[receiver].add(sender)
    for node, mine in enumerate(neighbours):
        if len(mine) > most:
            for other in rng.choice(sorted(mine), size=len(mine) - most, replace=False).tolist():
                mine.discard(other)
                neighbours[other].discard(node)
    return both_ways(np.array([(i, j) for i, mine in enumerate(neighbours) for j in mine], np.int64).reshape(-1, 2))


def _likely(nodes: int) -> float:
    """The radius at which a draw of many nodes is connected with probability exp(-exp(-3)) = 0.95, but for borders."""
    return math.sqrt((math.log(nodes) + 3) / (math.pi * nodes))


def _links(place_N2: Array, radius: float) -> Array:
    """The edges between places at most a radius apart."""
    from scipy.spatial import cKDTree

    return both_ways(cKDTree(place_N2).query_pairs(radius, output_type="ndarray"))
