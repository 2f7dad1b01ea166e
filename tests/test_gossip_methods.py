"""Push-sum, gradient tracking, quasi-global momentum: the papers' algorithms, and where they end up on quadratics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quadratics
from quadratics import (
    A_NDD,
    C_ND,
    OPTIMUM_D,
    RING_NN,
    START_D,
    D,
    N,
    Population,
    column_stochastic,
    gradient,
    played,
    row_stochastic,
)

from gossamer.errors import ExperimentError, NodeError
from gossamer.experiment import Experiment
from gossamer.layout import Entry, Layout
from gossamer.learners.sgd import SGD
from gossamer.methods.dsgd import DSGD
from gossamer.methods.gradient_tracking import GradientTracking
from gossamer.methods.push_sum import PushSum
from gossamer.methods.quasi_global_momentum import QuasiGlobalMomentum

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
    """What is pushed of a buffer is w times its new value (here node + 1), so that z is a weighted mean of them."""
    layout = Layout((Entry("weight", (D,), 0, True), Entry("count", (1,), D, False)))
    start = np.append(START_D, 0.0)
    made = Population(PushSum(), SGD(lr=0.1, steps=1), 3, layout, [start] * N)
    mass = np.ones(N)
    for round in range(3):
        made.round(round, column_stochastic())
        rows = np.array([float(state["row"][D]) for state in made.states])
        np.testing.assert_allclose(rows, column_stochastic() @ (mass * np.arange(1, N + 1)), rtol=1e-13)
        mass = column_stochastic() @ mass
        assert np.all((made.models()[:, D] > 1) & (made.models()[:, D] < N))


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
    made = played(GradientTracking(), 500, lr=0.1, steps=4)
    np.testing.assert_allclose(made.models(), np.tile(OPTIMUM_D, (N, 1)), rtol=1e-9)
    beside = played(DSGD(), 500, lr=0.1, steps=4).models()
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


@pytest.mark.parametrize("weights_NN", [None, RING_NN], ids=["no gossip", "gossip on a ring"])
def test_one_merge_of_local_optima_is_the_optimum_if_and_only_if_curvatures_are_equal(
    weights_NN: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local training to the end and one all-reduce: mean_i c_i, which is the optimum where all A_i are the same."""

    def merged() -> np.ndarray[Any, Any]:
        made = played(DSGD(), 3, weights_NN, steps=4)
        made.learner = SGD(lr=0.3, steps=2000)
        made.round(3, np.full((N, N), 1 / N), everyone=True)
        return made.models()

    middle = C_ND.mean(0)
    np.testing.assert_allclose(merged(), np.tile(middle, (N, 1)), rtol=1e-9)
    assert np.abs(middle - OPTIMUM_D).max() > 0.05, "with unequal curvatures it is not the optimum"
    monkeypatch.setattr(quadratics, "A_NDD", np.stack([A_NDD[0]] * N))
    optimum = np.linalg.solve(N * A_NDD[0], A_NDD[0] @ C_ND.sum(0))
    np.testing.assert_allclose(merged(), np.tile(optimum, (N, 1)), rtol=1e-9)
