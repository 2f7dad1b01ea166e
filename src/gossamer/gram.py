"""The Gram matrix of a few long rows: all that rules based on distances, angles or subspaces need to know.

A rule that looks at updates only through their inner products costs one pass over the numbers for the matrix, O(N^2)
to O(N^3) for itself, and one pass for its result, which is a combination of the rows. Mixing rows first (NNM,
bucketing, clipping) is a product with the small matrix, never with the rows.

Shapes: N rows of D numbers, P points that are combinations of the rows, B = N + 1: the centred rows, then the centre.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 4096
"""Columns multiplied at a time: their centred copy stays in cache, and each block's products are added in float64."""

ILL = 1e4
"""Squared distance from the centre to the medoid, in squared distances between rows, above which float32 would lose
the latter: then everything is computed again in float64 around the medoid."""


class Gram:
    """Inner products and squared distances, in float64, of P points that are combinations of N rows.

    Rows are centred on their mean before they are multiplied, in float32 blocks summed in float64. Where a hostile row
    drags the mean far away, or the rows agree to many digits, the products are formed in float64 around the medoid.
    """

    def __init__(self, kernel_BB: Tensor, map_PN: Tensor | None = None) -> None:
        self.kernel_BB = kernel_BB
        """Products of the centred rows and, last, of the centre."""
        self.map_PN = map_PN
        """The points as combinations of the rows; None: they are the rows."""

    @classmethod
    def of(cls, rows_ND: Tensor) -> Gram:
        """Of rows [N, D], which must be finite and whose squares must not overflow float64."""
        kernel_BB = _kernel(rows_ND, None, rows_ND.dtype.itemsize > 4)
        if not kernel_BB.isfinite().all():
            kernel_BB = _kernel(rows_ND, None, True)
        medoid, ill = _condition(kernel_BB)
        return cls(_kernel(rows_ND, medoid, True) if ill else kernel_BB)

    def __len__(self) -> int:
        return len(self.kernel_BB) - 1 if self.map_PN is None else len(self.map_PN)

    def through(self, map_QP: Tensor) -> Gram:
        """Of Q points, each a combination of these."""
        map_QP = map_QP.to(self.kernel_BB)
        return Gram(self.kernel_BB, map_QP if self.map_PN is None else map_QP @ self.map_PN)

    def part(self, index: Tensor) -> Gram:
        """Of some of the points."""
        if self.map_PN is not None:
            return Gram(self.kernel_BB, self.map_PN[index])
        import torch

        kept = torch.cat([index, index.new_tensor([len(self)])])
        return Gram(self.kernel_BB[kept][:, kept])

    @cached_property
    def products(self) -> Tensor:
        """<x_i, x_j>, [P, P]."""
        map_PB = self._basis()
        return map_PB @ self.kernel_BB @ map_PB.T

    @cached_property
    def centred(self) -> Tensor:
        """<x_i - c, x_j - c>, [P, P], for a c near the points: what distances are found from."""
        map_PB = self._basis()
        sums_P = map_PB[:, -1]
        if (sums_P - sums_P[0]).abs().max() <= 1e-9:
            # The centre cancels from all differences.
            centred_PN, kernel_NN = map_PB[:, :-1], self.kernel_BB[:-1, :-1]
            return kernel_NN if self.map_PN is None else centred_PN @ kernel_NN @ centred_PN.T
        return self.products

    @cached_property
    def squares(self) -> Tensor:
        """||x_i - x_j||^2, [P, P]; zero on the diagonal."""
        inner_PP = self.centred
        norms_P = inner_PP.diagonal()
        squares_PP = (norms_P[:, None] + norms_P - 2 * inner_PP).clamp_(min=0.0)
        return squares_PP.fill_diagonal_(0.0)

    @cached_property
    def norms(self) -> Tensor:
        """||x_i||, [P]."""
        return self.products.diagonal().clamp(min=0.0).sqrt()

    def about(self, point: int) -> Tensor:
        """<x_i - x_p, x_j - x_p>, [P, P]: products with one of the points as the origin."""
        inner_PP = self.centred
        return (inner_PP - inner_PP[point]) - (inner_PP[:, point] - inner_PP[point, point])[:, None]

    def to_rows(self, coefficients_P: Tensor) -> Tensor:
        """Coefficients [..., N] of the rows from those of the points."""
        return coefficients_P if self.map_PN is None else coefficients_P @ self.map_PN

    def _basis(self) -> Tensor:
        """The points [P, B] as combinations of the centred rows and the centre."""
        import torch

        n = len(self.kernel_BB) - 1
        map_PN = torch.eye(n, dtype=self.kernel_BB.dtype, device=self.kernel_BB.device)
        map_PN = map_PN if self.map_PN is None else self.map_PN
        return torch.cat([map_PN, map_PN.sum(1, keepdim=True)], 1)


def combined(rows_ND: Tensor, coefficients_N: Tensor) -> Tensor:
    """sum_i a_i x_i [D]; rows with a coefficient of zero are not looked at, whatever they hold."""
    given_N = coefficients_N.to(rows_ND)
    used = coefficients_N.nonzero().flatten().tolist()
    if len(used) == 1 and coefficients_N[used[0]] == 1:
        return rows_ND[used[0]].clone()
    result_D = rows_ND.new_zeros(rows_ND.shape[1])
    # Runs of rows that are used, so that none is copied.
    starts = [i for place, i in enumerate(used) if place == 0 or used[place - 1] != i - 1]
    for start, following in zip(starts, [*starts[1:], len(rows_ND)], strict=False):
        stop = max(i for i in used if i < following) + 1
        result_D.addmv_(rows_ND[start:stop].T, given_N[start:stop])
    return result_D


def _kernel(rows_ND: Tensor, centre: int | None, double: bool) -> Tensor:
    """Products [B, B] of the rows less their mean (or less one of them), and of that centre."""
    import torch

    n, columns = rows_ND.shape
    kind = torch.float64 if double else torch.float32
    buffer_BC = torch.empty((n + 1, min(COLUMNS, columns)), dtype=kind, device=rows_ND.device)
    kernel_BB = torch.zeros((n + 1, n + 1), dtype=torch.float64, device=rows_ND.device)
    for start in range(0, columns, COLUMNS):
        block_NC = rows_ND[:, start : start + COLUMNS].to(kind)
        part_BC = buffer_BC[:, : block_NC.shape[1]]
        if centre is None:
            torch.mean(block_NC, 0, out=part_BC[n])
        else:
            part_BC[n] = block_NC[centre]
        torch.sub(block_NC, part_BC[n], out=part_BC[:n])
        kernel_BB += part_BC @ part_BC.T
    return kernel_BB


def _condition(kernel_BB: Tensor) -> tuple[int, bool]:
    """The medoid (least median distance to the others), and whether the centre is too far away from it."""
    norms_N = kernel_BB.diagonal()[:-1]
    if len(norms_N) < 2:
        return 0, False
    squares_NN = norms_N[:, None] + norms_N - 2 * kernel_BB[:-1, :-1]
    medians_N = squares_NN.median(1).values
    medoid = int(medians_N.argmin())
    return medoid, not bool(norms_N[medoid] <= ILL * medians_N[medoid])
