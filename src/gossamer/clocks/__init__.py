"""Clocks: how long things take, and in which order they happen.

A clock says what computing and sending cost, in simulated seconds: they depend on the experiment and its seed, never on
the machine that plays it. With the kind `rounds` all nodes wait for each other and a round's time has a closed form
(`round_seconds`); with `events` nobody waits, and `gossamer.simulation` finds out what happens when.

Time is counted in whole nanoseconds, so that sums are exact and what is simultaneous on paper is so in the simulation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from gossamer.errors import ExperimentError
from gossamer.plugs import Plug
from gossamer.randomness import generator

if TYPE_CHECKING:
    from gossamer.schedules import Schedule
    from gossamer.topologies import Topology

Array = np.ndarray[Any, Any]

NANO = 1_000_000_000
"""Nanoseconds of a second."""

NEVER = 10**30
"""A time after all others, in nanoseconds."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Clock(Plug):
    """Base of the clocks: what computing and sending cost. All times are simulated."""

    step_seconds: Seconds = Field(default=0.01, description="seconds of one local step at a node of speed 1")
    speeds: Literal["equal", "uniform", "lognormal"] = Field(
        default="equal",
        description="how fast nodes compute, drawn once for each: equal (1), uniform (from 1 - spread to 1 + spread) "
        "or lognormal (median 1, the logarithm has standard deviation spread)",
    )
    spread: float = Field(default=0.5, ge=0, allow_inf_nan=False, description="how much speeds differ, unless equal")
    jitter: float = Field(
        default=0.0, ge=0, lt=1, description="every work takes up to this share longer or shorter, uniformly"
    )
    idle: tuple[Seconds, Seconds] = Field(
        default=(0.0, 0.0), description="seconds that a node rests between two works: uniform between these two"
    )
    latency: Seconds = Field(default=0.0, description="seconds from the end of sending a message to its arrival")
    bandwidth: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="bytes a second of a node's uplink, which its messages share one after the other; 0: unlimited",
    )
    drop: float = Field(
        default=0.0, ge=0, lt=1, description="probability that a message is lost; it counts as sent, not as received"
    )

    @model_validator(mode="after")
    def _ranges(self) -> Clock:
        if self.idle[0] > self.idle[1]:
            raise ExperimentError(
                f"clock.idle = {list(self.idle)}: the shortest rest is longer than the longest; "
                f"use {list(self.idle[::-1])}"
            )
        if self.speeds == "uniform" and self.spread >= 1:
            raise ExperimentError(
                f"clock.spread = {self.spread:g} with speeds = 'uniform' gives nodes of no speed; use less than 1"
            )
        return self

    def check(self, world: str, topology: Topology, schedule: Schedule, rounds: int) -> None:
        """Raise ExperimentError where this clock cannot time such an experiment. `world` is the method's."""

    def work(self, seed: int, node: int, tick: int, steps: int, speed: float) -> int:
        """Nanoseconds of a node's local work number `tick`: at least 1, unless it takes no time at all."""
        seconds = self.step_seconds * steps / speed
        if self.jitter:
            seconds *= 1 + self.jitter * generator(seed, "jitter", node, tick).uniform(-1, 1)
        return max(1, nanoseconds(seconds)) if seconds else 0

    def rest(self, seed: int, node: int, tick: int) -> int:
        """Nanoseconds that a node rests after its local work number `tick`."""
        shortest, longest = self.idle
        if shortest == longest:
            return nanoseconds(shortest)
        return nanoseconds(generator(seed, "idle", node, tick).uniform(shortest, longest))

    def upload(self, size: float) -> int:
        """Nanoseconds that a message of `size` bytes occupies its sender's uplink."""
        return nanoseconds(size / self.bandwidth) if self.bandwidth else 0

    def lost(self, seed: int, sender: int, tick: int, count: int) -> list[bool]:
        """Which of the `count` messages that a node sends after its local work number `tick` get lost."""
        if not self.drop:
            return [False] * count
        draws: list[bool] = (generator(seed, "drop", sender, tick).random(count) < self.drop).tolist()
        return draws


def nanoseconds(seconds: float) -> int:
    """The nearest whole number of nanoseconds."""
    return round(seconds * NANO)


def speeds_of(clock: Clock, nodes: int, seed: int) -> list[float]:
    """The speed of each node."""
    return list(_speeds(clock.speeds, clock.spread, nodes, seed))


@functools.lru_cache(maxsize=8)
def _speeds(speeds: str, spread: float, nodes: int, seed: int) -> tuple[float, ...]:
    if speeds == "equal":
        return (1.0,) * nodes
    dice = [generator(seed, "speeds", node) for node in range(nodes)]
    if speeds == "uniform":
        return tuple(rng.uniform(1 - spread, 1 + spread) for rng in dice)
    return tuple(rng.lognormal(0.0, spread) for rng in dice)


def round_seconds(
    clock: Clock,
    seed: int,
    round: int,
    participants: Array,
    steps_N: Sequence[int] | Array,
    exchanges: Sequence[Array | None] | None,
    up_bytes: int,
    down_bytes: int,
    adds: bool = True,
) -> float:
    """Simulated seconds of a round in which everybody waits for the slowest.

    `exchanges` follow one another: the directed edges [E, 2] that carry a message of `up_bytes`, or None for an
    all-reduce; no exchange is an empty list. None stands for a server.

    work_i      = steps_i * step_seconds / speed_i, with jitter
    edges       a node sends as soon as its work is done, to one receiver after the other: the last of its k messages
                arrives after work_i + k * bytes / bandwidth + latency; further exchanges begin when all have ended
    all-reduce  of m nodes in a ring: when all are ready, 2(m-1) steps of bytes / m / bandwidth + latency each; where
                messages cannot be added up (`adds`), m-1 steps of bytes / bandwidth + latency
    server      latency + work_i + bytes / bandwidth + latency; the server's own links are not modelled, so that
                `down_bytes` cost no time
    rests       a round ends no earlier than work_i + rest_i
    """
    present, speeds = np.asarray(participants).tolist(), speeds_of(clock, len(steps_N), seed)
    if not present:
        return 0.0
    ready = {i: clock.work(seed, i, round, int(steps_N[i]), speeds[i]) for i in present}
    rested = max(work + clock.rest(seed, i, round) for i, work in ready.items())
    latency, upload = nanoseconds(clock.latency), clock.upload(up_bytes)
    end = max(ready.values())
    if exchanges is None:
        end += 2 * latency + upload
    for edges_E2 in exchanges or ():
        if edges_E2 is None:
            step = 2 * (latency + clock.upload(up_bytes / len(present))) if adds else latency + upload
            end += (len(present) - 1) * step
        else:
            senders, counts = np.unique(edges_E2[:, 0], return_counts=True)
            sent = [ready[i] + k * upload + latency for i, k in zip(senders.tolist(), counts.tolist(), strict=True)]
            end = max([end, *sent])
        ready = dict.fromkeys(ready, end)
    return max(end, rested) / NANO


def kept(clock: Clock, edges_E2: Array, seed: int, round: int) -> Array:
    """The directed edges [E, 2] of a round whose message is not lost, in their order.

    Each direction has its own dice: where one of two messages is lost, a symmetric exchange becomes one-way. The mixing
    weights are those of all edges; what a receiver would have given to a lost message it keeps for itself, or shares
    out again where the weights are uniform. An all-reduce repeats what gets lost and is not thinned.
    """
    if not clock.drop or not len(edges_E2):
        return edges_E2
    arrives_E = np.ones(len(edges_E2), dtype=bool)
    order_E = np.lexsort((edges_E2[:, 1], edges_E2[:, 0]))
    senders, starts = np.unique(edges_E2[order_E, 0], return_index=True)
    for sender, mine in zip(senders.tolist(), np.split(order_E, starts[1:]), strict=True):
        arrives_E[mine] = np.logical_not(clock.lost(seed, sender, round, len(mine)))
    return edges_E2[arrives_E]
