"""Methods for graphs and for servers that do not wait, on quadratics in float64 where the answers are known.

Node i minimises f_i(x) = 1/2 (x - c_i)' A_i (x - c_i); the mean of the f_i has its minimum at
(sum_i A_i)^-1 sum_i A_i c_i. Shapes: N nodes, D numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gossamer.errors import ExperimentError, NodeError
from gossamer.experiment import Experiment
from gossamer.layout import Entry, Layout
from gossamer.learners.sgd import SGD
from gossamer.methods import Context, Inbox, Method, Result, Task, View
from gossamer.methods.dsgd import DSGD
from gossamer.methods.fedasync import FedAsync
from gossamer.methods.fedbuff import FedBuff
from gossamer.methods.gradient_tracking import GradientTracking
from gossamer.methods.push_sum import PushSum
from gossamer.methods.quasi_global_momentum import QuasiGlobalMomentum
from gossamer.methods.tail_averaged import TailAveraged

N, D = 5, 3
LAYOUT = Layout((Entry("weight", (D,), 0, True),))
DICE = np.random.default_rng(0)
C_ND = DICE.normal(size=(N, D))
A_NDD = np.stack([(root := DICE.normal(size=(D, D))) @ root.T / D + 0.5 * np.eye(D) for _ in range(N)])
OPTIMUM_D = np.linalg.solve(A_NDD.sum(0), np.einsum("nij,nj->i", A_NDD, C_ND))
START_D = DICE.normal(size=D)
RING_NN = (np.eye(N) + np.roll(np.eye(N), 1, 0) + np.roll(np.eye(N), -1, 0)) / 3
"""Doubly stochastic."""
ARROWS = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2), (0, 3), (1, 4)]
"""A strongly connected directed graph, (sender, receiver), on which no two nodes are alike."""


def column_stochastic() -> np.ndarray[Any, Any]:
    matrix = np.eye(N)
    for sender, receiver in ARROWS:
        matrix[receiver, sender] = 1
    return matrix / matrix.sum(0)


def row_stochastic() -> np.ndarray[Any, Any]:
    matrix = (column_stochastic() > 0).astype(float)
    return matrix / matrix.sum(1, keepdims=True)


def gradient(node: int, row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(A_NDD[node] @ (row - C_ND[node]))


@dataclasses.dataclass
class Population:
    """A plain loop over the protocol on a graph: exact gradients, W @ messages. W = None: no exchange."""

    method: Method
    learner: SGD
    rounds: int
    layout: Layout = LAYOUT
    starts: Any = None

    def __post_init__(self) -> None:
        self.seen = Context(N, self.rounds, self.layout, self.learner, (8,) * N)
        starts = [START_D] * N if self.starts is None else self.starts
        made = [self.method.init(self.seen, torch.tensor(row)) for row in starts]
        self.states, self.own = [state for state, _ in made], [own for _, own in made]
        self.sent: list[dict[str, Tensor]] = []

    def view(self, node: int, round: int) -> View:
        return View(node, round, self.seen, 8, N)

    def work(self, node: int, task: Task, round: int) -> Result:
        row, size, lr = task.row.clone(), self.layout.trainable, self.learner.rate(round, self.rounds)
        slots = {name: (task.slots or self.learner.fresh(row[:size]))[name].clone() for name in self.learner.slot_names}
        steps = self.learner.steps_for(8)
        for _ in range(steps):
            grad = torch.from_numpy(gradient(node, row[:D].numpy()))
            if task.terms.proximal and task.terms.anchor is not None:
                grad = grad + task.terms.proximal * (row[:size] - task.terms.anchor)
            if task.terms.drift is not None:
                grad = grad + task.terms.drift
            self.learner.update(row[:size], grad, slots, lr)
        row[size:] = node + 1.0  # buffers, if there are any
        return Result(row, slots, steps, lr, 0.0, 0.0)

    def round(self, round: int, weights_NN: Any = None, everyone: bool = False) -> None:
        self.sent = []
        for node in range(N):
            view = self.view(node, round)
            task = self.method.prepare(self.own[node], self.method.publish(self.states[node], view), view)
            outbox, changed = self.method.finish(task, self.work(node, task, round), self.own[node], view)
            self.own[node] = {**self.own[node], **changed}
            self.sent.append({name: value.clone() for name, value in outbox.common.items()})
        mixing = torch.eye(N, dtype=torch.float64) if weights_NN is None else torch.from_numpy(weights_NN)
        for node in range(N):
            fields = {
                name: sum((mixing[node, j] * self.sent[j][name] for j in range(N)), torch.zeros(1))
                for name in self.sent[0]
            }
            inbox = Inbox(fields, N - 1, 1.0, everyone=everyone)
            self.states[node] = {
                **self.states[node],
                **self.method.merge(self.states[node], inbox, self.view(node, round)),
            }

    def models(self) -> np.ndarray[Any, Any]:
        rows = []
        for node in range(N):
            view = self.view(node, self.rounds)
            task = self.method.model(self.own[node], self.method.publish(self.states[node], view), view)
            assert task.steps == 0
            rows.append(task.row.numpy())
        return np.stack(rows)


def played(
    method: Method, rounds: int = 20, weights_NN: Any = RING_NN, starts: Any = None, **learner: Any
) -> Population:
    made = Population(method, SGD(**{"lr": 0.1, "steps": 3, **learner}), rounds, starts=starts)
    for round in range(rounds):
        made.round(round, weights_NN)
    return made


# ---- push-sum --------------------------------------------------------------------------------------------------


def test_push_sum_reaches_the_mean_on_a_directed_graph_where_averaging_does_not() -> None:
    starts = np.random.default_rng(1).normal(size=(N, D))
    pushed = played(PushSum(), 200, column_stochastic(), starts, steps=0)
    np.testing.assert_allclose(pushed.models(), np.tile(starts.mean(0), (N, 1)), rtol=1e-12)
    averaged = played(DSGD(), 200, row_stochastic(), starts, steps=0).models()
    # Averaging agrees too, but on a mean with other weights: the left eigenvector of W to the eigenvalue 1.
    values, vectors = np.linalg.eig(row_stochastic().T)
    weights = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    np.testing.assert_allclose(averaged, np.tile(weights @ starts / weights.sum(), (N, 1)), rtol=1e-10)
    assert np.abs(averaged - starts.mean(0)).max() > 0.05


def test_push_sum_keeps_sums_and_follows_the_mean_gradient() -> None:
    """sum_i x_i moves by minus lr times the sum of the gradients at the z_i, sum_i w_i not at all."""
    made = Population(PushSum(), SGD(lr=0.1, steps=1), 30)
    for number in range(30):
        total = sum(state["row"].numpy() for state in made.states)
        slope = sum(gradient(node, row) for node, row in enumerate(made.models()))
        made.round(number, column_stochastic())
        np.testing.assert_allclose(sum(state["row"].numpy() for state in made.states), total - 0.1 * slope, rtol=1e-12)
        assert float(sum(state["mass"] for state in made.states)) == pytest.approx(N, rel=1e-13)
    assert len({round(float(state["mass"]), 6) for state in made.states}) == N


@pytest.mark.parametrize("steps", [1, 4])
def test_push_sum_is_algorithm_1(steps: int) -> None:
    """Stochastic gradient push: x takes the steps made at z, then x and w are pushed."""
    matrix, x, w = column_stochastic(), np.tile(START_D, (N, 1)), np.ones((N, 1))
    for _ in range(25):
        z = x / w
        for node in range(N):
            local = z[node].copy()
            for _ in range(steps):
                local -= 0.1 * gradient(node, local)
            x[node] += local - z[node]
        x, w = matrix @ x, matrix @ w
    made = played(PushSum(), 25, matrix, steps=steps)
    np.testing.assert_allclose(made.models(), x / w, rtol=1e-11)


def test_push_sum_pushes_buffers_as_means() -> None:
    """z of a buffer tends to the mean of what the nodes measured, here 1 ... N, whatever the graph's bias."""
    layout = Layout((Entry("weight", (D,), 0, True), Entry("count", (1,), D, False)))
    start = np.append(START_D, 0.0)
    made = Population(PushSum(), SGD(lr=0.1, steps=1), 60, layout, [start] * N)
    made.round(0, column_stochastic())
    rows = np.array([float(state["row"][D]) for state in made.states])
    np.testing.assert_allclose(rows, column_stochastic() @ np.arange(1, N + 1), rtol=1e-13)


def test_push_sum_momentum_is_kept_or_not() -> None:
    kept, fresh = (played(PushSum(keep_optimizer=k), 10, momentum=0.9).models() for k in (True, False))
    np.testing.assert_allclose(kept, played(DSGD(), 10, momentum=0.9).models(), rtol=1e-12)
    np.testing.assert_allclose(fresh, played(DSGD(keep_optimizer=False), 10, momentum=0.9).models(), rtol=1e-12)
    assert np.abs(kept - fresh).max() > 0.01


def test_push_sum_names_a_node_that_nobody_sends_to() -> None:
    made = Population(PushSum(), SGD(steps=0), 100)
    matrix = np.eye(N)
    matrix[1, 0], matrix[0, 0] = 0.5, 0.5  # node 0 gives half away each round and gets nothing
    for round in range(99):
        made.round(round, matrix)
    np.testing.assert_allclose(made.models(), np.tile(START_D, (N, 1)), rtol=1e-12)
    with pytest.raises(NodeError, match=r"node 0, round 100.*strongly connected"):
        made.round(99, matrix)


# ---- gradient tracking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange_lr", [1.0, 0.5])
@pytest.mark.parametrize("steps", [1, 4])
def test_gradient_tracking_is_algorithm_1(steps: int, exchange_lr: float) -> None:
    """K-GT as published, from c = 0."""
    x, c, lr = np.tile(START_D, (N, 1)), np.zeros((N, D)), 0.05
    for _ in range(30):
        z = np.empty((N, D))
        for node in range(N):
            local = x[node].copy()
            for _ in range(steps):
                local -= lr * (gradient(node, local) + c[node])
            z[node] = (x[node] - local) / (steps * lr)
        c = c - z + RING_NN @ z
        x = RING_NN @ (x - exchange_lr * steps * lr * z)
    made = played(GradientTracking(exchange_lr=exchange_lr), 30, lr=lr, steps=steps)
    np.testing.assert_allclose(made.models(), x, rtol=1e-11)
    kept = np.stack(
        [(own["correction"] + state["tracked"]).numpy() for own, state in zip(made.own, made.states, strict=True)]
    )
    np.testing.assert_allclose(kept, c, rtol=1e-10)


def test_gradient_tracking_reaches_the_optimum_where_dsgd_stops_beside_it() -> None:
    made = played(GradientTracking(), 1500, lr=0.05, steps=4)
    np.testing.assert_allclose(made.models(), np.tile(OPTIMUM_D, (N, 1)), rtol=1e-9)
    beside = played(DSGD(), 1500, lr=0.05, steps=4).models()
    assert np.abs(beside.mean(0) - OPTIMUM_D).max() > 0.01
    assert np.abs(beside - beside.mean(0)).max() > 0.01


def test_corrections_sum_to_zero_with_or_without_exchange() -> None:
    made = Population(GradientTracking(), SGD(lr=0.1, steps=3), 12)
    for round in range(12):
        made.round(round, RING_NN if round % 3 else None)
        total = sum(own["correction"] + state["tracked"] for own, state in zip(made.own, made.states, strict=True))
        np.testing.assert_allclose(total, np.zeros(D), atol=1e-12)
    assert float(made.own[0]["correction"].abs().max()) > 0.1


def test_gradient_tracking_without_steps_only_averages() -> None:
    starts = np.random.default_rng(2).normal(size=(N, D))
    made = played(GradientTracking(), 1, RING_NN, starts, steps=0)
    np.testing.assert_allclose(made.models(), RING_NN @ starts, rtol=1e-13)


# ---- quasi-global momentum -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "beta", "mu"), [(1, 0.9, 0.9), (3, 0.8, 0.6)])
def test_quasi_global_momentum_is_algorithm_1(steps: int, beta: float, mu: float) -> None:
    """QG-DSGDm as published for one step; with more the momentum stands still during them."""
    x, m, lr = np.tile(START_D, (N, 1)), np.zeros((N, D)), 0.05
    for _ in range(30):
        half = x.copy()
        for node in range(N):
            for _ in range(steps):
                half[node] -= lr * (gradient(node, half[node]) + beta * m[node])
        after = RING_NN @ half
        m = mu * m + (1 - mu) * (x - after) / (lr * steps)
        x = after
    made = played(QuasiGlobalMomentum(beta=beta, mu=mu), 30, lr=lr, steps=steps)
    np.testing.assert_allclose(made.models(), x, rtol=1e-11)


def test_quasi_global_momentum_of_zero_is_dsgd() -> None:
    np.testing.assert_array_equal(played(QuasiGlobalMomentum(beta=0.0)).models(), played(DSGD()).models())


def test_quasi_global_momentum_uses_the_rate_of_the_round() -> None:
    """A movement is divided by the rate that made it: with beta = 0 and one node for all, m is the last gradient."""
    made = Population(QuasiGlobalMomentum(beta=0.0, mu=0.0), SGD(lr=0.1, steps=1, lr_schedule="linear"), 4)
    for round in range(4):
        before = made.models()
        made.round(round)
        slopes = [gradient(node, row) for node, row in enumerate(before)]
        np.testing.assert_allclose([state["momentum"].numpy() for state in made.states], slopes, rtol=1e-12)


# ---- DSGD's options --------------------------------------------------------------------------------------------


def test_dsgd_keeps_nothing_that_no_option_asks_for() -> None:
    made = Population(DSGD(), SGD(momentum=0.9), 1)
    assert made.states[0].keys() == {"row"}
    assert made.own[0].keys() == {"momentum"}


def test_reset_at_merge_starts_afresh_after_all_reduces_only() -> None:
    """With nothing but all-reduces it is keep_optimizer = false; without any it is keep_optimizer = true."""
    even, learner = np.full((N, N), 1 / N), SGD(lr=0.05, steps=3, momentum=0.9)
    found = {}
    for name, method in {
        "reset": DSGD(reset_at_merge=True),
        "fresh": DSGD(keep_optimizer=False),
        "kept": DSGD(),
    }.items():
        for everyone in (True, False):
            made = Population(method, learner, 6)
            for round in range(6):
                made.round(round, even if everyone else RING_NN, everyone)
            found[name, everyone] = made.models()
    np.testing.assert_array_equal(found["reset", True], found["fresh", True])
    np.testing.assert_array_equal(found["reset", False], found["kept", False])
    assert np.abs(found["fresh", True] - found["kept", True]).max() > 0.01


def test_the_optimiser_starts_afresh_once() -> None:
    made = Population(DSGD(reset_at_merge=True), SGD(lr=0.05, steps=2, momentum=0.9), 4)
    zeros = []
    for round, everyone in enumerate((False, True, False, False)):
        task = made.method.prepare(
            made.own[0], made.method.publish(made.states[0], made.view(0, round)), made.view(0, 0)
        )
        assert task.slots is not None
        zeros.append(not task.slots["momentum"].any())
        made.round(round, RING_NN, everyone)
    assert zeros == [True, False, True, False]


def test_pull_back_holds_nodes_near_the_last_common_model() -> None:
    """Local work to the end gives the minimum of f_i + p/2 ||x - a||^2, a: the start, then the last all-reduce."""
    pull, even = 0.7, np.full((N, N), 1 / N)
    made = Population(DSGD(pull_back=pull), SGD(lr=0.2, steps=400), 4)

    def ends(anchor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.stack(
            [np.linalg.solve(a + pull * np.eye(D), a @ c + pull * anchor) for a, c in zip(A_NDD, C_ND, strict=True)]
        )

    made.round(0, RING_NN)
    np.testing.assert_allclose(made.models(), RING_NN @ ends(START_D), rtol=1e-10)
    made.round(1, even, everyone=True)
    common = ends(START_D).mean(0)
    np.testing.assert_allclose(made.models(), np.tile(common, (N, 1)), rtol=1e-10)
    made.round(2)
    np.testing.assert_allclose(made.models(), ends(common), rtol=1e-10)


@pytest.mark.parametrize(("share", "averaged"), [(0.01, 1), (0.3, 3), (1.0, 10)])
def test_tail_averaging_sends_the_mean_of_the_last_models(share: float, averaged: int) -> None:
    plain = Population(DSGD(), SGD(lr=0.05, steps=2, momentum=0.9), 10)
    tail = Population(TailAveraged(share=share), plain.learner, 10)
    rows = []
    for round in range(10):
        plain.round(round, RING_NN)
        tail.round(round, RING_NN)
        rows.append(np.stack([message["row"].numpy() for message in plain.sent]))
        if round < 9:
            np.testing.assert_array_equal(tail.models(), plain.models())
    np.testing.assert_allclose(tail.models(), RING_NN @ np.mean(rows[-averaged:], axis=0), rtol=1e-12)


def test_tail_averaging_counts_only_rounds_in_which_a_node_took_part() -> None:
    made = Population(TailAveraged(share=1.0), SGD(lr=0.1, steps=1), 6)
    own, rows = made.own[0], []
    for round in (1, 3, 5):
        result = made.work(0, Task(torch.full((D,), float(round), dtype=torch.float64)), round)
        outbox, changed = made.method.finish(Task(result.row), result, own, made.view(0, round))
        own, rows = {**own, **changed}, [*rows, result.row]
    torch.testing.assert_close(outbox.common["row"], torch.stack(rows).mean(0))


# ---- servers that do not wait ----------------------------------------------------------------------------------


def server_view() -> View:
    return View(-1, 3, Context(N, 9, LAYOUT, SGD(), (8,) * N), 8, 1)


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({"staleness": "constant"}, (0.6, 0.6, 0.6, 0.6)),
        ({"staleness": "polynomial", "a": 0.5}, (0.6, 0.3, 0.2, 0.1)),
        ({"staleness": "polynomial", "a": 1.0, "alpha": 1.0}, (1.0, 1 / 4, 1 / 9, 1 / 36)),
        ({"staleness": "hinge", "a": 10.0, "b": 3}, (0.6, 0.6, 0.6 / 51, 0.6 / 321)),
    ],
)
def test_fedasync_mixes_by_staleness(settings: dict[str, Any], shares: tuple[float, ...]) -> None:
    method, row, new = FedAsync(**settings), torch.tensor(START_D), torch.tensor(C_ND[0])
    for staleness, share in zip((0, 3, 8, 35), shares, strict=True):
        inbox = Inbox({"row": new}, 1, 1.0, staleness=(staleness,))
        found = method.merge({"row": row}, inbox, server_view())["row"]
        np.testing.assert_allclose(found, (1 - share) * START_D + share * C_ND[0], rtol=1e-12)
        assert method.discount(staleness) == 1.0


def test_fedasync_work_has_a_proximal_term_and_sends_the_model() -> None:
    row, at = torch.tensor(START_D), server_view()
    task = FedAsync(rho=0.3).prepare({}, {"row": row}, at)
    assert task.terms.proximal == 0.3
    assert task.terms.anchor is not None
    assert torch.equal(task.terms.anchor, row)
    assert FedAsync(rho=0.0).prepare({}, {"row": row}, at).terms.anchor is None
    end = torch.tensor(C_ND[0])
    outbox, own = FedAsync().finish(task, Result(end, {}, 1, 0.1, 0.0, 0.0), {}, at)
    assert torch.equal(outbox.common["row"], end)
    assert own == {}


def test_fedbuff_takes_the_mean_of_discounted_changes() -> None:
    """x + eta_s / K * sum_k delta_k / sqrt(1 + d_k), whatever the nodes' items."""
    method, ages = FedBuff(buffer=3, server_lr=0.7), (0, 3, 8)
    assert method.buffered == 3
    weights = [
        method.finish(Task(torch.zeros(D)), Result(torch.ones(D), {}, 1, 0.1, 0, 0), {}, view)[0].weight
        for view in (server_view(), dataclasses.replace(server_view(), samples=99))
    ]
    assert weights == [1.0, 1.0]
    deltas = [torch.tensor(c) * method.discount(age) for c, age in zip(C_ND[:3], ages, strict=True)]
    inbox = Inbox({"delta": torch.stack(deltas).mean(0)}, 3, 3.0, staleness=ages)
    found = method.merge({"row": torch.tensor(START_D)}, inbox, server_view())["row"]
    np.testing.assert_allclose(found, START_D + 0.7 / 3 * (C_ND[0] + C_ND[1] / 2 + C_ND[2] / 3), rtol=1e-12)


# ---- what does not fit together --------------------------------------------------------------------------------

PUSH = {"kind": "ring", "weights": "out_degree"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "push_sum", "topology": "ring"}, "topology.weights = 'metropolis'.*'out_degree'"),
        ({"method": "push_sum", "topology": {**PUSH, "own_weight": 0.5}}, "own_weight"),
        ({"method": "push_sum", "topology": PUSH, "aggregator": "median"}, "aggregator.kind = 'median'"),
        ({"method": "gradient_tracking", "topology": "ring", "learner": "adam"}, "learner.kind = 'adam'"),
        (
            {"method": "quasi_global_momentum", "topology": "ring", "learner": {"kind": "sgd", "momentum": 0.9}},
            "learner.momentum = 0.9",
        ),
        ({"method": "fedasync"}, "clock.kind = 'rounds'.*'events'"),
        ({"method": "fedbuff"}, "clock.kind = 'rounds'.*'events'"),
        ({"method": {"kind": "fedasync", "alpha": 1.5}, "clock": "events"}, "method.alpha"),
        ({"method": {"kind": "tail_averaged", "share": 0}, "topology": "ring"}, "method.share"),
    ],
)
def test_bad_combinations_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ExperimentError, match=words) as caught:
        Experiment(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "push_sum", "topology": PUSH},
        {"method": "gradient_tracking", "topology": "ring"},
        {"method": "quasi_global_momentum", "topology": "ring"},
    ],
)
def test_good_combinations_are_taken(values: dict[str, Any]) -> None:
    made = Experiment(**values)
    assert Experiment.from_toml(made.to_toml()) == made
