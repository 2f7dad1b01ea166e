"""What will travel in a run, and how long that takes by the clock, counted before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.clocks import round_seconds
from gossamer.clocks.events import Events
from gossamer.exchanges import Exchange, Exchanges
from gossamer.operations import Finished, Needs, survey
from gossamer.randomness import generator
from gossamer.sealing import attendance, protocol_bytes
from gossamer.simulation import simulate

if TYPE_CHECKING:
    from gossamer.experiment import Experiment
    from gossamer.lengths import Lengths
    from gossamer.operations import Operation
    from gossamer.topologies import Topology

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Traffic:
    """Of each round: models and bytes sent, and the simulated seconds since the start at its end.

    Under a schedule that looks at the models, the sums are upper bounds.
    """

    transfers: tuple[int, ...]
    bytes: tuple[int, ...]
    seconds: tuple[float, ...]
    participants: int
    """Nodes that take part in the first round."""
    needs: Needs | None
    """What an asynchronous run needs."""
    told: int = 0
    """In rounds: bytes of all that a server sends."""


def traffic(
    experiment: Experiment,
    nodes: int,
    steps_N: Sequence[int],
    up_bytes: int,
    down_bytes: int,
    topology: Topology | None = None,
    rounds: int | None = None,
    sealed: int = 0,
    lengths: Lengths | None = None,
) -> Traffic:
    """What an experiment will send: exactly, or as much as it may ask for under a schedule that looks at the models.

    `rounds` are those that will be played, where these are fewer than asked for. `sealed` are the
    numbers in a masked message of a secure sum, and `up_bytes` its bytes. With `lengths` the messages of nodes may
    differ, `up_bytes` and `down_bytes` being the longest.

    Raises ExperimentError where its exchanges cannot be.
    """
    if experiment.clock.kind == "events":
        return _by_the_clock(experiment, nodes, steps_N, up_bytes, down_bytes)
    world, schedule, seed = experiment.method.world, experiment.schedule, experiment.seed
    exchanges = Exchanges(experiment, nodes, up_bytes, topology)
    exchanges.check()
    transfers: list[int] = []
    sizes: list[int] = []
    seconds: list[float] = []
    up_N = np.full(nodes, up_bytes, np.int64) if lengths is None else lengths.up

    def drawn(round: int) -> Array:
        return schedule.participants(nodes, round, generator(seed, "participants", round=round))

    spent, clock, first, told_bytes = 0, 0.0, 0, 0
    for round in range(experiment.rounds if rounds is None else rounds):
        present = drawn(round)
        first = first or len(present)
        told = (experiment.clock, seed, round, present, steps_N)
        if world != "graph":
            transfers.append(2 * len(present) if world == "server" else 0)
            down_N = np.full(nodes, down_bytes, np.int64) if lengths is None else lengths.down(round, drawn)
            down = int(down_N[present].sum())
            sizes.append(int(up_N[present].sum()) + down if world == "server" else 0)
            if experiment.secure_sum is not None:
                spoken = protocol_bytes(attendance(experiment, present, round), nodes, sealed)
                sizes[-1] = down + int(sum(part.sum() for part in spoken))
            told_bytes += down if world == "server" else 0
            clock += round_seconds(*told, None if world == "server" else [], up_bytes, down_bytes)
        else:
            # A schedule that looks may take the dearer of its choices, as far as the budget goes, or the longer one.
            endings = _endings(exchanges, experiment, round, present, spent)
            most = max(sum(exchange.transfers for exchange in ending) for ending in endings)
            if schedule.looks:
                most = min(most, max(0, int(min(exchanges.limit, 2**62)) - spent))
            transfers.append(most)
            if (up_N == up_bytes).all():
                sizes.append(most * up_bytes)
            else:
                ways = ([exchanges.traffic(e, present, up_N)[0].sum() for e in ending] for ending in endings)
                sizes.append(max(int(sum(way)) for way in ways))
            clock += max(
                round_seconds(
                    *told, [None if e.everyone else e.edges_E2 for e in ending], up_bytes, down_bytes, exchanges.adds
                )
                for ending in endings
            )
        spent += transfers[-1]
        seconds.append(clock)
    return Traffic(tuple(transfers), tuple(sizes), tuple(seconds), first, None, told_bytes)


def _endings(
    exchanges: Exchanges, experiment: Experiment, round: int, present: Array, spent: int
) -> list[list[Exchange]]:
    """How a round may end: one list of exchanges, or several where the schedule looks at the models."""
    schedule, rounds = experiment.schedule, experiment.rounds
    if not schedule.looks or (round == rounds - 1 and schedule.final != "none"):
        return [exchanges.of(round, present, spent)]
    return [exchanges.at(intensity, round, present, 0) for intensity in schedule.possible(round, rounds)]


def _by_the_clock(
    experiment: Experiment, nodes: int, steps_N: Sequence[int], up_bytes: int, down_bytes: int
) -> Traffic:
    world = experiment.method.world
    Exchanges(experiment, nodes, up_bytes).check()
    operations = trace(experiment, nodes, steps_N, up_bytes, down_bytes)
    sizes: list[int] = []

    def counted() -> Iterator[Operation]:
        for operation in operations:
            if isinstance(operation, Finished):
                down = sum(operation.received) + operation.lost_down * down_bytes
                sizes.append(sum(operation.sent) + (down if world == "server" else 0))
            yield operation

    needs = survey(counted())
    return Traffic(needs.transfers, tuple(sizes), needs.seconds, nodes, needs)


def trace(
    experiment: Experiment, nodes: int, steps_N: Sequence[int] | Array, up_bytes: int, down_bytes: int
) -> Iterator[Operation]:
    """What happens when in an experiment by the clock (`clock.kind = 'events'`), as a generator."""
    clock, world = experiment.clock, experiment.method.world
    if not isinstance(clock, Events) or world == "alone":
        raise ValueError(f"no trace: clock.kind = '{clock.kind}', method.kind = '{experiment.method.kind}'")
    return simulate(
        clock,
        experiment.topology,
        experiment.schedule,
        world,
        nodes,
        experiment.rounds,
        experiment.seed,
        steps_N,
        up_bytes,
        down_bytes,
        experiment.method.buffered,
    )
