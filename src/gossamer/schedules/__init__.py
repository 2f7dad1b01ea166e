"""Schedules: how much nodes communicate, when, and who takes part.

A schedule is data: for every round it says which share of the topology's links carries a model at the end of the round,
from 0 (none) to 1 (all of them), or ALL: an all-reduce, after which every node holds the exact mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.plugs import Plug

Array = np.ndarray[Any, Any]


ALL = math.inf
"""The intensity of an all-reduce among all participants."""


Share = Annotated[float, Field(ge=0, le=1)]
"""A share of the topology's links."""


def as_intensity(value: float | Literal["all"]) -> float:
    """A share, or 'all' for an all-reduce, as an intensity."""
    return ALL if isinstance(value, str) else value


@dataclass(frozen=True)
class Observed:
    """What an adaptive schedule may look at: the nodes' models after the local work of a round, before the exchange."""

    consensus_distance: float
    """sqrt(1/m sum_i ||x_i - mean(x)||^2)."""
    gradient_norm: float
    """Norm of the mean gradient of the round: ||mean_i (x_i before - x_i after)|| / (lr * steps)."""


class Schedule(Plug):
    """Base of the schedules: `intensity` says when and how much, `participants` says who."""

    looks: ClassVar[bool] = False
    """Whether `decide` looks at the models, so that the exchanges of a run are not known beforehand."""

    participation: float = Field(
        default=1.0, gt=0, le=1, description="fraction of the nodes that take part in a round (at least one does)"
    )
    sampling: Literal["fixed", "poisson"] = Field(
        default="fixed",
        description="how they are drawn: so many without replacement, or every node by a coin of its own (poisson), "
        "which may leave a round without any",
    )
    final: Literal["none", "merge", "gossip"] = Field(
        default="none",
        description="how the last round ends: as any other, with an all-reduce (merge), or with `final_rounds` "
        "exchanges over the whole topology one after the other (gossip)",
    )
    final_rounds: int = Field(default=1, ge=1, description="exchanges that end the run with final = 'gossip'")
    budget: float | None = Field(
        default=None,
        ge=0,
        description="model transfers of the run at most: one for each directed edge used, 2(m-1) for an all-reduce "
        "among m nodes; an exchange that no longer fits is left out, and the end of the run is reserved first",
    )

    budget_bytes: float | None = Field(
        default=None, ge=0, description="the same in bytes: as many models as they pay for (the smaller budget counts)"
    )

    def intensity(self, round: int, rounds: int) -> float:
        """Share of the topology's links that carry a model at the end of this round: 0 to 1, or ALL."""
        raise NotImplementedError

    def possible(self, round: int, rounds: int) -> tuple[float, ...]:
        """What the intensity of this round may be: one number, several where the schedule `looks`."""
        return (self.intensity(round, rounds),)

    def turn(self, round: int, rounds: int) -> int:
        """How many rounds before this one end in an exchange; the round itself where the schedule `looks`."""
        return round if self.looks else _turns(self, rounds)[min(round, rounds)] + max(0, round - rounds)

    def limit(self, message_bytes: int) -> float:
        """Model transfers that the budgets pay for."""
        pays = ALL if self.budget_bytes is None else self.budget_bytes // max(1, message_bytes)
        return min(pays, ALL if self.budget is None else self.budget)

    def decide(self, round: int, rounds: int, observed: Observed) -> float:
        """The intensity of this round given what is seen; asked instead of `intensity` where the schedule `looks`."""
        return self.intensity(round, rounds)

    def size(self, nodes: int) -> int:
        """Participants of a round that draws a fixed number."""
        return max(1, round_half_up(self.participation * nodes))

    def participants(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        """The nodes that take part in a round, ascending: max(1, round(fraction * nodes)) of them, without replacement,
        or each with chance `participation`."""
        if self.sampling == "poisson":
            return (
                np.arange(nodes) if self.participation == 1 else np.flatnonzero(rng.random(nodes) < self.participation)
            )
        size = self.size(nodes)
        if size == nodes:
            return np.arange(nodes)
        return np.sort(rng.choice(nodes, size=size, replace=False))


@lru_cache(maxsize=64)
def _turns(schedule: Schedule, rounds: int) -> list[int]:
    """Rounds before round 0, 1, ..., rounds that end in an exchange."""
    return [0, *accumulate(schedule.intensity(round, rounds) > 0 for round in range(rounds))]


def round_half_up(value: float) -> int:
    """The nearest integer, halves up (Python's own rounding sends 2.5 to 2)."""
    return int(np.floor(value + 0.5))
