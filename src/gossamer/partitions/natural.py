"""One node for each natural group."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.partitions import Array, Partition, Parts


class Natural(Partition):
    """One node for each natural group of the data: speaker, hospital, writer, a column of your own.

    Without `nodes` all groups with `min_size` items are dealt, else that many of them, drawn at random; a node is
    known by its group's name. Items of other groups are not used.
    """

    source: ClassVar[str] = "Caldas et al. 2018 (LEAF)"

    kind: Literal["natural"] = "natural"
    min_size: int = Field(default=10, ge=1, description="groups with fewer training items are left out")

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        if groups_M is None:
            raise ExperimentError(
                "partition = 'natural' needs natural groups, and this data set has none: use shakespeare, "
                "heart_disease, clinc150, wikitext, instructions, mnist with writers.npz, a table with data.group, or "
                "texts in several files"
            )
        groups, counts = np.unique(groups_M, return_counts=True)
        large = groups[counts >= self.min_size]
        if len(large) == 0 or (nodes is not None and nodes > len(large)):
            raise ExperimentError(
                f"nodes = {nodes or 'all'}: of {len(groups)} natural groups {len(large)} have "
                f"partition.min_size = {self.min_size} training items (the largest has {counts.max()}); "
                f"lower min_size or nodes"
            )
        chosen = large if nodes is None else np.sort(rng.choice(large, size=nodes, replace=False))
        return Parts(
            [np.flatnonzero(groups_M == group) for group in chosen], names=tuple(str(group) for group in chosen)
        )
