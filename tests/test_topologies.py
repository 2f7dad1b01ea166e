"""Topologies: the contract of all of them, agreement with networkx, closed forms of their spectral gaps, errors."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.mixing import components, edges_of, mixing_matrix, spectral_gap, stochasticity
from gossamer.plugs import discover
from gossamer.randomness import generator
from gossamer.topologies import Topology
from gossamer.topologies.complete import Complete
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.random_regular import RandomRegular
from gossamer.topologies.ring import Ring
from gossamer.topologies.star import Star
from gossamer.topologies.torus import Torus

REQUIRED: dict[str, dict[str, Any]] = {"edge_list": {"pairs": ((0, 1), (4, 2), (1, 2), (0, 1), (3, 3))}}
"""Fields without a default."""

GRAPHS: list[Topology] = [cls(**REQUIRED.get(kind, {})) for kind, cls in discover(Topology).items()]


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
@pytest.mark.parametrize("topology", GRAPHS, ids=lambda t: t.kind)
def test_contract(topology: Topology, nodes: int) -> None:
    found = edges(topology, nodes)
    assert found.dtype == np.int64
    as_pairs = [(receiver, sender) for sender, receiver in found.tolist()]
    assert as_pairs == sorted(set(as_pairs)), "by receiver, then sender, without doubles"
    assert all(0 <= a < nodes and 0 <= b < nodes and a != b for a, b in as_pairs)
    assert {(b, a) for a, b in as_pairs} == set(as_pairs), "undirected by default"
    assert np.array_equal(found, edges(topology, nodes)), "the same generator gives the same graph"
    assert topology.has_server == (len(found) == 0)
    assert stochasticity(mixing_matrix(found, nodes, topology.weights)) == "doubly"


@pytest.mark.parametrize("topology", [RandomRegular(), ErdosRenyi()], ids=lambda t: t.kind)
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


def test_a_regular_graph_that_stays_unconnected_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"degree = 2 with nodes = 12: no connected graph in 100 draws"):
        _Unconnected(degree=2).edges(12, 0, generator(0, "test"))


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
        ({"kind": "rign"}, "did you mean 'ring'"),
        ([1, 2], "pairs of node numbers"),
        ([[0, 1, 2]], "pairs of node numbers"),
    ],
)
def test_bad_tables_are_refused(table: object, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        Experiment(topology=table, method="dsgd")
