"""Mixing matrices against their formula, and the links that are left of a graph."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from graph_cases import WEIGHTS, Array, Weights, graphs, slow_matrix
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from gossamer.errors import ExperimentError
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.spectra import stochasticity
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi


@given(graphs(), st.sampled_from(WEIGHTS))
def test_the_matrix_is_its_definition(graph: tuple[Array, int], weights: Weights) -> None:
    edges_E2, nodes = graph
    W_NN = mixing_matrix(edges_E2, nodes, weights)
    assert isinstance(W_NN, csr_array)
    assert W_NN.dtype == np.float64
    np.testing.assert_allclose(W_NN.toarray(), slow_matrix(edges_E2, nodes, weights), rtol=0, atol=1e-15)
    assert all((np.diff(W_NN.indices[a:b]) > 0).all() for a, b in pairwise(W_NN.indptr))
    assert (W_NN.diagonal() > 0).all()


@given(graphs())
def test_metropolis_is_symmetric_and_doubly_stochastic(graph: tuple[Array, int]) -> None:
    W_NN = mixing_matrix(*graph, "metropolis")
    assert (W_NN.toarray() == W_NN.toarray().T).all()
    assert stochasticity(W_NN) == "doubly"


@given(graphs(directed=True))
def test_uniform_averages_what_is_heard_on_directed_graphs(graph: tuple[Array, int]) -> None:
    W_NN = mixing_matrix(*graph, "uniform")
    np.testing.assert_allclose(W_NN.toarray(), slow_matrix(*graph, "uniform"), atol=1e-15)
    assert stochasticity(W_NN) in ("row", "doubly")


@given(graphs(directed=True))
def test_out_degree_hands_on_what_a_node_has_on_directed_graphs(graph: tuple[Array, int]) -> None:
    W_NN = mixing_matrix(*graph, "out_degree")
    np.testing.assert_allclose(W_NN.toarray(), slow_matrix(*graph, "out_degree"), atol=1e-15)
    assert stochasticity(W_NN) in ("column", "doubly")
    reverse = mixing_matrix(graph[0][:, ::-1].copy(), graph[1], "uniform")
    assert (W_NN.toarray() == reverse.toarray().T).all(), "uniform weights of the graph the other way round"


@given(graphs(directed=True), st.sampled_from(WEIGHTS), st.floats(0, 0.99))
def test_an_own_weight_leaves_the_rest_evenly_to_those_heard(
    graph: tuple[Array, int], weights: Weights, own: float
) -> None:
    edges_E2, nodes = graph
    W_NN = mixing_matrix(edges_E2, nodes, weights, own_weight=own)
    degree_N = np.bincount(edges_E2[:, 1], minlength=nodes)
    expected = np.zeros((nodes, nodes))
    for a, b in edges_E2:
        expected[b, a] = (1 - own) / degree_N[b]
    expected[np.diag_indices(nodes)] = np.where(degree_N, own, 1)
    np.testing.assert_allclose(W_NN.toarray(), expected, atol=1e-15)
    assert (W_NN.data != 0).all(), "a weight of 0 is no entry: what is not in the sum cannot spoil it"
    assert stochasticity(W_NN) in ("row", "doubly")


@given(graphs(), st.data())
def test_absent_nodes_keep_their_row_whatever_the_own_weight(graph: tuple[Array, int], data: st.DataObject) -> None:
    edges_E2, nodes = graph
    present = sorted(data.draw(st.sets(st.integers(0, nodes - 1))))
    W_NN = mixing_matrix(edges_E2, nodes, "uniform", present, own_weight=0.25).toarray()
    absent = [i for i in range(nodes) if i not in present]
    assert (W_NN[absent] == np.eye(nodes)[absent]).all()
    assert (W_NN[:, absent] == np.eye(nodes)[:, absent]).all()


def test_half_of_the_own_model_is_what_a_pair_does_anyway() -> None:
    pair = np.array([[1, 0], [0, 1]])
    for weights in WEIGHTS:
        assert (mixing_matrix(pair, 2, weights).toarray() == mixing_matrix(pair, 2, weights, own_weight=0.5)).all()


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_a_link_of_an_undirected_graph_is_kept_both_ways_or_not_at_all(share: float) -> None:
    whole = {tuple(edge) for edge in edges_of(ErdosRenyi(), 25, 3).tolist()}
    for round in range(20):
        kept = {tuple(edge) for edge in edges_of(ErdosRenyi(), 25, 3, round, share).tolist()}
        assert kept < whole
        assert {(b, a) for a, b in kept} == kept
        fewer = {tuple(edge) for edge in edges_of(ErdosRenyi(), 25, 3, round, share / 2).tolist()}
        assert fewer <= kept, "the same dice at every share"


def test_links_of_a_directed_graph_are_kept_one_by_one() -> None:
    topology = EdgeList(
        pairs=tuple((i, j) for i in range(8) for j in range(8) if i != j), directed=True, weights="uniform"
    )
    kept = np.zeros((400, 8, 8))
    for round in range(400):
        a, b = edges_of(topology, 8, 0, round, 0.3).T
        kept[round, a, b] = 1
    i, j = np.triu_indices(8, 1)
    forth, back = kept[:, i, j].ravel(), kept[:, j, i].ravel()
    assert abs(np.corrcoef(forth, back)[0, 1]) < 4.5 / np.sqrt(len(forth))
    assert kept.mean() * 64 / 56 == pytest.approx(0.3, abs=4.5 * np.sqrt(0.21 / (400 * 56)))


def test_the_whole_share_draws_nothing() -> None:
    assert np.array_equal(edges_of(ErdosRenyi(), 25, 3, 5, 1.0), edges_of(ErdosRenyi(), 25, 3))
    assert len(edges_of(ErdosRenyi(), 25, 3, 5, 0.0)) == 0
    assert len(edges_of(EdgeList(pairs=((1, 1),)), 2, 0, 0, 0.5)) == 0


@given(graphs(), st.sampled_from(WEIGHTS), st.data())
def test_participants_mix_on_their_induced_subgraph(
    graph: tuple[Array, int], weights: Weights, data: st.DataObject
) -> None:
    edges_E2, nodes = graph
    present = sorted(data.draw(st.sets(st.integers(0, nodes - 1))))
    W_NN = mixing_matrix(edges_E2, nodes, weights, present).toarray()
    part = nx.DiGraph(edges_E2.tolist()).subgraph(present)
    place = {node: k for k, node in enumerate(present)}
    inside = np.array([(place[a], place[b]) for a, b in part.edges], dtype=np.int64).reshape(-1, 2)
    expected = np.eye(nodes)
    expected[np.ix_(present, present)] = slow_matrix(inside, len(present), weights)
    np.testing.assert_allclose(W_NN, expected, rtol=0, atol=1e-15)


def test_everybody_present_changes_nothing() -> None:
    edges_E2 = edges_of(ErdosRenyi(), 30, 0)
    whole, named = mixing_matrix(edges_E2, 30, "metropolis"), mixing_matrix(edges_E2, 30, "metropolis", range(30))
    assert (whole.toarray() == named.toarray()).all()


def test_metropolis_is_refused_on_directed_graphs() -> None:
    with pytest.raises(ExperimentError, match=r"topology\.weights = 'metropolis' .* use weights = 'uniform'"):
        mixing_matrix(np.array([[0, 1], [1, 2], [2, 0]]), 3, "metropolis")
    assert mixing_matrix(np.array([[0, 1], [1, 2], [2, 0]]), 3, "metropolis", own_weight=0.5).nnz == 6


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (np.zeros((3, 3), dtype=np.int64), r"\[E, 2\]"),
        (np.zeros((1, 2)), "found float64"),
        (np.array([[0, 4]]), r"0\.\.3, found 0\.\.4"),
        (np.array([[2, 2]]), "joins a node to itself"),
        (np.array([[0, 1], [1, 0], [0, 1]]), r"\(0, 1\) is listed twice"),
    ],
)
def test_edges_that_are_none_are_refused(edges: Array, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        mixing_matrix(edges, 4, "uniform")
