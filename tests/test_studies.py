"""Studies: what is read, what is refused, what their metrics and tables are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from command_line import command_line, write  # noqa: F401 - the fixture `call`
from scipy import stats
from synthetic import synthetic_run
from tiny_study import ARMS, BASE, TINY, changed, study

import gossamer
from gossamer.arms import load_arms
from gossamer.errors import RunError
from gossamer.studies.agenda import Pace, Standing, Task
from gossamer.studies.findings import find
from gossamer.studies.outcomes import METRICS, outcome, reaches
from gossamer.studies.results import arms_cells, number
from gossamer.studies.study import find_study, read_study


def synthetic_with(folder, column, values):
    """A run of three rounds with these values in a column of its table of rounds."""
    run = synthetic_run(folder, [[0.5]] * 3)
    at = run.rounds.column_names.index(column)
    kind = run.rounds.schema.field(column)
    run.__dict__["rounds"] = run.rounds.set_column(at, kind, pa.array(values, kind.type))
    return run


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
