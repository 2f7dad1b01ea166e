"""What studies ask of a run: metrics at the end, what a target took, what a budget bought, and curves along either."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from synthetic import synthetic_run

from gossamer.plots import looks
from gossamer.studies.contents import Plot
from gossamer.studies.drawing import curves
from gossamer.studies.outcomes import outcome, reaches, sent, within


def put(run, table, column, values):
    """The run with these values in a column of its table."""
    old = getattr(run, table)
    kind = old.schema.field(column)
    run.__dict__[table] = old.set_column(old.column_names.index(column), kind, pa.array(values, kind.type))
    return run


def synthetic_with(folder, column, values):
    """A run of three rounds with these values in a column of its table of rounds."""
    return put(synthetic_run(folder, [[0.5]] * 3), "rounds", column, values)


# ---- metrics -------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_tables(tmp_path):
    run = synthetic_run(
        tmp_path / "a", [[0.1, 0.3], [0.7, 0.9], [0.5, 0.9]], merged_R=[0.2, 0.95, 0.9], bytes_per_round=7
    )
    expected = {"merged": 0.9, "local": 0.7, "worst": 0.5, "best_merged": 0.95, "best_local": 0.8, "bytes": 21}
    assert {name: outcome(run, name) for name in expected} == pytest.approx(expected)
    assert outcome(run, "consensus_distance") == pytest.approx(1.5 * 0.8**2)
    for column, values, value in (
        ("transfers", [1, 2, 4], 7),
        ("simulated_seconds", [1.0, 2.5, 6.0], 6.0),
        ("mergeability_gap", [0.3, 0.2, None], 0.2),
    ):
        assert outcome(synthetic_with(tmp_path / column, column, [None] * 3), column) is None
        assert outcome(synthetic_with(tmp_path / f"{column}-there", column, values), column) == value
    assert outcome(synthetic_run(tmp_path / "s", [], merged_R=[0.4], world="server"), "local") is None


def test_a_target_is_reached_in_the_first_measured_round_or_never(tmp_path):
    run = synthetic_run(tmp_path / "a", [[0.1, 0.3], [0.7, 0.9], [0.6, 0.6], [0.9, 0.9]], merged_R=[0.5] * 4)
    every_second = np.isin(run.metrics["round"].to_numpy(), [2, 4])
    assert (reaches(run, "local", 0.8), reaches(run, "worst", 0.8), reaches(run, "merged", 0.5)) == (2, 4, 1)
    assert reaches(run, "merged", 0.51) == math.inf
    run.__dict__["metrics"] = run.metrics.filter(every_second)
    assert reaches(run, "local", 0.1) == 2
    run.__dict__["metrics"] = run.metrics.filter(np.zeros(run.metrics.num_rows, dtype=bool))
    assert reaches(run, "local", 0.1) is None


def test_late_metrics_are_the_mean_of_the_last_ten_rounds_that_were_measured(tmp_path):
    curve_R = [r / 20 for r in range(1, 15)]
    run = synthetic_run(tmp_path / "a", [[value, 0.0] for value in curve_R], merged_R=curve_R)
    assert outcome(run, "late_merged") == pytest.approx(np.mean(range(5, 15)) / 20)
    assert outcome(run, "late_local") == outcome(run, "late_merged") / 2
    assert outcome(run, "late_attack") is None
    lines = zip(*(run.metrics[name].to_pylist() for name in ("round", "node")), strict=True)
    put(run, "metrics", "attack_success", [None if node == -1 or round == 14 else round for round, node in lines])
    assert outcome(run, "late_attack") == np.mean(range(4, 14)), "round 14 was not measured"
    every_third = run.metrics["round"].to_numpy() % 3 == 0
    run.__dict__["metrics"] = run.metrics.filter(every_third)
    assert outcome(run, "late_merged") == pytest.approx(np.mean([3, 6, 9, 12]) / 20), "of fewer than ten: of all"


def test_a_budget_buys_what_was_measured_before_more_was_sent(tmp_path):
    run = synthetic_run(tmp_path / "a", [[0.1, 0.3], [0.7, 0.9], [0.6, 0.6], [0.9, 0.9]], merged_R=[0.2, 0.4, 0.6, 0.5])
    put(run, "rounds", "bytes", [100, 0, 10, 1000])
    assert sent(run, np.array([0, 1, 2, 3, 4, 9])).tolist() == [0, 100, 100, 110, 1110, 1110]
    budgets = (100, 109, 110, 1109.5, 1110, 2e6)
    assert [within(run, "merged", budget) for budget in budgets] == [0.4, 0.4, 0.6, 0.6, 0.5, 0.5]
    assert within(run, "worst", 100) == 0.7
    assert within(run, "merged", 1e9) == outcome(run, "merged")
    assert math.isnan(within(run, "merged", 99))
    run.__dict__["metrics"] = run.metrics.filter(np.isin(run.metrics["round"].to_numpy(), [1, 4]))
    assert within(run, "merged", 1109) == 0.2, "as last measured, in round 1"
    assert within(run, "consensus_distance", 110) == pytest.approx(1.5 * 0.8**2)
    run.__dict__["rounds"] = run.rounds.take([3, 1, 0, 2])
    assert sent(run, np.array([1, 3])).tolist() == [100, 110], "in whatever order the rounds are written"
    run.__dict__["metrics"] = run.metrics.filter(np.zeros(run.metrics.num_rows, dtype=bool))
    assert within(run, "merged", 1e9) is None


# ---- drawing -------------------------------------------------------------------------------------------------


def drawn(arms, **plot):
    """The axes of curves, and x and y of each line by its label."""
    ax = curves(arms, Plot(kind="curves", **plot), looks(list(arms))).axes[0]
    return ax, {line.get_label(): (np.array(line.get_xdata()), np.array(line.get_ydata())) for line in ax.lines}


def test_curves_run_along_rounds_or_along_what_was_sent(tmp_path):
    arms = {
        arm: [
            synthetic_run(tmp_path / f"{arm}{s}", [[0.1 + s / 5], [0.3], [0.5]], bytes_per_round=int(each * (1 + s)))
            for s in (0, 1)
        ]
        for arm, each in (("dense", 2e6), ("sparse", 4e5), ("alone", 0))
    }
    ax, by_round = drawn(arms, metric="local")
    again, _ = drawn(arms, metric="local", over="rounds")
    assert (ax.get_xlabel(), again.get_xlabel()) == ("round", "round")
    ax, by_bytes = drawn(arms, metric="local", over="bytes")
    assert (ax.get_xlabel(), ax.get_xscale(), ax.get_xlim()[0]) == ("sent by all, MB", "linear", 0)
    assert list(by_bytes) == ["dense", "sparse", "alone (sends nothing)"]
    for arm, each in (("dense", 3.0), ("sparse", 0.6)):
        assert by_round[arm][0].tolist() == [1, 2, 3]
        assert by_bytes[arm][0] == pytest.approx([each, 2 * each, 3 * each]), "MB, the mean over seeds"
        assert by_bytes[arm][1].tolist() == by_round[arm][1].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert by_bytes["alone (sends nothing)"][1].tolist() == [0.5, 0.5], "a horizontal line where it ended"
    assert Plot(kind="curves", metric="local").file_name == "curves-local"
    assert Plot(kind="curves", metric="local", over="bytes").file_name == "curves-local-bytes"


def test_bytes_that_lie_far_apart_are_drawn_on_a_log_axis_without_what_was_free(tmp_path):
    runs = {}
    for arm, bytes_ in (("late", [0, 0, 9e6]), ("thrifty", [3e5, 0, 0])):
        run = synthetic_run(tmp_path / arm, [[0.1], [0.3], [0.5]])
        runs[arm] = [put(run, "rounds", "bytes", [int(count) for count in bytes_])]
    assert drawn(runs, metric="local", over="bytes")[0].get_xscale() == "linear", "30 times as far is not yet far"
    put(runs["thrifty"][0], "rounds", "bytes", [200_000, 0, 10_000])
    ax, lines = drawn(runs, metric="local", over="bytes")
    assert ax.get_xscale() == "log"
    assert [part.tolist() for part in lines["late"]] == [[9.0], [0.5]]
    assert [part.tolist() for part in lines["thrifty"]] == [[0.2, 0.2, 0.21], [0.1, 0.3, 0.5]]


def test_seeds_that_were_never_measured_in_the_same_round_have_no_curve(tmp_path):
    runs = [synthetic_run(tmp_path / f"{s}", [[0.1], [0.3]], seed=s) for s in (0, 1)]
    for kept, run in enumerate(runs, 1):
        run.__dict__["metrics"] = run.metrics.filter(run.metrics["round"].to_numpy() == kept)
    assert curves({"a": runs}, Plot(kind="curves", metric="local", over="bytes"), looks(["a"])) is None
    assert list(drawn({"a": runs, "b": runs[:1]}, metric="local")[1]) == ["b"]
