"""Studies: what is read, what is refused, what their metrics and tables are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from command_line import command_line, write  # noqa: F401 - the fixture `call`
from scipy import stats
from synthetic import synthetic_run
from tiny_study import ARMS, BASE, TINY, changed, study

import gossamer
from gossamer.arms import load_arms
from gossamer.errors import RunError
from gossamer.studies.agenda import Pace, Standing, Task
from gossamer.studies.drawing import heat
from gossamer.studies.findings import find
from gossamer.studies.outcomes import METRICS
from gossamer.studies.results import arms_cells, crossed_cells, number, results
from gossamer.studies.study import find_study, read_study

# ---- reading -------------------------------------------------------------------------------------------------


def test_a_study_is_its_arms_with_what_quick_overrides(call):
    folder = study()
    whole, quick = read_study(folder), read_study(find_study("tiny"), quick=True)
    arms = load_arms(write(f'name = "tiny"\n{BASE}{ARMS}'))
    assert dict(whole.experiments) == arms
    assert dict(quick.experiments) == {
        "ring": arms["ring"].replace(rounds=1, evaluate=arms["ring"].evaluate.model_copy(update={"items": 30}))
    }
    assert (whole.name, whole.title, whole.about) == ("tiny", "Talking", "What a ring is worth.")
    assert (whole.seeds, quick.seeds) == ((0, 1), (0,))
    assert [whole.first_seeds(n) for n in (None, 1, 2, 4)] == [(0, 1), (0,), (0, 1), (0, 1, 2, 3)]
    assert quick.first_seeds(2) == (0, 1)
    assert find_study(str(folder)) == find_study(str(folder.resolve())).relative_to(Path.cwd()) == folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed('title = "Talking"', ""), "title is missing"),
        (changed("seeds = [0, 1]", "seeds = [0, 1, 0]"), "seeds = [0, 1, 0]: a seed is given twice"),
        (changed("seeds = [0, 1]", "seeds = []"), "seeds = []: "),
        (changed("seeds = [0, 1]", "seed = 3"), "seed: all arms of a study run with the same seeds"),
        (changed("title =", "titel ="), "unknown key 'titel'; did you mean 'title'?"),
        (changed("nodes = 4", "nodes = 0"), "arm 'ring': nodes = 0"),
        (changed("[quick]", "[quick]\nround = 3"), "unknown key 'quick.round'; did you mean 'rounds'?"),
        (changed('arms = ["ring"]', 'arms = ["rong"]'), "quick.arms: no arm 'rong'; did you mean 'ring'?"),
        (changed("rounds = 1", "rounds = 0"), "with [quick]: arm 'ring': rounds = 0"),
        (changed('"no-talk".local', "none.local"), "claim 'talking | helps': no arm 'none'; arms: ring, no-talk"),
        (changed('"no-talk".local', "ring.lokal"), "claim 'talking | helps': no metric 'lokal'; did you mean 'local'?"),
        (changed('"no-talk".local', "no-talk.local"), "'no' is no number and no arm.metric; a name with '-'"),
        (changed("at_least = -1", ""), "claim 'talking | helps': give one bar"),
        (changed("at_least = -1", "at_least = 0\nat_most = 1"), "claim 'talking | helps': give one bar"),
        (changed("at_least = -1", "at_lest = 0"), "claim 'talking | helps': unknown key 'at_lest'; did you mean"),
        (changed("at_least = -1", "at_least = inf"), "claim 'talking | helps': at_least = inf"),
        (changed("[0.99, 1]", "[1, 0.99]"), "between = [1.0, 0.99]: the lower end comes first"),
        (changed('name = "soon perfect"', ""), "claims, table 3: name is missing"),
        (changed("soon perfect", "talking | helps"), "claim 'talking | helps': there are two of this name"),
        (changed("local, 1)", "bytes, 1)"), "reaches(ring, bytes, 1): what can be reached is merged, local, worst"),
        (
            changed("local, 1)", "late_local, 1)"),
            "reaches(ring, late_local, 1): what can be reached is merged, local, w",
        ),
        (
            changed('"ring.merged"', '"within(ring, bytes, 2e6)"'),
            "within(ring, bytes, 2000000): what has a value round",
        ),
        (changed('"ring.merged"', '"within(ring, best_local, 1)"'), "what has a value round by round is merged, local"),
        (changed('"ring.merged"', '"within(rong, local, 1)"'), "no arm 'rong'; did you mean 'ring'?"),
        (changed('"ring.merged"', '"within(ring, lokal, 1)"'), "no metric 'lokal'; did you mean 'local'?"),
        (
            changed('metric = "local"', 'metric = "local"\nover = "seconds"'),
            "plots, table 1: over = 'seconds': input should be 'rounds' or",
        ),
        (changed('["no-talk", "ring"]', '[]\nover = "bytes"'), 'plots, table 2: over = "bytes" is for curves'),
        (changed('kind = "curves"', 'kind = "pie"'), "plots, table 1: kind = 'pie'"),
        (changed('metric = "local"', 'metric = "bytes"'), "plots, table 1: metric = 'bytes' is no curve over rounds"),
        (
            changed('metric = "local"', 'metrics = ["local"]'),
            'plots, table 1: curves show one metric: metric = "merged"',
        ),
        (changed('"worst"]', '"bytes"]'), "plots, table 2: metrics = ['merged', 'local', 'bytes']: give each unit"),
        (changed('arms = ["no-talk", "ring"]', 'arms = ["x"]'), "plots, table 2: arms: no arm 'x'"),
        (TINY.replace("[[claims]]", "[[claim]]"), "unknown key 'claim'; did you mean 'claims'?"),
        (TINY.replace("[[claims]]", "[claims]", 1), "not valid TOML"),
        (f"title = 'x'\n{BASE}", "arms: a study needs one table for each arm"),
        (TINY + '[sweep]\n"learner.lr" = [1, 2]', "sweep: a study has arms and no grid"),
    ],
)
def test_a_broken_study_is_refused_in_one_line_that_names_file_and_key(call, text, message):
    study(text)
    code, out, err = call("study", "run", "tiny")
    assert (code, out) == (2, "")
    assert err.startswith("error: studies/tiny/study.toml: ")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("column", ["transfers", "mergeability_gap"])
def test_a_metric_that_is_not_recorded_is_refused_before_anything_runs(call, monkeypatch, column):
    monkeypatch.delitem(gossamer.record.ROUNDS, column)
    study(changed("ring.merged", f"ring.{column}"))
    code, _, err = call("study", "run", "tiny")
    assert code == 2
    assert f"claim 'merging makes perfect': runs of this version of Gossamer do not record '{column}'" in err


def test_a_study_that_is_not_there_is_answered_with_those_that_are(call):
    code, _, err = call("study", "run", "tiny")
    assert (code, "no study 'tiny'" in err, "holds none" in err) == (2, True, True)
    assert call("study", "list")[1] == "no studies in the folder 'studies' here\n"
    study()
    study("title = 3", "broken")
    code, _, err = call("study", "show", "tini")
    assert (code, "did you mean 'tiny'? studies: broken, tiny" in err) == (2, True)
    code, out, err = call("study", "list", "--json")
    assert (code, [told["name"] for told in json.loads(out)]) == (0, ["tiny"])
    assert "warning: studies/broken/study.toml" in err
    assert "Talking" in call("study", "list")[1]
    assert "--seeds 0" in call("study", "run", "tiny", "--seeds", "0")[2]
    assert "arm 'x' does not exist; arms: ring, no-talk" in call("study", "run", "tiny", "--arms", "x")[2]
    assert "arm 'no-talk' is not kept by [quick]" in call("study", "run", "tiny", "--quick", "--arms", "no-talk")[2]
    code, _, err = call("study", "show", "tiny", "--quick")
    assert (code, "gossamer study run studies/tiny --quick" in err) == (2, True)


# ---- judging -------------------------------------------------------------------------------------------------


def test_a_claim_about_what_was_not_measured_is_an_error_that_names_it(call, tmp_path):
    study(changed('"ring.merged"', "'\"no-talk\".merged'"))
    runs = {arm: {0: synthetic_run(tmp_path / arm, [[0.5, 0.7]])} for arm in ("ring", "no-talk")}
    with pytest.raises(RunError, match=r"claim 'merging makes perfect': \"no-talk\".merged was not measured by"):
        find(read_study(find_study("tiny")), (0,), runs)


def test_the_table_has_means_and_intervals_of_what_was_measured(call, tmp_path):
    study(TINY[: TINY.index("[[claims]]")])
    runs = {
        arm: {s: synthetic_run(tmp_path / f"{arm}{s}", [[0.5, 0.7 + s / 10]], merged, seed=s) for s in (0, 1)}
        for arm, merged in (("ring", [0.8]), ("no-talk", None))
    }
    columns, (ring, alone) = arms_cells(find(read_study(find_study("tiny")), (0, 1), runs))
    assert columns == ["arm", "merged", "local", "worst", "consensus distance", "bytes"]
    half = stats.t.ppf(0.975, 1) * 0.025
    assert ring[:4] == ["ring", "0.800", f"0.625 ± {half:.3f}", "0.500"]
    assert alone[:3] == ["no-talk", "–", f"0.625 ± {half:.3f}"]
    assert alone[-1] == "1.00 kB"


def test_arms_are_paired_at_equal_bytes_and_what_no_budget_buys_is_undefined(call, tmp_path):
    study(changed('"ring.merged"', "'within(ring, local, 2e3) - within(\"no-talk\", local, 2e3)'"))
    told = {"ring": (500, [0.25, 0.5, 0.75, 1.0, 0.0]), "no-talk": (1000, [0.0, 0.125, 0.25, 0.5, 0.75])}
    runs = {
        arm: {
            s: synthetic_run(tmp_path / f"{arm}{s}", [[value / (1 + s)] for value in of], bytes_per_round=each, seed=s)
            for s in (0, 1)
        }
        for arm, (each, of) in told.items()
    }
    found = find(read_study(find_study("tiny")), (0, 1), runs)
    assert found.claims[1].per_seed == (1.0 - 0.125, (1.0 - 0.125) / 2), "four rounds of one, two of the other"
    runs["no-talk"][1] = synthetic_run(tmp_path / "dear", [[0.5]] * 5, bytes_per_round=2001, seed=1)
    talking, budgeted, _ = find(read_study(find_study("tiny")), (0, 1), runs).claims
    assert budgeted.per_seed[0] == 0.875
    assert math.isnan(budgeted.per_seed[1])
    assert "no value in 1 of 2 seeds (nothing was measured within the bytes" in budgeted.judgement.note
    assert None not in talking.per_seed
    study(changed('"ring.merged"', "'within(ring, merged, 2e3)'"))
    with pytest.raises(RunError, match=r"within\(ring, merged, 2000\) was not measured by"):
        find(read_study(find_study("tiny")), (0, 1), runs)


@pytest.mark.parametrize("asked", ["claim", "plot", "nothing"])
def test_late_metrics_are_told_where_a_claim_or_a_plot_is_about_them(call, tmp_path, asked):
    text = changed("ring.merged", "ring.late_merged") if asked == "claim" else TINY
    study(text.replace('["merged", "local", "worst"]', '["late_merged"]') if asked == "plot" else text)
    curve_R = [0.0] * 5 + [0.5] * 5 + [1.0] * 5
    runs = {arm: {0: synthetic_run(tmp_path / arm, [[v] for v in curve_R], curve_R)} for arm in ("ring", "no-talk")}
    found = find(read_study(find_study("tiny")), (0,), runs)
    names, (ring, _) = arms_cells(found)
    assert ("late merged" in names, "late local" in names) == (asked != "nothing", False)
    of_ring = results(found)["arms"]["ring"]
    assert [name for name in of_ring if name.startswith("late")] == (["late_merged"] if asked != "nothing" else [])
    assert {"best_merged", "best_local"} <= of_ring.keys()
    if asked != "nothing":
        assert ring[names.index("late merged")] == "0.750"
        assert of_ring["late_merged"] == [0.75]
    if asked == "claim":
        assert found.claims[1].per_seed == (0.75,)


CROSSED = f"""
title = "Rules"
{BASE}
hostile = {{ count = 1 }}
[cross.rule.mean]
[cross.rule.median]
aggregator = "median"
[cross.attack.ipm]
attack = "ipm"
[cross.attack.none]
[[claims]]
name = "stands up"
value = "worst(median, late_local) - worst(mean, late_local)"
at_least = 0
[[plots]]
kind = "heatmap"
metric = "late_local"
"""


def test_late_metrics_of_crossed_arms_have_a_worst_and_a_heat_map(call, tmp_path):
    study(CROSSED, "rules")
    ends = {"mean--ipm": 0.25, "mean--none": 0.75, "median--ipm": 0.5, "median--none": 0.625}
    runs = {arm: {0: synthetic_run(tmp_path / arm, [[0.0]] + [[end]] * 9 + [[0.0]])} for arm, end in ends.items()}
    found = find(read_study(find_study("rules")), (0,), runs)
    assert found.claims[0].per_seed == pytest.approx((0.9 * (0.5 - 0.25),))
    ((text, (names, cells)),) = crossed_cells(found)
    assert text.startswith("Local accuracy, last ten rounds, mean over seeds (worst: the lowest")
    assert (names, cells[0]) == (["", "ipm", "none", "worst"], ["mean", "0.225", "0.675", "0.225"])
    figure = heat(found, found.study.plots[0])
    assert [text.get_text() for text in figure.axes[0].texts] == [".23", ".68", ".23", ".45", ".56", ".45"]
    assert results(found)["arms"]["mean--ipm"]["late_local"] == pytest.approx([0.225])


def test_numbers_that_json_has_not_are_words_or_null():
    values = [0.5, math.inf, -math.inf, math.nan, None]
    assert [number(value) for value in values] == [0.5, "inf", "-inf", None, None]
    assert all(metric.recorded for metric in METRICS.values())


def test_time_left_is_what_the_finished_runs_of_an_arm_took(tmp_path):
    a0, a1, b0, b1 = (
        Task(arm, seed, gossamer.Experiment(), tmp_path / f"{arm}{seed}") for arm in "ab" for seed in (0, 1)
    )
    run = synthetic_run(tmp_path / "a0", [[0.5]] * 5, seconds_per_round=2.0)
    new = Standing("new")
    assert Pace([(a0, new), (b0, new)]).seconds_left(1) is None
    pace = Pace([(a0, Standing("finished", run)), (a1, new), (b0, new), (b1, new)])
    assert pace.seconds_left(1) == 10 + 10 + 10
    pace.hear(b0, 40.0)
    assert pace.seconds_left(2) == (10 + 40 + 25) / 2, "b1 is expected to take the mean of what is known"
    pace.ended(b0, 60.0)
    assert pace.seconds_left(1) == 10 + 60
    pace.ended(b1, None)
    pace.ended(a1, 12.0)
    assert pace.seconds_left(8) == 0
