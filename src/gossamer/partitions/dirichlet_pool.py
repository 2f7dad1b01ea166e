"""Dirichlet label skew over a pool that all nodes share."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.partitions import Array, Partition, Parts
from gossamer.partitions.requirements import required_labels, required_nodes


class DirichletPool(Partition):
    """Every node draws from all items, with class probabilities of its own: pi_i ~ Dirichlet(alpha).

    With `resample`, every batch is drawn anew: a class from pi_i, then any item of it, with replacement, so a node
    never runs out of a class. Without it, `size` items are drawn so once and kept. Nodes may hold the same items
    either way: this skews distributions, it splits nothing.
    """

    source: ClassVar[str] = "Hsu et al. 2019, Section 3, with a uniform prior over the classes"

    kind: Literal["dirichlet_pool"] = "dirichlet_pool"
    alpha: float = Field(
        default=0.5, gt=0, allow_inf_nan=False, description="concentration: 0.1 very uneven, 100 nearly even"
    )
    resample: bool = Field(default=True, description="draw anew at every step, else once")
    size: int | None = Field(
        default=None, ge=1, description="items of a node (of its epoch, if resampled); default: all items / nodes"
    )

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        labels_M = required_labels(self.kind, labels_M)
        # Nodes share the pool, so only the default size limits their number.
        nodes = required_nodes(self.kind, nodes, len(labels_M) if self.size is None else nodes or 0)
        size = len(labels_M) // nodes if self.size is None else self.size
        classes, counts_C = np.unique(labels_M, return_counts=True)
        draw_NC = np.zeros((nodes, int(classes[-1]) + 1))
        draw_NC[:, classes] = rng.dirichlet(np.full(len(classes), self.alpha), size=nodes)
        if self.resample:
            pool = np.arange(len(labels_M), dtype=np.int64)
            return Parts([pool] * nodes, draw_NC, (size,) * nodes)
        by_label = np.argsort(labels_M, kind="stable")
        starts = np.cumsum(counts_C) - counts_C
        items = []
        for probabilities_C in draw_NC[:, classes]:
            drawn = rng.choice(len(classes), size=size, p=probabilities_C)
            items.append(np.sort(by_label[starts[drawn] + rng.integers(counts_C[drawn])]))
        return Parts(items)
