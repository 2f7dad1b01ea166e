"""Learners: agreement with torch.optim, batches of rows, learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.learners import Learner
from gossamer.learners.adam import Adam
from gossamer.learners.adamw import AdamW
from gossamer.learners.sgd import SGD
from gossamer.methods import Terms
from gossamer.training import descend

CASES: list[tuple[Learner, Any]] = [
    (SGD(), lambda p: torch.optim.SGD(p, 1.0)),
    (SGD(weight_decay=0.03), lambda p: torch.optim.SGD(p, 1.0, weight_decay=0.03)),
    (SGD(momentum=0.9), lambda p: torch.optim.SGD(p, 1.0, momentum=0.9)),
    (
        SGD(momentum=0.7, weight_decay=0.1, nesterov=True),
        lambda p: torch.optim.SGD(p, 1.0, momentum=0.7, weight_decay=0.1, nesterov=True),
    ),
    (Adam(), lambda p: torch.optim.Adam(p, 1.0)),
    (
        Adam(beta1=0.5, beta2=0.9, eps=1e-3, weight_decay=0.2),
        lambda p: torch.optim.Adam(p, 1.0, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.2),
    ),
    (Adam(beta1=0.0), lambda p: torch.optim.Adam(p, 1.0, betas=(0.0, 0.999))),
    (AdamW(), lambda p: torch.optim.AdamW(p, 1.0)),
    (AdamW(weight_decay=0.0), lambda p: torch.optim.AdamW(p, 1.0, weight_decay=0.0)),
    (
        AdamW(beta1=0.8, beta2=0.95, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, 1.0, betas=(0.8, 0.95), weight_decay=0.3),
    ),
]
RATES = (0.3, 0.3, 0.1, 0.05, 0.2, 0.01)


def gradients(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Random gradients of very different sizes, one for each rate."""
    dice = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=dice, dtype=dtype) * 10.0 ** (k - 3) for k in range(len(RATES))]


def names(value: object) -> str:
    return repr(value).replace(" ", "")[:60] if isinstance(value, Learner) else ""


@pytest.mark.parametrize(("learner", "make"), CASES, ids=names)
def test_agrees_with_torch(learner: Learner, make: Any) -> None:
    row = torch.linspace(-1, 1, 11, dtype=torch.float64)
    parameter = torch.nn.Parameter(row.clone())
    optimiser = make([parameter])
    slots = learner.fresh(row)
    for rate, grad in zip(RATES, gradients((11,)), strict=True):
        parameter.grad = grad.clone()
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        descend([row], [grad.clone()], [slots], [Terms()], learner, rate)
        torch.testing.assert_close(row, parameter.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("learner", "make"), CASES, ids=names)
def test_float32_is_as_accurate_as_torch(learner: Learner, make: Any) -> None:
    """Bias corrections like 1 - 0.999**t must not be lost to rounding."""
    row = torch.linspace(-1, 1, 11)
    parameter = torch.nn.Parameter(row.clone())
    optimiser = make([parameter])
    slots = learner.fresh(row)
    for rate, grad in zip(RATES, gradients((11,), torch.float32), strict=True):
        parameter.grad = grad.clone()
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        descend([row], [grad.clone()], [slots], [Terms()], learner, rate)
        torch.testing.assert_close(row, parameter.detach(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("learner", "make"), CASES, ids=names)
def test_a_batch_of_rows_is_many_single_rows(learner: Learner, make: Any) -> None:
    rows = torch.randn(4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch, together = rows.clone(), learner.fresh(rows)
    singles, apart = list(rows.clone()), [learner.fresh(row) for row in rows]
    for rate, grad in zip(RATES, gradients((4, 7)), strict=True):
        descend([batch], [grad.clone()], [together], [Terms()], learner, rate)
        for k in range(4):
            descend([singles[k]], [grad[k].clone()], [apart[k]], [Terms()], learner, rate)
    torch.testing.assert_close(batch, torch.stack(singles), rtol=1e-14, atol=1e-14)
    for name in learner.slot_names:
        expected = torch.stack([slots[name] for slots in apart])
        torch.testing.assert_close(together[name], expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("learner", "make"), CASES, ids=names)
def test_fresh_state_is_zero_and_shaped_like_the_rows(learner: Learner, make: Any) -> None:
    for shape in ((5,), (3, 5)):
        slots = learner.fresh(torch.ones(shape, dtype=torch.float64))
        assert tuple(slots) == learner.slot_names
        for name, slot in slots.items():
            assert slot.shape == ((*shape[:-1], 1) if name == "count" else shape)
            assert slot.dtype == torch.float64
            assert not slot.any()


def test_plain_sgd_keeps_no_state() -> None:
    assert SGD().slot_names == ()
    assert SGD(momentum=0.1).slot_names == ("momentum",)


# ---- amount of work and learning rate --------------------------------------------------------------------------


def test_steps() -> None:
    assert SGD(batch_size=10).steps_for(95) == 10  # one epoch, the last batch smaller
    assert SGD(batch_size=10, epochs=3).steps_for(95) == 30
    assert SGD(batch_size=100, epochs=3).steps_for(95) == 3
    assert SGD(batch_size=10, steps=7).steps_for(95) == 7
    assert SGD(epochs=0).steps_for(95) == 0


def closed_form(kind: str, final: float, u: float) -> float:
    return {
        "constant": 1.0,
        "linear": 1 + u * (final - 1),
        "cosine": final + (1 - final) * math.cos(math.pi * u / 2) ** 2,
        "exponential": math.exp(u * math.log(final)) if final > 0 else 0.0,
    }[kind]


@given(
    kind=st.sampled_from(["constant", "linear", "cosine", "exponential"]),
    final=st.floats(0.01, 1.0),
    rounds=st.integers(2, 30),
    warmup=st.integers(0, 5),
)
def test_schedules(kind: Any, final: float, rounds: int, warmup: int) -> None:
    learner = SGD(lr=0.4, lr_schedule=kind, lr_final=final, warmup_rounds=warmup)
    rates = [learner.rate(round, rounds) for round in range(rounds)]
    for round, rate in enumerate(rates):
        if round < warmup:
            assert rate == pytest.approx(0.4 * (round + 1) / warmup)
        else:
            u = (round - warmup) / (rounds - warmup)
            assert rate == pytest.approx(0.4 * closed_form(kind, final, u), rel=1e-12)
    assert all(0 < rate <= 0.4 + 1e-15 for rate in rates)
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)
    if kind != "constant" and rounds > warmup:
        assert learner.rate(rounds, rounds) == pytest.approx(0.4 * final)


def test_no_round_is_played_at_a_rate_of_zero_and_the_rate_stays_where_it_ends() -> None:
    assert SGD(lr_schedule="cosine").rate(19, 20) > 0
    learner = SGD(lr_schedule="cosine", lr_final=0.1)
    assert learner.rate(25, 20) == learner.rate(20, 20) == pytest.approx(0.1 * learner.lr)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "sgd", "nesterov": True}, "momentum"),
        ({"kind": "sgd", "steps": 1, "epochs": 1}, "not both"),
        ({"kind": "sgd", "lr_schedule": "exponential"}, "lr_final"),
        ({"kind": "sgd", "lr": 0.0}, "learner.lr"),
        ({"kind": "adam", "beta2": 1.0}, "learner.beta2"),
        ({"kind": "sgd", "beta1": 0.5}, "beta1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ExperimentError, match=words) as caught:
        Experiment(learner=settings)
    assert "\n" not in str(caught.value)
