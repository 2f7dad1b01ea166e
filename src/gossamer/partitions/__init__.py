"""Partitions: how the training items are dealt out to the nodes.

A partition is one file with a `deal` that returns `Parts`. It sees labels and natural groups only, and draws from the
generator it is given, so the same seed gives the same split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gossamer.plugs import Plug

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Parts:
    """`items[i]` are the indices (int64) of node i's training items.

    With `draw_NC` given, node i does not own items: at every step it draws labels from row i (class probabilities)
    and then uniform items of that label, with replacement, from `items[i]`, which all nodes then share.
    `sizes` is the weight of each node in that case (items it would draw in one epoch). `names` are the names of the
    natural groups dealt, if any.
    """

    items: list[Array]
    draw_NC: Array | None = None
    sizes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


class Partition(Plug):
    """Base of the partitions: `deal` gives each node its items."""

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        """Deal items 0..M-1 to `nodes` nodes (None: as many as the data has natural groups).

        Raises ExperimentError where the request cannot be met (more nodes than items, a minimum that cannot hold).
        """
        raise NotImplementedError

    @classmethod
    def adopt(cls, value: object) -> Plug | None:
        from gossamer.partitions.function import FunctionPartition

        return FunctionPartition.wrap(value)
