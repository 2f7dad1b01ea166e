"""A server that all nodes talk to."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from gossamer.topologies import Array, Topology


class Server(Topology):
    """One server hears all participants and answers them; it holds no data."""

    has_server: ClassVar[bool] = True

    kind: Literal["server"] = "server"

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        """No edges between nodes."""
        return np.empty((0, 2), dtype=np.int64)
