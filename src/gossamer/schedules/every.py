"""Communicate every k rounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gossamer.schedules import ALL, Schedule


class Every(Schedule):
    """Communicate at the end of every k-th round (k = 1: every round), over a share of the links or all to all."""

    kind: Literal["every"] = "every"
    k: int = Field(default=1, ge=1, description="rounds from one exchange to the next")

    share: float = Field(default=1.0, ge=0, le=1, description="share of the topology's links that carry a model")
    all_reduce: bool = Field(default=False, description="an all-reduce among all nodes instead of the topology's links")

    def intensity(self, round: int, rounds: int) -> float:
        if (round + 1) % self.k:
            return 0.0
        return ALL if self.all_reduce else self.share
