"""Where hostile nodes are: which numbers are hostile, which are one attacker's many names, and how those are linked.

Names 0 .. n-1 are the nodes of the experiment. Under a Sybil attack the identities follow: the first of them is the
host, the attacker's only real node, which has data and trains; the others send what it sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import PrivateAttr

from gossamer.aggregators import Robust, Tolerant
from gossamer.errors import AggregationError, ExperimentError
from gossamer.mixing import edges_of
from gossamer.randomness import generator
from gossamer.topologies import Topology, both_ways

if TYPE_CHECKING:
    from gossamer.aggregators import Aggregator
    from gossamer.experiment import Experiment

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Placement:
    """Who is hostile among all names, and the edges of Sybil identities."""

    nodes: int
    """All names: the nodes and the identities of Sybils."""
    hostile: Array
    """Hostile names, ascending."""
    host: int
    """The node behind the Sybils; -1: there are none."""
    attack_edges_E2: Array
    """Links between identities and nodes, both ways."""

    @cached_property
    def honest(self) -> Array:
        """Honest names, ascending."""
        return np.setdiff1d(np.arange(self.nodes), self.hostile)

    @cached_property
    def is_hostile(self) -> Array:
        """[N] of truth values."""
        return np.isin(np.arange(self.nodes), self.hostile)

    @property
    def copies(self) -> Array:
        """Identities that send what the host sends."""
        return self.hostile[1:] if self.host >= 0 else self.hostile[:0]

    def trainers(self, participants: Array) -> Array:
        """Who of the participants does local work: not the copies, but the host for all of them."""
        if self.host < 0 or not self.is_hostile[participants].any():
            return participants
        return np.append(participants[~self.is_hostile[participants]], self.host)


def place(experiment: Experiment, nodes: int) -> Placement:
    """The hostile names of an experiment with so many nodes (besides the identities of Sybils).

    Raises ExperimentError where there are too few places, or nobody honest is left.
    """
    hostile, seed = experiment.hostile, experiment.seed
    rng = generator(seed, "hostile")
    edges_E2 = np.empty((0, 2), np.int64)
    if experiment.method.world == "graph" and hostile.kind != "nobody":
        edges_E2 = edges_of(experiment.topology, nodes, seed)
    if not hostile.many_names:
        found = hostile.places(edges_E2, nodes, rng)
        if len(found) >= nodes:
            raise ExperimentError(f"hostile: all {nodes} nodes are hostile; leave at least one honest")
        return Placement(nodes, found, -1, edges_E2[:0])
    linked = hostile.sybils(edges_E2, nodes, rng)
    if not linked:
        raise ExperimentError("hostile.kind = 'sybils' places no identity; raise hostile.attack_edges")
    pairs = [(nodes + identity, int(node)) for identity, some in enumerate(linked) for node in some]
    names = np.arange(nodes, nodes + len(linked))
    attack_edges_E2 = both_ways(np.array(pairs, dtype=np.int64).reshape(-1, 2))
    return Placement(nodes + len(linked), names, nodes, attack_edges_E2)


class Besieged(Topology):
    """A topology with the links of Sybil identities added: no kind of its own, made by `besieged`."""

    kind: str = "besieged"
    cyclic: ClassVar[bool] = False
    _base: Topology = PrivateAttr()
    _placement: Placement = PrivateAttr()

    @property
    def varies(self) -> bool:
        return self._base.varies

    @property
    def one_way(self) -> bool:
        return self._base.one_way

    @property
    def overlay(self) -> bool:
        return self._base.overlay

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        honest_E2 = self._base.edges(len(self._placement.honest), round, rng)
        return np.concatenate([np.asarray(honest_E2, np.int64).reshape(-1, 2), self._placement.attack_edges_E2])

    def caveat(self, nodes: int) -> str:
        return self._base.caveat(len(self._placement.honest))


def besieged(topology: Topology, placement: Placement) -> Topology:
    """The graph of all names."""
    if placement.host < 0 or not len(placement.attack_edges_E2):
        return topology
    shared = {name: getattr(topology, name) for name in ("weights", "own_weight", "all_to_all")}
    graph = Besieged(**shared)
    graph._base, graph._placement = topology, placement
    return graph


def heard(edges_E2: Array, placement: Placement) -> tuple[Array, Array]:
    """What each name hears, itself included, and how many of these are hostile others: [N] each."""
    receivers_E, hostile_N = edges_E2[:, 1], placement.is_hostile
    heard_N = np.bincount(receivers_E, minlength=placement.nodes) + 1
    return heard_N, np.bincount(receivers_E[hostile_N[edges_E2[:, 0]]], minlength=placement.nodes)


def surrounded(edges_E2: Array, placement: Placement, share: float = 0.5) -> Array:
    """Honest nodes of whose neighbours, themselves included, at least this share is hostile."""
    heard_N, bad_N = heard(edges_E2, placement)
    found: Array = placement.honest[(bad_N >= share * heard_N)[placement.honest] & (bad_N[placement.honest] > 0)]
    return found


def require_enough(rule: Aggregator, heard: dict[int, int]) -> None:
    """Raise ExperimentError where a rule refuses as many updates as a receiver (-1: the server) hears, with its own."""
    for receiver, count in heard.items():
        try:
            if isinstance(rule, Robust):
                rule.hostile(count)
        except AggregationError as error:
            where = "the server" if receiver < 0 else f"node {receiver}"
            raise ExperimentError(f"aggregator: {where} hears {count} updates, its own included: {error}") from None


def defenceless(rule: Aggregator, edges_E2: Array, placement: Placement) -> str:
    """One line that counts the honest nodes that hear more hostile ones than the rule withstands there; empty: none."""
    if not isinstance(rule, Tolerant):
        return ""
    heard_N, bad_N = heard(edges_E2, placement)
    found = [node for node in placement.honest.tolist() if bad_N[node] > max(0, rule.hostile(int(heard_N[node])))]
    if not found:
        return ""
    return (
        f"{len(found)} of {len(placement.honest)} honest nodes hear more hostile ones than aggregator.kind = "
        f"'{rule.kind}' with f = {rule.f:g} withstands there, such as node {found[0]} with {bad_N[found[0]]} of "
        f"{heard_N[found[0]]}; use a larger f, or more links"
    )


def majority_warning(edges_E2: Array, placement: Placement) -> str:
    """One line that names the honest nodes with a hostile majority around them; empty where there are none."""
    found = surrounded(edges_E2, placement)
    if not len(found):
        return ""
    named = ", ".join(map(str, found[:8].tolist())) + (", ..." if len(found) > 8 else "")
    return (
        f"at {len(found)} of {len(placement.honest)} honest nodes at least half of what is heard, the own model "
        f"included, is hostile, which no rule withstands: {named}"
    )
