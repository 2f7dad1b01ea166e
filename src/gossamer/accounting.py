"""Privacy accounting: the epsilon that noisy answers spend together, and the noise that a budget asks for.

Maintained libraries do it: privacy loss distributions ('pld') and Renyi divergences ('rdp') by dp-accounting of Google,
privacy random variables ('prv'; Gopi, Lee and Wutschitz 2021) by opacus of Meta. Each bounds the smallest epsilon from
above, by a method and code of its own. Added here: the bound for Skellam noise, and two closed forms.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from gossamer.errors import ExperimentError

Accountant = Literal["pld", "rdp", "prv"]
Sampling = Literal["none", "poisson", "fixed"]

ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
"""Orders of Renyi divergences, as in dp-accounting."""
LEAST_NOISE = 1e-3
"""A noise multiplier below this counts as no noise: one answer would spend an epsilon of 500,000."""


@dataclass(frozen=True)
class Skellam:
    """Integer vectors to which Skellam noise is added: how far one unit moves their sum in Euclidean and in L1 norm."""

    l2: float
    l1: float


@dataclass(frozen=True)
class Release:
    """One kind of noisy answer, given `times` times; ExperimentError for a field out of its range.

    `noise` is the noise multiplier z: the standard deviation of the noise over C, the most that one unit can add to the
    answer (Euclidean norm). `rate` is the chance that a unit takes part in an answer, drawn in one of these ways:

        none      every unit takes part, rate 1
        poisson   every unit by a coin of its own; neighbouring data sets: a unit is added or removed
        fixed     so many units without replacement; a unit is exchanged for another, and moves the answer by up to 2C

    With `skellam` the answer is a sum of integer vectors, and the noise is Skellam of variance (z l2)^2.
    """

    noise: float
    times: int = 1
    rate: float = 1.0
    sampling: Sampling = "none"
    skellam: Skellam | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ExperimentError(f"noise = {self.noise:g}: a noise multiplier is 0 (no noise) or a number above it")
        if self.times < 0 or self.times != int(self.times):
            raise ExperimentError(f"times = {self.times}: an answer is given 0, 1, 2, ... times")
        if self.sampling not in ("none", "poisson", "fixed")[: 1 if self.skellam else 3]:
            raise ExperimentError(f"sampling = {self.sampling!r}: 'none', 'poisson' or 'fixed'; with skellam 'none'")
        if not 0 <= self.rate <= 1 or (self.rate < 1 and self.sampling == "none"):
            raise ExperimentError(f"rate = {self.rate:g}: give a chance in 0 .. 1, or 1 where sampling is 'none'")
        if self.skellam is not None and not 0 < self.skellam.l2 <= self.skellam.l1 < math.inf:
            raise ExperimentError(f"{self.skellam}: sensitivities of integer vectors have 0 < l2 <= l1")


class Spending:
    """What a run spends whose every round gives the same answers."""

    def __init__(self, releases: Sequence[Release], delta: float, accountant: Accountant = "pld") -> None:
        self.releases, self.delta, self.accountant = tuple(releases), delta, accountant

    def after(self, rounds: int) -> float:
        """Epsilon after so many rounds; with 'pld' and 'rdp' what one answer tells is computed once for all of them."""
        return epsilon([replace(one, times=one.times * rounds) for one in self.releases], self.delta, self.accountant)


def epsilon(releases: Sequence[Release], delta: float, accountant: Accountant = "pld") -> float:
    """The smallest epsilon that an accountant proves at delta for all the answers together.

    Infinite where an answer has no noise, 0 where nothing is answered. Raises ExperimentError for delta outside (0, 1),
    for answers that the accountant cannot take, and without the libraries.
    """
    _check_delta(delta)
    times: Counter[Release] = Counter()
    for one in releases:
        if one.times and one.rate:
            times[replace(one, times=1)] += int(one.times)
    drawn = {one.sampling for one in times}
    if "fixed" in drawn and (accountant != "rdp" or len(drawn) > 1):
        raise ExperimentError(
            f"privacy.accountant = {accountant!r}: only Renyi knows draws without replacement, and not together with "
            "other answers; set schedule.sampling = 'poisson', or privacy.accountant = 'rdp'"
        )
    if accountant != "rdp" and any(one.skellam for one in times):
        raise ExperimentError(f"privacy.accountant = {accountant!r}: for Skellam noise set privacy.accountant = 'rdp'")
    if any(one.noise < LEAST_NOISE for one in times):
        return math.inf
    return _epsilon(tuple(times.items()), delta, accountant) if times else 0.0


def noise_for(
    target: float,
    releases: Callable[[float], Sequence[Release]],
    delta: float,
    accountant: Accountant,
    most: float = 1e5,
) -> float:
    """The smallest noise multiplier z with epsilon(releases(z)) <= target, or up to .1 % more, never less.

    0 where nothing is answered; between 0 and .001 none is tried. Raises ExperimentError where `most` is not enough.
    """
    if not 0 < target < math.inf:
        raise ExperimentError(f"privacy.epsilon = {target:g}: a budget is a number above 0, such as 8")

    def spent(noise: float, by: Accountant = accountant) -> float:
        return epsilon(releases(noise), delta, by)

    if spent(0.0) <= target:
        return 0.0
    # Renyi costs least, and ends close to the others.
    start = 1.0 if accountant == "rdp" else _least(lambda noise: spent(noise, "rdp"), target, 1.0, most) or 1.0
    if (found := _least(spent, target, start, most)) is None:
        raise ExperimentError(
            f"privacy.epsilon = {target:g}: accountant {accountant!r} proves no less than {spent(most):.3g}, at noise "
            f"multiplier {most:g}; use a larger epsilon, fewer rounds or a larger delta"
        )
    return found


def _least(spent: Callable[[float], float], target: float, start: float, most: float) -> float | None:
    """The smallest z with spent(z) <= target, from above, near `start` maybe; None where `most` is not enough."""
    from scipy.optimize import brentq

    low = high = min(start, most)
    while spent(high) > target:
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while spent(low) <= target:
        if low <= LEAST_NOISE:
            return low
        low, high = max(low / 2, LEAST_NOISE), low

    def excess(log_noise: float) -> float:
        return math.log(min(max(spent(math.exp(log_noise)) / target, 1e-6), 1e6))

    step = 2.5e-4
    noise = math.exp(brentq(excess, math.log(low), math.log(high), xtol=step))
    while spent(noise) > target:
        noise *= 1 + step
    return noise


@functools.lru_cache(maxsize=4096)
def _epsilon(times: tuple[tuple[Release, int], ...], delta: float, accountant: Accountant) -> float:
    return max(0.0, float(_ACCOUNTANTS[accountant](dict(times), delta)))


def _renyi(times: Mapping[Release, int], delta: float) -> float:
    """Divergences add up; they become epsilon by Canonne, Kamath and Steinke 2020, Proposition 12."""
    total_A = sum(count * _renyi_of_one(one) for one, count in times.items())
    return float(_library("dp_accounting.rdp").compute_epsilon(ORDERS, total_A, delta)[0])


@functools.lru_cache(maxsize=512)
def _renyi_of_one(release: Release) -> np.ndarray[Any, Any]:
    """Renyi divergence of one answer at each order, [A]."""
    if (of := release.skellam) is not None:
        return np.array([skellam_rdp(order, of.l2, of.l1, (release.noise * of.l2) ** 2) for order in ORDERS])
    dp = _library("dp_accounting")
    event, neighbours = dp.GaussianDpEvent(release.noise), dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    if release.sampling == "poisson":
        event = dp.PoissonSampledDpEvent(release.rate, event)
    elif release.sampling == "fixed":
        # The library counts noise in the distance between answers with a unit and with another in its place: 2C.
        neighbours, (drawn, units) = dp.NeighboringRelation.REPLACE_ONE, float(release.rate).as_integer_ratio()
        event = dp.SampledWithoutReplacementDpEvent(units, drawn, dp.GaussianDpEvent(release.noise / 2))
    level = (log := logging.getLogger("absl")).level
    log.setLevel(logging.ERROR)  # Not for the user: a warning for each order that does not converge and is left out.
    try:
        rdp_A: np.ndarray[Any, Any] = dp.rdp.RdpAccountant(ORDERS, neighbours).compose(event).rdp
    finally:
        log.setLevel(level)
    return rdp_A.clip(1e-15)  # Closer to 0, rounding could make it negative.


def _loss_distribution(times: Mapping[Release, int], delta: float) -> float:
    """Epsilon from losses rounded pessimistically ('connect the dots') to multiples of an interval.

    It is a twentieth of the standard deviation of a loss, which costs less than .1 % of epsilon, or more where arrays
    would have more than 2^18 numbers. While these suffice it is the same for any number of rounds.
    """
    counts_K = np.array(list(times.values()), dtype=float)
    noise_K, rate_K = np.array([(one.noise, one.rate) for one in times], dtype=float).T
    # Sampled, the loss spreads by q sqrt(exp(1 / z^2) - 1) where that is small; by 1 / z otherwise, as without.
    spread_K = np.minimum(1 / noise_K, rate_K * np.sqrt(np.expm1(np.minimum(noise_K**-2, 700.0))))
    total_K = counts_K * spread_K**2
    reach = float(np.sum(10 / noise_K + 0.5 / noise_K**2 + 10 * np.sqrt(total_K) + total_K / 2))
    wide = 2.0 ** math.ceil(math.log2(reach / 2**18))
    interval = max(wide, math.sqrt(total_K.sum() / counts_K.sum()) / 20)
    composed = [
        _losses_of_one(one.noise / math.sqrt(count), 1.0, interval)
        if one.rate == 1
        else _losses_of_one(one.noise, one.rate, interval).self_compose(count)
        for one, count in times.items()
    ]
    total = functools.reduce(lambda one, other: one.compose(other), composed)
    with np.errstate(over="ignore"):
        found = float(total.get_epsilon_for_delta(delta))
    # The library divides by exp(-epsilon), too small a number from 709 to 746, and says infinity there.
    return 746.0 if found == math.inf and total.get_delta_for_epsilon(746.0) <= delta else found


@functools.lru_cache(maxsize=8)
def _losses_of_one(noise: float, rate: float, interval: float) -> Any:
    made = _library("dp_accounting.pld.privacy_loss_distribution").from_gaussian_mechanism
    return made(noise, sampling_prob=rate, value_discretization_interval=interval)


def _random_variables(times: Mapping[Release, int], delta: float) -> float:
    """Epsilon with the error added that opacus is allowed: half a per cent, or what keeps arrays to 2^21 numbers."""
    delta_error = delta / 1000
    largest = _renyi(times, delta_error / 4) + 4
    mesh = math.sqrt(sum(times.values()) * math.log(12 / delta_error) / 2)
    error = max(1e-4, 0.005 * min(_loss_distribution(times, delta), 20.0), 2 * largest * mesh / 2**21)
    if largest > 600 or error >= 1:  # Opacus takes exp of losses.
        raise ExperimentError("privacy.accountant = 'prv': losses are too large for it with so little noise; use 'pld'")
    accountant = _library("opacus.accountants").PRVAccountant()
    accountant.history = [(one.noise, one.rate, count) for one, count in times.items()]
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        # Opacus sizes its arrays by Renyi divergences of few orders, and says so; with rate 1 it takes log 0.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        try:
            return float(accountant.get_epsilon(delta, eps_error=error, delta_error=delta_error))
        except (RuntimeError, ValueError) as failed:
            raise ExperimentError(f"privacy.accountant = 'prv': opacus fails ({failed}); use 'pld'") from failed


_ACCOUNTANTS = {"pld": _loss_distribution, "rdp": _renyi, "prv": _random_variables}


def gaussian_epsilon(z: float, times: int, delta: float) -> float:
    """The smallest epsilon at delta of `times` answers, all units in each: Balle and Wang 2018, Theorem 8, exact."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    _check_delta(delta)
    if Release(z, times).times == 0 or z < LEAST_NOISE:
        return math.inf if times else 0.0
    mu = math.sqrt(times) / z

    def excess(value: float) -> float:
        return float(ndtr(mu / 2 - value / mu) - math.exp(value + log_ndtr(-mu / 2 - value / mu)) - delta)

    largest = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # Losses beyond it are rarer than delta.
    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, largest, xtol=1e-12))


def advantage(epsilon: float, delta: float) -> float:
    """The most that true minus false positives of any membership test can be (Kairouz, Oh and Viswanath 2015)."""
    if not epsilon >= 0 or not 0 <= delta <= 1:
        raise ExperimentError(f"epsilon = {epsilon:g}, delta = {delta:g}: epsilon is 0 or more, delta in 0 .. 1")
    # (exp(epsilon) - 1 + 2 delta) / (exp(epsilon) + 1), which does not overflow this way.
    return math.tanh(epsilon / 2) + 2 * delta * math.exp(-epsilon) / (1 + math.exp(-epsilon))


def skellam_rdp(alpha: float, l2: float, l1: float, variance: float) -> float:
    """A bound on the Renyi divergence of order alpha > 1 of Skellam noise on integer vectors of these sensitivities.

    Agarwal, Kairouz and Liu 2021, Theorem 3.5, which is for integers. Between them, (alpha - 1) times the divergence is
    convex, so no more than on the straight line (Wang, Balle and Kasiviswanathan 2019, Corollary 10).
    """

    def logarithm(order: int) -> float:
        extra = min(((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
        return (order - 1) * (order * l2**2 / (2 * variance) + extra)

    below, above = math.floor(alpha), math.ceil(alpha)
    return (logarithm(below) + (alpha - below) * (logarithm(above) - logarithm(below))) / (alpha - 1)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ExperimentError(f"privacy.delta = {delta:g}: give a number between 0 and 1, below 1 / number of units")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise ExperimentError("privacy needs two libraries: pip install 'gossamer[privacy]'") from missing
