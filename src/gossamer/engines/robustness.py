"""What attacks do to the result of one exchange: figures of each honest receiver, and their means.

hostile_weight    share of the weight that went to hostile messages, where a result is a combination of messages
cosine            of the result and of the mean of the honest messages, both as changes
kappa             ||result - honest mean||^2 over the mean squared distance of honest messages from that mean: a rule
                  is (f, kappa)-robust if this never exceeds kappa (Allouah et al. 2023, Definition 1)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gossamer.adversary import index
from gossamer.histories import remembered

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from torch import Tensor

    from gossamer.engines.receiving import Receiving
    from gossamer.federation import Federation
    from gossamer.topologies import Array


class Watch:
    """Gathers the figures of the receivers of one exchange."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.name = remembered(federation.received_like)
        self._found: dict[str, list[float]] = {"hostile_weight": [], "cosine": [], "kappa": []}

    def server(self, receiving: Receiving, heard: Array, weights: list[float], fields: dict[str, Tensor]) -> None:
        """The server's, or in an all-reduce everybody's."""
        given: Array | None = None
        if receiving.rule.linear:
            given = np.asarray(weights)
        elif receiving.combines and not receiving.rule.trusts:
            heard, given = receiving.combination(self.name, heard, np.asarray(weights), -1)
        self._add(heard, given, fields[self.name], None)

    def neighbour(
        self,
        receiving: Receiving,
        heard: Array,
        weights: Array,
        fields: dict[str, Tensor],
        receiver: int,
        by_name: dict[str, csr_array],
    ) -> None:
        """One honest neighbour's."""
        given: Array | None = None
        if by_name:
            matrix_NN = by_name[self.name]
            span = slice(matrix_NN.indptr[receiver], matrix_NN.indptr[receiver + 1])
            self._weigh(matrix_NN.indices[span], matrix_NN.data[span])
        elif receiving.rule.linear:
            given = weights
        self._add(heard, given, fields[self.name], receiver)

    def _weigh(self, heard: Array, given: Array) -> None:
        total = float(np.abs(given).sum())
        if total > 0:
            bad = float(np.abs(given[self.federation.placement.is_hostile[heard]]).sum())
            self._found["hostile_weight"].append(bad / total)

    def _add(self, heard: Array, given: Array | None, result: Tensor, receiver: int | None) -> None:
        if given is not None:
            self._weigh(heard, given)
        honest = heard[~self.federation.placement.is_hostile[heard]]
        if not len(honest):
            return
        rows_ND = self.federation.sent[self.name].flatten(1)[index(honest)].double()
        mean_D, result_D = rows_ND.mean(0), result.flatten().double()
        spread = float((rows_ND - mean_D).square().sum()) / len(honest)
        if spread > 0:
            self._found["kappa"].append(float((result_D - mean_D).square().sum()) / spread)
        state = self.federation.population.state.get(self.name)
        if not self.federation.has_server and state is not None and state.shape[1:] == result.shape:
            began = state[index(honest)].flatten(1).mean(0) if receiver is None else state[receiver].flatten()
            base_D = began.double()
            mean_D, result_D = mean_D - base_D, result_D - base_D
        length = float(mean_D.norm() * result_D.norm())
        if length > 0:
            self._found["cosine"].append(float(mean_D @ result_D) / length)

    def means(self) -> dict[str, float]:
        """Each figure's mean over the receivers that have it."""
        return {name: math.fsum(v) / len(v) for name, v in self._found.items() if v and math.isfinite(math.fsum(v))}
