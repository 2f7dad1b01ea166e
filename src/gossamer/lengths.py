"""Rows and messages of different length: nodes whose low-rank changes have different ranks, and what a server tells
besides its message.

All rows have room for the largest rank. What a node has no rank for is zero in its row, stays zero in training, and is
not sent: such numbers count in no message.

Shapes: N nodes, D columns of a row.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer import wire
from gossamer.aggregators import Remembering
from gossamer.coding import Chain
from gossamer.errors import ExperimentError
from gossamer.lowrank import held

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gossamer.experiment import Experiment
    from gossamer.methods import Context, Task

Array = np.ndarray[Any, Any]

EVERYWHERE = "give all nodes one rank: parametrisation.rank = "


class Lengths:
    """The bytes of every node's messages, and what of a row it has."""

    def __init__(
        self, experiment: Experiment, context: Context, up: Chain, down: Chain, up_bytes: int, down_bytes: int
    ) -> None:
        """`up_bytes` and `down_bytes` are those of whole messages. Raises ExperimentError where something in the
        experiment could not do with rows of different length."""
        self.method, self.context = experiment.method, context
        if self.varies:
            _check(experiment, up, context)
        self._up, self._down, self._whole = up, down, (up_bytes, down_bytes)
        self._sizes: dict[tuple[bool, int, int], int] = {}
        self._played, self._added = 0, 0
        """Rounds looked at, and numbers added to the shared part in them."""
        self._has_N = np.zeros(context.nodes, np.int64)
        """How many of these each node has been sent."""

    @property
    def varies(self) -> bool:
        """Whether nodes have rows of different length."""
        return bool(self.context.ranks)

    @cached_property
    def _held(self) -> dict[int, Tensor]:
        return {rank: held(self.context.layout, rank) for rank in set(self.context.ranks)}

    def within(self, task: Task, node: int) -> Task:
        """The task on as much of its row as the node has: the rest is zero, and stays so whatever the learner does."""
        if not self.varies or node < 0:
            return task
        held_D = self._held[self.context.ranks[node]]
        moves_T = held_D[: self.context.layout.trainable]
        return dataclasses.replace(
            task, row=task.row * held_D, moves_T=moves_T if task.moves_T is None else task.moves_T & moves_T
        )

    def cut(self, row_D: Tensor, node: int) -> Tensor:
        """The row with what this node has no rank for set to zero; a node of -1 is a server, which has all."""
        if not self.varies or node < 0:
            return row_D
        return row_D * self._held[self.context.ranks[node]]

    @cached_property
    def up(self) -> Array:
        """[N] bytes of each node's message."""
        if not self.varies:
            return np.full(self.context.nodes, self._whole[0], np.int64)
        return np.array([self._size(True, rank, 0) for rank in self.context.ranks], np.int64)

    def down(self, round: int, drawn: Callable[[int], Array]) -> Array:
        """[N] bytes of what a server sends each node that takes part in a round; `drawn` tells who did in which.

        Who missed rounds is told of all that was added to the shared part since, or what it is now where that is less.
        All who were drawn count as heard: where messages are lost or dropped, this is more than was added.
        """
        missing_N = self._missing(round, drawn)
        if not missing_N.any() and not self.varies:
            return np.full(self.context.nodes, self._whole[1], np.int64)
        ranks = self.context.ranks or (0,) * self.context.nodes
        told = [self._size(False, rank, int(more)) for rank, more in zip(ranks, missing_N, strict=True)]
        return np.array(told, np.int64)

    def _missing(self, round: int, drawn: Callable[[int], Array]) -> Array:
        """How many numbers of what was added to the shared part each node has not been sent [N]."""
        shared = sum(math.prod(entry.shape) for entry in self.context.layout.shared)
        if not self.method.merges_into_base:
            return np.zeros(self.context.nodes, np.int64)
        if round < self._played:
            self._played, self._added, self._has_N = 0, 0, np.zeros(self.context.nodes, np.int64)
        while self._played < round:
            cohort = drawn(self._played)
            self._has_N[cohort] = self._added
            self._added += self.method.besides(self.context, [int(node) for node in cohort])
            self._played += 1
        return np.minimum(self._added - self._has_N, shared)

    def _size(self, up: bool, rank: int, besides: int) -> int:
        """Bytes of a message of a node, or to a node, of this rank (0: of whole length)."""
        found = self._sizes.get((up, rank, besides))
        if found is None:
            import torch

            chain, layout = self._up if up else self._down, self.context.layout
            like = dict(chain.outlines[0])
            if rank:
                count = int(self._held[rank].sum())
                like = {name: v[:count] if tuple(v.shape) == (layout.size,) else v for name, v in like.items()}
            sent = Chain(chain.steps, like, layout, chain.seed, chain.purpose).sent
            if besides:
                number = next(iter(sent.values()))
                sent = {**sent, "shared": torch.empty(besides, dtype=number.dtype, device="meta")}
            found = self._sizes[up, rank, besides] = wire.size(sent)
        return found


def _check(experiment: Experiment, up: Chain, context: Context) -> None:
    """Raise ExperimentError for what works on rows of one length only."""
    ranks, method = f"{EVERYWHERE}{max(context.ranks)}", experiment.method
    rows = {name: tuple(value.shape) == (context.layout.size,) for name, value in up.outlines[0].items()}
    if other := [name for place, name in enumerate(rows) if place or not rows[name]]:
        raise ExperimentError(
            f"method.kind = '{method.kind}': nodes of different rank send their rows only, and it sends '{other[0]}'; "
            f"use another method, such as 'flexlora', or {ranks}"
        )
    for step in (*experiment.transforms, *experiment.downlink):
        if step.kind != "cast":
            raise ExperimentError(
                f"transforms: '{step.kind}' works on whole rows, of which nodes of smaller rank have none; use 'cast', "
                f"or {ranks}"
            )
    if experiment.secure_sum is not None or experiment.privacy.guards in ("changes", "sums"):
        what = "secure_sum" if experiment.secure_sum is not None else f"privacy.kind = '{experiment.privacy.kind}'"
        raise ExperimentError(f"{what}: its masks or noise would tell and fill what nodes have no rank for; {ranks}")
    if experiment.clock.kind == "events":
        raise ExperimentError(f"clock.kind = 'events': by the clock all messages are of one length; {ranks}")
    if isinstance(experiment.aggregator, Remembering):
        raise ExperimentError(
            f"aggregator.kind = '{experiment.aggregator.kind}': records of nodes of different rank cannot be compared; "
            f"use another rule, or {ranks}"
        )
    if getattr(experiment.attack, "aim", "") == "neighbour":
        raise ExperimentError(f"attack.aim = 'neighbour': messages of nodes of different rank are cut once; {ranks}")
