"""Groups of nodes joined by a few bridges."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.graphs import components
from gossamer.topologies import Array, Topology, both_ways


class Bridges(Topology):
    """Groups of equal size whose members all hear each other, joined by few links: to the next group, or anywhere.

    Groups are runs of consecutive nodes. Drawn again until connected, up to 100 times.
    """

    kind: Literal["bridges"] = "bridges"
    groups: int = Field(default=4, ge=1, description="number of groups; their sizes differ by 1 at most")
    density: float = Field(default=1.0, ge=0, le=1, description="probability of a link within a group; 1: all of them")
    bridges: int = Field(
        default=1, ge=0, description="links between a group and the next (random: times the number of groups in all)"
    )
    between: Literal["next", "random"] = Field(
        default="next",
        description="next: bridges lead from each group to the next, from the last to the first; random: between any "
        "nodes of different groups",
    )
    connected: bool = Field(default=True, description="draw again, up to 100 times, until the graph is connected")

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        if self.groups > nodes:
            raise ExperimentError(
                f"topology.groups = {self.groups} with nodes = {nodes}: some groups would be empty; "
                f"use groups = {nodes} or less"
            )
        members = np.array_split(np.arange(nodes), self.groups)
        for _ in range(100 if self.connected else 1):
            inside = [self._inside(group_M, rng) for group_M in members]
            edges_E2 = both_ways(np.concatenate([*inside, *self._bridges(members, rng)]))
            if not self.connected or len(components(edges_E2, nodes)) == 1:
                return edges_E2
        raise ExperimentError(
            f"topology.groups = {self.groups}, density = {self.density:g}, bridges = {self.bridges} with nodes = "
            f"{nodes}: no connected graph in 100 draws; use a larger density, more bridges, or connected = false"
        )

    def _inside(self, group_M: Array, rng: np.random.Generator) -> Array:
        low_P, high_P = np.triu_indices(len(group_M), 1)
        kept_P = rng.random(len(low_P)) < self.density
        return np.stack([group_M[low_P[kept_P]], group_M[high_P[kept_P]]], axis=1)

    def _bridges(self, members: list[Array], rng: np.random.Generator) -> list[Array]:
        if len(members) == 1:
            return []
        if self.between == "random":
            return [self._anywhere(members, rng)]
        ways = len(members) if len(members) > 2 else 1
        return [self._across(members[g], members[(g + 1) % len(members)], rng) for g in range(ways)]

    def _across(self, one_M: Array, other_M: Array, rng: np.random.Generator) -> Array:
        """Bridges between two groups."""
        pairs = len(one_M) * len(other_M)
        if self.bridges > pairs:
            raise ExperimentError(
                f"topology.bridges = {self.bridges}: groups of {len(one_M)} and {len(other_M)} nodes have {pairs} "
                f"pairs; use bridges = {pairs} or less, or larger groups"
            )
        row_B, column_B = np.divmod(rng.choice(pairs, size=self.bridges, replace=False), len(other_M))
        return np.stack([one_M[row_B], other_M[column_B]], axis=1)

    def _anywhere(self, members: list[Array], rng: np.random.Generator) -> Array:
        """Bridges between nodes of any two groups: some of the pairs, numbered by their lower node."""
        end_N = np.concatenate([np.full(len(group_M), group_M[-1] + 1) for group_M in members])
        last_N = np.cumsum(len(end_N) - end_N)
        wanted, pairs = self.bridges * len(members), int(last_N[-1])
        if wanted > pairs:
            raise ExperimentError(
                f"topology.bridges = {self.bridges} with groups = {self.groups}: {wanted} bridges, but nodes of "
                f"different groups make {pairs} pairs; use bridges = {pairs // len(members)} or less"
            )
        chosen_B = rng.choice(pairs, size=wanted, replace=False)
        low_B = np.searchsorted(last_N, chosen_B, side="right")
        return np.stack([low_B, chosen_B - last_N[low_B] + len(end_N)], axis=1)
