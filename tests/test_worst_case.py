"""Worst cases against a direct transcription, and against the summaries of runs that were really played."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, command_line, write  # noqa: F401 - the fixture `call`
from hypothesis import given, settings
from hypothesis import strategies as st

import gossamer
from gossamer.arms import expand, load_arms, load_sweep
from gossamer.axes import where
from gossamer.compare import estimate
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.worst_case import told_apart, worst_cases, worst_of

RULES, ATTACKS, SEEDS = ("mean", "median", "krum"), ("alie", "ipm"), (0, 1, 2)
BASE = Experiment(hostile={"count": 3}, attack="ipm")


class Played:
    """As much of a run as the table looks at."""

    def __init__(self, value, seed=0, metric="test_accuracy", **changes):
        experiment = BASE.replace(seed=seed, **changes)
        self.record = {"experiment": experiment.to_dict(), "digest": experiment.digest(), "status": "finished"}
        self.seed, self._summary = seed, {metric: value}

    def summary(self):
        return self._summary


def grid(values, **more):
    """Runs of all rules, attacks and seeds with these values, an array [3, 2, 3]."""
    places = itertools.product(enumerate(RULES), enumerate(ATTACKS), enumerate(SEEDS))
    return [
        Played(float(values[r, a, s]), seed, aggregator=rule, attack=attack, **more)
        for (r, rule), (a, attack), (s, seed) in places
    ]


ACCURACIES = st.lists(st.integers(0, 20).map(lambda i: i / 20), min_size=18, max_size=18).map(
    lambda values: np.array(values).reshape(3, 2, 3)
)


@settings(deadline=None)
@given(ACCURACIES, st.randoms())
def test_the_table_is_that_of_a_direct_transcription_in_any_order_of_runs(values, random):
    runs = grid(values)
    random.shuffle(runs)
    found = worst_cases(runs)
    worst = {}
    for line in found.lines:
        r = RULES.index(line.row)
        for name, cell in zip(found.columns, line.cells, strict=True):
            assert [cell[seed] for seed in SEEDS] == list(values[r, ATTACKS.index(name)])
        assert [line.worst[seed] for seed in SEEDS] == [min(values[r, :, s]) for s in range(3)]
        worst[line.row] = statistics.fmean(line.worst.values())
        lowest = min(values[r].mean(1))
        columns = {name for a, name in enumerate(ATTACKS) if values[r, a].mean() == pytest.approx(lowest, abs=1e-12)}
        assert set(found.worst_columns(line)) <= columns
    assert worst[found.best[0].row] == max(worst.values())
    for line in found.lines:
        gaps = values[RULES.index(line.row)].min(0) - values[RULES.index(found.best[0].row)].min(0)
        middle = estimate(gaps)
        assert (line in found.best) == (abs(middle.mean) <= middle.half_width)


@settings(deadline=None)
@given(ACCURACIES)
def test_of_attack_success_the_highest_is_the_worst(values):
    runs = grid(values)
    flipped = [Played(1 - run.summary()["test_accuracy"], run.seed, "attack_success") for run in runs]
    for run, other in zip(flipped, runs, strict=True):
        run.record = other.record
    by_accuracy, by_success = worst_cases(runs), worst_cases(flipped, metric="attack_success")
    for a, b in zip(by_accuracy.lines, by_success.lines, strict=True):
        assert b.worst == pytest.approx({seed: 1 - value for seed, value in a.worst.items()})
    ranks = [sum(line.worst.values()) for line in by_accuracy.lines]
    assert sum(by_success.best[0].worst.values()) == pytest.approx(3 - max(ranks))


@settings(deadline=None)
@given(st.lists(ACCURACIES, min_size=2, max_size=4), st.sampled_from([(), (0,), (1, 2)]))
def test_each_row_has_the_setting_with_the_largest_minimum_on_the_seeds_for_choosing(tables, tuning):
    runs = [
        run for k, values in enumerate(tables) for run in grid(values, learner={"kind": "sgd", "lr": (k + 1) / 100})
    ]
    found = worst_cases(runs, tune_seeds=tuning)
    chosen_on, reported = list(tuning or SEEDS), [seed for seed in SEEDS if seed not in tuning]
    assert found.seeds == tuple(reported)
    for line in found.lines:
        r = RULES.index(line.row)
        scores = [values[r].min(0)[chosen_on].mean() for values in tables]
        k = round(100 * float(line.setting.removeprefix("lr "))) - 1
        assert scores[k] == pytest.approx(max(scores))
        assert line.tried == len(tables)
        assert line.worst == {seed: tables[k][r].min(0)[seed] for seed in reported}


def test_what_is_reported_has_no_part_in_the_choice():
    tables = np.random.default_rng(0).random((2, 3, 2, 3))
    settings = []
    for noise in (0.0, -0.9):
        tables[0, ..., 2] += noise
        runs = [run for k in (0, 1) for run in grid(tables[k], learner={"kind": "sgd", "lr": 0.1 * (k + 1)})]
        settings.append([line.setting for line in worst_cases(runs, tune_seeds=(0, 1)).lines])
    assert settings[0] == settings[1]


def test_a_setting_without_all_its_runs_is_not_chosen_and_a_row_without_has_no_worst_case():
    values = np.full((3, 2, 3), 0.5)
    better = grid(values + 0.4, learner={"kind": "sgd", "lr": 0.5})
    some = [run for run in better if run.record["experiment"]["attack"]["kind"] == "ipm"]
    found = worst_cases([*grid(values), *some])
    assert {line.setting for line in found.lines} == {"lr 0.1"}
    lacking = [run for run in grid(values) if not (run.seed < 9 and run.record["experiment"]["aggregator"]["kind"]
               == "krum" and run.record["experiment"]["attack"]["kind"] == "alie")]  # fmt: skip
    found = worst_cases(lacking)
    assert {line.row: len(line.worst) for line in found.lines} == {"mean": 3, "median": 3, "krum": 0}
    assert "krum" not in [line.row for line in found.best]


def test_cells_over_a_third_key_are_its_worst_case():
    values = np.random.default_rng(1).random((3, 2, 3))
    runs = grid(values, partition={"kind": "dirichlet", "alpha": 0.1})
    runs += grid(values + 1, partition={"kind": "dirichlet", "alpha": 10.0})
    by_alpha = worst_cases(runs, ["aggregator"], ["partition.alpha"], ["attack"])
    assert by_alpha.columns == ("0.1", "10")
    both = worst_cases(runs, ["aggregator"], ["attack", "partition.alpha"])
    assert both.columns[:2] == ("alie, alpha 0.1", "ipm, alpha 0.1")
    for one, other in zip(by_alpha.lines, both.lines, strict=True):
        r = RULES.index(one.row)
        assert list(one.cells[0].values()) == list(values[r].min(0))
        assert list(one.cells[1].values()) == list(values[r].min(0) + 1)
        assert one.worst == other.worst


def test_a_column_without_the_metric_is_left_out():
    runs = grid(np.full((3, 2, 3), 0.5))
    for run in runs:
        if run.record["experiment"]["attack"]["kind"] == "alie":
            run._summary = {"test_accuracy": None}
    found = worst_cases(runs)
    assert (found.columns, found.unmeasured) == (("ipm",), ("alie",))
    with pytest.raises(ExperimentError, match="has measured 'worst_node'"):
        worst_cases(runs, metric="worst_node")


def test_plugs_are_called_by_kind_and_what_tells_them_apart():
    rules = [
        ({"kind": "krum", "f": 1}, "krum (f 1)"),
        ({"kind": "krum", "f": 2}, "krum (f 2)"),
        ({"kind": "median"}, "median"),
        ({"kind": "median", "before": ["nnm"]}, "nnm + median"),
        ({"kind": "trimmed_mean", "f": 2, "before": ["nnm"]}, "nnm + trimmed_mean"),
    ]
    found = worst_cases([Played(0.5, aggregator=rule) for rule, _ in rules])
    assert [line.row for line in found.lines] == [name for _, name in rules]
    by_kind = worst_cases([Played(0.1 * i, aggregator=rule) for i, (rule, _) in enumerate(rules)], ["aggregator.kind"])
    assert [(line.row, line.setting, line.tried) for line in by_kind.lines] == [
        ("krum", "f 2", 2),
        ("median", "nnm", 2),
        ("trimmed_mean", "", 1),
    ]


def test_numbers_are_in_order_and_tied_rows_are_named():
    runs = [Played(0.5, hostile={"count": k}, attack=a) for k in (10, 2, 3) for a in ATTACKS]
    found = worst_cases(runs, ["hostile.count"])
    assert [line.row for line in found.lines] == ["2", "3", "10"]
    assert [line.row for line in found.best] == ["2", "3", "10"], "one seed each: equal is tied"
    assert found.worst_columns(found.lines[0]) == ("alie", "ipm")
    assert told_apart({0: 0.5}, {0: 0.6})
    assert not told_apart({0: 0.5, 1: 0.9}, {0: 0.6, 1: 0.4})
    assert not told_apart({0: 0.5}, {1: 0.6})
    assert worst_of([]) == {}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rows": ["aggregatr"]}, "no run has the key 'aggregatr'; did you mean 'aggregator'"),
        ({"columns": ["aggregator.kind"]}, "'aggregator.kind' is given twice"),
        ({"columns": ["seed"]}, "the runs differ in attack.kind"),
        ({"tune_seeds": (5,)}, "--tune-seeds 5: no run has this seed; there are 0, 1, 2"),
        ({"tune_seeds": (0, 1, 2)}, "no seed is left to report"),
    ],
)
def test_what_cannot_be_a_table_is_refused(more, message):
    with pytest.raises(ExperimentError, match=r"^[^\n]*$") as refused:
        worst_cases(grid(np.full((3, 2, 3), 0.5)), **more)
    assert message in str(refused.value)


def test_the_world_is_not_a_defenders_to_choose():
    runs = [Played(0.5, partition={"kind": "dirichlet", "alpha": alpha}) for alpha in (0.1, 1.0)]
    with pytest.raises(ExperimentError, match=r"differ in partition.alpha \(0.1, 1\).* --where partition.alpha=0.1"):
        worst_cases(runs)
    assert [run.record["experiment"]["partition"]["alpha"] for run in where(runs, ["partition.alpha = 1"])] == [1.0]
    assert len(where(runs, ["attack=ipm", "hostile.count=3"])) == 2
    for condition, message in (("attack", "write KEY=VALUE"), ("attack=alie", "there are ipm"), ("atack=1", "attack")):
        with pytest.raises(ExperimentError, match=message):
            where(runs, [condition])


# ---- the command -----------------------------------------------------------------------------------------------

GRID = f"""{SMALL.replace("nodes = 4", "nodes = 7")}
hostile = {{ count = 1 }}
attack = "ipm"
[sweep]
attack = [{{ kind = "ipm", scale = 3.0 }}, "label_flip"]
aggregator = ["mean", "median"]
"partition.alpha" = [1.0, 0.5]
"""


def test_a_sweep_crosses_rules_attacks_splits_and_numbers_of_hostile_nodes(call):
    write(GRID + '"hostile.count" = [1, 2, 3]\n')
    points = [experiment for (experiment,) in expand(load_arms("small.toml"), load_sweep("small.toml")).values()]
    found = {(e.aggregator.kind, e.attack.kind, e.partition.alpha, e.hostile.count) for e in points}
    assert found == set(itertools.product(["mean", "median"], ["ipm", "label_flip"], [1.0, 0.5], [1, 2, 3]))


def test_the_example_is_three_rules_by_three_attacks_by_two_splits():
    path = Path(__file__).parent.parent / "examples" / "hostile.toml"
    sizes = {key: len(values) for key, values in load_sweep(path).items()}
    assert sizes == {"aggregator": 3, "attack": 3, "partition.alpha": 2, "seed": 2}
    assert len(expand(load_arms(path), load_sweep(path))) == 18


def test_the_command_tells_what_the_runs_of_a_sweep_reached(call):
    assert call("sweep", write(GRID), "--set", "rounds=1", "--seeds", "0,1")[0] == 0
    at = ["--where", "partition.alpha=1"]
    code, out, err = call("worst", "runs", *at, "--save", "heat.png", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    runs = [gossamer.open_run(place) for place in sorted(Path("runs").iterdir()) if place.is_dir()]
    reached = {
        (e.aggregator.kind, e.attack.kind, e.partition.alpha, run.seed): run.summary()
        for run in runs
        for e in [run.experiment]
    }
    assert len(reached) == 2 * 2 * 2 * 2
    for line in told["lines"]:
        for attack, cell in line["cells"].items():
            values = [reached[line["row"], attack, 1.0, seed]["test_accuracy"] for seed in (0, 1)]
            assert list(cell["per_seed"].values()) == values
        lowest = [min(reached[line["row"], a, 1.0, s]["test_accuracy"] for a in line["cells"]) for s in (0, 1)]
        assert line["worst"]["mean"] == pytest.approx(np.mean(lowest))
    assert Path("heat.png").read_bytes().startswith(b"\x89PNG")
    assert told["heat_map"] == "heat.png"

    code, out, _ = call("worst", "runs", "--columns", "attack,partition.alpha", "--rows", "hostile.count")
    assert code == 0
    assert "chosen on the very seeds that are reported" in " ".join(out.split())
    assert "Best worst case: " in out
    out = call("worst", "runs", *at, "--rows", "aggregator", "--metric", "attack_success", "--tune-seeds", "1")[1]
    assert "Left out, since attack_success was not measured there: ipm." in out
    success = reached["median", "label_flip", 1.0, 0]["attack_success"]
    assert f"{success:.3f}" in next(line for line in out.splitlines() if line.split()[:1] == ["median"])


def test_bad_input_of_the_command_is_one_line(call):
    call("run", write(SMALL), "--set", "rounds=1")
    for words, message in (
        (["--metric", "accuracy"], "--metric accuracy: choose one of test_accuracy"),
        (["--save", "heat.bmp"], "--save heat.bmp: the name must end in"),
        (["--rows", ""], "--rows and --columns: name at least one key"),
        (["--tune-seeds", "x"], "--tune-seeds x: write whole numbers"),
        (["--where", "attack"], "--where attack: write KEY=VALUE"),
    ):
        code, out, err = call("worst", "runs", *words)
        assert (code, out, err.count("\n"), message in err) == (2, "", 1, True)
    record = Path("runs/small-s0/record.json")
    record.write_text(record.read_text().replace('"finished"', '"interrupted"'))
    code, _, err = call("worst", "runs")
    assert (code, "has not finished and is left out" in err, "none of these runs has finished" in err) == (
        2,
        True,
        True,
    )
