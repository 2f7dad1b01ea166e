# own_schedule.py
from __future__ import annotations

from typing import Literal

from pydantic import Field

from gossamer.schedules import ALL, Schedule


class Halving(Schedule):
    """All-reduces after 1/2, 3/4, 7/8, ... of the rounds and after the last; a share of the links in between."""

    kind: Literal["halving"] = "halving"
    between: float = Field(default=0.0, ge=0, le=1, description="share of the topology's links in the other rounds")

    def intensity(self, round: int, rounds: int) -> float:
        left = rounds - 1 - round  # Rounds count from 0; after the last one none are left.
        while rounds > 1:
            rounds //= 2
            if left == rounds:
                return ALL
        return ALL if left == 0 else self.between
