"""A secure sum as a round of a run plays it: the whole protocol in one process, or only its integers.

The sum is the same, bit for bit, as masks cancel exactly; what is lost when is drawn beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gossamer.sealing import attendance, protocol_bytes
from gossamer.secure.protocol import Coordinator, Participant

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.federation import Federation
    from gossamer.secure.masks import Vector
    from gossamer.topologies import Array
    from gossamer.wire import Message


class SealedRound:
    """One round's sum, fed with one participant's integers after the other."""

    def __init__(self, federation: Federation, round: int, participants: Array) -> None:
        assert federation.seal is not None
        self.seal, self.attended = federation.seal, attendance(federation.experiment, participants, round)
        self.sent_N, self.received_N = protocol_bytes(self.attended, federation.nodes, self.seal.length)
        self._total_L: Vector = np.zeros(self.seal.length, np.uint32)
        self._nodes: dict[int, Participant] = {}
        self._server: Coordinator | None = None
        if self.seal.secure.masked and self.attended.opens:
            self._begin(round, participants)

    def _begin(self, round: int, participants: Array) -> None:
        """The steps before there is anything to sum: keys, and shares of what the masks come from."""
        advertised, shared = self.attended.left[:2]
        threshold, length = self.attended.threshold, self.seal.length
        self._server = Coordinator(round, participants.tolist(), threshold, length)
        self._nodes = {node: Participant(node, round, threshold, length) for node in advertised}
        for node in advertised:
            self._server.accept(self._nodes[node].advertise())
        roster = self._server.roster()
        for node in shared:
            self._server.accept(self._nodes[node].share(roster))
        self._deliveries = self._server.deliveries()

    def add(self, node: int, message: Message) -> None:
        """One participant's integers; those that do not arrive are not looked at."""
        if node not in self.attended.summed:
            return
        values_L = message["values"].numpy().view(np.uint32)
        if self._server is None:
            self._total_L += values_L
        else:
            self._server.accept(self._nodes[node].mask(values_L, self._deliveries[node]))

    def opened(self) -> tuple[dict[str, Tensor], float]:
        """(the mean of encoded messages, their total weight); to be asked only where the sum opens."""
        if self._server is not None:
            survivors = self._server.survivors()
            for node in self.attended.left[3]:
                self._server.accept(self._nodes[node].reveal(survivors))
            self._total_L = self._server.total()
        return self.seal.opened(self._total_L)
