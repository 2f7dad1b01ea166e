"""Balanced merges: weights by brute force, the adjustment in closed form, and what a run makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federations import small, state_of
from hypothesis import given, settings
from hypothesis import strategies as st

import gossamer
from gossamer.errors import ExperimentError
from gossamer.federation import Federation
from gossamer.methods import Context
from gossamer.methods.balanced_merge import BalancedMerge, output_bias, shares
from gossamer.planning import plan

BASE = {"topology": "complete", "schedule": {"kind": "every", "k": 2, "final": "merge"}}


def context(labels_NC: np.ndarray) -> Context:
    return Context(len(labels_NC), 5, None, None, (1,) * len(labels_NC), labels_NC)  # type: ignore[arg-type]


@given(seed=st.integers(0, 10_000), nodes=st.integers(2, 12), classes=st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_weights_are_those_of_another_solver(seed, nodes, classes):
    from scipy.optimize import lsq_linear

    labels_NC = np.random.default_rng(seed).integers(0, 30, (nodes, classes)) + 1
    p, ridge = shares(context(labels_NC)), 0.2
    left = np.vstack([p.T, ridge * np.eye(nodes)])
    right = np.concatenate([np.full(classes, 1 / classes), np.full(nodes, ridge / nodes)])
    expected = lsq_linear(left, right, bounds=(0, np.inf), tol=1e-12).x
    found = BalancedMerge(ridge=ridge).weights(context(labels_NC))
    assert np.mean(found) == pytest.approx(1)
    assert found == pytest.approx(expected * nodes / expected.sum(), abs=1e-4)


def test_nodes_that_are_alike_weigh_alike_and_rare_classes_weigh_more():
    alike = BalancedMerge(ridge=0.1).weights(context(np.full((4, 3), 5)))
    assert alike == pytest.approx((1, 1, 1, 1))
    rare = BalancedMerge(ridge=0.01).weights(context(np.array([[10, 0], [10, 0], [10, 0], [0, 10]])))
    assert rare == pytest.approx((2 / 3, 2 / 3, 2 / 3, 2), abs=1e-2)
    equal = BalancedMerge(ridge=1e3).weights(context(np.array([[10, 0], [10, 0], [10, 0], [0, 10]])))
    assert equal == pytest.approx((1, 1, 1, 1), abs=1e-3)
    assert BalancedMerge().weights(context(np.array([[10, 0], [0, 10]]))) == (1.0, 1.0)


def test_the_last_merge_subtracts_the_logarithm_of_the_class_shares(tmp_path):
    """Menon et al. 2021, eq. 9, on the output's bias; everything else is DSGD's merge to the bit."""
    plain = gossamer.run(small(method="dsgd", **BASE), tmp_path / "plain")
    method = {"kind": "balanced_merge", "adjust": 0.5}
    adjusted = gossamer.run(small(method=method, **BASE), tmp_path / "adjusted")
    federation = Federation(adjusted.experiment)
    bias = output_bias(federation.context)
    before, after = state_of(plain)["state.row"], state_of(adjusted)["state.row"]
    counts = federation.shards.histogram_NC
    q = (counts / counts.sum(1, keepdims=True)).mean(0)
    expected = before[:, bias] - 0.5 * torch.from_numpy(np.log(np.maximum(0.01, 10 * q))).float()
    torch.testing.assert_close(after[:, bias], expected, rtol=1e-5, atol=1e-6)
    rest = torch.ones(before.shape[1], dtype=torch.bool)
    rest[bias] = False
    assert torch.equal(before[:, rest], after[:, rest])


def test_weighted_merges_are_weighted_means(tmp_path):
    """One round and one merge: the row is sum_i w_i x_i / N of the models that local work gave."""
    base = {"topology": "complete", "rounds": 1, "schedule": {"kind": "every", "all_reduce": True}, "dtype": "float64"}
    local = gossamer.run(small(method="local", rounds=1, dtype="float64"), tmp_path / "local")
    method = {"kind": "balanced_merge", "adjust": 0.0, "ridge": 0.05}
    merged = gossamer.run(small(method=method, **base), tmp_path / "merged")
    weights = merged.experiment.method.weights(Federation(merged.experiment).context)
    rows = state_of(local)["own.row"]
    expected = (torch.tensor(weights, dtype=torch.float64)[:, None] * rows / 10).sum(0)
    for row in state_of(merged)["state.row"]:
        torch.testing.assert_close(row, expected, rtol=1e-10, atol=1e-12)


def test_the_tail_is_the_mean_of_the_common_models(tmp_path):
    """Rows after each all-reduce, taken from runs that stop there, averaged by hand."""
    base = {"topology": "complete", "schedule": {"kind": "every", "all_reduce": True}, "dtype": "float64"}
    method = {"kind": "balanced_merge", "adjust": 0.0, "tail": 0.5}
    tail = gossamer.run(small(method=method, rounds=6, **base), tmp_path / "tail")
    rows = [
        state_of(gossamer.run(small(method="dsgd", rounds=rounds, **base), tmp_path / f"r{rounds}"))["state.row"][0]
        for rounds in (4, 5, 6)
    ]
    torch.testing.assert_close(state_of(tail)["state.row"][0], torch.stack(rows).mean(0), rtol=1e-9, atol=1e-12)


def test_what_nodes_tell_each_other_counts_as_set_up(tmp_path):
    experiment = small(method="balanced_merge", **BASE)
    planned, run = plan(experiment), gossamer.run(experiment, tmp_path / "run")
    without = plan(small(method="dsgd", **BASE))
    assert run.summary()["bytes"] == planned.bytes_total == without.bytes_total + planned.setup_bytes
    assert planned.setup_bytes % (10 * 9) == 0
    assert planned.setup_bytes // (10 * 9) < 300, "ten numbers and a frame to each of the others"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schedule": {"participation": 0.5, "final": "merge"}}, "use participation = 1"),
        ({"schedule": "every"}, "balances an all-reduce that ends the run"),
        ({"aggregator": "median"}, "use aggregator = 'mean'"),
    ],
    ids=str,
)
def test_what_cannot_be_balanced_says_so(changes, told, tmp_path):
    with pytest.raises(ExperimentError, match=told):
        gossamer.run(small(**{"method": "balanced_merge", **BASE, **changes}), tmp_path / "run")


def test_a_model_without_a_bias_for_each_class_is_refused(tmp_path):
    from torch import nn

    model = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))  # noqa: E731
    with pytest.raises(ExperimentError, match="no bias of the 10 classes"):
        gossamer.run(small(method="balanced_merge", model=model, **BASE), tmp_path / "run")
