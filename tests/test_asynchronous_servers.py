"""Servers that do not wait: FedAsync and FedBuff."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quadratics import C_ND, LAYOUT, START_D, D, N

import gossamer
from gossamer.experiment import Experiment
from gossamer.learners.sgd import SGD
from gossamer.methods import Context, Inbox, Result, Task, View
from gossamer.methods.fedasync import FedAsync
from gossamer.methods.fedbuff import FedBuff

SHORT: dict[str, Any] = {"backend": "eager", "evaluate": {"every": 0}, "learner": {"batch_size": 16, "steps": 3}}


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


def test_fedbuff_of_equal_nodes_is_fedavg(tmp_path: Path) -> None:
    """Where all nodes are equally fast and the buffer takes one change of each, nothing is ever stale."""
    found = []
    for name, values in {
        "rounds": {"method": {"kind": "fedavg", "weighting": "uniform"}},
        "events": {"method": {"kind": "fedbuff", "buffer": 4}, "clock": "events"},
    }.items():
        found.append(gossamer.run(Experiment(nodes=4, rounds=3, **SHORT, **values), tmp_path / name).model())
    for left, right in zip(*(module.parameters() for module in found), strict=True):
        assert torch.equal(left, right)


def test_fedasync_of_one_node_that_is_trusted_is_local_work(tmp_path: Path) -> None:
    found = []
    for name, values in {
        "alone": {"method": "local"},
        "events": {"method": {"kind": "fedasync", "alpha": 1.0, "rho": 0.0}, "clock": "events"},
    }.items():
        found.append(gossamer.run(Experiment(nodes=1, rounds=3, **SHORT, **values), tmp_path / name).model())
    for left, right in zip(*(module.parameters() for module in found), strict=True):
        assert torch.equal(left, right)
