"""The static exponential graph."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from gossamer.topologies import Array, OneWay


class Exponential(OneWay):
    """Node i hears i + 1, i + 2, i + 4, i + 8, ... (modulo the number of nodes n): log2 n others, one way.

    W is circulant, so uniform weights are doubly stochastic. For even n its spectral gap is 2 / (1 + ceil(log2 n)).
    """

    source: ClassVar[str] = "Ying, Yuan, Chen, Hu, Pan and Yin 2021, eq. 5 and prop. 1"
    overlay: ClassVar[bool] = True

    kind: Literal["exponential"] = "exponential"

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        hop_J = 1 << np.arange((nodes - 1).bit_length())
        senders_NJ = np.sort((np.arange(nodes)[:, None] + hop_J) % nodes, axis=1)
        return np.stack([senders_NJ.ravel(), np.repeat(np.arange(nodes), len(hop_J))], axis=1)

    def contraction(self, nodes: int) -> float | None:
        if nodes % 2 or self.own_weight is not None:
            return None
        return (1 - 2 / (1 + (nodes - 1).bit_length())) ** 2
