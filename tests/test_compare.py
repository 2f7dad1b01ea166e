"""Comparisons against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import synthetic_run

from gossamer import compare

NUMBERS = st.lists(st.integers(-1000, 1000).map(lambda i: i / 1000), min_size=2, max_size=8)


def test_interval_of_two_seeds_is_the_textbook_one():
    # t(0.975, 1) = 12.7062; the standard error of {a, b} is |a - b| / 2.
    got = compare.estimate([0.8, 0.9])
    assert got.mean == pytest.approx(0.85)
    assert got.half_width == pytest.approx(12.7062047 * 0.05)
    assert got.seeds == 2


@given(NUMBERS, st.floats(-10, 10), st.floats(0.1, 10))
def test_interval_agrees_with_scipy_and_follows_shift_and_scale(values, shift, scale):
    from scipy import stats

    got = compare.estimate(values)
    if np.ptp(values) > 0:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (got.mean - got.half_width, got.mean + got.half_width) == pytest.approx((low, high), abs=1e-6)
    moved = compare.estimate([scale * value + shift for value in values])
    assert moved.mean == pytest.approx(scale * got.mean + shift, abs=1e-6)
    assert moved.half_width == pytest.approx(scale * got.half_width, abs=1e-6)


def test_one_seed_has_no_interval_and_none_no_estimate():
    assert compare.estimate([0.5]) == compare.Estimate(0.5, None, 1)
    assert compare.estimate([math.nan, 0.5]) == compare.Estimate(0.5, None, 1)
    assert compare.estimate([math.nan]) is None


def test_curve_is_the_mean_over_nodes_on_a_graph_and_the_global_model_with_a_server(tmp_path):
    graph = synthetic_run(tmp_path / "g", [[0.1, 0.3], [0.5, 0.9]], merged_R=[0.9, 0.95])
    server = synthetic_run(tmp_path / "s", [], merged_R=[0.4, 0.6], world="server")
    assert compare.curve(graph).values == pytest.approx([0.2, 0.7])
    assert compare.curve(server).values == pytest.approx([0.4, 0.6])
    assert compare.curve(graph, "consensus_distance").values == pytest.approx([1.5, 1.2])


def test_curve_adds_up_what_was_spent_by_the_end_of_each_round(tmp_path):
    run = synthetic_run(tmp_path / "g", [[0.1]] * 3, bytes_per_round=7, seconds_per_round=2.0)
    got = compare.curve(run)
    assert got.rounds.tolist() == [1, 2, 3]
    assert got.bytes.tolist() == [7, 14, 21]
    assert got.seconds == pytest.approx([2, 4, 6])


def test_spent_counts_the_rounds_that_were_not_evaluated(tmp_path):
    run = synthetic_run(tmp_path / "g", [[0.1], [0.2], [0.3], [0.4]], bytes_per_round=10)
    every_second = np.array([False, True, False, True])
    run.__dict__["metrics"] = run.metrics.filter(every_second)
    got = compare.curve(run)
    assert got.rounds.tolist() == [2, 4]
    assert got.bytes.tolist() == [20, 40]


def test_reach_is_the_first_measured_round_at_the_target(tmp_path):
    runs = [
        synthetic_run(tmp_path / "a", [[0.1], [0.8], [0.7], [0.9]], bytes_per_round=5, seconds_per_round=1.0),
        synthetic_run(tmp_path / "b", [[0.1], [0.2], [0.3], [0.8]], bytes_per_round=5, seconds_per_round=1.0, seed=1),
    ]
    got = compare.reach(runs, 0.8)
    assert (got.reached, got.seeds) == (2, 2)
    assert (got.rounds.mean, got.bytes.mean, got.seconds.mean) == pytest.approx((3, 15, 3))
    some = compare.reach(runs, 0.85)
    assert (some.reached, some.seeds, some.rounds.mean) == (1, 2, 4)
    assert (some.rounds_in_words(), some.seeds_in_words()) == ("4 rounds", " (1 of 2 seeds)")
    none = compare.reach(runs, 0.95)
    assert none == compare.Reach(0, 2, None, None, None)
    assert none.rounds_in_words() == "not reached"


@pytest.mark.parametrize(("mean", "text"), [(1.0, "1 round"), (7 / 3, "2.3 rounds"), (1234567.0, "1,234,567 rounds")])
def test_rounds_have_at_most_one_decimal(mean, text):
    one = compare.Estimate(mean, None, 1)
    assert compare.Reach(1, 1, one, one, one).rounds_in_words() == text


def test_the_same_seed_again_changes_no_number(tmp_path):
    def run(place, seed, top, **rest):
        return synthetic_run(tmp_path / place, [[top, top]] * 2, seed=seed, name="x", **rest)

    once = [run("a", 0, 0.5), run("b", 1, 0.7)]
    again = [once[0], run("a2", 0, 0.5), once[1], run("b2", 1, 0.7)]
    assert compare.distinct(again) == once
    assert [(r.folder.name, of.folder.name) for r, of in compare.repeated(again)] == [("a2", "a"), ("b2", "b")]
    assert compare.rows({"x": again}, target=0.6) == compare.rows({"x": once}, target=0.6)
    assert compare.band(again).seeds == 2
    once[0].record["status"] = "interrupted"
    assert [r.folder.name for r in compare.distinct(again)] == ["a2", "b"], "a finished one is worth more"


def test_band_keeps_the_rounds_that_all_seeds_evaluated(tmp_path):
    first = synthetic_run(tmp_path / "a", [[0.1], [0.2], [0.3]])
    second = synthetic_run(tmp_path / "b", [[0.3], [0.6]], rounds=3, seed=1)
    got = compare.band([first, second])
    assert got.x.tolist() == [1, 2]
    assert got.mean == pytest.approx([0.2, 0.4])
    assert got.low == pytest.approx([0.1, 0.2])
    assert got.high == pytest.approx([0.3, 0.6])


def test_node_values_are_those_of_the_last_round_in_node_order(tmp_path):
    run = synthetic_run(tmp_path / "a", [[0.9, 0.9, 0.9], [0.3, 0.1, 0.2]], merged_R=[0.5, 0.5])
    assert compare.node_values(run).tolist() == [0.3, 0.1, 0.2]
    assert len(compare.node_values(synthetic_run(tmp_path / "s", [], merged_R=[0.5], world="server"))) == 0


def test_rows_follow_the_summaries(tmp_path):
    runs = [synthetic_run(tmp_path / str(s), [[0.5, 0.7 + s / 10]], merged_R=[0.8], seed=s) for s in (0, 1)]
    (row,) = compare.rows({"ring": runs}, target=0.62)
    assert row.accuracy.mean == pytest.approx(np.mean([run.summary()["test_accuracy"] for run in runs]))
    assert row.worst == compare.Estimate(0.5, 0.0, 2)
    assert row.merged.mean == pytest.approx(0.8)
    assert row.validation is None
    assert (row.seeds, row.rounds, row.reach.reached) == (2, 1, 1)


def test_runs_that_differ_in_the_seed_only_are_one_arm(tmp_path):
    def run(name, seed, **changes):
        return synthetic_run(tmp_path / f"{name}{seed}{changes}", [[0.5, 0.5]], name=name, seed=seed, **changes)

    runs = [run("x-b", 1), run("x-a", 0), run("x-b", 0), run("x-b", 0, validation=0.2)]
    arms = compare.group(runs)
    assert {arm: [one.seed for one in members] for arm, members in arms.items()} == {
        "b": [0, 1],
        "a": [0],
        "b (2)": [0],
    }


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["x-a", "x-b"], ["a", "b"]),
        (["x-y-a", "x-y-b"], ["a", "b"]),
        (["x", "x-b"], ["x", "x-b"]),
        (["x-a"], ["x-a"]),
        (["xa", "xb"], ["xa", "xb"]),
    ],
)
def test_names_lose_what_they_share(names, short):
    assert compare._shortened(names) == short
