"""Numbers as integers modulo 2^32 for a secure sum, and rounding and noise that keep differential privacy in integers.

A number x is sent as an integer near x * scale; negative ones wrap around (two's complement), and a total is read back
as signed, which is right as long as it stays within +-2^31 (`headroom`). Rounding is stochastic, so it is unbiased.

Shapes: L numbers in a vector.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from gossamer.errors import AggregationError, ExperimentError

Floats = np.ndarray[Any, np.dtype[Any]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Vector = np.ndarray[Any, np.dtype[np.uint32]]

HALF = 2**31
"""A signed total lies below this."""
SIGMAS = 10
"""Standard deviations of noise that are given room: it goes beyond with a probability below 1e-22."""
REDRAWS = 32
MAX_VARIANCE = 2.0**36
"""Of Skellam noise of one node, in units of the integers squared: see `skellam`."""


def integer_bound(bound: float, scale: float) -> int:
    """The largest integer that |x| <= bound can become."""
    return math.ceil(float(bound) * float(scale))


def reach(nodes: int, bound: int, noise_std: float = 0.0) -> float:
    """How far a sum over nodes of integers up to `bound` may go, with 10 standard deviations of noise."""
    return nodes * bound + SIGMAS * noise_std


def headroom(nodes: int, bound: int, noise_std: float = 0.0) -> None:
    """Raise ExperimentError where a sum over nodes of integers up to `bound`, with noise, could leave +-2^31.

    `noise_std` is the standard deviation of the total noise; 10 of them are given room.
    """
    reached = reach(nodes, bound, noise_std)
    if not reached < HALF:
        raise ExperimentError(
            f"secure_sum: with nodes = {nodes}, integers up to {bound:,} and noise of std {noise_std:,.0f} a sum could "
            f"reach {reached:.4g}, and there is room below 2^31 = {HALF:.4g}; lower the scale "
            f"{reached / HALF:.2f} times or more, lower the bound, or take fewer nodes"
        )


def wrapped(integers_L: Integers) -> Vector:
    """[L] uint32: integers modulo 2^32."""
    return integers_L.astype(np.uint32)


def decode(total_L: Vector, scale: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[L] float64: a total modulo 2^32 read as signed integers, in units of the numbers."""
    return total_L.view(np.int32) / float(scale)


def levels(values_L: Floats, scale: float, bound: float, rng: np.random.Generator) -> Vector:
    """[L] uint32: numbers cut off at +-bound, times scale, rounded stochastically, modulo 2^32.

    The integers are at most `integer_bound(bound, scale)`. Raises AggregationError where a number is not finite,
    ExperimentError where one could be beyond 32 bits.
    """
    headroom(1, integer_bound(bound, scale))
    return wrapped(rounded(np.clip(_finite(values_L), -bound, bound) * float(scale), rng))


def rounded(scaled_L: Floats, rng: np.random.Generator) -> Integers:
    """[L] int64: each number to one of the two integers beside it, to the upper one with probability of the fraction.

    E[rounded(v)] = v. Integers stay as they are.
    """
    below_L = np.floor(scaled_L)
    # Not floor(v + u): the addition could round up to beyond the upper integer.
    below_L += rng.random(len(scaled_L)) < scaled_L - below_L
    return below_L.astype(np.int64)


def l2_bound(scaled_clip: float, length: int) -> float:
    """Euclidean norm of integers that `bounded` makes of numbers with norm C s = scaled_clip.

    min{ C s + sqrt(d), sqrt((C s)^2 + d / 4 + sqrt(2 log(1 / beta)) (C s + sqrt(d) / 2)) } with beta = exp(-1/2), of
    Kairouz, Liu, Steinke 2021, 'The distributed discrete Gaussian mechanism', Algorithm 1.
    """
    c, root = float(scaled_clip), math.sqrt(length)
    return min(c + root, math.sqrt(c * c + length / 4 + (c + root / 2)))


def l1_bound(l2: float, length: int) -> float:
    """Sum of absolute values of d integers with Euclidean norm l2: min(sqrt(d) l2, l2^2)."""
    return math.nextafter(min(math.sqrt(length) * l2, l2 * l2), math.inf)


def bounded(values_L: Floats, clip: float, scale: float, rng: np.random.Generator) -> Integers:
    """[L] int64: numbers shortened to norm `clip`, times scale, rounded stochastically, of norm at most `l2_bound`.

    Rounding is drawn again while it is too long (Kairouz et al. 2021, Algorithm 1; one draw will do with probability
    1 - beta = .39 or more, nearly 1 as a rule); after 32 draws it is toward zero, which makes nothing longer. Raises
    AggregationError where a number is not finite, ExperimentError where the norm leaves no room in 32 bits.
    """
    limit = l2_bound(clip * scale, len(values_L))
    headroom(1, math.ceil(limit))
    values_L = _finite(values_L)
    # By the largest first: its square may be more, or less, than a float64 can be.
    largest = float(np.abs(values_L).max(initial=0.0)) or 1.0
    norm = float(np.linalg.norm(values_L / largest))
    scaled_L = values_L / largest * (clip * scale / norm) if largest * norm > clip else values_L * float(scale)
    most = Fraction(limit) ** 2
    for _ in range(REDRAWS):
        integers_L = rounded(scaled_L, rng)
        if _square(integers_L) <= most:
            return integers_L
    return np.trunc(scaled_L).astype(np.int64)


def skellam(shape: int | tuple[int, ...], variance: float, rng: np.random.Generator) -> Integers:
    """int64 noise Poisson(variance / 2) - Poisson(variance / 2): mean 0; sums over nodes are Skellam again.

    Agarwal, Kairouz, Liu 2021, 'The Skellam mechanism for differentially private federated learning'. Raises
    ExperimentError above a variance of 2^36: numpy accepts a draw by comparing terms as large as rate * log(rate) in
    float64, so that probabilities are off by 2e-4 there (at 2^31 by 5e-6), and by more above.
    """
    if not 0 <= variance <= MAX_VARIANCE:
        raise ExperimentError(
            f"privacy: Skellam noise of variance {variance:.3g} in integers; it can be drawn from 0 to 2^36 = "
            f"{MAX_VARIANCE:.3g}, so lower the scale"
        )
    noise = rng.poisson(variance / 2, shape).astype(np.int64, copy=False)
    noise -= rng.poisson(variance / 2, shape)
    return noise


def _finite(values_L: Floats) -> Floats:
    """In float64, where products with a scale are precise to 2^-21 of an integer."""
    if not np.isfinite(values_L).all():
        raise AggregationError("a number to be summed is NaN or infinite; it has no integer near it")
    return values_L.astype(np.float64)


def _square(integers_L: Integers) -> int:
    """Exactly; below 2^63, as the norm is at most 2^31 + sqrt(L)."""
    return int(np.dot(integers_L, integers_L))
