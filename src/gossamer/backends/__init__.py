"""Back ends: where the nodes' local work and evaluations run.

All give the same result for the same experiment: eager and parallel bitwise, vmap to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from gossamer.counts import Counts
    from gossamer.federation import Outcome, Work
    from gossamer.topologies import Array
    from gossamer.wire import Message


@dataclass(frozen=True)
class Job:
    """One evaluation: of a node's own model (node >= 0), or of the merged row on test items start..stop (node = -1)."""

    node: int
    round: int
    test: bool = True
    start: int = 0
    stop: int = 0
    before: bool = False
    """Whether the node's model is taken as its local work left it, before the exchange of the round."""


class Backend(Protocol):
    """Runs local work and evaluations, in whatever order, and hands back what they gave in the order asked."""

    name: str
    workers: int

    def train(self, round: int, participants: Array) -> Iterator[tuple[Outcome, Message]]:
        """Outcome and message of each participant, in order. Messages are valid until the next one is asked for.

        Where the federation keeps messages (`federation.sent`), they are written there as well.
        """

    def mix(self, W_NN: csr_array) -> None:
        """On a graph: the state of every node becomes its row of W @ sent."""

    def submit(self, work: Work) -> None:
        """By the clock: begin local work; what it needs stays as it is until it is collected."""

    def collect(self, work: Work) -> Outcome:
        """By the clock: wait for local work that was submitted; its message is then in its mail slot."""

    def evaluate(self, jobs: list[Job]) -> Iterator[tuple[Counts, Counts]]:
        """(validation, test) counts of each job, in order."""

    def close(self) -> None:
        """Release processes."""
