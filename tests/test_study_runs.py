"""Runs of a study: side by side or alone, interrupted and resumed, changed and kept; results are those of the runs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import command_line, write  # noqa: F401 - the fixture `call`
from scipy import stats
from tiny_study import TINY, changed, study, tables

import gossamer
from gossamer.errors import DataError, NodeError, RunError
from gossamer.studies import crew

OVER_BYTES = """
[[plots]]
kind = "curves"
metric = "local"
over = "bytes"
[[claims]]
name = "cheap"
value = 'within(ring, local, 1e12) - ring.local + within("no-talk", local, 0) - "no-talk".local'
between = [0, 0]
"""


def test_results_are_those_of_the_runs_and_a_second_call_runs_nothing(call):
    study(TINY + OVER_BYTES)
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
    talking, perfect, soon, cheap = told["claims"]
    assert (cheap["verdict"], cheap["per_seed"]) == ("holds", [0, 0]), "what sends nothing keeps within any budget"
    paired = [summaries["ring", s]["test_accuracy"] - summaries["no-talk", s]["test_accuracy"] for s in (0, 1)]
    assert talking["per_seed"] == pytest.approx(paired)
    assert talking["interval"] == pytest.approx(stats.t.interval(0.95, 1, np.mean(paired), stats.sem(paired)))
    assert (perfect["verdict"], perfect["bar"]) == ("does not hold", {"between": [0.99, 1.0], "every_seed": True})
    assert (soon["value"], soon["interval"], soon["verdict"]) == ("inf", ["inf", "inf"], "does not hold")
    page = Path("studies/tiny/results/table.md").read_text(encoding="utf-8")
    for text in ("# Talking", "What a ring is worth.", "| talking \\| helps |", "**does not hold**", "`. Figure 1"):
        assert text in page
    assert re.search(r"!\[.*\]\(curves-local.png\)", page)
    for path in ("curves-local.png", "curves-local-bytes.png", "bars-merged-local-worst.png"):
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


@pytest.mark.parametrize(
    "error",
    [
        NodeError(3, 7, "train", "loss is nan", "Traceback ...\n  line"),
        DataError("mnist is missing"),
        RunError("another process is running this"),
    ],
)
def test_errors_of_a_worker_arrive_as_they_were(error):
    arrived = crew._unpacked(json.loads(json.dumps(crew._packed(error))))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
