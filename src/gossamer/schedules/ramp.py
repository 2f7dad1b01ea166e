"""Communication that grows or decays over the run."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.schedules import Schedule


class Ramp(Schedule):
    """The share of the links goes from `start` in the first round to `end` in the last.

    With u from 0 to 1 over the rounds, s = start, e = end:

        linear       s + (e - s) u
        cosine       e + (s - e) (1 + cos(pi u)) / 2
        exponential  e + (s - e) exp(-10 u)               most of the change at the beginning
        log          s + (e - s) log10(1 + 9 u^80)        most of the change at the end
    """

    source: ClassVar[str] = "Zhu et al. 2025 (arXiv 2507.06542), communication schedules"

    kind: Literal["ramp"] = "ramp"
    shape: Literal["linear", "cosine", "exponential", "log"] = Field(default="linear", description="see above")
    start: float = Field(default=0.0, ge=0, le=1, description="share of the topology's links in the first round")
    end: float = Field(default=1.0, ge=0, le=1, description="share of the topology's links in the last round")

    def intensity(self, round: int, rounds: int) -> float:
        u = round / max(1, rounds - 1)
        change = {
            "linear": u,
            "cosine": (1 - math.cos(math.pi * u)) / 2,
            "exponential": 1 - math.exp(-10 * u),
            "log": math.log10(1 + 9 * u**80),
        }[self.shape]
        return self.start + (self.end - self.start) * change
