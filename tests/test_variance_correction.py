"""Variance-corrected averaging: exact ratios, the law it undoes, agreement with the paper's algorithm, what breaks it.

Shapes: N models of D numbers; S corrected tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer.aggregators.mean import Mean
from gossamer.aggregators.variance_corrected import BLOCK, VarianceCorrected, moments
from gossamer.layout import Entry, Layout

TARGETS = ("others", "own", "conservative", "all", "median")
LAYOUT = Layout((Entry("a.weight", (8, 5), 0, True), Entry("b.weight", (6, 5), 40, True)))


def network(seed: int) -> nn.Module:
    """Convolution, batch norm, embedding, linear: weights, biases, norm parameters, buffers, a single number."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Embedding(7, 3), nn.Linear(6, 5), nn.Linear(5, 1), nn.PReLU()
        ).double()
        for tensor in [*made.parameters(), *made.buffers()]:
            if tensor.is_floating_point():
                tensor.data.copy_(torch.randn_like(tensor) + 0.3)
        return made


def row_of(module: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in [*module.parameters(), *module.buffers()]])


def models(n: int, size: int = 70, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """n independent models of unlike scales and offsets."""
    dice = torch.Generator().manual_seed(seed)
    scales = 0.5 + torch.rand(n, 1, generator=dice, dtype=torch.float64)
    return (torch.randn(n, size, generator=dice, dtype=torch.float64) * scales + 0.1 * scales).to(dtype)


def even(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


def corrected(rows_ND: Tensor, own: int | None = None, **fields: Any) -> Tensor:
    own_D = None if own is None else rows_ND[own]
    return VarianceCorrected(**fields).aggregate(rows_ND, even(len(rows_ND)), own_D, LAYOUT)


def variances(row_D: Tensor) -> list[float]:
    """By numpy, in float64, of the tensors of LAYOUT."""
    return [float(np.var(row_D[e.start : e.stop].double().numpy())) for e in LAYOUT.entries]


# ---- against slow transcriptions -------------------------------------------------------------------------------


def test_it_is_algorithm_3_of_the_paper() -> None:
    """Plain mean of N models, target the mean variance of all of them, tensor by tensor over state dicts."""
    modules = [network(seed) for seed in range(5)]
    layout = Layout.of(modules[0])
    expected = {}
    for name, tensor in modules[0].state_dict().items():
        stacked = torch.stack([module.state_dict()[name].double() for module in modules])
        mean = stacked.mean(0)
        if tensor.dim() >= 2:
            sigma2 = torch.stack([x.var(correction=0) for x in stacked]).mean()
            mu, v = mean.mean(), mean.var(correction=0)
            mean = (mean - mu) * torch.sqrt(sigma2 / v) + mu
        expected[name] = mean
    rows = torch.stack([row_of(module) for module in modules])
    found = VarianceCorrected(target="all").aggregate(rows, even(5), rows[2], layout)
    for entry, value in layout.views(found):
        torch.testing.assert_close(value, expected[entry.name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("ratio", "cap"), [(1.0, False), (0.3, False), (1.0, True)])
def test_targets_with_an_own_weight(target: Any, ratio: float, cap: bool) -> None:
    """beta * own + (1 - beta) * mean of the others, and each target, in plain numpy loops."""
    beta, own, rows = 0.5, 2, models(6).numpy()
    others = [rows[j] for j in range(6) if j != own]
    averaged = beta * rows[own] + (1 - beta) * sum(others) / 5
    expected = averaged.copy()
    for start, stop in ((0, 40), (40, 70)):
        variance = [float(np.var(row[start:stop])) for row in rows]
        rest = [v for j, v in enumerate(variance) if j != own]
        wanted = {
            "others": np.mean(rest),
            "own": variance[own],
            "conservative": 0.2 * variance[own] + 0.8 * np.mean(rest),
            "all": np.mean(variance),
            "median": np.median(variance),
        }[target]
        part = averaged[start:stop]
        factor = np.sqrt(wanted / np.var(part))
        factor = ((min(factor, np.sqrt(6)) if cap else factor) - 1) * ratio + 1
        expected[start:stop] = (part - part.mean()) * factor + part.mean()
    weights = torch.full((6,), (1 - beta) / 5, dtype=torch.float64)
    weights[own] = beta
    rule = VarianceCorrected(target=target, share=0.2, ratio=ratio, cap=cap)
    stats = [rule.statistics(row, LAYOUT) for row in torch.from_numpy(rows)]
    mixed = torch.from_numpy(averaged)
    found = rule.finish(mixed, torch.stack([s for s in stats if s is not None]), weights, own, LAYOUT)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        rule.aggregate(torch.from_numpy(rows), weights, torch.from_numpy(rows[own]), LAYOUT), found
    )


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_over_several_blocks_are_numpys(offset: float) -> None:
    values = np.random.default_rng(0).normal(offset, 0.03, size=2 * BLOCK + 17)
    mean, variance = moments(torch.from_numpy(values))
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert variance == pytest.approx(values.var(), rel=1e-11)
    single = torch.from_numpy(values).float()
    assert moments(single)[1] == pytest.approx(np.var(single.double().numpy()), rel=1e-11)


# ---- exactness and invariances ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 9),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-6, 0.02, 1.0, 1e4]),
    offset=st.sampled_from([0.0, -3.0]),
    double=st.booleans(),
)
def test_variance_equals_its_target_and_the_mean_is_kept(
    n: int, seed: int, scale: float, offset: float, double: bool
) -> None:
    rows = (models(n, seed=seed) * scale + offset * scale).to(torch.float64 if double else torch.float32)
    found, plain = corrected(rows, target="all"), Mean().aggregate(rows, even(n))
    wanted = np.mean([variances(row) for row in rows], axis=0)
    assert found.dtype == rows.dtype
    np.testing.assert_allclose(variances(found), wanted, rtol=1e-12 if double else 1e-6)
    for entry in LAYOUT.entries:
        before, after = (float(row[entry.start : entry.stop].double().mean()) for row in (plain, found))
        assert after == pytest.approx(before, abs=scale * (1e-14 if double else 3e-6))


@pytest.mark.parametrize("target", TARGETS)
def test_identical_models_and_a_single_one_stay_as_they_are(target: Any) -> None:
    row = models(1)[0]
    assert torch.equal(corrected(row[None], own=0, target=target), row)
    torch.testing.assert_close(corrected(row.expand(4, -1), own=1, target=target), row, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("target", TARGETS)
def test_invariances(target: Any) -> None:
    """The order of the models, a common scale and a constant added to a tensor make no difference to what is done."""
    rows, order = models(6), torch.tensor([3, 0, 5, 1, 4, 2])
    found = corrected(rows, own=0, target=target)
    torch.testing.assert_close(corrected(rows[order], own=1, target=target), found, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(corrected(-7.0 * rows, own=0, target=target), -7.0 * found, rtol=1e-12, atol=1e-14)
    shift = torch.cat([torch.full((40,), 2.0), torch.full((30,), -5.0)]).double()
    torch.testing.assert_close(corrected(rows + shift, own=0, target=target), found + shift, rtol=1e-12, atol=1e-12)


def test_there_is_no_epsilon() -> None:
    """Powers of two scale without rounding, so tiny weights are treated exactly like large ones."""
    rows = models(9)
    assert torch.equal(corrected(rows * 2.0**-60), corrected(rows) * 2.0**-60)


def test_models_that_cancel_are_not_blown_up() -> None:
    row = models(1)[0]
    assert not corrected(torch.stack([row, -row])).any()
    nearly = torch.stack([row, -row + 1e-12 * models(1, seed=1)[0]])
    torch.testing.assert_close(corrected(nearly), nearly.mean(0), rtol=1e-12, atol=0)
    less = torch.stack([row, -row + 1e-4 * models(1, seed=1)[0]])
    np.testing.assert_allclose(variances(corrected(less)), variances(row), rtol=1e-3)
    np.testing.assert_allclose(variances(corrected(less, cap=True)), 2 * np.array(variances(less.mean(0))), rtol=1e-10)


def test_constant_tensors_are_averaged() -> None:
    rows = torch.tensor([[1.0], [3.0]]).double().expand(2, 70)
    assert torch.equal(corrected(rows), torch.full((70,), 2.0).double())
    mixed = models(2)
    mixed[:, :40] = 0.1
    found = corrected(mixed)
    torch.testing.assert_close(found[:40], mixed[0, :40])
    assert variances(found)[1] == pytest.approx(np.mean([variances(row)[1] for row in mixed]), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_corrections_do_not_drift(dtype: torch.dtype) -> None:
    """Three models with the same numbers in other orders: each correction has a factor of about sqrt(3) to get right.

    A target that is 1 % off would end at 1.01^10000 = 1e43 times the variance, one that is 1e-6 off at 1.01.
    """
    rule, dice = VarianceCorrected(), torch.Generator().manual_seed(0)
    layout = Layout((Entry("weight", (8, 8), 0, True),))
    row = torch.randn(64, generator=dice).to(dtype)
    before = float(row.double().var())
    weights = even(3)
    for _ in range(10_000):
        rows = torch.stack([row[torch.randperm(64, generator=dice)] for _ in range(3)])
        stats = rule.statistics(row, layout)
        assert stats is not None
        row = rule.finish(rows.mean(0), stats.expand(3, -1), weights, 0, layout)
    drift = abs(float(row.double().var()) / before - 1)
    assert drift < (1e-10 if dtype == torch.float64 else 1e-4)


# ---- the law, and what breaks the correction -------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("n", [2, 8, 32])
def test_variance_law(n: int, rho: float) -> None:
    """The mean of n models with pairwise correlation rho has (1 + (n-1) rho) / n of their variance."""
    dice, size = torch.Generator().manual_seed(n), 20_000
    layout = Layout((Entry("weight", (200, 100), 0, True),))
    common = torch.randn(size, generator=dice)
    apart = torch.randn(n, size, generator=dice)
    rows = 0.02 * (rho**0.5 * common + (1 - rho) ** 0.5 * apart)
    shrunk = moments(Mean().aggregate(rows, even(n)))[1] / 0.02**2
    assert shrunk == pytest.approx((1 + (n - 1) * rho) / n, rel=0.05)
    restored = moments(VarianceCorrected().aggregate(rows, even(n), rows[0], layout))[1] / 0.02**2
    assert restored == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("size", [1e2, 1e6])
def test_one_liar_moves_mean_targets_without_bound_and_the_median_not(size: float) -> None:
    rows = models(9)
    honest = np.array([variances(row) for row in rows[:8]])
    rows[8] *= size
    for target in ("others", "all", "conservative"):
        assert np.all(np.array(variances(corrected(rows, own=0, target=target))) > size**2 / 100 * honest.max(0))
    robust = np.array(variances(corrected(rows, own=0, target="median")))
    assert np.all((robust > 0.999 * honest.min(0)) & (robust < 1.001 * honest.max(0)))


def test_the_median_stands_up_to_any_minority() -> None:
    rows = models(9)
    honest = np.array([variances(row) for row in rows[:5]])
    for factor in (0.0, 1e6):
        rows[5:] = factor * models(9)[5:]
        robust = np.array(variances(corrected(rows, own=0, target="median")))
        assert np.all((robust > 0.999 * honest.min(0)) & (robust < 1.001 * honest.max(0)))


# ---- what is corrected, and by whom ----------------------------------------------------------------------------


def test_which_tensors_are_corrected() -> None:
    """Weights only, or all parameters of more than one number; single numbers and buffers are averaged in any case."""
    modules = [network(seed) for seed in range(4)]
    layout, rows = Layout.of(modules[0]), torch.stack([row_of(module) for module in modules])
    plain = {e.name: v for e, v in layout.views(Mean().aggregate(rows, even(4)))}
    touched = {
        tensors: {
            entry.name
            for entry, value in layout.views(
                VarianceCorrected(tensors=tensors).aggregate(rows, even(4), rows[0], layout)
            )
            if not torch.allclose(value, plain[entry.name], rtol=1e-6)
        }
        for tensors in ("weights", "all")
    }
    weights = {"0.weight", "2.weight", "3.weight", "4.weight"}
    assert touched == {"weights": weights, "all": weights | {"0.bias", "1.weight", "1.bias", "3.bias"}}


def test_only_whole_rows_have_statistics() -> None:
    layout = Layout((*LAYOUT.entries, Entry("mean", (3,), 70, False)))
    rule = VarianceCorrected()
    assert rule.statistics(torch.zeros(70), layout) is None
    assert rule.statistics(torch.zeros(1), layout) is None
    stats = rule.statistics(torch.arange(73.0), layout)
    assert stats is not None
    assert stats.dtype == torch.float64
    assert stats.tolist() == pytest.approx([(40**2 - 1) / 12, (30**2 - 1) / 12])


def test_without_an_own_model_all_are_others() -> None:
    rows = models(5)
    expected = corrected(rows, target="all")
    for target in ("others", "own", "conservative"):
        assert torch.equal(corrected(rows, target=target), expected)


@pytest.mark.parametrize("target", TARGETS)
def test_models_of_weight_zero_are_as_if_absent(target: Any) -> None:
    """With own_weight = 0 the own model is no part of the mean, nor of any target."""
    rows = models(5)
    weights = torch.tensor([0.0, 1, 1, 1, 1]).double() / 4
    found = VarianceCorrected(target=target).aggregate(rows, weights, rows[0], LAYOUT)
    torch.testing.assert_close(found, corrected(rows[1:], target=target), rtol=1e-12, atol=1e-14)


def test_a_node_that_hears_nobody_keeps_its_model() -> None:
    rows = models(3)
    weights = torch.tensor([1.0, 0, 0]).double()
    assert torch.equal(VarianceCorrected().aggregate(rows, weights, rows[0], LAYOUT), rows[0])


def test_ratio_zero_is_the_mean_and_nothing_is_written() -> None:
    rows = models(5)
    kept = rows.clone()
    torch.testing.assert_close(corrected(rows, ratio=0.0), rows.mean(0), rtol=1e-13, atol=1e-15)
    rule, mixed = VarianceCorrected(), rows.mean(0)
    stats = torch.stack([s for s in (rule.statistics(row, LAYOUT) for row in rows) if s is not None])
    before = mixed.clone()
    assert not torch.equal(rule.finish(mixed, stats, even(5), 0, LAYOUT), mixed)
    assert torch.equal(mixed, before)
    assert torch.equal(rows, kept)


def test_without_a_layout_the_update_is_one_tensor() -> None:
    rows = models(4)
    found = VarianceCorrected(target="all").aggregate(rows, even(4))
    assert float(np.var(found.numpy())) == pytest.approx(np.mean(np.var(rows.numpy(), axis=1)), rel=1e-12)
