"""The end of a round at a server: what was heard becomes one update, and is merged."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gossamer.adversary import index
from gossamer.engines.receiving import Receiving
from gossamer.engines.robustness import Watch
from gossamer.engines.striking import strike
from gossamer.errors import ExperimentError, NodeError
from gossamer.methods import Inbox

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.engines import Round
    from gossamer.engines.sealed import SealedRound
    from gossamer.federation import Federation
    from gossamer.population import Fold
    from gossamer.topologies import Array


def at_server(federation: Federation, result: Round, folds: dict[str, Fold]) -> None:
    clock = time.perf_counter()
    participants = result.participants
    struck = strike(federation, result, None)
    result.communicated, result.transfers = True, 2 * len(participants)
    result.sent_N[participants] = federation.sent_bytes.numpy()[participants]
    result.received_N[participants] = federation.told_bytes(result.round)[participants]
    heard = np.setdiff1d(participants, struck.absent) if struck.absent else participants
    weights = [outcome.weight for outcome in result.outcomes if outcome.node not in struck.absent]
    if not len(heard) and len(participants):
        raise NodeError(-1, result.round + 1, "exchange", "no participant sent a message that could be used")
    total = float(sum(weights))
    if total <= 0 and len(heard):
        raise ExperimentError(
            f"round {result.round + 1}: the weights of all participants are zero; use weighting = 'uniform'"
        )
    stacked: dict[str, Tensor] = {}
    if not len(heard):
        fields = {name: value.clone() for name, value in federation.received_like.items()}
    elif federation.method.gathers:
        fields, stacked = {}, {name: rows[index(heard)] for name, rows in federation.sent.items()}
    elif federation.folds:
        fields = {name: fold.mean() for name, fold in folds.items()}
    else:
        if federation.experiment.aggregator.trusts:
            federation.train_root(result.round)
        receiving = Receiving(federation, result.round, struck)
        fields = receiving.fields(heard, weights, None)
        if result.watched:
            watch = Watch(federation)
            watch.server(receiving, heard, weights, fields)
            result.robustness = watch.means()
    result.seconds["exchange"] += time.perf_counter() - clock
    _taken(federation, result, fields, heard, total, stacked, tuple(weights))


def in_secret(federation: Federation, result: Round, sealed: SealedRound) -> None:
    """What a secure sum shows; where too few were left to open it, the server keeps its model."""
    clock = time.perf_counter()
    assert federation.seal is not None
    result.communicated, result.transfers = True, 2 * len(result.participants)
    result.sent_N += sealed.sent_N
    result.received_N += sealed.received_N
    result.received_N[result.participants] += federation.told_bytes(result.round)[result.participants]
    summed = np.array(sealed.attended.summed, dtype=np.int64)
    result.summed = len(summed)
    fields, total = federation.up.received(), 0.0
    if len(summed):
        mean, total = sealed.opened()
        fields = federation.up.decode(mean, -1, result.round)
    result.seconds["exchange"] += time.perf_counter() - clock
    _taken(federation, result, fields, summed, total)


def _taken(
    federation: Federation,
    result: Round,
    fields: dict[str, Tensor],
    heard: Array,
    total: float,
    stacked: dict[str, Tensor] | None = None,
    weights: tuple[float, ...] = (),
) -> None:
    """Merge the mean of what was heard at the server; nothing, if nobody was, unless noise is to hide that."""
    clock = time.perf_counter()
    guard, count = federation.guard, len(heard)
    if guard.answers:
        # The method is told nothing of who came, so that its state says nothing of it either.
        cohort, fields = guard.cohort, guard.answered(fields, count, result.round)
        count, total = max(1, round(cohort)), cohort
        everybody = federation.view(-1, result.round, np.arange(federation.nodes))
        share = cohort / federation.nodes
        view = replace(everybody, samples=round(share * everybody.samples), participants=count)
    else:
        view = federation.view(-1, result.round, heard)
    if count:
        federation.merge(-1, Inbox(fields, count, total, stacked or {}, weights if stacked else ()), view)
    result.seconds["merge"] += time.perf_counter() - clock
