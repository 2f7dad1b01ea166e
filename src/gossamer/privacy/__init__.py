"""Privacy: which guarantee a run gives, for whom, and where the noise comes in.

A mechanism bounds what one unit (a node, or one example of a node) can change in what others see, by a Euclidean norm C
(`clip`), and adds noise of standard deviation z C to it, z being the noise multiplier. What that proves follows from z
and from how often a unit takes part, see `gossamer.ledger`. A mechanism acts in one of four places (`guards`):

    messages    the first step on a message's way; the server adds noise to the sum      central
    changes     what local work changed, before any message is made of it                 local, correlated
    gradients   the gradient of every example, in local work                              per_example
    sums        the integers that are added up in secret                                  distributed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.accounting import Release

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Setting:
    """What accounting has to know of a run. Nothing of it depends on what is in the data."""

    nodes: int
    items: tuple[int, ...]
    """Training items of each node."""
    participation: float
    """Chance of a node to take part in a round."""
    sampling: Literal["none", "poisson", "fixed"]
    """How participants are drawn; 'none': all nodes take part in every round."""
    times: Callable[[int], Array]
    """In how many of the first so many rounds each node takes part, [N]."""
    steps_N: Array
    """Local steps of each node in a round in which it takes part."""
    batch_size: int
    links: Callable[[], Array]
    """On a graph, its directed links [E, 2]."""
    length: int
    """Numbers in a message."""
    levels: float
    """Integers that a number of size `clip` becomes in a secure sum."""
    threshold: int = 0
    """The fewest nodes that a secure sum of the run needs; 0: none is opened."""

    @property
    def cohort(self) -> float:
        """Participants of a round, on average over the draws."""
        return self.participation * self.nodes


@dataclass(frozen=True)
class Place:
    """Where a change was made: all that a mechanism may know there."""

    node: int
    nodes: int
    neighbours: Callable[[], Array]
    """On a graph, those whom the node tells in this round, ascending."""
    dice: Callable[[str, int], np.random.Generator]
    """Of this round, for a purpose and a node (or a pair of nodes)."""


class Privacy(Plug):
    """Base of the mechanisms, and what is done without one."""

    unit: ClassVar[Literal["", "node", "example"]] = ""
    """Whose presence is hidden."""
    world: ClassVar[Literal["", "server", "graph"]] = ""
    """Where it works; empty: anywhere."""
    guards: ClassVar[Literal["nothing", "messages", "changes", "gradients", "sums"]] = "nothing"
    """What it clips and adds noise to."""


class Mechanism(Privacy):
    """Base of the mechanisms: the bound, the noise or the budget it follows from, and the accountant."""

    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="C, the largest norm that is let through")
    epsilon: float | None = Field(
        default=None,
        description="budget: the noise is solved for it, so that all rounds together spend it; with noise_multiplier "
        "the run stops before it would be exceeded",
    )
    delta: float = Field(default=1e-5, gt=0, lt=1, description="delta of the guarantee; below 1 / number of units")
    noise_multiplier: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="z: noise has standard deviation z * clip; 0: none"
    )
    adjacency: Literal["add_or_remove", "replace_one"] = Field(
        default="add_or_remove",
        description="neighbouring data sets: a unit is there or counts as zero; or it is exchanged for another, which "
        "moves an answer twice as far",
    )
    accountant: Literal["pld", "rdp", "prv"] = Field(
        default="pld", description="privacy loss distributions or Renyi (dp-accounting), or PRV (opacus)"
    )

    @model_validator(mode="after")
    def _some_noise(self) -> Mechanism:
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("give epsilon (a budget, from which the noise follows) or noise_multiplier")
        if self.epsilon is not None and not (self.epsilon > 0 and math.isfinite(self.epsilon)):
            raise ValueError(f"epsilon = {self.epsilon:g} is no budget; give a number above 0, such as 8")
        return self

    @property
    def moved(self) -> float:
        """How far a unit moves an answer between neighbouring data sets, in units of `clip`."""
        return 2.0 if self.adjacency == "replace_one" else 1.0

    def releases(self, noise: float, rounds: int, setting: Setting) -> Iterable[Release]:
        """What is answered about one unit in so many rounds; one entry for each unit that may spend most."""
        raise NotImplementedError

    def require(self, noise: float, setting: Setting) -> None:
        """Raise ExperimentError where the mechanism cannot work with this much noise."""

    def hides(self, setting: Setting) -> str:
        """Who is hidden from whom, in words."""
        raise NotImplementedError

    def assumes(self, setting: Setting) -> tuple[str, ...]:
        """What else must hold, in words."""
        return ()

    def changed(self, change_D: Tensor, noise: float, place: Place) -> Tensor:
        """What others may know of what local work changed, where the mechanism guards changes."""
        return change_D

    def check(self, settings: Any) -> None:
        """Raise ExperimentError where the mechanism cannot work with the rest of the experiment (`Experiment`)."""
