"""Low-rank changes against dense matrices: what is exact, what is cut off, and that the large matrix is never made.

Shapes: N senders, D numbers of a row, r ranks of a row, W is [m, n].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from gossamer.layout import Entry, Factors, Layout
from gossamer.lowrank import (
    add_to,
    best,
    held,
    joined,
    mean_product,
    numbers,
    products,
    residual,
    rest,
    spread,
    stacked,
    with_products,
)

Array = np.ndarray[Any, Any]


def layout_of(*sizes: tuple[int, int], rank: int, scale: float = 2.0) -> Layout:
    """Factors of a weight [m, n] for each of the sizes, every second one transposed and with the shapes of a
    convolution, each followed by a bias; then a head and two buffers."""
    entries: list[Entry] = []

    def entry(name: str, *shape: int, trainable: bool = True) -> Entry:
        entries.append(Entry(name, shape, entries[-1].stop if entries else 0, trainable))
        return entries[-1]

    factors = []
    for place, (m, n) in enumerate(sizes):
        odd = place % 2 == 1
        a = entry(f"{place}.a", rank, n, 1, 1) if odd else entry(f"{place}.a", rank, n)
        b = entry(f"{place}.b", m, rank, 1, 1) if odd else entry(f"{place}.b", m, rank)
        factors.append(Factors(a, b, f"{place}.weight", scale, odd))
        entry(f"{place}.bias", m)
    entry("head", 3, 2)
    entry("mean", 2, trainable=False)
    return Layout(tuple(entries), tuple(pair.base for pair in factors), tuple(factors))


def rows_of(layout: Layout, count: int, seed: int = 0, ranks: Sequence[int] = (), alike: str = "") -> Tensor:
    """Random rows [N, D] in float64; with the ranks of their nodes, or the entries whose names end so alike."""
    rows_ND = torch.randn(count, layout.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for row_D, rank in zip(rows_ND, ranks, strict=False):
        row_D *= held(layout, rank)
    for entry in layout.entries:
        if alike and entry.name.endswith(alike):
            rows_ND[:, entry.start : entry.stop] = rows_ND[0, entry.start : entry.stop]
    return rows_ND


def shares_of(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(count)))


def ideal(layout: Layout, rows_ND: Tensor, shares_N: Tensor) -> list[Array]:
    """sum_k p_k B_k A_k for each pair of factors, node after node in NumPy."""
    rows, found = rows_ND.double().numpy(), []
    for pair in layout.factors:
        total = np.zeros((pair.outputs, pair.inputs))
        for row, share in zip(rows, shares_N.tolist(), strict=True):
            a = row[pair.a.start : pair.a.stop].reshape(pair.rank, pair.inputs)
            b = row[pair.b.start : pair.b.stop].reshape(pair.outputs, pair.rank)
            total += share * (b @ a)
        found.append(total)
    return found


def changes(layout: Layout, row_D: Tensor) -> list[Array]:
    """B A of one row."""
    return ideal(layout, row_D[None], torch.ones(1))


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


shapes = st.tuples(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 7), st.integers(0, 2**31)
).map(lambda s: (s[0], s[1], min(s[2], s[0], s[1]), *s[3:]))
"""m, n, r, N and a seed: stacks narrower and wider than the matrix."""


# ---- what a row holds ----------------------------------------------------------------------------------------------


def test_products_are_views_of_the_factors() -> None:
    layout = layout_of((4, 3), (2, 5), rank=2)
    rows_ND = rows_of(layout, 3)
    for pair in layout.factors:
        a_Nrn, b_Nmr = products(rows_ND, pair)
        assert (a_Nrn.shape, b_Nmr.shape) == ((3, 2, pair.inputs), (3, pair.outputs, 2))
        a_rn, b_mr = products(rows_ND[1], pair)
        a_rn[1, 0], b_mr[0, 1] = 7.0, 8.0
        assert (float(a_Nrn[1, 1, 0]), float(b_Nmr[1, 0, 1])) == (7.0, 8.0)
        assert (float(rows_ND[1, pair.a.start + pair.inputs]), float(rows_ND[1, pair.b.start + 1])) == (7.0, 8.0)


@pytest.mark.parametrize("rank", range(5))
def test_a_node_of_a_rank_has_the_first_ranks_and_all_else(rank: int) -> None:
    layout = layout_of((6, 7), (5, 9), rank=4)
    mask_D = held(layout, rank)
    assert int((~mask_D).sum()) == (4 - rank) * (6 + 7 + 5 + 9)
    row_D = rows_of(layout, 1)[0]
    for pair, change in zip(layout.factors, changes(layout, row_D * mask_D), strict=True):
        a_rn, b_mr = products(row_D, pair)
        close(change, b_mr[:, :rank] @ a_rn[:rank])
    assert joined(mask_D, rest(layout)).all()


def test_the_rest_of_a_row_comes_apart_and_together() -> None:
    layout = layout_of((4, 3), (2, 5), rank=2)
    row_D, ranges = rows_of(layout, 1)[0], rest(layout)
    rest_R = joined(row_D, ranges)
    assert len(rest_R) == 4 + 2 + 6 + 2
    assert torch.equal(spread(torch.cat([rest_R, rest_R]), ranges, layout.size), row_D * held(layout, 0))
    assert joined(row_D, []).shape == (0,)


# ---- exact sums ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_stacked_factors_multiply_to_the_ideal(shape: tuple[int, ...]) -> None:
    m, n, r, count, seed = shape
    layout, shares_N = layout_of((m, n), rank=r), shares_of(count, seed)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        rows_ND = rows_of(layout, count, seed).to(dtype)
        left_mR, right_Rn = stacked(*products(rows_ND, layout.factors[0]), shares_N)
        assert left_mR.shape[1] == len(right_Rn) <= count * r
        close(left_mR @ right_Rn, ideal(layout, rows_of(layout, count, seed), shares_N)[0], tolerance)


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_the_error_of_averaged_factors_is_that_of_fedit(shape: tuple[int, ...]) -> None:
    """sum_k p_k B_k A_k - Bbar Abar = sum_k p_k (B_k - Bbar) (A_k - Abar)."""
    m, n, r, count, seed = shape
    layout, shares_N = layout_of((m, n), rank=r), shares_of(count, seed)
    rows_ND, (pair,) = rows_of(layout, count, seed), layout.factors
    a_Nrn, b_Nmr = products(rows_ND, pair)
    mean_a, mean_b = products(shares_N @ rows_ND, pair)
    formula = sum(
        (p * (b - mean_b) @ (a - mean_a) for p, a, b in zip(shares_N, a_Nrn, b_Nmr, strict=True)), torch.zeros(m, n)
    )
    left, right = residual(a_Nrn, b_Nmr, shares_N, mean_a, mean_b)
    close(left @ right, formula)
    close(ideal(layout, rows_ND, shares_N)[0] - (mean_b @ mean_a).numpy(), formula)


@pytest.mark.parametrize("alike", [".a", ".b"])
def test_averaged_factors_are_exact_where_one_of_them_is_shared(alike: str) -> None:
    layout, shares_N = layout_of((6, 5), (4, 7), rank=3), shares_of(5)
    rows_ND = rows_of(layout, 5, alike=alike)
    for found, expected in zip(changes(layout, shares_N @ rows_ND), ideal(layout, rows_ND, shares_N), strict=True):
        close(found, expected)
    other_ND = rows_of(layout, 5)
    for found, expected in zip(changes(layout, shares_N @ other_ND), ideal(layout, other_ND, shares_N), strict=True):
        assert np.abs(found - expected).max() > 0.1


def test_the_residual_makes_up_for_means_that_were_rounded() -> None:
    layout, shares_N = layout_of((6, 5), rank=3), shares_of(4)
    rows_ND, (pair,) = rows_of(layout, 4), layout.factors
    mean_a, mean_b = (part.half() for part in products(shares_N @ rows_ND, pair))
    left, right = residual(*products(rows_ND, pair), shares_N, mean_a, mean_b)
    close(left @ right + mean_b.double() @ mean_a.double(), ideal(layout, rows_ND, shares_N)[0])


def test_what_has_no_share_and_what_is_padding_is_left_out() -> None:
    layout = layout_of((6, 5), rank=4)
    rows_ND = rows_of(layout, 4, ranks=(4, 1, 2, 0))
    rows_ND[2] = math.nan
    shares_N = torch.tensor([0.25, 0.25, 0.0, 0.5])
    left_mR, right_Rn = stacked(*products(rows_ND, layout.factors[0]), shares_N)
    assert left_mR.shape == (6, 4 + 1)
    kept = torch.tensor([0, 1, 3])
    close(left_mR @ right_Rn, ideal(layout, rows_ND[kept], shares_N[kept])[0])


# ---- in the best lower rank ----------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(shapes)
def test_the_decomposition_is_that_of_the_dense_matrix(shape: tuple[int, ...]) -> None:
    m, n, r, count, seed = shape
    layout, shares_N = layout_of((m, n), rank=r), shares_of(count, seed)
    rows_ND = rows_of(layout, count, seed)
    dense = ideal(layout, rows_ND, shares_N)[0]
    u_mR, s_R, v_Rn = mean_product(*products(rows_ND, layout.factors[0]), shares_N)
    close(u_mR * s_R @ v_Rn, dense, 1e-11)
    close(s_R, np.linalg.svd(dense, compute_uv=False)[: len(s_R)], 1e-11)
    close(u_mR.T @ u_mR, np.eye(len(s_R)))
    close(v_Rn @ v_Rn.T, np.eye(len(s_R)))
    assert len(s_R) <= min(count * r, m, n)
    assert (v_Rn.gather(1, v_Rn.abs().argmax(1, keepdim=True)) > 0).all()


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_what_is_cut_off_are_the_smallest_singular_values(shape: tuple[int, ...]) -> None:
    """The Frobenius error is the root of the sum of their squares, for the rank of a row and for each smaller one."""
    m, n, r, count, seed = shape
    layout, shares_N = layout_of((m, n), rank=r), shares_of(count, seed)
    rows_ND = rows_of(layout, count, seed)
    dense = ideal(layout, rows_ND, shares_N)[0]
    values = np.linalg.svd(dense, compute_uv=False)
    b_mr, a_rn = best(*mean_product(*products(rows_ND, layout.factors[0]), shares_N), r)
    assert (b_mr.shape, a_rn.shape) == ((m, r), (r, n))
    for k in range(1, r + 1):
        error = np.linalg.norm(dense - (b_mr[:, :k] @ a_rn[:k]).numpy())
        assert error == pytest.approx(np.sqrt((values[k:] ** 2).sum()), abs=1e-11 * max(1.0, values[0]))


def test_the_rank_that_is_found_is_the_true_one() -> None:
    """Shared factors do not add ranks, in either route, nor does a sum that cancels have any."""
    for sizes, count in (((40, 30), 3), ((6, 5), 20)):
        layout, shares_N = layout_of(sizes, rank=2), shares_of(count)
        for rows_ND in (rows_of(layout, count, alike=".a"), rows_of(layout, count, alike=".a").float()):
            assert len(mean_product(*products(rows_ND, layout.factors[0]), shares_N)[1]) == 2
        a_Nrn, b_Nmr = products(rows_of(layout, 1), layout.factors[0])
        halves = torch.tensor([0.5, 0.5])
        u_mR, s_R, v_Rn = mean_product(torch.cat([a_Nrn, a_Nrn]), torch.cat([b_Nmr, -b_Nmr]), halves)
        assert (u_mR.shape, s_R.shape, v_Rn.shape) == ((sizes[0], 0), (0,), (0, sizes[1]))
        assert not mean_product(a_Nrn, 0 * b_Nmr, torch.ones(1))[1].numel()


@pytest.mark.parametrize(("sizes", "count"), [((40, 30), 3), ((6, 5), 20)])
def test_neither_order_nor_the_choice_of_factors_matters(sizes: tuple[int, int], count: int) -> None:
    """B_k and A_k can be exchanged for B_k G and G^-1 A_k, and senders with each other."""
    layout, shares_N, rows_ND = layout_of(sizes, rank=3), shares_of(count), rows_of(layout_of(sizes, rank=3), count)
    expected = best(*mean_product(*products(rows_ND, layout.factors[0]), shares_N), 3)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    shuffled = mean_product(*products(rows_ND[order], layout.factors[0]), shares_N[order])
    a_Nrn, b_Nmr = products(rows_ND, layout.factors[0])
    mixing_rr = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mixed = mean_product(mixing_rr.inverse() @ a_Nrn, b_Nmr @ mixing_rr, shares_N)
    for found in (best(*shuffled, 3), best(*mixed, 3)):
        for part, wanted in zip(found, expected, strict=True):
            close(part, wanted, 1e-9)


def test_best_factors_take_the_place_of_averaged_ones() -> None:
    layout, shares_N = layout_of((6, 5), (4, 7), rank=2), shares_of(3)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        rows_ND = rows_of(layout, 3).to(dtype)
        mean_D = shares_N.to(dtype) @ rows_ND
        before = mean_D.clone()
        row_D = with_products(mean_D, rows_ND, shares_N, layout, mean_D)
        assert row_D.dtype == dtype
        assert torch.equal(mean_D, before)
        assert torch.equal(row_D * held(layout, 0), mean_D * held(layout, 0))
        for found, dense in zip(changes(layout, row_D), ideal(layout, rows_ND, shares_N), strict=True):
            u, s, v = np.linalg.svd(dense)
            close(found, u[:, :2] * s[:2] @ v[:2], tolerance)


def test_ranks_to_spare_stay_able_to_learn() -> None:
    """Zeros in both factors have no gradient: where the mean product has a smaller rank, A is kept."""
    layout = layout_of((6, 5), (4, 7), rank=3)
    rows_ND, spare_D = rows_of(layout, 1, ranks=(1,)), rows_of(layout, 1, seed=9)[0]
    row_D = with_products(rows_ND[0], rows_ND, torch.ones(1), layout, spare_D)
    for pair, dense in zip(layout.factors, changes(layout, rows_ND[0]), strict=True):
        a_rn, b_mr = products(row_D, pair)
        assert torch.equal(a_rn[1:], products(spare_D, pair)[0][1:])
        assert not b_mr[:, 1:].any()
        close(b_mr @ a_rn, dense)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self.size = max(self.size, value.numel())
        return out


@pytest.mark.parametrize(
    ("m", "n", "rank", "count", "dense"),
    [(3000, 3000, 4, 20, False), (64, 48, 1, 27, False), (64, 48, 1, 28, True), (20, 30, 4, 300, True)],
)
def test_the_large_matrix_is_made_only_where_it_is_the_smaller_one(
    m: int, n: int, rank: int, count: int, dense: bool
) -> None:
    a_Nrn, b_Nmr = (torch.randn(count, *shape, dtype=torch.float64) for shape in ((rank, n), (m, rank)))
    with Largest() as made:
        _, s_R, _ = mean_product(a_Nrn, b_Nmr, shares_of(count))
    wide = count * rank
    assert made.size <= max(wide * m, wide * n, wide * wide, m * n if dense else 0)
    assert (wide * (m + n) >= m * n) == dense
    assert len(s_R) == min(wide, m, n)


# ---- into the base -------------------------------------------------------------------------------------------------


def test_merge_then_forward_is_forward_with_the_adapter() -> None:
    """Of two layers, one of which keeps its weight transposed."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6).double(), nn.Linear(6, 4).double()]
    layout = layout_of((6, 5), (4, 6), rank=2, scale=0.7)
    shared_S = torch.cat([layers[0].weight.flatten(), layers[1].weight.T.flatten()]).detach()
    row_D, inputs = rows_of(layout, 1)[0], torch.randn(9, 5, dtype=torch.float64)
    before = shared_S.clone()
    merged_S = add_to(shared_S, layout, [products(row_D, pair)[::-1] for pair in layout.factors])
    assert torch.equal(shared_S, before)
    first, second = (merged_S[entry.start : entry.stop].view(entry.shape) for entry in layout.shared)
    merged, adapted = inputs, inputs
    for layer, pair, weight in zip(layers, layout.factors, (first, second.T), strict=True):
        a_rn, b_mr = products(row_D, pair)
        adapted = torch.tanh(layer(adapted) + 0.7 * (adapted @ a_rn.T) @ b_mr.T)
        merged = torch.tanh(linear(merged, weight, layer.bias))
    torch.testing.assert_close(merged, adapted, rtol=1e-12, atol=1e-12)


def test_a_base_in_float32_is_rounded_once() -> None:
    layout, shares_N = layout_of((6, 5), rank=3, scale=0.7), shares_of(4)
    rows_ND, shared_S = rows_of(layout, 4), torch.randn(30)
    merged_S = add_to(shared_S, layout, [stacked(*products(rows_ND, layout.factors[0]), shares_N)])
    assert merged_S.dtype == torch.float32
    exact = shared_S.double().view(6, 5).numpy() + 0.7 * ideal(layout, rows_ND, shares_N)[0]
    np.testing.assert_allclose(merged_S.view(6, 5).numpy(), exact, rtol=2**-24, atol=1e-12)


def test_a_change_is_sent_in_the_shorter_form() -> None:
    (pair,) = layout_of((6, 3), rank=1).factors
    assert [numbers(pair, rank) for rank in range(4)] == [0, 9, 18, 18]
