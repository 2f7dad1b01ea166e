"""Mixing: the edges of a round become a sparse matrix W, and one exchange is `W @ rows`.

Row i of W holds the weights that receiver i gives to the senders it hears, its own weight on the diagonal.

Shapes: N nodes, R receivers, E directed edges (sender, receiver), D columns of a row.
"""

from __future__ import annotations

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
Weights = Literal["metropolis", "uniform", "out_degree"]

COLUMNS = 1024
"""Columns that dense mixing takes at a time."""


def edges_of(topology: Topology, nodes: int, seed: int, round: int = 0, share: float = 1.0) -> Array:
    """The edges [E, 2] of a round, by the run's dice, at a share (0, 1] of the topology's links.

    A fixed graph is the same in every round. Links that the topology does not thin out itself are kept by one draw
    each, anew in every round; a link of an undirected graph goes both ways or not at all. What is kept at a smaller
    share is part of what is kept at a larger one.
    Raises ExperimentError where the topology has no such graph, or lists edges that are none.
    """
    thinned, left = topology.thinned(share)
    rng = generator(seed, "topology", round=round) if thinned.varies else generator(seed, "topology")
    edges_E2: Array = np.asarray(thinned.edges(nodes, round if thinned.varies else 0, rng))
    _check(edges_E2, nodes)
    if left >= 1:
        return edges_E2
    link_E = np.arange(len(edges_E2))
    if not thinned.one_way:
        _, link_E = np.unique(edges_E2.min(axis=1) * nodes + edges_E2.max(axis=1), return_inverse=True)
    draw_L = generator(seed, "links", round=round).random(link_E.max(initial=-1) + 1)
    kept_E2: Array = edges_E2[draw_L[link_E] < left]
    return kept_E2


def mixing_matrix(
    edges_E2: Array,
    nodes: int,
    weights: Weights,
    participants: Sequence[int] | Array | None = None,
    own_weight: float | None = None,
) -> csr_array:
    """W [N, N] in float64 with sorted indices.

    metropolis: W_ij = 1 / (1 + max(d_i, d_j)) and W_ii = 1 - sum_j W_ij (Metropolis-Hastings; Xiao, Boyd and Lall
    2005): symmetric and doubly stochastic. uniform: W_ij = W_ii = 1 / (d_i + 1): rows sum to 1. out_degree:
    W_ij = W_jj = 1 / (o_j + 1): columns sum to 1 (push-sum; Kempe, Dobra and Gehrke 2003). d_i is the number of
    senders that i hears, o_j that of receivers that hear j. An `own_weight` b replaces all of them: W_ii = b and
    W_ij = (1 - b) / d_i; a node that hears nobody keeps its row.
    With `participants` only edges between them count, in degrees too; an absent node keeps its own row.
    Raises ExperimentError for metropolis on a directed graph.
    """
    from scipy.sparse import coo_array

    _check(edges_E2, nodes)
    if own_weight is None and weights == "metropolis" and is_directed(edges_E2, nodes):
        raise ExperimentError(
            "topology.weights = 'metropolis' needs an undirected graph, but some edges go one way only; "
            "use weights = 'uniform', or 'out_degree' for push-sum"
        )
    senders_E, receivers_E = edges_E2[:, 0], edges_E2[:, 1]
    if participants is not None:
        present_N = np.zeros(nodes, dtype=bool)
        present_N[np.asarray(participants, dtype=np.int64)] = True
        kept_E = present_N[senders_E] & present_N[receivers_E]
        senders_E, receivers_E = senders_E[kept_E], receivers_E[kept_E]
    degree_N = np.bincount(receivers_E, minlength=nodes)
    even_N = 1 / (degree_N + 1.0)
    if own_weight is not None:
        weight_E = (1 - own_weight) / degree_N[receivers_E]
        own_N = np.where(degree_N > 0, own_weight, 1.0)
    elif weights == "uniform":
        weight_E, own_N = even_N[receivers_E], even_N
    elif weights == "out_degree":
        own_N = 1 / (np.bincount(senders_E, minlength=nodes) + 1.0)
        weight_E = own_N[senders_E]
    else:
        weight_E = 1 / (1.0 + np.maximum(degree_N[senders_E], degree_N[receivers_E]))
        # 1 - sum_j W_ij without cancellation: on a regular graph every weight is exactly 1 / (d + 1).
        own_N = even_N + np.bincount(receivers_E, weights=even_N[receivers_E] - weight_E, minlength=nodes)
    i_N = np.arange(nodes)
    entries = np.concatenate([weight_E, own_N])
    places = (np.concatenate([receivers_E, i_N]), np.concatenate([senders_E, i_N]))
    W_NN = coo_array((entries, places), shape=(nodes, nodes)).tocsr()
    W_NN.eliminate_zeros()  # own_weight = 0: the own row is not part of the sum, NaN or not.
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


def is_directed(edges_E2: Array, nodes: int) -> bool:
    """Whether some edges go one way only."""
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

    if torch.backends.mkl.is_available() and _sparse(W_RN):  # type: ignore[no-untyped-call]
        _sparse_product(W_RN, rows_ND, out_RD)
        return
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


def _sparse(W_RN: csr_array) -> bool:
    receivers, nodes = W_RN.shape
    return bool(16 * W_RN.nnz <= max(receivers, 16) * nodes)


def _sparse_product(W_RN: csr_array, rows_ND: Tensor, out_RD: Tensor) -> None:
    """The same sums in the same order by MKL, which reads each row that is heard once and writes each result once."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its sparse tensors a beta feature.
        W = torch.sparse_csr_tensor(
            torch.from_numpy(W_RN.indptr),
            torch.from_numpy(W_RN.indices),
            torch.from_numpy(W_RN.data).to(rows_ND.dtype),
            size=W_RN.shape,
            check_invariants=False,
        )
        torch.addmm(out_RD, W, rows_ND, beta=0, out=out_RD)
