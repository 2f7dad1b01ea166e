"""A window of dense communication."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gossamer.schedules import Schedule, Share, as_intensity


class Window(Schedule):
    """All-reduces (or a share of the links) inside a window of rounds, a smaller share outside.

    The window is the rounds from `at` * rounds, `width` * rounds of them (rounded, at least one). Nothing is added at
    the end of the run (the published code ends every run with a dense round).
    """

    source: ClassVar[str] = "Zhu et al. 2025 (arXiv 2507.06542), truncate_v2"

    kind: Literal["window"] = "window"
    at: float = Field(default=0.9, ge=0, le=1, description="where it begins, as a fraction of the rounds")
    width: float = Field(default=0.1, gt=0, le=1, description="how long it is, as a fraction of the rounds")
    inside: Share | Literal["all"] = Field(
        default="all", description="share of the topology's links in the window, or 'all' for all-reduces"
    )
    outside: float = Field(default=0.0, ge=0, le=1, description="share of the topology's links elsewhere")

    def intensity(self, round: int, rounds: int) -> float:
        width = min(rounds, max(1, int(self.width * rounds + 0.5)))
        first = min(int(self.at * rounds + 0.5), rounds - width)
        if not first <= round < first + width:
            return self.outside
        return as_intensity(self.inside)
