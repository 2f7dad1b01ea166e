"""Robust rules written down from their formulas, in n dimensions, with loops and NumPy alone. Slow; not our code."""

from __future__ import annotations

import itertools
import math

import numpy as np

Array = np.ndarray


def distance(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b))


def krum_score(rows: Array, i: int, f: int, among: list[int]) -> float:
    """Sum of squared distances to the |among| - f - 2 nearest others (one at least)."""
    others = sorted(distance(rows[i], rows[j]) ** 2 for j in among if j != i)
    return sum(others[: max(1, len(among) - f - 2)])


def multi_krum(rows: Array, f: int, m: int) -> Array:
    everyone = list(range(len(rows)))
    best = sorted(everyone, key=lambda i: krum_score(rows, i, f, everyone))[:m]
    return rows[best].mean(0)


def bulyan(rows: Array, f: int) -> Array:
    left, chosen = list(range(len(rows))), []
    while len(chosen) < len(rows) - 2 * f:
        best = min(left, key=lambda i: krum_score(rows, i, f, left))
        chosen.append(best)
        left.remove(best)
    result = np.empty(rows.shape[1])
    for column in range(rows.shape[1]):
        values = rows[chosen, column]
        near = sorted(values, key=lambda v: abs(v - np.median(values)))
        result[column] = np.mean(near[: len(chosen) - 2 * f])
    return result


def geometric_median(rows: Array, weights: Array) -> Array:
    """By minimisation of the objective, started at the mean and at every row."""
    from scipy.optimize import minimize

    def objective(z: Array) -> float:
        return sum(w * distance(x, z) for w, x in zip(weights, rows, strict=True))

    starts = [weights @ rows / weights.sum(), *rows]
    found = [minimize(objective, z, method="BFGS", options={"gtol": 1e-10}).x for z in starts]
    return min([*found, *rows], key=objective)


def nearest_mean(rows: Array, f: int, trusted: int) -> Array:
    by_distance = sorted(range(len(rows)), key=lambda i: distance(rows[i], rows[trusted]))
    return rows[by_distance[: len(rows) - f]].mean(0)


def centered_clipping(rows: Array, tau: float, iterations: int, start: Array) -> Array:
    v = start.copy()
    for _ in range(iterations):
        v = v + np.mean([(x - v) * min(1.0, tau / max(distance(x, v), 1e-300)) for x in rows], axis=0)
    return v


def caf(rows: Array, f: int) -> Array:
    c, least, best = np.ones(len(rows)), math.inf, rows.mean(0)
    while c.sum() > len(rows) - 2 * f:
        mu = sum(ci * x for ci, x in zip(c, rows, strict=True)) / c.sum()
        sigma = sum(ci * np.outer(x - mu, x - mu) for ci, x in zip(c, rows, strict=True)) / c.sum()
        values, vectors = np.linalg.eigh(sigma)
        if values[-1] < least:
            least, best = values[-1], mu
        t = np.array([((x - mu) @ vectors[:, -1]) ** 2 for x in rows])
        c = np.array([ci * max(0.0, 1 - ti / t[c > 0].max()) for ci, ti in zip(c, t, strict=True)])
    return best


def dnc(rows: Array, f: int, c: float, parts: list[Array]) -> Array:
    """`parts`: the coordinates looked at in each iteration."""
    good = set(range(len(rows)))
    for part in parts:
        centred = rows[:, part] - rows[:, part].mean(0)
        v = np.linalg.svd(centred)[2][0]
        by_score = sorted(range(len(rows)), key=lambda i: (centred[i] @ v) ** 2)
        good &= set(by_score[: len(rows) - math.ceil(c * f)])
    return rows[sorted(good)].mean(0)


def clipped_gossip(rows: Array, weights: Array, own: int, tau: float | None, f: int) -> Array:
    W, x = weights / weights.sum(), rows[own]
    others = sorted((j for j in range(len(rows)) if j != own), key=lambda j: distance(rows[j], x))
    if tau is None:
        near, far = others[: len(others) - f], others[len(others) - f :]
        hostile = sum(W[j] for j in far)
        tau = math.sqrt(sum(W[j] * distance(rows[j], x) ** 2 for j in near) / hostile) if hostile else math.inf
    return x + sum(W[j] * (rows[j] - x) * min(1.0, tau / max(distance(rows[j], x), 1e-300)) for j in others)


def balance(rows: Array, own: int, gamma: float, kappa: float, alpha: float, progress: float) -> Array:
    x = rows[own]
    bound = gamma * math.exp(-kappa * progress) * np.linalg.norm(x)
    accepted = [rows[j] for j in range(len(rows)) if j != own and distance(rows[j], x) <= bound]
    return alpha * x + (1 - alpha) * np.mean(accepted, axis=0) if accepted else x


def clipping(rows: Array, c: float, centre: Array) -> Array:
    return np.stack([centre + (x - centre) * min(1.0, c / max(distance(x, centre), 1e-300)) for x in rows])


def arc(rows: Array, f: int, centre: Array) -> Array:
    n = len(rows)
    k = math.floor(2 * f * (n - f) / n)
    by_length = sorted(range(n), key=lambda i: distance(rows[i], centre))
    return clipping(rows, max(distance(rows[by_length[n - k - 1]], centre), 1e-300), centre)


def worst_ratio(result: Array, rows: Array, f: int) -> float:
    """Largest ||result - mean_S||^2 / mean_S ||x_i - mean_S||^2 over all sets S of n - f rows."""
    ratios = []
    for chosen in itertools.combinations(range(len(rows)), len(rows) - f):
        part = rows[list(chosen)]
        spread = np.mean(((part - part.mean(0)) ** 2).sum(1))
        ratios.append(((result - part.mean(0)) ** 2).sum() / spread)
    return max(ratios)
