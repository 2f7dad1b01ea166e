"""Exchanges: which links carry a model at the end of a round, what that costs, and what is left of the budget.

A topology says who could talk to whom, a schedule how much of that is used; what comes out depends on the seed and the
round alone (and on the models, if the schedule looks at them), so that a plan can count it all beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.schedules import ALL
from gossamer.spectra import stochasticity

if TYPE_CHECKING:
    from gossamer.experiment import Experiment
    from gossamer.schedules import Observed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Exchange:
    """One exchange among the participants of a round."""

    edges_E2: Array
    """Links used, (sender, receiver); none in an all-reduce."""
    everyone: bool
    """Whether it is an all-reduce, after which every participant holds the same mean."""
    transfers: int
    """Models sent: one for each link, 2(m-1) for an all-reduce among m nodes."""


class Exchanges:
    """The exchanges of one experiment on a graph, round by round."""

    def __init__(self, experiment: Experiment, nodes: int) -> None:
        self.schedule, self.topology = experiment.schedule, experiment.topology
        self.nodes, self.rounds, self.seed = nodes, experiment.rounds, experiment.seed
        self.method = experiment.method
        self.on_graph = experiment.method.world == "graph"
        self._fixed: Array | None = None

    def links(self, round: int, share: float = 1.0) -> Array:
        """Directed edges (sender, receiver) of a round at a share of the topology's links, whoever is absent."""
        if not self.on_graph:
            return np.empty((0, 2), np.int64)
        if self.topology.varies or share < 1:
            return edges_of(self.topology, self.nodes, self.seed, round, share)
        if self._fixed is None:
            self._fixed = edges_of(self.topology, self.nodes, self.seed)
        return self._fixed

    def of(self, round: int, participants: Array, spent: int, observed: Observed | None = None) -> list[Exchange]:
        """The exchanges that end a round, one after the other, when `spent` transfers of the budget are gone."""
        schedule = self.schedule
        if round == self.rounds - 1 and schedule.final != "none":
            return self._final(participants)
        if observed is None:
            intensity = schedule.intensity(round, self.rounds)
        else:
            intensity = schedule.decide(round, self.rounds, observed)
        if intensity <= 0:
            return []
        found = self._one(round, intensity, participants)
        if schedule.budget is not None and spent + found.transfers + self.reserved > schedule.budget:
            return []
        return [found] if found.transfers else []

    @cached_property
    def reserved(self) -> int:
        """Transfers that the end of the run will take."""
        if self.schedule.final == "none":
            return 0
        everybody = np.arange(self.nodes)
        return sum(exchange.transfers for exchange in self._final(everybody))

    def check(self) -> None:
        """Raise ExperimentError where the budget does not pay for the end of the run, or W is not what is needed."""
        if self.on_graph:
            self._check_weights()
        budget = self.schedule.budget
        if budget is not None and self.on_graph and self.reserved > budget:
            raise ExperimentError(
                f"schedule.budget = {budget:g}: the end of the run alone (schedule.final = '{self.schedule.final}') "
                f"takes {self.reserved} model transfers; raise the budget or use final = 'none'"
            )

    def _check_weights(self) -> None:
        needed, topology = self.method.requires, self.topology
        W_NN = mixing_matrix(self.links(0), self.nodes, topology.weights, own_weight=topology.own_weight)
        found = stochasticity(W_NN)
        if found in (needed, "doubly"):
            return
        told = f"own_weight = {topology.own_weight:g}" if topology.own_weight is not None else f"'{topology.weights}'"
        fix = {
            "row": "use topology.weights = 'uniform'",
            "column": "use topology.weights = 'out_degree'",
            "doubly": "use an undirected topology with weights = 'metropolis', or one such as 'exponential'",
        }[needed]
        needs = {"doubly": "both rows and columns", "row": "rows", "column": "columns"}[needed]
        raise ExperimentError(
            f"method.kind = '{self.method.kind}' needs mixing weights whose {needs} sum to 1, but topology.kind = "
            f"'{topology.kind}' with weights {told} gives "
            f"{'none' if found == 'none' else f'a matrix that is {found}-stochastic only'}; {fix}"
        )

    def _final(self, participants: Array) -> list[Exchange]:
        last = self.rounds - 1
        if self.schedule.final == "merge":
            return [self._one(last, ALL, participants)]
        return [self._one(last + i, 1.0, participants) for i in range(self.schedule.final_rounds)]

    def _one(self, round: int, intensity: float, participants: Array) -> Exchange:
        if intensity == ALL:
            return Exchange(np.empty((0, 2), np.int64), True, 2 * (len(participants) - 1))
        edges_E2 = self.links(round, intensity)
        if len(participants) < self.nodes:
            edges_E2 = edges_E2[np.isin(edges_E2, participants).all(axis=1)]
        return Exchange(edges_E2, False, len(edges_E2))
