"""Some of the nodes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from gossamer import hops
from gossamer.errors import ExperimentError
from gossamer.hostile import Array, Hostile


class Byzantine(Hostile):
    """A number, a share or a list of the nodes is hostile, at random places or chosen ones."""

    kind: Literal["byzantine"] = "byzantine"
    count: int | float = Field(
        default=0.2, gt=0, description="how many: a number, or a share below 1 of the nodes, rounded down"
    )
    placement: Literal["random", "first", "spread", "clustered", "central"] = Field(
        default="random",
        description="where: at random; the first by number; on a graph spread out (k-medoids by hops), a ball around a "
        "random node, or those that most nodes hear",
    )
    listed: tuple[int, ...] = Field(
        default=(), description="numbers of the hostile nodes, instead of `count` and `placement`"
    )

    @field_validator("count")
    @classmethod
    def _share(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value >= 1:
            raise ValueError("give a whole number of nodes, or a share below 1 of them")
        return value

    def places(self, edges_E2: Array, nodes: int, rng: np.random.Generator) -> Array:
        """The hostile ones among the nodes, ascending.

        Raises ExperimentError where no node, or no honest one, would be left, where a listed node does not exist, and
        where the placement needs a graph and there is none.
        """
        if self.listed:
            return self._of_list(nodes)
        k = self.count if isinstance(self.count, int) else int(self.count * nodes + 1e-9)
        if not 0 < k < nodes:
            raise ExperimentError(
                f"hostile.count = {self.count} makes {k} of nodes = {nodes} hostile; there must be one to {nodes - 1}"
            )
        if self.placement == "first":
            return np.arange(k)
        if self.placement == "random":
            return np.sort(rng.choice(nodes, k, replace=False))
        if not len(edges_E2):
            raise ExperimentError(
                f"hostile.placement = '{self.placement}' needs a graph, and with a server there is none: use 'random', "
                "'first' or `listed`"
            )
        if self.placement == "central":
            heard_by_N = np.bincount(edges_E2[:, 0], minlength=nodes)
            return np.sort(np.argsort(-heard_by_N, kind="stable")[:k])
        hops_NN = hops.distances(edges_E2, nodes)
        return hops.medoids(hops_NN, k, rng) if self.placement == "spread" else hops.ball(hops_NN, k, rng)

    def _of_list(self, nodes: int) -> Array:
        places = np.unique(np.array(self.listed))
        wrong = places[(places < 0) | (places >= nodes)]
        if len(wrong):
            raise ExperimentError(f"hostile.listed names node {wrong[0]}, but nodes = {nodes}: use 0 to {nodes - 1}")
        if len(places) == nodes:
            raise ExperimentError(f"hostile.listed names all nodes = {nodes}: leave an honest one")
        return places
