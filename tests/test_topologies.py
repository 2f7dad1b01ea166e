"""Topologies: the contract of all of them, fixed graphs against networkx and closed forms of their gaps, errors."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.graphs import components
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.plugs import discover
from gossamer.randomness import generator
from gossamer.spectra import spectral_gap, stochasticity
from gossamer.topologies import Topology
from gossamer.topologies.bridges import Bridges
from gossamer.topologies.complete import Complete
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.exponential import Exponential
from gossamer.topologies.geometric import Geometric
from gossamer.topologies.pull import Pull
from gossamer.topologies.random_matching import RandomMatching
from gossamer.topologies.random_regular import RandomRegular
from gossamer.topologies.ring import Ring
from gossamer.topologies.small_world import SmallWorld
from gossamer.topologies.star import Star
from gossamer.topologies.torus import Torus

REQUIRED: dict[str, dict[str, Any]] = {
    "edge_list": {"pairs": ((0, 1), (4, 2), (1, 2), (0, 1), (3, 3))},
    "contacts": {"path": str(Path(__file__).parent / "contacts.csv")},
}
"""Fields without a default."""

GRAPHS: list[Topology] = [cls(**REQUIRED.get(kind, {})) for kind, cls in discover(Topology).items()]
VARIANTS: list[Topology] = [
    RandomRegular(degree=3, redraw=True),
    ErdosRenyi(redraw=True),
    ErdosRenyi(p=0.1, redraw=True, weights="uniform"),
    RandomMatching(peers=0.4),
    RandomMatching(peers=2.5),
    Pull(peers=0.2),
    Pull(peers=3.7),
    Bridges(groups=3, density=0.7, bridges=2, between="random"),
    Geometric(degree=3, connected=False),
    EdgeList(pairs=((0, 1), (1, 2), (2, 1), (3, 0)), directed=True, weights="uniform"),
]
OVERLAYS = {"complete", "exponential", "one_peer_exponential", "random_matching", "pull"}


def edges(topology: Topology, nodes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return topology.edges(nodes, 0, generator(seed, "test"))


def pairs(topology: Topology, nodes: int, seed: int = 0) -> set[tuple[int, int]]:
    return {(min(a, b), max(a, b)) for a, b in edges(topology, nodes, seed).tolist()}


def matrix(topology: Topology, nodes: int) -> Any:
    return mixing_matrix(edges(topology, nodes), nodes, topology.weights)


# ---- the contract -------------------------------------------------------------------------------------------------


def test_every_file_of_the_folder_is_found() -> None:
    import gossamer.topologies

    files = {p.stem for p in Path(gossamer.topologies.__path__[0]).glob("*.py")} - {"__init__"}
    assert set(discover(Topology)) == files


@pytest.mark.parametrize("nodes", [6, 20, 36])
@pytest.mark.parametrize("topology", [*GRAPHS, *VARIANTS], ids=lambda t: t.kind)
def test_contract(topology: Topology, nodes: int) -> None:
    found = edges(topology, nodes)
    assert found.dtype == np.int64
    as_pairs = [(receiver, sender) for sender, receiver in found.tolist()]
    assert as_pairs == sorted(set(as_pairs)), "by receiver, then sender, without doubles"
    assert all(0 <= a < nodes and 0 <= b < nodes and a != b for a, b in as_pairs)
    assert topology.one_way or {(b, a) for a, b in as_pairs} == set(as_pairs), "both ways"
    assert np.array_equal(found, edges(topology, nodes)), "the same generator gives the same graph"
    assert topology.has_server == (len(found) == 0)
    told = stochasticity(mixing_matrix(found, nodes, topology.weights))
    assert told in ("row", "doubly")
    assert told == "doubly" or topology.weights == "uniform"
    assert topology.overlay == (topology.kind in OVERLAYS or getattr(topology, "redraw", False))


@pytest.mark.parametrize("topology", [t for t in GRAPHS if t.kind not in ("pull", "server")], ids=lambda t: t.kind)
def test_default_weights_keep_the_mean_on_every_graph_but_pull(topology: Topology) -> None:
    for round in range(5):
        assert stochasticity(mixing_matrix(edges_of(topology, 20, 1, round), 20, topology.weights)) == "doubly"


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([*GRAPHS, *VARIANTS]), st.integers(1, 24), st.integers(0, 2**40), st.integers(0, 300))
def test_every_round_of_every_graph(topology: Topology, nodes: int, seed: int, round: int) -> None:
    """Edges that are some (`edges_of` checks them), the same each time they are asked for, and weights that average."""
    try:
        found = edges_of(topology, nodes, seed, round)
    except ExperimentError as error:
        assert "\n" not in str(error)
        return
    assert np.array_equal(found, edges_of(topology, nodes, seed, round))
    assert topology.varies or np.array_equal(found, edges_of(topology, nodes, seed))
    some = edges_of(topology, nodes, seed, round, 0.5)
    assert np.array_equal(some, edges_of(topology, nodes, seed, round, 0.5))
    for kept in (found, some):
        told = stochasticity(mixing_matrix(kept, nodes, topology.weights))
        assert told == "doubly" or (told == "row" and topology.weights == "uniform")
        assert stochasticity(mixing_matrix(kept, nodes, "out_degree")) in ("column", "doubly")
        assert stochasticity(mixing_matrix(kept, nodes, topology.weights, own_weight=0.3)) in ("row", "doubly")


@pytest.mark.parametrize("share", [0.2, 0.7])
@pytest.mark.parametrize("topology", [*GRAPHS, *VARIANTS], ids=lambda t: t.kind)
def test_a_share_of_the_links_is_kept_on_average(topology: Topology, share: float) -> None:
    nodes, rounds = 12, 150
    excess = [
        len(edges_of(topology, nodes, 3, round, share)) - share * len(edges_of(topology, nodes, 3, round))
        for round in range(rounds)
    ]
    deviation = np.std(excess) / np.sqrt(rounds)
    assert abs(np.mean(excess)) <= 4.5 * deviation + 1e-9


@pytest.mark.parametrize(
    "topology",
    [RandomRegular(), ErdosRenyi(), SmallWorld(), Geometric(), Bridges(density=0.8)],
    ids=lambda t: t.kind,
)
def test_random_graphs_differ_from_seed_to_seed(topology: Topology) -> None:
    graphs = {edges_of(topology, 20, seed).tobytes() for seed in range(10)}
    assert len(graphs) == 10
    assert np.array_equal(edges_of(topology, 20, 3, round=0), edges_of(topology, 20, 3, round=7)), "fixed in a run"


@pytest.mark.parametrize("topology", GRAPHS, ids=lambda t: t.kind)
def test_round_trip_through_an_experiment_file(topology: Topology) -> None:
    method = "fedavg" if topology.has_server else "dsgd"
    experiment = Experiment(topology=topology, method=method)
    assert Experiment.from_toml(experiment.to_toml()).topology == topology


def test_graphs_of_one_and_two_nodes() -> None:
    for topology in (Ring(), Complete(), Star(), ErdosRenyi(p=1)):
        assert edges(topology, 1).shape == (0, 2)
        assert edges(topology, 2).tolist() == [[1, 0], [0, 1]]


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


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topology", "nodes", "parts"),
    [
        (RandomRegular(degree=3), 7, ["topology.degree = 3", "nodes = 7", "degree = 2 or 4", "nodes = 8"]),
        (RandomRegular(degree=1), 7, ["topology.degree = 1", "nodes = 7", "degree = 2,"]),
        (RandomRegular(degree=4), 4, ["topology.degree = 4", "nodes = 4", "smaller degree"]),
        (Torus(), 13, ["torus", "13 nodes", "12 (3 x 4)", "14 (2 x 7)", "'ring'"]),
        (Torus(), 1, ["torus", "1 nodes", "4 (2 x 2)"]),
        (Torus(rows=5), 12, ["topology.rows = 5", "12 nodes", "rows = 2 or 3 or 4 or 6", "nodes = 10 or 15"]),
        (Torus(rows=7), 7, ["topology.rows = 7", "7 nodes", "nodes = 14 or 21"]),
        (ErdosRenyi(p=0.01), 30, ["topology.p = 0.01", "nodes = 30", "such as 0.22", "connected = false"]),
        (SmallWorld(neighbours=6), 6, ["topology.neighbours = 6", "nodes = 6", "at least 7 nodes"]),
        (Geometric(radius=0.05), 30, ["topology.radius = 0.05", "nodes = 30", "radius = 0.27", "connected = false"]),
        (Geometric(degree=0.5), 30, ["topology.degree = 0.5 (radius 0.074)", "radius = 0.27"]),
        (Bridges(groups=7), 6, ["topology.groups = 7", "nodes = 6", "groups = 6 or less"]),
        (Bridges(groups=3, bridges=5), 6, ["topology.bridges = 5", "2 and 2", "4 pairs", "bridges = 4 or less"]),
        (
            Bridges(groups=3, bridges=5, between="random"),
            6,
            ["topology.bridges = 5", "15 bridges", "12 pairs", "bridges = 4 or less"],
        ),
        (Bridges(bridges=0), 8, ["bridges = 0", "nodes = 8", "more bridges", "connected = false"]),
        (RandomMatching(peers=8), 8, ["topology.peers = 8", "nodes = 8", "peers = 7 or less"]),
        (Pull(peers=7.5), 8, ["topology.peers = 7.5", "nodes = 8", "peers = 7 or less"]),
        (EdgeList(pairs=((0, 1), (1, 5))), 5, ["topology.pairs", "0..4", "[1, 5]"]),
        (EdgeList(pairs=((-1, 0),)), 5, ["topology.pairs", "0..4", "[-1, 0]"]),
    ],
    ids=lambda value: value.kind if isinstance(value, Topology) else None,
)
def test_impossible_graphs_name_the_numbers_and_the_fix(topology: Topology, nodes: int, parts: list[str]) -> None:
    with pytest.raises(ExperimentError) as caught:
        edges(topology, nodes)
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert "\n" not in text


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 7, 11, 13, 97])
def test_what_the_torus_error_proposes_works(nodes: int) -> None:
    with pytest.raises(ExperimentError, match=r"(\d+) \((\d+) x (\d+)\)") as caught:
        edges(Torus(), nodes)
    for count, rows, columns in re.findall(r"(\d+) \((\d+) x (\d+)\)", str(caught.value)):
        assert int(rows) * int(columns) == int(count)
        assert pairs(Torus(), int(count)) == pairs(Torus(rows=int(rows)), int(count))


@pytest.mark.parametrize("nodes", [10, 30, 300])
def test_the_radius_that_the_geometric_error_proposes_works(nodes: int) -> None:
    with pytest.raises(ExperimentError, match=r"such as radius = ([\d.]+)") as caught:
        edges(Geometric(radius=0.001), nodes)
    radius = float(re.findall(r"such as radius = ([\d.]+)", str(caught.value))[0])
    assert len(components(edges(Geometric(radius=radius), nodes), nodes)) == 1


def test_a_small_world_that_stays_unconnected_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"neighbours = 2, p = 1 with nodes = 12: .* use neighbours = 4"):
        _Scattered(neighbours=2, p=1).edges(12, 0, generator(0, "test"))


def test_a_regular_graph_that_stays_unconnected_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"degree = 2 with nodes = 12: no connected graph in 100 draws"):
        _Unconnected(degree=2).edges(12, 0, generator(0, "test"))


class _Scattered(SmallWorld):
    """Always draws a ring of half of the nodes."""

    def _draw(self, nodes: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        return edges(Ring(), nodes // 2)


class _Unconnected(RandomRegular):
    """Always draws a ring of half of the nodes."""

    def _draw(self, nodes: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        return edges(Ring(), nodes // 2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "edge_list"}, "found neither"),
        ({"kind": "edge_list", "pairs": [[0, 1]], "path": "edges.txt"}, "not both"),
        ({"kind": "erdos_renyi", "p": 1.5}, r"topology\.p = 1\.5"),
        ({"kind": "random_regular", "degree": 0}, r"topology\.degree = 0"),
        ({"kind": "torus", "rows": 1}, r"topology\.rows = 1"),
        ({"kind": "small_world", "neighbours": 3}, r"topology\.neighbours = 3 must be even.*use 2 or 4"),
        ({"kind": "geometric", "radius": 0.2, "degree": 4}, "say the same thing; give one"),
        ({"kind": "pull", "peers": -1}, r"topology\.peers = -1"),
        ({"kind": "exponential", "weights": "metropolis"}, r"topology\.weights = 'metropolis' needs an undirected"),
        ({"kind": "rign"}, "did you mean 'ring'"),
        ([1, 2], "pairs of node numbers"),
        ([[0, 1, 2]], "pairs of node numbers"),
    ],
)
def test_bad_tables_are_refused(table: object, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        Experiment(topology=table, method="dsgd")
