"""Rank agreement: the voters who agree least with the median are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import Robust, Tolerant
from gossamer.columns import COLUMNS, median
from gossamer.gram import Gram, combined

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class RankAgreement(Tolerant, Robust):
    """Mean of the n - f updates that agree best with the coordinate-wise median, by the sum of absolute differences.

    Of rankings that sum is Spearman's footrule, taken to the median ranking. Needs n >= 2f + 1. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import RankAgreement
        >>> RankAgreement(f=1)(np.array([[2.0, 1.0, 0.0], [2.0, 0.0, 1.0], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])).round(2)
        array([2.  , 0.67, 0.33])
    """

    source: ClassVar[str] = "Diaconis and Graham 1977 (Spearman's footrule); trimming as for rankings, ours"

    kind: Literal["rank_agreement"] = "rank_agreement"

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        points = self.prepared(Gram.of(updates_ND), f, own)
        distances_P = footrules(updates_ND, points.map_PN)
        nearest = distances_P.sort(stable=True).indices[: len(distances_P) - f]
        coefficients_P = distances_P.new_zeros(len(distances_P))
        coefficients_P[nearest] = 1.0 / len(nearest)
        return combined(updates_ND, points.to_rows(coefficients_P))


def footrules(rows_ND: Tensor, map_PN: Tensor | None = None) -> Tensor:
    """Sums of absolute differences to the coordinate-wise median [P], in float64, of rows or combinations of them."""
    import torch

    sums_P = torch.zeros(len(rows_ND) if map_PN is None else len(map_PN), dtype=torch.float64, device=rows_ND.device)
    for start in range(0, rows_ND.shape[1], COLUMNS):
        block_NC = rows_ND[:, start : start + COLUMNS]
        points_PC = block_NC if map_PN is None else map_PN.to(block_NC) @ block_NC
        sums_P += (points_PC - median(points_PC.clone())).abs().sum(1)
    return sums_P
