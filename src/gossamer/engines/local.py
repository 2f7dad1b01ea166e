"""The local engine in rounds: one machine, where a round's messages are rows of a matrix.

With a server and a linear aggregator, messages fold into one running mean as they arrive: memory does not grow with the
cohort. On a graph the population is mixed by a sparse matrix product, a block of receivers at a time; an all-reduce is
one mean for everybody.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gossamer.adversary import Struck
from gossamer.clocks import round_seconds
from gossamer.engines import Round
from gossamer.engines.at_server import at_server, in_secret
from gossamer.engines.receiving import Receiving, place_of
from gossamer.engines.robustness import Watch
from gossamer.engines.sealed import SealedRound
from gossamer.engines.striking import strike
from gossamer.evaluation import model_task
from gossamer.methods import Inbox
from gossamer.mixing import mix
from gossamer.population import Fold
from gossamer.schedules import Observed

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from torch import Tensor

    from gossamer.backends import Backend
    from gossamer.exchanges import Exchange
    from gossamer.federation import Federation, Outcome
    from gossamer.topologies import Array

RECEIVERS = 16
"""Receivers merged at a time on a sparse graph: their mixed rows stay in cache until they are merged."""


class Local:
    """Plays rounds: local work at all participants, then exchange, then merge at every receiver."""

    def __init__(self, federation: Federation, backend: Backend, spent: int = 0, clock: float = 0.0) -> None:
        self.federation, self.backend = federation, backend
        self.spent, self.clock = spent, clock
        self._folds: dict[str, Fold] = {}
        self._sealed: SealedRound | None = None

    def train(self, round: int) -> Round:
        """The local work of a round; what the nodes would send lies in `federation.sent`, or is folded already."""
        federation = self.federation
        participants = federation.participants(round)
        result = Round(round, participants, federation.nodes)
        self._folds = {}
        clock = time.perf_counter()
        self._sealed = SealedRound(federation, round, participants) if federation.seal is not None else None
        for outcome, message in self.backend.train(round, federation.placement.trainers(participants)):
            result.outcomes.append(outcome)
            if self._sealed is not None:
                self._sealed.add(outcome.node, message)
            elif federation.folds:
                for name, value in message.items():
                    self._folds.setdefault(name, Fold()).add(value, outcome.weight)
        if federation.placement.host >= 0:
            result.outcomes = named(federation, result.outcomes, participants)
        result.seconds["train"] = time.perf_counter() - clock
        return result

    def exchange(self, result: Round) -> None:
        """The end of a round: exchange and merge, unless nothing is sent."""
        federation = self.federation
        seconds = 0.0
        if federation.has_server:
            if self._sealed is not None:
                in_secret(federation, result, self._sealed)
            else:
                at_server(federation, result, self._folds)
            seconds = self._seconds(result, None)
        elif federation.method.world == "graph":
            observed = observe(federation, result) if federation.experiment.schedule.looks else None
            clock = time.perf_counter()
            exchanges = federation.exchanges.of(result.round, result.participants, self.spent, observed)
            result.seconds["exchange"] += time.perf_counter() - clock
            _on_graph(federation, self.backend, result, exchanges)
            self.spent += result.transfers
            seconds = self._seconds(result, exchanges)
        else:
            seconds = self._seconds(result, [])
        self.clock += seconds
        result.clock = self.clock

    def _seconds(self, result: Round, exchanges: list[Exchange] | None) -> float:
        """Simulated seconds of the round."""
        federation = self.federation
        experiment = federation.experiment
        return round_seconds(
            experiment.clock,
            experiment.seed,
            result.round,
            result.participants,
            federation.steps_N,
            None if exchanges is None else [None if e.everyone else e.edges_E2 for e in exchanges],
            federation.up_bytes,
            federation.down_bytes,
            federation.exchanges.adds,
        )


def named(federation: Federation, outcomes: list[Outcome], participants: Array) -> list[Outcome]:
    """The outcomes of all participants, those of Sybil identities being their host's."""
    by_node = {outcome.node: outcome for outcome in outcomes}
    host = by_node.get(federation.placement.host)
    found = []
    for node in participants.tolist():
        if (outcome := by_node.get(node)) is None:
            assert host is not None, "the host trains whenever one of its names takes part"
            outcome = dataclasses.replace(host, node=node)
        found.append(outcome)
    return found


def _on_graph(federation: Federation, backend: Backend, result: Round, exchanges: list[Exchange]) -> None:
    """Exchange after exchange; all but the last change what is sent, the last is merged."""
    round, participants = result.round, result.participants
    for exchange in exchanges[:-1]:
        clock = time.perf_counter()
        mixed = {name: rows.clone() for name, rows in federation.sent.items()}
        struck = strike(federation, result, exchange)
        _count(federation, result, exchange)
        for receiver, inbox in _inboxes(federation, exchange, result, struck):
            for name, value in inbox.fields.items():
                mixed[name][receiver].copy_(value)
        federation.send_again(mixed, participants, exchange.round + 1)
        result.seconds["exchange"] += time.perf_counter() - clock
    clock = time.perf_counter()
    struck = strike(federation, result, exchanges[-1]) if exchanges else Struck()
    if exchanges:
        _count(federation, result, exchanges[-1])
    if exchanges and _straight(federation, exchanges[-1], result):
        backend.mix(_mixing(federation, exchanges[-1], struck))
        result.seconds["exchange"] += time.perf_counter() - clock
        return
    for receiver, inbox in _inboxes(federation, exchanges[-1] if exchanges else None, result, struck):
        result.seconds["exchange"] += time.perf_counter() - clock
        clock = time.perf_counter()
        federation.merge(receiver, inbox, federation.view(receiver, round, participants))
        result.seconds["merge"] += time.perf_counter() - clock
        clock = time.perf_counter()


def _count(federation: Federation, result: Round, exchange: Exchange) -> None:
    """Note what travels in an exchange."""
    result.transfers += exchange.transfers
    result.communicated = result.transfers > 0
    sizes_N = federation.sent_bytes.numpy()
    sent_N, received_N = federation.exchanges.traffic(exchange, result.participants, sizes_N)
    result.sent_N += sent_N
    result.received_N += received_N


def _straight(federation: Federation, exchange: Exchange, result: Round) -> bool:
    """Whether an exchange is nothing but state = W @ sent, for all nodes."""
    rule = federation.experiment.aggregator
    plain = rule.linear and not federation.corrects and not federation.exact and not exchange.everyone
    same = federation.sent.keys() <= federation.population.state.keys()
    everybody = len(result.participants) == federation.nodes
    apart = result.watched or federation.experiment.attack.forges
    return plain and same and federation.method.adopts and everybody and not apart


def _mixing(federation: Federation, exchange: Exchange, struck: Struck) -> csr_array:
    """The mixing matrix of an exchange without those who are not heard.

    Hostile nodes that forge what they send go on from what honest ones sent, whatever the others forge. A Sybil
    attacker goes on, under all its names, from the plain mean of all that reaches any of them and of what these send
    themselves.
    """
    if struck.absent:
        kept_E2 = exchange.heard_E2[~np.isin(exchange.heard_E2[:, 0], struck.absent)]
        exchange = dataclasses.replace(exchange, heard_E2=kept_E2)
    weights_NN = federation.exchanges.mixing(exchange)
    placement, forges = federation.placement, federation.experiment.attack.forges
    if placement.host < 0 and not (forges and len(placement.hostile)):
        return weights_NN
    mixed_NN = weights_NN.copy()
    of_hostile = np.repeat(placement.is_hostile, np.diff(weights_NN.indptr))
    if placement.host >= 0:
        from scipy.sparse import csr_array as sparse

        to_names_E2 = exchange.heard_E2[placement.is_hostile[exchange.heard_E2[:, 1]]]
        sending = np.setdiff1d(np.intersect1d(placement.hostile, exchange.edges_E2[:, 0]), struck.absent)
        heard = np.union1d(placement.hostile[:0] if forges else sending, np.setdiff1d(to_names_E2[:, 0], struck.absent))
        rows = np.repeat(placement.hostile, len(heard))
        columns = np.tile(heard, len(placement.hostile))
        theirs_NN = sparse((np.full(len(rows), 1.0 / max(1, len(heard))), (rows, columns)), shape=weights_NN.shape)
        mixed_NN.data[of_hostile] = 0.0
        mixed_NN = (mixed_NN + theirs_NN).tocsr()
    else:
        mixed_NN.data[of_hostile & placement.is_hostile[weights_NN.indices]] = 0.0
        left_N = np.asarray(mixed_NN.sum(axis=1)).ravel()
        scale_N = np.where(placement.is_hostile & (left_N > 0), 1.0 / np.where(left_N > 0, left_N, 1.0), 1.0)
        mixed_NN.data *= np.repeat(scale_N, np.diff(mixed_NN.indptr))
    mixed_NN.eliminate_zeros()
    mixed_NN.sort_indices()
    return mixed_NN


def _inboxes(
    federation: Federation, exchange: Exchange | None, result: Round, struck: Struck
) -> Iterator[tuple[int, Inbox]]:
    """What each participant has after an exchange (None: there was none). Valid until the next is asked for."""
    participants, round = result.participants, result.round
    if exchange is None:
        source = federation.exact or federation.sent
        for receiver in participants.tolist():
            yield receiver, Inbox({name: rows[receiver] for name, rows in source.items()}, 0, 0.0)
        return
    stats = _statistics(federation, participants)
    receiving = Receiving(federation, round, struck)
    watch = Watch(federation) if result.watched else None
    if exchange.everyone:
        kept = [outcome for outcome in result.outcomes if outcome.node not in struck.absent]
        weights = [outcome.weight for outcome in kept]
        heard = np.array([outcome.node for outcome in kept])
        fields = receiving.fields(heard, weights, None)
        if stats is not None:
            fields["row"] = federation.finished(fields["row"], stats[heard], weights, None)
        if watch is not None:
            watch.server(receiving, heard, weights, fields)
            result.robustness = watch.means()
        weights = [outcome.weight for outcome in result.outcomes]
        for receiver, weight in zip(participants.tolist(), weights, strict=True):
            yield receiver, Inbox(fields, len(weights) - 1, 1.0 - weight / sum(weights), everyone=True)
        return
    weights_NN = _mixing(federation, exchange, struck)
    own_N = weights_NN.diagonal()
    degree_N = np.diff(weights_NN.indptr) - (own_N != 0)
    linear = federation.experiment.aggregator.linear and not federation.adversary.per_neighbour
    by_name: dict[str, csr_array] = {}
    if not linear and receiving.combines:
        linear, by_name = True, receiving.matrices(weights_NN, participants)
    size = receivers_at_once(federation.nodes, weights_NN.nnz)
    outs = {name: rows.new_empty((size, *rows.shape[1:])) for name, rows in federation.sent.items()} if linear else {}
    for start in range(0, len(participants), size):
        block = participants[start : start + size]
        mixed = _mixed(federation, by_name or weights_NN, own_N, block, outs)
        for place, receiver in enumerate(block.tolist()):
            span = slice(weights_NN.indptr[receiver], weights_NN.indptr[receiver + 1])
            heard, given = weights_NN.indices[span], weights_NN.data[span]
            if not len(heard):
                continue  # A hostile node that hears nobody honest stays where it was.
            if linear:
                fields = {name: rows[place] for name, rows in mixed.items()}
                if stats is not None:
                    own, of_heard = place_of(receiver, heard), stats[heard]
                    if own is not None and federation.exact:
                        of_heard[own] = _statistics_of(federation, federation.exact["row"][receiver])
                    fields["row"] = federation.finished(fields["row"], of_heard, given.tolist(), own)
            else:
                fields = receiving.fields(heard, given.tolist(), receiver)
            if watch is not None and not federation.placement.is_hostile[receiver]:
                watch.neighbour(receiving, heard, given, fields, receiver, by_name)
            yield receiver, Inbox(fields, int(degree_N[receiver]), 1.0 - float(own_N[receiver]))
    if watch is not None:
        result.robustness = watch.means()


def _statistics(federation: Federation, participants: Array) -> Tensor | None:
    """What a linear rule wants to know of each message, [N, S]; None where it wants nothing."""
    if not federation.corrects:
        return None
    found: Tensor | None = None
    for node in participants.tolist():
        stats_S = _statistics_of(federation, federation.sent["row"][node])
        if found is None:
            found = stats_S.new_zeros((federation.nodes, len(stats_S)))
        found[node].copy_(stats_S)
    return found


def _statistics_of(federation: Federation, row_D: Tensor) -> Tensor:
    stats_S = federation.experiment.aggregator.statistics(row_D, federation.layout)
    assert stats_S is not None, "federation.corrects says that there are some"
    return stats_S


def receivers_at_once(nodes: int, nonzeros: int) -> int:
    """Receivers whose rows are mixed together: all on a dense graph, where every block would read all rows again."""
    return nodes if RECEIVERS * nonzeros > nodes * nodes else min(RECEIVERS, nodes)


def _mixed(
    federation: Federation,
    weights_NN: csr_array | dict[str, csr_array],
    own_N: Array,
    block: Array,
    outs: dict[str, Tensor],
) -> dict[str, Tensor]:
    """W @ rows for a block of receivers, [B, ...] for each field; the own row is exact where messages are not.

    With 'choco' a receiver moves by a part of what its copy lacks to the mean of the copies. Where a rule found another
    matrix for every field, they come by name, and messages are exact.
    """
    if isinstance(weights_NN, dict):
        found = {}
        for name, buffer in outs.items():
            mix(weights_NN[name][block], federation.sent[name].flatten(1), buffer[: len(block)].flatten(1))
            found[name] = buffer[: len(block)]
        return found
    part_BN = weights_NN[block]
    step = federation.up.consensus_step
    if federation.exact and step is None:
        # What others decode of a row is not quite the row: the own part is added from the exact one.
        places = np.repeat(block, np.diff(part_BN.indptr))
        part_BN.data[part_BN.indices == places] = 0.0
        part_BN.eliminate_zeros()
    mixed = {}
    for name, buffer in outs.items():
        rows_ND, out = federation.sent[name], buffer[: len(block)]
        mix(part_BN, rows_ND.flatten(1), out.flatten(1))
        if step is not None:
            for place, receiver in enumerate(block.tolist()):
                out[place].sub_(rows_ND[receiver]).mul_(step).add_(federation.exact[name][receiver])
        elif name in federation.exact:
            for place, receiver in enumerate(block.tolist()):
                out[place].add_(federation.exact[name][receiver], alpha=float(own_N[receiver]))
        mixed[name] = out
    return mixed


def observe(federation: Federation, result: Round) -> Observed:
    """Consensus distance and gradient norm of the models that the nodes would send, in float64."""
    nodes, round = np.intersect1d(result.participants, federation.placement.honest).tolist(), result.round
    rows = [model_task(federation, node, round + 1, before=True).row for node in nodes]
    mean, step = Fold(), Fold()
    for node, row_D in zip(nodes, rows, strict=True):
        mean.add(row_D, 1.0)
        step.add(model_task(federation, node, round).row - row_D, 1.0)
    trained = slice(0, federation.layout.trainable)
    middle_T = mean.mean()[trained]
    square = sum(float((row_D[trained] - middle_T).double().square().sum()) for row_D in rows) / len(nodes)
    experiment = federation.experiment
    rate = experiment.learner.rate(result.round, experiment.rounds)
    steps = float(np.mean(federation.steps_N[result.participants])) or 1.0
    norm = float(step.mean()[trained].double().norm()) / (rate * steps)
    return Observed(square**0.5, norm)
