"""Spectra of mixing matrices: stochasticity, gaps, what a round keeps of the distance to consensus, exact averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, eye_array

import gossamer.spectra
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.randomness import generator
from gossamer.spectra import contraction, drift, exact_after, is_normal, off_mean, spectral_gap, stochasticity
from gossamer.topologies import Topology
from gossamer.topologies.complete import Complete
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.exponential import Exponential
from gossamer.topologies.one_peer_exponential import OnePeerExponential
from gossamer.topologies.pull import Pull
from gossamer.topologies.random_matching import RandomMatching
from gossamer.topologies.random_regular import RandomRegular
from gossamer.topologies.ring import Ring
from gossamer.topologies.star import Star
from gossamer.topologies.torus import Torus

Array = np.ndarray[Any, Any]


def matrix(topology: Topology, nodes: int, round: int = 0, seed: int = 0) -> csr_array:
    edges_E2 = edges_of(topology, nodes, seed, round)
    return mixing_matrix(edges_E2, nodes, topology.weights, own_weight=topology.own_weight)


def several(topology: Topology, nodes: int, rounds: int) -> list[csr_array]:
    return [matrix(topology, nodes, round) for round in range(rounds)]


def off(nodes: int) -> Array:
    """I - J."""
    return np.eye(nodes) - 1 / nodes


def slow_contraction(matrices: list[csr_array]) -> float:
    """The definition, with dense matrices."""
    P = off(matrices[0].shape[0])
    return float(np.linalg.eigvalsh(np.mean([P @ W.toarray().T @ P @ W.toarray() @ P for W in matrices], axis=0))[-1])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], "doubly"),
        ([[1.0, 0.0], [0.5, 0.5]], "row"),
        ([[1.0, 0.5], [0.0, 0.5]], "column"),
        ([[1.0, 0.5], [0.5, 0.5]], "none"),
        ([[1.5, -0.5], [-0.5, 1.5]], "none"),
    ],
)
def test_stochasticity(rows: list[list[float]], expected: str) -> None:
    assert stochasticity(csr_array(np.array(rows))) == expected


# ---- the gap ------------------------------------------------------------------------------------------------------


def test_the_gap_of_one_node_and_of_no_mixing() -> None:
    assert spectral_gap(eye_array(1, format="csr")) == 1
    assert spectral_gap(eye_array(5, format="csr")) == 0


def test_the_gap_of_large_graphs_agrees_with_all_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [matrix(RandomRegular(degree=3), 300), matrix(ErdosRenyi(p=0.05), 300), matrix(Star(), 40)]
    cases += [matrix(Exponential(), 301)]
    exact = [float(1 - np.sort(np.abs(np.linalg.eigvals(W.toarray())))[-2]) for W in cases]
    assert [spectral_gap(W) for W in cases] == pytest.approx(exact, abs=1e-9)
    monkeypatch.setattr(gossamer.spectra, "DENSE_NODES", 20)
    assert [spectral_gap(W) for W in cases] == pytest.approx(exact, abs=1e-9)


def test_the_gap_of_a_large_graph_in_two_halves_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossamer.spectra, "DENSE_NODES", 20)
    assert spectral_gap(matrix(EdgeList(pairs=tuple((i, i + 2) for i in range(28))), 30)) == 0


def test_which_matrices_are_normal() -> None:
    assert is_normal(matrix(Ring(), 7))
    assert is_normal(matrix(Exponential(), 7))
    assert not is_normal(matrix(Star(weights="uniform"), 7))


# ---- what a round keeps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topology",
    [
        Ring(),
        Torus(),
        Star(),
        Star(weights="uniform"),
        Exponential(),
        EdgeList(pairs=((0, 1), (1, 2)), directed=True, weights="uniform"),
        Ring(own_weight=0.2),
        Star(own_weight=0.0),
    ],
    ids=repr,
)
def test_contraction_of_one_matrix_is_the_squared_norm_off_the_mean(topology: Topology) -> None:
    W = matrix(topology, 12)
    assert contraction([W]) == pytest.approx(np.linalg.norm(off(12) @ W.toarray() @ off(12), 2) ** 2, abs=1e-12)
    if is_normal(W):
        assert contraction([W]) == pytest.approx((1 - (spectral_gap(W) or 0)) ** 2, abs=1e-12)


@pytest.mark.parametrize("topology", [Pull(), RandomMatching(peers=0.5), OnePeerExponential(), Complete()], ids=repr)
def test_contraction_of_several_matrices_is_its_definition(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = several(topology, 30, 12)
    expected = slow_contraction(matrices)
    assert contraction(matrices) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(gossamer.spectra, "DENSE_NODES", 20)
    assert contraction(matrices) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(0, 2**32), st.sampled_from([Pull(peers=0.7), ErdosRenyi(p=0.4, redraw=True)]))
def test_no_direction_keeps_more_than_the_contraction(nodes: int, seed: int, topology: Topology) -> None:
    matrices = [matrix(topology, nodes, round, seed) for round in range(5)]
    x_ND = generator(seed, "test").standard_normal((nodes, 30))
    P = off(nodes)
    before_D = np.square(P @ x_ND).sum(axis=0)
    after_D = np.mean([np.square(P @ W.toarray() @ x_ND).sum(axis=0) for W in matrices], axis=0)
    moved_D = np.mean([nodes * (W.toarray() @ P @ x_ND).mean(axis=0) ** 2 for W in matrices], axis=0)
    kept = contraction(matrices)
    assert kept is not None
    assert (after_D <= kept * before_D + 1e-12).all()
    assert (moved_D <= drift(matrices) * before_D + 1e-12).all()


def test_where_all_directions_are_alike_the_trace_is_their_mean() -> None:
    matrices = several(Pull(peers=1.5), 10, 8)
    P = off(10)
    traces = [np.trace(P @ W.toarray().T @ P @ W.toarray() @ P) / 9 for W in matrices]
    assert contraction(matrices, alike=True) == pytest.approx(np.mean(traces), abs=1e-14)
    moves = [10 * np.square(P @ W.toarray().mean(axis=0)).sum() / 9 for W in matrices]
    assert drift(matrices, alike=True) == pytest.approx(np.mean(moves), abs=1e-14)


def test_drift_of_one_matrix_by_hand() -> None:
    """Both hear node 0 alone: the mean (x0 + x1) / 2 becomes x0; from (1, -1) / sqrt 2 by 1 / sqrt 2; N = 2."""
    assert drift([csr_array(np.array([[1.0, 0.0], [1.0, 0.0]]))]) == pytest.approx(2 * 0.5)
    assert drift([matrix(Ring(), 9)]) == 0
    assert drift([matrix(Star(weights="out_degree"), 9)]) == 0


def test_the_eigenvalue_of_a_matrix_that_is_alike_in_all_directions() -> None:
    a, n = 0.3, 7
    W = a * np.eye(n) + (1 - a) / n
    assert off_mean(W[0, 0], n) == pytest.approx(np.linalg.eigvalsh(W)[0])
    assert off_mean(1.0, 1) == 0


def test_one_node_is_always_in_consensus() -> None:
    one = [eye_array(1, format="csr")]
    assert (contraction(one), contraction(one, alike=True), drift(one)) == (0, 0, 0)


# ---- the exact average --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrices", "expected"),
    [
        ([matrix(Complete(), 9)], 1),
        ([matrix(Ring(), 3)], 1),
        ([matrix(Ring(), 9)], None),
        ([matrix(ErdosRenyi(p=0.95), 60)], None),  # 1e-12 of the distance is left after a dozen rounds, not nothing.
        ([matrix(Complete(own_weight=0.2), 9)], None),
        ([matrix(EdgeList(pairs=((0, 1), (2, 1)), directed=True, weights="uniform"), 3)], None),
        (several(OnePeerExponential(), 16, 10), 4),
        (several(OnePeerExponential(), 16, 4), 4),
        (several(OnePeerExponential(), 16, 3), None),
        (several(OnePeerExponential(), 12, 60), None),
        (several(RandomMatching(), 2, 60), 1),
        (several(RandomMatching(peers=0.5), 2, 60), None),  # Some rounds are exact, but not whichever one begins with.
    ],
)
def test_exact_after(matrices: list[csr_array], expected: int | None) -> None:
    assert exact_after(matrices) == expected


def test_agreeing_on_something_else_than_the_mean_is_not_exact() -> None:
    assert exact_after([csr_array(np.array([[0.25, 0.75], [0.25, 0.75]]))]) is None
