"""Low-rank changes of frozen weights: what many nodes' changes are together, exactly or in the best lower rank.

A node's row holds factors A_k [r, n] and B_k [m, r] of its change s B_k A_k of a frozen weight W [m, n]. With the
nodes' shares p_k, which sum to 1, what all of them say together is

    dW = s * sum_k p_k B_k A_k

A mean of rows (FedIT: method 'fedavg') has the means Abar, Bbar of the factors instead, which are off by

    sum_k p_k B_k A_k - Bbar Abar  =  sum_k p_k (B_k - Bbar) (A_k - Abar)

That is zero where all A, or all B, are alike (FFA-LoRA, RoLoRA). Otherwise dW has up to the nodes' ranks together, and
either goes into W (FLoRA), or what the means leave out does (FedEx-LoRA), or it is cut to the rank of a row (FlexLoRA).

Rows have room for the largest rank; a node of smaller rank has zeros beyond its own. One scale s holds for all nodes.
Everything is computed in float64.

Shapes: N senders, D numbers of a row, r ranks of a row, R ranks of all senders together, S numbers of all W.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from gossamer.layout import Factors, Layout

ROUNDING = 10 * 2.0**-52
"""Singular values below this share of the factors' norms are rounding errors."""


def held(layout: Layout, rank: int) -> Tensor:
    """Which numbers of a row a node of this rank has (bool [D]): the first `rank` of all factors, and all else."""
    import torch

    mask_D = torch.ones(layout.size, dtype=torch.bool)
    for pair in layout.factors:
        mask_D[pair.a.start : pair.a.stop].view(pair.rank, pair.inputs)[rank:] = False
        mask_D[pair.b.start : pair.b.stop].view(pair.outputs, pair.rank)[:, rank:] = False
    return mask_D


def rest(layout: Layout) -> list[tuple[int, int]]:
    """The (start, stop) ranges of a row that are no factors: a head, biases, buffers."""
    factors = {entry.name for pair in layout.factors for entry in (pair.a, pair.b)}
    return layout.columns({entry.name for entry in layout.entries} - factors)


def joined(row_D: Tensor, ranges: list[tuple[int, int]]) -> Tensor:
    """The numbers of a row in these (start, stop) ranges, one after the other."""
    import torch

    return torch.cat([row_D[start:stop] for start, stop in ranges] or [row_D[:0]])


def spread(values: Tensor, ranges: list[tuple[int, int]], size: int) -> Tensor:
    """A row [D] that is zero but for the numbers in these ranges: what `joined` made, and maybe more behind it."""
    row_D, done = values.new_zeros(size), 0
    for start, stop in ranges:
        row_D[start:stop] = values[done : done + stop - start]
        done += stop - start
    return row_D


def products(rows_ND: Tensor, pair: Factors) -> tuple[Tensor, Tensor]:
    """Views A [N, r, n] and B [N, m, r] of the factors in rows [N, D]; of one row [D], A [r, n] and B [m, r]."""
    senders = rows_ND.shape[:-1]
    a = rows_ND[..., pair.a.start : pair.a.stop].view(*senders, pair.rank, pair.inputs)
    return a, rows_ND[..., pair.b.start : pair.b.stop].view(*senders, pair.outputs, pair.rank)


def stacked(a_Nrn: Tensor, b_Nmr: Tensor, shares_N: Tensor) -> tuple[Tensor, Tensor]:
    """(left [m, R], right [R, n]) whose product is sum_k p_k B_k A_k, in float64 (FLoRA).

    Senders without a share are not looked at, and ranks of which a factor is zero (padding) left out.
    """
    kept = shares_N > 0
    left_mR = (b_Nmr[kept].double() * shares_N[kept].double()[:, None, None]).transpose(0, 1).flatten(1)
    right_Rn = a_Nrn[kept].double().flatten(0, 1)
    used = left_mR.any(0) & right_Rn.any(1)
    return left_mR[:, used], right_Rn[used]


def residual(
    a_Nrn: Tensor, b_Nmr: Tensor, shares_N: Tensor, mean_a_rn: Tensor, mean_b_mr: Tensor
) -> tuple[Tensor, Tensor]:
    """(left [m, R + r], right [R + r, n]) whose product is sum_k p_k B_k A_k - Bbar Abar, for the means as they are
    after rounding (FedEx-LoRA)."""
    import torch

    left_mR, right_Rn = stacked(a_Nrn, b_Nmr, shares_N)
    return torch.cat([left_mR, -mean_b_mr.double()], 1), torch.cat([right_Rn, mean_a_rn.double()])


def mean_product(a_Nrn: Tensor, b_Nmr: Tensor, shares_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition U [m, R], S [R], V [R, n] of sum_k p_k B_k A_k, in float64, with R its rank.

    From the stacked factors by two QR decompositions and that of the small core between them, (m + n) R^2 operations;
    the m x n matrix is made only where it is no larger than the stack. Of each row of V the largest entry is positive.
    """
    import torch

    left_mR, right_Rn = stacked(a_Nrn, b_Nmr, shares_N)
    if left_mR.numel() + right_Rn.numel() < len(left_mR) * right_Rn.shape[1]:
        q_mR, core_left = torch.linalg.qr(left_mR)
        q_nR, core_right = torch.linalg.qr(right_Rn.T)
        u, s_R, v = torch.linalg.svd(core_left @ core_right.T)
        u_mR, v_Rn = q_mR @ u, v @ q_nR.T
    else:
        u_mR, s_R, v_Rn = torch.linalg.svd(left_mR @ right_Rn, full_matrices=False)
    rank = int((s_R > ROUNDING * left_mR.norm() * right_Rn.norm()).sum())
    u_mR, s_R, v_Rn = u_mR[:, :rank], s_R[:rank], v_Rn[:rank]
    signs_R = v_Rn.gather(1, v_Rn.abs().argmax(1, keepdim=True)).sign().flatten()
    return u_mR * signs_R, s_R, v_Rn * signs_R[:, None]


def best(u_mR: Tensor, s_R: Tensor, v_Rn: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B = U S [m, r] and A = V [r, n], zero beyond R: their first k ranks are the best approximation of rank k, off by
    the root of the sum of squares of the other singular values (Eckart and Young 1936)."""
    kept = min(rank, len(s_R))
    b_mr, a_rn = u_mR.new_zeros((len(u_mR), rank)), v_Rn.new_zeros((rank, v_Rn.shape[1]))
    b_mr[:, :kept] = u_mR[:, :kept] * s_R[:kept]
    a_rn[:kept] = v_Rn[:kept]
    return b_mr, a_rn


def with_products(mean_D: Tensor, rows_ND: Tensor, shares_N: Tensor, layout: Layout, spare_D: Tensor) -> Tensor:
    """`mean_D` [D] with the best factors of the rows' mean products in place of their mean factors.

    Ranks that these do not need have B = 0 and A as in `spare_D`: zeros in both would never learn again.
    """
    row_D = mean_D.clone()
    for pair in layout.factors:
        u_mR, s_R, v_Rn = mean_product(*products(rows_ND, pair), shares_N)
        b_mr, a_rn = best(u_mR, s_R, v_Rn, pair.rank)
        a_rn[len(s_R) :] = products(spare_D, pair)[0][len(s_R) :]
        for view, values in zip(products(row_D, pair), (a_rn, b_mr), strict=True):
            view.copy_(values)
    return row_D


def add_to(shared_S: Tensor, layout: Layout, additions: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The frozen weights [S] (`Layout.shared`) with s * left @ right added, for each pair of factors one of these."""
    added_S = shared_S.clone()
    for pair, entry, (left_mR, right_Rn) in zip(layout.factors, layout.shared, additions, strict=True):
        change_mn = pair.scale * (left_mR @ right_Rn)
        added_S[entry.start : entry.stop].view(entry.shape).add_(change_mn.T if pair.transposed else change_mn)
    return added_S


def numbers(pair: Factors, rank: int) -> int:
    """How many numbers a change of W of this rank takes to send: its factors, or the whole of it."""
    return min(rank * (pair.outputs + pair.inputs), pair.outputs * pair.inputs)
