"""One attacker under many names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer import hops
from gossamer.errors import ExperimentError
from gossamer.hostile import Array, Hostile

if TYPE_CHECKING:
    from torch import Tensor


class Sybils(Hostile):
    """One attacker joins under many identities, linked to honest nodes by attack edges; all send copies of one message.

    On a graph there are `attack_edges` (phi) of these for each honest node: the whole part of phi to every one of
    them, the rest to that share of the nodes. The nodes of each such layer are put into groups by hops, at most
    `per_sybil` in one, and every group gets an identity of its own. With phi = 1 and 99 nodes that makes 15.
    """

    source: ClassVar[str] = "Werthenbach and Pouwelse 2023 (arXiv 2306.15044): attack edges, k-medoids, groups of 7"

    many_names: ClassVar[bool] = True

    kind: Literal["sybils"] = "sybils"
    attack_edges: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="phi: links to identities for each honest node of a graph"
    )
    placement: Literal["spread", "clustered"] = Field(
        default="spread",
        description="which nodes the fraction of phi goes to: spread out (k-medoids by hops), or a ball around a "
        "random node",
    )
    per_sybil: int = Field(default=7, ge=1, description="most links of one identity")
    identities: int | None = Field(
        default=None, ge=1, description="how many there are at a server, where there is no graph"
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="to look unlike each other: standard deviation of what each identity adds to every number of its "
        "copy, in root mean squares of the message",
    )
    participation: float = Field(default=1.0, gt=0, le=1, description="share of rounds in which an identity sends")

    def sybils(self, edges_E2: Array, nodes: int, rng: np.random.Generator) -> list[Array]:
        """The honest nodes that each identity is linked to; none with a server.

        Raises ExperimentError where `identities` does not fit the world, and where phi is so small that it makes none.
        """
        if not len(edges_E2):
            if self.identities is None:
                raise ExperimentError("hostile.identities is not given, but a server has no graph: set it to 10, say")
            return [np.empty(0, np.int64) for _ in range(self.identities)]
        if self.identities is not None:
            raise ExperimentError(
                f"hostile.identities = {self.identities} is for a server; on a graph attack_edges and per_sybil say "
                "how many identities there are: leave it out"
            )
        if self.attack_edges > nodes:
            raise ExperimentError(
                f"hostile.attack_edges = {self.attack_edges:g} gives each node more hostile neighbours than there are "
                f"nodes = {nodes}; use {nodes} or less"
            )
        layers = [np.arange(nodes)] * math.floor(self.attack_edges)
        hops_NN = hops.distances(edges_E2, nodes)
        k = int((self.attack_edges - len(layers)) * nodes + 1e-9)
        if k:
            layers.append(hops.medoids(hops_NN, k, rng) if self.placement == "spread" else hops.ball(hops_NN, k, rng))
        if not layers:
            raise ExperimentError(
                f"hostile.attack_edges = {self.attack_edges:g} makes no attack edge among nodes = {nodes}: use "
                f"{math.ceil(1e4 / nodes) / 1e4:g} or more"
            )
        return [group for layer in layers for group in hops.groups(hops_NN, layer, self.per_sybil, rng)]

    def disguised(self, row_D: Tensor, rng: np.random.Generator) -> Tensor:
        if self.noise == 0:
            return row_D
        import torch

        size = self.noise * row_D.double().square().mean().sqrt()
        drawn = torch.from_numpy(rng.standard_normal(tuple(row_D.shape))).to(row_D.device)
        return row_D + (size * drawn).to(row_D)

    def sends(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.participation)
