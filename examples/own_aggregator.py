# own_aggregator.py
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import CoordinateRule

if TYPE_CHECKING:
    from torch import Tensor


class Midmean(CoordinateRule):
    """Mean of the middle half of the values of every coordinate. Ignores weights."""

    source: ClassVar[str] = "Tukey 1977, midmean"

    kind: Literal["midmean"] = "midmean"
    share: float = Field(default=0.25, ge=0, lt=0.5, description="share of the values left out at each end")

    def tolerates(self, n: int) -> int:
        """The most hostile updates among n that the rule withstands."""
        return int(self.share * n)

    def on_columns(self, block_NC: Tensor, f: int) -> Tensor:
        return block_NC.sort(dim=0).values[f : len(block_NC) - f].mean(dim=0)
