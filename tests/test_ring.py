"""Numbers as integers: unbiased rounding, bounds that nothing breaks, noise with the distribution it is named for."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from gossamer.errors import AggregationError, ExperimentError
from gossamer.secure import ring

finite = st.floats(allow_nan=False, allow_infinity=False)
vectors = arrays(np.float64, st.integers(0, 12), elements=finite) | arrays(
    np.float32, st.integers(0, 12), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)
seeds = st.integers(0, 2**32).map(np.random.default_rng)


def square(integers_L):
    """Exactly, in Python's integers."""
    return sum(int(k) ** 2 for k in integers_L)


# Rounding


@pytest.mark.parametrize("value", [0.25, -0.25, 7.9, -1234.5, 1e-3])
def test_rounding_is_unbiased_and_goes_to_a_neighbour(value):
    draws = 200_000
    rounded_L = ring.rounded(np.full(draws, value), np.random.default_rng(1))
    assert set(np.unique(rounded_L)) == {math.floor(value), math.ceil(value)}
    share = value - math.floor(value)
    deviation = rounded_L.mean() - value
    assert abs(deviation) < 4 * math.sqrt(share * (1 - share) / draws)


def test_integers_stay_and_a_trace_below_zero_does_not_become_minus_one():
    rng = np.random.default_rng(0)
    exact_L = np.array([0.0, -0.0, 1.0, -1.0, 2.0**31, -(2.0**31), 12345.0])
    assert (ring.rounded(exact_L, rng) == exact_L).all()
    assert (ring.rounded(np.full(1000, -1e-300), rng) == 0).all()


@given(values_L=vectors, bound=st.floats(1e-6, 1e6), scale=st.floats(1e-3, 1e3), rng=seeds)
@settings(max_examples=200, deadline=None)
def test_levels_stay_within_the_bound_and_next_to_the_number(values_L, bound, scale, rng):
    levels_L = ring.levels(values_L, scale, bound, rng)
    assert levels_L.dtype == np.uint32
    signed_L = levels_L.view(np.int32).astype(np.int64)
    limit = ring.integer_bound(bound, scale)
    assert limit == math.ceil(bound * scale)
    assert (np.abs(signed_L) <= limit).all()
    clamped_L = np.clip(values_L.astype(np.float64), -bound, bound)
    assert (np.abs(signed_L - clamped_L * scale) < 1 + 1e-9).all()


@given(
    signed_NL=arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(-(2**28), 2**28)),
    scale=st.floats(1e-3, 1e3),
)
@settings(max_examples=60, deadline=None)
def test_a_sum_in_the_ring_is_the_sum_of_the_numbers(signed_NL, scale):
    """As long as it stays within 2^31, which six times 2^28 does."""
    total_L = np.zeros(signed_NL.shape[1], np.uint32)
    for signed_L in signed_NL:
        total_L += ring.wrapped(signed_L)
    found_L = ring.decode(total_L, scale)
    assert found_L.dtype == np.float64
    np.testing.assert_array_equal(found_L, signed_NL.sum(0) / scale)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "make", [lambda v, rng: ring.levels(v, 1.0, 1.0, rng), lambda v, rng: ring.bounded(v, 1.0, 1.0, rng)]
)
def test_what_is_not_finite_is_refused(bad, make):
    with pytest.raises(AggregationError, match="NaN or infinite"):
        make(np.array([0.0, bad]), np.random.default_rng(0))


def test_headroom_ends_just_below_2_to_the_31():
    ring.headroom(2, 2**30 - 1)
    ring.headroom(1, 2**31 - 11, noise_std=1.0)
    for nodes, bound, std in ((2, 2**30, 0.0), (1, 2**31 - 10, 1.0), (1, 1, math.inf), (1, 1, math.nan)):
        with pytest.raises(ExperimentError, match=f"nodes = {nodes}, .*lower the scale"):
            ring.headroom(nodes, bound, std)


def test_lowering_the_scale_as_the_error_says_is_enough():
    with pytest.raises(ExperimentError, match=r"lower the scale 4\.66 times or more"):
        ring.headroom(100, 10**8)
    ring.headroom(100, int(10**8 / 4.66))


# Rounding of bounded norm


def paper_l2(c: float, d: int) -> float:
    """The two terms of Kairouz et al. 2021, Algorithm 1, with beta spelt out."""
    beta = math.exp(-0.5)
    worst = (c + math.sqrt(d)) ** 2
    likely = c**2 + d / 4 + math.sqrt(2 * math.log(1 / beta)) * (c + math.sqrt(d) / 2)
    return math.sqrt(min(worst, likely))


@pytest.mark.parametrize("d", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("c", [1e-3, 0.5, 10.0, 1e5])
def test_the_bounds_are_those_of_the_paper(c, d):
    l2 = ring.l2_bound(c, d)
    assert l2 == pytest.approx(paper_l2(c, d), rel=1e-12)
    assert ring.l1_bound(l2, d) == pytest.approx(min(math.sqrt(d) * l2, l2**2), rel=1e-12)


@given(values_L=vectors, clip=st.floats(1e-3, 1e3), scale=st.floats(1e-2, 1e5), rng=seeds)
@settings(max_examples=300, deadline=None)
def test_no_vector_is_rounded_beyond_the_bound(values_L, clip, scale, rng):
    """Exactly, also where the norm overflows float64, or the number of levels is below one."""
    integers_L = ring.bounded(values_L, clip, scale, rng)
    limit = ring.l2_bound(clip * scale, len(values_L))
    assert square(integers_L) <= Fraction(limit) ** 2
    assert int(np.abs(integers_L).sum()) <= ring.l1_bound(limit, len(values_L))


class Unlucky:
    """Dice that always round up."""

    def random(self, size):
        return np.zeros(size)


def test_where_no_draw_is_short_enough_it_is_rounded_toward_zero():
    values_L = np.full(1000, 1e-3)
    integers_L = ring.bounded(values_L, 0.05, 1.0, Unlucky())
    assert square(ring.rounded(values_L, Unlucky())) > ring.l2_bound(0.05, 1000) ** 2
    assert (integers_L == 0).all()


def test_bounded_rounding_shortens_only_what_is_too_long():
    rng = np.random.default_rng(0)
    direction_L = rng.normal(size=50)
    direction_L /= np.linalg.norm(direction_L)
    for length, kept in ((0.5, 0.5), (1.0, 1.0), (3.0, 1.0), (1e200, 1.0), (1e-200, 0.0)):
        integers_L = ring.bounded(direction_L * length, 1.0, 1e6, rng)
        np.testing.assert_allclose(integers_L / 1e6, direction_L * kept, atol=1.1e-6)


def test_bounded_rounding_is_unbiased_where_the_bound_is_rarely_met():
    values_L, rng = np.array([0.3, -0.7, 0.1]), np.random.default_rng(3)
    draws = np.array([ring.bounded(values_L, 10.0, 1.0, rng) for _ in range(20_000)])
    assert np.abs(draws.mean(0) - values_L).max() < 4 * 0.5 / math.sqrt(20_000)


@pytest.mark.parametrize("make", [ring.bounded, lambda v, bound, scale, rng: ring.levels(v, scale, bound, rng)])
def test_integers_without_room_are_refused(make):
    with pytest.raises(ExperimentError, match="lower the scale"):
        make(np.zeros(3), 2.0, 2.0**30, np.random.default_rng(0))


# Skellam noise


def binned(draws, cdf, cells=40):
    """P-value of a chi-square test of integer draws against a distribution function, on cells of similar weight."""
    edges = np.unique(np.quantile(draws, np.linspace(0, 1, cells + 1)[1:-1]).astype(np.int64))
    counts = np.bincount(np.searchsorted(edges, draws), minlength=len(edges) + 1)
    shares = np.diff(np.concatenate([[0.0], cdf(edges), [1.0]]))
    return stats.chisquare(counts, shares * len(draws)).pvalue


@pytest.mark.parametrize("variance", [0.5, 4.0, 300.0, 1e5])
def test_skellam_has_its_mean_variance_and_probabilities(variance):
    draws = ring.skellam(100_000, variance, np.random.default_rng(5))
    assert draws.dtype == np.int64
    assert abs(draws.mean()) < 4 * math.sqrt(variance / 1e5)
    # The fourth central moment of a Skellam is 3 v^2 + v.
    assert abs(draws.var() - variance) < 4 * math.sqrt((2 * variance**2 + variance) / 1e5)
    assert binned(draws, lambda k: stats.skellam.cdf(k, variance / 2, variance / 2)) > 1e-4


@pytest.mark.parametrize("nodes", [3, 100])
def test_shares_of_noise_sum_to_noise_of_the_whole_variance(nodes):
    rng, variance = np.random.default_rng(6), 60.0
    total = sum(ring.skellam(100_000, variance / nodes, rng) for _ in range(nodes))
    assert binned(total, lambda k: stats.skellam.cdf(k, variance / 2, variance / 2)) > 1e-4
    whole = ring.skellam(100_000, variance, rng)
    assert stats.ks_2samp(total, whole).pvalue > 1e-4


def test_at_the_largest_variance_it_is_still_as_normal_as_it_should_be():
    """Skewness and excess kurtosis are 0 and 1 / variance; a tenth of a cell is more than the steps of float64."""
    draws = ring.skellam(100_000, ring.MAX_VARIANCE, np.random.default_rng(7)) / math.sqrt(ring.MAX_VARIANCE)
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    assert abs(draws.var() - 1) < 4 * math.sqrt(2 / 1e5)


def test_no_variance_no_noise_and_shapes_are_kept():
    assert (ring.skellam((3, 4), 0.0, np.random.default_rng(0)) == np.zeros((3, 4))).all()


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf, 2.0**36 * 1.001])
def test_what_cannot_be_drawn_is_refused(variance):
    with pytest.raises(ExperimentError, match=r"variance .* from 0 to 2\^36 = 6.87e\+10, so lower the scale"):
        ring.skellam(3, variance, np.random.default_rng(0))
