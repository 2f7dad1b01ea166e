"""Facts of graphs: components, and what `describe` and `gossamer plan` say before a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from command_line import command_line, write  # noqa: F401 - the fixture `call`
from hypothesis import given
from hypothesis import strategies as st

import gossamer.graphs
import gossamer.spectra
from gossamer.graphs import ROUNDS, GraphFacts, components, describe
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.topologies import Topology
from gossamer.topologies.complete import Complete
from gossamer.topologies.contacts import Contacts
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.exponential import Exponential
from gossamer.topologies.one_peer_exponential import OnePeerExponential
from gossamer.topologies.pull import Pull
from gossamer.topologies.random_matching import RandomMatching
from gossamer.topologies.random_regular import RandomRegular
from gossamer.topologies.ring import Ring
from gossamer.topologies.server import Server
from gossamer.topologies.star import Star

CONTACTS = Contacts(path=str(Path(__file__).parent / "contacts.csv"))


def facts_of(topology: Topology, nodes: int, share: float = 1.0, seed: int = 0) -> GraphFacts:
    facts = describe(topology, nodes, seed, share)
    assert facts is not None
    return facts


def kept(facts: GraphFacts) -> float:
    assert facts.contraction is not None
    return facts.contraction


def brute_force(topology: Topology, nodes: int, rounds: int, share: float = 1.0) -> tuple[float, float]:
    """Contraction and spectral gap of the mean, from dense matrices of the first rounds."""
    P = np.eye(nodes) - 1 / nodes
    dense = []
    for round in range(rounds):
        edges_E2 = edges_of(topology, nodes, 0, round, share)
        dense.append(mixing_matrix(edges_E2, nodes, topology.weights, own_weight=topology.own_weight).toarray())
    worst = np.linalg.norm(np.mean([P @ W.T @ P @ W @ P for W in dense], axis=0), 2)
    return float(worst), float(1 - np.sort(np.abs(np.linalg.eigvals(np.mean(dense, axis=0))))[-2])


@given(st.integers(1, 12), st.data())
def test_components_are_those_of_networkx(nodes: int, data: st.DataObject) -> None:
    number = st.integers(0, nodes - 1)
    pairs = data.draw(st.lists(st.tuples(number, number), max_size=12))
    edges_E2 = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    reference = nx.DiGraph()
    reference.add_nodes_from(range(nodes))
    reference.add_edges_from(pairs)
    assert components(edges_E2, nodes) == sorted(sorted(part) for part in nx.weakly_connected_components(reference))


# ---- fixed graphs -------------------------------------------------------------------------------------------------


def test_facts_of_a_graph() -> None:
    facts = facts_of(Star(), 5)
    assert (facts.nodes, facts.rounds, facts.edges, facts.directed) == (5, 1, 4, False)
    assert (facts.degree_min, facts.degree_mean, facts.degree_max) == (1, 1.6, 4)
    assert (facts.stochasticity, facts.components, facts.warning) == ("doubly", 1, "")
    assert facts.spectral_gap == pytest.approx(1 / 5)
    assert kept(facts) == pytest.approx((4 / 5) ** 2)
    assert (facts.drift, facts.exact_after, facts.contraction_note, facts.spectral_gap_note) == (0, None, "", "")
    assert json.loads(json.dumps(dataclasses.asdict(facts))) == dataclasses.asdict(facts)


def test_facts_of_a_matrix_that_does_not_keep_the_mean() -> None:
    facts = facts_of(Star(weights="uniform"), 6)
    expected, gap = brute_force(Star(weights="uniform"), 6, 1)
    assert facts.stochasticity == "row"
    assert (kept(facts), facts.spectral_gap) == (pytest.approx(expected), pytest.approx(gap))
    # The hub is in every row: weights 1/6 and five times 1/2, where the mean takes 1/6 of each node.
    hub, leaf = (1 / 6 + 5 / 2) / 6, (1 / 6 + 1 / 2) / 6
    assert facts.drift == pytest.approx(6 * ((hub - 1 / 6) ** 2 + 5 * (leaf - 1 / 6) ** 2))


def test_facts_for_push_sum() -> None:
    facts = facts_of(Star(weights="out_degree"), 6)
    assert (facts.stochasticity, facts.contraction, facts.drift) == ("column", None, 0)
    assert facts.contraction_note == "rows do not sum to 1: consensus is not kept"
    assert facts.spectral_gap == pytest.approx(brute_force(Star(weights="out_degree"), 6, 1)[1])


def test_own_weight_replaces_the_weights() -> None:
    """On a ring W = b I + (1 - b) (P + P') / 2 with a rotation P."""
    for own in (0.0, 0.5, 0.9):
        moduli = np.abs(own + (1 - own) * np.cos(2 * np.pi * np.arange(1, 9) / 9))
        assert kept(facts_of(Ring(own_weight=own), 9)) == pytest.approx(moduli.max() ** 2)


def test_facts_of_a_directed_graph() -> None:
    facts = facts_of(EdgeList(pairs=((0, 1), (1, 2), (2, 0)), directed=True, weights="uniform"), 3)
    assert (facts.directed, facts.edges, facts.stochasticity) == (True, 3, "doubly")
    assert facts.spectral_gap == pytest.approx(0.5)  # |1/2 + exp(2 pi i / 3) / 2| = 1/2
    assert kept(facts) == pytest.approx(0.25)


def test_a_graph_that_is_not_connected_is_described_with_a_warning() -> None:
    facts = facts_of(EdgeList(pairs=((0, 1), (1, 2), (3, 4))), 6)
    assert facts.components == 3
    assert facts.spectral_gap == pytest.approx(0, abs=1e-12)
    assert kept(facts) == pytest.approx(1)
    assert facts.warning == (
        "topology.kind = 'edge_list': the graph is not connected, its 3 components never learn from each other; "
        "nodes of the smallest: 5; 3, 4; 0, 1, 2"
    )
    matching = facts_of(RandomRegular(degree=1), 1000)
    assert matching.components == 500
    assert len(matching.warning) < 200
    assert "\n" not in matching.warning


def test_a_server_is_no_graph() -> None:
    assert describe(Server(), 5, 0) is None


def test_facts_that_large_graphs_do_not_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossamer.spectra, "DENSE_NODES", 20)
    facts = facts_of(Star(weights="uniform"), 30)
    assert facts.spectral_gap is None
    assert facts.spectral_gap_note == "not computed for more than 20 nodes: the mixing matrix is not normal"
    assert kept(facts) == pytest.approx(brute_force(Star(weights="uniform"), 30, 1)[0])
    slow = facts_of(Ring(), 4000)
    assert (slow.spectral_gap, slow.contraction) == (None, None)
    assert "too small for the iterative solver" in slow.spectral_gap_note
    assert "too near to 1 for the iterative solver" in slow.contraction_note


# ---- graphs over time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topology", "share"),
    [(Ring(), 0.5), (RandomRegular(degree=3), 0.8), (CONTACTS, 1.0), (CONTACTS, 0.5), (Ring(own_weight=0.6), 0.3)],
    ids=repr,
)
def test_facts_over_time_are_means_over_the_rounds(topology: Topology, share: float) -> None:
    facts = facts_of(topology, 8, share)
    expected, gap = brute_force(topology, 8, ROUNDS, share)
    assert (facts.rounds, facts.contraction_note, facts.spectral_gap_note) == (
        60,
        "mean of 60 rounds",
        "mean of 60 rounds",
    )
    assert (kept(facts), facts.spectral_gap) == (pytest.approx(expected), pytest.approx(gap, abs=1e-12))
    graphs = [edges_of(topology, 8, 0, round, share) for round in range(60)]
    assert facts.edges == pytest.approx(np.mean([len(edges_E2) for edges_E2 in graphs]) / 2)
    degrees = np.array([np.bincount(edges_E2[:, 1], minlength=8) for edges_E2 in graphs])
    assert (facts.degree_min, facts.degree_mean, facts.degree_max) == (degrees.min(), degrees.mean(), degrees.max())
    assert facts.components == len(components(np.concatenate(graphs), 8))
    assert facts.exact_after is None


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        (RandomMatching(peers=0.2), 1 - 0.2 * 16 / 30),
        (RandomMatching(peers=3), (1 - 3 / 15) / 4),
        (RandomRegular(degree=4, redraw=True), (1 - 4 / 15) / 5),
        (OnePeerExponential(), 3 / 4),
        (Exponential(), (3 / 5) ** 2),
        (Complete(), 0),
    ],
    ids=repr,
)
def test_closed_forms_are_told(topology: Topology, expected: float) -> None:
    facts = facts_of(topology, 16)
    assert (facts.stochasticity, facts.drift, facts.components) == ("doubly", 0, 1)
    assert kept(facts) == pytest.approx(expected, abs=1e-12)
    assert facts.contraction_note == ("closed form" if facts.rounds > 1 else "")


def test_what_pull_gossip_keeps_and_moves() -> None:
    """The distance to the old mean is 1 - q m / (2 (m - 1)) = .89333, and that to the new one less by its move."""
    m, q = 16, 0.2
    facts = facts_of(Pull(peers=q), m)
    moved = (q / 2 * m / (m - 1) - q**2 / 4 * (m / (m - 1)) ** 2) / m
    assert facts.stochasticity == "row"
    assert facts.drift == pytest.approx(moved)
    assert kept(facts) == pytest.approx(1 - q * m / (2 * (m - 1)) - moved)
    expected, gap = brute_force(Pull(peers=q), m, 1500)
    # The largest eigenvalue of a mean of draws lies above that of the expectation, by less the more there are.
    assert kept(facts) < expected < kept(facts) + 0.02
    assert facts.spectral_gap == pytest.approx(q / 2 * m / (m - 1), abs=0.02)
    assert gap == pytest.approx(q / 2 * m / (m - 1), abs=0.02)


def test_thinning_scales_the_peers_and_so_the_closed_form() -> None:
    assert facts_of(RandomMatching(peers=0.8), 10, share=0.25) == facts_of(RandomMatching(peers=0.2), 10)
    assert facts_of(ErdosRenyi(p=0.4, redraw=True), 10, share=0.5) == facts_of(ErdosRenyi(p=0.2, redraw=True), 10)


def test_a_thinned_complete_graph_is_a_random_graph() -> None:
    """Alike in all directions, so few rounds tell the closed form of a redrawn Erdos-Renyi graph."""
    closed = ErdosRenyi(p=0.5, redraw=True).contraction(40)
    facts = facts_of(Complete(), 40, share=0.5)
    assert facts.contraction_note == "mean of 60 rounds"
    assert kept(facts) == pytest.approx(closed, rel=0.05)
    assert brute_force(Complete(), 40, 60, 0.5)[0] > 1.2 * kept(facts)


@pytest.mark.parametrize(("nodes", "expected"), [(2, 1), (8, 3), (64, 6), (6, None), (20, None)])
def test_the_one_peer_exponential_graph_is_exact_for_powers_of_two(nodes: int, expected: int | None) -> None:
    assert facts_of(OnePeerExponential(), nodes).exact_after == expected


def test_a_graph_over_time_that_never_joins_all_nodes_is_described_with_a_warning() -> None:
    facts = facts_of(CONTACTS, 9)
    assert facts.components == 4
    assert facts.warning == (
        "topology.kind = 'contacts': the links of the first 60 rounds together leave 4 components; "
        "nodes of the smallest: 6; 7; 8"
    )


def test_dense_graphs_are_looked_at_in_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossamer.graphs, "EDGES", 20_000)
    facts = facts_of(RandomMatching(peers=20), 100)
    assert facts.rounds == 20_000 // (21 * 100)
    assert kept(facts) == pytest.approx((1 - 20 / 99) / 21)
    assert facts_of(RandomMatching(peers=99), 100).rounds == 4


@pytest.mark.parametrize("topology", [RandomMatching(), OnePeerExponential(), RandomRegular(redraw=True)], ids=repr)
def test_facts_of_a_thousand_nodes_are_exact_too(topology: Topology) -> None:
    facts = facts_of(topology, 1024)
    assert kept(facts) == topology.contraction(1024)
    assert facts.exact_after == (10 if topology.kind == "one_peer_exponential" else None)


# ---- gossamer plan ------------------------------------------------------------------------------------------------


def words(text: str) -> str:
    """What a table says, without its line breaks."""
    return " ".join(text.split())


def test_plan_tells_the_facts(call: Any) -> None:
    file = write("nodes = 16\nrounds = 3\nmethod = 'dsgd'\npartition = 'iid'\n")
    _, out, _ = call("plan", file, "--set", "topology={kind='random_matching', peers=0.2}")
    told = words(out)
    assert "random_matching: 1.58 links a round, degree 0–1, connected over 60 rounds" in told
    assert "metropolis, doubly stochastic, each round keeps 0.8933 of the squared distance to consensus (closed" in told
    assert "who hears whom (round 1)" in told
    _, out, err = call("plan", file, "--set", "topology=pull")
    assert "row stochastic" in words(out)
    assert "moves the mean by 0.016 of it" in words(out)
    assert "'pull' does not keep the mean" in err
    _, out, _ = call("plan", file, "--set", "topology={kind='one_peer_exponential', own_weight=0.5}")
    told = words(out)
    assert "own weight 0.5, doubly stochastic, each round keeps 0.75 of the squared distance to consensus" in told
    assert "the exact mean after 4 rounds" in told


def test_plan_warns_where_exactness_is_lost(call: Any) -> None:
    file = write("nodes = 20\nrounds = 3\nmethod = 'dsgd'\npartition = 'iid'\ntopology = 'one_peer_exponential'\n")
    code, out, err = call("plan", file)
    assert code == 0
    assert "uniform, doubly stochastic" in words(out)
    assert "20 nodes are no power of two" in err
    assert "16 or 32 nodes would reach it" in err
    assert "exact mean after" not in out
