"""Eager: one process, one node after the other. The reference, and where `breakpoint()` works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gossamer.backends import Job
from gossamer.counts import Counts
from gossamer.evaluation import evaluate_merged, evaluate_node
from gossamer.mixing import mix

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from gossamer.federation import Federation, Outcome, Work
    from gossamer.topologies import Array
    from gossamer.wire import Message


AHEAD = 16
"""Nodes whose batches are gathered together."""


class Eager:
    """Runs everything in the calling process."""

    name = "eager"
    workers = 1

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self._done: dict[Work, Outcome] = {}

    def train(self, round: int, participants: Array) -> Iterator[tuple[Outcome, Message]]:
        """One participant after the other."""
        federation = self.federation
        for place, node in enumerate(participants.tolist()):
            if place % AHEAD == 0:
                federation.items.look_ahead(participants[place : place + AHEAD], federation.experiment, round)
            yield work(self.federation, node, round, participants)

    def mix(self, W_NN: csr_array) -> None:
        """All receivers at once."""
        mix_rows(self.federation, W_NN, 0)

    def submit(self, work: Work) -> None:
        """Do it now."""
        self._done[work] = self.federation.begun_work(work)

    def collect(self, work: Work) -> Outcome:
        """What it gave."""
        return self._done.pop(work)

    def evaluate(self, jobs: list[Job]) -> Iterator[tuple[Counts, Counts]]:
        """One job after the other."""
        for job in jobs:
            yield measure(self.federation, job)

    def close(self) -> None:
        """Nothing to release."""


def mix_rows(federation: Federation, W_RN: csr_array, first: int) -> None:
    """The states of the receivers `first`, `first` + 1, ... from the rows of W."""
    for name, rows in federation.sent.items():
        states = federation.population.state[name][first : first + W_RN.shape[0]]
        mix(W_RN, rows.flatten(1), states.flatten(1))


def work(federation: Federation, node: int, round: int, participants: Array) -> tuple[Outcome, Message]:
    """Local work of one node; its message also goes where the federation keeps messages."""
    into = {name: rows[node] for name, rows in federation.sent.items()}
    return federation.local_work(node, round, participants, into or None)


def measure(federation: Federation, job: Job) -> tuple[Counts, Counts]:
    """One evaluation."""
    if job.node >= 0:
        return evaluate_node(federation, job.node, job.round, job.test, job.before)
    return Counts.none(len(federation.shards.classes)), evaluate_merged(federation, job.round, job.start, job.stop)
