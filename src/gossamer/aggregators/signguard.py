"""SignGuard: updates of odd length or with odd shares of positive and negative numbers are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import Robust
from gossamer.columns import COLUMNS
from gossamer.errors import AggregationError
from gossamer.gram import Gram, combined

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class SignGuard(Robust):
    """Mean, clipped to the median length, of updates of usual length and in the largest cluster of sign statistics.

    The statistics of an update are its shares of positive, zero and negative numbers, over all coordinates (the paper
    draws a tenth of them). They are clustered by mean shift with a flat kernel, as wide as the mean distance of an
    update to its n // 2 nearest others. Of two middle lengths the smaller is the median. On a graph all this is about
    the others' differences from the receiver's own, which takes part in the mean. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import SignGuard
        >>> SignGuard()(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [-2.0, -1.0], [0.0, 1e9]])).round(2)
        array([1.53, 1.53])
    """

    proven: ClassVar[bool] = False
    source: ClassVar[str] = "Xu, Huang, Song and Lan 2022, Algorithm 2"

    kind: Literal["signguard"] = "signguard"
    lower: float = Field(default=0.1, ge=0, le=1, description="least length of an update, in median lengths")
    upper: float = Field(default=3.0, ge=1, description="greatest length of an update, in median lengths")

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        gram = Gram.of(updates_ND)
        points = self.prepared(gram, f, own)
        if own is not None and len(points) != len(gram):
            raise AggregationError("signguard on a graph: 'before' leaves no own update; use one that keeps each")
        coefficients_P = self._weigh(points, sign_shares(updates_ND, points.map_PN, own), own)
        return combined(updates_ND, points.to_rows(coefficients_P))

    def _weigh(self, points: Gram, shares_P3: Tensor, own: int | None) -> Tensor:
        import torch

        count = len(points)
        lengths_P = points.norms if own is None else points.about(own).diagonal().clamp(min=0.0).sqrt()
        others = torch.arange(count, device=lengths_P.device)
        others = others if own is None else others[others != own]
        coefficients_P = lengths_P.new_zeros(count)
        if len(others):
            lengths_Q = lengths_P[others]
            median = lengths_Q.median()
            usual_Q = (lengths_Q >= self.lower * median) & (lengths_Q <= self.upper * median)
            alike_Q = largest_cluster(shares_P3[others])
            # Should the cluster hold nobody of usual length, length alone decides; the median itself always is.
            chosen_Q = usual_Q & alike_Q if bool((usual_Q & alike_Q).any()) else usual_Q
            clipped_Q = (median / lengths_Q.clamp(min=1e-300)).clamp(max=1.0)
            taken = int(chosen_Q.sum()) + (own is not None)
            coefficients_P[others] = clipped_Q * chosen_Q / taken
        if own is not None:
            coefficients_P[own] = 1.0 - coefficients_P.sum()
        return coefficients_P


def sign_shares(rows_ND: Tensor, map_PN: Tensor | None = None, own: int | None = None) -> Tensor:
    """Shares [P, 3] of positive, zero and negative numbers in each row, or combination of rows, or difference."""
    import torch

    counts_P2 = torch.zeros((len(rows_ND) if map_PN is None else len(map_PN), 2), dtype=torch.float64)
    counts_P2 = counts_P2.to(rows_ND.device)
    for start in range(0, rows_ND.shape[1], COLUMNS):
        block_NC = rows_ND[:, start : start + COLUMNS]
        points_PC = block_NC if map_PN is None else map_PN.to(block_NC) @ block_NC
        points_PC = points_PC if own is None else points_PC - points_PC[own]
        counts_P2[:, 0] += (points_PC > 0).sum(1)
        counts_P2[:, 1] += (points_PC < 0).sum(1)
    shares_P2 = counts_P2 / rows_ND.shape[1]
    return torch.stack([shares_P2[:, 0], 1.0 - shares_P2.sum(1), shares_P2[:, 1]], 1)


def largest_cluster(points_NK: Tensor, width: float | None = None) -> Tensor:
    """Which of N points lie in the largest cluster of a mean shift with a flat kernel; of equal ones the densest."""
    import torch

    def distances(one_MK: Tensor) -> Tensor:
        return (one_MK[:, None] - points_NK).square().sum(2).sqrt()

    n = len(points_NK)
    if width is None:
        width = float(distances(points_NK).sort(1).values[:, n // 2].mean())
    width = max(width, 1e-9)
    centres_NK = points_NK
    for _ in range(300):
        near_NN = (distances(centres_NK) <= width).to(points_NK)
        moved_NK = near_NN @ points_NK / near_NN.sum(1, keepdim=True)
        still = bool((moved_NK - centres_NK).abs().max() <= 1e-3 * width)
        centres_NK = moved_NK
        if still:
            break
    crowd_N = (distances(centres_NK) <= width).sum(1)
    kept: list[int] = []
    for i in crowd_N.sort(descending=True, stable=True).indices.tolist():
        if all(float((centres_NK[i] - centres_NK[j]).norm()) > width for j in kept):
            kept.append(i)
    labels_N = distances(centres_NK[torch.tensor(kept, device=points_NK.device)]).argmin(0)
    return labels_N == labels_N.bincount().argmax()
