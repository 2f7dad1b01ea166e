"""Commands that run, and those that read what was run: their numbers are those of the run."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path

import pytest
from command_line import ARMS, SMALL, command_line, write  # noqa: F401 - the fixture `call`

import gossamer
from gossamer import units
from gossamer.errors import Interrupted
from gossamer.experiment import Experiment
from gossamer.placement import place


def test_run_prints_the_table_of_its_runs_as_planned_and_writes_the_report(call):
    write(ARMS)
    planned = json.loads(call("plan", "small.toml", "--json")[1])["arms"]
    code, out, err = call("run", "small.toml")
    assert code == 0
    for arm in ("server", "ring"):
        summary = gossamer.open_run(f"runs/small-{arm}-s0").summary()
        line = next(line for line in out.splitlines() if line.split()[:1] == [arm])
        assert f"{summary['test_accuracy']:.3f}" in line
        assert units.size(summary["bytes"]) in line
        assert f"{arm}: round 2/2" in err
        assert planned[arm]["bytes_total"] == summary["bytes"]
    assert "Report: runs/small.html" in out
    assert Path("runs/small.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_is_alone_on_standard_output_and_equals_the_runs(call):
    code, out, err = call("run", write(SMALL), "--seeds", "3,4", "--set", "rounds=1", "--json")
    assert code == 0
    (arm,) = json.loads(out)["arms"]
    assert [run["seed"] for run in arm["runs"]] == [3, 4]
    for told in arm["runs"]:
        run = gossamer.open_run(told["folder"])
        assert run.experiment == Experiment.from_toml(SMALL).replace(seed=told["seed"], rounds=1)
        assert {key: told[key] for key in run.summary()} == run.summary()
    assert "finished" in err


def test_run_never_touches_an_earlier_run(call):
    write(SMALL)
    call("run", "small.toml")
    before = Path("runs/small-s0/record.json").read_bytes()
    code, out, _ = call("run", "small.toml", "--set", "learner.lr=0.01")
    assert code == 0
    assert "runs/small-s0-2/report.html" in out
    assert Path("runs/small-s0/record.json").read_bytes() == before


def test_tables_tell_the_success_of_an_attack_where_there_is_one(call):
    hostile = 'hostile = { count = 1 }\nattack = "label_flip"\n'
    write(SMALL + hostile + ARMS.removeprefix(SMALL) + '[arms.clean]\nhostile = "nobody"\nattack = "honest"\n')
    code, out, _ = call("run", "small.toml", "--set", "rounds=1")
    assert code == 0
    assert "attack success" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    for arm in ("server", "ring"):
        success = gossamer.open_run(f"runs/small-{arm}-s0").summary()["attack_success"]
        assert f" {success:.3f} " in lines[arm]
    compared = {arm["arm"]: arm["attack"] for arm in json.loads(call("compare", "runs", "--json")[1])["arms"]}
    assert compared["ring"]["mean"] == gossamer.open_run("runs/small-ring-s0").summary()["attack_success"]
    assert compared["clean"] is None
    page = Path("runs/compare.html").read_text(encoding="utf-8")
    placement = place(gossamer.load_arms("small.toml")["ring"], 4)
    assert f"1 of 4 nodes ({placement.hostile[0]}) was hostile; their attacks: label_flip." in page
    assert "under label flip" in page
    assert "attack success" not in call("compare", "runs/small-clean-s0")[1]


SWEEP = f"""{SMALL}
[sweep]
"learner.lr" = [0.1, 0.01]
"""


def test_sweep_keeps_finished_runs_and_resumes_interrupted_ones(call):
    whole = json.loads(call("sweep", write(SWEEP), "--json")[1])
    assert [arm["arm"] for arm in whole["arms"]] == ["lr0.1", "lr0.01"]

    def stop(event):
        if event.kind == "round" and event.round == 1:
            os.kill(os.getpid(), signal.SIGINT)

    experiment = Experiment.from_toml(SMALL).replace(name="small-lr0.1")
    with pytest.raises(Interrupted):
        gossamer.run(experiment, "again/small-lr0.1-s0", stop)
    assert gossamer.open_run("again/small-lr0.1-s0").record["status"] == "interrupted"
    code, out, err = call("sweep", "small.toml", "--folder", "again", "--json")
    assert code == 0
    again = json.loads(out)
    for a, b in zip(whole["arms"], again["arms"], strict=True):
        assert a["accuracy"] == b["accuracy"], "interrupted and resumed equals uninterrupted"
    assert [run["folder"] for run in again["arms"][0]["runs"]] == ["again/small-lr0.1-s0"]
    assert "from round 1" in err
    stamps = {path: path.stat().st_mtime_ns for path in Path("again").glob("*/record.json")}
    code, out, err = call("sweep", "small.toml", "--folder", "again")
    assert code == 0
    assert err.count("finished before") == 2
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


MODEL = """
import os, signal
from pathlib import Path
import torch

class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        odd(self)
        return self.linear(x.flatten(1))
"""


def test_ctrl_c_saves_tells_how_to_go_on_and_leaves_with_130(call):
    once = """
def odd(module):
    if module.training and not Path("interrupted").exists():
        Path("interrupted").touch()
        os.kill(os.getpid(), signal.SIGINT)
"""
    write(MODEL + once, "stopping.py")
    code, out, err = call("run", write(SMALL), "--set", 'model={kind="file", file="stopping.py"}')
    assert (code, out) == (130, "")
    assert "error: stopped after round 1 of 2; go on with: gossamer resume runs/small-s0" in err
    assert "Traceback" not in err
    code, out, _ = call("resume", "runs/small-s0")
    assert code == 0
    assert "Report: runs/small-s0/report.html" in out
    assert gossamer.open_run("runs/small-s0").record["status"] == "finished"


def test_an_error_in_a_users_model_comes_with_its_traceback_and_leaves_with_3(call):
    write(
        MODEL + "\ndef odd(module):\n    if module.training:\n        raise ValueError('my own mistake')\n", "broken.py"
    )
    code, out, err = call("run", write(SMALL), "--set", 'model={kind="file", file="broken.py"}')
    assert (code, out) == (3, "")
    assert re.search(r"error: node \d+, round \d+, stage train: .*my own mistake", err)
    assert "broken.py" in err


def test_a_sweep_goes_on_after_a_failed_arm_and_still_leaves_with_3(call):
    write(SWEEP.replace("[0.1, 0.01]", "[1e30, 0.01]"))
    code, out, err = call("sweep", "small.toml", "--json")
    assert code == 3
    told = json.loads(out)
    assert [arm["arm"] for arm in told["arms"]] == ["lr0.01"]
    assert list(told["failed"]) == ["lr1e_30"]
    assert "(in lr1e_30)" in err.splitlines()[-1]


def test_runs_are_listed_compared_exported_and_cleaned(call):
    call("run", write(SMALL), "--seeds", "0,1", "--set", "rounds=1")
    listed = json.loads(call("runs", "list", "--json")[1])
    assert [run["folder"] for run in listed] == ["runs/small-s0", "runs/small-s1"]
    assert {run["status"] for run in listed} == {"finished"}
    assert "runs/small-s1" in call("runs")[1]
    assert json.loads(call("runs", "--json")[1]) == listed
    assert call("runs", "--json", "clean")[0] == 2

    told = json.loads(call("compare", "runs", "--target", "0.01", "--out", "c.png", "--json")[1])
    (arm,) = told["arms"]
    mean = sum(run["test_accuracy"] for run in listed) / 2
    assert arm["accuracy"]["mean"] == pytest.approx(mean)
    assert (arm["seeds"], arm["reach"]["reached"], arm["reach"]["rounds"]["mean"]) == (2, 2, 1)
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    assert call("compare", "runs", "--out", "c.bmp")[0] == 2
    for target in ("0", "1.5", "nan"):
        code, _, err = call("compare", "runs", "--target", target)
        assert (code, f"--target {target}" in err) == (2, True)

    check_export(call)

    code, out, err = call("runs", "clean")
    assert (code, out) == (0, "removed 0 runs\n"), "finished runs stay unless they are named"
    code, _, err = call("runs", "clean", "runs/small-s0")
    assert code == 2, "nobody can be asked, so nothing is removed"
    assert "runs/small-s0" in err
    assert call("runs", "clean", "runs/small-s0", "--yes")[0] == 0
    assert not Path("runs/small-s0").exists()
    record = Path("runs/small-s1/record.json")
    record.write_text(record.read_text().replace('"finished"', '"failed"'))
    Path("runs/not-a-run").mkdir()
    assert json.loads(call("runs", "clean", "--yes", "--json")[1]) == {"removed": ["runs/small-s1"]}
    assert Path("runs/not-a-run").is_dir()


def test_a_run_that_repeats_a_seed_is_left_out_of_comparisons(call):
    write(SMALL)
    for seeds in ("0,1", "0"):
        call("run", "small.toml", "--seeds", seeds, "--set", "rounds=1")
    code, out, err = call("compare", "runs", "--json")
    assert code == 0
    assert "runs/small-s0-2 repeats seed 0 of runs/small-s0: left out" in err
    assert [arm["seeds"] for arm in json.loads(out)["arms"]] == [2]
    assert "2 seeds" in call("compare", "runs")[1]
    call("run", "small.toml", "--set", "rounds=1", "--set", "learner.lr=0.01", "--set", "name=other")
    lines = [line.split()[:2] for line in call("compare", "runs")[1].splitlines()]
    assert all(line in lines for line in (["arm", "seeds"], ["small", "2"], ["other", "1"]))


def test_a_finished_run_is_not_resumed(call):
    call("run", write(SMALL), "--set", "rounds=1")
    before = Path("runs/small-s0/record.json").read_bytes()
    code, out, err = call("resume", "runs/small-s0")
    assert (code, err) == (0, "runs/small-s0 has already finished\n")
    assert "small" in out
    assert Path("runs/small-s0/record.json").read_bytes() == before


def test_runs_of_python_objects_are_listed_compared_and_reported(call):
    import torch

    small = Experiment.from_toml(SMALL).replace(rounds=1)
    for seed in (0, 1):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        gossamer.run(small.replace(model=model, seed=seed), f"runs/own-s{seed}")
    assert [run["status"] for run in json.loads(call("runs", "--json")[1])] == ["finished"] * 2
    code, out, err = call("compare", "runs", "--json")
    assert (code, err) == (0, "")
    assert [arm["seeds"] for arm in json.loads(out)["arms"]] == [2]
    assert "</html>" in Path("runs/compare.html").read_text(encoding="utf-8")
    assert call("report", "runs/own-s0")[0] == 0


def check_export(call):
    import pyarrow.parquet
    from safetensors.torch import load_file

    run = gossamer.open_run("runs/small-s0")
    assert call("export", "runs/small-s0")[0] == 0
    with open("runs/small-s0/export/metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in rows if row["test_accuracy"]] == [
        value for value in run.metrics["test_accuracy"].to_pylist() if value is not None
    ]
    told = json.loads(call("export", "runs/small-s0", "--format", "parquet", "--to", "out", "--json")[1])
    assert pyarrow.parquet.read_table("out/rounds.parquet").equals(run.rounds)
    assert {Path(path).name for path in told["files"]} == {"metrics.parquet", "rounds.parquet", "model.safetensors"}
    saved = load_file("out/model.safetensors")
    state = run.model().state_dict()
    assert saved.keys() == state.keys()
    assert all(bool((saved[name] == state[name]).all()) for name in state)
