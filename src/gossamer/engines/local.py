"""The local engine: one machine, where a round's messages are rows of a matrix.

With a server and a linear aggregator, messages fold into one running mean as they arrive: memory does not grow with the
cohort. On a graph the population is mixed by a sparse matrix product, a block of receivers at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gossamer.errors import ExperimentError, GossamerError, NodeError
from gossamer.federation import node_error
from gossamer.methods import Inbox
from gossamer.mixing import mix
from gossamer.population import Fold

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from torch import Tensor

    from gossamer.backends import Backend
    from gossamer.federation import Federation, Outcome
    from gossamer.topologies import Array

RECEIVERS = 16
"""Receivers merged at a time on a sparse graph: their mixed rows stay in cache until they are merged."""


@dataclass
class Round:
    """What happened in one round."""

    outcomes: list[Outcome]
    communicated: bool
    sent_N: Array
    """Bytes each node sent."""
    received_N: Array
    seconds: dict[str, float] = field(default_factory=dict)


def play(federation: Federation, backend: Backend, round: int) -> Round:
    """One round: local work at the participants, exchange, merge at every receiver."""
    participants = federation.participants(round)
    communicated = federation.communicates(round)
    clock = time.perf_counter()
    outcomes: list[Outcome] = []
    folds: dict[str, Fold] = {}
    for outcome, message in backend.train(round, participants):
        outcomes.append(outcome)
        if federation.folds:
            for name, value in message.items():
                folds.setdefault(name, Fold()).add(value, outcome.weight)
    seconds = {"train": time.perf_counter() - clock, "exchange": 0.0, "merge": 0.0}
    nodes = federation.nodes
    result = Round(outcomes, communicated, np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), seconds)
    if federation.has_server:
        _at_server(federation, result, folds, participants, round)
    elif federation.method.world == "graph":
        _on_graph(federation, result, participants, round)
    return result


def _at_server(federation: Federation, result: Round, folds: dict[str, Fold], participants: Array, round: int) -> None:
    clock = time.perf_counter()
    result.sent_N[participants] = federation.up_bytes
    result.received_N[participants] = federation.down_bytes
    weights = [outcome.weight for outcome in result.outcomes]
    total = float(sum(weights))
    if total <= 0:
        raise ExperimentError(f"round {round + 1}: the weights of all participants are zero; use weighting = 'uniform'")
    if federation.folds:
        fields = {name: fold.mean() for name, fold in folds.items()}
    else:
        fields = _aggregated(federation, participants, weights, None, round)
    result.seconds["exchange"] = time.perf_counter() - clock
    clock = time.perf_counter()
    view = federation.view(-1, round, participants)
    federation.merge(-1, Inbox(fields, len(participants), total), view)
    result.seconds["merge"] = time.perf_counter() - clock


def _on_graph(federation: Federation, result: Round, participants: Array, round: int) -> None:
    present = np.zeros(federation.nodes, dtype=bool)
    present[participants] = True
    clock = time.perf_counter()
    if result.communicated:
        weights_NN = federation.mixing(round, participants)
    else:
        from scipy.sparse import eye_array

        weights_NN = eye_array(federation.nodes, format="csr")
    own_N = weights_NN.diagonal()
    degrees = np.diff(weights_NN.indptr) - (own_N != 0)
    senders = weights_NN.indices[
        weights_NN.indices != np.repeat(np.arange(federation.nodes), np.diff(weights_NN.indptr))
    ]
    result.sent_N[:] = np.bincount(senders, minlength=federation.nodes) * federation.up_bytes
    result.received_N[:] = degrees * federation.up_bytes
    result.seconds["exchange"] += time.perf_counter() - clock
    linear = federation.experiment.aggregator.linear
    size = receivers_at_once(federation.nodes, weights_NN.nnz)
    outs = {name: rows.new_empty((size, *rows.shape[1:])) for name, rows in federation.sent.items()} if linear else {}
    for start in range(0, federation.nodes, size):
        clock = time.perf_counter()
        block = range(start, min(start + size, federation.nodes))
        mixed = _mixed(federation, weights_NN, own_N, block, outs)
        result.seconds["exchange"] += time.perf_counter() - clock
        for receiver in block:
            if not present[receiver]:
                continue
            clock = time.perf_counter()
            if linear:
                fields = {name: rows[receiver - start] for name, rows in mixed.items()}
            else:
                span = slice(weights_NN.indptr[receiver], weights_NN.indptr[receiver + 1])
                heard, given = weights_NN.indices[span], weights_NN.data[span]
                fields = _aggregated(federation, heard, given.tolist(), receiver, round)
            result.seconds["exchange"] += time.perf_counter() - clock
            clock = time.perf_counter()
            inbox = Inbox(fields, int(degrees[receiver]), 1.0 - float(own_N[receiver]))
            federation.merge(receiver, inbox, federation.view(receiver, round, participants))
            result.seconds["merge"] += time.perf_counter() - clock


def receivers_at_once(nodes: int, nonzeros: int) -> int:
    """Receivers whose rows are mixed together: all on a dense graph, where every block would read all rows again."""
    return nodes if RECEIVERS * nonzeros > nodes * nodes else min(RECEIVERS, nodes)


def _mixed(
    federation: Federation, weights_NN: csr_array, own_N: Array, block: range, outs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """W @ rows for a block of receivers, [B, ...] for each field; the own row is exact where messages are not."""
    part_BN = weights_NN[block.start : block.stop]
    if federation.exact:
        # What others decode of a row is not quite the row: the own part is added from the exact one.
        places = np.repeat(np.arange(block.start, block.stop), np.diff(part_BN.indptr))
        part_BN.data[part_BN.indices == places] = 0.0
        part_BN.eliminate_zeros()
    mixed = {}
    for name, buffer in outs.items():
        rows_ND, out = federation.sent[name], buffer[: len(block)]
        mix(part_BN, rows_ND.flatten(1), out.flatten(1))
        if name in federation.exact:
            for place, receiver in enumerate(block):
                out[place].add_(federation.exact[name][receiver], alpha=float(own_N[receiver]))
        mixed[name] = out
    return mixed


def _aggregated(
    federation: Federation, heard: Array, weights: list[float], receiver: int | None, round: int
) -> dict[str, Tensor]:
    """Each field of the messages of `heard`, put through the aggregator; single numbers take the weighted mean."""
    import torch

    weights_N = torch.tensor(weights, dtype=torch.float64)
    fields = {}
    for name, rows in federation.sent.items():
        updates_ND = rows[torch.from_numpy(np.asarray(heard, dtype=np.int64))].flatten(1)
        own_D = None
        if receiver is not None:
            own_D = federation.exact.get(name, rows)[receiver].flatten().clone()
            updates_ND[int(np.searchsorted(heard, receiver))] = own_D
        if updates_ND.shape[1] == 1:
            weight = weights_N.to(updates_ND.dtype)
            fields[name] = ((weight @ updates_ND) / weight.sum()).view(rows.shape[1:])
        else:
            who = -1 if receiver is None else receiver
            fields[name] = _by_rule(federation, updates_ND, weights_N, own_D, who, round).view(rows.shape[1:])
    return fields


def _by_rule(
    federation: Federation, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None, receiver: int, round: int
) -> Tensor:
    """What the aggregator makes of updates. Raises NodeError where it fails or gives something else than one update."""
    import torch

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
