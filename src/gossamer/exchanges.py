"""Exchanges: which links carry a model at the end of a round, what that costs, and what is left of the budget.

A topology says who could talk to whom, a schedule how much of that is used; what comes out depends on the seed and the
round alone (and on the models, if the schedule looks at them), so that a plan can count it all beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.clocks import kept
from gossamer.errors import ExperimentError
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.schedules import ALL
from gossamer.spectra import stochasticity

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from gossamer.experiment import Experiment
    from gossamer.schedules import Observed
    from gossamer.topologies import Topology

Array = np.ndarray[Any, Any]


DOZEN = 12
"""Rounds that are looked at beforehand: some may have no link by chance."""


@dataclass(frozen=True)
class Exchange:
    """One exchange among the participants of a round."""

    round: int
    """Counted on for further exchanges at the end of the run."""
    edges_E2: Array
    """Links used, (sender, receiver); none in an all-reduce."""
    heard_E2: Array
    """Those of them whose message is not lost."""
    everyone: bool
    """Whether it is an all-reduce, after which every participant holds the same mean."""
    transfers: int
    """Models sent: one for each link; for an all-reduce among m nodes 2(m-1), or m(m-1) where messages are in a code
    that cannot be added up."""


class Exchanges:
    """The exchanges of one experiment on a graph, round by round."""

    def __init__(
        self, experiment: Experiment, nodes: int, message_bytes: int, topology: Topology | None = None
    ) -> None:
        self.schedule, self.topology = experiment.schedule, topology or experiment.topology
        self.nodes, self.rounds, self.seed = nodes, experiment.rounds, experiment.seed
        self.method, self.clock = experiment.method, experiment.clock
        self.on_graph = experiment.method.world == "graph"
        self.limit = self.schedule.limit(message_bytes)
        self.adds = all(step.masks for step in (*experiment.method.packing(down=False), *experiment.transforms))
        """Whether messages can be added up on their way, as an all-reduce does; else everybody must hear everybody."""
        self._fixed: Array | None = None

    def links(self, round: int, share: float = 1.0) -> Array:
        """Directed edges (sender, receiver) of a round at a share of the topology's links, whoever is absent."""
        if not self.on_graph:
            return np.empty((0, 2), np.int64)
        if self.topology.varies or share < 1:
            key = self.schedule.turn(round, self.rounds) if self.topology.cyclic else round
            return edges_of(self.topology, self.nodes, self.seed, key, share)
        if self._fixed is None:
            self._fixed = edges_of(self.topology, self.nodes, self.seed)
        return self._fixed

    def ends(self, round: int) -> bool:
        """Whether a round may end in an exchange; on a graph not all do."""
        schedule = self.schedule
        if not self.on_graph or schedule.looks or self.clock.kind == "events":
            return True
        last = round == self.rounds - 1 and schedule.final != "none"
        return last or schedule.intensity(round, self.rounds) > 0

    def of(self, round: int, participants: Array, spent: int, observed: Observed | None = None) -> list[Exchange]:
        """The exchanges that end a round, one after the other, when `spent` transfers of the budget are gone."""
        schedule = self.schedule
        if round == self.rounds - 1 and schedule.final != "none":
            return self._final(participants)
        if observed is None:
            intensity = schedule.intensity(round, self.rounds)
        else:
            intensity = schedule.decide(round, self.rounds, observed)
        return self.at(intensity, round, participants, spent)

    def at(self, intensity: float, round: int, participants: Array, spent: int) -> list[Exchange]:
        """The exchanges of a round of this intensity, which is not the end of the run, as far as the budget pays."""
        if intensity <= 0:
            return []
        found = self._one(round, intensity, participants)
        return [found] if 0 < found.transfers <= self.limit - self.reserved - spent else []

    @cached_property
    def reserved(self) -> int:
        """Transfers that the end of the run will take."""
        if self.schedule.final == "none":
            return 0
        everybody = np.arange(self.nodes)
        return sum(exchange.transfers for exchange in self._final(everybody))

    def check(self) -> None:
        """Raise ExperimentError where the budget does not pay for the end of the run, or W is not what is needed."""
        if not self.on_graph:
            return
        topology, everybody = self.topology, np.arange(self.nodes)
        wanted = [round for round in range(self.rounds) if self.schedule.intensity(round, self.rounds) > 0][:DOZEN]
        for round in wanted if self.method.requires != "row" else ():
            self.mixing(self._one(round, min(1.0, self.schedule.intensity(round, self.rounds)), everybody))
        if self.reserved > self.limit:
            raise ExperimentError(
                f"schedule.budget = {self.limit:g}: the end of the run alone (schedule.final = "
                f"'{self.schedule.final}') takes {self.reserved} model transfers; raise it or use final = 'none'"
            )
        if self.reserved or self.nodes == 1 or self.schedule.looks:
            return
        if not any(self.of(round, everybody, 0) for round in wanted):
            limit = f" with a budget of {self.limit:g} model transfers" if self.limit < ALL else ""
            raise ExperimentError(
                f"topology.kind = '{topology.kind}' and schedule.kind = '{self.schedule.kind}'{limit} never send "
                "anything; give more links or a larger budget, or use method = 'local'"
            )

    def require(self, W_NN: csr_array, round: int) -> None:
        """Raise ExperimentError where the mixing weights of a round are not what the method requires."""
        needed, topology = self.method.requires, self.topology
        found = stochasticity(W_NN) if needed != "row" or topology.weights == "out_degree" else needed
        if found in (needed, "doubly"):
            return
        told = f"own_weight = {topology.own_weight:g}" if topology.own_weight is not None else f"'{topology.weights}'"
        fix = {
            "row": "use topology.weights = 'uniform'",
            "column": "use topology.weights = 'out_degree'",
            "doubly": "use an undirected topology with weights = 'metropolis', or a regular directed one such as "
            "'exponential' with all nodes and links in every round",
        }[needed]
        needs = {"doubly": "rows and columns both sum", "row": "rows sum", "column": "columns sum"}[needed]
        raise ExperimentError(
            f"method.kind = '{self.method.kind}' needs mixing weights whose {needs} to 1, but in round {round + 1} "
            f"topology.kind = '{topology.kind}' with weights {told} has a matrix "
            f"{'with neither' if found == 'none' else f'that is {found}-stochastic only'}; {fix}"
        )

    def mixing(self, exchange: Exchange) -> csr_array:
        """The mixing matrix of an exchange over links; who hears nobody keeps its own row.

        What a receiver would have given to a message that got lost it keeps for itself, or shares out again where the
        weights are uniform. Raises ExperimentError where the method requires other weights.
        """
        topology, edges_E2, heard_E2 = self.topology, exchange.edges_E2, exchange.heard_E2
        if len(heard_E2) == len(edges_E2) or topology.weights != "metropolis" or topology.own_weight is not None:
            W_NN = mixing_matrix(heard_E2, self.nodes, topology.weights, own_weight=topology.own_weight)
            self.require(W_NN, exchange.round)
            return W_NN
        planned_NN = mixing_matrix(edges_E2, self.nodes, topology.weights)
        arrives_NN = mixing_matrix(heard_E2, self.nodes, "uniform").astype(bool)
        heard_NN = planned_NN.multiply(arrives_NN).tocsr()
        heard_NN.setdiag(heard_NN.diagonal() + 1.0 - heard_NN.sum(axis=1))
        heard_NN.sort_indices()
        return heard_NN

    def traffic(self, exchange: Exchange, participants: Array, sizes_N: Array) -> tuple[Array, Array]:
        """Bytes that each node sends and receives in an exchange; what is lost is sent, not received. `sizes_N` are the
        bytes of each node's message.

        An all-reduce sends every part of a model 2(m-1) times (a reduce-scatter and an all-gather), shared evenly.
        """
        if exchange.everyone:
            share_N = np.zeros(self.nodes, np.int64)
            # Of m messages every byte goes transfers / m times: messages of one size s make transfers * s bytes.
            moved = exchange.transfers * int(sizes_N[participants].sum()) // len(participants)
            each, rest = divmod(moved, len(participants))
            share_N[participants] = each
            share_N[participants[:rest]] += 1
            return share_N, share_N
        sent_N = np.bincount(exchange.edges_E2[:, 0], minlength=self.nodes) * sizes_N
        heard_E2 = exchange.heard_E2
        received_N = np.bincount(heard_E2[:, 1], weights=sizes_N[heard_E2[:, 0]], minlength=self.nodes)
        return sent_N, received_N.astype(np.int64)

    def _final(self, participants: Array) -> list[Exchange]:
        last = self.rounds - 1
        if self.schedule.final == "merge":
            return [self._one(last, ALL, participants)]
        return [self._one(last + i, 1.0, participants) for i in range(self.schedule.final_rounds)]

    def _one(self, round: int, intensity: float, participants: Array) -> Exchange:
        if intensity == ALL:
            none_E2 = np.empty((0, 2), np.int64)
            m = len(participants)
            return Exchange(round, none_E2, none_E2, True, (2 if self.adds else m) * (m - 1))
        edges_E2 = self.links(round, intensity)
        if len(participants) < self.nodes:
            edges_E2 = edges_E2[np.isin(edges_E2, participants).all(axis=1)]
        return Exchange(round, edges_E2, kept(self.clock, edges_E2, self.seed, round), False, len(edges_E2))
