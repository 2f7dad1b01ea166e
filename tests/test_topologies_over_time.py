"""Topologies that change from round to round: exact averaging, closed forms by enumeration and by chance, laws."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.mixing import edges_of, mixing_matrix
from gossamer.randomness import generator
from gossamer.spectra import contraction
from gossamer.topologies import Topology, both_ways
from gossamer.topologies.complete import Complete
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.one_peer_exponential import OnePeerExponential
from gossamer.topologies.pull import Pull
from gossamer.topologies.random_matching import RandomMatching
from gossamer.topologies.random_regular import RandomRegular

Array = np.ndarray[Any, Any]
POWERS = [2, 4, 8, 16, 32, 64]
REDRAWN = [
    RandomMatching(peers=0.6),
    RandomMatching(peers=2.5),
    Pull(peers=0.6),
    Pull(peers=2.3),
    RandomRegular(degree=3, redraw=True),
    ErdosRenyi(p=0.4, redraw=True),
]


def dense(topology: Topology, nodes: int, round: int) -> Array:
    edges_E2 = edges_of(topology, nodes, 0, round)
    return np.asarray(mixing_matrix(edges_E2, nodes, topology.weights, own_weight=topology.own_weight).toarray())


def kept(topology: Topology, nodes: int) -> float:
    value = topology.contraction(nodes)
    assert value is not None
    return value


# ---- the one-peer exponential graph -------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", POWERS)
def test_one_peer_exponential_averages_exactly_from_any_round_on(nodes: int) -> None:
    period = nodes.bit_length() - 1
    for first in (0, 1, 3, period):
        W_NN = np.eye(nodes)
        for round in range(first, first + period):
            W_NN = dense(OnePeerExponential(), nodes, round) @ W_NN
        assert (W_NN * nodes == 1).all(), "halves of halves: not even rounded"
    assert OnePeerExponential().caveat(nodes) == ""


@pytest.mark.parametrize("nodes", [3, 5, 6, 12, 20, 63])
def test_one_peer_exponential_is_not_exact_for_other_numbers(nodes: int) -> None:
    W_NN = np.eye(nodes)
    for round in range(2 * int(np.ceil(np.log2(nodes)))):
        W_NN = dense(OnePeerExponential(), nodes, round) @ W_NN
        assert np.abs(W_NN - 1 / nodes).max() > 1e-3 / nodes
    assert f"{nodes} nodes are no power of two" in OnePeerExponential().caveat(nodes)


@pytest.mark.parametrize("own_weight", [None, 0.0, 0.3])
@pytest.mark.parametrize("nodes", [2, 3, 6, 8, 12, 16, 31])
def test_what_one_peer_exponential_keeps_over_a_period(nodes: int, own_weight: float | None) -> None:
    topology = OnePeerExponential(own_weight=own_weight)
    P = np.eye(nodes) - 1 / nodes
    period = int(np.ceil(np.log2(nodes)))
    mean_NN = np.mean([W.T @ P @ W for W in (dense(topology, nodes, t) for t in range(period))], axis=0)
    assert kept(topology, nodes) == pytest.approx(np.linalg.norm(P @ mean_NN @ P, 2), abs=1e-12)


@pytest.mark.parametrize("nodes", POWERS)
def test_closed_form_of_one_peer_exponential_for_powers_of_two(nodes: int) -> None:
    assert kept(OnePeerExponential(), nodes) == pytest.approx(1 - 1 / np.log2(nodes))


# ---- expectations by enumeration ----------------------------------------------------------------------------------


def pulls(nodes: int, peers: float) -> Iterator[tuple[float, Array]]:
    """All outcomes of a round of pull gossip with at most one or two peers: probability and edges."""
    whole = int(peers)
    rows: list[list[tuple[float, list[tuple[int, int]]]]] = []
    for i in range(nodes):
        others = [j for j in range(nodes) if j != i]
        choices = []
        for count, chance in ((whole, 1 - peers + whole), (whole + 1, peers - whole)):
            sets = list(itertools.combinations(others, count))
            choices += [(chance / len(sets), [(j, i) for j in chosen]) for chosen in sets]
        rows.append(choices)
    for outcome in itertools.product(*rows):
        edges = [edge for _, heard in outcome for edge in heard]
        yield float(np.prod([chance for chance, _ in outcome])), np.array(edges, dtype=np.int64).reshape(-1, 2)


@pytest.mark.parametrize("own_weight", [None, 0.6])
@pytest.mark.parametrize(("nodes", "peers"), [(3, 0.2), (4, 0.5), (4, 1.0), (4, 1.4), (4, 3.0), (5, 0.7)])
def test_pull_gossip_against_all_its_outcomes(nodes: int, peers: float, own_weight: float | None) -> None:
    """To the old mean, and the squared move of the mean: both multiples of I off the mean."""
    P, old_NN, move_NN = np.eye(nodes) - 1 / nodes, np.zeros((nodes, nodes)), np.zeros((nodes, nodes))
    for chance, edges_E2 in pulls(nodes, peers):
        W = mixing_matrix(edges_E2, nodes, "uniform", own_weight=own_weight).toarray()
        old_NN += chance * P @ W.T @ W @ P
        move_NN += chance * nodes * np.outer(P @ W.mean(axis=0), P @ W.mean(axis=0))
    topology = Pull(peers=peers, own_weight=own_weight)
    np.testing.assert_allclose(old_NN, kept(topology, nodes) * P, atol=1e-12)
    np.testing.assert_allclose(move_NN, (topology.drift(nodes) or 0.0) * P, atol=1e-12)


@pytest.mark.parametrize(("nodes", "p"), [(2, 0.3), (3, 0.8), (4, 0.4), (5, 0.6)])
def test_redrawn_erdos_renyi_graphs_against_all_of_them(nodes: int, p: float) -> None:
    P, pairs = np.eye(nodes) - 1 / nodes, list(itertools.combinations(range(nodes), 2))
    mean_NN = np.zeros((nodes, nodes))
    for present in itertools.product((False, True), repeat=len(pairs)):
        chosen = list(itertools.compress(pairs, present))
        W = mixing_matrix(both_ways(np.array(chosen).reshape(-1, 2)), nodes, "metropolis").toarray()
        mean_NN += p ** len(chosen) * (1 - p) ** (len(pairs) - len(chosen)) * P @ W @ W @ P
    np.testing.assert_allclose(mean_NN, kept(ErdosRenyi(p=p, redraw=True), nodes) * P, atol=1e-12)


@pytest.mark.parametrize("own_weight", [None, 0.1])
@pytest.mark.parametrize(("nodes", "peers"), [(2, 0.3), (4, 0.7), (4, 1.0), (5, 0.4), (5, 1.0)])
def test_random_pairs_against_all_matchings(nodes: int, peers: float, own_weight: float | None) -> None:
    """All matchings with most pairs, every pair of which is kept or not."""
    P, mean_NN = np.eye(nodes) - 1 / nodes, np.zeros((nodes, nodes))
    pairs = list(itertools.combinations(range(nodes), 2))
    matchings = [m for m in itertools.combinations(pairs, nodes // 2) if len({*itertools.chain(*m)}) == 2 * len(m)]
    for matching in matchings:
        for met in itertools.product((False, True), repeat=len(matching)):
            chance = np.prod([peers if one else 1 - peers for one in met]) / len(matchings)
            edges_E2 = both_ways(np.array(list(itertools.compress(matching, met))).reshape(-1, 2))
            W = mixing_matrix(edges_E2, nodes, "metropolis", own_weight=own_weight).toarray()
            mean_NN += chance * P @ W @ W @ P
    np.testing.assert_allclose(mean_NN, kept(RandomMatching(peers=peers, own_weight=own_weight), nodes) * P, atol=1e-12)


# ---- closed forms -------------------------------------------------------------------------------------------------


def test_published_closed_forms() -> None:
    assert kept(Pull(peers=0.2), 16) == pytest.approx(0.89333, abs=5e-6)
    for topology in (RandomMatching, Pull):
        for q in (0.0, 0.2, 1.0):
            assert kept(topology(peers=q), 16) == pytest.approx(1 - q * 16 / 30)
        for s in range(16):
            assert kept(topology(peers=float(s)), 16) == pytest.approx((1 - s / 15) / (s + 1), abs=1e-15)
        mixture = 0.75 * kept(topology(peers=2), 16) + 0.25 * kept(topology(peers=3), 16)
        assert kept(topology(peers=2.25), 16) == pytest.approx(mixture)
    m, q = 16, 0.2
    assert Pull(peers=q).drift(m) == pytest.approx((q / 2 * m / (m - 1) - q**2 / 4 * (m / (m - 1)) ** 2) / m)
    assert RandomMatching(peers=2).contraction(15) is None
    assert Pull(weights="out_degree").contraction(15) is None


@pytest.mark.parametrize("topology", [RandomMatching(peers=3), RandomRegular(degree=3, redraw=True)], ids=repr)
def test_a_draw_with_whole_peers_has_the_trace_of_its_closed_form(topology: Topology) -> None:
    """All directions together keep what each keeps on average."""
    for round in range(5):
        W = mixing_matrix(edges_of(topology, 20, 0, round), 20, "metropolis")
        assert contraction([W], alike=True) == pytest.approx(kept(topology, 20), abs=1e-14)


@pytest.mark.parametrize("topology", REDRAWN, ids=repr)
def test_closed_forms_by_chance_in_one_direction(topology: Topology) -> None:
    """Also that what is drawn is what the formula is about."""
    nodes, rounds = 16, 1500
    x_N = np.arange(nodes) ** 2.0
    x_N -= x_N.mean()
    values = []
    for round in range(rounds):
        y_N = dense(topology, nodes, round) @ x_N
        values.append(float(y_N @ y_N / (x_N @ x_N)))
        if topology.kind != "pull":
            assert abs(y_N.sum()) < 1e-12 * np.abs(x_N).sum(), "the mean is kept"
    deviation = np.std(values) / np.sqrt(rounds)
    assert abs(np.mean(values) - kept(topology, nodes)) < 4 * deviation
    assert deviation < 0.015


def test_the_mean_does_a_random_walk_under_pull_gossip() -> None:
    nodes, rounds, topology = 16, 3000, Pull(peers=0.2)
    x_ND = generator(0, "test").standard_normal((nodes, 8))
    x_ND -= x_ND.mean(axis=0)
    moves_KD = np.array([(dense(topology, nodes, round) @ x_ND).mean(axis=0) for round in range(rounds)])
    assert (np.abs(moves_KD.mean(axis=0)) < 4.5 * moves_KD.std(axis=0) / np.sqrt(rounds)).all(), "unbiased"
    ratio = nodes * np.square(moves_KD).sum(axis=1) / np.square(x_ND).sum()
    assert abs(ratio.mean() - (topology.drift(nodes) or 0.0)) < 4 * ratio.std() / np.sqrt(rounds)


# ---- what is drawn ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 15), st.floats(0, 1), st.integers(0, 500))
def test_pairs_meet_at_most_once_and_whole_matchings_give_whole_degrees(nodes: int, part: float, round: int) -> None:
    peers = part * (nodes - 1)
    degree_N = np.bincount(edges_of(RandomMatching(peers=peers), nodes, 0, round)[:, 1], minlength=nodes)
    most = int(np.ceil(peers))
    assert degree_N.max(initial=0) <= most
    if peers >= 1:
        assert degree_N.min() >= int(peers) - nodes % 2
    if nodes % 2 == 0 and peers > 1:
        assert len(set(degree_N.tolist())) == 1


@pytest.mark.parametrize("nodes", [6, 7, 12])
def test_all_turns_of_the_tournament_are_the_complete_graph(nodes: int) -> None:
    found = edges_of(RandomMatching(peers=nodes - 1), nodes, 0, 4)
    if nodes % 2 == 0:
        assert np.array_equal(found, edges_of(Complete(), nodes, 0))
    else:  # nodes - 1 of the `nodes` turns, each with another node left over.
        assert len(found) == (nodes - 1) ** 2


def test_pull_from_everybody_is_the_complete_graph() -> None:
    assert np.array_equal(edges_of(Pull(peers=8), 9, 0, 3), edges_of(Complete(), 9, 0))
    assert Pull(peers=8).caveat(9) == ""
    assert "does not keep the mean" in Pull(peers=7).caveat(9)


@pytest.mark.parametrize("peers", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("kind", [Pull, RandomMatching])
def test_whom_a_node_hears_is_uniform(kind: type[Pull] | type[RandomMatching], peers: float) -> None:
    nodes, rounds = 6, 800
    counts = np.zeros((nodes, nodes))
    for round in range(rounds):
        senders_E, receivers_E = edges_of(kind(peers=peers), nodes, 1, round).T
        counts[receivers_E, senders_E] += 1
    share = peers / (nodes - 1)
    deviation = np.sqrt(rounds * share * (1 - share))
    assert np.abs(counts[~np.eye(nodes, dtype=bool)] - rounds * share).max() < 4.5 * deviation


@pytest.mark.parametrize("count", [2, 3])
def test_sets_of_peers_are_uniform(count: int) -> None:
    """All pairs and triples of 4 others are equally likely."""
    rounds, found = 1200, dict.fromkeys(itertools.combinations(range(1, 5), count), 0)
    for round in range(rounds):
        edges_E2 = edges_of(Pull(peers=count), 5, 2, round)
        found[tuple(edges_E2[edges_E2[:, 1] == 0, 0].tolist())] += 1
    share = 1 / len(found)
    assert np.abs(np.array(list(found.values())) - rounds * share).max() < 4.5 * np.sqrt(rounds * share * (1 - share))


@pytest.mark.parametrize("topology", REDRAWN, ids=repr)
def test_every_round_is_drawn_for_itself(topology: Topology) -> None:
    graphs = [edges_of(topology, 30, 0, round).tobytes() for round in range(10)]
    assert len(set(graphs)) == 10
    assert edges_of(topology, 30, 0, 7).tobytes() == graphs[7]
    assert edges_of(topology, 30, 1, 7).tobytes() != graphs[7]


def test_redrawn_graphs_need_not_be_connected() -> None:
    joined = [
        nx.is_connected(nx.Graph(edges_of(RandomRegular(degree=2, redraw=True), 12, 0, round).tolist()))
        for round in range(40)
    ]
    assert set(joined) == {True, False}
    assert len(edges_of(ErdosRenyi(p=0.0, redraw=True), 9, 0)) == 0


def test_thinning_by_the_topology_itself_has_the_law_of_thinning_link_by_link() -> None:
    """Each pair of a redrawn Erdos-Renyi graph is there with p times the share, independently."""
    rounds, present = 800, np.zeros((800, 6, 6))
    for round in range(rounds):
        a, b = edges_of(ErdosRenyi(p=0.6, redraw=True), 6, 0, round, 0.5).T
        present[round, a, b] = 1
    drawn = present[:, *np.triu_indices(6, 1)]
    assert np.abs(drawn.sum(0) - rounds * 0.3).max() < 4.5 * np.sqrt(rounds * 0.3 * 0.7)
    assert np.abs(np.corrcoef(drawn.T)[np.triu_indices(15, 1)]).max() < 4.5 / np.sqrt(rounds)
