"""What DSGD can do besides: a fresh optimiser, a pull to the last common model, the mean of the last models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from quadratics import A_NDD, C_ND, RING_NN, START_D, D, N, Population

from gossamer.learners.sgd import SGD
from gossamer.methods import Task
from gossamer.methods.dsgd import DSGD
from gossamer.methods.tail_averaged import TailAveraged


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
