"""Noise that cancels between neighbours."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.accounting import Release
from gossamer.errors import ExperimentError
from gossamer.norms import shortened
from gossamer.privacy import Array, Mechanism, Place, Setting
from gossamer.randomness import gaussian

if TYPE_CHECKING:
    from torch import Tensor

MOST_NODES = 400
"""The accounting inverts a matrix of all nodes once for each of them."""


class Correlated(Mechanism):
    """Noise of a node's own, and noise shared with each neighbour that the other subtracts.

    Node i adds N(0, (z C)^2) and, for each neighbour j, +-N(0, (r z C)^2) drawn by the pair in secret, so that the mean
    of all changes has the own noise only. Together the noise of all nodes has the covariance z^2 C^2 (I + r^2 L), L the
    Laplacian of the graph; a change of norm C at node i is then hidden as by a noise multiplier of
    z / sqrt((I + r^2 L)^-1_ii). For a neighbour, who knows what it shares, L is that of the graph without it.
    """

    source: ClassVar[str] = (
        "Allouah et al. 2024 (DECOR), Algorithm 1; Sabater, Bellet and Ramon 2022 (GOPA); epsilon follows from the "
        "inverse covariance, exactly as the noise is Gaussian"
    )
    unit: ClassVar[Literal["", "node", "example"]] = "node"
    world: ClassVar[Literal["", "server", "graph"]] = "graph"
    guards: ClassVar[Literal["nothing", "messages", "changes", "gradients", "sums"]] = "changes"

    kind: Literal["correlated"] = "correlated"
    pair_ratio: float = Field(
        default=10.0,
        ge=0,
        le=1e4,
        description="r, standard deviation of what a pair shares, in those of a node's own noise",
    )
    against: Literal["eavesdropper", "neighbour"] = Field(
        default="neighbour",
        description="who must learn nothing: somebody outside who reads all messages, or any one of the nodes as well",
    )

    def releases(self, noise: float, rounds: int, setting: Setting) -> Iterable[Release]:
        if setting.nodes > MOST_NODES:
            raise ExperimentError(
                f"privacy.kind = 'correlated': its accounting is for {MOST_NODES} nodes at most, not {setting.nodes}"
            )
        links = tuple(map(tuple, setting.links().tolist()))
        factor = hidden_by(links, setting.nodes, self.pair_ratio, self.against == "neighbour")
        return [Release(noise * factor / self.moved, times=rounds)]

    def hides(self, setting: Setting) -> str:
        whom = "anybody outside" if self.against == "eavesdropper" else "anybody outside and any one other node"
        return f"all that a node holds, from {whom}, reading all messages of all nodes"

    def assumes(self, setting: Setting) -> tuple[str, ...]:
        return (
            "neighbours draw what they share in secret, and follow the protocol",
            "no two nodes pool what they know" if self.against == "neighbour" else "no node looks",
        )

    def changed(self, change_D: Tensor, noise: float, place: Place) -> Tensor:
        std = noise * self.clip
        noisy_D = shortened({"row": change_D}, self.clip)["row"]
        noisy_D = noisy_D + gaussian(noisy_D, std, place.dice("privacy", place.node))
        for other in place.neighbours().tolist():
            low, high = sorted((place.node, other))
            shared_D = gaussian(
                noisy_D, self.pair_ratio * std, place.dice("privacy of a pair", low * place.nodes + high)
            )
            noisy_D = noisy_D + (shared_D if place.node == low else -shared_D)
        return noisy_D

    def check(self, settings: Any) -> None:
        schedule, topology = settings.schedule, settings.topology
        steady = not topology.varies and not topology.one_way and schedule.participation == 1
        if not steady or settings.clock.drop or settings.clock.kind == "events":
            raise ExperimentError(
                "privacy.kind = 'correlated': what pairs share cancels only where both take part and hear each other: "
                "it needs rounds on a fixed, undirected graph, with all nodes in every round and no lost messages"
            )
        if settings.hostile.kind != "nobody":
            raise ExperimentError(
                "privacy.kind = 'correlated': hostile nodes do not subtract what they share, and know it; use 'local'"
            )


@functools.lru_cache(maxsize=64)
def hidden_by(links: tuple[tuple[int, int], ...], nodes: int, ratio: float, neighbour: bool) -> float:
    """How much more noise hides a node than its own alone, the least over nodes: 1 / sqrt(max (I + r^2 L)^-1_ii)."""
    adjacency_NN = np.zeros((nodes, nodes))
    for sender, receiver in links:
        adjacency_NN[sender, receiver] = 1.0

    def factor(kept: Array) -> float:
        among_NN = adjacency_NN[np.ix_(kept, kept)]
        laplacian_NN = np.diag(among_NN.sum(axis=1)) - among_NN
        # By eigenvalues, as the matrix itself may be too near a singular one to be inverted: those of a component's
        # mean are zero, whatever rounding says.
        values_N, vectors_NN = np.linalg.eigh(laplacian_NN)
        values_N = np.where(values_N < 1e-9 * max(1.0, float(values_N[-1])), 0.0, values_N)
        shown = (np.square(vectors_NN) / (1 + ratio**2 * values_N)).sum(axis=1).max()
        return float(1.0 / np.sqrt(shown))

    everybody = np.arange(nodes)
    if not neighbour or nodes == 1:
        return factor(everybody)
    return min(factor(np.delete(everybody, one)) for one in range(nodes))
