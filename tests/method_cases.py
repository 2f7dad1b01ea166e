"""Small tensors to call the methods with by hand.

Shapes: T = 10 trainable columns (a body of 6, a head of 4), then 3 buffers, so D = 13.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gossamer.layout import Entry, Layout
from gossamer.learners import Learner
from gossamer.learners.sgd import SGD
from gossamer.methods import Context, Inbox, Result, View

LAYOUT = Layout(
    (
        Entry("body.weight", (3, 2), 0, True),
        Entry("head.weight", (2, 2), 6, True),
        Entry("body.mean", (3,), 10, False),
    )
)
T, D = 10, 13
State = dict[str, Tensor]


def context(nodes: int = 4, learner: Learner | None = None, samples: tuple[int, ...] = (10, 20, 30, 40)) -> Context:
    labels_NC = np.array([[4, 6], [4, 6], [4, 6], [4, 6]][:nodes]) if nodes <= 4 else np.ones((nodes, 2))
    return Context(nodes, 5, LAYOUT, learner or SGD(lr=0.1, batch_size=4, steps=3), samples, labels_NC)


def view(of: Context, node: int = 0, round: int = 0) -> View:
    return View(node, round, of, of.samples[node] if node >= 0 else sum(of.samples), of.nodes)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def result(row: Tensor, steps: int = 3, lr: float = 0.1, slots: State | None = None) -> Result:
    return Result(row, slots or {}, steps, lr, 0.0, 0.0)


def inbox(fields: State, count: int = 4) -> Inbox:
    return Inbox(fields, count, float(count))
