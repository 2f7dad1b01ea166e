# own_aggregator.py
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer import Aggregator, ExperimentError

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class TrimmedMean(Aggregator):
    """Coordinate-wise mean without the `trim` smallest and the `trim` largest values. Ignores weights."""

    source: ClassVar[str] = "Yin et al. 2018, Definition 2"

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    trim: int = Field(default=1, ge=0, description="values left out at each end of every coordinate")

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        count = len(updates_ND)
        if 2 * self.trim >= count:
            raise ExperimentError(f"aggregator.trim = {self.trim} leaves nothing of {count} updates; use a smaller one")
        return updates_ND.sort(dim=0).values[self.trim : count - self.trim].mean(dim=0)
