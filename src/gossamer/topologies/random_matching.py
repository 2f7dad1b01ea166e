"""Random pairs, drawn anew each round."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.spectra import off_mean
from gossamer.topologies import Array, Topology, both_ways


class RandomMatching(Topology):
    """Nodes meet in random pairs, drawn anew each round; both of a pair hear each other, so the mean is kept.

    `peers` = R <= 1: all nodes are paired at random (of an odd number one is left over), and each pair meets with
    probability R. R > 1: floor(R) such pairings without a common pair, rounds of a round-robin tournament of the nodes
    in random order, and one more with probability R - floor(R). With n nodes, n even, a round keeps
    1 - R n / (2 (n - 1)) of the squared distance to consensus for R <= 1, and (1 - R / (n - 1)) / (R + 1) for whole R.
    """

    source: ClassVar[str] = (
        "Boyd, Ghosh, Prabhakar and Shah 2006 (averaging by random pairs); Kirkman 1847 (round-robin)"
    )
    overlay: ClassVar[bool] = True
    exchangeable: ClassVar[bool] = True

    kind: Literal["random_matching"] = "random_matching"
    peers: float = Field(default=1.0, ge=0, description="nodes that each node meets in a round, on average")

    @property
    def varies(self) -> bool:
        return True

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        if self.peers > nodes - 1:
            raise ExperimentError(
                f"topology.peers = {self.peers:g} with nodes = {nodes}: a node has {nodes - 1} others; "
                f"use peers = {nodes - 1} or less, or more nodes"
            )
        players = nodes + nodes % 2  # An odd number plays with a bye.
        whole = int(self.peers)
        kept = whole + (rng.random() < self.peers - whole) if whole else 1
        turns_S = rng.choice(players - 1, size=kept, replace=False)
        order_P = rng.permutation(players)
        pairs_E2 = order_P[np.concatenate([_pairs_of_turn(int(turn), players) for turn in turns_S])]
        pairs_E2 = pairs_E2[(pairs_E2 < nodes).all(axis=1)]
        if self.peers < 1:
            pairs_E2 = pairs_E2[rng.random(len(pairs_E2)) < self.peers]
        return both_ways(pairs_E2)

    def thinned(self, share: float) -> tuple[Topology, float]:
        return self.model_copy(update={"peers": self.peers * share}), 1.0

    def contraction(self, nodes: int) -> float | None:
        """By relabelling all directions contract alike, so E sum_j W_ij^2 tells how much: 1/(s+1) for s peers."""
        if nodes % 2 and self.peers > 1:
            return None
        whole = int(self.peers)
        more = self.peers - whole
        squares = (1 - more) * self._squares(whole) + more * self._squares(whole + 1)
        if nodes % 2:
            squares += (1 - squares) / nodes  # The node that is left over keeps its row.
        return off_mean(squares, nodes)

    def _squares(self, peers: int) -> float:
        """sum_j W_ij^2 of a node with that many peers."""
        if peers == 0 or self.own_weight is None:
            return 1 / (peers + 1)
        return self.own_weight**2 + (1 - self.own_weight) ** 2 / peers


def _pairs_of_turn(turn: int, players: int) -> Array:
    """The pairs [players / 2, 2] of one of the players - 1 turns of a round-robin; no pair occurs in two of them."""
    others = players - 1
    step = np.arange(1, players // 2)
    first = np.concatenate([[others], (turn + step) % others])
    second = np.concatenate([[turn], (turn - step) % others])
    return np.stack([first, second], axis=1)
