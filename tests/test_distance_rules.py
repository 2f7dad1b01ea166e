"""Rules that see updates through their distances: closed forms, optimality, and the formulas written down slowly."""

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

from gossamer.aggregators import (
    BALANCE,
    CAF,
    NNA,
    Aggregator,
    Bulyan,
    CenteredClipping,
    ClippedGossip,
    DnC,
    GeometricMedian,
    Krum,
    MoNNA,
    MultiKrum,
)
from gossamer.aggregators.bulyan import selected
from gossamer.columns import COLUMNS
from gossamer.errors import AggregationError
from gossamer.gram import Gram

RULES = [BALANCE, CAF, NNA, Bulyan, CenteredClipping, ClippedGossip, DnC, GeometricMedian, MoNNA, MultiKrum]
CHOOSING = [CAF, Bulyan, DnC, GeometricMedian, MoNNA, MultiKrum]
"""At a server, and not about changes: equivariant to translation and scale."""


def updates(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def on_graph(rule: Aggregator, rows: np.ndarray, own: int = 0, weights: list[float] | None = None) -> np.ndarray:
    """What the rule makes of updates among which the receiver's own is."""
    given_N = torch.ones(len(rows), dtype=torch.float64) if weights is None else torch.tensor(weights).double()
    rows_ND = torch.from_numpy(rows)
    return rule.aggregate(rows_ND, given_N, rows_ND[own].clone()).numpy()


@pytest.mark.parametrize("rule", RULES)
def test_the_worked_examples(rule: type[Aggregator]) -> None:
    found = doctest.testmod(importlib.import_module(rule.__module__))
    assert found.attempted > 1
    assert found.failed == 0


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    f, d = int(rng.integers(0, 3)), int(rng.integers(1, 6))
    n = 4 * f + 3 + int(rng.integers(0, 3))
    rows = rng.normal(size=(n, d)) * rng.lognormal(size=(n, 1))
    own, m = int(rng.integers(n)), int(rng.integers(1, n + 1))
    weights = rng.uniform(0.1, 1.0, n)
    cases = [
        (MultiKrum(f=f)(rows), slow.multi_krum(rows, f, n - f)),
        (MultiKrum(f=f, m=m)(rows), slow.multi_krum(rows, f, m)),
        (Bulyan(f=f)(rows), slow.bulyan(rows, f)),
        (CAF(f=f)(rows), slow.caf(rows, f)),
        (MoNNA(f=f, pivot=own)(rows), slow.nearest_mean(rows, f, own)),
        (on_graph(MoNNA(f=f), rows, own), slow.nearest_mean(rows, f, own)),
        (on_graph(NNA(f=f), rows, own), slow.nearest_mean(rows, f, own)),
        (CenteredClipping(tau=0.7, iterations=4)(rows), slow.centered_clipping(rows, 0.7, 4, np.zeros(d))),
        (on_graph(CenteredClipping(tau=2.0), rows, own), slow.centered_clipping(rows, 2.0, 1, rows[own])),
        (DnC(f=f, iterations=2, c=0.9)(rows), slow.dnc(rows, f, 0.9, [np.arange(d)] * 2)),
        (on_graph(ClippedGossip(f=f), rows, own, weights), slow.clipped_gossip(rows, weights, own, None, f)),
        (on_graph(ClippedGossip(tau=0.8), rows, own), slow.clipped_gossip(rows, np.ones(n), own, 0.8, 0)),
    ]
    for got, expected in cases:
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_the_geometric_median_is_the_least_of_its_objective(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, weights = rng.normal(size=(7, 3)), rng.uniform(0.2, 1.0, 7)
    rows[0] *= 20
    got = GeometricMedian()(rows, weights)
    np.testing.assert_allclose(got, slow.geometric_median(rows, weights), atol=1e-6)
    away = rows - got
    lengths = np.linalg.norm(away, axis=1)
    if lengths.min() > 1e-9:
        assert np.linalg.norm(weights @ (away / lengths[:, None])) < 1e-7
    else:
        others = lengths > 1e-9
        pull = np.linalg.norm(weights[others] @ (away[others] / lengths[others, None]))
        assert pull <= weights[~others].sum() * (1 + 1e-9)


def test_the_geometric_median_where_it_is_an_update_is_exactly_that_update() -> None:
    rows = np.array([[0.1, 0.3], [1.0, 0.0], [-1.0, 0.2], [0.0, 5.0], [0.3, -4.0]])
    np.testing.assert_array_equal(GeometricMedian()(rows), rows[0])
    np.testing.assert_array_equal(GeometricMedian()(np.array([[7.0], [1.0], [2.0], [900.0], [3.0]])), [3.0])
    heavy = GeometricMedian()(np.eye(4), [1.0, 1.0, 7.0, 1.0])
    np.testing.assert_array_equal(heavy, np.eye(4)[2])


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    np.testing.assert_allclose(GeometricMedian()(rows), rows.mean(0), atol=1e-9)
    rows = np.array([[0.0, 0.0], [8.0, 0.0], [3.0, 5.0]])
    away = rows - GeometricMedian()(rows)
    unit = away / np.linalg.norm(away, axis=1, keepdims=True)
    np.testing.assert_allclose((unit @ unit.T)[np.triu_indices(3, 1)], -0.5, atol=1e-7)


def test_closed_forms() -> None:
    line = np.arange(5.0)[:, None]
    assert MultiKrum(f=1, m=1)(line) == Krum(f=1)(line)
    np.testing.assert_allclose(CenteredClipping(tau=1.0)(np.array([[3.0, 4.0]])), [0.6, 0.8])
    np.testing.assert_allclose(CenteredClipping(tau=1.0, iterations=3)(np.array([[3.0, 4.0]])), [1.8, 2.4])
    np.testing.assert_allclose(CenteredClipping(tau=1e9)(line), line.mean(0))
    # The f farthest are dropped from the mean: here those at -2 and at 9.
    np.testing.assert_allclose(MoNNA(f=2, pivot=1)(np.array([[-2.0], [1.0], [0.0], [2.0], [9.0]])), [1.0])
    # One iteration of DnC drops the one that spreads the updates.
    np.testing.assert_allclose(DnC(f=1)(np.vstack([np.eye(3), [[30.0, 30.0, 30.0]]])), np.full(3, 1 / 3))


def test_bulyan_scores_anew_after_each_choice() -> None:
    """Krum's order of all at once and that of one after another differ, and so does the result."""
    differing = 0
    for seed in range(40):
        rows = updates(seed, 11, 2)
        at_once = sorted(range(11), key=lambda i: slow.krum_score(rows, i, 2, list(range(11))))[:7]
        one_by_one = selected(Gram.of(torch.from_numpy(rows)).squares, 2).tolist()
        differing += set(at_once) != set(one_by_one)
    assert differing > 10


def test_bulyan_works_through_blocks_and_pre_aggregators() -> None:
    rows = updates(1, 12, COLUMNS + 5)
    got = Bulyan(f=1)(rows)
    part = Bulyan(f=1, before=[{"kind": "clipping", "c": len(rows[0]) ** 0.5 - 0.5}])(rows)
    chosen = [0, COLUMNS - 1, COLUMNS, COLUMNS + 4]
    np.testing.assert_allclose(got[chosen], slow.bulyan(rows, 1)[chosen], rtol=1e-9)
    clipped = slow.clipping(rows, len(rows[0]) ** 0.5 - 0.5, np.zeros(COLUMNS + 5))
    assert 2 < (clipped != rows).any(1).sum() < 10
    np.testing.assert_allclose(part[chosen], slow.bulyan(clipped, 1)[chosen], rtol=1e-9)


def test_dnc_draws_its_coordinates_from_seed_and_round() -> None:
    rows = updates(2, 9, 400)
    rule = DnC(f=2, coordinates=5, iterations=2)
    np.testing.assert_array_equal(rule(rows), rule(rows))
    np.testing.assert_array_equal(rule.at(3, 10)(rows), rule.at(3, 10)(rows))
    assert len({float(rule.at(round, 10)(rows)[0]) for round in range(8)}) > 2
    assert len({float(rule.model_copy(update={"seed": seed})(rows)[0]) for seed in range(8)}) > 2
    np.testing.assert_allclose(DnC(f=2, coordinates=400)(rows), slow.dnc(rows, 2, 1.0, [np.arange(400)]))
    assert DnC(iterations=5).tolerates(20) == 3
    with pytest.raises(AggregationError, match="dnc withstands 3 hostile of 20"):
        DnC(f=4, iterations=5)(updates(3, 20, 2))


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.9])
def test_balance_narrows_over_the_run(progress: float) -> None:
    rows = updates(4, 8, 3) * 0.5 + 2.0
    rule = BALANCE(gamma=0.6, kappa=2.0, alpha=0.3)
    expected = slow.balance(rows, 2, 0.6, 2.0, 0.3, progress)
    np.testing.assert_allclose(on_graph(rule.at(round(progress * 20), 20), rows, 2), expected, rtol=1e-12)
    assert rule == BALANCE(gamma=0.6, kappa=2.0, alpha=0.3)
    alone = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    np.testing.assert_array_equal(on_graph(rule, alone), alone[0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("n", "dtype"), [(1, np.float32), (2, np.float64), (6, np.float32), (15, np.float64)])
def test_identical_updates_give_that_update(rule: type[Aggregator], n: int, dtype: type) -> None:
    for value in (np.zeros(3, dtype), np.array([0.3, -7.0, 1e-3], dtype)):
        rows = np.tile(value, (n, 1))
        got = rule()(rows) if not rule.graph_only else on_graph(rule(), rows)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, value, rtol=1e-6)


@pytest.mark.parametrize("rule", CHOOSING)
def test_translation_and_scale(rule: type[Aggregator]) -> None:
    rows = updates(5, 11, 4)
    expected = 3.0 * rule()(rows) + 50.0
    np.testing.assert_allclose(rule()(3.0 * rows + 50.0), expected, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_rotation(seed: int) -> None:
    rows = updates(seed, 9, 4)
    turn = np.linalg.qr(updates(seed + 1, 4, 4))[0]
    for rule in (CAF(f=2), DnC(f=2), GeometricMedian(), MoNNA(f=2), MultiKrum(f=2), CenteredClipping(tau=0.5)):
        np.testing.assert_allclose(rule(rows @ turn), rule(rows) @ turn, atol=1e-8)


@pytest.mark.parametrize("rule", [CAF, NNA, Bulyan, ClippedGossip, DnC, MoNNA, MultiKrum])
def test_without_hostile_updates_it_is_the_mean(rule: type[Aggregator]) -> None:
    rows = updates(6, 9, 5)
    got = on_graph(rule(f=0), rows) if rule.graph_only else rule(f=0)(rows)
    np.testing.assert_allclose(got, rows.mean(0), rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("huge", [1e3, 1e12])
def test_hostile_updates_do_not_carry_it_away(rule: type[Aggregator], huge: float) -> None:
    rows = updates(7, 15, 6)
    hostile = [3, 7, 11]
    rows[hostile] = huge * updates(8, 3, 6)
    honest = np.delete(rows, hostile, 0)
    made = rule(f=3) if "f" in rule.model_fields else rule()
    got = on_graph(made, rows) if rule.graph_only else made(rows)
    radius = np.linalg.norm(honest - honest.mean(0), axis=1).max()
    bound = 10.0 if rule is CenteredClipping else 2 * radius
    assert np.linalg.norm(got - honest.mean(0)) < bound
    assert np.linalg.norm(rows.mean(0) - honest.mean(0)) > bound


@pytest.mark.parametrize("rule", RULES)
def test_rows_with_nan_count_as_hostile(rule: type[Aggregator]) -> None:
    rows = updates(9, 15, 4)
    made = rule(f=2) if "f" in rule.model_fields else rule()
    less = rule(f=0) if "f" in rule.model_fields else rule()
    bad = rows.copy()
    bad[3, 1], bad[5] = np.nan, np.inf
    clean = np.delete(rows, [3, 5], 0)
    if rule.graph_only:
        np.testing.assert_allclose(on_graph(made, bad), on_graph(less, clean), rtol=1e-12)
    else:
        np.testing.assert_allclose(made(bad), less(clean), rtol=1e-12)
    bad[:, 0] = np.nan
    with pytest.raises(AggregationError):
        made(bad)


def test_monna_keeps_its_trust_in_the_same_update_when_others_are_dropped() -> None:
    rows = updates(10, 9, 3)
    bad = rows.copy()
    bad[[1, 2, 7]] = np.nan
    kept = np.delete(rows, [1, 2, 7], 0)
    np.testing.assert_allclose(MoNNA(f=4, pivot=5)(bad), slow.nearest_mean(kept, 1, 3))
    with pytest.raises(AggregationError, match="pivot = 2: that update holds NaN"):
        MoNNA(f=4, pivot=2)(bad)
    with pytest.raises(AggregationError, match="pivot = 9, but there are 9 updates"):
        MoNNA(pivot=9)(rows)
    with pytest.raises(AggregationError, match="leave 'bucketing' out"):
        MoNNA(before=["bucketing"])(rows)


@pytest.mark.parametrize("rule", [BALANCE, NNA, ClippedGossip])
def test_a_rule_that_needs_the_own_update_says_so(rule: type[Aggregator]) -> None:
    with pytest.raises(AggregationError, match=r"needs the receiver's own update.*on a graph"):
        rule()(updates(11, 5, 2))
    with pytest.raises(AggregationError, match="not in a bucket"):
        rule(before=["bucketing"])(updates(11, 5, 2), own=np.zeros(2))


@pytest.mark.parametrize(
    ("rule", "least"), [(Bulyan, 11), (CAF, 5), (ClippedGossip, 5), (DnC, 5), (MoNNA, 5), (MultiKrum, 7), (NNA, 5)]
)
def test_two_hostile_updates_need_so_many_in_all(rule: type[Aggregator], least: int) -> None:
    own = np.zeros(2) if rule.graph_only else None
    rule(f=2)(updates(12, least - rule.graph_only, 2), own=own)
    with pytest.raises(AggregationError, match="f = 2"):
        rule(f=2)(updates(12, least - 1 - rule.graph_only, 2), own=own)


def test_bulyan_refuses_too_few_buckets() -> None:
    with pytest.raises(AggregationError, match="withstands 0 hostile of 12"):
        Bulyan(f=2, before=[{"kind": "bucketing", "s": 4}])(updates(13, 12, 2))


@pytest.mark.parametrize("seed", range(4))
def test_the_robustness_ratio_is_within_theory(seed: int) -> None:
    """kappa of Allouah et al. 2023, Table 1: geometric median 4 (1 + f/(n-2f))^2, Krum (m = 1) 6 (1 + f/(n-2f))."""
    rows = updates(seed, 9, 3)
    rows[:2] = rows[2:].mean(0) + 40 * updates(seed + 50, 1, 3)
    share = 1 + 2 / 5
    assert slow.worst_ratio(rows.mean(0), rows, 2) > 4 * share**2
    assert slow.worst_ratio(GeometricMedian()(rows), rows, 2) <= 4 * share**2
    assert slow.worst_ratio(MultiKrum(f=2, m=1)(rows), rows, 2) <= 6 * share


def test_clipped_gossip_is_within_the_bound_of_its_own_radius() -> None:
    rows = updates(14, 9, 3)
    hostile = [2, 6]
    for huge in (1.0, 10.0, 1e6):
        sent = rows.copy()
        sent[hostile] = huge * updates(15, 2, 3)
        honest = np.delete(sent, hostile, 0)
        moved = np.linalg.norm(on_graph(ClippedGossip(f=2), sent) - sent[0])
        spread = math.sqrt(((honest - sent[0]) ** 2).sum() / 9)
        assert moved <= spread * (math.sqrt(2 / 9) + math.sqrt(7 / 9)) + 1e-9
