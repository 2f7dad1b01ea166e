"""Independent and identically distributed parts."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gossamer.partitions import Array, Partition, Parts
from gossamer.partitions.requirements import required_nodes


class IID(Partition):
    """All items, shuffled and cut into parts of equal size (they differ by one item at most)."""

    kind: Literal["iid"] = "iid"

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        nodes = required_nodes(self.kind, nodes, len(labels_M))
        return Parts([np.sort(part) for part in np.array_split(rng.permutation(len(labels_M)), nodes)])
