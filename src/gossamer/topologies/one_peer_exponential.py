"""The exponential graph, one link of each node at a time."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from gossamer.topologies import Array, OneWay


class OnePeerExponential(OneWay):
    """In exchange t node i hears only i + 2^(t mod log2 n) (modulo n): exact averaging every log2 n rounds if n = 2^k.

    The weights are 1/2 each. After ceil(log2 n) exchanges in a row, whichever is the first, every node holds the exact
    mean if n is a power of two; otherwise only nearly.
    """

    source: ClassVar[str] = (
        "Assran, Loizou, Ballas and Rabbat 2019; Ying, Yuan, Chen, Hu, Pan and Yin 2021, eq. 7, lemma 1"
    )
    overlay: ClassVar[bool] = True
    cyclic: ClassVar[bool] = True

    kind: Literal["one_peer_exponential"] = "one_peer_exponential"

    @property
    def varies(self) -> bool:
        return True

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        if nodes == 1:
            return np.empty((0, 2), dtype=np.int64)
        receivers_N = np.arange(nodes)
        return np.stack([(receivers_N + self._hop(nodes, round)) % nodes, receivers_N], axis=1)

    def contraction(self, nodes: int) -> float | None:
        """Mean over a period of |b + (1 - b) w^hop|^2 for the worst w = exp(2 pi i k / n); 1 - 1/log2 n if n = 2^k.

        The Fourier modes are the eigenvectors of all rounds.
        """
        if nodes == 1:
            return 0.0
        own = 0.5 if self.own_weight is None else self.own_weight
        angle_K = 2 * np.pi * np.arange(1, nodes // 2 + 1) / nodes
        cosine_K = np.mean([np.cos(angle_K * self._hop(nodes, t)) for t in range((nodes - 1).bit_length())], axis=0)
        return float(own**2 + (1 - own) ** 2 + 2 * own * (1 - own) * cosine_K.max())

    def caveat(self, nodes: int) -> str:
        if nodes & (nodes - 1) == 0:
            return ""
        power = 1 << (nodes.bit_length() - 1)
        return (
            f"topology.kind = 'one_peer_exponential': {nodes} nodes are no power of two, so its rounds never add up to "
            f"the exact mean, only near it; {power} or {2 * power} nodes would reach it"
        )

    @staticmethod
    def _hop(nodes: int, round: int) -> int:
        return 1 << round % (nodes - 1).bit_length()
