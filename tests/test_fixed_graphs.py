"""Fixed graphs: agreement with networkx, closed forms of their spectral gaps, laws of random ones, edge lists."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.graphs import components
from gossamer.mixing import mixing_matrix
from gossamer.randomness import generator
from gossamer.spectra import spectral_gap
from gossamer.topologies import Array, Topology
from gossamer.topologies.bridges import Bridges
from gossamer.topologies.complete import Complete
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.exponential import Exponential
from gossamer.topologies.geometric import Geometric
from gossamer.topologies.random_regular import RandomRegular
from gossamer.topologies.ring import Ring
from gossamer.topologies.small_world import SmallWorld
from gossamer.topologies.star import Star
from gossamer.topologies.torus import Torus


def edges(topology: Topology, nodes: int, seed: int = 0) -> Array:
    return topology.edges(nodes, 0, generator(seed, "test"))


def pairs(topology: Topology, nodes: int, seed: int = 0) -> set[tuple[int, int]]:
    return {(min(a, b), max(a, b)) for a, b in edges(topology, nodes, seed).tolist()}


def matrix(topology: Topology, nodes: int) -> Any:
    return mixing_matrix(edges(topology, nodes), nodes, topology.weights)


# ---- against networkx ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [3, 4, 9, 12])
def test_ring_complete_and_star_are_those_of_networkx(nodes: int) -> None:
    for topology, graph in (
        (Ring(), nx.cycle_graph(nodes)),
        (Complete(), nx.complete_graph(nodes)),
        (Star(), nx.star_graph(nodes - 1)),
    ):
        assert pairs(topology, nodes) == {(min(e), max(e)) for e in graph.edges}


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (2, 5), (3, 3), (3, 4), (6, 4)])
def test_torus_is_the_periodic_grid_of_networkx(rows: int, columns: int) -> None:
    graph = nx.grid_2d_graph(rows, columns, periodic=True)
    number = {(r, c): r * columns + c for r in range(rows) for c in range(columns)}
    expected = {tuple(sorted((number[a], number[b]))) for a, b in graph.edges if a != b}
    assert pairs(Torus(rows=rows), rows * columns) == expected


def test_torus_is_as_square_as_possible() -> None:
    for nodes, rows in ((36, 6), (20, 4), (12, 3), (14, 2)):
        assert pairs(Torus(), nodes) == pairs(Torus(rows=rows), nodes)


# ---- closed forms of the spectral gap (Metropolis-Hastings weights) -------------------------------------------------


@pytest.mark.parametrize("nodes", [3, 4, 5, 16, 101])
def test_spectral_gap_of_a_ring(nodes: int) -> None:
    assert spectral_gap(matrix(Ring(), nodes)) == pytest.approx(1 - (1 + 2 * np.cos(2 * np.pi / nodes)) / 3, abs=1e-12)


@pytest.mark.parametrize("nodes", [2, 3, 10, 50])
def test_spectral_gap_of_a_complete_graph_is_one(nodes: int) -> None:
    W_NN = matrix(Complete(), nodes)
    assert (W_NN.toarray() == 1 / nodes).all(), "one exchange is the average"
    assert spectral_gap(W_NN) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (4, 6), (5, 8)])
def test_spectral_gap_of_a_torus(rows: int, columns: int) -> None:
    values = [
        abs(1 + 2 * np.cos(2 * np.pi * a / rows) + 2 * np.cos(2 * np.pi * b / columns)) / 5
        for a, b in itertools.product(range(rows), range(columns))
    ]
    W_NN = matrix(Torus(rows=rows), rows * columns)
    assert spectral_gap(W_NN) == pytest.approx(1 - sorted(values)[-2], abs=1e-12)


@pytest.mark.parametrize("nodes", [3, 7, 40])
def test_spectral_gap_of_a_star(nodes: int) -> None:
    assert spectral_gap(matrix(Star(), nodes)) == pytest.approx(1 / nodes, abs=1e-12)


@pytest.mark.parametrize("nodes", [2, 4, 6, 10, 16, 30, 64, 100])
def test_spectral_gap_of_an_exponential_graph_with_an_even_number_of_nodes(nodes: int) -> None:
    """Ying et al. 2021, proposition 1."""
    expected = 2 / (1 + np.ceil(np.log2(nodes)))
    assert spectral_gap(matrix(Exponential(), nodes)) == pytest.approx(expected, abs=1e-12)
    assert Exponential().contraction(nodes) == pytest.approx((1 - expected) ** 2, abs=1e-15)


@pytest.mark.parametrize("nodes", [3, 5, 9, 25, 63])
def test_spectral_gap_of_an_exponential_graph_with_an_odd_number_of_nodes_is_larger(nodes: int) -> None:
    gap = spectral_gap(matrix(Exponential(), nodes))
    assert gap is not None
    assert gap > 2 / (1 + np.ceil(np.log2(nodes))) + 1e-6
    assert Exponential().contraction(nodes) is None


def test_whom_the_nodes_of_an_exponential_graph_hear() -> None:
    heard: dict[int, set[int]] = {}
    for sender, receiver in edges(Exponential(), 11).tolist():
        heard.setdefault(receiver, set()).add(sender)
    assert heard == {i: {(i + hop) % 11 for hop in (1, 2, 4, 8)} for i in range(11)}


# ---- random graphs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nodes", "degree"), [(2, 1), (8, 1), (9, 2), (50, 3), (51, 4), (12, 7), (60, 55), (7, 6)])
def test_every_node_of_a_regular_graph_has_the_degree(nodes: int, degree: int) -> None:
    found = edges(RandomRegular(degree=degree), nodes)
    assert (np.bincount(found[:, 1], minlength=nodes) == degree).all()
    assert degree == 1 or nx.is_connected(nx.Graph(found.tolist()))


@pytest.mark.parametrize("degree", [2, 3])
def test_pairs_of_a_regular_graph_are_equally_likely(degree: int) -> None:
    """Relabelling nodes changes nothing, so each of 15 pairs is an edge with probability degree / 5."""
    draws, rng = 600, generator(0, "test")
    counts = np.zeros((6, 6))
    for _ in range(draws):
        a, b = RandomRegular(degree=degree).edges(6, 0, rng).T
        counts[a, b] += 1
    share = degree / 5
    deviation = np.sqrt(draws * share * (1 - share))
    assert np.abs(counts[~np.eye(6, dtype=bool)] - draws * share).max() < 4.5 * deviation


def test_pairs_of_an_erdos_renyi_graph_are_independent_draws() -> None:
    draws, p, rng = 1000, 0.3, generator(0, "test")
    topology = ErdosRenyi(p=p, connected=False)
    present = np.zeros((draws, 7, 7))
    for k in range(draws):
        a, b = topology.edges(7, 0, rng).T
        present[k, a, b] = 1
    low, high = np.triu_indices(7, 1)
    drawn = present[:, low, high]
    assert np.abs(drawn.sum(0) - draws * p).max() < 4.5 * np.sqrt(draws * p * (1 - p))
    correlation = np.corrcoef(drawn.T)[np.triu_indices(21, 1)]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(draws)


def test_erdos_renyi_at_the_ends_and_connected() -> None:
    assert edges(ErdosRenyi(p=0, connected=False), 9).shape == (0, 2)
    assert pairs(ErdosRenyi(p=1), 9) == pairs(Complete(), 9)
    split = [len(components(edges(ErdosRenyi(p=0.15, connected=False), 20, s), 20)) > 1 for s in range(20)]
    assert any(split)  # so redrawing matters
    assert all(len(components(edges(ErdosRenyi(p=0.15), 20, s), 20)) == 1 for s in range(20))


def test_a_small_world_is_a_ring_with_links_moved() -> None:
    lattice = nx.circulant_graph(20, [1, 2])
    assert pairs(SmallWorld(p=0), 20) == {(min(e), max(e)) for e in lattice.edges}
    moved = [len(pairs(SmallWorld(p=0.25), 200, seed) - pairs(SmallWorld(p=0), 200)) for seed in range(30)]
    assert len(pairs(SmallWorld(p=0.25), 200)) == 400
    # Of 400 links a quarter moves; few move onto another place of the lattice.
    assert abs(np.mean(moved) - 100) < 4.5 * np.sqrt(400 * 0.25 * 0.75 / 30) + 2


def test_a_geometric_graph_joins_exactly_what_is_near() -> None:
    rng = generator(0, "test")
    place_N2 = generator(0, "test").random((40, 2))
    distance_NN = np.hypot(*(place_N2[:, None] - place_N2[None]).transpose(2, 0, 1))
    expected = {(i, j) for i in range(40) for j in range(i + 1, 40) if distance_NN[i, j] <= 0.3}
    found = Geometric(radius=0.3, connected=False).edges(40, 0, rng)
    assert {(a, b) for a, b in found.tolist() if a < b} == expected
    assert all(len(components(edges(Geometric(), 200, seed), 200)) == 1 for seed in range(10))


def test_the_degree_of_a_geometric_graph() -> None:
    """Nodes near the border have fewer neighbours: in the square the mean is less, away from it as asked for."""
    degree, nodes = 8.0, 2000
    found = edges(Geometric(degree=degree, connected=False), nodes)
    place_N2 = generator(0, "test").random((nodes, 2))
    heard_N = np.bincount(found[:, 1], minlength=nodes)
    inner_N = (np.abs(place_N2 - 0.5) < 0.4).all(axis=1)
    assert heard_N[inner_N].mean() == pytest.approx(degree, rel=0.05)
    assert heard_N.mean() < degree


@pytest.mark.parametrize(("nodes", "groups", "bridges"), [(12, 3, 1), (13, 4, 2), (10, 2, 5), (9, 1, 3)])
def test_groups_are_complete_and_bridges_join_them_in_a_circle(nodes: int, groups: int, bridges: int) -> None:
    group_N = np.concatenate([np.full(len(part), g) for g, part in enumerate(np.array_split(range(nodes), groups))])
    found = pairs(Bridges(groups=groups, bridges=bridges), nodes)
    inside = {(a, b) for a, b in itertools.combinations(range(nodes), 2) if group_N[a] == group_N[b]}
    assert inside <= found
    ways = {(min(g, (g + 1) % groups), max(g, (g + 1) % groups)) for g in range(groups) if groups > 1}
    between = [tuple(sorted((group_N[a], group_N[b]))) for a, b in found - inside]
    assert {way: between.count(way) for way in ways} == dict.fromkeys(ways, bridges)
    assert len(between) == len(ways) * bridges


def test_bridges_anywhere_are_all_pairs_of_different_groups_alike() -> None:
    rng, draws = generator(0, "test"), 600
    topology = Bridges(groups=3, density=0, bridges=1, between="random", connected=False)
    counts = np.zeros((7, 7))
    for _ in range(draws):
        for a, b in topology.edges(7, 0, rng).tolist():
            counts[a, b] += 1
    group_N = np.array([0, 0, 0, 1, 1, 2, 2])
    across = group_N[:, None] != group_N[None]
    assert (counts[~across] == 0).all()
    share = 3 / 16  # 3 bridges, (7^2 - 3^2 - 2^2 - 2^2) / 2 pairs
    assert np.abs(counts[across] - draws * share).max() < 4.5 * np.sqrt(draws * share * (1 - share))


# ---- edge lists ---------------------------------------------------------------------------------------------------


def test_edge_list_from_pairs() -> None:
    topology = EdgeList(pairs=((0, 1), (2, 1), (1, 0), (2, 2)))
    assert edges(topology, 3).tolist() == [[1, 0], [0, 1], [2, 1], [1, 2]]
    assert edges(EdgeList(pairs=((0, 1), (2, 1), (2, 2)), directed=True), 3).tolist() == [[0, 1], [2, 1]]


def test_edge_list_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "edges.txt"
    file.write_text("# a triangle with a tail\n0 1\n1\t2  # tabs are fine\n\n2 0\n 2 3\n")
    assert pairs(EdgeList(path=str(file)), 4) == {(0, 1), (1, 2), (0, 2), (2, 3)}
    experiment = Experiment.from_toml(f"method = 'dsgd'\n[topology]\nkind = 'edge_list'\npath = '{file}'\n")
    assert Experiment.from_toml(experiment.to_toml()) == experiment


@pytest.mark.parametrize("line", ["0 1 2", "0", "0 x", "0 -1", "0,1", "0.5 1"])
def test_a_bad_line_of_a_file_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "edges.txt"
    file.write_text(f"0 1\n{line}\n")
    with pytest.raises(ExperimentError, match=r"topology\.path = '.*', line 2: .* is not two node numbers"):
        edges(EdgeList(path=str(file)), 3)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"topology\.path = 'nowhere\.txt': no such file"):
        edges(EdgeList(path="nowhere.txt"), 3)
    with pytest.raises(ExperimentError, match="cannot be read"):
        edges(EdgeList(path=str(tmp_path)), 3)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="cannot be read"):
        edges(EdgeList(path=str(tmp_path / "bytes")), 3)


def test_a_networkx_graph_is_a_topology() -> None:
    graph = nx.Graph([("c", "a"), ("b", "c")])
    experiment = Experiment(topology=graph, method="dsgd")
    assert pairs(experiment.topology, 3) == {(0, 2), (1, 2)}
    assert edges(Experiment(topology=nx.DiGraph([(5, 3)]), method="dsgd").topology, 2).tolist() == [[1, 0]]
    mixed_names = nx.Graph([("hub", 1), ("hub", 2)])
    assert pairs(Experiment(topology=mixed_names, method="dsgd").topology, 3) == {(0, 1), (0, 2)}
