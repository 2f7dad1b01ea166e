"""What the tests of mixing share: any small graph, and mixing matrices word for word."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gossamer.mixing import Weights
from gossamer.topologies import both_ways

Array = np.ndarray[Any, Any]
WEIGHTS: tuple[Weights, ...] = ("metropolis", "uniform", "out_degree")


@st.composite
def graphs(draw: st.DrawFn, directed: bool = False) -> tuple[Array, int]:
    """Edges and number of nodes of any small graph."""
    nodes = draw(st.integers(1, 9))
    number = st.integers(0, nodes - 1)
    pairs = np.array(draw(st.lists(st.tuples(number, number), max_size=20)), dtype=np.int64).reshape(-1, 2)
    if not directed:
        return both_ways(pairs), nodes
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0), nodes


def slow_matrix(edges_E2: Array, nodes: int, weights: Weights) -> Array:
    """The definition, word for word."""
    heard = [{int(a) for a, b in edges_E2 if b == i} for i in range(nodes)]
    hearing = [sum(i in others for others in heard) for i in range(nodes)]
    W_NN = np.zeros((nodes, nodes))
    for i in range(nodes):
        for j in heard[i]:
            if weights == "metropolis":
                W_NN[i, j] = 1 / (1 + max(len(heard[i]), len(heard[j])))
            else:
                W_NN[i, j] = 1 / (1 + (len(heard[i]) if weights == "uniform" else hearing[j]))
        W_NN[i, i] = 1 / (1 + hearing[i]) if weights == "out_degree" else 1 - W_NN[i].sum()
    return W_NN
