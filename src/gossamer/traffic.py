"""What will travel in a run, and how long that takes by the clock, counted before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.clocks import round_seconds
from gossamer.clocks.events import Events
from gossamer.exchanges import Exchanges
from gossamer.operations import Finished, Needs, survey
from gossamer.randomness import generator
from gossamer.simulation import simulate

if TYPE_CHECKING:
    from gossamer.experiment import Experiment
    from gossamer.operations import Operation

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Traffic:
    """Of each round: models and bytes sent, and the simulated seconds since the start at its end."""

    transfers: tuple[int, ...]
    bytes: tuple[int, ...]
    seconds: tuple[float, ...]
    participants: int
    """Nodes that take part in the first round."""
    needs: Needs | None
    """What an asynchronous run needs."""


def traffic(experiment: Experiment, nodes: int, steps_N: Sequence[int], up_bytes: int, down_bytes: int) -> Traffic:
    """What an experiment will send: exactly, or as much as it may ask for under a schedule that looks at the models.

    Raises ExperimentError where its exchanges cannot be.
    """
    if experiment.clock.kind == "events":
        return _by_the_clock(experiment, nodes, steps_N, up_bytes, down_bytes)
    world, schedule, seed = experiment.method.world, experiment.schedule, experiment.seed
    exchanges = Exchanges(experiment, nodes)
    exchanges.check()
    transfers: list[int] = []
    sizes: list[int] = []
    seconds: list[float] = []
    spent, clock, first = 0, 0.0, 0
    for round in range(experiment.rounds):
        present = schedule.participants(nodes, round, generator(seed, "participants", round=round))
        first = first or len(present)
        ending = exchanges.of(round, present, spent) if world == "graph" else []
        if world == "server":
            transfers.append(2 * len(present))
            sizes.append(len(present) * (up_bytes + down_bytes))
        else:
            transfers.append(sum(exchange.transfers for exchange in ending))
            sizes.append(transfers[-1] * up_bytes)
        spent += transfers[-1]
        carried = None if world == "server" else [None if e.everyone else e.edges_E2 for e in ending]
        clock += round_seconds(experiment.clock, seed, round, present, steps_N, carried, up_bytes, down_bytes)
        seconds.append(clock)
    return Traffic(tuple(transfers), tuple(sizes), tuple(seconds), first, None)


def _by_the_clock(
    experiment: Experiment, nodes: int, steps_N: Sequence[int], up_bytes: int, down_bytes: int
) -> Traffic:
    world = experiment.method.world
    Exchanges(experiment, nodes).check()
    operations = trace(experiment, nodes, steps_N, up_bytes, down_bytes)
    sizes: list[int] = []

    def counted() -> Iterator[Operation]:
        for operation in operations:
            if isinstance(operation, Finished):
                sizes.append(sum(operation.sent) + (sum(operation.received) if world == "server" else 0))
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
