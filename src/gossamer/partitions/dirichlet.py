"""Dirichlet label skew."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.partitions import Array, Partition, Parts
from gossamer.partitions.requirements import members_by_class, required_labels, required_nodes

DRAWS = 1000


class Dirichlet(Partition):
    """Each class is dealt out in proportions drawn from Dirichlet(alpha); small alpha means few classes a node.

    p_c ~ Dir(alpha * 1_N) for each class c; node i gets the share p_ci of that class. Drawn again, up to 1,000 times,
    until every node has at least `min_size` items. There is no balancing rule: this is the plain Dirichlet.
    """

    source: ClassVar[str] = "Yurochkin et al. 2019; Hsu et al. 2019; Li et al. 2022 (minimum size)"

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(
        default=0.5, gt=0, allow_inf_nan=False, description="concentration: 0.1 very uneven, 100 nearly even"
    )
    min_size: int = Field(default=10, ge=1, description="smallest number of items of a node")

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        labels_M = required_labels(self.kind, labels_M)
        nodes = required_nodes(self.kind, nodes, len(labels_M), self.min_size)
        counts_C = np.unique(labels_M, return_counts=True)[1]
        cuts_CN = draw_cuts(counts_C, self.alpha, nodes, self.min_size, rng)
        items: list[list[Array]] = [[] for _ in range(nodes)]
        for members, cuts_N in zip(members_by_class(labels_M, rng), cuts_CN, strict=True):
            for node, part in enumerate(np.split(members, cuts_N[:-1])):
                items[node].append(part)
        return Parts([np.sort(np.concatenate(parts)) for parts in items])


def draw_cuts(counts_C: Array, alpha: float, nodes: int, min_size: int, rng: np.random.Generator) -> Array:
    """[C, N] int64: where class c ends for node n when its `counts_C[c]` items are dealt in order.

    Raises ExperimentError where none of 1,000 draws gives every node `min_size` items.
    """
    for _ in range(DRAWS):
        shares_CN = rng.dirichlet(np.full(nodes, alpha), size=len(counts_C))
        cuts_CN = np.rint(np.cumsum(shares_CN, axis=1) * counts_C[:, None]).astype(np.int64)
        cuts_CN[:, -1] = counts_C
        if np.diff(cuts_CN, axis=1, prepend=0).sum(axis=0).min() >= min_size:
            return cuts_CN
    raise ExperimentError(
        f"partition: {DRAWS} draws with alpha = {alpha:g} gave no split in which each of nodes = {nodes} has "
        f"min_size = {min_size} items; raise alpha, lower min_size, or use fewer nodes"
    )
