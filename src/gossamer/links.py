"""Links by the clock: who hears whom after a node's k-th work, and how messages weigh in a merge."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gossamer.mixing import edges_of, mixing_matrix

if TYPE_CHECKING:
    from gossamer.schedules import Schedule
    from gossamer.topologies import Topology

GRAPHS = 128
"""Graphs that are kept, where they differ from tick to tick; others are drawn again when they are needed again."""


@dataclass(frozen=True)
class Graph:
    """The links of one tick: of each node, whom it sends to and whom it hears, ascending, with the weights W_ij."""

    receivers: list[list[tuple[int, float]]]
    senders: list[list[tuple[int, float]]]


class Links:
    """The links of a run, tick by tick, as its topology and its schedule say."""

    def __init__(self, topology: Topology, schedule: Schedule, nodes: int, rounds: int, seed: int) -> None:
        self.topology, self.schedule = topology, schedule
        self.nodes, self.rounds, self.seed = nodes, rounds, seed
        self.metropolis = topology.weights == "metropolis" and topology.own_weight is None
        self._graph = functools.lru_cache(maxsize=GRAPHS)(self._draw)

    def after(self, tick: int) -> Graph | None:
        """The links that carry a model after work number `tick` of a node; None if there are none."""
        share = self.schedule.intensity(min(tick, self.rounds - 1), self.rounds)
        if share <= 0:
            return None
        if self.topology.cyclic:
            tick = self.schedule.turn(tick, self.rounds)
        return self._graph(tick if self.topology.varies or share < 1 else 0, share)

    def neighbours(self, node: int, tick: int) -> int:
        """How many others a node hears in the topology's graph of a tick, whatever the schedule uses of it."""
        return len(self._graph(tick if self.topology.varies else 0, 1.0).senders[node])

    def weigh(self, given: list[float]) -> tuple[tuple[float, ...], float]:
        """The weights of M messages and of the node's own model, together 1; `given` are their W_ij (metropolis)."""
        count, own_weight = len(given), self.topology.own_weight
        even = 1 / (count + 1.0)
        if own_weight is not None:
            return ((1 - own_weight) / count,) * count, own_weight
        if not self.metropolis:
            return (even,) * count, even
        # 1 - sum(given) without cancellation. Messages over one graph leave `even` or more.
        own_weight = even + sum(even - weight for weight in given)
        if own_weight < even * (1 - 1e-9):
            scale = (1 - even) / sum(given)
            return tuple(weight * scale for weight in given), even
        return tuple(given), own_weight

    def _draw(self, tick: int, share: float) -> Graph:
        edges_E2 = edges_of(self.topology, self.nodes, self.seed, round=tick, share=share)
        weights_E = np.ones(len(edges_E2))
        if self.metropolis and len(edges_E2):
            W_NN = mixing_matrix(edges_E2, self.nodes, "metropolis")
            weights_E = np.asarray(W_NN[edges_E2[:, 1], edges_E2[:, 0]])
        receivers: list[list[tuple[int, float]]] = [[] for _ in range(self.nodes)]
        senders: list[list[tuple[int, float]]] = [[] for _ in range(self.nodes)]
        for sender, receiver, weight in sorted(zip(*edges_E2.T.tolist(), weights_E.tolist(), strict=True)):
            receivers[sender].append((receiver, weight))
            senders[receiver].append((sender, weight))
        return Graph(receivers, senders)
