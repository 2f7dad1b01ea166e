"""Places on a graph by the number of hops between them: spread out, close together, in small groups.

Shapes: N nodes, E directed edges (sender, receiver), of which the direction does not matter here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SWEEPS = 100
"""Most exchanges of medoids; the sum of distances falls with each, so that few are needed."""


def distances(edges_E2: Array, nodes: int) -> Array:
    """[N, N] hops between any two nodes; N where there is no path."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    ones_E = np.ones(len(edges_E2), np.int8)
    links_NN = csr_array((ones_E, (edges_E2[:, 0], edges_E2[:, 1])), shape=(nodes, nodes))
    hops_NN = shortest_path(links_NN, directed=False, unweighted=True)
    hops_NN[~np.isfinite(hops_NN)] = nodes
    return np.asarray(hops_NN)


def medoids(hops_NN: Array, k: int, rng: np.random.Generator) -> Array:
    """k nodes, ascending, to which all nodes together have short ways: the most spread out.

    Farthest-first from a random node, then Lloyd's exchange: every node goes to its nearest medoid, and each group
    takes its member with the least sum of distances, until nothing changes.
    """
    chosen_K = np.array([rng.integers(len(hops_NN))])
    nearest_N = hops_NN[chosen_K[0]].copy()
    for _ in range(k - 1):
        nearest_N[chosen_K] = -1.0
        chosen_K = np.append(chosen_K, nearest_N.argmax())
        nearest_N = np.minimum(nearest_N, hops_NN[chosen_K[-1]])
    chosen_K.sort()
    for _ in range(SWEEPS):
        group_N = hops_NN[:, chosen_K].argmin(1)
        better_K = np.array([_centre(hops_NN, np.flatnonzero(group_N == i), chosen_K[i]) for i in range(k)])
        if np.array_equal(better_K, chosen_K):
            break
        chosen_K = np.sort(better_K)
    return chosen_K


def _centre(hops_NN: Array, members_M: Array, now: int) -> int:
    """The member with the least sum of distances to the others; the present one if none is better."""
    sums_M = hops_NN[np.ix_(members_M, members_M)].sum(1)
    best = members_M[sums_M.argmin()]
    return int(best if sums_M.min() < sums_M[members_M == now][0] else now)


def ball(hops_NN: Array, k: int, rng: np.random.Generator) -> Array:
    """A random node and the k - 1 nearest to it, ascending; ties are drawn."""
    centre = rng.integers(len(hops_NN))
    order_N = np.lexsort((rng.random(len(hops_NN)), hops_NN[centre]))
    return np.sort(order_N[:k])


def groups(hops_NN: Array, members_M: Array, most: int, rng: np.random.Generator) -> list[Array]:
    """The members in groups of at most `most`: a random one and those nearest to it, then again with who is left.

    All groups but the last are full.
    """
    left_M, found = rng.permutation(members_M), []
    while len(left_M):
        order = np.argsort(hops_NN[left_M[0], left_M], kind="stable")
        found.append(np.sort(left_M[order[:most]]))
        left_M = np.delete(left_M, order[:most])
    return found
