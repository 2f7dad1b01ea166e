"""Claims: their arithmetic is Python's, their verdicts are those of the intervals, and nothing is executed."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from gossamer.errors import ExperimentError
from gossamer.studies.claims import Term, parse
from gossamer.studies.verdicts import FAILS, HOLDS, OPEN, Bar, judge, middle

ARMS = {
    "single": {"merged": 0.75, "local": 0.5, "bytes": 12.0},
    "none": {"merged": -0.25, "local": 0.0, "bytes": 3.0},
    "x_1": {"merged": 0.1, "local": 0.2, "bytes": 0.3},
}
NAMES = [f"{arm}.{metric}" for arm, metrics in ARMS.items() for metric in metrics]


def value(text, arms=ARMS):
    return parse(text).value(lambda term: arms[term.arm][term.metric])


# ---- arithmetic ----------------------------------------------------------------------------------------------


def two(parts):
    signs = st.sampled_from(["({} + {})", "{} - ({})", "({}) * ({})", "({}) / ({})", "min({}, {})", "max({}, {})"])
    return st.builds(str.format, signs, parts, parts)


LEAVES = st.sampled_from(NAMES) | st.integers(0, 1000).map(lambda i: f"{i / 8}")
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda parts: two(parts) | st.builds(str.format, st.sampled_from(["-({})", "+{}", "abs({})"]), parts),
    max_leaves=10,
)


@given(EXPRESSIONS)
def test_values_are_those_of_python(text):
    assume(any(name in text for name in NAMES))
    spaces = {arm: SimpleNamespace(**metrics) for arm, metrics in ARMS.items()}
    try:
        expected = eval(text, {"__builtins__": {"min": min, "max": max, "abs": abs}}, spaces)
    except ZeroDivisionError:
        assert math.isnan(value(text))
    else:
        assert value(text) == expected


@given(
    st.lists(
        st.sampled_from(
            [*NAMES, *"+-*/(),.'\"", " ", "1", "0.5", "min", "reaches", "within", "a", "=", "if", "[", "\n"]
        )
    )
)
def test_any_text_is_understood_or_refused_in_one_line(parts):
    text, asked, refusal = "".join(parts), [], ""

    def lookup(term):
        asked.append(term)
        return 1.0

    try:
        parsed = parse(text)
    except ExperimentError as error:
        refusal = str(error)
    else:
        assert isinstance(parsed.value(lookup), float)
        assert {*asked} == {*parsed.terms}
        assert all(term.arm in text for term in asked)
    assert "\n" not in refusal


def test_quoted_arms_and_terms_are_told_apart():
    parsed = parse('"all-reduce".merged - "0.2".merged + reaches("all-reduce", local, 0.7) / reaches(ring, local, 0.7)')
    assert parsed.terms == (
        Term("all-reduce", "merged"),
        Term("0.2", "merged"),
        Term("all-reduce", "local", 0.7),
        Term("ring", "local", 0.7),
    )
    for term in parsed.terms:
        assert parse(str(term)).terms == (term,)
    assert parse("a.merged - a.merged").terms == (Term("a", "merged"),)


@given(st.sampled_from(["ring", "all-reduce", "0.2", "if"]), st.integers(0, 10**15 - 1) | st.floats(0, 1e300))
def test_what_a_budget_buys_is_a_term_of_its_own(arm, budget):
    parsed = parse(f'within("{arm}", merged, {budget}) - 2 * reaches("{arm}", merged, 0.5) / ring.bytes')
    term, until, whole = parsed.terms
    assert (term, until, whole) == (
        Term(arm, "merged", budget=float(budget)),
        Term(arm, "merged", 0.5),
        Term("ring", "bytes"),
    )
    assert parsed.value({term: 0.75, until: 3.0, whole: 12.0}.__getitem__) == 0.25
    (again,) = parse(str(term)).terms
    assert again.budget == (budget if isinstance(budget, int) else pytest.approx(budget, rel=1e-14))


def test_the_extreme_over_a_factor_is_a_term_of_its_own():
    parsed = parse('worst("nnm-krum", merged) - most(mean, attack) / worst(mean, merged)')
    assert parsed.terms == (
        Term("nnm-krum", "merged", over="worst"),
        Term("mean", "attack", over="most"),
        Term("mean", "merged", over="worst"),
    )
    for term in parsed.terms:
        assert parse(str(term)).terms == (term,)
    assert parsed.value({parsed.terms[0]: 0.5, parsed.terms[1]: 0.2, parsed.terms[2]: 0.4}.__getitem__) == 0.0


def test_what_is_undefined_stays_undefined():
    assert math.isnan(value("single.merged / none.local"))
    for text in ("min(1, single.merged / 0)", "max(single.merged / 0, 1)", "abs(single.merged / 0) * 0"):
        assert math.isnan(value(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("single.merged -", "is no arithmetic"),
        ("", "is no arithmetic"),
        ("1 + 2", "names no arm"),
        ("all-reduce.merged", "'all' is no number and no arm.metric; a name with '-'"),
        ("0.2.merged", "is quoted"),
        ("single.merged ** 2", "is no arithmetic"),
        ("single.merged > 0", "is no arithmetic"),
        ("single.merged if single.local else 0", "is no arithmetic"),
        ("single.merged.real", "is no arithmetic"),
        ("__import__('os').system", "is no arithmetic"),
        ("open('x')", "no function 'open'; there are min, max, abs and reaches(arm, metric, 0.7), within(arm, metric,"),
        ("(lambda: single.merged)()", "is no arithmetic"),
        ("[single.merged][0]", "is no arithmetic"),
        ("True * single.merged", "is no arithmetic"),
        ("1j * single.merged", "is no arithmetic"),
        ("single.merged - ...", "is no arithmetic"),
        ("single.merged - None", "is no arithmetic"),
        ("min(single.merged)", "min() takes two values or more"),
        ("min(*single.merged, 1)", "is no arithmetic"),
        ("max(single.merged, key=abs)", "max() takes values without names"),
        ("abs(single.merged, 1)", "abs() takes one value"),
        ("worst(single.local)", "worst() takes a level of crossed arms and a metric, e.g. worst(krum, merged)"),
        ("most(krum, attack, 0.7)", "most() takes a level"),
        ("worst(krum, 'merged')", "worst() takes a level"),
        ("reaches(single, local)", "reaches() takes an arm, a metric and a number"),
        ("reaches(single, 'local', 0.7)", "reaches() takes"),
        ("reaches(single, local, True)", "reaches() takes"),
        ("reaches(single, local, ring.local)", "reaches() takes"),
        ("reaches(single, local, False)", "reaches() takes"),
        ("within(single, merged)", "within() takes an arm, a metric and a number, e.g. within(single, local, 2e6)"),
        ("within(single.merged, 2e6)", "within() takes"),
        ("within(single, merged, '2 MB')", "within() takes"),
        ("within(single, merged, True)", "within() takes"),
        ("within(single, merged, -1)", "within() takes"),
        ("within(single, merged, 1e999)", "too large"),
        ("within(single, merged, bytes=1)", "within() takes values without names"),
        ("1" + "0" * 400 + " * single.merged", "too large"),
        ("-" * 99 + "single.merged", "more than 50 operations"),
        ("(" * 5000 + "single.merged" + ")" * 5000, "is no arithmetic"),
        ("-" * 100_000 + "single.merged", "is no arithmetic"),
        ("single.\0merged", "is no arithmetic"),
    ],
)
def test_refusals_say_what_was_not_understood(text, message):
    with pytest.raises(ExperimentError) as refused:
        parse(text)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 300


# ---- verdicts ------------------------------------------------------------------------------------------------

VALUES = st.lists(st.integers(-1000, 1000).map(lambda i: i / 1000), min_size=1, max_size=8)
BARS = st.builds(
    lambda kind, a, b, every: {
        "least": Bar(low=a, every_seed=every),
        "most": Bar(high=a, every_seed=every),
        "between": Bar(min(a, b), max(a, b), every),
    }[kind],
    st.sampled_from(["least", "most", "between"]),
    st.integers(-10, 10).map(lambda i: i / 10),
    st.integers(-10, 10).map(lambda i: i / 10),
    st.booleans(),
)


@given(BARS, VALUES)
def test_verdicts_are_those_of_the_interval_of_student(bar, values):
    got = judge(bar, values)
    assert got.value == pytest.approx(np.mean(values))
    if len(values) == 1:
        assert got.interval is None
        assert got.verdict == (FAILS if bar.every_seed and not bar.met_by(values[0]) else OPEN)
        return
    if np.ptp(values) > 0:
        interval = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert got.interval == pytest.approx(interval, abs=1e-9)
    low, high = got.interval
    if bar.every_seed and not all(map(bar.met_by, values)):
        assert got.verdict == FAILS, "one seed that fails refutes what is said of every seed"
    elif low > bar.low + 1e-9 and high < bar.high - 1e-9:
        assert got.verdict == HOLDS
    elif high < bar.low - 1e-9 or low > bar.high + 1e-9:
        assert got.verdict == FAILS
    elif (low < bar.low - 1e-9 < high) or (low < bar.high + 1e-9 < high):
        assert got.verdict == OPEN


@given(BARS, VALUES, st.randoms())
def test_verdicts_know_no_order_of_seeds_and_mirror(bar, values, random):
    got = judge(bar, values)
    mirrored = judge(Bar(-bar.high, -bar.low, bar.every_seed), [-value for value in values])
    assert mirrored.verdict == got.verdict
    random.shuffle(values)
    again = judge(bar, values)
    assert (again.verdict, again.value) == (got.verdict, pytest.approx(got.value, abs=1e-12))


@given(BARS, VALUES, st.sampled_from([None, math.nan]))
def test_nothing_is_decided_in_favour_where_a_seed_is_missing(bar, values, hole):
    got = judge(bar, [*values, hole])
    without = judge(bar, values)
    assert got.verdict != HOLDS
    assert (got.value, got.interval) == (without.value, without.interval)
    assert ("missing" if hole is None else "no value in 1 of") in got.note
    assert judge(bar, [hole, hole]).value is None
    assert ("out of bytes" in judge(bar, [hole], "out of bytes").note) == (hole is not None)


def test_a_value_at_the_bar_passes_in_spite_of_rounding():
    assert 0.95 - 0.8 < 0.15 < 0.9 - 0.75
    assert judge(Bar(low=0.15), [0.95 - 0.8] * 2).verdict == HOLDS
    assert judge(Bar(high=0.15), [0.9 - 0.75] * 2).verdict == HOLDS
    assert judge(Bar(low=0.15), [0.1499] * 2).verdict == FAILS


INF = math.inf


@pytest.mark.parametrize(
    ("values", "center", "interval", "verdict"),
    [
        ([-3, -2, -INF, -5, -4, -1], -3.5, (-INF, -1), HOLDS),
        ([-3, -2, -INF, -5, -4], -4, None, OPEN),
        ([INF] * 6, INF, (INF, INF), FAILS),
        ([INF, INF], INF, (INF, INF), FAILS),
        ([-INF, -INF], -INF, (-INF, -INF), HOLDS),
        ([INF], INF, None, OPEN),
        ([-INF, INF], None, None, OPEN),
        ([-5, -4, -3, -2, -1, INF], -2.5, (-5, INF), OPEN),
        ([-9, -8, -7, -6, -5, -4, -3, -2, INF], -5, (-8, -2), HOLDS),
        ([math.nan, INF, INF], INF, (INF, INF), OPEN),
    ],
)
def test_runs_that_never_reach_a_target_are_judged_by_the_median(values, center, interval, verdict):
    got = judge(Bar(high=0), values)
    assert (got.value, got.interval, got.verdict) == (center, interval, verdict)
    assert "never reached" in got.note


@pytest.mark.parametrize("seeds", range(6, 30))
def test_the_interval_of_the_median_is_the_narrowest_of_95_percent(seeds):
    low, high = middle([*map(float, range(1, seeds)), INF])[1]
    k = int(low)
    assert high == seeds + 1 - k or (k == 1 and high == INF)

    def outside(k):
        """Probability that the median of n draws' law lies outside [x_(k), x_(n+1-k)]: 2 P(Binomial(n, 1/2) < k)."""
        return 2 * sum(math.comb(seeds, i) for i in range(k)) / 2**seeds

    assert outside(k) <= 0.05 < outside(k + 1)


def test_bars_read_as_they_are_written():
    for bar, every in itertools.product([{"low": 0.1}, {"high": -2.0}, {"low": 0.08, "high": 0.12}], (False, True)):
        told = Bar(**bar, every_seed=every).to_dict()
        assert told.pop("every_seed", False) is every
        assert list(told) == [{("low",): "at_least", ("high",): "at_most"}.get(tuple(bar), "between")]
        assert np.ravel(list(told.values())).tolist() == list(bar.values())
    assert str(Bar(low=0.15, every_seed=True)) == "at least 0.15, in every seed"
    assert str(Bar(0.08, 0.12)) == "0.08 to 0.12"
    assert str(Bar(high=0)) == "at most 0"
