"""Facts of graphs, fixed or over time: who reaches whom, what mixing preserves, how fast it leads to consensus.

Shapes: N nodes, E directed edges (sender, receiver), K rounds looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer import spectra
from gossamer.mixing import edges_of, is_directed, mixing_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_array

    from gossamer.spectra import Stochasticity
    from gossamer.topologies import Topology

Array = np.ndarray[Any, Any]

ROUNDS = 60
"""Rounds that are looked at of a graph that changes (many periods divide it), ..."""

EDGES = 2_000_000
"""... or as many as have this many edges together, but 4 at least."""


@dataclass(frozen=True)
class GraphFacts:
    """What is worth knowing about a graph before the first round."""

    nodes: int
    rounds: int
    """Rounds these facts were taken from: the first ones of a graph that changes, 1 of a fixed one."""
    edges: float
    """Pairs of nodes that hear each other in a round, one-way edges where `directed`: the mean over the rounds."""
    directed: bool
    degree_min: int
    """Fewest senders that a node hears in a round."""
    degree_mean: float
    degree_max: int
    stochasticity: Stochasticity
    """The weakest over the rounds."""
    spectral_gap: float | None
    """Of W, or of the mean of W over the rounds where the graph changes."""
    spectral_gap_note: str
    """Whose gap it is if the graph changes, or why it was not computed; else empty."""
    contraction: float | None
    """Largest share that a round keeps, on average, of the squared distance to consensus."""
    contraction_note: str
    """Where the number is from if the graph changes, or why there is none; else empty."""
    drift: float | None
    """Largest E N (mean(W x) - mean(x))^2 / ||x - mean(x)||^2 of a round; 0 where columns sum to 1."""
    exact_after: int | None
    """Rounds after which every node holds the exact mean, from whichever round on; None if that was not seen."""
    components: int
    """Of the graph of all edges of the rounds."""
    warning: str
    """One line where that graph is not connected; empty where it is."""


def describe(topology: Topology, nodes: int, seed: int, share: float = 1.0) -> GraphFacts | None:
    """The facts of a topology at a share of its links, or None with a server, where there is no graph.

    A graph that changes is looked at in its first rounds, as the run will see them; where the topology knows in closed
    form what a round keeps, that is told. Raises ExperimentError where there is no such graph; one that is not
    connected only gets a warning.
    """
    if topology.has_server:
        return None
    thinned, left = topology.thinned(share)
    changes = thinned.varies or left < 1
    graphs = [edges_of(topology, nodes, seed, 0, share)]
    if changes:
        count = int(np.clip(EDGES // (len(graphs[0]) + nodes), 4, ROUNDS))
        graphs += [edges_of(topology, nodes, seed, round, share) for round in range(1, count)]
    matrices = [mixing_matrix(edges_E2, nodes, topology.weights, None, topology.own_weight) for edges_E2 in graphs]
    # A graph drawn once is alike in all directions only on average over seeds.
    alike = changes and topology.exchangeable
    degree_KN = np.stack([np.bincount(edges_E2[:, 1], minlength=nodes) for edges_E2 in graphs])
    directed = any(is_directed(edges_E2, nodes) for edges_E2 in graphs)
    parts = components(np.concatenate(graphs), nodes)
    kind = _weakest([spectra.stochasticity(W_NN) for W_NN in matrices])
    gap, gap_note = _gap(matrices, alike)
    kept, kept_note, moved = _kept(matrices, alike, kind, gap, thinned if left >= 1 else None)
    return GraphFacts(
        nodes=nodes,
        rounds=len(graphs),
        edges=float(degree_KN.sum()) / len(graphs) / (1 if directed else 2),
        directed=directed,
        degree_min=int(degree_KN.min()),
        degree_mean=float(degree_KN.mean()),
        degree_max=int(degree_KN.max()),
        stochasticity=kind,
        spectral_gap=gap,
        spectral_gap_note=gap_note,
        contraction=kept,
        contraction_note=kept_note,
        drift=moved,
        # Of graphs drawn at random it would be the luck of the rounds looked at.
        exact_after=None if alike else spectra.exact_after(matrices),
        components=len(parts),
        warning=_split_warning(topology.kind, parts, len(graphs)) if len(parts) > 1 else "",
    )


def _weakest(kinds: Sequence[Stochasticity]) -> Stochasticity:
    rows = all(kind in ("doubly", "row") for kind in kinds)
    columns = all(kind in ("doubly", "column") for kind in kinds)
    return "doubly" if rows and columns else "row" if rows else "column" if columns else "none"


def _gap(matrices: Sequence[csr_array], alike: bool) -> tuple[float | None, str]:
    """The spectral gap of the mean of the matrices, and whose it is or why there is none."""
    mean_NN, whose = matrices[0], ""
    if len(matrices) > 1:
        mean_NN, whose = sum(matrices[1:], start=matrices[0]) / len(matrices), f"mean of {len(matrices)} rounds"
    nodes = mean_NN.shape[0]
    if alike:
        return 1 - abs(spectra.off_mean(float(mean_NN.diagonal().mean()), nodes)), whose
    gap = spectra.spectral_gap(mean_NN)
    if gap is not None:
        return gap, whose
    reason = "too small for the iterative solver" if spectra.is_normal(mean_NN) else "the mixing matrix is not normal"
    return None, f"not computed for more than {spectra.DENSE_NODES} nodes: {reason}"


def _kept(
    matrices: Sequence[csr_array], alike: bool, kind: Stochasticity, gap: float | None, topology: Topology | None
) -> tuple[float | None, str, float | None]:
    """Contraction, where it is from or why there is none, and drift; in closed form if the topology knows them."""
    nodes = matrices[0].shape[0]
    if kind not in ("doubly", "row"):
        return None, "rows do not sum to 1: consensus is not kept", 0.0 if kind == "column" else None
    moved = spectra.drift(matrices, alike)
    closed = None if topology is None else topology.contraction(nodes)
    if topology is not None and closed is not None and kind == "row":
        # The squared distance to the old mean is that to the new mean plus the squared move of the mean.
        known = topology.drift(nodes)
        moved = moved if known is None else known
        closed -= moved
    if closed is not None:
        return closed, "closed form" if len(matrices) > 1 else "", moved
    note = f"mean of {len(matrices)} rounds" if len(matrices) > 1 else ""
    if len(matrices) == 1 and spectra.is_normal(matrices[0]):
        kept = None if gap is None else (1 - gap) ** 2
    else:
        kept = spectra.contraction(matrices, alike)
    if kept is None:
        note = f"not computed for more than {spectra.DENSE_NODES} nodes: too near to 1 for the iterative solver"
    return kept, note, moved


def components(edges_E2: Array, nodes: int) -> list[list[int]]:
    """Nodes that a path joins, whichever way its edges point: sorted lists, in the order of their first nodes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    there_E = np.ones(len(edges_E2), dtype=bool)
    graph_NN = coo_array((there_E, (edges_E2[:, 1], edges_E2[:, 0])), shape=(nodes, nodes))
    count, label_N = connected_components(graph_NN, directed=True, connection="weak")
    order_N = np.argsort(label_N, kind="stable")
    parts = np.split(order_N, np.cumsum(np.bincount(label_N, minlength=count))[:-1])
    return sorted((part.tolist() for part in parts), key=lambda part: part[0])


def _split_warning(kind: str, parts: list[list[int]], rounds: int) -> str:
    """One line that counts the components and names the nodes of the three smallest, eight at most of each."""
    smallest = sorted(parts, key=len)[:3]
    named = "; ".join(", ".join(map(str, part[:8])) + (", ..." if len(part) > 8 else "") for part in smallest)
    if rounds == 1:
        what = f"the graph is not connected, its {len(parts)} components never learn from each other"
    else:
        what = f"the links of the first {rounds} rounds together leave {len(parts)} components"
    return f"topology.kind = '{kind}': {what}; nodes of the smallest: {named}"
