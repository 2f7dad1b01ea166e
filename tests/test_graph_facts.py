"""Facts of graphs: stochasticity, spectral gap, components, and what `describe` says before a run."""

from __future__ import annotations

import dataclasses
import json

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, eye_array

import gossamer.mixing
from gossamer.mixing import components, describe, edges_of, mixing_matrix, spectral_gap, stochasticity
from gossamer.topologies import Topology
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.random_regular import RandomRegular
from gossamer.topologies.ring import Ring
from gossamer.topologies.server import Server
from gossamer.topologies.star import Star


def matrix(topology: Topology, nodes: int) -> csr_array:
    return mixing_matrix(edges_of(topology, nodes, seed=0), nodes, topology.weights)


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


@given(st.integers(1, 12), st.data())
def test_components_are_those_of_networkx(nodes: int, data: st.DataObject) -> None:
    number = st.integers(0, nodes - 1)
    pairs = data.draw(st.lists(st.tuples(number, number), max_size=12))
    edges_E2 = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    reference = nx.DiGraph()
    reference.add_nodes_from(range(nodes))
    reference.add_edges_from(pairs)
    assert components(edges_E2, nodes) == sorted(sorted(part) for part in nx.weakly_connected_components(reference))


def test_the_gap_of_large_graphs_agrees_with_all_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [matrix(RandomRegular(degree=3), 300), matrix(ErdosRenyi(p=0.05), 300), matrix(Star(), 40)]
    exact = [spectral_gap(W) for W in cases]
    monkeypatch.setattr(gossamer.mixing, "DENSE_NODES", 20)
    assert [spectral_gap(W) for W in cases] == pytest.approx(exact, abs=1e-9)


def test_gaps_that_large_graphs_do_not_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossamer.mixing, "DENSE_NODES", 20)
    facts = describe(Star(weights="uniform"), 30, 0)
    assert facts is not None
    assert facts.spectral_gap is None
    assert facts.spectral_gap_note == "not computed for more than 20 nodes: the mixing matrix is not symmetric"
    halves = EdgeList(pairs=tuple((i, i + 2) for i in range(28)))
    assert spectral_gap(matrix(halves, 30)) == 0
    slow = describe(Ring(), 4000, 0)
    assert slow is not None
    assert slow.spectral_gap is None
    assert "too small for the iterative solver" in slow.spectral_gap_note


def test_the_gap_of_one_node_and_of_no_mixing() -> None:
    assert spectral_gap(eye_array(1, format="csr")) == 1
    assert spectral_gap(eye_array(5, format="csr")) == 0


def test_facts_of_a_graph() -> None:
    facts = describe(Star(), 5, 0)
    assert facts is not None
    assert (facts.nodes, facts.edges, facts.directed) == (5, 4, False)
    assert (facts.degree_min, facts.degree_mean, facts.degree_max) == (1, 1.6, 4)
    assert (facts.stochasticity, facts.components, facts.warning) == ("doubly", 1, "")
    assert facts.spectral_gap == pytest.approx(1 / 5)
    assert json.loads(json.dumps(dataclasses.asdict(facts))) == dataclasses.asdict(facts)
    uniform = describe(Star(weights="uniform"), 5, 0)
    assert uniform is not None
    assert uniform.stochasticity == "row"


def test_facts_of_a_directed_graph() -> None:
    one_way = EdgeList(pairs=((0, 1), (1, 2), (2, 0)), directed=True, weights="uniform")
    facts = describe(one_way, 3, 0)
    assert facts is not None
    assert (facts.directed, facts.edges, facts.stochasticity) == (True, 3, "doubly")
    assert facts.spectral_gap == pytest.approx(0.5)  # |1/2 + exp(2 pi i / 3) / 2| = 1/2


def test_a_graph_that_is_not_connected_is_described_with_a_warning() -> None:
    facts = describe(EdgeList(pairs=((0, 1), (1, 2), (3, 4))), 6, 0)
    assert facts is not None
    assert facts.components == 3
    assert facts.spectral_gap == pytest.approx(0, abs=1e-12)
    assert facts.warning == (
        "topology.kind = 'edge_list': the graph is not connected, its 3 components never learn from each other; "
        "nodes of the smallest: 5; 3, 4; 0, 1, 2"
    )
    matching = describe(RandomRegular(degree=1), 1000, 0)
    assert matching is not None
    assert matching.components == 500
    assert len(matching.warning) < 200
    assert "\n" not in matching.warning


def test_a_server_is_no_graph() -> None:
    assert describe(Server(), 5, 0) is None
