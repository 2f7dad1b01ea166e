"""Rules against enumeration on few updates, and the (f, kappa) bounds of `aggregator_table` over all honest subsets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import robust_oracles as oracles
import torch
from aggregator_table import (
    LINES,
    Array,
    apply,
    close,
    updates,
)

import gossamer.aggregators as rules
from gossamer.aggregators import Aggregator
from gossamer.gram import Gram
from gossamer.preaggregators.nnm import NNM


@pytest.mark.parametrize("n", range(1, 8))
def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle(n: int) -> None:
    rows = updates(n, n=n, d=1)
    close(rules.Median()(rows), np.median(rows, 0), 1e-15)
    ordered = np.sort(rows[:, 0])
    close(rules.Median()(rows)[0], (ordered[(n - 1) // 2] + ordered[n // 2]) / 2, 1e-15)


@pytest.mark.parametrize("n", range(3, 8))
def test_in_one_dimension_the_geometric_median_is_a_median(n: int) -> None:
    """For even n any point between the two in the middle is."""
    rows = updates(n, n=n, d=1)
    ordered = np.sort(rows[:, 0])
    found = rules.GeometricMedian()(rows)[0]
    assert ordered[(n - 1) // 2] - 1e-7 <= found <= ordered[n // 2] + 1e-7


ORACLES = {
    "median": oracles.median,
    "trimmed_mean": oracles.trimmed_mean,
    "meamed": oracles.meamed,
    "phocas": oracles.phocas,
    "krum": oracles.krum,
    "multi_krum": oracles.multi_krum,
    "bulyan": oracles.bulyan,
    "geometric_median": oracles.geometric_median,
    "monna": oracles.nearest_to_first,
    "nna": oracles.nearest_to_first,
    "caf": oracles.caf,
}


@pytest.mark.parametrize("n", [5, 7])
@pytest.mark.parametrize("kind", ORACLES)
def test_agreement_with_enumeration(kind: str, n: int) -> None:
    line = LINES[kind]
    for f, d, seed in itertools.product((0, 1, 2), (1, 2, 5), range(3)):
        if line.least is None or n >= line.least(f):
            rows = updates(100 * n + seed, n, d)
            rows[n - f :] *= 3
            if kind == "geometric_median" and d == 1 and n % 2 == 0:
                continue
            close(apply(line, rows, f), ORACLES[kind](rows, f), 1e-6 if kind == "geometric_median" else 1e-9)


@pytest.mark.parametrize("n", [5, 7])
def test_nnm_agrees_with_enumeration(n: int) -> None:
    for f, d in itertools.product((0, 1, 2), (1, 3)):
        rows = updates(n, n, d)
        matrix = NNM().matrix(Gram.of(torch.from_numpy(rows)), f, None).numpy()
        close(matrix @ rows, oracles.nnm(rows, f), 1e-12)


@pytest.mark.parametrize("f", [1, 2])
def test_rules_that_leave_out_all_that_is_far_away_coincide(f: int) -> None:
    """MDA, SMEA, Multi-Krum, CAF, NNA, DnC, MeaMed and Phocas: the mean of the honest ones."""
    n = 2 * f + 3
    rows = updates(1, n)
    rows[n - f :] += 1e4
    honest = rows[: n - f].mean(0)
    close(oracles.mda(rows, f), honest)
    close(oracles.smea(rows, f), honest)
    for kind in ("multi_krum", "monna", "nna", "dnc", "meamed", "phocas"):
        close(apply(LINES[kind], rows, f), honest)


def test_in_one_dimension_mda_is_the_shortest_interval_and_smea_that_of_least_variance() -> None:
    """The oracles themselves, on numbers where the two differ."""
    numbers = np.array([[0.0], [1.1], [1.2], [2.2], [3.0]])
    assert oracles.mda(numbers, 1)[0] == pytest.approx(np.mean([1.1, 1.2, 2.2, 3.0]))
    assert oracles.smea(numbers, 1)[0] == pytest.approx(np.mean([1.1, 1.2, 2.2, 3.0]))
    numbers = np.array([[0.0], [0.1], [2.0], [2.1], [4.0]])
    assert oracles.mda(numbers, 1)[0] == pytest.approx(np.mean([0.0, 0.1, 2.0, 2.1]))


KAPPA = [kind for kind, line in LINES.items() if line.kappa]


def clouds(n: int, d: int, f: int, seed: int) -> list[Array]:
    """Inputs that are hard for one rule or another: bell-shaped, heavy tails, two camps, on a grid, one far away."""
    dice = np.random.default_rng([n, d, f, seed])
    camps = 0.1 * dice.standard_normal((n, d))
    camps[n // 2 :] += 1.0
    leaning = dice.standard_normal((n, d))
    leaning[n - f :] = leaning[: n - f].mean(0) + 1.5 * leaning[: n - f].std(0)
    far = dice.standard_normal((n, d))
    far[-1] = 100.0
    return [
        dice.standard_normal((n, d)),
        dice.standard_cauchy((n, d)),
        camps,
        leaning,
        dice.integers(0, 3, (n, d)).astype(float),
        far,
    ]


def worst_ratio(rule: Aggregator, rows: Array, f: int, own: bool) -> float:
    """Largest ||rule - mean_S||^2 / (1/|S| sum_S ||x_i - mean_S||^2) over all S of n - f updates (with the own)."""
    out = rule(rows[1:], own=rows[0]) if own else rule(rows)
    worst = 0.0
    for places in oracles.subsets(len(rows), len(rows) - f):
        if own and 0 not in places:
            continue
        mean = rows[places].mean(0)
        variance = ((rows[places] - mean) ** 2).sum(1).mean()
        off = ((out - mean) ** 2).sum()
        worst = max(worst, off / variance if variance > 1e-12 else (0.0 if off < 1e-12 else np.inf))
    return worst


@pytest.mark.parametrize("kind", KAPPA)
@pytest.mark.parametrize(("n", "f"), [(5, 1), (7, 1), (7, 2), (7, 3)])
def test_no_honest_majority_is_farther_from_the_result_than_kappa_allows(kind: str, n: int, f: int) -> None:
    line = LINES[kind]
    assert line.kappa is not None
    if line.least is None or n >= line.least(f):
        worst = [
            worst_ratio(line.make(f), rows, f, line.own)
            for d, seed in itertools.product((1, 3), range(3))
            for rows in clouds(n, d, f, seed)
        ]
        assert 0.01 < max(worst) <= line.kappa(n, f) * (1 + 1e-6)


@pytest.mark.parametrize("kind", ["trimmed_mean", "krum", "geometric_median", "median"])
@pytest.mark.parametrize(("n", "f"), [(5, 1), (7, 1), (7, 2)])
def test_nearest_neighbour_mixing_tightens_kappa(kind: str, n: int, f: int) -> None:
    """Allouah et al. 2023, Lemma 1: 8 f / (n - f) (kappa + 1) behind NNM."""
    kappa = LINES[kind].kappa
    assert kappa is not None
    rule = LINES[kind].make(f).model_copy(update={"before": (NNM(f=f),)})
    worst = [
        worst_ratio(rule, rows, f, False)
        for d, seed in itertools.product((1, 3), range(3))
        for rows in clouds(n, d, f, seed)
    ]
    assert 0.01 < max(worst) <= 8 * f / (n - f) * (kappa(n, f) + 1) * (1 + 1e-6)


def test_the_mean_has_no_kappa() -> None:
    """The same measure, on one far update: as large as one likes."""
    rows = updates(0, 7)
    rows[-1] = 1e6
    assert worst_ratio(rules.Mean(), rows, 1, False) > 1e6
