"""What the scores of canaries show: guesses, their advantage, the area under the curve, a lower bound on epsilon.

K canaries, each in the training data or not by a fair coin (`inside_K`); `scores_K` are the higher, the more an attack
holds a canary for one that is in.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from gossamer.randomness import generator

Array = np.ndarray[Any, Any]

LEVEL = 0.95
"""Of all intervals and bounds."""
SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
"""Of the canaries, that are guessed to be in, and as many to be out, for a lower bound on epsilon."""
MOST_EPSILON = 50.0
"""A lower bound on epsilon is not looked for above this."""


class Interval(NamedTuple):
    """An estimate with both ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """What an attack says of the canaries of one run."""

    scores_K: Array
    inside_K: Array
    seed: int


@dataclass(frozen=True)
class Guesses:
    """How often "it was in" was said, and rightly."""

    hits: int
    """Canaries that are in and were said to be."""
    inside: int
    alarms: int
    """Canaries that are out and were said to be in."""
    outside: int

    def __add__(self, other: Guesses) -> Guesses:
        return Guesses(
            self.hits + other.hits,
            self.inside + other.inside,
            self.alarms + other.alarms,
            self.outside + other.outside,
        )

    @property
    def right(self) -> int:
        """Right guesses of either kind."""
        return self.hits + self.outside - self.alarms


@dataclass(frozen=True)
class Evidence:
    """What an attack showed in one run or several."""

    advantage: Interval
    """TPR - FPR at thresholds chosen on other canaries, see `advantage`."""
    auc: Interval
    """Chance that a canary that is in scores above one that is out; the interval of Newcombe 2006, method 5."""
    tpr_at_1: float
    """TPR where 1 % of the canaries that are out are said to be in, at most."""
    epsilon: float
    """What is shown of epsilon with 95 % confidence: at least this."""


def evidence(runs: Sequence[Scores], delta: float = 0.0) -> Evidence:
    """What the scores of some runs, with coins of their own each, show together; `delta` is that of the guarantee."""
    inside = sum(int(np.count_nonzero(one.inside_K)) for one in runs)
    outside = sum(len(one.inside_K) for one in runs) - inside
    return Evidence(
        advantage(runs),
        auc_interval(math.fsum(map(auc, runs)) / len(runs), inside, outside),
        math.fsum(tpr_at(one, 0.01) for one in runs) / len(runs),
        epsilon_shown(runs, delta),
    )


# ---- guesses -------------------------------------------------------------------------------------------------------


def best_threshold(run: Scores) -> float:
    """The threshold t for which "in if the score is above t" has the largest TPR - FPR on these canaries.

    It lies halfway between two different scores; infinite where saying "in" never pays.
    """
    values_U, place_K = np.unique(run.scores_K, return_inverse=True)
    inside = int(np.count_nonzero(run.inside_K))
    worth_K = np.where(run.inside_K, 1 / max(1, inside), -1 / max(1, len(run.inside_K) - inside))
    # gain_U[i] is that of saying "in" from the i-th value upwards.
    gain_U = np.cumsum(np.bincount(place_K, worth_K)[::-1])[::-1]
    best = int(np.argmax(gain_U))
    if gain_U[best] <= 1e-12:
        return math.inf
    return float((values_U[best - 1] + values_U[best]) / 2) if best else -math.inf


def guess(run: Scores, threshold: float) -> Guesses:
    """Say "in" where the score is above the threshold, and count."""
    said_K, inside_K = run.scores_K > threshold, run.inside_K
    return Guesses(
        *(int(np.count_nonzero(which)) for which in (said_K & inside_K, inside_K, said_K & ~inside_K, ~inside_K))
    )


def halves(run: Scores) -> tuple[Scores, Scores]:
    """The canaries in two halves, drawn without regard to the coins."""
    first_K = generator(run.seed, "halves").permutation(np.arange(len(run.scores_K)) % 2 == 0)
    one, other = (Scores(run.scores_K[half_K], run.inside_K[half_K], run.seed) for half_K in (first_K, ~first_K))
    return one, other


def crossed(run: Scores) -> Guesses:
    """Guesses about each half of the canaries, at the threshold that is best on the other half."""
    one, other = halves(run)
    return guess(one, best_threshold(other)) + guess(other, best_threshold(one))


def total(guesses: Iterable[Guesses]) -> Guesses:
    """All of them together."""
    return functools.reduce(operator.add, guesses)


def advantage(runs: Sequence[Scores]) -> Interval:
    """The advantage of guesses at thresholds chosen on other canaries, and an interval for the best threshold there is.

    Such guesses fall a little short of the best threshold, and guesses at the threshold that looks best on the very
    canaries flatter it. So the lower end is that of the former, the upper end that of the latter.
    """
    value, low, _ = difference(total(map(crossed, runs)))
    return Interval(value, low, difference(total(guess(one, best_threshold(one)) for one in runs)).high)


# ---- intervals -----------------------------------------------------------------------------------------------------


def wilson(count: int, of: int, level: float = LEVEL) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, square = count / of, z * z / of
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / of + square / (4 * of)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(guesses: Guesses, level: float = LEVEL) -> Interval:
    """TPR - FPR with the hybrid score interval of a difference of shares (Newcombe 1998, method 10)."""
    tpr, fpr = guesses.hits / guesses.inside, guesses.alarms / guesses.outside
    low_t, high_t = wilson(guesses.hits, guesses.inside, level)
    low_f, high_f = wilson(guesses.alarms, guesses.outside, level)
    value = tpr - fpr
    return Interval(value, value - math.hypot(tpr - low_t, high_f - fpr), value + math.hypot(high_t - tpr, fpr - low_f))


def auc(run: Scores) -> float:
    """The share of pairs, one in and one out, in which the one that is in scores higher; ties count half."""
    from scipy.stats import rankdata

    inside = int(np.count_nonzero(run.inside_K))
    ranks = float(rankdata(run.scores_K)[run.inside_K].sum())
    return (ranks - inside * (inside + 1) / 2) / (inside * (len(run.scores_K) - inside))


def auc_interval(area: float, inside: int, outside: int, level: float = LEVEL) -> Interval:
    """The score-like interval of an area under the curve (Newcombe 2006, method 5), which also holds at 0 and 1.

    Its ends solve |area - A| = z sd(A), with the variance of Hanley and McNeil 1982 for exponential scores, their sizes
    replaced by the mean of both.
    """
    from scipy.optimize import brentq

    z, more = NormalDist().inv_cdf((1 + level) / 2), (inside + outside) / 2 - 1

    def beyond(true: float) -> float:
        spread = true * (1 - true) * (1 + more * ((1 - true) / (2 - true) + true / (1 + true)))
        return (area - true) ** 2 - z * z * spread / (inside * outside)

    edge = 1e-12
    low = float(brentq(beyond, 0.0, min(area, 1 - edge))) if area > 0 else 0.0
    high = float(brentq(beyond, max(area, edge), 1.0)) if area < 1 else 1.0
    return Interval(area, low, high)


def tpr_at(run: Scores, fpr: float) -> float:
    """The largest true positive rate at which the false positive rate is at most `fpr`, on these canaries."""
    outside = np.sort(run.scores_K[~run.inside_K])[::-1]
    threshold = outside[min(int(fpr * len(outside)), len(outside) - 1)]
    return float(np.mean(run.scores_K[run.inside_K] > threshold))


# ---- a lower bound on epsilon --------------------------------------------------------------------------------------


def epsilon_shown(runs: Sequence[Scores], delta: float, level: float = LEVEL) -> float:
    """The largest epsilon that the guesses about some half of the canaries rule out: epsilon is above it, with
    confidence `level`; 0 where they rule out none.

    Only the canaries that score highest and lowest are guessed; how many is chosen on the other half. Under (epsilon,
    delta) a guess is right with chance e^epsilon / (1 + e^epsilon) at most, given all other coins, also where all
    canaries are in one run (Steinke, Nasr and Jagielski 2023). Each half gets its share of the error allowed.
    """
    pairs, allowed = [halves(one) for one in runs], (1 - level) / 2
    found = []
    for mine, other in ((0, 1), (1, 0)):
        share = max(SHARES, key=lambda share, half=other: _shown(pairs, half, share, delta, allowed))  # type: ignore[misc]
        found.append(_shown(pairs, mine, share, delta, allowed))
    return max(found)


def _shown(pairs: Sequence[tuple[Scores, Scores]], half: int, share: float, delta: float, allowed: float) -> float:
    """What the guesses about one of the halves, in all runs, rule out."""
    mine = [pair[half] for pair in pairs]
    return ruled_out(total(surest(one, share) for one in mine), sum(len(one.inside_K) for one in mine), delta, allowed)


def surest(run: Scores, share: float) -> Guesses:
    """Say "in" of this share of the canaries, those that score highest, and "out" of as many that score lowest."""
    order, count = np.argsort(run.scores_K, kind="stable"), max(1, int(share * len(run.scores_K)))
    top_G, bottom_G = run.inside_K[order[-count:]], run.inside_K[order[:count]]
    hits, missed = int(np.count_nonzero(top_G)), int(np.count_nonzero(bottom_G))
    return Guesses(hits, hits + missed, count - hits, 2 * count - hits - missed)


def ruled_out(guesses: Guesses, canaries: int, delta: float, allowed: float) -> float:
    """The epsilon up to which as many right guesses have at most the chance `allowed`; 0 for none."""
    made = guesses.inside + guesses.outside
    low, high = 0.0, MOST_EPSILON
    if chance_of(guesses.right, made, canaries, low, delta) > allowed:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        likely = chance_of(guesses.right, made, canaries, middle, delta) > allowed
        low, high = (low, middle) if likely else (middle, high)
    return low


def chance_of(right: int, made: int, canaries: int, epsilon: float, delta: float) -> float:
    """The most that (epsilon, delta) allows for the chance of at least so many right among `made` guesses.

    Steinke, Nasr and Jagielski 2023, Theorem 5.2, for v right of r guesses about m canaries: P[B >= v] + 2 m delta
    max_i P[v > B >= v - i] / i, where B is binomial (r, e^epsilon / (1 + e^epsilon)).
    """
    from scipy.stats import binom

    share = 1 / (1 + math.exp(-epsilon))
    chance = float(binom.sf(right - 1, made, share))
    if delta > 0 and right > 0:
        below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), made, share))
        chance += 2 * canaries * delta * float(np.max(below / np.arange(1, right + 1)))
    return min(1.0, chance)
