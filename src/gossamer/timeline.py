"""The timeline of a simulation: events in order, slots, uplinks, and the ends of rounds.

What happens at one instant happens in a fixed order: by priority, then by node, then in the order in which it was
arranged. Works end (WORK), then messages leave (SEND), then nodes are ready to exchange (READY), requests are answered
(REQUEST), messages arrive (ARRIVE), are merged (MIX), then rounds end (FINISHED), and only then does a server hand out
its model (HAND) and new work begin (START).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from gossamer.clocks import NANO, NEVER, nanoseconds, speeds_of
from gossamer.operations import Finished, Operation

if TYPE_CHECKING:
    from gossamer.churn import Churn
    from gossamer.clocks.events import Events

WORK, SEND, READY, REQUEST, ARRIVE, MIX, FINISHED, HAND, START = range(9)
EVERYBODY = -1


class Slots:
    """Numbered places, taken lowest first; each is free again when all who hold it have let go."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._holders: list[int] = []
        self.content: dict[int, tuple[int, int]] = {}
        """What a slot in use holds, where that was said: (node, version of its model)."""

    def take(self, holders: int = 1) -> int:
        """The lowest free slot."""
        if self._free:
            slot = heappop(self._free)
            self._holders[slot] = holders
            return slot
        self._holders.append(holders)
        return len(self._holders) - 1

    def hold(self, slot: int, holders: int) -> None:
        """Let others hold a slot too."""
        self._holders[slot] += holders

    def release(self, slot: int) -> bool:
        """One holder lets go; whether the slot is now free."""
        self._holders[slot] -= 1
        if self._holders[slot]:
            return False
        self.content.pop(slot, None)
        heappush(self._free, slot)
        return True


class Timeline:
    """Plays events in order. A world (`gossiping`, `serving`) says what each sort of event does, in `handlers`.

    A handler gets (time in nanoseconds, node, what was noted with the event), may note further events with `at` and
    appends operations to `out`. A round ends after `cohort` calls of `count`.
    """

    def __init__(
        self, clock: Events, nodes: int, rounds: int, seed: int, steps_N: list[int], cohort: int, churn: Churn | None
    ) -> None:
        self.clock, self.nodes, self.rounds, self.seed = clock, nodes, rounds, seed
        self.steps_N, self.cohort, self.churn = steps_N, cohort, churn
        self.speeds_N = speeds_of(clock, nodes, seed)
        self.latency = nanoseconds(clock.latency)
        self.handlers: dict[int, Callable[[int, int, Any], None]] = {}
        self.out: list[Operation] = []
        self.snapshots, self.mail = Slots(), Slots()
        self.done = [0] * nodes
        """Works that each node has done."""
        self.uplink = [0] * nodes
        """When each node's uplink has sent all that it was given."""
        self.spent = 0
        """Transfers so far."""
        self._events: list[tuple[int, int, int, int, Any]] = []
        self._noted = self._counted = 0
        self._sent, self._received, self._transfers = [0] * nodes, [0] * nodes, 0
        self.lost_down = 0
        """Models of a server that never arrived, since the last round ended."""

    def at(self, time: int, priority: int, node: int, note: Any = None) -> None:
        """Arrange an event."""
        self._noted += 1
        heappush(self._events, (time, priority, node, self._noted, note))

    def play(self) -> Iterator[Operation]:
        """All operations until the last round has ended. Raises ExperimentError when no node is alive."""
        round = 0
        while round < self.rounds:
            time, priority, node, _, note = heappop(self._events)
            if self.churn is not None:
                self.churn.check(time)
            if priority == FINISHED:
                counts = tuple(self._sent), tuple(self._received), self._transfers, self.lost_down
                yield Finished(time / NANO, round, *counts)
                self._sent, self._received, self._transfers = [0] * self.nodes, [0] * self.nodes, 0
                self.lost_down = 0
                round += 1
            else:
                self.handlers[priority](time, node, note)
                yield from self.out
                self.out.clear()

    # ---- what both worlds need -----------------------------------------------------------------------------------

    def count(self, time: int) -> None:
        """One more work has come to its end."""
        self._counted += 1
        if self._counted % self.cohort == 0:
            self.at(time, FINISHED, EVERYBODY)

    def send(self, node: int, size: int, transfers: int = 1) -> None:
        """Count messages that a node sends, of `size` bytes each."""
        self._sent[node] += size * transfers
        self.transfer(transfers)

    def transfer(self, transfers: int = 1) -> None:
        """Count messages."""
        self._transfers += transfers
        self.spent += transfers

    def receive(self, node: int, size: int) -> None:
        """Count a message that a node receives."""
        self._received[node] += size

    def work_ends(self, time: int, node: int) -> int:
        """When the work that a node begins at `time` is done."""
        return time + self.clock.work(self.seed, node, self.done[node], self.steps_N[node], self.speeds_N[node])

    def is_up(self, node: int, time: int) -> bool:
        """Whether a node is up."""
        return self.churn is None or self.churn.is_up(node, time)

    def up_at(self, node: int, time: int) -> int:
        """When a node is up next, `time` or later."""
        return time if self.churn is None else self.churn.up_at(node, time)

    def down_after(self, node: int, time: int) -> int:
        """When a node that is up at `time` goes down next."""
        return NEVER if self.churn is None else self.churn.down_after(node, time)
