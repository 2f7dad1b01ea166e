"""Where hostile nodes are: numbers, shares, places on a graph, and the links of Sybil identities.

N nodes; hops between them by breadth-first search.
"""

from __future__ import annotations

from typing import Literal

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gossamer import hops
from gossamer.errors import ExperimentError
from gossamer.hostile import Array
from gossamer.hostile.byzantine import Byzantine
from gossamer.hostile.sybils import Sybils
from gossamer.randomness import generator

SERVER_E2 = np.empty((0, 2), np.int64)


def both_ways(graph: nx.Graph) -> Array:
    edges = np.array(graph.edges, np.int64).reshape(-1, 2)
    return np.concatenate([edges, edges[:, ::-1]])


def geometric(nodes: int = 99, seed: int = 2) -> nx.Graph:
    """A connected random geometric graph, the kind that SybilWall's experiments use."""
    graph = nx.random_geometric_graph(nodes, 0.2, seed=seed)
    for one, other in zip(nx.connected_components(graph), list(nx.connected_components(graph))[1:], strict=False):
        graph.add_edge(min(one), min(other))
    return nx.Graph(graph.edges)


GRAPH = geometric()
EDGES_E2 = both_ways(GRAPH)


def rng(seed: int = 0) -> np.random.Generator:
    return generator(seed, "hostile")


class TestHops:
    def test_distances_are_those_of_a_breadth_first_search(self) -> None:
        hops_NN = hops.distances(EDGES_E2, 99)
        for source, lengths in nx.all_pairs_shortest_path_length(GRAPH):
            assert {target: int(hops_NN[source, target]) for target in lengths} == lengths

    def test_one_way_links_count_both_ways_and_no_path_is_far(self) -> None:
        hops_NN = hops.distances(np.array([[0, 1], [2, 1]]), 4)
        assert hops_NN.tolist() == [[0, 1, 2, 4], [1, 0, 1, 4], [2, 1, 0, 4], [4, 4, 4, 0]]

    def test_medoids_of_a_line_are_the_middles_of_its_parts(self) -> None:
        """Three medoids of 15 nodes in a row come within a fifth of the least sum of distances of all."""
        hops_NN = hops.distances(both_ways(nx.path_graph(15)), 15)
        best = min(hops_NN[:, [a, b, c]].min(1).sum() for a in range(15) for b in range(a) for c in range(b))
        for seed in range(20):
            found = hops.medoids(hops_NN, 3, rng(seed))
            assert len(set(found.tolist())) == 3
            assert hops_NN[:, found].min(1).sum() <= 1.2 * best

    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), k=st.integers(1, 40))
    def test_no_medoid_can_be_bettered_within_its_group(self, seed: int, k: int) -> None:
        hops_NN = hops.distances(EDGES_E2, 99)
        found = hops.medoids(hops_NN, k, rng(seed))
        assert len(set(found.tolist())) == k
        assert (np.diff(found) > 0).all()
        group_N = hops_NN[:, found].argmin(1)
        for i, medoid in enumerate(found):
            members = np.flatnonzero(group_N == i)
            sums = hops_NN[np.ix_(members, members)].sum(1)
            assert sums[members == medoid][0] == sums.min()

    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), most=st.integers(1, 12))
    def test_groups_are_full_and_disjoint(self, seed: int, most: int) -> None:
        members = rng(seed).choice(99, 50, replace=False)
        found = hops.groups(hops.distances(EDGES_E2, 99), members, most, rng(seed))
        assert sorted(np.concatenate(found).tolist()) == sorted(members.tolist())
        assert [len(group) for group in found[:-1]] == [most] * (len(found) - 1)
        assert 1 <= len(found[-1]) <= most

    def test_a_ball_holds_all_nearer_than_its_rim(self) -> None:
        hops_NN = hops.distances(EDGES_E2, 99)
        found = hops.ball(hops_NN, 20, rng(3))
        is_in_N = np.isin(np.arange(99), found)
        assert any(hops_NN[centre, is_in_N].max() <= hops_NN[centre, ~is_in_N].min() for centre in found.tolist())


class TestNodes:
    @pytest.mark.parametrize(("count", "expected"), [(7, 7), (0.2, 19), (0.1, 9), (1, 1), (98, 98)])
    @pytest.mark.parametrize("placement", ["random", "first", "spread", "clustered", "central"])
    def test_the_number_and_its_rounding(self, placement: str, count: int | float, expected: int) -> None:
        places = Byzantine(count=count, placement=placement).places(EDGES_E2, 99, rng())  # type: ignore[arg-type]
        assert len(places) == expected
        assert (np.diff(places) > 0).all()
        assert places[0] >= 0
        assert places[-1] < 99

    def test_a_share_is_not_rounded_away_by_floating_point(self) -> None:
        """0.29 * 100 is 28.999999999999996."""
        assert len(Byzantine(count=0.29).places(SERVER_E2, 100, rng())) == 29

    def test_first_and_listed_are_what_they_say(self) -> None:
        assert Byzantine(count=3, placement="first").places(SERVER_E2, 10, rng()).tolist() == [0, 1, 2]
        assert Byzantine(listed=(8, 2, 2)).places(SERVER_E2, 10, rng()).tolist() == [2, 8]

    def test_central_ones_are_heard_by_most(self) -> None:
        """One-way edges: it is who is heard that counts, not who hears."""
        edges_E2 = np.array([[3, 0], [3, 1], [3, 2], [1, 0], [1, 2], [0, 2]])
        assert Byzantine(count=2, placement="central").places(edges_E2, 4, rng()).tolist() == [1, 3]

    def test_spread_is_more_spread_than_clustered(self) -> None:
        hops_NN = hops.distances(EDGES_E2, 99)

        def mean_distance(placement: Literal["random", "spread", "clustered"]) -> float:
            found = [Byzantine(count=10, placement=placement).places(EDGES_E2, 99, rng(seed)) for seed in range(10)]
            return float(np.mean([hops_NN[np.ix_(places, places)].mean() for places in found]))

        assert mean_distance("spread") > mean_distance("random") > mean_distance("clustered")

    def test_a_ball_is_connected(self) -> None:
        for seed in range(5):
            places = Byzantine(count=15, placement="clustered").places(EDGES_E2, 99, rng(seed))
            assert nx.is_connected(GRAPH.subgraph(places.tolist()))

    @pytest.mark.parametrize("placement", ["random", "spread", "clustered"])
    def test_the_generator_alone_decides(self, placement: Literal["random", "spread", "clustered"]) -> None:
        kind = Byzantine(count=10, placement=placement)
        first, again, other = (kind.places(EDGES_E2, 99, rng(seed)).tolist() for seed in (1, 1, 2))
        assert first == again
        assert first != other

    def test_bad_input(self) -> None:
        with pytest.raises(ValidationError, match="a share below 1 of them"):
            Byzantine(count=1.0)
        with pytest.raises(ValidationError, match="greater than 0"):
            Byzantine(count=0)
        with pytest.raises(ExperimentError, match=r"hostile\.count = 10 makes 10 of nodes = 10 hostile; .* to 9"):
            Byzantine(count=10).places(SERVER_E2, 10, rng())
        with pytest.raises(ExperimentError, match=r"hostile\.count = 0\.05 makes 0 of nodes = 10 hostile"):
            Byzantine(count=0.05).places(SERVER_E2, 10, rng())
        with pytest.raises(ExperimentError, match=r"hostile\.listed names node 12, but nodes = 10: use 0 to 9"):
            Byzantine(listed=(1, 12)).places(SERVER_E2, 10, rng())
        with pytest.raises(ExperimentError, match="leave an honest one"):
            Byzantine(listed=(0, 1, 2)).places(SERVER_E2, 3, rng())
        with pytest.raises(ExperimentError, match=r"hostile\.placement = 'spread' needs a graph"):
            Byzantine(placement="spread").places(SERVER_E2, 10, rng())


class TestSybils:
    @pytest.mark.parametrize(("phi", "identities"), [(1.0, 15), (2.0, 30), (0.5, 7), (1.5, 22), (0.25, 4)])
    @pytest.mark.parametrize("placement", ["spread", "clustered"])
    def test_attack_edges_and_identities(
        self, placement: Literal["spread", "clustered"], phi: float, identities: int
    ) -> None:
        """99 nodes, groups of 7: 15 for each whole layer (the paper's number), and ceil(floor(99 frac) / 7)."""
        linked = Sybils(attack_edges=phi, placement=placement).sybils(EDGES_E2, 99, rng())
        assert len(linked) == identities
        assert all(1 <= len(group) <= 7 for group in linked)
        edges_N = np.bincount(np.concatenate(linked), minlength=99)
        assert edges_N.sum() == int(phi * 99)
        assert edges_N.min() == int(phi)
        assert edges_N.max() <= int(phi) + (phi != int(phi))
        assert all(len(set(group.tolist())) == len(group) for group in linked)

    @pytest.mark.parametrize(("per_sybil", "identities"), [(1, 99), (10, 10), (99, 1), (200, 1)])
    def test_links_of_one_identity(self, per_sybil: int, identities: int) -> None:
        assert len(Sybils(per_sybil=per_sybil).sybils(EDGES_E2, 99, rng())) == identities

    def test_groups_are_neighbourhoods(self) -> None:
        """Byzantine of one Sybil are nearer to each other than any are."""
        hops_NN = hops.distances(EDGES_E2, 99)
        linked = Sybils().sybils(EDGES_E2, 99, rng())
        assert np.mean([hops_NN[np.ix_(group, group)].mean() for group in linked]) < 0.6 * hops_NN.mean()

    def test_the_fraction_is_spread_or_clustered(self) -> None:
        hops_NN = hops.distances(EDGES_E2, 99)

        def attacked(placement: Literal["spread", "clustered"]) -> float:
            nodes = np.concatenate(Sybils(attack_edges=0.3, placement=placement).sybils(EDGES_E2, 99, rng()))
            return float(hops_NN[:, nodes].min(1).mean())

        assert attacked("spread") < 0.6 * attacked("clustered")

    def test_identities_at_a_server(self) -> None:
        linked = Sybils(identities=12).sybils(SERVER_E2, 99, rng())
        assert [len(group) for group in linked] == [0] * 12

    def test_copies_are_disguised_by_noise_relative_to_the_message(self) -> None:
        row_D = torch.linspace(-3, 5, 40000)
        before = row_D.clone()
        one, other = (Sybils(noise=0.2).disguised(row_D, rng(seed)) - row_D for seed in (1, 2))
        assert one.dtype == torch.float32
        assert float(one.std() / row_D.square().mean().sqrt()) == pytest.approx(0.2, rel=0.03)
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.03
        assert row_D.equal(before)
        assert Sybils().disguised(row_D, rng()).equal(row_D)

    def test_participation_is_a_share_of_rounds(self) -> None:
        sent = [Sybils(participation=0.3).sends(generator(0, "sends", 1, round)) for round in range(2000)]
        assert np.mean(sent) == pytest.approx(0.3, abs=0.04)
        assert all(Sybils().sends(generator(0, "sends", 1, round)) for round in range(50))

    def test_bad_input(self) -> None:
        with pytest.raises(ExperimentError, match=r"hostile\.identities is not given, but a server has no graph"):
            Sybils().sybils(SERVER_E2, 99, rng())
        with pytest.raises(ExperimentError, match=r"hostile\.identities = 5 is for a server"):
            Sybils(identities=5).sybils(EDGES_E2, 99, rng())
        with pytest.raises(ExperimentError, match=r"more hostile neighbours than there are nodes = 99; use 99 or less"):
            Sybils(attack_edges=120).sybils(EDGES_E2, 99, rng())
        with pytest.raises(ExperimentError, match=r"makes no attack edge among nodes = 99: use 0\.0102 or more"):
            Sybils(attack_edges=0.001).sybils(EDGES_E2, 99, rng())
        assert len(Sybils(attack_edges=0.0102).sybils(EDGES_E2, 99, rng())) == 1
        with pytest.raises(ValidationError, match="greater than 0"):
            Sybils(attack_edges=0)
