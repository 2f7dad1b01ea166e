"""What a privacy mechanism does in a run: with the account's noise, at the nodes and at the server."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from gossamer.bounding import BELOW
from gossamer.errors import ExperimentError
from gossamer.ledger import ledger
from gossamer.population import as_dtype, shared
from gossamer.privacy import Mechanism, Place
from gossamer.privacy.central import Central
from gossamer.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from gossamer.experiment import Experiment
    from gossamer.topologies import Array


class Guard:
    """The mechanism of one run; without privacy it changes nothing."""

    def __init__(self, experiment: Experiment, items: Sequence[int], length: int, level: Tensor) -> None:
        self.experiment, self.mechanism, self.level = experiment, experiment.privacy, level
        self.ledger = ledger(experiment, items, length)
        self.noise = self.ledger.noise if self.ledger else 0.0
        """The noise multiplier."""
        self.rounds = self.ledger.rounds if self.ledger else experiment.rounds
        """Rounds to be played: those asked for, or as many as the budget pays for."""

    @property
    def guards_changes(self) -> bool:
        """Whether what local work changed is not to be known as it is."""
        return self.mechanism.guards == "changes"

    def require(self, weight: float, steps: int | None, expected: int) -> None:
        """Raise ExperimentError where a method does what the account does not have in it."""
        guards = self.mechanism.guards
        if guards in ("messages", "sums") and weight != 1:
            raise ExperimentError(
                f"privacy.kind = '{self.mechanism.kind}': a message has weight {weight:g}, but all must be 1; "
                "set weighting = 'uniform', or use a method whose messages weigh 1"
            )
        if guards == "gradients" and steps is not None and steps > expected:
            raise ExperimentError(
                f"privacy.kind = '{self.mechanism.kind}': method.kind = '{self.experiment.method.kind}' takes {steps} "
                f"local steps where {expected} are accounted; use learner.steps, and another method"
            )

    @property
    def answers(self) -> bool:
        """Whether the server adds noise: then in every round, also where nobody was heard, so that nobody learns it."""
        return isinstance(self.mechanism, Central)

    @property
    def cohort(self) -> float:
        """How many participants a round is expected to have, whoever comes."""
        assert self.ledger is not None
        return self.ledger.setting.cohort

    def changed(self, change_D: Tensor, node: int, nodes: int, round: int, links: Callable[[int], Array]) -> Tensor:
        """What others may know of what a node's local work changed; `links(round)` are those of the graph."""
        assert isinstance(self.mechanism, Mechanism)

        def neighbours() -> Array:
            links_E2 = links(round)
            return np.sort(links_E2[links_E2[:, 0] == node, 1])

        place = Place(node, nodes, neighbours, functools.partial(self._dice, round))
        return self.mechanism.changed(change_D, self.noise, place)

    def answered(self, means: dict[str, Tensor], count: int, round: int) -> dict[str, Tensor]:
        """The noisy mean, over the expected number of messages, from the mean of `count` that came; and the bound of
        the next round is set."""
        assert isinstance(self.mechanism, Central)
        level, cohort = float(self.level), self.cohort
        sums = {name: value * count for name, value in means.items()}
        below = sums.pop(BELOW, None)
        noisy = self.mechanism.answer(sums, cohort, level, self.noise, self._dice(round, "privacy", -1))
        if below is not None:
            dice = self._dice(round, "privacy of the bound", -1)
            self.level.fill_(self.mechanism.next_level(level, float(below), cohort, self.noise, dice))
        return noisy

    def _dice(self, round: int, purpose: str, node: int) -> np.random.Generator:
        return generator(self.experiment.seed, purpose, node, round)


def first_level(experiment: Experiment, like: Tensor) -> Tensor:
    """The bound on messages [1] before the first round, in memory that workers share; ones where there is none."""
    level = shared(1, like.new_empty((), dtype=as_dtype("float64")))
    return level.fill_(experiment.privacy.clip if isinstance(experiment.privacy, Mechanism) else 1.0)
