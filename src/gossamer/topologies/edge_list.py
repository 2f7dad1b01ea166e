"""A graph of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from gossamer.errors import ExperimentError
from gossamer.plugs import Plug
from gossamer.topologies import Array, Topology, both_ways


class EdgeList(Topology):
    """Any graph: pairs of node numbers, a text file of them, or a networkx graph from Python.

    Edges go both ways unless `directed`. Repeated pairs count once; a pair of equal numbers is left out, since
    every node keeps a weight of its own anyway.
    """

    kind: Literal["edge_list"] = "edge_list"
    pairs: tuple[tuple[int, int], ...] = Field(
        default=(), description="pairs of node numbers from 0; (sender, receiver) if directed"
    )
    path: str = Field(
        default="", description="or a text file: two node numbers a line, # starts a comment; read when the run starts"
    )
    directed: bool = Field(default=False, description="pairs go one way, from the first node to the second")

    @model_validator(mode="after")
    def _one_of_both(self) -> EdgeList:
        if bool(self.pairs) == bool(self.path):
            raise ExperimentError(
                "topology.kind = 'edge_list' needs either pairs = [[0, 1], [1, 2], ...] or path = 'edges.txt', "
                + ("not both" if self.path else "found neither")
            )
        return self

    @classmethod
    def wrap(cls, value: object) -> Plug | None:
        """A networkx graph, or a list of pairs, as a topology; None for anything else.

        The nodes of a graph become 0, 1, ... in sorted order (in the graph's own order where they cannot be sorted).
        Edge attributes are not used. A directed graph gets uniform weights, since Metropolis weights need both ways.
        """
        if hasattr(value, "edges") and hasattr(value, "is_directed"):
            graph: Any = value
            names = list(graph.nodes)
            try:
                names.sort()
            except TypeError:
                names = list(graph.nodes)
            order = {name: i for i, name in enumerate(names)}
            directed = bool(graph.is_directed())
            pairs = tuple((order[a], order[b]) for a, b in graph.edges())
            return cls(pairs=pairs, directed=directed, weights="uniform" if directed else "metropolis")
        if isinstance(value, (list, tuple, np.ndarray)):
            try:
                return cls(pairs=tuple((int(a), int(b)) for a, b in value))
            except (TypeError, ValueError):
                raise ExperimentError(
                    "topology: a list must hold pairs of node numbers, such as [[0, 1], [1, 2]]"
                ) from None
        return None

    @property
    def one_way(self) -> bool:
        return self.directed

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        field = "path" if self.path else "pairs"
        pairs = read_pairs(self.path) if self.path else self.pairs
        wrong = [pair for pair in pairs if min(pair) < 0 or max(pair) >= nodes]
        if wrong:
            raise ExperimentError(
                f"topology.{field}: with nodes = {nodes} the node numbers are 0..{nodes - 1}, found the pair "
                f"{list(wrong[0])}; number the nodes from 0, or change nodes"
            )
        pairs_E2 = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        if not self.directed:
            return both_ways(pairs_E2)
        pairs_E2 = pairs_E2[pairs_E2[:, 0] != pairs_E2[:, 1]]
        return np.unique(pairs_E2[:, ::-1], axis=0)[:, ::-1].copy()


def read_pairs(path: str) -> tuple[tuple[int, int], ...]:
    """The pairs of node numbers in a text file. Raises ExperimentError that names the line that is not two numbers."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ExperimentError(f"topology.path = '{path}': no such file (looked from {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"topology.path = '{path}': cannot be read as text: {error}") from None
    pairs: list[tuple[int, int]] = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isdecimal() for word in words):
            raise ExperimentError(
                f"topology.path = '{path}', line {number}: '{line.strip()[:60]}' is not two node numbers such as '0 1'"
            )
        pairs.append((int(words[0]), int(words[1])))
    return tuple(pairs)
