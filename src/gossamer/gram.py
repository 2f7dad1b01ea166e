"""The Gram matrix of a few long rows: all that rules based on distances, angles or subspaces need to know.

A rule that looks at updates only through their inner products costs one pass over the numbers for the matrix, O(N^2)
to O(N^3) for itself, and one pass for its result, which is a combination of the rows. Mixing rows first (NNM,
bucketing, clipping) is a product with the small matrix, never with the rows.

Shapes: N rows of D numbers, P points that are combinations of the rows, B = N + 1: rows less a centre, then the centre.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Centre = Literal["origin", "mean"] | int
"""Of the rows when they are multiplied: zero, their mean, or one of them by its number."""

COLUMNS = 4096
"""Columns multiplied at a time: their centred copy stays in cache, and each block's products are added in float64."""

NEAR = 10.0
"""Squared distance from the origin to the medoid, in squared distances between rows, up to which rows are multiplied as
they are: centring them would gain no more than a digit."""

ILL = 1e2
"""Squared distance from the centre to the medoid, in squared distances between rows, above which float32 would lose
the latter: then everything is computed again in float64 around the medoid."""


class Kernel:
    """Products of the rows less a centre and, last, of that centre: found when they are first asked for.

    The centre is the origin where the rows are near it. Else it is their mean, or, where a hostile row drags the mean
    far away or the rows agree to many digits, their medoid. Products are formed in blocks, in float32 and summed in
    float64; around the medoid, and where float32 overflows, in float64.
    """

    def __init__(self, rows_ND: Tensor) -> None:
        self.rows_ND = rows_ND

    @cached_property
    def products(self) -> Tensor:
        rows_ND = self.rows_ND
        double = rows_ND.dtype.itemsize > 4
        # The first columns tell where to begin; what was found tells whether that was right.
        near = _offset(_kernel(rows_ND[:, : COLUMNS // 4], "origin", double))[1] <= NEAR
        centre: Centre = "origin" if near else "mean"
        kernel_BB = _kernel(rows_ND, centre, double)
        if not kernel_BB.isfinite().all():
            kernel_BB = _kernel(rows_ND, centre, True)
        medoid, offset = _offset(kernel_BB)
        return kernel_BB if offset <= (NEAR if near else ILL) else _kernel(rows_ND, medoid, True)

    @cached_property
    def norms(self) -> Tensor:
        """||x_i||, [N], without the products between rows."""
        import torch

        if "products" not in self.__dict__:
            squares_N = torch.zeros(len(self.rows_ND), dtype=torch.float64, device=self.rows_ND.device)
            for start in range(0, self.rows_ND.shape[1], COLUMNS):
                norms_N: Tensor = torch.linalg.vector_norm(self.rows_ND[:, start : start + COLUMNS], dim=1)
                squares_N += norms_N.double().square()
            if squares_N.isfinite().all():
                return squares_N.sqrt()
        kernel_BB = self.products
        squares_B = kernel_BB.diagonal()
        return (squares_B[:-1] + 2 * kernel_BB[:-1, -1] + squares_B[-1]).clamp(min=0.0).sqrt()


class Gram:
    """Inner products and squared distances, in float64, of P points that are combinations of N rows."""

    def __init__(self, kernel: Tensor | Kernel, map_PN: Tensor | None = None) -> None:
        self._kernel = kernel
        self.map_PN = map_PN
        """The points as combinations of the rows; None: they are the rows."""

    @classmethod
    def of(cls, rows_ND: Tensor) -> Gram:
        """Of rows [N, D], which must be finite and whose squares must not overflow float64, and which stay as they are
        as long as something is asked."""
        return cls(Kernel(rows_ND))

    @property
    def kernel(self) -> Tensor:
        """Products of the rows less a centre and, last, of that centre."""
        return self._kernel.products if isinstance(self._kernel, Kernel) else self._kernel

    @property
    def device(self) -> torch.device:
        """Where all this is."""
        return (self._kernel.rows_ND if isinstance(self._kernel, Kernel) else self._kernel).device

    def __len__(self) -> int:
        if self.map_PN is not None:
            return len(self.map_PN)
        return len(self._kernel.rows_ND) if isinstance(self._kernel, Kernel) else len(self._kernel) - 1

    def through(self, map_QP: Tensor) -> Gram:
        """Of Q points, each a combination of these."""
        map_QP = map_QP.to(self.device).double()
        return Gram(self._kernel, map_QP if self.map_PN is None else map_QP @ self.map_PN)

    def part(self, index: Tensor) -> Gram:
        """Of some of the points."""
        if self.map_PN is not None:
            return Gram(self._kernel, self.map_PN[index])
        import torch

        kept = torch.cat([index, index.new_tensor([len(self)])])
        return Gram(self.kernel[kept][:, kept])

    @cached_property
    def products(self) -> Tensor:
        """<x_i, x_j>, [P, P]."""
        map_PB = self._basis()
        return map_PB @ self.kernel @ map_PB.T

    @cached_property
    def centred(self) -> Tensor:
        """<x_i - c, x_j - c>, [P, P], for a c near the points: what distances are found from."""
        map_PB = self._basis()
        sums_P = map_PB[:, -1]
        if (sums_P - sums_P[0]).abs().max() <= 1e-9:
            # The centre cancels from all differences.
            centred_PN, kernel_NN = map_PB[:, :-1], self.kernel[:-1, :-1]
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
        if self.map_PN is None and isinstance(self._kernel, Kernel):
            return self._kernel.norms
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

        n = len(self.kernel) - 1
        map_PN = torch.eye(n, dtype=self.kernel.dtype, device=self.kernel.device)
        map_PN = map_PN if self.map_PN is None else self.map_PN
        return torch.cat([map_PN, map_PN.sum(1, keepdim=True)], 1)


def combined(rows_ND: Tensor, coefficients_N: Tensor) -> Tensor:
    """sum_i a_i x_i [D]; rows with a coefficient of zero do not matter, whatever they hold."""
    used = coefficients_N.nonzero().flatten()
    if len(used) == 1 and coefficients_N[used[0]] == 1:
        return rows_ND[used[0]].clone()
    row_D = coefficients_N.to(rows_ND) @ rows_ND
    if len(used) < len(rows_ND) and not row_D.sum().isfinite():
        # Zero times what is not finite; a copy of the others is only made where that is so.
        return coefficients_N[used].to(rows_ND) @ rows_ND[used]
    return row_D


def _kernel(rows_ND: Tensor, centre: Centre, double: bool) -> Tensor:
    """Products [B, B] of the rows less a centre, and of that centre."""
    import torch

    n, columns = rows_ND.shape
    kind = torch.float64 if double else torch.float32
    kernel_BB = torch.zeros((n + 1, n + 1), dtype=torch.float64, device=rows_ND.device)
    size = 0 if centre == "origin" else min(COLUMNS, columns)
    buffer_BC = torch.empty((n + 1, size), dtype=kind, device=rows_ND.device)
    for start in range(0, columns, COLUMNS):
        block_NC = rows_ND[:, start : start + COLUMNS].to(kind)
        if centre == "origin":
            kernel_BB[:n, :n] += block_NC @ block_NC.T
            continue
        part_BC = buffer_BC[:, : block_NC.shape[1]]
        if centre == "mean":
            torch.mean(block_NC, 0, out=part_BC[n])
        else:
            part_BC[n] = block_NC[centre]
        torch.sub(block_NC, part_BC[n], out=part_BC[:n])
        kernel_BB += part_BC @ part_BC.T
    return kernel_BB


def _offset(kernel_BB: Tensor) -> tuple[int, float]:
    """The medoid (least median distance to the others), and its distance to the centre: squared, in those medians."""
    norms_N = kernel_BB.diagonal()[:-1]
    if len(norms_N) < 2:
        return 0, 0.0
    medians_N = (norms_N[:, None] + norms_N - 2 * kernel_BB[:-1, :-1]).median(1).values
    medoid = int(medians_N.argmin())
    norm, median = float(norms_N[medoid]), float(medians_N[medoid])
    return medoid, 0.0 if norm == 0 else norm / median if median > 0 else math.inf
