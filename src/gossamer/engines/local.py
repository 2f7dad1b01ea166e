"""The local engine in rounds: one machine, where a round's messages are rows of a matrix.

With a server and a linear aggregator, messages fold into one running mean as they arrive: memory does not grow with the
cohort. On a graph the population is mixed by a sparse matrix product, a block of receivers at a time; an all-reduce is
one mean for everybody.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gossamer.clocks import round_seconds
from gossamer.engines import Round
from gossamer.errors import ExperimentError, GossamerError, NodeError, node_error
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
    from gossamer.federation import Federation
    from gossamer.topologies import Array

RECEIVERS = 16
"""Receivers merged at a time on a sparse graph: their mixed rows stay in cache until they are merged."""


class Local:
    """Plays rounds: local work at all participants, then exchange, then merge at every receiver."""

    def __init__(self, federation: Federation, backend: Backend, spent: int = 0, clock: float = 0.0) -> None:
        self.federation, self.backend = federation, backend
        self.spent, self.clock = spent, clock
        self._folds: dict[str, Fold] = {}

    def train(self, round: int) -> Round:
        """The local work of a round; what the nodes would send lies in `federation.sent`, or is folded already."""
        federation = self.federation
        participants = federation.participants(round)
        result = Round(round, participants, federation.nodes)
        self._folds = {}
        clock = time.perf_counter()
        for outcome, message in self.backend.train(round, participants):
            result.outcomes.append(outcome)
            if federation.folds:
                for name, value in message.items():
                    self._folds.setdefault(name, Fold()).add(value, outcome.weight)
        result.seconds["train"] = time.perf_counter() - clock
        return result

    def exchange(self, result: Round) -> None:
        """The end of a round: exchange and merge, unless nothing is sent."""
        federation = self.federation
        seconds = 0.0
        if federation.has_server:
            _at_server(federation, result, self._folds)
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
        )


def _at_server(federation: Federation, result: Round, folds: dict[str, Fold]) -> None:
    clock = time.perf_counter()
    participants = result.participants
    result.communicated, result.transfers = True, 2 * len(participants)
    result.sent_N[participants] = federation.up_bytes
    result.received_N[participants] = federation.down_bytes
    weights = [outcome.weight for outcome in result.outcomes]
    total = float(sum(weights))
    if total <= 0:
        raise ExperimentError(
            f"round {result.round + 1}: the weights of all participants are zero; use weighting = 'uniform'"
        )
    if federation.folds:
        fields = {name: fold.mean() for name, fold in folds.items()}
    else:
        fields = aggregated(federation, participants, weights, None, result.round)
    result.seconds["exchange"] += time.perf_counter() - clock
    clock = time.perf_counter()
    view = federation.view(-1, result.round, participants)
    federation.merge(-1, Inbox(fields, len(participants), total), view)
    result.seconds["merge"] += time.perf_counter() - clock


def _on_graph(federation: Federation, backend: Backend, result: Round, exchanges: list[Exchange]) -> None:
    """Exchange after exchange; all but the last change what is sent, the last is merged."""
    round, participants = result.round, result.participants
    for exchange in exchanges:
        result.transfers += exchange.transfers
        result.communicated = result.transfers > 0
        sent_N, received_N = federation.exchanges.traffic(exchange, participants)
        result.sent_N += sent_N
        result.received_N += received_N
    for exchange in exchanges[:-1]:
        clock = time.perf_counter()
        mixed = {name: rows.clone() for name, rows in federation.sent.items()}
        for receiver, inbox in _inboxes(federation, exchange, result):
            for name, value in inbox.fields.items():
                mixed[name][receiver].copy_(value)
        federation.send_again(mixed, participants)
        result.seconds["exchange"] += time.perf_counter() - clock
    clock = time.perf_counter()
    if exchanges and _straight(federation, exchanges[-1], participants):
        backend.mix(federation.exchanges.mixing(exchanges[-1]))
        result.seconds["exchange"] += time.perf_counter() - clock
        return
    for receiver, inbox in _inboxes(federation, exchanges[-1] if exchanges else None, result):
        result.seconds["exchange"] += time.perf_counter() - clock
        clock = time.perf_counter()
        federation.merge(receiver, inbox, federation.view(receiver, round, participants))
        result.seconds["merge"] += time.perf_counter() - clock
        clock = time.perf_counter()


def _straight(federation: Federation, exchange: Exchange, participants: Array) -> bool:
    """Whether an exchange is nothing but state = W @ sent, for all nodes."""
    rule = federation.experiment.aggregator
    plain = rule.linear and not federation.corrects and not federation.exact and not exchange.everyone
    same = federation.sent.keys() <= federation.population.state.keys()
    return plain and same and federation.method.adopts and len(participants) == federation.nodes


def _inboxes(federation: Federation, exchange: Exchange | None, result: Round) -> Iterator[tuple[int, Inbox]]:
    """What each participant has after an exchange (None: there was none). Valid until the next is asked for."""
    participants, round = result.participants, result.round
    if exchange is None:
        source = federation.exact or federation.sent
        for receiver in participants.tolist():
            yield receiver, Inbox({name: rows[receiver] for name, rows in source.items()}, 0, 0.0)
        return
    stats = _statistics(federation, participants)
    if exchange.everyone:
        weights = [outcome.weight for outcome in result.outcomes]
        fields = aggregated(federation, participants, weights, None, round)
        if stats is not None:
            fields["row"] = federation.finished(fields["row"], stats[participants], weights, None)
        for receiver, weight in zip(participants.tolist(), weights, strict=True):
            yield receiver, Inbox(fields, len(weights) - 1, 1.0 - weight / sum(weights), everyone=True)
        return
    weights_NN = federation.exchanges.mixing(exchange)
    own_N = weights_NN.diagonal()
    degree_N = np.diff(weights_NN.indptr) - (own_N != 0)
    linear = federation.experiment.aggregator.linear
    size = receivers_at_once(federation.nodes, weights_NN.nnz)
    outs = {name: rows.new_empty((size, *rows.shape[1:])) for name, rows in federation.sent.items()} if linear else {}
    for start in range(0, len(participants), size):
        block = participants[start : start + size]
        mixed = _mixed(federation, weights_NN, own_N, block, outs)
        for place, receiver in enumerate(block.tolist()):
            span = slice(weights_NN.indptr[receiver], weights_NN.indptr[receiver + 1])
            heard, given = weights_NN.indices[span], weights_NN.data[span]
            if linear:
                fields = {name: rows[place] for name, rows in mixed.items()}
                if stats is not None:
                    own, of_heard = place_of(receiver, heard), stats[heard]
                    if own is not None and federation.exact:
                        of_heard[own] = _statistics_of(federation, federation.exact["row"][receiver])
                    fields["row"] = federation.finished(fields["row"], of_heard, given.tolist(), own)
            else:
                fields = aggregated(federation, heard, given.tolist(), receiver, round)
            yield receiver, Inbox(fields, int(degree_N[receiver]), 1.0 - float(own_N[receiver]))


def place_of(receiver: int, heard: Array) -> int | None:
    """The place of a receiver among those it hears, in ascending order; None where its own weight is zero."""
    place = int(np.searchsorted(heard, receiver))
    return place if place < len(heard) and heard[place] == receiver else None


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
    federation: Federation, weights_NN: csr_array, own_N: Array, block: Array, outs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """W @ rows for a block of receivers, [B, ...] for each field; the own row is exact where messages are not."""
    part_BN = weights_NN[block]
    if federation.exact:
        # What others decode of a row is not quite the row: the own part is added from the exact one.
        places = np.repeat(block, np.diff(part_BN.indptr))
        part_BN.data[part_BN.indices == places] = 0.0
        part_BN.eliminate_zeros()
    mixed = {}
    for name, buffer in outs.items():
        rows_ND, out = federation.sent[name], buffer[: len(block)]
        mix(part_BN, rows_ND.flatten(1), out.flatten(1))
        if name in federation.exact:
            for place, receiver in enumerate(block.tolist()):
                out[place].add_(federation.exact[name][receiver], alpha=float(own_N[receiver]))
        mixed[name] = out
    return mixed


def aggregated(
    federation: Federation, heard: Array, weights: list[float], receiver: int | None, round: int
) -> dict[str, Tensor]:
    """Each field of the messages of `heard`, put through the aggregator; single numbers take the weighted mean."""
    import torch

    rule = federation.experiment.aggregator
    weights_N = torch.tensor(weights, dtype=torch.float64)
    fields = {}
    for name, rows in federation.sent.items():
        if rule.linear and receiver is None:
            fold = Fold()
            for node, weight in zip(heard.tolist(), weights, strict=True):
                fold.add(rows[node], weight)
            fields[name] = fold.mean()
            continue
        updates_ND = rows[torch.from_numpy(np.asarray(heard, dtype=np.int64))].flatten(1)
        own_D = None
        if receiver is not None:
            own_D = federation.exact.get(name, rows)[receiver].flatten().clone()
            if (place := place_of(receiver, heard)) is not None:
                updates_ND[place] = own_D
        who = -1 if receiver is None else receiver
        fields[name] = by_rule(federation, updates_ND, weights_N, own_D, who, round).view(rows.shape[1:])
    return fields


def by_rule(
    federation: Federation, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None, receiver: int, round: int
) -> Tensor:
    """What the aggregator makes of updates; single numbers take the weighted mean.

    Raises NodeError where it fails or gives something else than one update.
    """
    import torch

    if updates_ND.shape[1] == 1:
        weights_N = weights_N.to(updates_ND.dtype)
        return (weights_N @ updates_ND) / weights_N.sum()
    rule = federation.experiment.aggregator
    try:
        merged: object = rule.aggregate(updates_ND, weights_N, own_D, federation.layout)
    except GossamerError:
        raise
    except Exception as error:
        raise node_error(error, receiver, round + 1, "aggregate") from error
    if not isinstance(merged, torch.Tensor) or merged.shape != updates_ND.shape[1:]:
        found = f"shape {list(merged.shape)}" if isinstance(merged, torch.Tensor) else f"a {type(merged).__name__}"
        reason = f"{type(rule).__name__}.aggregate returned {found}, expected shape [{updates_ND.shape[1]}]"
        raise NodeError(receiver, round + 1, "aggregate", reason)
    return merged


def observe(federation: Federation, result: Round) -> Observed:
    """Consensus distance and gradient norm of the models that the nodes would send, in float64."""
    nodes, round = result.participants.tolist(), result.round
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
