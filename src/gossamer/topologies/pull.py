"""Random peers, drawn anew each round by each node for itself."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.spectra import off_mean
from gossamer.topologies import Array, OneWay, Topology


class Pull(OneWay):
    """Each node hears floor(R) random others, and one more with probability R - floor(R); one way: moves the mean.

    Each node draws for itself in every round and averages what it hears with its own model, 1/|row| each. Rows of W
    sum to 1, columns only on average, so the mean of the models does a random walk. With n nodes and S the squared
    distance of the models to their mean, E ||W x - mean(x)||^2 = (1 - R n / (2 (n - 1))) S for R <= 1 and
    (1 - R / (n - 1)) / (R + 1) S for whole R: the same as for `random_matching`, which keeps the mean.
    """

    source: ClassVar[str] = "arXiv 2507.06542 (single global merging), the random topology of its experiments"
    overlay: ClassVar[bool] = True
    exchangeable: ClassVar[bool] = True

    kind: Literal["pull"] = "pull"
    peers: float = Field(default=1.0, ge=0, description="R, the others that a node hears in a round, on average")

    @property
    def varies(self) -> bool:
        return True

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        if self.peers > nodes - 1:
            raise ExperimentError(
                f"topology.peers = {self.peers:g} with nodes = {nodes}: a node has {nodes - 1} others to hear; "
                f"use peers = {nodes - 1} or less, or more nodes"
            )
        whole = int(self.peers)
        count_N = whole + (rng.random(nodes) < self.peers - whole)
        parts = []
        for count in np.unique(count_N).tolist():
            receivers_K = np.nonzero(count_N == count)[0]
            senders_KS = _others(receivers_K, count, nodes, rng)
            parts.append(np.stack([senders_KS.ravel(), np.repeat(receivers_K, count)], axis=1))
        edges_E2 = np.concatenate(parts)
        return edges_E2[np.lexsort((edges_E2[:, 0], edges_E2[:, 1]))]

    def thinned(self, share: float) -> tuple[Topology, float]:
        return self.model_copy(update={"peers": self.peers * share}), 1.0

    def contraction(self, nodes: int) -> float | None:
        """E ||W x - mean(x)||^2 / ||x - mean(x)||^2: the mean is that before the exchange."""
        if self.weights == "out_degree" and self.own_weight is None:
            return None
        squares = sum(chance * (own**2 + (1 - own) ** 2 / max(1, count)) for chance, count, own in self._rows())
        return off_mean(squares, nodes)

    def drift(self, nodes: int) -> float | None:
        """E n (mean(W x) - mean(x))^2 / ||x - mean(x)||^2: the squared move of the mean.

        The rows of W are independent, so it is the sum of their variances over n: (c - l^2) / n with the contraction c
        and E W = l I + (1 - l) J.
        """
        kept = self.contraction(nodes)
        if kept is None:
            return None
        return (kept - off_mean(sum(chance * own for chance, _, own in self._rows()), nodes) ** 2) / nodes

    def _rows(self) -> list[tuple[float, int, float]]:
        """The kinds of rows of W: their probability, the number of others heard, the weight of the own model."""
        whole = int(self.peers)
        more, own = self.peers - whole, self.own_weight
        kinds = ((1 - more, whole), (more, whole + 1))
        return [(chance, n, 1 / (n + 1) if own is None or n == 0 else own) for chance, n in kinds]

    def caveat(self, nodes: int) -> str:
        moved = self.drift(nodes)
        if not moved or moved < 1e-12:
            return ""
        return (
            f"topology.kind = 'pull' does not keep the mean of the models: a round moves it by {moved:.2g} of their "
            "squared distance to consensus; 'random_matching' with the same peers keeps it and costs the same"
        )


def _others(receivers_K: Array, count: int, nodes: int, rng: np.random.Generator) -> Array:
    """`count` different other nodes for each receiver [K, count], every set equally likely (Floyd's algorithm)."""
    chosen_KS = np.empty((len(receivers_K), count), dtype=np.int64)
    for place, last in enumerate(range(nodes - 1 - count, nodes - 1)):
        drawn_K = rng.integers(last + 1, size=len(receivers_K))
        again_K = (chosen_KS[:, :place] == drawn_K[:, None]).any(axis=1)
        chosen_KS[:, place] = np.where(again_K, last, drawn_K)
    return chosen_KS + (chosen_KS >= receivers_K[:, None])
