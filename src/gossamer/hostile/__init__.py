"""Who is hostile: some of the nodes, or one attacker under many names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]


class Hostile(Plug):
    """Base of the kinds of hostility: which nodes are hostile, or which names one attacker has besides theirs."""

    many_names: ClassVar[bool] = False
    """Whether it is one attacker under many names, which come on top of the nodes."""

    @classmethod
    def default_kind(cls) -> str:
        return "byzantine"

    def places(self, edges_E2: Array, nodes: int, rng: np.random.Generator) -> Array:
        """The hostile ones among the nodes, ascending."""
        return np.empty(0, np.int64)

    def sybils(self, edges_E2: Array, nodes: int, rng: np.random.Generator) -> list[Array]:
        """The nodes that each of the attacker's identities is linked to; with a server there are no links."""
        return []

    def disguised(self, row_D: Tensor, rng: np.random.Generator) -> Tensor:
        """What one identity sends when its host would send `row_D`."""
        return row_D

    def sends(self, rng: np.random.Generator) -> bool:
        """Whether one identity takes part in a round."""
        return True
