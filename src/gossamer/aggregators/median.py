"""The coordinate-wise median."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Aggregator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class Median(Aggregator):
    """Coordinate-wise median (mean of the two middle values for an even number); breakdown point 1/2.

    Ignores weights.
    """

    source: ClassVar[str] = "Yin et al. 2018, Definition 1"

    kind: Literal["median"] = "median"

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        import torch

        n = len(updates_ND)
        ordered = torch.sort(updates_ND, dim=0).values
        return ordered[n // 2].clone() if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
