"""Gradients of single examples are what single backward passes give, whatever the route, and bounded one by one."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from example_modules import MODULES, build, made, transcribed, vector
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from gossamer import gradient_routes
from gossamer.example_gradients import ExampleGradients, clip_factors
from gossamer.layout import Layout
from gossamer.resident import Resident

# ---- the routes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_every_route_sums_what_single_backward_passes_give(name: str) -> None:
    module, shape, expected = build(name)
    clip = 0.05 if name == "resnet8" else 0.5
    examples, inputs, labels = made(module, shape, clip=clip, smoothing=0.1)
    assert examples.route == expected
    wanted = transcribed(module, inputs, labels, clip, 0.1)
    open_to = {"loop": ["loop"], "vmap": ["loop", "vmap"], "opacus": ["loop", "vmap", "opacus"]}[expected]
    for route in open_to:
        examples.routes.taken = route
        sums, _, _ = examples.clipped_sum(inputs, labels)
        assert float((torch.cat(sums) - wanted).abs().max()) < 1e-10, route


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet8", "embedding", "char_gru"])
def test_float32_agrees_to_its_rounding(name: str) -> None:
    module, shape, _ = build(name)
    examples, inputs, labels = made(module, shape, torch.float32)
    wanted = transcribed(module, inputs, labels, 1.0)
    assert float((torch.cat(examples.clipped_sum(inputs, labels)[0]) - wanted).abs().max()) < 1e-5


@pytest.mark.parametrize("name", [name for name in MODULES if "mixed" in name])
def test_mixed_examples_are_noticed_in_float32_too(name: str) -> None:
    module, shape, _ = build(name)
    assert made(module, shape, torch.float32)[0].route == "vmap"


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet8", "embedding", "groups and strides"])
def test_agrees_with_opacus(name: str) -> None:
    from opacus.grad_sample import GradSampleModule

    module, shape, _ = build(name)
    theirs = GradSampleModule(copy.deepcopy(module).double())
    examples, inputs, labels = made(module, shape, clip=0.3)
    losses = cross_entropy(theirs(inputs).flatten(0, -2), labels.flatten(), reduction="none").view(7, -1)
    losses.mean(1).mean().backward()
    gradients = torch.cat([p.grad_sample.flatten(1) for p in theirs.parameters()], dim=1)
    wanted = (gradients * (0.3 / gradients.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)
    assert float((torch.cat(examples.clipped_sum(inputs, labels)[0]) - wanted).abs().max()) < 1e-10


@pytest.mark.parametrize("name", ["mlp", "char_gru", "data decide"])
def test_loss_and_hits_are_those_of_the_batch(name: str) -> None:
    module, shape, _ = build(name)
    examples, inputs, labels = made(module, shape, smoothing=0.2)
    logits = module(inputs).detach()
    _, loss, hits = examples.clipped_sum(inputs, labels)
    assert loss == pytest.approx(float(cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=0.2)))
    assert hits == int((logits.argmax(-1) == labels).sum())


@pytest.mark.parametrize("name", ["lenet5", "own weight", "data decide"])
def test_a_few_at_a_time_sum_to_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, shape, route = build(name)
    examples, inputs, labels = made(module, shape)
    at_once = torch.cat(examples.clipped_sum(inputs, labels)[0])
    assert examples.routes.size >= 7
    monkeypatch.setitem(gradient_routes.NUMBERS, route, 2 * examples.routes._held[route])
    assert examples.routes.size == 2
    assert torch.allclose(torch.cat(examples.clipped_sum(inputs, labels)[0]), at_once, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["lenet5", "char_gru"])
def test_the_order_of_the_examples_does_not_matter(name: str) -> None:
    module, shape, _ = build(name)
    examples, inputs, labels = made(module, shape)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    one, other = (torch.cat(examples.clipped_sum(inputs[i], labels[i])[0]) for i in (torch.arange(7), order))
    assert torch.allclose(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["mlp", "char_gru"])
def test_parts_that_rest_count_in_no_norm(name: str) -> None:
    """It is as if they were frozen."""
    module, shape, _ = build(name)
    frozen = copy.deepcopy(module)
    rests = [place % 2 == 1 for place, _ in enumerate(module.parameters())]
    for parameter, rest in zip(frozen.parameters(), rests, strict=True):
        parameter.requires_grad_(not rest)
    examples, inputs, labels = made(module, shape, clip=0.1)
    wanted = torch.cat(made(frozen, shape, clip=0.1)[0].clipped_sum(inputs, labels)[0])
    sums = examples.clipped_sum(inputs, labels, rests)[0]
    assert not any(bool(part.any()) for part, rest in zip(sums, rests, strict=True) if rest)
    moving = torch.cat([part for part, rest in zip(sums, rests, strict=True) if not rest])
    assert torch.allclose(moving, wanted, rtol=0, atol=1e-12)
    assert not torch.allclose(moving, torch.cat(examples.clipped_sum(inputs, labels)[0])[: len(moving)], atol=1e-6)


def test_nobody_drawn_is_a_sum_of_nothing() -> None:
    module, shape, _ = build("lenet5")
    examples, inputs, labels = made(module, shape)
    sums, loss, hits = examples.clipped_sum(inputs[:0], labels[:0])
    assert [float(part.abs().sum()) for part in sums] == [0.0] * len(sums)
    assert math.isnan(loss)
    assert hits == 0


@pytest.mark.parametrize("name", ["mlp", "char_gru", "data decide"])
def test_the_trial_leaves_nothing_behind(name: str) -> None:
    module, shape, _ = build(name)
    resident = Resident(module, Layout.of(module), torch.float32)
    module.train(name == "mlp")
    row, names, dice = resident.row.clone(), list(module.state_dict()), torch.get_rng_state()
    torch.manual_seed(5)
    dice = torch.get_rng_state()
    inputs, labels = (
        (torch.zeros(4, 6, dtype=torch.int64),) * 2 if shape is None else (torch.ones(4, 3, 4), torch.ones(4))
    )
    examples = ExampleGradients(resident, 0.0, 1.0, inputs, labels.long())
    assert torch.equal(resident.row, row)
    assert list(module.state_dict()) == names
    assert module.training == (name == "mlp")
    assert torch.equal(torch.get_rng_state(), dice)
    examples.clipped_sum(inputs, labels.long())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in module.parameters())
    torch.save(module.state_dict(), io.BytesIO())
    resident.row.zero_()
    assert all(float(p.detach().abs().sum()) == 0 for p in module.parameters())


def test_dropout_draws_for_every_example() -> None:
    """All examples are the same; with dropout half of them move nothing of what is dropped, on every route."""
    module = vector(nn.Linear(12, 40), nn.Dropout(0.5), nn.Linear(40, 5))
    examples, inputs, labels = made(module, (3, 4), clip=1e9)
    inputs, labels = inputs[:1].expand(200, 3, 4), labels[:1].expand(200)
    assert examples.route == "opacus"
    for route in ("loop", "vmap", "opacus"):
        found, losses, _ = examples.routes._by[route](inputs, labels)
        dropped = gradient_routes.written_out(found[0]).view(200, 40, 12).abs().sum(2) == 0
        assert 0.45 < float(dropped.double().mean()) < 0.55, route
        assert len(losses.unique()) > 190, route


# ---- the bound -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(0, 1e77), min_size=1, max_size=9),
    st.floats(1e-6, 1e6),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_factor_never_lets_more_through_than_the_bound(squares: list[float], clip: float, dtype: torch.dtype) -> None:
    exact = torch.tensor(squares, dtype=torch.float64)
    factors = clip_factors(exact, clip, dtype).double()
    norms = exact.sqrt()
    assert bool((factors <= 1).all())
    assert bool((factors * norms <= clip).all())
    whole = norms < clip * (1 - 1e-5)
    assert bool((factors[whole] == 1).all())
    # Above 1e38 factors are denormal numbers of float32, with few digits.
    cut = ~whole & (norms < 1e31)
    assert bool((factors[cut] * norms[cut] >= clip * (1 - 1e-5)).all())


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(-30, 37),
    st.floats(1e-3, 1e3),
    st.sampled_from(["loop", "vmap", "opacus"]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_no_example_adds_more_than_the_bound(
    seed: int, size: float, clip: float, route: str, dtype: torch.dtype
) -> None:
    """Whatever is fed in: one clipped gradient is no longer than C, or the step is refused."""
    torch.manual_seed(seed)
    module = vector(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 5, bias=False))
    examples, _, _ = made(module, (3, 4), dtype, clip)
    examples.routes.taken = route
    inputs = torch.randn(1, 3, 4, dtype=torch.float64).mul(10.0**size).to(dtype)
    try:
        sums, _, _ = examples.clipped_sum(inputs, torch.tensor([seed % 5]))
    except FloatingPointError:
        assert size > 18
        return
    assert float(torch.cat(sums).double().norm()) <= clip


@pytest.mark.parametrize("route", ["loop", "vmap", "opacus"])
def test_a_huge_gradient_comes_out_as_long_as_the_bound(route: str) -> None:
    module = vector(nn.Linear(12, 5))
    examples, inputs, _ = made(module, (3, 4), torch.float32, clip=2.0)
    examples.routes.taken = route
    with torch.no_grad():
        examples.resident.row.zero_()
    sums, _, _ = examples.clipped_sum(inputs[:1] * 1e30, torch.tensor([0]))
    assert float(torch.cat(sums).double().norm()) == pytest.approx(2.0, rel=1e-5)
    for bad in (math.inf, math.nan):
        spoiled = inputs.clone()
        spoiled[4, 0, 0] = bad
        with pytest.raises(FloatingPointError, match=r"the gradient of an example has norm (nan|inf)"):
            examples.clipped_sum(spoiled, torch.zeros(7, dtype=torch.int64))


def test_clipping_the_mean_of_the_batch_would_be_something_else() -> None:
    """The pitfall: one example may then fill the bound of all. Clipped alone, it adds C at most, the others theirs."""
    module, shape, _ = build("softmax_regression")
    examples, inputs, labels = made(module, shape, clip=1.0)
    inputs[0] *= 1000
    sums = torch.cat(examples.clipped_sum(inputs, labels)[0])
    singles = [transcribed(module, inputs[i : i + 1], labels[i : i + 1], 1e9) for i in range(7)]
    batch = sum(singles[1:], singles[0])
    clipped_batch = batch * 7 / float(batch.norm())  # As far as the sum of seven clipped gradients may go.
    assert float((sums - clipped_batch).norm()) > 3
    without = torch.cat(examples.clipped_sum(inputs[1:], labels[1:])[0])
    assert float((sums - without).norm()) <= 1.0
    batch_without = batch - singles[0]
    assert float((clipped_batch - batch_without * 7 / float(batch_without.norm())).norm()) > 7
