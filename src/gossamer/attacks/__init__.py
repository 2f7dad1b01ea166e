"""Attacks: what hostile nodes do to their data and to their messages, and what they know when they do it.

An attack plug is one file that overrides `poison` (the data they train on), `forge` (what they send), or both. Forged
messages are what their senders like them to be; what a receiver does with one it cannot use is the receiver's affair.

Shapes: H hostile nodes that send, G honest messages that the attacker sees, D numbers of a message, T classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.plugs import Plug, by_class

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.aggregators import Aggregator

Array = np.ndarray[Any, Any]
Knowledge = Literal["own", "neighbourhood", "honest", "defence"]
"""What an attacker sees: what its own nodes do; what reaches them over the graph; every honest message of the round;
all that and the rule of the receivers."""


@dataclass(frozen=True)
class Scene:
    """One field of the messages of a round, as an attacker sees it before it writes its own.

    Messages are changes (or gradients) at a server; on a graph they are models, and what local work changed is the
    message less `base_D` (for the attacker's own: less `own_base_HD`). At a server both are zero.
    """

    round: int
    rounds: int
    hostile_H: Array
    """Numbers of the hostile nodes."""
    own_HD: Tensor
    """What they would send if they were honest."""
    own_base_HD: Tensor
    """The models that their local work began from."""
    honest_GD: Tensor
    """The honest messages that the attacker sees; none where it sees only its own."""
    base_D: Tensor
    """The mean of the models that honest local work began from."""
    defence: Aggregator
    """The rule of the receivers."""
    dice: Callable[[int], np.random.Generator]
    """The dice of a hostile node in this round; -1: of all of them together."""
    start_dice: Callable[[int], np.random.Generator]
    """Dice that are the same in all rounds."""
    kept: tuple[tuple[int, int, int], ...] = ()
    """(start, stop, count) of each part of the row: how many of its numbers a model uses at a time (of the edges of a
    supermask, those of the sub-network)."""
    accuracy_if: Callable[[Tensor], float] | None = None
    """At a server: the accuracy, on what the hostile nodes train on, of the model that the receiver's rule would make
    of the honest messages and of these [H, D]."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What the attacker remembers of earlier rounds ([H, ...] each, see `Attack.memory`), to be changed in place."""
    receiver_D: Tensor | None = None
    """On a graph, where messages are written for one neighbour: that neighbour's own."""
    weights_G: Tensor | None = None
    """There: what it gives to each honest message, in float64."""
    weights_H: Tensor | None = None
    """There: what it gives to each hostile one."""

    @cached_property
    def mean(self) -> Tensor:
        """The mean of the honest messages seen."""
        return self.honest_GD.mean(0)

    @cached_property
    def change(self) -> Tensor:
        """The mean of what honest local work changed."""
        return self.mean - self.base_D


class Attack(Plug):
    """Base of the attacks."""

    knows: ClassVar[Knowledge] = "own"
    poisons: ClassVar[bool] = False
    """Whether it changes the data that hostile nodes train on."""
    forges: ClassVar[bool] = False
    """Whether it changes what they send."""
    exchanges: ClassVar[bool] = False
    """Whether it is about which edges a sub-network keeps, so that there must be one."""
    frames: ClassVar[bool] = False
    """Whether they forge what nodes tell each other about others (SybilWall's gossip), so that honest ones are
    distrusted."""

    aim: Literal["all", "neighbour"] = Field(
        default="all",
        description="one message for all, or on a graph another for each neighbour, from what that neighbour hears",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """What an attack overrides is what it does."""
        super().__pydantic_init_subclass__(**kwargs)
        cls.poisons = cls.poison is not Attack.poison
        cls.forges = cls.forge is not Attack.forge

    def poison(self, inputs_M: Array, labels_M: Array, classes: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """The items that a hostile node trains on instead of its own M; images are [M, channels, height, width].

        The arrays are copies. Raises ExperimentError where the data is not what the attack is for.
        """
        return inputs_M, labels_M

    def recruits(self, labels_M: Array) -> Array:
        """Places of other nodes' training items, by their labels, that hostile nodes hold besides their own."""
        return np.empty(0, np.int64)

    def memory(self, row_D: Tensor) -> dict[str, Tensor]:
        """What one hostile node remembers from round to round, as it is before the first."""
        return {}

    def forge(self, scene: Scene) -> Tensor | None:
        """[H, D]: what each hostile node sends; None: nothing. The tensors of the scene are only read."""
        return scene.own_HD

    def mangle(self, message: dict[str, Tensor]) -> dict[str, Tensor]:
        """What becomes of a forged message on its way out: another shape, type or size."""
        return message

    def succeeded(self, inputs_M: Array, labels_M: Array, classes: int) -> tuple[Array, Array, Array] | None:
        """What its success is measured on: (inputs [K, ...], labels [K], goals [K]), where the score is the share of
        items whose goal is what a model says. None: only accuracy tells."""
        return None


def __getattr__(name: str) -> type[Plug]:
    """The kinds by the names of their classes."""
    return by_class(Attack, name)
