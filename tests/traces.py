"""Independent readings of a trace of operations: a checker that plays it on names, and an oracle of who mixes what."""

from __future__ import annotations

from collections.abc import Iterable

from gossamer.clocks import NANO, nanoseconds, speeds_of
from gossamer.clocks.events import Events
from gossamer.mixing import edges_of
from gossamer.operations import Apply, Exchange, Finished, Lost, Merge, Mix, Operation, Send, Start
from gossamer.topologies import Topology

SIZE = 1000
"""Bytes of a message."""


class Replay:
    """Plays a trace with names in place of models, and asserts what must hold of every trace.

    A node trains one work at a time and in order; nobody writes into a slot that somebody still needs; what a merge
    reads is what its sender wrote, as old as the trace says; weights are a mean; rounds end when their works are done.
    """

    def __init__(self, nodes: int, cohort: int, operations: Iterable[Operation]) -> None:
        self.nodes, self.cohort, self.time = nodes, cohort, 0.0
        self.open: dict[int, Start] = {}
        """Works that are not applied, merged or lost, by their result slot."""
        self.begun, self.done = [0] * nodes, [0] * nodes
        self.touched = [False] * nodes
        self.mail: dict[int, object] = {}
        self.freed: set[int] = set()
        self.heard: dict[tuple[int, int], int] = {}
        self.versions: dict[int, int] = {}
        self.merges = self.ended = self.rounds = self.mixed = self.transfers = 0
        self.sent, self.received = [0] * nodes, [0] * nodes
        for operation in operations:
            assert operation.time >= self.time, "time goes back"
            self.time = operation.time
            getattr(self, type(operation).__name__.lower())(operation)

    def start(self, op: Start) -> None:
        assert op.snapshot not in {work.snapshot for work in self.open.values()}, "a snapshot is overwritten"
        assert op.result not in self.open, "a result is overwritten"
        assert op.tick == self.begun[op.node], "works out of order"
        self.begun[op.node] += 1
        self.open[op.result] = op
        self.freed.discard(op.result)
        self.mail[op.result] = op
        self.versions[op.result] = self.merges
        self.touched[op.node] = False

    def end(self, result: int, node: int, tick: int, snapshot: int) -> None:
        work = self.open.pop(result)
        assert (work.node, work.tick, work.snapshot) == (node, tick, snapshot)
        assert self.mail[result] is work, "a result was overwritten"
        self.done[node] += 1
        self.ended += 1

    def apply(self, op: Apply) -> None:
        self.end(op.result, op.node, op.tick, op.snapshot)
        assert self.begun[op.node] == self.done[op.node], "a node trains twice at once"
        assert op.untouched == (not self.touched[op.node])

    def lost(self, op: Lost) -> None:
        self.end(op.result, op.node, op.tick, op.snapshot)
        self.ended -= 1

    def merge(self, op: Merge) -> None:
        for slot, snapshot, sender, tick, stale in zip(
            op.slots, op.snapshots, op.senders, op.ticks, op.staleness, strict=True
        ):
            assert stale == self.merges - self.versions[slot]
            self.end(slot, sender, tick, snapshot)
        self.merges += 1

    def send(self, op: Send) -> None:
        assert op.slot not in self.open, "a message overwrites a result"
        assert op.tick == self.done[op.node] - 1
        self.mail[op.slot] = (op.node, op.tick)
        self.freed.discard(op.slot)

    def mix(self, op: Mix) -> None:
        assert list(op.senders) == sorted(set(op.senders) - {op.node})
        assert abs(sum(op.weights) + op.own_weight - 1) < 1e-12
        assert min(op.weights) > 0
        for slot, sender, stale in zip(op.slots, op.senders, op.staleness, strict=True):
            tick = self.done[op.node] - 1 - stale
            assert self.mail[slot] == (sender, tick), "a message was overwritten before it was merged"
            assert slot not in self.freed, "a slot is read after it was freed"
            assert tick >= self.heard.get((op.node, sender), -1), "an older message after a newer one"
            self.heard[op.node, sender] = tick
        assert set(op.freed) <= set(op.slots)
        self.freed |= set(op.freed)
        self.touched[op.node] = True
        self.mixed += len(op.slots)

    def exchange(self, op: Exchange) -> None:
        assert op.a != op.b
        self.touched[op.a] = self.touched[op.b] = True

    def finished(self, op: Finished) -> None:
        assert op.round == self.rounds
        self.rounds += 1
        self.transfers += op.transfers
        self.sent = [a + b for a, b in zip(self.sent, op.sent, strict=True)]
        self.received = [a + b for a, b in zip(self.received, op.received, strict=True)]
        assert min(op.sent) >= 0 <= min(op.received)


def pushed(
    clock: Events, topology: Topology, nodes: int, seed: int, works: int
) -> tuple[list[list[int]], list[list[tuple[int, int, int]]], list[list[int]]]:
    """When works end, messages arrive as (time, sender, tick) and next works begin, of each node, if it only depends on
    the node itself: models are pushed over a fixed graph and nobody is ever down."""
    edges = edges_of(topology, nodes, seed).tolist()
    ends: list[list[int]] = [[] for _ in range(nodes)]
    begins: list[list[int]] = [[] for _ in range(nodes)]
    arrivals: list[list[tuple[int, int, int]]] = [[] for _ in range(nodes)]
    speeds = speeds_of(clock, nodes, seed)
    for i in range(nodes):
        receivers = sorted(receiver for sender, receiver in edges if sender == i)
        begin = uplink = 0
        for tick in range(works):
            end = begin + clock.work(seed, i, tick, 1, speeds[i])
            sends = max(end, uplink)
            for receiver, lost in zip(receivers, clock.lost(seed, i, tick, len(receivers)), strict=True):
                uplink = max(uplink, sends) + clock.upload(SIZE)
                if not lost:
                    arrivals[receiver].append((uplink + nanoseconds(clock.latency), i, tick))
            begin = max(end + clock.rest(seed, i, tick), sends)
            ends[i].append(end)
            begins[i].append(begin)
    return ends, [sorted(a) for a in arrivals], begins


def expected_mixes(
    clock: Events, topology: Topology, nodes: int, seed: int, works: int, until: float
) -> list[tuple[float, int, tuple[tuple[int, int], ...]]]:
    """(time, node, ((sender, tick), ...)) of all merges up to a time, found node by node from the arrivals alone."""
    ends, arrivals, begins = pushed(clock, topology, nodes, seed, works)
    found = []
    for i in range(nodes):
        degree = len({sender for sender, receiver in edges_of(topology, nodes, seed).tolist() if receiver == i})
        if clock.merge == "full":
            newest: dict[int, int] = {}
            for at in sorted({time for time, _, _ in arrivals[i]}):
                newest |= {sender: tick for time, sender, tick in arrivals[i] if time == at}
                if len(newest) == degree:
                    found.append((at / NANO, i, tuple(sorted(newest.items()))))
                    newest = {}
            continue
        if clock.merge == "arrival":
            moments = sorted({time for time, _, _ in arrivals[i]})
        elif clock.order == "merge_update":
            moments = begins[i]
        else:
            moments = [end - 1 for end in ends[i]]  # What arrives as the work ends is merged the next time.
        last = -1
        for at in moments:
            newest = {sender: tick for time, sender, tick in arrivals[i] if last < time <= at}
            last = at
            if newest:
                shift = 1 if clock.order == "update_merge" else 0
                found.append(((at + shift) / NANO, i, tuple(sorted(newest.items()))))
    return sorted(mix for mix in found if mix[0] <= until)
