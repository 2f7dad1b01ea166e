"""What is done to updates before a rule sees them: as matrices, against the formulas applied to the updates."""

from __future__ import annotations

import doctest
import importlib
import math

import numpy as np
import pytest
import robust_transcriptions as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.aggregators import NNA, GeometricMedian, Krum, Median, TrimmedMean
from gossamer.gram import Gram
from gossamer.preaggregators import PreAggregator
from gossamer.preaggregators.arc import ARC
from gossamer.preaggregators.bucketing import Bucketing
from gossamer.preaggregators.clipping import Clipping
from gossamer.preaggregators.nnm import NNM


def points(step: PreAggregator, rows: np.ndarray, f: int, own: int | None = None) -> np.ndarray:
    return step.matrix(Gram.of(torch.from_numpy(rows)), f, own).numpy() @ rows


def updates(seed: int, n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * rng.lognormal(size=(n, 1))


@pytest.mark.parametrize("step", [ARC, Bucketing, Clipping])
def test_the_worked_examples(step: type[PreAggregator]) -> None:
    found = doctest.testmod(importlib.import_module(step.__module__))
    assert found.attempted > 1
    assert found.failed == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_agrees_with_the_formula(seed: int, n: int, graph: bool) -> None:
    rows = updates(seed, n, 3)
    f, own = seed % max(1, n // 2), seed % n if graph else None
    centre = np.zeros(3) if own is None else rows[own]
    cases = [
        (points(Clipping(c=0.8), rows, f, own), slow.clipping(rows, 0.8, centre)),
        (points(ARC(), rows, f, own), slow.arc(rows, f, centre)),
        (points(NNM(), rows, f, own), np.stack([slow.nearest_mean(rows, f, i) for i in range(n)])),
    ]
    for got, expected in cases:
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("n", "f", "clipped"), [(10, 1, 1), (10, 3, 4), (15, 3, 4), (9, 4, 4), (7, 0, 0), (1, 0, 0)])
def test_arc_shortens_so_many_and_no_others(n: int, f: int, clipped: int) -> None:
    rows = np.arange(1.0, n + 1)[:, None] * np.array([[0.6, 0.8]])
    lengths = np.linalg.norm(points(ARC(), rows, f), axis=1)
    np.testing.assert_allclose(lengths, np.minimum(np.arange(1.0, n + 1), n - clipped))


def test_arc_takes_its_own_number_of_hostile_updates_before_that_of_the_rule() -> None:
    rows = updates(1, 10, 2)
    np.testing.assert_array_equal(points(ARC(f=2), rows, 4), points(ARC(), rows, 2))


def test_clipping_leaves_zeros_and_short_updates_alone() -> None:
    rows = np.array([[0.0, 0.0], [0.3, 0.4], [30.0, 40.0]])
    np.testing.assert_allclose(points(Clipping(c=5.0), rows, 0), [[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]])
    np.testing.assert_array_equal(points(ARC(), np.zeros((5, 2)), 2), np.zeros((5, 2)))


@pytest.mark.parametrize(("n", "s"), [(1, 1), (1, 4), (6, 1), (6, 2), (7, 3), (5, 9)])
def test_buckets_are_means_of_so_many_and_every_update_is_in_one(n: int, s: int) -> None:
    matrix = Bucketing(s=s).matrix(Gram.of(torch.randn(n, 3)), 0, None)
    sizes = (matrix > 0).sum(1)
    assert matrix.shape == (math.ceil(n / s), n)
    assert sorted(sizes.tolist(), reverse=True) == [s] * (n // s) + [n % s] * (n % s > 0)
    assert ((matrix > 0).sum(0) == 1).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))
    torch.testing.assert_close(matrix.amax(1), 1 / sizes.double())


def test_buckets_are_dealt_at_random_but_the_same_for_the_same_seed() -> None:
    gram = Gram.of(torch.randn(12, 3))
    dealt = [Bucketing(seed=seed).matrix(gram, 0, None) for seed in range(5)]
    torch.testing.assert_close(dealt[2], Bucketing(seed=2).matrix(gram, 0, None), rtol=0, atol=0)
    assert len({tuple(map_QN.flatten().tolist()) for map_QN in dealt}) == 5
    together = np.mean([float((Bucketing(seed=k).matrix(gram, 0, None)[:, :2] > 0).all(1).any()) for k in range(400)])
    assert abs(together - 1 / 11) < 0.05


def test_one_hostile_update_spoils_one_bucket() -> None:
    rows = updates(2, 12, 3)
    bad = rows.copy()
    bad[5] += 1e6
    changed = (points(Bucketing(s=3), rows, 0) != points(Bucketing(s=3), bad, 0)).any(1)
    assert changed.sum() == 1


def test_the_mean_of_equal_buckets_is_the_mean() -> None:
    rows = updates(3, 12, 4)
    np.testing.assert_allclose(points(Bucketing(s=3), rows, 0).mean(0), rows.mean(0))


@pytest.mark.parametrize("rule", [Krum(f=2), Median(), TrimmedMean(f=2), GeometricMedian()])
def test_chained_matrices_are_the_steps_one_after_another(rule: Krum | Median | TrimmedMean | GeometricMedian) -> None:
    rows = updates(4, 11, 5)
    f = rule.hostile(11)
    steps = [Clipping(c=1.5), ARC(), NNM()]
    by_hand = rows
    for step in steps:
        by_hand = points(step, by_hand, f)
    chained = rule.model_copy(update={"before": tuple(steps)})
    np.testing.assert_allclose(chained(rows), rule(by_hand), rtol=1e-8)


def test_inputs_stay_as_they_are() -> None:
    rows = updates(5, 9, 4)
    before = rows.copy()
    Median(before=[{"kind": "clipping", "c": 0.1}, "arc", "bucketing"])(rows)
    np.testing.assert_array_equal(rows, before)


def test_on_a_graph_the_own_update_stays_and_the_others_come_to_it() -> None:
    rows = updates(6, 7, 3) + 100.0
    for step in (Clipping(c=0.5), ARC(f=2)):
        got = points(step, rows, 2, own=4)
        np.testing.assert_allclose(got[4], rows[4])
        assert (np.linalg.norm(got - rows[4], axis=1) <= np.linalg.norm(rows - rows[4], axis=1) + 1e-9).all()
    got = NNA(f=2, before=[Clipping(c=0.5)])(np.delete(rows, 4, 0), own=rows[4])
    assert np.linalg.norm(got - rows[4]) <= 0.5
