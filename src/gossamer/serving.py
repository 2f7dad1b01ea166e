"""A server by the clock: what happens when nodes work for a server that does not wait for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gossamer.clocks import NANO
from gossamer.operations import Lost, Merge, Start
from gossamer.randomness import generator
from gossamer.timeline import ARRIVE, EVERYBODY, HAND, START, Timeline

if TYPE_CHECKING:
    from gossamer.churn import Churn
    from gossamer.clocks.events import Events


@dataclass(frozen=True, slots=True)
class Errand:
    """A work that a node does for the server, from the hand-out to the arrival of its result."""

    noticed: int
    """When its result arrives, or the server notices that it does not."""
    free: int
    """When the node has sent the result and rested."""
    lost: bool
    snapshot: int = -1
    result: int = -1
    version: int = 0
    """Merges that the server had done when it handed out its model."""


class Serving(Timeline):
    """A server and the nodes that work for it; see `gossamer.clocks.events`.

    HAND the server gives its model to a node; START the node's work; ARRIVE its result comes, or is missed.
    """

    def __init__(
        self,
        clock: Events,
        nodes: int,
        rounds: int,
        seed: int,
        steps_N: list[int],
        up_bytes: int,
        down_bytes: int,
        buffered: int,
        churn: Churn | None,
    ) -> None:
        concurrency = nodes if clock.concurrency is None else clock.concurrency
        super().__init__(clock, nodes, rounds, seed, steps_N, concurrency, churn)
        self.up_bytes, self.down_bytes, self.buffered = up_bytes, down_bytes, buffered
        self.upload = clock.upload(up_bytes)
        self.busy_N = np.zeros(nodes, dtype=bool)
        self.free_from_N = np.zeros(nodes, dtype=np.int64)
        self.handed = self.merges = 0
        self.buffer: list[tuple[int, int, Errand]] = []
        """Node, tick and errand of the results that wait to be merged."""
        self.handlers = {HAND: self.hand_out, START: self.start, ARRIVE: self.arrive}
        for _ in range(concurrency):
            self.at(0, HAND, EVERYBODY)

    def hand_out(self, time: int, node: int, note: None) -> None:
        """Give the model to a node drawn from those that are up and free, or wait for the first."""
        idle = np.flatnonzero(~self.busy_N)
        free = idle[self.free_from_N[idle] <= time]
        if self.churn is not None:
            free = free[[self.is_up(i, time) for i in free.tolist()]]
        if not len(free):
            rested = np.maximum(time, self.free_from_N[idle]).tolist()
            first = min(self.up_at(i, t) for i, t in zip(idle.tolist(), rested, strict=True))
            self.at(first, HAND, EVERYBODY)
            return
        node = int(free[generator(self.seed, "next node", round=self.handed).integers(len(free))])
        way, back = self.clock.lost(self.seed, node, self.handed, 2)
        self.handed += 1
        self.transfer()
        self.busy_N[node] = True
        begin, down = time + self.latency, self.down_after(node, time)
        end = self.work_ends(begin, node)
        sent = end + self.upload
        if way or down <= end:
            # Nothing comes of it: the server looks for another node as soon as it can know.
            missed = min(begin, down) if way else down
            if not way and begin < down:
                self.receive(node, self.down_bytes)
            else:
                self.lost_down += 1
            self.at(missed, ARRIVE, node, None)
            return
        lost = back or down < sent
        noticed = down if down < sent else sent + self.latency
        free_from = sent + self.clock.rest(self.seed, node, self.done[node])
        self.at(time, START, node, Errand(noticed, free_from, lost))

    def start(self, time: int, node: int, errand: Errand) -> None:
        """A work begins, from the server's model as it is now."""
        snapshot, result = self.snapshots.take(), self.mail.take()
        self.receive(node, self.down_bytes)
        self.out.append(Start(time / NANO, node, self.done[node], snapshot, result))
        begun = Errand(errand.noticed, errand.free, errand.lost, snapshot, result, self.merges)
        self.at(errand.noticed, ARRIVE, node, begun)

    def arrive(self, time: int, node: int, errand: Errand | None) -> None:
        """A result comes, or is missed (None: there was no work); the server merges when enough have come."""
        self.busy_N[node] = False
        self.at(time, HAND, EVERYBODY)
        if errand is None:
            return
        tick = self.done[node]
        self.done[node] += 1
        self.free_from_N[node] = errand.free
        self.send(node, self.up_bytes)
        if errand.lost:
            self.out.append(Lost(time / NANO, node, tick, errand.snapshot, errand.result))
            self.snapshots.release(errand.snapshot)
            self.mail.release(errand.result)
            return
        self.buffer.append((node, tick, errand))
        self.count(time)
        if len(self.buffer) == self.buffered:
            self.merge(time)

    def merge(self, time: int) -> None:
        """The server merges all results that wait."""
        errands = [errand for _, _, errand in self.buffer]
        self.out.append(
            Merge(
                time=time / NANO,
                slots=tuple(errand.result for errand in errands),
                snapshots=tuple(errand.snapshot for errand in errands),
                senders=tuple(node for node, _, _ in self.buffer),
                ticks=tuple(tick for _, tick, _ in self.buffer),
                staleness=tuple(self.merges - errand.version for errand in errands),
            )
        )
        self.merges += 1
        for errand in errands:
            self.snapshots.release(errand.snapshot)
            self.mail.release(errand.result)
        self.buffer = []
