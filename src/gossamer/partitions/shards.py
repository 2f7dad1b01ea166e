"""The pathological split of McMahan et al."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.partitions import Array, Partition, Parts
from gossamer.partitions.requirements import members_by_class, required_labels, required_nodes


class LabelShards(Partition):
    """Items sorted by label and cut into equal shards, `per_node` of them for each node: a few classes a node."""

    source: ClassVar[str] = "McMahan et al. 2017, Section 3 (pathological non-IID)"

    kind: Literal["shards"] = "shards"
    per_node: int = Field(default=2, ge=1, description="shards of a node, and about the most classes it has")

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        labels_M = required_labels(self.kind, labels_M)
        nodes = required_nodes(self.kind, nodes, len(labels_M), self.per_node)
        by_label = np.concatenate(members_by_class(labels_M, rng))
        shards = np.array_split(by_label, nodes * self.per_node)
        dealt = rng.permutation(len(shards)).reshape(nodes, self.per_node)
        return Parts([np.sort(np.concatenate([shards[shard] for shard in own])) for own in dealt])
