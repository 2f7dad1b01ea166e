"""Topologies: the contract of all of them, and what is said where there is no such graph."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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
from gossamer.spectra import stochasticity
from gossamer.topologies import Topology
from gossamer.topologies.bridges import Bridges
from gossamer.topologies.complete import Complete
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
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
    except ExperimentError:
        return  # No such graph, as the error says; see the tests of errors below.
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
