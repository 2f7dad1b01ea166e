"""Eager: one process, one node after the other. The reference, and where `breakpoint()` works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gossamer.backends import Job
from gossamer.counts import Counts
from gossamer.evaluation import evaluate_merged, evaluate_node

if TYPE_CHECKING:
    from gossamer.federation import Federation, Outcome, Work
    from gossamer.topologies import Array
    from gossamer.wire import Message


class Eager:
    """Runs everything in the calling process."""

    name = "eager"
    workers = 1

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self._done: dict[Work, Outcome] = {}

    def train(self, round: int, participants: Array) -> Iterator[tuple[Outcome, Message]]:
        """One participant after the other."""
        for node in participants.tolist():
            yield work(self.federation, node, round, participants)

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


def work(federation: Federation, node: int, round: int, participants: Array) -> tuple[Outcome, Message]:
    """Local work of one node; its message also goes where the federation keeps messages."""
    into = {name: rows[node] for name, rows in federation.sent.items()}
    return federation.local_work(node, round, participants, into or None)


def measure(federation: Federation, job: Job) -> tuple[Counts, Counts]:
    """One evaluation."""
    if job.node >= 0:
        return evaluate_node(federation, job.node, job.round, job.test, job.before)
    return Counts.none(len(federation.shards.classes)), evaluate_merged(federation, job.round, job.start, job.stop)
