"""Topologies: who hears whom.

A topology plug is one file with an `edges(nodes, round, rng)`. With a server there is one receiver and no graph;
without, the edges of a round become a mixing matrix (`gossamer.mixing`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from gossamer.mixing import Weights
from gossamer.plugs import Plug

Array = np.ndarray[Any, Any]


class Topology(Plug):
    """Base of the topologies: `edges` lists who sends to whom."""

    has_server: ClassVar[bool] = False

    cyclic: ClassVar[bool] = False
    """Whether the graphs of successive exchanges belong together, so that `round` counts exchanges and not rounds."""

    weights: Weights = Field(
        default="metropolis",
        description="mixing weights: metropolis (Metropolis-Hastings: doubly stochastic, undirected graphs only), "
        "uniform (1/(in-degree + 1): row-stochastic) or out_degree (1/(out-degree of the sender + 1): "
        "column-stochastic, for push-sum)",
    )
    own_weight: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of a node's own model in the mean, the rest evenly among those it hears; replaces `weights`",
    )
    all_to_all: bool = Field(
        default=False,
        description="any two nodes can talk if a schedule asks for an all-reduce, although the graph has few links",
    )

    @property
    def overlay(self) -> bool:
        """Whether the graph is a choice among nodes that can all talk to each other, and so can do an all-reduce."""
        return False

    @property
    def exchangeable(self) -> bool:
        """Whether every numbering of the nodes is as likely in each round, so that all directions contract alike."""
        return False

    @property
    def varies(self) -> bool:
        """Whether the edges change from round to round."""
        return False

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

    def thinned(self, share: float) -> tuple[Topology, float]:
        """This topology with a share (0, 1] of its links, and the share of those to keep by a draw for each link.

        Override where the topology draws its links itself and can draw fewer.
        """
        return self, share

    def contraction(self, nodes: int) -> float | None:
        """E ||W x - mean(x)||^2 / ||x - mean(x)||^2 of one round in closed form, or None where none is known."""
        return None

    def drift(self, nodes: int) -> float | None:
        """E N (mean(W x) - mean(x))^2 / ||x - mean(x)||^2 of one round in closed form, or None where none is known."""
        return None

    def caveat(self, nodes: int) -> str:
        """One line that warns of what this graph does not do with this number of nodes; empty if there is nothing."""
        return ""

    @classmethod
    def adopt(cls, value: object) -> Plug | None:
        from gossamer.topologies.edge_list import EdgeList

        return EdgeList.wrap(value)


class Drawn(Topology):
    """Base of the graphs that are drawn at random: once, or with `redraw` anew in every round.

    Redrawn, they are a choice among nodes that can all talk to each other, and all nodes are alike.
    """

    redraw: bool = Field(default=False, description="a fresh graph each round, connected or not")

    @property
    def varies(self) -> bool:
        return self.redraw

    @property
    def overlay(self) -> bool:
        return self.redraw

    @property
    def exchangeable(self) -> bool:
        return self.redraw


class OneWay(Topology):
    """Base of the graphs whose edges go one way: their weights are uniform, since Metropolis weights need both ways."""

    weights: Weights = Field(
        default="uniform",
        description="as for every kind, but not metropolis, which one-way links do not have; uniform and "
        "out_degree are the same where all nodes send to as many as they hear",
    )

    @property
    def one_way(self) -> bool:
        return True


def both_ways(pairs: Array) -> Array:
    """Undirected pairs [E, 2] as directed edges in both directions, sorted by receiver then sender, without doubles."""
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    directed = np.concatenate([pairs, pairs[:, ::-1]])
    return np.unique(directed[:, ::-1], axis=0)[:, ::-1].copy()
