"""Federated Rank Learning against a slow transcription in NumPy; what travels, what stays, what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import assert_same, small, state_of
from test_transcriptions import experiment, setting
from torch import nn

import gossamer
from gossamer import wire
from gossamer.backends.eager import Eager
from gossamer.engines.local import Local
from gossamer.errors import ExperimentError
from gossamer.evaluation import model_task
from gossamer.federation import Federation
from gossamer.groundwork import initial_module
from gossamer.methods import Inbox, Result
from gossamer.rankings import ranks_of

Array = np.ndarray[Any, Any]

MASKED = {"parametrisation": "supermask", "method": "frl"}
RING = {"parametrisation": "supermask", "method": "frl_gossip", "topology": "ring"}

# ---- a slow transcription ------------------------------------------------------------------------------------------


class Peer:
    """Edge-popup on two layers by hand, in float64: Algorithm 1 of the paper, written for one node."""

    def __init__(self, signs: Sequence[Array], k: float, magnitude: bool) -> None:
        self.signs, self.k, self.magnitude = signs, k, magnitude

    def mask(self, scores: Array) -> Array:
        seen = np.abs(scores) if self.magnitude else scores
        order = np.argsort(seen, axis=None, kind="stable")
        mask = np.zeros(scores.size)
        mask[order[math.floor((1 - self.k) * scores.size) :]] = 1
        return mask.reshape(scores.shape)

    def train(
        self, scores: list[Array], items: tuple[Array, Array], batches: Sequence[Array], lr: float, momentum: float
    ) -> list[Array]:
        """Scores after SGD with momentum on the mean cross entropy; the gradient goes straight through the mask."""
        scores, velocity = [s.copy() for s in scores], [np.zeros_like(s) for s in scores]
        for index in batches:
            x, labels = items[0][index], items[1][index]
            first, second = (sign * self.mask(s) for sign, s in zip(self.signs, scores, strict=True))
            hidden = np.maximum(x @ first.T, 0)
            logits = hidden @ second.T
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            error = odds / odds.sum(axis=1, keepdims=True)
            error[np.arange(len(labels)), labels] -= 1
            error /= len(labels)
            gradients = [((error @ second) * (hidden > 0)).T @ x, error.T @ hidden]
            for layer in range(2):
                step = self.signs[layer] * gradients[layer]
                if self.magnitude:
                    step = step * np.sign(scores[layer])
                velocity[layer] = momentum * velocity[layer] + step
                scores[layer] = scores[layer] - lr * velocity[layer]
        return scores


def orders(scores: Sequence[Array]) -> list[Array]:
    """R of each layer: R[position] = edge."""
    return [np.argsort(s, axis=None, kind="stable") for s in scores]


def dealt(ranking: Sequence[Array], start: Sequence[Array]) -> list[Array]:
    """The edge at each position gets the start's score of that position."""
    scores = []
    for order, first in zip(ranking, start, strict=True):
        flat = np.empty(first.size)
        for position, score in enumerate(sorted(first.flatten().tolist())):
            flat[order[position]] = score
        scores.append(flat.reshape(first.shape))
    return scores


def counted(rankings: Sequence[list[Array]]) -> list[Array]:
    """The edges of each layer by reputation, the sum of their positions."""
    result = []
    for layer in range(len(rankings[0])):
        reputation = np.zeros(len(rankings[0][layer]), np.int64)
        for ranking in rankings:
            for position, edge in enumerate(ranking[layer]):
                reputation[edge] += position
        result.append(np.argsort(reputation, kind="stable"))
    return result


def ranked(semantics: str, **settings: Any) -> Any:
    return experiment(
        model={"kind": "mlp", "hidden": [12]},
        parametrisation={"kind": "supermask", "k": 0.5, "semantics": semantics},
        learner={"kind": "sgd", "lr": 0.3, "momentum": 0.9, "batch_size": 7, "epochs": 2},
        **settings,
    )


def transcribed(of: Any, neighbours: Sequence[Sequence[int]] | None) -> tuple[list[list[Array]], list[Array]]:
    """(the ranking of the server, or of each node of a graph, at the end; the scores of the start)."""
    module = initial_module(of, (6,), 3)
    layers = [module[1].parametrizations.weight, module[3].parametrizations.weight]
    start = [layer.original.detach().double().numpy() for layer in layers]
    signs = [layer[0].signs.detach().double().numpy() for layer in layers]
    peer, given = Peer(signs, of.parametrisation.k, of.parametrisation.semantics == "reference"), setting(of)
    data = [(inputs.numpy(), labels.numpy()) for inputs, labels in given.data]
    receivers = [orders(start) for _ in neighbours or [None]]
    for round, chosen in enumerate(given.participants):
        votes = {}
        for node in chosen:
            scores = dealt(receivers[node if neighbours else 0], start)
            batches = [np.asarray(index) for index in given.batches(node, round)]
            votes[node] = orders(peer.train(scores, data[node], batches, of.learner.lr, of.learner.momentum))
        if neighbours is None:
            receivers = [counted(list(votes.values()))]
        else:
            receivers = [counted([votes[j] for j in [i, *heard]]) for i, heard in enumerate(neighbours)]
    return receivers, start


@pytest.mark.parametrize("semantics", ["intended", "reference"])
@pytest.mark.parametrize("coder", ["packed", "optimal"])
def test_server(tmp_path: Path, semantics: str, coder: str) -> None:
    of = ranked(semantics, method={"kind": "frl", "coder": coder})
    (ranking,), start = transcribed(of, None)
    row = np.concatenate([scores.flatten() for scores in dealt(ranking, start)])
    found = state_of(gossamer.run(of, tmp_path / "run"))["state.row"][0].numpy()
    assert np.array_equal(found, row)
    assert np.count_nonzero(row != np.concatenate([scores.flatten() for scores in start])) > 50


def test_neighbours(tmp_path: Path) -> None:
    of = ranked("intended", method="frl_gossip", topology="ring", schedule="every")
    rankings, start = transcribed(of, [[(i - 1) % 5, (i + 1) % 5] for i in range(5)])
    run = gossamer.run(of, tmp_path / "run")
    for node, ranking in enumerate(rankings):
        module = run.model(node)
        for layer, scores in zip((module[1], module[3]), dealt(ranking, start), strict=True):
            assert np.array_equal(layer.parametrizations.weight.original.detach().numpy(), scores)
    assert any(not np.array_equal(rankings[0][0], other[0]) for other in rankings[1:])


# ---- in runs -------------------------------------------------------------------------------------------------------

LAYERS = (64 * 16, 16 * 10)
"""Edges of the layers of the small experiment."""


def payload(top: float = 1.0) -> int:
    return sum(math.ceil(math.ceil(top * n) * math.ceil(math.log2(n)) / 8) for n in LAYERS)


def frame(size: int) -> int:
    return wire.size({"ranks": torch.empty(size, dtype=torch.uint8)})


@pytest.mark.parametrize("world", [MASKED, RING], ids=["server", "ring"])
@pytest.mark.parametrize("method", [{}, {"coder": "optimal"}, {"top": 0.25}], ids=["packed", "optimal", "top"])
def test_bytes_are_those_of_the_formula_and_of_the_plan(
    tmp_path: Path, world: dict[str, Any], method: dict[str, Any]
) -> None:
    of = small(**{**world, "rounds": 2, "method": {"kind": world["method"], **method}})
    plan, run = gossamer.plan(of), gossamer.run(of, tmp_path / "run")
    if "coder" not in method:
        assert plan.message_bytes["up"] == frame(payload(method.get("top", 1.0)))
    if world is MASKED and "coder" not in method:
        assert plan.message_bytes["down"] == frame(payload())
    assert plan.message_bytes["up"] <= frame(payload())
    assert plan.setup_bytes == 0
    assert run.summary()["bytes"] == plan.bytes_total


@pytest.mark.parametrize("world", [MASKED, RING], ids=["server", "ring"])
def test_the_coder_changes_nothing_but_bytes(tmp_path: Path, world: dict[str, Any]) -> None:
    runs = []
    for coder in ("packed", "optimal"):
        of = small(**{**world, "rounds": 3, "method": {"kind": world["method"], "coder": coder}})
        runs.append(gossamer.run(of, tmp_path / coder))
    first, second = (state_of(run) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert runs[1].summary()["bytes"] < runs[0].summary()["bytes"]


@pytest.mark.parametrize("world", [MASKED, RING], ids=["server", "ring"])
def test_workers_and_interruptions_make_no_difference(tmp_path: Path, world: dict[str, Any]) -> None:
    of = small(**world, rounds=3, checkpoint={"every": 1, "max_share": 1.0})
    whole = gossamer.run(of, tmp_path / "whole")
    assert_same(whole, gossamer.run(of.replace(backend="parallel", workers=2), tmp_path / "parallel"))

    def stop(event: gossamer.Event) -> None:
        if event.kind == "round" and event.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gossamer.run(of, tmp_path / "cut", listener=stop)
    assert_same(whole, gossamer.resume(tmp_path / "cut"))


def test_the_scores_of_a_layer_remain_the_same_numbers(tmp_path: Path) -> None:
    of = small(**MASKED, aggregator="median", rounds=3)
    federation = Federation(of)
    start_T, row_T = federation.context.start_D, state_of(gossamer.run(of, tmp_path / "run"))["state.row"][0]
    for (_, first), (_, last) in zip(federation.layout.views(start_T), federation.layout.views(row_T), strict=True):
        assert not torch.equal(first, last)
        assert torch.equal(first.flatten().sort().values, last.flatten().sort().values)


def test_before_the_exchange_a_node_has_the_ranking_that_it_sends() -> None:
    federation = Federation(small(**RING, rounds=1))
    Local(federation, Eager(federation)).train(0)
    for node in range(3):
        before_T = ranks_of(model_task(federation, node, 1, before=True).row, federation.layout)
        assert torch.equal(before_T.double(), federation.sent["ranks"][node])
        assert not torch.equal(before_T, ranks_of(model_task(federation, node, 1).row, federation.layout))


@pytest.mark.parametrize("world", [MASKED, RING], ids=["server", "ring"])
@pytest.mark.parametrize("fault", ["size", "blank"])
def test_what_is_no_ranking_is_dropped_and_counted(tmp_path: Path, world: dict[str, Any], fault: str) -> None:
    attack = {"kind": "malformed", "fault": fault}
    run = gossamer.run(small(**world, rounds=2, hostile={"count": 2}, attack=attack), tmp_path / "run")
    assert run.rounds.column("rejected").to_pylist() == [2, 2]


@pytest.mark.parametrize("world", [MASKED, RING], ids=["server", "ring"])
@pytest.mark.parametrize("attack", ["sign_flip", "alie", {"kind": "gaussian", "sigma": 1e30}, "free_rider"], ids=str)
def test_a_forged_message_is_one_ranking_among_others(tmp_path: Path, world: dict[str, Any], attack: Any) -> None:
    federation = Federation(small(**world, rounds=2, hostile={"count": 3}, attack=attack))
    local = Local(federation, Eager(federation))
    result = local.train(0)
    local.exchange(result)
    assert result.rejected == 0
    for ranks_T in federation.sent["ranks"]:
        for entry, part in federation.layout.views(ranks_T):
            assert part.flatten().sort().values.tolist() == list(range(math.prod(entry.shape)))


@pytest.mark.parametrize("world", [MASKED, RING], ids=["server", "ring"])
def test_halves_are_pure_and_a_state_keeps_its_names_and_types(world: dict[str, Any]) -> None:
    federation = Federation(small(**world))
    method, view, start_T = federation.method, federation.view(0, 0, np.arange(10)), federation.context.start_D
    assert start_T is not None
    (state, own), kept = method.init(federation.context, start_T), start_T.clone()
    before = {name: value.clone() for name, value in state.items()}
    task = method.prepare(own, method.publish(state, view), view)
    assert torch.equal(task.row, start_T)
    outbox, changed = method.finish(task, Result(-task.row, {}, 1, 0.1, 0.0, 0.0), own, view)
    assert (own, changed, outbox.weight) == ({}, {}, 1.0)
    ranks_T = outbox.common["ranks"]
    after = method.merge(state, Inbox({"ranks": ranks_T.double()}, 1, 1.0), view)
    assert {name: (v.dtype, v.shape) for name, v in after.items()} == {n: (v.dtype, v.shape) for n, v in state.items()}
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert torch.equal(start_T, kept)
    model = method.model(own, method.publish(after, view), view)
    assert torch.equal(ranks_of(model.row, view.layout), ranks_of(-start_T, view.layout))


# ---- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"parametrisation": "identity"}, "parametrisation.kind = 'identity'; use parametrisation = 'supermask'"),
        ({"method": {"kind": "frl", "coder": "optimal", "top": 0.5}}, "method.top = 0.5: coder = 'optimal' is for"),
        ({"transforms": ["cast"]}, "transforms.0.kind = 'cast': method.kind = 'frl' has a code of its own"),
        ({**RING, "init": {"shared": False}}, "init.shared = false: with method.kind = 'frl_gossip'"),
        ({"clock": {"kind": "events"}}, "method.kind = 'frl' needs rounds"),
        ({"method": {"kind": "frl", "top": 0}}, "method.top"),
    ],
    ids=["parametrisation", "optimal top", "transforms", "own starts", "clock", "top"],
)
def test_experiments_that_do_not_fit_together_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        small(**{**MASKED, **changes})
    assert told in str(caught.value)


def test_nobody_votes_on_running_statistics() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    for make in (Federation, gossamer.plan):
        with pytest.raises(ExperimentError, match=r"vote on buffers of the model \('2\.running_mean'\).*GroupNorm"):
            make(small(**MASKED, model=model))
