"""Schedules: when nodes communicate and who takes part."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from gossamer.plugs import Plug

Array = np.ndarray[Any, Any]


class Schedule(Plug):
    """Base of the schedules: `communicates` says when, `participants` says who."""

    participation: float = Field(
        default=1.0, gt=0, le=1, description="fraction of the nodes that take part in a round (at least one does)"
    )

    def communicates(self, round: int, rounds: int) -> bool:
        """Whether messages are exchanged at the end of this round."""
        raise NotImplementedError

    def participants(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        """The nodes that take part in a round, ascending: max(1, round(fraction * nodes)), without replacement."""
        size = max(1, round_half_up(self.participation * nodes))
        if size == nodes:
            return np.arange(nodes)
        return np.sort(rng.choice(nodes, size=size, replace=False))


def round_half_up(value: float) -> int:
    """The nearest integer, halves up (Python's own rounding sends 2.5 to 2)."""
    return int(np.floor(value + 0.5))
