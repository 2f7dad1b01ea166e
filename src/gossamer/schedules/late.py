"""A number of merges, closer together towards the end."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from gossamer.schedules import ALL, Schedule


class Late(Schedule):
    """`merges` all-reduces, the k-th after (k / merges)^(1 / power) of the rounds; a share of the links otherwise.

    power = 1 spaces them evenly; the larger it is, the more of them lie at the end. The last is at the end of the run.
    Two that fall on one round are spread to the rounds before it.
    """

    kind: Literal["late"] = "late"
    merges: int = Field(default=5, ge=1, description="all-reduces in the run")
    power: float = Field(default=3.0, ge=1, description="1: evenly spaced; larger: later")
    between: float = Field(default=0.0, ge=0, le=1, description="share of the topology's links in the other rounds")

    def intensity(self, round: int, rounds: int) -> float:
        return ALL if round in self.merging(rounds) else self.between

    def merging(self, rounds: int) -> set[int]:
        """The rounds (from 0) that end in an all-reduce."""
        count = min(self.merges, rounds)
        chosen: list[int] = []
        for k in range(count, 0, -1):
            at = math.ceil((k / count) ** (1 / self.power) * rounds) - 1
            at = max(at, k - 1)  # Room for the earlier ones ...
            chosen.append(min(at, chosen[-1] - 1 if chosen else rounds - 1))  # ... and none on top of a later one.
        return set(chosen)
