"""Quantity skew."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.partitions import Array, Partition, Parts
from gossamer.partitions.requirements import required_nodes


class Quantity(Partition):
    """Uneven sizes, even labels: the shuffled items are cut in proportions drawn from Dirichlet(alpha).

    M_i = min_size + q_i (M - N min_size), q ~ Dir(alpha * 1_N). Every node has `min_size` items by construction:
    drawing until all have them, as is usual for labels, hardly ever ends for the sizes of more than a few nodes.
    """

    source: ClassVar[str] = "Li et al. 2022, quantity skew (q ~ Dir(beta)); the minimum is our own"

    kind: Literal["quantity"] = "quantity"
    alpha: float = Field(
        default=0.5,
        gt=0,
        allow_inf_nan=False,
        description="concentration: 0.1 very uneven sizes, 100 nearly equal ones",
    )
    min_size: int = Field(default=10, ge=1, description="smallest number of items of a node")

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        nodes = required_nodes(self.kind, nodes, len(labels_M), self.min_size)
        share_N = rng.dirichlet(np.full(nodes, self.alpha))
        free = len(labels_M) - nodes * self.min_size
        ends_N = self.min_size * np.arange(1, nodes + 1) + np.rint(np.cumsum(share_N) * free).astype(np.int64)
        return Parts([np.sort(part) for part in np.split(rng.permutation(len(labels_M)), ends_N[:-1])])
