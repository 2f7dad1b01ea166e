"""Quantity skew."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.partitions import Array, Partition, Parts
from gossamer.partitions.dirichlet import draw_cuts
from gossamer.partitions.requirements import required_nodes


class Quantity(Partition):
    """Uneven sizes, even labels: the shuffled items are cut in proportions drawn from Dirichlet(alpha).

    Drawn again, up to 1,000 times, until every node has at least `min_size` items.
    """

    source: ClassVar[str] = "Li et al. 2022, quantity skew (q ~ Dir(beta))"

    kind: Literal["quantity"] = "quantity"
    alpha: float = Field(default=0.5, gt=0, description="concentration: 0.1 very uneven sizes, 100 nearly equal ones")
    min_size: int = Field(default=10, ge=1, description="smallest number of items of a node")

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        nodes = required_nodes(self.kind, nodes, len(labels_M), self.min_size)
        cuts_N = draw_cuts(np.array([len(labels_M)]), self.alpha, nodes, self.min_size, rng)[0]
        return Parts([np.sort(part) for part in np.split(rng.permutation(len(labels_M)), cuts_N[:-1])])
