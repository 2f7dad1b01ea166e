"""Methods: every formula on small tensors. Shapes: T trainable columns of D, see method_cases."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import D, State, T, context, inbox, random, result, view
from torch import Tensor

from gossamer.layout import Entry, Layout
from gossamer.learners.sgd import SGD
from gossamer.methods import Method, Task
from gossamer.methods.centralised import Centralised
from gossamer.methods.dsgd import DSGD
from gossamer.methods.fedadagrad import FedAdagrad
from gossamer.methods.fedadam import FedAdam
from gossamer.methods.fedavg import FedAvg
from gossamer.methods.fedavgm import FedAvgM
from gossamer.methods.fednova import FedNova, accumulation
from gossamer.methods.fedper import FedPer
from gossamer.methods.fedprox import FedProx
from gossamer.methods.fedyogi import FedYogi
from gossamer.methods.finetune import FineTune
from gossamer.methods.local import Local
from gossamer.methods.scaffold import Scaffold


def server_steps(method: Method, deltas: list[Tensor]) -> list[State]:
    """States of a server that starts at zero and hears these mean changes, one a round."""
    seen = context()
    state, _ = method.init(seen, torch.zeros(D, dtype=torch.float64))
    states = []
    for delta in deltas:
        state = {**state, **method.merge(state, inbox({"delta": delta}), view(seen, -1))}
        states.append(state)
    return states


# ---- formulas: averaging and server optimisers -----------------------------------------------------------------


def test_fedavg_sends_the_change_and_the_server_moves_by_its_mean() -> None:
    method = FedAvg(server_lr=0.5)
    start, end, seen = random(D), random(D, seed=1), context()
    outbox, own = method.finish(Task(start), result(end), {}, view(seen, 2))
    torch.testing.assert_close(outbox.common["delta"], end - start)
    assert outbox.weight == 30
    assert own == {}
    merged = method.merge({"row": start}, inbox({"delta": end - start}), view(seen, -1))["row"]
    torch.testing.assert_close(merged[:T], (start + end)[:T] / 2)
    torch.testing.assert_close(merged[T:], end[T:])
    assert FedAvg(weighting="uniform").weight(view(seen, 2)) == 1.0


def test_fedprox_pulls_towards_the_row_it_started_from() -> None:
    row = random(D)
    task = FedProx(mu=0.3).prepare({}, {"row": row}, view(context()))
    assert task.terms.proximal == 0.3
    assert task.terms.anchor is not None
    assert torch.equal(task.terms.anchor, row[:T])
    assert task.terms.drift is None


def test_fedavgm_after_equal_changes_is_a_geometric_sum() -> None:
    delta = random(D)
    for n, state in enumerate(server_steps(FedAvgM(beta=0.8, server_lr=0.5), [delta] * 6), start=1):
        torch.testing.assert_close(state["momentum"], delta[:T] * (1 - 0.8**n) / 0.2)
        moved = sum((1 - 0.8**k) / 0.2 for k in range(1, n + 1))
        torch.testing.assert_close(state["row"][:T], 0.5 * moved * delta[:T])
        torch.testing.assert_close(state["row"][T:], n * delta[T:])


def scalar_server(kind: str, deltas: list[float], lr: float, beta1: float, beta2: float, tau: float) -> float:
    """Algorithm 2 of Reddi et al. 2021 for one coordinate that starts at zero, line by line."""
    x, m, v = 0.0, 0.0, tau**2
    for d in deltas:
        m = beta1 * m + (1 - beta1) * d
        if kind == "fedadagrad":
            v = v + d * d
        elif kind == "fedyogi":
            v = v - (1 - beta2) * d * d * (0 if v == d * d else math.copysign(1, v - d * d))
        else:
            v = beta2 * v + (1 - beta2) * d * d
        x = x + lr * m / (math.sqrt(v) + tau)
    return x


@given(
    deltas=st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=1, max_size=6),
    beta1=st.floats(0, 0.95),
    beta2=st.floats(0, 0.999),
    tau=st.floats(1e-3, 1.0),
)
@pytest.mark.parametrize("make", [FedAdam, FedYogi, FedAdagrad])
def test_adaptive_servers(make: type[FedAdagrad], deltas: list[float], beta1: float, beta2: float, tau: float) -> None:
    settings: dict[str, Any] = {"server_lr": 0.2, "beta1": beta1, "tau": tau}
    method = make(**settings) if make is FedAdagrad else make(**settings, beta2=beta2)  # type: ignore[call-arg]
    rows = [torch.full((D,), delta, dtype=torch.float64) for delta in deltas]
    row = server_steps(method, rows)[-1]["row"]
    expected = scalar_server(method.kind, deltas, 0.2, beta1, beta2, tau)
    torch.testing.assert_close(row[:T], torch.full((T,), expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(row[T:], torch.full((3,), sum(deltas), dtype=torch.float64))


def test_yogi_forgets_slower_than_adam() -> None:
    """After one huge change, Adam's second moment decays by a factor, Yogi's only by the small squares that follow."""
    deltas = [torch.full((D,), value, dtype=torch.float64) for value in (10.0, *[0.1] * 5)]
    adam, yogi = server_steps(FedAdam(), deltas)[-1], server_steps(FedYogi(), deltas)[-1]
    assert bool((yogi["second_moment"] > adam["second_moment"]).all())
    assert bool((yogi["second_moment"] > 0).all())


# ---- formulas: FedNova -----------------------------------------------------------------------------------------


def weights_by_torch(steps: int, lr: float, momentum: float, nesterov: bool, mu: float) -> Tensor:
    """a: how far the gradient of each local step moved the row, in learning rates; gradient j is unit vector e_j."""
    parameter = torch.nn.Parameter(torch.zeros(steps, dtype=torch.float64))
    optimiser = torch.optim.SGD([parameter], lr, momentum=momentum, nesterov=nesterov)
    for step in range(steps):
        parameter.grad = mu * parameter.detach().clone()
        parameter.grad[step] += 1
        optimiser.step()
    return -parameter.detach() / lr


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)])
@pytest.mark.parametrize("mu", [0.0, 0.1, 3.0, 12.0])
def test_fednova_counts_gradients_as_torch_applies_them(steps: int, momentum: float, nesterov: bool, mu: float) -> None:
    expected = float(weights_by_torch(steps, 0.1, momentum, nesterov, mu).abs().sum())
    assert accumulation(steps, momentum, nesterov, 0.1 * mu) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 5, 33])
@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_fednova_closed_forms(steps: int, rho: float) -> None:
    heavy = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    assert accumulation(steps) == steps
    assert accumulation(steps, rho) == pytest.approx(heavy)
    assert accumulation(steps, rho, True) == pytest.approx(steps + rho * heavy)
    assert accumulation(steps, shrink=rho) == pytest.approx((1 - (1 - rho) ** steps) / rho)


def test_fednova_by_hand() -> None:
    """Two nodes with 1 and 3 plain steps and weights 1/4 and 3/4: d = Delta / tau, tau_eff = 0.25 * 1 + 0.75 * 3."""
    seen = context(2, samples=(10, 30))
    method, start = FedNova(), random(D)
    changes, steps, weights = (random(D, seed=1), random(D, seed=2)), (1, 3), (0.25, 0.75)
    fields: State = {"delta": torch.zeros(D, dtype=torch.float64), "norm": torch.zeros(1, dtype=torch.float64)}
    for node in range(2):
        outbox, _ = method.finish(Task(start), result(start + changes[node], steps[node]), {}, view(seen, node))
        assert outbox.weight == seen.samples[node]
        for name in fields:
            fields[name] += weights[node] * outbox.common[name]
    row = method.merge({"row": start}, inbox(fields, 2), view(seen, -1))["row"]
    direction = 0.25 * changes[0] / 1 + 0.75 * changes[1] / 3
    torch.testing.assert_close(row[:T], (start + 2.5 * direction)[:T])
    torch.testing.assert_close(row[T:], (start + 0.25 * changes[0] + 0.75 * changes[1])[T:])


@pytest.mark.parametrize("learner", [SGD(), SGD(momentum=0.6), SGD(momentum=0.6, nesterov=True)])
def test_fednova_sends_the_norm_of_its_learner(learner: SGD) -> None:
    outbox, _ = FedNova(mu=0.5).finish(
        Task(random(D)), result(random(D, seed=1), 4), {}, view(context(learner=learner))
    )
    expected = float(weights_by_torch(4, 0.1, learner.momentum, learner.nesterov, 0.5).abs().sum())
    assert outbox.common["norm"].shape == (1,)
    assert float(outbox.common["norm"]) == pytest.approx(expected)


def test_fednova_without_steps_sends_no_change() -> None:
    start = random(D)
    outbox, _ = FedNova().finish(Task(start), result(start.clone(), steps=0), {}, view(context()))
    assert not outbox.common["delta"].any()
    assert float(outbox.common["norm"]) == 0


# ---- formulas: SCAFFOLD ----------------------------------------------------------------------------------------


def test_scaffold_control_variate_is_option_two() -> None:
    seen, method = context(), Scaffold()
    row, end = random(D), random(D, seed=1)
    own, down = {"control": random(T, seed=2)}, {"row": row, "control": random(T, seed=3)}
    task = method.prepare(own, down, view(seen))
    assert task.terms.drift is not None
    torch.testing.assert_close(task.terms.drift, down["control"] - own["control"])
    outbox, kept = method.finish(task, result(end, steps=5, lr=0.2), own, view(seen))
    expected = own["control"] - down["control"] + (row - end)[:T] / (5 * 0.2)
    torch.testing.assert_close(kept["control"], expected)
    torch.testing.assert_close(outbox.common["control"], expected - own["control"])
    torch.testing.assert_close(outbox.common["delta"], end - row)
    assert outbox.weight == 1.0


def test_scaffold_after_one_step_the_control_variate_is_the_gradient() -> None:
    seen, method, gradient = context(), Scaffold(), random(T, seed=4)
    own, down = {"control": random(T, seed=2)}, {"row": random(D), "control": random(T, seed=3)}
    task = method.prepare(own, down, view(seen))
    end = task.row.clone()
    end[:T] -= 0.1 * (gradient - own["control"] + down["control"])
    _, kept = method.finish(task, result(end, steps=1), own, view(seen))
    torch.testing.assert_close(kept["control"], gradient)


def test_scaffold_server_moves_its_control_variate_by_the_share_that_took_part() -> None:
    fields = {"delta": random(D, seed=1), "control": random(T, seed=2)}
    state = {"row": random(D), "control": random(T, seed=3)}
    merged = Scaffold(server_lr=0.5).merge(state, inbox(fields, count=1), view(context(), -1))
    torch.testing.assert_close(merged["control"], state["control"] + fields["control"] / 4)
    torch.testing.assert_close(merged["row"][:T], (state["row"] + 0.5 * fields["delta"])[:T])


def test_scaffold_without_steps_keeps_the_control_variate() -> None:
    seen, method, own = context(), Scaffold(), {"control": random(T)}
    task = method.prepare(own, {"row": random(D), "control": random(T, seed=1)}, view(seen))
    outbox, kept = method.finish(task, result(task.row.clone(), steps=0), own, view(seen))
    assert kept == {}
    assert not outbox.common["control"].any()
    assert not outbox.common["delta"].any()


# ---- formulas: graphs, alone, personal -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [DSGD, Local, Centralised])
def test_optimiser_state_is_carried_or_dropped(make: type[Any]) -> None:
    seen = context(learner=SGD(momentum=0.9))
    for keep in (True, False):
        method = make(keep_optimizer=keep)
        state, own = method.init(seen, random(D))
        assert ("momentum" in own) == keep
        down = method.publish(state, view(seen))
        task = method.prepare(own, down, view(seen))
        assert (task.slots is not None) == keep
        velocity = random(T, seed=7)
        _, kept = method.finish(task, result(random(D, seed=1), slots={"momentum": velocity}), own, view(seen))
        assert ("momentum" in kept) == keep


def test_local_keeps_its_row_and_sends_nothing() -> None:
    seen, method, end = context(), Local(), random(D, seed=1)
    state, own = method.init(seen, random(D))
    task = method.prepare(own, method.publish(state, view(seen)), view(seen))
    assert torch.equal(task.row, random(D))
    outbox, kept = method.finish(task, result(end), own, view(seen))
    assert outbox.common == {}
    final = method.model({**own, **kept}, {}, view(seen))
    assert torch.equal(final.row, end)
    assert final.steps == 0
    assert method.merge(state, inbox({}, 0), view(seen)) == {}


@pytest.mark.parametrize(("settings", "steps"), [({}, 8), ({"epochs": 3}, 24), ({"steps": 5}, 5), ({"steps": 0}, 0)])
def test_finetune_takes_steps_from_the_global_row(settings: dict[str, int], steps: int) -> None:
    row, seen = random(D), context()
    task = FineTune(**settings).model({}, {"row": row}, view(seen, 2))  # 30 items in batches of 4: 8 steps an epoch
    assert torch.equal(task.row, row)
    assert task.steps == steps


@pytest.mark.parametrize(
    ("head", "own", "shared"),
    [((), [6, 7, 8, 9], [*range(6), 10, 11, 12]), (("body.*",), [*range(6)], [6, 7, 8, 9, 10, 11, 12])],
)
def test_fedper_sends_the_body_only(head: tuple[str, ...], own: list[int], shared: list[int]) -> None:
    seen, method = context(), FedPer(head=head)
    start, end = random(D), random(D, seed=1)
    state, kept = method.init(seen, start)
    assert torch.equal(kept["head"], start[own])
    kept = {"head": random(len(own), seed=2)}
    down = method.publish(state, view(seen))
    assert torch.equal(down["body"], start[shared])
    task = method.prepare(kept, down, view(seen))
    assert torch.equal(task.row[own], kept["head"])
    assert torch.equal(task.row[shared], start[shared])
    outbox, changed = method.finish(task, result(end), kept, view(seen))
    torch.testing.assert_close(outbox.common["delta"], (end - start)[shared])
    assert torch.equal(changed["head"], end[own])
    merged = method.merge(state, inbox(outbox.common), view(seen, -1))["row"]
    torch.testing.assert_close(merged[shared], end[shared])
    assert torch.equal(merged[own], start[own])
    final = method.model(changed, {"body": end[shared]}, view(seen))
    assert torch.equal(final.row, end)
    assert final.steps == 0


def test_fedper_head_by_default_is_the_last_module_with_its_bias() -> None:
    entries = [Entry("0.weight", (2,), 0, True), Entry("2.weight", (2,), 2, True), Entry("2.bias", (1,), 4, True)]
    seen = dataclasses.replace(context(), layout=Layout(tuple(entries)))
    _, own = FedPer().init(seen, torch.arange(5.0))
    assert own["head"].tolist() == [2, 3, 4]
