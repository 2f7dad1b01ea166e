"""Mixing: the product against dense float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from graph_cases import WEIGHTS, Array, Weights, graphs, slow_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from gossamer.mixing import (
    COLUMNS,
    edges_of,
    mix,
    mixing_matrix,
)
from gossamer.randomness import generator
from gossamer.spectra import spectral_gap
from gossamer.topologies import Topology
from gossamer.topologies.complete import Complete
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.random_regular import RandomRegular

FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def random_rows(nodes: int, columns: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(nodes, columns, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def mixed(W: csr_array, rows_ND: torch.Tensor) -> torch.Tensor:
    out_RD = torch.full((W.shape[0], rows_ND.shape[1]), float("nan"), dtype=rows_ND.dtype)
    mix(W, rows_ND, out_RD)
    return out_RD


def matrix(topology: Topology, nodes: int, seed: int = 0) -> csr_array:
    return mixing_matrix(edges_of(topology, nodes, seed), nodes, topology.weights)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# One matrix for each way `mix` works: sparse sum, equal rows, dense product.
SPARSE = matrix(RandomRegular(), 90)
EQUAL = matrix(Complete(), 90)
DENSE = matrix(ErdosRenyi(p=0.5), 90)
MATRICES = pytest.mark.parametrize("W", [SPARSE, EQUAL, DENSE], ids=["sparse", "equal", "dense"])


# ---- the product --------------------------------------------------------------------------------------------------


@MATRICES
@FLOATS
@pytest.mark.parametrize("columns", [1, 7, COLUMNS, 2 * COLUMNS + 5])
def test_mix_is_the_matrix_product(W: csr_array, dtype: torch.dtype, columns: int) -> None:
    rows_ND = random_rows(90, columns, dtype)
    expected = W.toarray() @ rows_ND.double().numpy()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    np.testing.assert_allclose(mixed(W, rows_ND).double().numpy(), expected, rtol=0, atol=tolerance)


@settings(deadline=None)
@given(graphs(), st.sampled_from(WEIGHTS), st.integers(1, 5))
def test_mix_is_the_matrix_product_on_any_graph(graph: tuple[Array, int], weights: Weights, columns: int) -> None:
    edges_E2, nodes = graph
    W_NN, rows_ND = mixing_matrix(edges_E2, nodes, weights), random_rows(nodes, columns)
    expected = slow_matrix(edges_E2, nodes, weights) @ rows_ND.numpy()
    np.testing.assert_allclose(mixed(W_NN, rows_ND).numpy(), expected, rtol=0, atol=1e-14)


@MATRICES
def test_the_mean_stays_and_the_spread_shrinks_by_the_gap(W: csr_array) -> None:
    rows_ND = random_rows(90, 50)
    after_ND, mean_D = mixed(W, rows_ND), rows_ND.mean(0)
    torch.testing.assert_close(after_ND.mean(0), mean_D, rtol=0, atol=1e-14)
    gap = spectral_gap(W)
    assert gap is not None
    bound = (1 - gap) * (rows_ND - mean_D).norm(dim=0) + 1e-12
    assert ((after_ND - mean_D).norm(dim=0) <= bound).all()


@MATRICES
@FLOATS
def test_consensus_is_a_fixed_point(W: csr_array, dtype: torch.dtype) -> None:
    rows_ND = random_rows(1, 50, dtype).expand(90, 50).contiguous()
    torch.testing.assert_close(mixed(W, rows_ND), rows_ND, rtol=90 * torch.finfo(dtype).eps, atol=0)


@MATRICES
def test_renaming_the_nodes_renames_the_result(W: csr_array) -> None:
    order = generator(0, "test").permutation(90)
    renamed, rows_ND = csr_array(W.toarray()[np.ix_(order, order)]), random_rows(90, 20)
    torch.testing.assert_close(mixed(renamed, rows_ND[order]), mixed(W, rows_ND)[order], rtol=0, atol=1e-14)


@MATRICES
@FLOATS
def test_threads_change_no_bit_and_are_left_as_they_were(W: csr_array, dtype: torch.dtype) -> None:
    rows_ND = random_rows(90, 40_000, dtype)
    one = mixed(W, rows_ND)
    with threads(2):
        assert torch.equal(mixed(W, rows_ND), one)
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("W", [SPARSE, EQUAL], ids=["sparse", "equal"])
def test_some_receivers_get_what_they_get_among_all(W: csr_array) -> None:
    rows_ND = random_rows(90, 333, torch.float32)
    for a, b in ((0, 16), (16, 17), (80, 90)):
        assert torch.equal(mixed(W[a:b], rows_ND), mixed(W, rows_ND)[a:b])


def test_all_nodes_of_a_complete_graph_agree_bitwise() -> None:
    after_ND = mixed(EQUAL, random_rows(90, 333, torch.float32))
    assert (after_ND == after_ND[0]).all()


@MATRICES
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_reaches_only_those_who_hear_it(W: csr_array, poison: float) -> None:
    absent = mixing_matrix(edges_of(ErdosRenyi(p=0.5), 90, 0), 90, "metropolis", range(5, 90))
    for matrix_NN in (W, absent):
        rows_ND = random_rows(90, 30)
        rows_ND[3, 10] = poison
        finite_ND = torch.isfinite(mixed(matrix_NN, rows_ND))
        assert finite_ND[:, :10].all()
        assert finite_ND[:, 11:].all()
        assert (finite_ND[:, 10].numpy() == (matrix_NN.toarray()[:, 3] == 0)).all()


def test_a_receiver_that_hears_nothing_gets_zeros() -> None:
    W = csr_array(np.array([[0.0, 0.0], [0.5, 0.5]]))
    assert mixed(W, torch.tensor([[2.0], [4.0]])).tolist() == [[0.0], [3.0]]


def test_absent_nodes_keep_their_row_bitwise() -> None:
    W = mixing_matrix(edges_of(RandomRegular(), 90, 0), 90, "metropolis", range(0, 90, 2))
    rows_ND = random_rows(90, 40, torch.float32)
    assert torch.equal(mixed(W, rows_ND)[1::2], rows_ND[1::2])


def test_rows_may_be_a_part_of_a_wider_matrix() -> None:
    wide_ND = random_rows(90, 100, torch.float32)
    for W in (SPARSE, DENSE):
        assert torch.equal(mixed(W, wide_ND[:, 20:70]), mixed(W, wide_ND[:, 20:70].contiguous()))


def test_working_in_place_is_refused() -> None:
    rows_ND = random_rows(90, 3 * COLUMNS)
    with pytest.raises(ValueError, match="in place"):
        mix(SPARSE, rows_ND, rows_ND)
