"""Privacy accounting: four accountants of two libraries against each other, closed forms, integrals and papers."""

from __future__ import annotations

import itertools
import logging
import math
import sys
import warnings
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import norm
from scipy.stats import skellam as skellam_noise

import gossamer.accounting
from gossamer.accounting import (
    ORDERS,
    Accountant,
    Release,
    Sampling,
    Skellam,
    Spending,
    advantage,
    epsilon,
    gaussian_epsilon,
    noise_for,
    skellam_rdp,
)
from gossamer.errors import ExperimentError

pytest.importorskip("dp_accounting", reason="privacy accounting needs dp-accounting: pip install 'gossamer[privacy]'")
pytest.importorskip("opacus", reason="privacy accounting needs opacus: pip install 'gossamer[privacy]'")

GRID = [
    (0.001, 0.6, 2000, 1e-5),
    (0.01, 0.5, 200, 1e-6),
    (0.01, 1.0, 1000, 1e-5),
    (0.01, 4.0, 10000, 1e-5),
    (0.1, 1.0, 100, 1e-5),
    (0.1, 2.0, 500, 1e-9),
    (0.3, 20.0, 1000, 1e-3),
    (0.9, 3.0, 10, 1e-4),
]
"""Rate, noise multiplier, times, delta."""


def sampled(z: float, times: int, rate: float) -> list[Release]:
    return [Release(z, times, rate, "poisson")]


@pytest.mark.parametrize(("rate", "z", "times", "delta"), GRID)
def test_accountants_of_two_libraries_agree(rate: float, z: float, times: int, delta: float) -> None:
    pld, rdp, prv = (epsilon(sampled(z, times, rate), delta, by) for by in ("pld", "rdp", "prv"))
    assert pld == pytest.approx(prv, rel=0.02)
    assert pld <= rdp < 2 * pld


@pytest.mark.parametrize(("rate", "z", "times", "delta"), GRID)
def test_renyi_divergences_of_two_libraries_agree(rate: float, z: float, times: int, delta: float) -> None:
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp

    release = Release(z, 1, rate, "poisson")
    found_A = dict(zip(ORDERS, gossamer.accounting._renyi_of_one(release), strict=True))
    for order in (2.0, 3.0, 7.0, 20.0, 63.0, 256.0):
        assert found_A[order] == pytest.approx(compute_rdp(q=rate, noise_multiplier=z, steps=1, orders=order), rel=1e-6)
    other = RDPAccountant()
    other.history = [(z, rate, times)]
    assert epsilon(sampled(z, times, rate), delta, "rdp") == pytest.approx(
        other.get_epsilon(delta, alphas=[order for order in ORDERS if order < 300]), rel=0.01
    )


@pytest.mark.parametrize(
    ("rate", "z", "times"), [(0.01, 4.0, 10000), (0.3, 20.0, 100), (0.01, 1.0, 2000), (0.3, 0.6, 5)]
)
def test_losses_are_rounded_finely_enough(rate: float, z: float, times: int) -> None:
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    fine = from_gaussian_mechanism(z, sampling_prob=rate, value_discretization_interval=1e-4).self_compose(times)
    assert epsilon(sampled(z, times, rate), 1e-5) == pytest.approx(fine.get_epsilon_for_delta(1e-5), rel=1e-3)


@pytest.mark.parametrize(("rate", "z", "times"), [(1e-6, 1e5, 10**18), (1e-8, 1e3, 10**18)])
def test_rounding_does_not_hide_what_is_spent(rate: float, z: float, times: int) -> None:
    # Divergences of one answer are below what the library resolves; so many answers are one with Gaussian noise.
    assert epsilon(sampled(z, times, rate), 1e-5, "rdp") >= gaussian_epsilon(z / rate, times, 1e-5) > 0


def test_orders_are_those_of_the_library() -> None:
    from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

    assert list(ORDERS) == list(DEFAULT_RDP_ORDERS)


@pytest.mark.parametrize(
    ("z", "times", "delta"), [(0.5, 1, 1e-5), (1, 1, 1e-5), (10.0, 100, 1e-3), (3.0, 7, 1e-9), (40.0, 400, 1e-6)]
)
def test_without_sampling_all_agree_with_the_closed_form(z: float, times: int, delta: float) -> None:
    exact = gaussian_epsilon(z, times, delta)
    for releases in ([Release(z, times)], sampled(z, times, 1.0), [Release(z)] * times):
        assert exact * 0.9999 <= epsilon(releases, delta) <= exact * 1.001 + 1e-4
        assert exact * 0.9999 <= epsilon(releases, delta, "prv") <= exact * 1.02
        assert exact <= epsilon(releases, delta, "rdp") <= exact * 1.35


@pytest.mark.parametrize(("mu", "delta"), [(0.1, 1e-3), (0.5, 1e-6), (1.0, 1e-5), (2.0, 1e-2), (6.0, 1e-4)])
def test_closed_form_is_the_integral(mu: float, delta: float) -> None:
    found = gaussian_epsilon(1 / mu, 1, delta)

    def more(x: float) -> float:
        return max(0.0, norm.pdf(x, mu) - math.exp(found) * norm.pdf(x))

    # The densities' ratio is exp(epsilon) here.
    crossing = found / mu + mu / 2
    assert quad(more, crossing, crossing + 40, limit=200, epsabs=0)[0] == pytest.approx(delta, rel=1e-6)
    assert gaussian_epsilon(4 / mu, 16, delta) == pytest.approx(found)


@pytest.mark.parametrize("mu", [33.0, 34.0, 34.2, 35.0, 300.0])
def test_large_losses_stay_finite(mu: float) -> None:
    # Where exp(-epsilon) is hardly a float, dp-accounting alone would say infinity.
    exact = gaussian_epsilon(1 / mu, 1, 1e-5)
    assert exact <= epsilon([Release(1 / mu)], 1e-5) <= exact * 1.04


def test_closed_form_without_a_need_of_epsilon() -> None:
    # At epsilon 0 delta is the distance in total variation.
    z = 10.0
    distance = 2 * norm.cdf(1 / (2 * z)) - 1
    assert gaussian_epsilon(z, 1, distance * 1.001) == 0
    assert 0 < gaussian_epsilon(z, 1, distance * 0.999) < 1e-2
    assert epsilon([Release(z)], distance * 1.01) == 0


def test_published_value_of_the_moments_accountant() -> None:
    # Abadi et al. 2016, Section 5.1: q = .01, sigma = 4, T = 10000, delta = 1e-5 give 1.26.
    assert epsilon(sampled(4.0, 10000, 0.01), 1e-5, "rdp") < 1.26
    # Their conversion is Mironov's: epsilon = T rdp(alpha) + log(1 / delta) / (alpha - 1).
    rdp_A = gossamer.accounting._renyi_of_one(Release(4.0, 1, 0.01, "poisson"))
    assert min(10000 * rdp_A + math.log(1e5) / (np.array(ORDERS) - 1)) == pytest.approx(1.26, abs=0.01)


@pytest.mark.parametrize("by", ["pld", "rdp", "prv"])
def test_no_noise_is_infinite_and_nothing_is_nothing(by: Accountant) -> None:
    assert epsilon([Release(0.0)], 1e-5, by) == math.inf
    assert epsilon([Release(5.0), Release(0.0, 1, 0.01, "poisson")], 1e-5, by) == math.inf
    assert epsilon([Release(0.0, times=0), Release(0.0, 9, 0.0, "poisson")], 1e-5, by) == 0
    assert epsilon([], 1e-5, by) == 0
    assert gaussian_epsilon(0.0, 3, 1e-5) == math.inf
    assert gaussian_epsilon(0.0, 0, 1e-5) == 0
    assert Spending([Release(0.0)], 1e-5, by).after(0) == 0


answers = st.tuples(st.floats(0.3, 100), st.integers(1, 3000), st.floats(1e-4, 1), st.floats(1e-10, 0.1))
noisier = st.floats(1, 10)


@given(answer=answers, factor=noisier, by=st.sampled_from(["none", "poisson"]))
@settings(deadline=None, max_examples=40)
@example(answer=(1.0, 100, 0.1, 1e-5), factor=1.0, by="poisson")
def test_more_noise_fewer_answers_and_larger_delta_spend_less(
    answer: tuple[float, int, float, float], factor: float, by: Sampling
) -> None:
    z, times, rate, delta = answer
    rate = 1.0 if by == "none" else rate
    spent = epsilon([Release(z, times, rate, by)], delta, "rdp") * (1 + 1e-9) + 1e-12
    assert epsilon([Release(z * factor, times, rate, by)], delta, "rdp") <= spent
    assert epsilon([Release(z, int(times / factor), rate, by)], delta, "rdp") <= spent
    assert epsilon([Release(z, times, rate, by)], min(delta * factor, 0.9), "rdp") <= spent
    if by == "poisson":
        assert epsilon([Release(z, times, rate / factor, by)], delta, "rdp") <= spent


@given(answer=answers)
@settings(deadline=None, max_examples=10)
def test_loss_distributions_prove_no_more_than_renyi(answer: tuple[float, int, float, float]) -> None:
    z, times, rate, delta = answer
    assume(times * (rate / z) ** 2 < 50)
    assert epsilon(sampled(z, times, rate), delta) <= epsilon(sampled(z, times, rate), delta, "rdp") * 1.001


@pytest.mark.parametrize("by", ["pld", "rdp"])
def test_composition_is_that_of_the_library(by: Accountant) -> None:
    import dp_accounting as dp

    releases = [
        Release(20.0, 10),
        Release(1.5, 300, 0.01, "poisson"),
        Release(3.0, 50, 0.1, "poisson"),
        Release(30.0, 3),
    ]
    event = dp.ComposedDpEvent(
        [
            dp.SelfComposedDpEvent(dp.GaussianDpEvent(20.0), 10),
            dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(1.5)), 300),
            dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(3.0)), 50),
            dp.SelfComposedDpEvent(dp.GaussianDpEvent(30.0), 3),
        ]
    )
    accountant = dp.pld.PLDAccountant() if by == "pld" else dp.rdp.RdpAccountant()
    expected = accountant.compose(event).get_epsilon(1e-5)
    assert epsilon(releases, 1e-5, by) == pytest.approx(expected, rel=1e-3 if by == "pld" else 1e-9)
    assert epsilon(releases, 1e-5, by) > max(epsilon([one], 1e-5, by) for one in releases)
    assert epsilon(releases, 1e-5, "prv") == pytest.approx(epsilon(releases, 1e-5), rel=0.02)
    split = [*releases[1:], Release(20.0, 4), Release(20.0, 6)]
    assert epsilon(split, 1e-5, by) == pytest.approx(epsilon(releases, 1e-5, by), rel=1e-9)


@pytest.mark.parametrize("by", ["pld", "rdp"])
@pytest.mark.parametrize(
    "releases",
    [[Release(2.0)], [Release(1.0, 2, 0.02, "poisson")], [Release(30.0), Release(1.0, 5, 0.01, "poisson")]],
)
def test_spending_is_a_rising_curve_of_epsilon(releases: list[Release], by: Accountant) -> None:
    spending = Spending(releases, 1e-5, by)
    curve = [spending.after(rounds) for rounds in (0, 1, 2, 5, 20, 21, 100, 400)]
    assert curve[0] == 0
    assert all(before < after for before, after in itertools.pairwise(curve))
    assert curve[4] == pytest.approx(epsilon(releases * 20, 1e-5, by), rel=1e-9)


@pytest.mark.parametrize(
    ("target", "rate", "times", "delta", "by"),
    [
        (8.0, 0.1, 100, 1e-5, "pld"),
        (1.0, 0.01, 1000, 1e-6, "pld"),
        (0.1, 1.0, 50, 1e-5, "pld"),
        (50.0, 1.0, 50, 1e-5, "pld"),
        (0.002, 0.01, 10, 1e-5, "pld"),
        (8.0, 0.1, 100, 1e-5, "rdp"),
        (0.5, 0.01, 1000, 1e-6, "rdp"),
        (2.0, 0.05, 200, 1e-5, "prv"),
    ],
)
def test_noise_for_a_budget_spends_it(target: float, rate: float, times: int, delta: float, by: Accountant) -> None:
    z = noise_for(target, lambda noise: sampled(noise, times, rate), delta, by)
    spent = epsilon(sampled(z, times, rate), delta, by)
    assert target * 0.995 < spent <= target
    assert epsilon(sampled(z * (1 - 2e-3), times, rate), delta, by) > target
    if rate == 1:
        assert gaussian_epsilon(z, times, delta) == pytest.approx(target, rel=0.005)


def test_noise_for_several_answers_with_shares_of_the_noise() -> None:
    def releases(noise: float) -> list[Release]:
        return [Release(noise, 10), Release(3 * noise, 100)]

    z = noise_for(3.0, releases, 1e-5, "pld")
    # Gaussian answers add up as 1 / z^2.
    assert gaussian_epsilon(z / math.sqrt(10 + 100 / 9), 1, 1e-5) == pytest.approx(3.0, rel=0.003)


def test_noise_for_nothing_and_for_too_much() -> None:
    assert noise_for(1.0, lambda noise: [], 1e-5, "pld") == 0
    with pytest.raises(
        ExperimentError, match=r"^privacy\.epsilon = 0\.001: accountant 'rdp' proves no less than 0\.00"
    ) as rdp:
        noise_for(0.001, lambda noise: sampled(noise, 1000, 0.1), 1e-5, "rdp")
    assert "at noise multiplier 100000; use" in str(rdp.value)
    with pytest.raises(ExperimentError, match=r"accountant 'pld' proves no less than 1\.99, at noise multiplier 2"):
        noise_for(1.0, lambda noise: [Release(noise)], 1e-5, "pld", most=2.0)


@pytest.mark.parametrize(("level", "delta", "most"), [(1.0, 0.0, 0.4621), (0.0, 1e-3, 1e-3), (math.inf, 0.0, 1.0)])
def test_advantage(level: float, delta: float, most: float) -> None:
    assert advantage(level, delta) == pytest.approx(most, abs=5e-5)


@given(st.floats(0, 30), st.floats(0, 1))
def test_advantage_is_its_formula_and_a_difference_of_rates(level: float, delta: float) -> None:
    assert advantage(level, delta) == pytest.approx((math.exp(level) - 1 + 2 * delta) / (math.exp(level) + 1), rel=1e-9)
    assert 0 <= advantage(level, delta) <= 1 + 1e-12


@pytest.mark.parametrize(("z", "delta"), [(0.5, 1e-2), (1.0, 1e-5), (3.0, 1e-4)])
def test_advantage_bounds_the_best_test(z: float, delta: float) -> None:
    # Neyman and Pearson: the best test of N(0, z^2) against N(1, z^2) has the total variation for its advantage.
    best = 2 * norm.cdf(1 / (2 * z)) - 1
    assert best <= advantage(gaussian_epsilon(z, 1, delta), delta)
    # Over all delta the bound comes close only with delta as large as that; no bound is below.
    assert min(advantage(gaussian_epsilon(z, 1, d), d) for d in np.geomspace(1e-9, 0.9, 40)) >= best - 1e-9


def renyi(log_p: np.ndarray[Any, Any], log_q: np.ndarray[Any, Any], order: float) -> float:
    """sum p^a q^(1 - a), as a divergence."""
    return float(logsumexp(order * log_p + (1 - order) * log_q)) / (order - 1)


@pytest.mark.parametrize("variance", [2.0, 10.0, 100.0, 3000.0])
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_skellam_bound_is_above_the_divergence(variance: float, distance: int) -> None:
    # Wide enough for the terms of these orders, narrow enough for the logarithms of the probabilities.
    reach = int(8 * distance + 14 * math.sqrt(variance))
    with np.errstate(divide="ignore"):
        log_pmf = skellam_noise.logpmf(np.arange(-reach, reach + 1), variance / 2, variance / 2)
    assert np.isfinite(log_pmf).all()
    log_p, log_q = log_pmf[distance:], log_pmf[:-distance]
    for order in (2, 3, 5, 8):
        truth = max(renyi(log_p, log_q, order), renyi(log_q, log_p, order))
        bound = skellam_rdp(order, distance, distance, variance)
        assert 0 < truth <= bound
        # Nothing is given away where noise is large.
        if variance >= 1000:
            assert bound < truth * 1.02
    for order in (1.5, 2.25, 4.9):
        assert max(renyi(log_p, log_q, order), renyi(log_q, log_p, order)) <= skellam_rdp(
            order, distance, distance, variance
        )


def test_skellam_bound_by_hand() -> None:
    assert skellam_rdp(3, 2.0, 4.0, 10.0) == pytest.approx(3 * 4 / 20 + min((5 * 4 + 24) / 400, 12 / 20))
    assert skellam_rdp(3, 2.0, 4.0, 0.1) == pytest.approx(3 * 4 / 0.2 + 12 / 0.2)
    # On the straight line between orders 3 and 4, of (order - 1) times the divergence.
    at_3, at_4 = (skellam_rdp(order, 2.0, 4.0, 10.0) for order in (3, 4))
    assert skellam_rdp(3.25, 2.0, 4.0, 10.0) * 2.25 == pytest.approx(0.75 * 2 * at_3 + 0.25 * 3 * at_4)


def test_skellam_becomes_gaussian_as_integers_get_finer() -> None:
    dimensions = 1000
    spent = [
        epsilon([Release(4.0, 50, skellam=Skellam(scale, scale * math.sqrt(dimensions)))], 1e-5, "rdp")
        for scale in (10.0, 1e2, 1e3, 1e5)
    ]
    assert all(coarse > fine for coarse, fine in itertools.pairwise(spent))
    whole = [order for order in ORDERS if order == int(order)]
    from dp_accounting.rdp import compute_epsilon

    gaussian = compute_epsilon(whole, [50 * order / (2 * 4.0**2) for order in whole], 1e-5)[0]
    assert spent[-1] == pytest.approx(gaussian, rel=1e-3)
    assert noise_for(
        gaussian, lambda noise: [Release(noise, 50, skellam=Skellam(1e5, 1e6))], 1e-5, "rdp"
    ) == pytest.approx(4.0, rel=2e-3)


def test_skellam_goes_together_with_gaussian_noise() -> None:
    fine = Skellam(1e6, 1e7)
    both = [Release(4.0, 20, skellam=fine), Release(2.0, 3, 0.1, "poisson")]
    assert epsilon(both, 1e-5, "rdp") == pytest.approx(
        epsilon([Release(4.0, 20), Release(2.0, 3, 0.1, "poisson")], 1e-5, "rdp"), rel=0.02
    )


def drawn_without_replacement(order: int, rate: float, z: float, tight: bool) -> float:
    """Wang, Balle and Kasiviswanathan 2019, Theorem 9; tight: Theorem 27. z in the distance of neighbours' answers.

    Transcribed with 60 digits, for the forward differences of exp((l - 1) rdp(l)).
    """
    with localcontext() as digits:
        digits.prec = 60
        q, scale = Decimal(rate), 1 / (2 * Decimal(z) ** 2)
        moment = [(Decimal(l * (l - 1)) * scale).exp() for l in range(order + 3)]  # noqa: E741
        ahead = [sum((-1) ** (l - i) * math.comb(l, i) * moment[i] for i in range(l + 1)) for l in range(order + 3)]  # noqa: E741
        second = (2 * scale).exp()
        total = 1 + q**2 * math.comb(order, 2) * min(4 * (second - 1), 2 * second)
        for j in range(3, order + 1):
            term = 2 * moment[j]
            if tight:
                term = min(term, 4 * (ahead[2 * (j // 2)] * ahead[2 * ((j + 1) // 2)]).sqrt())
            total += q**j * math.comb(order, j) * term
        return float(total.ln()) / (order - 1)


@pytest.mark.parametrize(("rate", "z"), [(0.01, 2.0), (0.1, 1.0), (0.1, 10.0), (0.5, 4.0)])
def test_fixed_samples_follow_the_theorem(rate: float, z: float) -> None:
    found_A = dict(zip(ORDERS, gossamer.accounting._renyi_of_one(Release(z, 1, rate, "fixed")), strict=True))
    for order in (2, 3, 4, 9, 16):
        # Neighbours' answers are up to 2C apart, so that noise of z C is z / 2 of it.
        assert found_A[order] == pytest.approx(drawn_without_replacement(order, rate, z / 2, tight=True), rel=1e-6)
        assert found_A[order] <= drawn_without_replacement(order, rate, z / 2, tight=False) * (1 + 1e-9)


def test_fixed_samples_of_everybody_are_answers_twice_as_sensitive() -> None:
    every = [Release(3.0, 20, 1.0, "fixed")]
    assert epsilon(every, 1e-5, "rdp") == pytest.approx(epsilon([Release(1.5, 20)], 1e-5, "rdp"), rel=1e-12)
    # A unit that says C instead of -C is found as well as that, and better than one that says C instead of nothing.
    truth = gaussian_epsilon(1.5, 20, 1e-5)
    assert epsilon([Release(3.0, 20)], 1e-5, "rdp") < truth <= epsilon(every, 1e-5, "rdp")


@pytest.mark.parametrize(("rate", "z"), [(0.02, 1.0), (0.3, 1.5), (0.8, 3.0)])
def test_fixed_samples_hide_one_unit_exchanged(rate: float, z: float) -> None:
    # The others say nothing; the unit says C where drawn, or -C in the other data set.
    spent, delta = epsilon([Release(z, 1, rate, "fixed")], 1e-5, "rdp"), 1e-5

    def density(x: float, value: float) -> float:
        return float(rate * norm.pdf(x, value, z) + (1 - rate) * norm.pdf(x, 0, z))

    def more(x: float) -> float:
        return max(0.0, density(x, 1.0) - math.exp(spent) * density(x, -1.0))

    assert quad(more, -20 * z, 20 * z, limit=500, points=[0.0, 5 * z, 8 * z])[0] <= delta


@pytest.mark.parametrize("by", ["pld", "prv"])
def test_some_answers_need_renyi_accounting(by: Accountant) -> None:
    with pytest.raises(
        ExperimentError, match=rf"privacy\.accountant = '{by}': .*schedule\.sampling = 'poisson', or priva"
    ):
        epsilon([Release(1.0, 1, 0.1, "fixed")], 1e-5, by)
    with pytest.raises(ExperimentError, match=rf"privacy\.accountant = '{by}': for Skellam noise .* = 'rdp'"):
        epsilon([Release(1.0), Release(1.0, skellam=Skellam(10, 100))], 1e-5, by)


def test_two_kinds_of_neighbours_do_not_mix() -> None:
    with pytest.raises(ExperimentError, match=r"not together with other answers; set schedule\.sampling = 'poisson'"):
        epsilon([Release(1.0, 1, 0.1, "fixed"), Release(1.0, 1, 0.1, "poisson")], 1e-5, "rdp")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: Release(-1.0), "noise = -1: a noise multiplier is 0"),
        (lambda: Release(math.nan), "noise = nan"),
        (lambda: Release(math.inf), "noise = inf"),
        (lambda: Release(1.0, times=-1), "times = -1: an answer is given 0, 1, 2"),
        (lambda: Release(1.0, times=1.5), "times = 1.5"),  # type: ignore[arg-type]
        (lambda: Release(1.0, rate=1.5, sampling="poisson"), "rate = 1.5: give a chance in 0 .. 1"),
        (lambda: Release(1.0, rate=-0.1, sampling="fixed"), "rate = -0.1"),
        (lambda: Release(1.0, rate=0.5), "rate = 0.5: give a chance in 0 .. 1, or 1 where sampling is 'none'"),
        (lambda: Release(1.0, sampling="coins"), "sampling = 'coins': 'none', 'poisson' or 'fixed'"),  # type: ignore[arg-type]
        (lambda: Release(1.0, rate=0.5, sampling="poisson", skellam=Skellam(1, 1)), "with skellam 'none'"),
        (lambda: Release(1.0, skellam=Skellam(2.0, 1.0)), "Skellam(l2=2.0, l1=1.0): sensitivities"),
        (lambda: epsilon([Release(1.0)], 0.0), "privacy.delta = 0: give a number between 0 and 1"),
        (lambda: epsilon([Release(1.0)], 1.0, "rdp"), "privacy.delta = 1"),
        (lambda: gaussian_epsilon(1.0, 1, 2.0), "privacy.delta = 2"),
        (lambda: gaussian_epsilon(-1.0, 1, 0.1), "noise = -1"),
        (lambda: Spending([Release(1.0)], 1e-5).after(-2), "times = -2"),
        (
            lambda: noise_for(0.0, lambda z: [Release(z)], 1e-5, "rdp"),
            "privacy.epsilon = 0: a budget is a number above 0",
        ),
        (lambda: noise_for(-2.0, lambda z: [Release(z)], 1e-5, "rdp"), "privacy.epsilon = -2"),
        (lambda: noise_for(math.nan, lambda z: [Release(z)], 1e-5, "rdp"), "privacy.epsilon = nan"),
        (lambda: noise_for(1.0, lambda z: [Release(z)], 3.0, "rdp"), "privacy.delta = 3"),
        (lambda: advantage(-1.0, 0.0), "epsilon = -1, delta = 0"),
        (lambda: advantage(1.0, 2.0), "epsilon = 1, delta = 2"),
        (lambda: epsilon([Release(0.01)], 1e-5, "prv"), "losses are too large for it with so little noise; use 'pld'"),
    ],
)
def test_bad_input_is_named_in_one_line(wrong: Any, text: str) -> None:
    with pytest.raises(ExperimentError) as found:
        wrong()
    assert text in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("package", "by"), [("dp_accounting.rdp", "rdp"), ("opacus.accountants", "prv")])
def test_without_the_libraries_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, by: Accountant
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExperimentError, match=r"^privacy needs two libraries: pip install 'gossamer\[privacy\]'$"):
        epsilon([Release(1.2345)], 1.2345e-5, by)


def test_output_is_clean(caplog: pytest.LogCaptureFixture) -> None:
    # Here dp-accounting leaves out orders that do not converge, opacus uses the largest of its orders, and takes log 0.
    before = logging.getLogger("absl").level
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        for by in ("pld", "rdp", "prv"):
            epsilon(sampled(1.0625, 100, 0.1), 1e-5, by)
            epsilon(sampled(4.0625, 100, 0.001), 1e-5, by)
            epsilon([Release(4.0625, 10)], 1e-5, by)
    assert not caplog.records
    assert logging.getLogger("absl").level == before
