"""Averages of products among neighbours: against dense matrices, over and over on graphs, and where there are none.

Shapes as in test_lowrank: N nodes, D numbers of a row, r ranks of a row, W is [m, n].
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_lowrank import changes, close, ideal, layout_of, rows_of, shares_of
from torch import Tensor

from gossamer.aggregators.mean import Mean
from gossamer.aggregators.product_mean import ProductMean
from gossamer.errors import AggregationError
from gossamer.lowrank import held, joined, products, rest

LAYOUT = layout_of((6, 5), (4, 7), rank=3)
RULE = ProductMean()


def cut(dense: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of a rank, by NumPy."""
    u, s, v = np.linalg.svd(dense)
    found: np.ndarray = u[:, :rank] * s[:rank] @ v[:rank]
    return found


def mixed(rows_ND: Tensor, weights_NN: Tensor, ranks: tuple[int, ...] = ()) -> Tensor:
    """One round of gossip: every node takes what the rule makes of its neighbours, and of it what its rank holds."""
    nodes = range(len(rows_ND))
    heard = [weights_NN[i] > 0 for i in nodes]
    new = [RULE.aggregate(rows_ND[heard[i]], weights_NN[i][heard[i]], rows_ND[i], LAYOUT) for i in nodes]
    return torch.stack([row_D * held(LAYOUT, ranks[i]) if ranks else row_D for i, row_D in enumerate(new)])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("ranks", [(), (3, 1, 2, 1, 2)])
def test_products_are_averaged_and_all_else_as_ever(
    ranks: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    rows_ND, weights_N = rows_of(LAYOUT, 5, ranks=ranks).to(dtype), 7 * shares_of(5)
    before = rows_ND.clone()
    row_D = RULE.aggregate(rows_ND, weights_N, rows_ND[2], LAYOUT)
    assert (row_D.dtype, row_D.shape) == (dtype, (LAYOUT.size,))
    assert torch.equal(rows_ND, before)
    plain_D = Mean().aggregate(rows_ND, weights_N)
    assert torch.equal(joined(row_D, rest(LAYOUT)), joined(plain_D, rest(LAYOUT)))
    found, dense = changes(LAYOUT, row_D), ideal(LAYOUT, rows_ND, weights_N / weights_N.sum())
    for rank in (1, 2, 3):
        found = changes(LAYOUT, row_D * held(LAYOUT, rank))
        for change, whole in zip(found, dense, strict=True):
            close(change, cut(whole, rank), 10 * tolerance)


def test_neighbours_may_write_the_same_change_in_other_factors() -> None:
    """(B, A) and (-B, -A) are one change, of which the plain mean makes nothing."""
    rows_ND = rows_of(LAYOUT, 1).repeat(2, 1)
    for pair in LAYOUT.factors:
        for part in products(rows_ND[1], pair):
            part.neg_()
    ones = torch.ones(2, dtype=torch.float64)
    for found, expected in zip(
        changes(LAYOUT, RULE.aggregate(rows_ND, ones, None, LAYOUT)), changes(LAYOUT, rows_ND[0]), strict=True
    ):
        close(found, expected)
    assert not any(change.any() for change in changes(LAYOUT, Mean().aggregate(rows_ND, ones)))


# ---- gossip --------------------------------------------------------------------------------------------------------


def test_on_a_complete_graph_all_come_to_the_best_of_the_mean_product_and_stay() -> None:
    rows_ND, everybody_NN = rows_of(LAYOUT, 5), torch.full((5, 5), 0.2, dtype=torch.float64)
    dense = ideal(LAYOUT, rows_ND, everybody_NN[0])
    for _ in range(4):
        rows_ND = mixed(rows_ND, everybody_NN)
        for row_D in rows_ND:
            for change, whole in zip(changes(LAYOUT, row_D), dense, strict=True):
                close(change, cut(whole, 3), 1e-11)


def test_on_a_ring_nothing_is_lost_where_a_row_has_room_for_all() -> None:
    """Nodes whose changes lie in the same r directions agree on their mean product."""
    rows_ND = rows_of(LAYOUT, 6, alike=".a")
    dense = ideal(LAYOUT, rows_ND, torch.full((6,), 1 / 6, dtype=torch.float64))
    eye_NN = torch.eye(6, dtype=torch.float64)
    ring_NN = (eye_NN + eye_NN.roll(1, 0) + eye_NN.roll(-1, 0)) / 3
    for _ in range(80):
        rows_ND = mixed(rows_ND, ring_NN)
    for row_D in rows_ND:
        for change, whole in zip(changes(LAYOUT, row_D), dense, strict=True):
            close(change, whole, 1e-10)


def test_neighbours_of_different_rank_take_what_they_have_room_for() -> None:
    ranks, everybody_NN = (3, 1, 2), torch.full((3, 3), 1 / 3, dtype=torch.float64)
    rows_ND = rows_of(LAYOUT, 3, ranks=ranks)
    dense = ideal(LAYOUT, rows_ND, everybody_NN[0])
    for row_D, rank in zip(mixed(rows_ND, everybody_NN, ranks), ranks, strict=True):
        assert not row_D[~held(LAYOUT, rank)].any()
        for change, whole in zip(changes(LAYOUT, row_D), dense, strict=True):
            close(change, cut(whole, rank))


def test_nodes_that_have_learned_nothing_keep_what_they_learn_with() -> None:
    """At the start all B are zero, and so is the mean product: A is the receiver's own, or the mean."""
    rows_ND = rows_of(LAYOUT, 3)
    for pair in LAYOUT.factors:
        products(rows_ND, pair)[1].zero_()
    ones = torch.ones(3, dtype=torch.float64)
    for own_D, kept_D in ((rows_ND[1], rows_ND[1]), (None, rows_ND.mean(0))):
        row_D = RULE.aggregate(rows_ND, ones, own_D, LAYOUT)
        for pair in LAYOUT.factors:
            a_rn, b_mr = products(row_D, pair)
            close(a_rn, products(kept_D, pair)[0])
            assert not b_mr.any()


# ---- where there are no products -----------------------------------------------------------------------------------


def test_without_a_layout_and_in_other_fields_it_is_the_mean() -> None:
    weights_N = shares_of(4)
    for rows_ND, layout in ((rows_of(LAYOUT, 4), None), (rows_of(LAYOUT, 4)[:, :-1], LAYOUT)):
        assert torch.equal(RULE.aggregate(rows_ND, weights_N, None, layout), Mean().aggregate(rows_ND, weights_N))
    assert RULE([[1.0, 2.0], [3.0, 6.0]]).tolist() == [2.0, 4.0]


def test_a_model_without_factors_is_refused_in_one_line() -> None:
    bare = dataclasses.replace(LAYOUT, factors=())
    with pytest.raises(AggregationError, match="parametrisation = 'lora'") as caught:
        RULE.aggregate(rows_of(LAYOUT, 2), torch.ones(2), None, bare)
    assert "\n" not in str(caught.value)


def test_no_mean_withstands_nan() -> None:
    rows_ND = rows_of(LAYOUT, 3)
    rows_ND[1, 0] = math.nan
    with pytest.raises(AggregationError, match="update 1 of 3"):
        RULE.aggregate(rows_ND, torch.ones(3), None, LAYOUT)
