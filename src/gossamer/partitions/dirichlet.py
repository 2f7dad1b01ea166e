"""Dirichlet label skew."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.partitions import Array, Partition, Parts


class Dirichlet(Partition):
    """Each class is dealt out in proportions drawn from Dirichlet(alpha); small alpha means few classes a node.

    Drawn again, up to 1,000 times, until every node has at least `min_size` items.
    """

    source: ClassVar[str] = "Yurochkin et al. 2019; Hsu et al. 2019; Li et al. 2022 (minimum size)"

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(default=0.5, gt=0, description="concentration: 0.1 very uneven, 100 nearly even")
    min_size: int = Field(default=10, ge=1, description="smallest number of items of a node")

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        raise ExperimentError("being written")
