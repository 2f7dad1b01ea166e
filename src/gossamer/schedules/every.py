"""Communicate every k rounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gossamer.schedules import Schedule


class Every(Schedule):
    """Communicate at the end of every k-th round (k = 1: every round)."""

    kind: Literal["every"] = "every"
    k: int = Field(default=1, ge=1, description="rounds from one exchange to the next")

    def communicates(self, round: int, rounds: int) -> bool:
        return (round + 1) % self.k == 0
