"""What scores of canaries show, held to closed forms, published figures and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.audits.advantage import (
    Guesses,
    Scores,
    advantage,
    auc,
    auc_interval,
    best_threshold,
    chance_of,
    crossed,
    difference,
    epsilon_shown,
    evidence,
    guess,
    halves,
    surest,
    tpr_at,
    wilson,
)
from gossamer.audits.drawing import roc


def scores(values, inside, seed=0):
    return Scores(np.asarray(values, dtype=float), np.asarray(inside, dtype=bool), seed)


def drawn(rng, canaries, shift, seed=0):
    """Normal scores that are `shift` higher where the coin says in."""
    inside_K = rng.random(canaries) < 0.5
    return scores(rng.normal(size=canaries) + shift * inside_K, inside_K, seed)


FEW_SCORES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12).filter(
    lambda pairs: len({inside for _, inside in pairs}) == 2
)


# ---- what scores show ----------------------------------------------------------------------------------------


def test_perfect_scores_are_an_advantage_of_one_and_equal_ones_of_none():
    inside_K = np.arange(400) % 2 == 0
    seen = evidence([scores(inside_K, inside_K)])
    assert (seen.advantage.value, seen.auc.value, seen.tpr_at_1) == (1.0, 1.0, 1.0)
    assert 0.96 < seen.advantage.low < 1
    assert seen.epsilon > 3
    seen = evidence([scores(np.zeros(400), inside_K)])
    assert (seen.advantage.value, seen.auc.value, seen.tpr_at_1, seen.epsilon) == (0.0, 0.5, 0.0, 0.0)
    # An attack that is always wrong shows as little as one that guesses.
    assert evidence([scores(~inside_K, inside_K)]).advantage.value <= 0


@given(FEW_SCORES)
def test_the_best_threshold_is_the_best_of_all(pairs):
    run = scores(*zip(*pairs, strict=True))

    def gain(threshold):
        made = guess(run, threshold)
        return made.hits / made.inside - made.alarms / made.outside

    every = [-math.inf, *(np.unique(run.scores_K) + 0.5), math.inf]
    assert gain(best_threshold(run)) == pytest.approx(max(map(gain, every)), abs=1e-12)
    assert best_threshold(run) not in run.scores_K, "equal scores get equal guesses"


@given(FEW_SCORES)
def test_the_area_is_the_share_of_pairs(pairs):
    run = scores(*zip(*pairs, strict=True))
    ins, outs = run.scores_K[run.inside_K], run.scores_K[~run.inside_K]
    wins = [(a > b) + 0.5 * (a == b) for a in ins for b in outs]
    assert auc(run) == pytest.approx(np.mean(wins))
    fpr, tpr = roc(run)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc(run))
    assert tpr_at(run, 0.4) == max(t for t, f in zip(tpr, fpr, strict=True) if f <= 0.4)


def test_each_half_is_guessed_by_what_the_other_taught():
    # In one half high scores are in, in the other low ones: what is learned on the first misleads on the other, which
    # teaches that a high score never means "in".
    first_K = np.isin(np.arange(200), halves(scores(np.arange(200), np.ones(200)))[0].scores_K)
    high_K = np.arange(200) >= 100
    made = crossed(scores(np.arange(200), high_K == first_K))
    assert made.hits < 0.05 * made.inside
    assert made.alarms > 0.45 * made.outside
    one, other = halves(scores(np.arange(200), high_K))
    assert sorted([*one.scores_K, *other.scores_K]) == list(range(200))
    assert len(one.scores_K) == len(other.scores_K)


def test_intervals_are_those_of_the_papers():
    """Newcombe 1998, Table II, method 10; Wilson's by scipy."""
    from scipy.stats import binomtest

    for counts, low, high in (((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090),
                              ((10, 10, 0, 10), 0.6075, 1.0)):  # fmt: skip
        assert difference(Guesses(*counts))[1:] == pytest.approx((low, high), abs=1e-4)
    for count, of in ((0, 7), (3, 10), (50, 50)):
        assert wilson(count, of) == pytest.approx(tuple(binomtest(count, of).proportion_ci(method="wilson")), abs=1e-12)


def test_the_interval_of_an_area_solves_its_equation():
    for area, inside, outside in ((0.5, 40, 60), (0.9, 500, 480), (1.0, 20, 30), (0.0, 20, 30)):
        found = auc_interval(area, inside, outside)
        for end in {found.low, found.high} - {0.0, 1.0}:
            more = (inside + outside) / 2 - 1
            spread = end * (1 - end) * (1 + more * ((1 - end) / (2 - end) + end / (1 + end))) / (inside * outside)
            assert abs(area - end) == pytest.approx(1.959964 * math.sqrt(spread), rel=1e-5)
        mirrored = auc_interval(1 - area, inside, outside)
        assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high), abs=1e-9)


@pytest.mark.parametrize(("canaries", "shift"), [(60, 0.0), (400, 0.0), (400, 0.7), (400, 3.0)])
def test_intervals_hold_the_truth_in_95_of_100_cases(canaries, shift):
    from scipy.stats import norm

    rng, repeats = np.random.default_rng(5), 300
    true_area, best = norm.cdf(shift / math.sqrt(2)), 2 * norm.cdf(shift / 2) - 1
    held = np.zeros(2)
    for seed in range(repeats):
        run = drawn(rng, canaries, shift, seed)
        found = advantage([run]), auc_interval(auc(run), run.inside_K.sum(), (~run.inside_K).sum())
        held += [one.low <= true <= one.high for one, true in zip(found, (best, true_area), strict=True)]
    # 95 % of 300 with three standard deviations.
    assert (held >= 274).all()


def test_more_seeds_narrow_the_interval():
    rng = np.random.default_rng(0)
    runs = [drawn(rng, 400, 1.0, seed) for seed in range(4)]
    one, four = evidence(runs[:1]).advantage, evidence(runs).advantage
    assert four.high - four.low < 0.6 * (one.high - one.low)
    assert four.low < 2 * 0.6914625 - 1 < four.high


# ---- a lower bound on epsilon --------------------------------------------------------------------------------


def transcribed(canaries, made, right, epsilon, delta):
    """The p-value of Steinke, Nasr and Jagielski 2023, Appendix D, as a loop."""
    from scipy.stats import binom

    share = math.exp(epsilon) / (1 + math.exp(epsilon))
    most = between = 0.0
    for i in range(1, right + 1):
        between += binom.pmf(right - i, made, share)
        most = max(most, between / i)
    return min(1.0, sum(binom.pmf(k, made, share) for k in range(right, made + 1)) + 2 * canaries * delta * most)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 50), st.floats(0, 4), st.sampled_from([0.0, 1e-5, 0.01]))
def test_the_chance_of_right_guesses_is_that_of_the_paper(made, right, more, epsilon, delta):
    right = min(right, made)
    expected = transcribed(made + more, made, right, epsilon, delta)
    assert chance_of(right, made, made + more, epsilon, delta) == pytest.approx(expected, abs=1e-12)


def test_randomised_response_is_never_shown_to_spend_more_than_it_does():
    """A mechanism that tells each coin with chance e / (1 + e) has epsilon 1: more is shown in 5 % of cases at most."""
    rng, found = np.random.default_rng(1), []
    for seed in range(150):
        inside_K = rng.random(2000) < 0.5
        told_K = inside_K ^ (rng.random(2000) > math.e / (1 + math.e))
        found.append(epsilon_shown([scores(told_K + rng.random(2000) / 2, inside_K, seed)], 0.0))
    assert np.mean(np.array(found) > 1) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    assert 0.75 < np.median(found) < 1


def test_surest_guesses_are_at_both_ends():
    made = surest(scores(np.arange(16), np.arange(16) >= 9), 1 / 4)
    assert (made.hits, made.inside, made.alarms, made.outside, made.right) == (4, 4, 0, 4, 8)
