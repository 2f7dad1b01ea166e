"""A two-dimensional torus."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.topologies import Array, Topology, both_ways


class Torus(Topology):
    """A grid whose borders meet: each node hears the ones above, below, left and right.

    Nodes are numbered row by row. With only 2 rows or columns, the two neighbours that way are the same node.
    """

    kind: Literal["torus"] = "torus"
    rows: int | None = Field(default=None, ge=2, description="rows of the grid; default: as square as possible")

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        rows = self.rows or most_square(nodes)
        if rows < 2 or nodes % rows or nodes // rows < 2:
            raise ExperimentError(self._misfit(nodes))
        grid = np.arange(nodes).reshape(rows, -1)
        right, below = np.roll(grid, -1, axis=1), np.roll(grid, -1, axis=0)
        return both_ways(np.concatenate([np.stack([grid, other], axis=-1).reshape(-1, 2) for other in (right, below)]))

    def _misfit(self, nodes: int) -> str:
        if self.rows is None:
            near = [n for n in range(max(4, nodes - 2), max(4, nodes) + 3) if most_square(n) > 1]
            works = ", ".join(f"{n} ({most_square(n)} x {n // most_square(n)})" for n in near)
            return (
                f"topology.kind = 'torus': {nodes} nodes make no grid of 2 or more rows and columns; "
                f"these counts do: {works}; or use topology = 'ring'"
            )
        fitting = [r for r in range(2, nodes // 2 + 1) if nodes % r == 0]
        rows_fix = f"use rows = {' or '.join(map(str, fitting))}, or " if fitting else ""
        below = max(2, nodes // self.rows) * self.rows
        return (
            f"topology.rows = {self.rows} does not divide {nodes} nodes into 2 or more columns; "
            f"{rows_fix}nodes = {below} or {below + self.rows}"
        )


def most_square(nodes: int) -> int:
    """The largest divisor of `nodes` that is at most its square root."""
    return max(r for r in range(1, math.isqrt(nodes) + 1) if nodes % r == 0)
