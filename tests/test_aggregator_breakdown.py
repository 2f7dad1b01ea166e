"""What hostile updates can do to each rule, by the lines of `aggregator_table`: huge ones, no numbers, too many.

A rule that is said to have no breakdown point must break.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aggregator_table import (
    COMBINED,
    KINDS,
    LINES,
    F,
    Line,
    N,
    apply,
    attacked,
    box,
    combined_line,
    length,
    updates,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import gossamer.aggregators as rules
from gossamer.aggregators import Aggregator, Robust, Tolerant
from gossamer.errors import AggregationError
from gossamer.plugs import discover
from gossamer.preaggregators.bucketing import Bucketing


@pytest.mark.parametrize("pattern", ["same", "scattered"])
@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.reach])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_updates_of_1e12_have_no_effect_or_a_bounded_one(kind: str, pattern: str, dtype: Any) -> None:
    line = LINES[kind]
    assert line.reach is not None
    if pattern not in line.hostile:
        return
    for seed in range(5):
        rows = attacked(pattern, seed).astype(dtype)
        out = np.asarray(apply(line, rows), np.float64)
        assert np.isfinite(out).all()
        assert line.reach(out, rows[: N - F].astype(np.float64)), (seed, out)


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.reach is None])
def test_rules_without_a_breakdown_point_break(kind: str) -> None:
    moved = [np.abs(apply(LINES[kind], attacked(pattern))).max() for pattern in ("same", "scattered")]
    assert max(moved) > 1e9


def test_dnc_looks_along_one_direction() -> None:
    """Why its line says `same`: of two hostile updates at right angles the shorter hides behind the longer."""
    rows = updates(0)
    rows[-1, 0], rows[-2, 1] = 1e8, 1e3
    assert rules.DnC(f=2)(rows)[0] < 3
    assert rules.DnC(f=2)(rows)[1] > 50


@pytest.mark.parametrize(("step", "rule"), [pair for pair in COMBINED if pair[1] != "mean"])
@pytest.mark.parametrize("pattern", ["same", "scattered"])
def test_a_robust_rule_behind_a_pre_aggregator_withstands(step: str, rule: str, pattern: str) -> None:
    f = 1 if (step, rule) == ("bucketing", "krum") else F
    rows = attacked(pattern, f=f)
    out = combined_line(step, rule).make(f)(rows)
    # Clipping mixes nothing: a clipped hostile update may be as long as an honest one, and lies outside the box.
    assert (length(1.0) if step in {"clipping", "arc"} else box)(out, rows[: N - f])


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.least])
@pytest.mark.parametrize("f", [1, 2])
def test_too_few_updates_are_refused_and_enough_are_not(kind: str, f: int) -> None:
    line = LINES[kind]
    assert line.least is not None
    enough = line.least(f)
    assert np.isfinite(apply(line, updates(n=enough), f)).all()
    with pytest.raises(AggregationError, match=rf"{kind} withstands {f - 1} hostile of {enough - 1} .*f = {f}"):
        apply(line, updates(n=enough - 1), f)


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.least and not line.own])
def test_too_few_buckets_are_refused_and_enough_are_not(kind: str) -> None:
    """f updates may sit in as many buckets, so the rule must withstand f of the buckets."""
    line, f = LINES[kind], 2
    assert line.least is not None
    rule = line.make(f).model_copy(update={"before": (Bucketing(s=2),)})
    enough = 2 * line.least(f) - 1
    assert np.isfinite(rule(updates(n=enough))).all()
    with pytest.raises(AggregationError, match=f"{kind}.* f = {f}"):
        rule(updates(n=enough - 1))


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.least])
def test_a_share_means_as_many_as_the_rule_can_at_most(kind: str) -> None:
    """f = 0.49 with too few updates for it is the most there can be: the rule with that number."""
    line = LINES[kind]
    assert line.least is not None
    n = line.least(2)
    share = line.make(2).model_copy(update={"f": 0.49})
    rows = updates(n=n)
    assert np.array_equal(apply(line, rows, 2), apply(Line(lambda f: share, "", own=line.own), rows))


ROBUST = [kind for kind in KINDS if issubclass(discover(Aggregator)[kind], Robust)]


def test_only_the_averages_are_not_robust() -> None:
    assert set(KINDS) - set(ROBUST) == {"mean", "product_mean", "variance_corrected"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ROBUST)
def test_updates_that_are_not_finite_are_dropped_and_counted(kind: str, bad: float) -> None:
    """The result is that of the others with f less one for each."""
    line, rows = LINES[kind], updates(1)
    rows[3, 2] = bad
    assert np.array_equal(apply(line, rows), apply(line, np.delete(rows, 3, 0), F - 1))
    rows[8] = -bad
    assert np.array_equal(apply(line, rows), apply(line, np.delete(rows, [3, 8], 0), F - 2))


@pytest.mark.parametrize("kind", ROBUST)
def test_more_of_them_than_there_may_be_are_refused(kind: str) -> None:
    line, rows = LINES[kind], updates(1)
    most = F if issubclass(discover(Aggregator)[kind], Tolerant) else line.wasted(N)
    rows[N - most :] = np.nan
    assert np.isfinite(apply(line, rows)).all()
    if most < N - 1:
        rows[N - most - 1] = np.inf
        with pytest.raises(AggregationError, match=f"{most + 1} of {N} updates hold NaN or infinity"):
            apply(line, rows)


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.own])
def test_an_own_update_that_is_not_finite_is_refused(kind: str) -> None:
    rows = updates(1)
    rows[0, 0] = np.nan
    if kind == "monna":
        # Told a place instead, it refuses that place.
        with pytest.raises(AggregationError, match="monna"):
            rules.MoNNA(f=F)(rows)
        return
    with pytest.raises(AggregationError, match=kind):
        apply(LINES[kind], rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_mean_names_the_first_update_that_is_not_finite(bad: float) -> None:
    rows = updates(1)
    rows[3, 5], rows[7, 1] = bad, np.nan
    with pytest.raises(AggregationError, match=r"^update 3 of 11 \(counted from 0\) holds NaN or infinity"):
        rules.Mean()(rows)


@pytest.mark.parametrize("kind", ROBUST)
@pytest.mark.parametrize(("dtype", "huge"), [(np.float32, 1e38), (np.float64, 1e300)])
def test_updates_whose_squares_overflow_do_no_harm(kind: str, dtype: Any, huge: float) -> None:
    """Those beyond float64 are dropped like infinity; those beyond float32 are only large."""
    line, rows = LINES[kind], updates(1, dtype=dtype)
    rows[N - F :] = huge * np.array([[1.0], [-1.0]])
    out = apply(line, rows)
    if line.reach is not None and ("scattered" in line.hostile or huge > 1e200):
        assert line.reach(out.astype(np.float64), rows[: N - F].astype(np.float64)), out


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([kind for kind in KINDS if LINES[kind].reach is box]),
    st.integers(0, 10_000),
    st.floats(-15, 15),
    st.integers(1, 2),
)
def test_a_box_holds_however_far_away_the_hostile_are(kind: str, seed: int, power: float, f: int) -> None:
    """Hostile updates in one place at any distance that is not among the honest ones."""
    rows = updates(seed)
    rows[N - f :] = 1.0 + np.sign(rows[N - f]) * (20 + 10.0**power)
    assert box(apply(LINES[kind], rows, f), rows[: N - f])
