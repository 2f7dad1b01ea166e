"""Slow and plain: robust rules straight from their definitions, by enumeration or in all D dimensions, in NumPy.

MDA and SMEA look at every subset of n - f updates, so they exist here only, to be compared with where rules coincide.

Shapes: N updates of D numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import minimize

Array = np.ndarray[Any, Any]


def subsets(n: int, size: int) -> Iterator[list[int]]:
    """All subsets of 0..n-1 of a size."""
    return map(list, combinations(range(n), size))


def mda(rows_ND: Array, f: int) -> Array:
    """Mean of the n - f updates of least diameter (minimum-diameter averaging; El Mhamdi et al. 2018)."""

    def diameter(places: list[int]) -> float:
        part = rows_ND[places]
        return float(np.linalg.norm(part[:, None] - part, axis=2).max())

    return rows_ND[min(subsets(len(rows_ND), len(rows_ND) - f), key=diameter)].mean(0)


def smea(rows_ND: Array, f: int) -> Array:
    """Mean of the n - f updates whose covariance has the smallest top eigenvalue (Allouah et al. 2023, SMEA)."""

    def spread(places: list[int]) -> float:
        return float(np.linalg.norm(rows_ND[places] - rows_ND[places].mean(0), 2))

    return rows_ND[min(subsets(len(rows_ND), len(rows_ND) - f), key=spread)].mean(0)


def krum_scores(rows_ND: Array, f: int, neighbours: int | None = None) -> Array:
    """Of each update the least sum of squared distances to n - f - 2 others, over all choices of those."""
    n = len(rows_ND)
    size = min(max(1, n - f - 2) if neighbours is None else neighbours, n - 1)

    def score(i: int) -> float:
        squares = [float(((rows_ND[i] - rows_ND[j]) ** 2).sum()) for j in range(n) if j != i]
        return min(sum(chosen) for chosen in combinations(squares, size))

    return np.array([score(i) for i in range(n)])


def krum(rows_ND: Array, f: int) -> Array:
    """The update of least score (Blanchard et al. 2017)."""
    return rows_ND[krum_scores(rows_ND, f).argmin()]


def multi_krum(rows_ND: Array, f: int) -> Array:
    """Mean of the n - f updates whose scores have the least sum."""
    scores = krum_scores(rows_ND, f)
    best = min(subsets(len(rows_ND), len(rows_ND) - f), key=lambda places: scores[places].sum())
    return rows_ND[best].mean(0)


def median(rows_ND: Array, f: int) -> Array:
    """The middle of the interval that minimises the sum of distances, column by column."""
    n = len(rows_ND)
    ordered = np.sort(rows_ND, 0)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def trimmed_mean(rows_ND: Array, f: int) -> Array:
    """Column by column, by taking away the largest and the smallest f times."""
    result = []
    for column in rows_ND.T.tolist():
        left = list(column)
        for _ in range(f):
            left.remove(max(left))
            left.remove(min(left))
        result.append(sum(left) / len(left))
    return np.array(result)


def closest_mean(rows_ND: Array, centre_D: Array, kept: int) -> Array:
    """Column by column, the mean of the subset of that size with the least sum of distances to the centre."""
    result = []
    for column, centre in zip(rows_ND.T, centre_D, strict=True):
        best = min(subsets(len(column), kept), key=lambda places: np.abs(column[places] - centre).sum())
        result.append(column[best].mean())
    return np.array(result)


def meamed(rows_ND: Array, f: int) -> Array:
    """Mean around the median (Xie et al. 2018)."""
    return closest_mean(rows_ND, np.median(rows_ND, 0), len(rows_ND) - f)


def phocas(rows_ND: Array, f: int) -> Array:
    """Mean around the trimmed mean (Xie et al. 2018)."""
    return closest_mean(rows_ND, trimmed_mean(rows_ND, f), len(rows_ND) - f)


def nearest_to_first(rows_ND: Array, f: int) -> Array:
    """Mean of the n - f updates, the first among them, with the least sum of distances to the first (NNA, MoNNA)."""
    distances = np.linalg.norm(rows_ND - rows_ND[0], axis=1)
    sets = (places for places in subsets(len(rows_ND), len(rows_ND) - f) if 0 in places)
    return rows_ND[min(sets, key=lambda places: distances[places].sum())].mean(0)


def bulyan(rows_ND: Array, f: int) -> Array:
    """Krum n - 2f times without replacement, then the |S| - 2f closest to the median (El Mhamdi et al. 2018)."""
    left, chosen = list(range(len(rows_ND))), []
    for _ in range(len(rows_ND) - 2 * f):
        chosen.append(left.pop(int(krum_scores(rows_ND[left], f).argmin())))
    return closest_mean(rows_ND[chosen], np.median(rows_ND[chosen], 0), len(chosen) - 2 * f)


def geometric_median(rows_ND: Array, f: int) -> Array:
    """The least sum of distances: the best update, or what a quasi-Newton method finds from several starts."""

    def total(z_D: Array) -> float:
        return float(np.linalg.norm(rows_ND - z_D, axis=1).sum())

    def slope(z_D: Array) -> Array:
        away = z_D - rows_ND
        return (away / np.linalg.norm(away, axis=1, keepdims=True).clip(1e-300)).sum(0)

    starts = [rows_ND.mean(0), np.median(rows_ND, 0), rows_ND[0] / 3 + rows_ND[1:].mean(0) * 2 / 3]
    settings = {"gtol": 1e-12, "maxiter": 10_000}
    found = [minimize(total, start, jac=slope, method="BFGS", options=settings).x for start in starts]
    return min([*rows_ND, *found], key=total)


def caf(rows_ND: Array, f: int, by_removed: bool = False) -> Array:
    """The filter with a D x D covariance matrix and its eigenvectors (Allouah et al. 2025, Algorithm 2).

    `by_removed`: updates of weight zero count among the farthest, by which the others' weights are lowered.
    """
    counts = np.ones(len(rows_ND))
    least, best = np.inf, rows_ND.mean(0)
    while counts.sum() > len(rows_ND) - 2 * f:
        mean = counts @ rows_ND / counts.sum()
        centred = rows_ND - mean
        values, vectors = np.linalg.eigh((centred.T * counts) @ centred / counts.sum())
        if values[-1] < least:
            least, best = values[-1], mean
        outlying = (centred @ vectors[:, -1]) ** 2
        most = outlying.max() if by_removed else outlying[counts > 0].max()
        if most <= 0:
            break
        counts = counts * (1 - outlying / most).clip(0)
    return best


def nnm(rows_ND: Array, f: int) -> Array:
    """Every update as the mean of the n - f updates, itself among them, with the least sum of distances to it."""
    n = len(rows_ND)
    mixed = []
    for i in range(n):
        distances = np.linalg.norm(rows_ND - rows_ND[i], axis=1)
        sets = (places for places in subsets(n, n - f) if i in places)
        mixed.append(rows_ND[min(sets, key=lambda places: distances[places].sum())].mean(0))
    return np.array(mixed)
