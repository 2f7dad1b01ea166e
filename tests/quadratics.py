"""Methods for graphs on quadratics in float64, where the answers are known.

Node i minimises f_i(x) = 1/2 (x - c_i)' A_i (x - c_i); the mean of the f_i has its minimum at
(sum_i A_i)^-1 sum_i A_i c_i. Shapes: N nodes, D numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gossamer.layout import Entry, Layout
from gossamer.learners.sgd import SGD
from gossamer.methods import Context, Inbox, Method, Result, Task, View

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
