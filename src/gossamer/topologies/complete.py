"""The complete graph."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from gossamer.topologies import Array, Topology


class Complete(Topology):
    """Every node hears every other; one exchange is the exact average."""

    overlay: ClassVar[bool] = True
    exchangeable: ClassVar[bool] = True

    kind: Literal["complete"] = "complete"

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        receivers, senders = np.nonzero(~np.eye(nodes, dtype=bool))
        return np.stack([senders, receivers], axis=1)
