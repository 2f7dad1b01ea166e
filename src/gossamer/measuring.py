"""Measuring: how good the models are after a round, and what that looks like as lines of the record."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gossamer.backends import Job
from gossamer.counts import Counts
from gossamer.evaluation import disagreement, layers, merge_models, reestimate

if TYPE_CHECKING:
    from gossamer.backends import Backend
    from gossamer.engines import Round
    from gossamer.federation import Federation
    from gossamer.topologies import Array

PART = 2048
"""Test items measured as one job, so that several workers share the evaluation of one model."""


@dataclass(frozen=True)
class Measured:
    """(validation, test) counts of each evaluated node and, as node -1, of the merged model; empty if none was due."""

    counts: dict[int, tuple[Counts, Counts]] = field(default_factory=dict)
    apart: dict[int, float] = field(default_factory=dict)
    """||x_i - merged||^2 of each node, on a graph."""
    layers: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the table of layers, if asked for."""

    @property
    def consensus_distance(self) -> float | None:
        """(1/N) sum_i ||x_i - merged||^2 (Kong et al. 2021)."""
        return math.fsum(self.apart.values()) / len(self.apart) if self.apart else None

    @property
    def mergeability_gap(self) -> float | None:
        """Mean test loss of the nodes' own models less that of the merged one: above 0 where merging helps."""
        losses = {node: test.metrics()["loss"] for node, (_, test) in self.counts.items()}
        own, merged = [v for node, v in losses.items() if node >= 0 and v is not None], losses.get(-1)
        return math.fsum(own) / len(own) - merged if own and merged is not None else None

    def headline(self) -> dict[str, float | None]:
        """Test accuracy for the progress line: the mean over the nodes' own models and the worst, or the server's."""
        accuracies = {node: test.metrics()["accuracy"] for node, (_, test) in self.counts.items()}
        own = [value for node, value in accuracies.items() if node >= 0 and value is not None]
        if own:
            return {"accuracy": sum(own) / len(own), "worst": min(own)}
        return {"accuracy": accuracies.get(-1), "worst": None}


def measure(federation: Federation, backend: Backend, rounds_done: int, before: bool = False) -> Measured:
    """Measure every planned node on its validation part and, where nodes have models of their own, on the test items;
    and the one model for all, if there is one, on the test items. `before`: as the models are before the exchange."""
    own_models = not federation.has_server or federation.method.personal
    jobs = [Job(int(node), rounds_done, own_models, before=before) for node in federation.evaluated]
    apart: dict[int, float] = {}
    by_layer: list[dict[str, Any]] = []
    if federation.merges:
        merge_models(federation, rounds_done, before)
        total = len(federation.test_items)
        jobs += [Job(-1, rounds_done, True, start, min(start + PART, total)) for start in range(0, total, PART)]
        if not federation.has_server:
            honest = federation.placement.honest.tolist()
            # Rows that stand for products say nothing by their distance.
            if not federation.experiment.aggregator.whole:
                apart = dict(zip(honest, disagreement(federation, rounds_done, before), strict=True))
            if federation.experiment.evaluate.layers:
                by_layer = layers(federation, rounds_done, before)
        reestimate(federation, rounds_done)
    counts: dict[int, tuple[Counts, Counts]] = {}
    for job, (validation, test) in zip(jobs, backend.evaluate(jobs), strict=True):
        if job.node in counts:
            validation, test = counts[job.node][0] + validation, counts[job.node][1] + test
        counts[job.node] = (validation, test)
    if federation.merges and not own_models:
        # One model for all: what it scores on the validation parts of the evaluated nodes together.
        none = Counts.none(len(federation.shards.classes))
        pooled = sum((counts[int(node)][0] for node in federation.evaluated), none)
        counts[-1] = (pooled, counts.get(-1, (none, none))[1])
    return Measured(counts, apart, by_layer)


def lines(
    federation: Federation, rounds_done: int, result: Round, measured: Measured, sent_N: Array, received_N: Array
) -> list[dict[str, Any]]:
    """Lines of the metrics table: one for each node that trained or was measured, and one (node -1) for the whole.

    The training loss and accuracy of node -1 are means over the participants, weighted by their training items. Bytes
    are cumulative; those of node -1 are the server's.
    """
    trained = {outcome.node: outcome for outcome in result.outcomes}
    found = []
    for node in sorted({-1} | trained.keys() | measured.counts.keys() | measured.apart.keys()):
        line: dict[str, Any] = {"round": rounds_done, "node": node}
        if node in trained:
            line |= {"train_loss": _number(trained[node].loss), "train_accuracy": _number(trained[node].accuracy)}
        if node >= 0:
            line |= {"bytes_sent": int(sent_N[node]), "bytes_received": int(received_N[node])}
            line |= {"disagreement": measured.apart.get(node)}
        else:
            line |= {name: _number(value) for name, value in training_means(federation, result).items()}
            if federation.has_server:
                line |= {"bytes_sent": int(received_N.sum()), "bytes_received": int(sent_N.sum())}
        for part, counts in zip(("validation", "test"), measured.counts.get(node, ()), strict=False):
            line |= {f"{part}_{name}": value for name, value in counts.metrics().items()}
            if part == "test":
                line["attack_success"] = counts.success
        found.append(line)
    return found


def training_means(federation: Federation, result: Round) -> dict[str, float]:
    """Mean training loss and accuracy over the honest participants that saw an item, weighted by their training items
    (NaN without such)."""
    seen = [outcome for outcome in result.outcomes if not math.isnan(outcome.loss)]
    honest = [outcome for outcome in seen if not federation.placement.is_hostile[outcome.node]]
    sizes = [federation.shards.sizes[outcome.node] for outcome in honest]
    total = sum(sizes)
    weighted = [(size / total, outcome) for size, outcome in zip(sizes, honest, strict=True)]
    return {
        "train_loss": math.fsum(w * o.loss for w, o in weighted) if total else math.nan,
        "train_accuracy": math.fsum(w * o.accuracy for w, o in weighted) if total else math.nan,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
