"""A fixed number of classes a node."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.partitions import Array, Partition, Parts
from gossamer.partitions.requirements import members_by_class, required_labels, required_nodes


class LabelCount(Partition):
    """Each node has items of exactly `classes` classes; the items of a class are divided evenly among its nodes.

    Nodes choose in random order, each the classes that the fewest nodes have so far (ties at random), so all classes
    are dealt and the numbers of nodes of two classes differ by one at most.
    """

    source: ClassVar[str] = "Li et al. 2022, quantity-based label imbalance (#C = k)"

    kind: Literal["label_count"] = "label_count"
    classes: int = Field(default=2, ge=1, description="number of classes of a node")

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        labels_M = required_labels(self.kind, labels_M)
        nodes = required_nodes(self.kind, nodes, len(labels_M), self.classes)
        members = members_by_class(labels_M, rng)
        if not self.classes <= len(members) <= nodes * self.classes:
            raise ExperimentError(
                f"partition.classes = {self.classes} with nodes = {nodes} cannot deal {len(members)} classes: "
                f"it must be at least {-(-len(members) // nodes)} and at most {len(members)}"
            )
        owners: list[list[int]] = [[] for _ in members]
        for node in rng.permutation(nodes):
            taken, ties = np.array([len(own) for own in owners]), rng.random(len(members))
            order = np.lexsort((ties, taken))
            for label in order[: self.classes]:
                owners[label].append(int(node))
        items: list[list[Array]] = [[] for _ in range(nodes)]
        for own, of_class in zip(owners, members, strict=True):
            if len(own) > len(of_class):
                raise ExperimentError(
                    f"partition.classes = {self.classes} with nodes = {nodes} gives one class to {len(own)} nodes, but "
                    f"it has {len(of_class)} items: lower partition.classes or nodes"
                )
            for node, part in zip(own, np.array_split(of_class, len(own)), strict=True):
                items[node].append(part)
        return Parts([np.sort(np.concatenate(parts)) for parts in items])
