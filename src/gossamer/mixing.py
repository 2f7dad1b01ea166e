"""Mixing: the edges of a round become a sparse matrix W, and one exchange is `W @ rows`.

Row i of W holds the weights that receiver i gives to the senders it hears, its own weight on the diagonal.

Shapes: N nodes, R receivers, E directed edges (sender, receiver), D columns of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_array
    from torch import Tensor

    from gossamer.topologies import Topology

Array = np.ndarray[Any, Any]

COLUMNS = 1024
"""Columns that dense mixing takes at a time."""

DENSE_NODES = 2000
"""Up to this many nodes all eigenvalues are computed."""


def edges_of(topology: Topology, nodes: int, seed: int, round: int = 0) -> Array:
    """The edges [E, 2] of a round, by the run's dice. A fixed graph is the same in every round.

    Raises ExperimentError where the topology has no such graph, or lists edges that are none.
    """
    rng = generator(seed, "topology", round=round) if topology.varies else generator(seed, "topology")
    edges_E2 = np.asarray(topology.edges(nodes, round if topology.varies else 0, rng))
    _check(edges_E2, nodes)
    return edges_E2


def mixing_matrix(
    edges_E2: Array,
    nodes: int,
    weights: Literal["metropolis", "uniform"],
    participants: Sequence[int] | Array | None = None,
) -> csr_array:
    """W [N, N] in float64 with sorted indices.

    metropolis: W_ij = 1 / (1 + max(d_i, d_j)) and W_ii = 1 - sum_j W_ij (Metropolis-Hastings; Xiao, Boyd and Lall
    2005): symmetric and doubly stochastic. uniform: W_ij = W_ii = 1 / (d_i + 1). d_i is the number of senders that i
    hears. With `participants` only edges between them count, in degrees too; an absent node keeps its own row.
    Raises ExperimentError for metropolis on a directed graph.
    """
    from scipy.sparse import coo_array

    _check(edges_E2, nodes)
    if weights == "metropolis" and _directed(edges_E2, nodes):
        raise ExperimentError(
            "topology.weights = 'metropolis' needs an undirected graph, but some edges go one way only; "
            "use weights = 'uniform'"
        )
    senders_E, receivers_E = edges_E2[:, 0], edges_E2[:, 1]
    if participants is not None:
        present_N = np.zeros(nodes, dtype=bool)
        present_N[np.asarray(participants, dtype=np.int64)] = True
        kept_E = present_N[senders_E] & present_N[receivers_E]
        senders_E, receivers_E = senders_E[kept_E], receivers_E[kept_E]
    degree_N = np.bincount(receivers_E, minlength=nodes)
    even_N = 1 / (degree_N + 1.0)
    if weights == "uniform":
        weight_E, own_N = even_N[receivers_E], even_N
    else:
        weight_E = 1 / (1.0 + np.maximum(degree_N[senders_E], degree_N[receivers_E]))
        # 1 - sum_j W_ij without cancellation: on a regular graph every weight is exactly 1 / (d + 1).
        own_N = even_N + np.bincount(receivers_E, weights=even_N[receivers_E] - weight_E, minlength=nodes)
    i_N = np.arange(nodes)
    entries = np.concatenate([weight_E, own_N])
    places = (np.concatenate([receivers_E, i_N]), np.concatenate([senders_E, i_N]))
    W_NN = coo_array((entries, places), shape=(nodes, nodes)).tocsr()
    W_NN.sort_indices()
    return W_NN


def _check(edges_E2: Array, nodes: int) -> None:
    """Raise ExperimentError unless the edges are distinct pairs of different nodes."""
    if edges_E2.ndim != 2 or edges_E2.shape[1] != 2 or edges_E2.dtype.kind != "i":
        raise ExperimentError(
            f"topology: edges must be an int64 array [E, 2] of (sender, receiver), "
            f"found {edges_E2.dtype} {list(edges_E2.shape)}"
        )
    if len(edges_E2) and (edges_E2.min() < 0 or edges_E2.max() >= nodes):
        raise ExperimentError(
            f"topology: edges must join nodes 0..{nodes - 1}, found {edges_E2.min()}..{edges_E2.max()}"
        )
    if (edges_E2[:, 0] == edges_E2[:, 1]).any():
        raise ExperimentError("topology: an edge joins a node to itself; leave it out, a node's own weight is implied")
    keys_E = np.sort(edges_E2[:, 1] * nodes + edges_E2[:, 0])
    if (keys_E[1:] == keys_E[:-1]).any():
        receiver, sender = divmod(int(keys_E[1:][keys_E[1:] == keys_E[:-1]][0]), nodes)
        raise ExperimentError(f"topology: the edge ({sender}, {receiver}) is listed twice; list it once")


def _directed(edges_E2: Array, nodes: int) -> bool:
    forth_E, back_E = edges_E2[:, 1] * nodes + edges_E2[:, 0], edges_E2[:, 0] * nodes + edges_E2[:, 1]
    return not np.array_equal(np.sort(forth_E), np.sort(back_E))


def mix(W_RN: csr_array, rows_ND: Tensor, out_RD: Tensor) -> None:
    """out = W @ rows, float32 or float64.

    R receivers are all nodes or some of them. A receiver's row is the weighted sum of the rows it hears, added in the
    order of their numbers by one thread: it depends neither on the number of threads nor on how receivers are
    split among calls. Receivers with equal rows of W (all, on a complete graph) get bitwise equal rows, which are
    computed once. Other dense matrices of more than 64 nodes go through a dense product in fixed blocks of columns, as
    exact but rounded in another order, which may depend on how receivers are split; a block with NaN or infinity does
    not, because 0 * NaN would carry it to nodes that never heard it.
    Raises ValueError if `out_RD` is `rows_ND`.
    """
    import torch

    receivers, nodes = W_RN.shape
    columns = rows_ND.shape[1]
    if rows_ND.data_ptr() == out_RD.data_ptr() and rows_ND.numel():
        raise ValueError("out_RD is rows_ND: mixing cannot work in place")

    first: dict[bytes, int] = {}
    twin_R: list[int] = []
    heard: dict[int, list[tuple[int, float]]] = {}
    for i, (a, b) in enumerate(pairwise(W_RN.indptr)):
        senders, weights = W_RN.indices[a:b], W_RN.data[a:b]
        twin_R.append(first.setdefault(senders.tobytes() + weights.tobytes(), i))
        if twin_R[i] == i:
            heard[i] = list(zip(senders.tolist(), weights.tolist(), strict=True))

    def add_up(rows_Nd: Tensor, out_Rd: Tensor) -> None:
        rows, out = rows_Nd.unbind(0), out_Rd.unbind(0)
        for i, twin in enumerate(twin_R):
            if twin != i:
                out[i].copy_(out[twin])
                continue
            if not heard[i]:
                out[i].zero_()
            for k, (j, weight) in enumerate(heard[i]):
                if k == 0:
                    torch.mul(rows[j], weight, out=out[i])
                else:
                    out[i].add_(rows[j], alpha=weight)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # A dense product multiplies R * N numbers a column, but about 16 in the time of one of the sparse sum; below 16
        # receivers it waits for the N rows.
        if nodes <= 64 or 16 * sum(map(len, heard.values())) <= max(receivers, 16) * nodes:
            add_up(rows_ND, out_RD)
            return
        dense_RN = torch.from_numpy(W_RN.toarray()).to(rows_ND.dtype)
        for left in range(0, columns, COLUMNS):
            block = slice(left, left + COLUMNS)
            if rows_ND[:, block].sum().isfinite():
                torch.mm(dense_RN, rows_ND[:, block], out=out_RD[:, block])
            else:
                add_up(rows_ND[:, block], out_RD[:, block])
    finally:
        torch.set_num_threads(threads)


def stochasticity(W_NN: csr_array) -> Literal["doubly", "row", "column", "none"]:
    """Whether rows, columns or both are averages: no negative weight, and sums of 1 (to 1e-9)."""
    if W_NN.nnz and W_NN.data.min() < 0:
        return "none"
    rows = np.allclose(W_NN.sum(axis=1), 1, rtol=0, atol=1e-9)
    columns = np.allclose(W_NN.sum(axis=0), 1, rtol=0, atol=1e-9)
    return "doubly" if rows and columns else "row" if rows else "column" if columns else "none"


def spectral_gap(W_NN: csr_array) -> float | None:
    """1 - the second largest modulus of an eigenvalue: how fast repeated mixing reaches consensus.

    0: never, 1: at once; for symmetric W each exchange shrinks the distance to consensus by 1 - gap or more. None
    above 2,000 nodes where W is not symmetric or the gap is too small for the iterative solver.
    """
    nodes = W_NN.shape[0]
    if nodes == 1:
        return 1.0
    symmetric = _symmetric(W_NN)
    if nodes <= DENSE_NODES:
        dense_NN = W_NN.toarray()
        modulus_N = np.sort(np.abs(np.linalg.eigvalsh(dense_NN) if symmetric else np.linalg.eigvals(dense_NN)))
        return max(0.0, float(1 - modulus_N[-2]))
    if not symmetric:
        return None
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    if connected_components(W_NN, directed=False)[0] > 1:
        return 0.0  # Lanczos iterations from one vector cannot see that the eigenvalue 1 is repeated.
    start_N = generator(0, "spectral gap").standard_normal(nodes)
    try:
        values = eigsh(W_NN, k=2, which="LM", v0=start_N, maxiter=500, return_eigenvectors=False)
    except ArpackNoConvergence:
        return None
    return max(0.0, float(1 - np.abs(values).min()))


def _symmetric(W_NN: csr_array) -> bool:
    return bool(abs(W_NN - W_NN.T).max() <= 1e-12)


def components(edges_E2: Array, nodes: int) -> list[list[int]]:
    """Nodes that a path joins, whichever way its edges point: sorted lists, in the order of their first nodes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(edges_E2), dtype=np.int8)
    graph_NN = coo_array((ones, (edges_E2[:, 1], edges_E2[:, 0])), shape=(nodes, nodes))
    count, label_N = connected_components(graph_NN, directed=True, connection="weak")
    order_N = np.argsort(label_N, kind="stable")
    parts = np.split(order_N, np.cumsum(np.bincount(label_N, minlength=count))[:-1])
    return sorted((part.tolist() for part in parts), key=lambda part: part[0])


@dataclass(frozen=True)
class GraphFacts:
    """What is worth knowing about a graph before the first round."""

    nodes: int
    edges: int
    """Pairs of nodes that hear each other; one-way edges where `directed`."""
    directed: bool
    degree_min: int
    """Fewest senders that a node hears."""
    degree_mean: float
    degree_max: int
    stochasticity: Literal["doubly", "row", "column", "none"]
    spectral_gap: float | None
    spectral_gap_note: str
    """Why the gap was not computed; empty where it was."""
    components: int
    warning: str
    """One line where the graph is not connected; empty where it is."""


def describe(topology: Topology, nodes: int, seed: int) -> GraphFacts | None:
    """The facts of a topology's first graph, or None with a server, where there is no graph.

    Raises ExperimentError where there is no such graph; one that is not connected only gets a warning.
    """
    if topology.has_server:
        return None
    edges_E2 = edges_of(topology, nodes, seed)
    W_NN = mixing_matrix(edges_E2, nodes, topology.weights)
    directed = _directed(edges_E2, nodes)
    degree_N = np.bincount(edges_E2[:, 1], minlength=nodes)
    parts = components(edges_E2, nodes)
    gap, note = spectral_gap(W_NN), ""
    if gap is None:
        reason = "too small for the iterative solver" if _symmetric(W_NN) else "the mixing matrix is not symmetric"
        note = f"not computed for more than {DENSE_NODES} nodes: {reason}"
    return GraphFacts(
        nodes=nodes,
        edges=len(edges_E2) if directed else len(edges_E2) // 2,
        directed=directed,
        degree_min=int(degree_N.min()),
        degree_mean=float(degree_N.mean()),
        degree_max=int(degree_N.max()),
        stochasticity=stochasticity(W_NN),
        spectral_gap=gap,
        spectral_gap_note=note,
        components=len(parts),
        warning=_split_warning(topology.kind, parts) if len(parts) > 1 else "",
    )


def _split_warning(kind: str, parts: list[list[int]]) -> str:
    """One line that counts the components and names the nodes of the three smallest, eight at most of each."""
    smallest = sorted(parts, key=len)[:3]
    named = "; ".join(", ".join(map(str, part[:8])) + (", ..." if len(part) > 8 else "") for part in smallest)
    return (
        f"topology.kind = '{kind}': the graph is not connected, its {len(parts)} components never learn from each "
        f"other; nodes of the smallest: {named}"
    )
