"""The honest clock: a simulation of when things happen in an asynchronous run.

It knows how long works and messages take (`gossamer.clocks`), not what is in them, and yields the operations in the
order in which they happen. With no latency, unlimited bandwidth, equal speeds, nothing lost, nobody absent, and models
pushed and merged once a cycle before the next work, they are those of a synchronous run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gossamer.churn import churn_of
from gossamer.clocks import speeds_of
from gossamer.errors import ExperimentError
from gossamer.gossiping import Gossip
from gossamer.serving import Serving

if TYPE_CHECKING:
    from gossamer.clocks.events import Events
    from gossamer.operations import Operation
    from gossamer.schedules import Schedule
    from gossamer.topologies import Topology

Array = np.ndarray[Any, Any]

RETRIES = 10.0
"""The longest work, in mean times that a node stays up: e^10 = 22,000 attempts until one is finished."""


def simulate(
    clock: Events,
    topology: Topology,
    schedule: Schedule,
    world: Literal["graph", "server"],
    nodes: int,
    rounds: int,
    seed: int,
    steps_N: Sequence[int] | Array,
    up_bytes: int,
    down_bytes: int = 0,
    buffered: int = 1,
) -> Iterator[Operation]:
    """All operations of a run, in order, ending with that which finishes the last round. Deterministic.

    `steps_N` are the local steps of each node's works (a work without steps takes the time of one), `up_bytes` the size
    of a node's message. With a server, `down_bytes` is the size of its own, and it merges whenever `buffered` results
    have come; a round is over when `clock.concurrency` (default: N) results have. On a graph, a round is over when N
    works are done.
    Raises ExperimentError, at once for what cannot be, during the simulation when no node is alive.
    """
    clock.check(world, topology, schedule, rounds)
    if clock.concurrency is not None and clock.concurrency > nodes:
        raise ExperimentError(
            f"clock.concurrency = {clock.concurrency} with nodes = {nodes}: so many cannot work at a time; "
            f"use {nodes} or less"
        )
    steps = [max(1, int(count)) for count in steps_N]
    longest = max(clock.step_seconds * s / speed for s, speed in zip(steps, speeds_of(clock, nodes, seed), strict=True))
    if clock.up_seconds and longest > RETRIES * clock.up_seconds:
        raise ExperimentError(
            f"clock.up_seconds = {clock.up_seconds:g}: a work of {longest:g} s would hardly ever be finished before "
            "its node goes down; use longer up_seconds or shorter works"
        )
    churn = churn_of(clock, nodes, seed)
    if world == "server":
        return Serving(clock, nodes, rounds, seed, steps, up_bytes, down_bytes, buffered, churn).play()
    return Gossip(clock, topology, schedule, nodes, rounds, seed, steps, up_bytes, churn).play()
