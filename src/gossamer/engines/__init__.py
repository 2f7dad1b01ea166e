"""Engines: how messages get from nodes to receivers, in rounds or by the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from gossamer.federation import Outcome
    from gossamer.topologies import Array


class Round:
    """What happened in one round."""

    def __init__(self, round: int, participants: Array, nodes: int) -> None:
        self.round, self.participants = round, participants
        self.outcomes: list[Outcome] = []
        self.communicated = False
        self.transfers = 0
        """Models sent, both directions at a server."""
        self.sent_N = np.zeros(nodes, np.int64)
        """Bytes each node sent."""
        self.received_N = np.zeros(nodes, np.int64)
        self.lost_bytes = 0
        """Bytes that a server sent in vain."""
        self.watched = False
        """Whether it is measured what attacks do to the results."""
        self.rejected = 0
        """Messages that no receiver could use."""
        self.summed: int | None = None
        """In a secure sum: messages in it; 0: too few were left to open it."""
        self.robustness: dict[str, float] = {}
        """What attacks did to the results, means over the honest receivers."""
        self.clock = 0.0
        """Simulated seconds since the start of the run, at the end of the round."""
        self.seconds = {"train": 0.0, "exchange": 0.0, "merge": 0.0}


class Engine(Protocol):
    """Plays one round after the other. What it has spent and what time it is lasts from round to round."""

    spent: int
    """Model transfers so far."""
    clock: float
    """Simulated seconds so far."""

    def train(self, round: int) -> Round:
        """Local work."""

    def exchange(self, result: Round) -> None:
        """Exchange and merge."""
