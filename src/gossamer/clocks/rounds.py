"""Synchronous rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gossamer.clocks import Clock
from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from gossamer.schedules import Schedule
    from gossamer.topologies import Topology


class Rounds(Clock):
    """Everybody works, everybody sends, everybody waits for the slowest; the time of a round has a closed form.

    What is lost (`drop`) is lost for that round: on a graph the receiver does without.
    """

    kind: Literal["rounds"] = "rounds"

    def check(self, world: str, topology: Topology, schedule: Schedule, rounds: int) -> None:
        if world == "server" and self.drop:
            raise ExperimentError(
                f"clock.drop = {self.drop:g}: with a server, a round waits for the messages of all its participants; "
                "use drop = 0 and schedule.participation, or clock.kind = 'events'"
            )
        column = topology.weights == "out_degree" and topology.own_weight is None
        if world == "graph" and self.drop and column:
            raise ExperimentError(
                f"clock.drop = {self.drop:g} with topology.weights = 'out_degree': push-sum cannot do without a "
                "message, it would lose mass; use drop = 0, or weights = 'uniform'"
            )
