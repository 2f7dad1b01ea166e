"""Studies: read, run side by side, interrupted and resumed, and judged; the numbers are those of the runs."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from command_line import command_line, write  # noqa: F401 - the fixture `call`
from scipy import stats
from synthetic import synthetic_run

import gossamer
from gossamer.arms import load_arms
from gossamer.errors import RunError
from gossamer.studies.agenda import Pace, Standing, Task
from gossamer.studies.findings import find
from gossamer.studies.outcomes import METRICS, outcome, reaches
from gossamer.studies.results import arms_cells, number
from gossamer.studies.study import find_study, read_study

BASE = """
nodes = 4
rounds = 3
backend = "eager"
partition = { kind = "dirichlet", alpha = 1.0 }
model = { kind = "mlp", hidden = [16] }
learner = { kind = "sgd", lr = 0.1, steps = 2 }
method = "dsgd"
topology = "ring"
evaluate = { items = 60 }
"""
ARMS = """
[arms.ring]
[arms."no-talk"]
method = "local"
"""
TINY = f"""
title = "Talking"
about = '''
What a ring
is worth.'''
seeds = [0, 1]
{BASE}{ARMS}
[quick]
arms = ["ring"]
seeds = [0]
rounds = 1
evaluate = {{ items = 30 }}

[[claims]]
name = "talking | helps"
about = "Figure 1"
value = 'ring.local - "no-talk".local'
at_least = -1

[[claims]]
name = "merging makes perfect"
value = "ring.merged"
between = [0.99, 1]
every_seed = true

[[claims]]
name = "soon perfect"
value = 'reaches("ring", local, 1)'
at_most = 2

[[plots]]
kind = "curves"
metric = "local"

[[plots]]
kind = "bars"
metrics = ["merged", "local", "worst"]
arms = ["no-talk", "ring"]
"""


def study(text=TINY, name="tiny"):
    folder = Path("studies") / name
    folder.mkdir(parents=True, exist_ok=True)
    write(text, folder / "study.toml")
    return folder


def tables(runs):
    """The metrics of all runs below a folder, by the name of theirs."""
    return {place.name: gossamer.open_run(place).metrics for place in sorted(Path(runs).glob("*/*"))}


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


def changed(old, new):
    assert old in TINY
    return TINY.replace(old, new)


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
    study(changed("ring.merged", '"no-talk".merged'))
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


# ---- running -------------------------------------------------------------------------------------------------


def test_results_are_those_of_the_runs_and_a_second_call_runs_nothing(call):
    study()
    code, out, err = call("study", "run", "tiny")
    assert code == 0
    assert "4 of 4 runs done" in err
    runs = {(a, s): gossamer.open_run(f"runs/study-tiny/{a}-s{s}") for a in ("ring", "no-talk") for s in (0, 1)}
    told = json.loads(Path("studies/tiny/results/results.json").read_text(encoding="utf-8"))
    assert (told["study"], told["quick"], told["seeds"]) == ("tiny", False, [0, 1])
    assert told["versions"]["gossamer"] == gossamer.__version__
    assert "cores" in told["hardware"]
    summaries = {key: run.summary() for key, run in runs.items()}
    for arm in ("ring", "no-talk"):
        for name, key in (("local", "test_accuracy"), ("worst", "worst_node"), ("bytes", "bytes")):
            assert told["arms"][arm][name] == pytest.approx([summaries[arm, seed][key] for seed in (0, 1)])
    assert "merged" not in told["arms"]["no-talk"]
    talking, perfect, soon = told["claims"]
    paired = [summaries["ring", s]["test_accuracy"] - summaries["no-talk", s]["test_accuracy"] for s in (0, 1)]
    assert talking["per_seed"] == pytest.approx(paired)
    assert talking["interval"] == pytest.approx(stats.t.interval(0.95, 1, np.mean(paired), stats.sem(paired)))
    assert (perfect["verdict"], perfect["bar"]) == ("does not hold", {"between": [0.99, 1.0], "every_seed": True})
    assert (soon["value"], soon["interval"], soon["verdict"]) == ("inf", ["inf", "inf"], "does not hold")
    page = Path("studies/tiny/results/table.md").read_text(encoding="utf-8")
    for text in ("# Talking", "What a ring is worth.", "| talking \\| helps |", "**does not hold**", "`. Figure 1"):
        assert text in page
    assert re.search(r"!\[.*\]\(curves-local.png\)", page)
    for path in ("curves-local.png", "bars-merged-local-worst.png"):
        assert (Path("studies/tiny/results") / path).read_bytes().startswith(b"\x89PNG")
    assert all(claim in out for claim in ("talking | helps", "merging makes perfect", "∞", "does not hold"))

    stamps = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file()}
    code, out, err = call("study", "run", "tiny", "--json")
    assert (code, err.count("finished before")) == (0, 4)
    keys = ["name", "verdict", "value", "interval", "bar"]
    brief = {"study": "tiny", "claims": [{key: claim[key] for key in keys} for claim in told["claims"]]}
    assert json.loads(out) == brief
    assert json.loads(call("study", "show", "tiny", "--json")[1]) == brief
    assert stamps == {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file()}


def test_a_changed_experiment_is_run_anew_and_what_was_there_is_kept(call):
    study()
    call("study", "run", "tiny", "--arms", "ring", "--seeds", "1")
    before = Path("runs/study-tiny/ring-s0/record.json").read_bytes()
    study(changed("lr = 0.1", "lr = 0.05"))
    code, _, err = call("study", "show", "tiny")
    assert (code, "no run of study 'tiny' is finished" in err) == (2, True)
    code, _, err = call("study", "run", "tiny", "--arms", "ring", "--seeds", "1")
    assert code == 0
    assert "ring s0: started anew, since the experiment was changed (learner.lr); what was there is now" in err
    assert Path("runs/study-tiny/ring-s0-before/record.json").read_bytes() == before
    assert gossamer.open_run("runs/study-tiny/ring-s0").experiment.learner.lr == 0.05
    Path("runs/study-tiny/no-talk-s0").mkdir()
    Path("runs/study-tiny/no-talk-s0/lock").touch()
    code, _, err = call("study", "run", "tiny", "--seeds", "1")
    assert (code, "no-talk s0: started anew, since" in err, "finished before" in err) == (0, True, True)


def test_claims_say_which_arms_and_seeds_they_lack(call):
    study()
    told = json.loads(call("study", "run", "tiny", "--arms", "ring", "--json")[1])["claims"]
    assert (told[0]["verdict"], told[0]["value"]) == ("not decided at this budget", None)
    assert told[1]["verdict"] == "does not hold"
    out = call("study", "show", "tiny")[1]
    assert "talking | helps: needs arm no-talk, without a finished run" in out
    out = call("study", "run", "tiny", "--quick")[1]
    assert "talking | helps: needs arm no-talk, left out by [quick]" in out
    assert gossamer.open_run("runs/study-tiny-quick/ring-s0").experiment.rounds == 1
    assert json.loads(Path("studies/tiny/results-quick/results.json").read_text())["quick"] is True
    assert len(tables("runs")) == 3, "reduced runs lie apart from whole ones"
    call("study", "run", "tiny", "--arms", "no-talk", "--seeds", "1")
    out = call("study", "show", "tiny")[1]
    assert "no-talk (1 of 2 seeds)" in out
    assert "talking | helps: 1 of 2 seeds missing; one seed has no interval" in out


def test_where_a_node_fails_the_other_arms_go_on(call):
    study(TINY.replace("[arms.ring]", "[arms.ring]\nlearner = { lr = 1e30 }"))
    code, out, err = call("study", "run", "tiny", "--seeds", "1", "--json")
    assert code == 3
    assert "(in ring s0)" in err.splitlines()[-1]
    assert {claim["verdict"] for claim in json.loads(out)["claims"]} == {"not decided at this budget"}
    assert gossamer.open_run("runs/study-tiny/no-talk-s0").record["status"] == "finished"


MODEL = """
import os, signal
import torch

class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        if self.training:
            try:
                open(f"interrupted-{os.getppid()}", "x").close()
            except FileExistsError:
                pass
            else:
                print("words of the model")
                os.kill(TARGET, signal.SIGINT)
        return self.linear(x.flatten(1))
"""
OWN = changed('model = { kind = "mlp", hidden = [16] }', 'model = { kind = "file", file = "own.py" }')


def test_runs_side_by_side_stop_save_go_on_and_equal_those_played_alone(call):
    study(OWN)
    Path(f"interrupted-{os.getppid()}").touch()
    write(MODEL.replace("TARGET", "0"), "own.py")
    assert call("study", "run", "tiny", "--runs", "alone", "--json")[0] == 0
    write(MODEL.replace("TARGET", "os.getppid()"), "own.py")
    code, out, err = call("study", "run", "tiny", "--jobs", "2", "--json")
    assert (code, out) == (130, "")
    assert "stopping after this round and saving" in err
    assert "error: stopped with 0 runs finished; go on with: gossamer study run tiny --jobs 2" in err
    assert "interrupted" in {gossamer.open_run(place).record["status"] for place in Path("runs/study-tiny").iterdir()}
    code, out, err = call("study", "run", "tiny", "--jobs", "2", "--json")
    assert code == 0
    assert ", from round 1" in err
    assert set(json.loads(out)) == {"study", "claims"}
    assert tables("runs") == tables("alone")
    assert {gossamer.open_run(place).record["backend"] for place in Path("runs/study-tiny").iterdir()} == {"eager"}


def test_an_interrupted_study_goes_on_from_where_it_was(call):
    study(OWN)
    Path(f"interrupted-{os.getppid()}").touch()
    write(MODEL.replace("TARGET", "0"), "own.py")
    call("study", "run", "tiny", "--runs", "alone")
    Path(f"interrupted-{os.getppid()}").unlink()
    write(MODEL.replace("TARGET", "os.getpid()"), "own.py")
    code, _, err = call("study", "run", "tiny")
    assert (code, "stopped with 0 runs finished; go on with: gossamer study run tiny\n" in err) == (130, True)
    code, _, err = call("study", "run", "tiny")
    assert (code, ", from round 1" in err) == (0, True)
    assert tables("runs") == tables("alone")


def test_a_failing_worker_process_is_an_error_not_a_wait(call):
    study(OWN)
    write(MODEL.replace("TARGET", "os.getpid()").replace("SIGINT", "SIGKILL"), "own.py")
    code, _, err = call("study", "run", "tiny", "--jobs", "2")
    assert code == 1
    assert re.search(r"error: (ring|no-talk) s\d: its process was killed by signal 9; out of memory\?", err)
    study(changed('model = { kind = "mlp", hidden = [16] }', 'model = { kind = "file", file = "none.py" }'))
    code, _, err = call("study", "run", "tiny", "--jobs", "2", "--runs", "other")
    assert (code, "file 'none.py' does not exist" in err) == (2, True)
