"""What a privacy mechanism does in a run: with the account's noise, at the nodes and at the server."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from gossamer.bounding import BELOW
from gossamer.ledger import ledger
from gossamer.population import as_dtype, shared
from gossamer.privacy import Mechanism, Place
from gossamer.privacy.central import Central
from gossamer.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    @property
    def always(self) -> bool:
        """Whether a server answers in rounds, too, in which nobody was heard, so that nobody learns that."""
        return isinstance(self.mechanism, Central)

    def changed(self, change_D: Tensor, node: int, nodes: int, round: int, links_E2: Array) -> Tensor:
        """What others may know of what a node's local work changed."""
        assert isinstance(self.mechanism, Mechanism)
        neighbours = np.sort(links_E2[links_E2[:, 0] == node, 1])
        return self.mechanism.changed(
            change_D, self.noise, Place(node, nodes, neighbours, functools.partial(self._dice, round))
        )

    def answered(self, means: dict[str, Tensor], count: int, present: int, nodes: int, round: int) -> dict[str, Tensor]:
        """What the server takes from the mean of `count` messages, where `present` of the nodes were to send one.

        Where the server adds noise, the mean is over the number expected, whoever came, and the bound of the next round
        is set.
        """
        if not isinstance(self.mechanism, Central):
            return means
        schedule, level = self.experiment.schedule, float(self.level)
        drawn = schedule.sampling == "poisson" and schedule.participation < 1
        cohort = schedule.participation * nodes if drawn else float(present)
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
