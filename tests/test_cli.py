"""The command line: what starts fast, what bad input gets, what experiment files and this machine are said to be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ARMS, SMALL, command_line, write  # noqa: F401 - the fixture `call`

import gossamer
from gossamer.cli.progress import LiveProgress, LogProgress
from gossamer.experiment import Experiment
from gossamer.plugs import discover, families

COMMANDS = ["run", "sweep", "resume", "new", "validate", "plan", "runs", "runs list", "runs clean", "compare",
            "report", "export", "list", "doctor", "study", "study run", "study show", "study list",
            "worst", "audit", "audit membership", "audit inversion", "pretrain"]  # fmt: skip


# ---- what starts fast ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["list"], ["new", "x.toml"], ["validate", "s.toml"]])
def test_light_commands_load_no_heavy_library(tmp_path, words):
    (tmp_path / "s.toml").write_text(ARMS)
    code = (
        "import sys\nfrom gossamer.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as left:\n"
        "    heavy = {'torch', 'matplotlib', 'sklearn', 'pyarrow', 'scipy', 'networkx'} & set(sys.modules)\n"
        "    sys.exit(f'code {left.code}, loaded {heavy}' if heavy or left.code else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(call, command):
    code, out, _ = call(*command.split(), "--help")
    assert code == 0
    text = " ".join(out.split())
    assert "Example" in text
    assert f"gossamer {command.split()[0]}" in text.partition("Example")[2]


def test_no_command_is_left_out_of_these_tests(call):
    listed = re.findall(r"^│ (\w+) ", call("--help")[1].partition("Commands")[2], flags=re.MULTILINE)
    assert set(listed) == {command.split()[0] for command in COMMANDS}


# ---- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "missing.toml"], "cannot read the experiment file 'missing.toml'"),
        (["run", "."], "Is a directory"),
        (["run", "broken.toml"], "broken.toml: the file is not valid TOML"),
        (["run"], "Missing argument 'FILE'"),
        (["frob"], "No such command 'frob'"),
        (["run", "small.toml", "--set", "learner.lrr=1"], "did you mean 'lr'"),
        (["run", "small.toml", "--set", "partition.alpha=0"], "partition.alpha = 0"),
        (["run", "small.toml", "--set", "nodes=5000"], "nodes = 5000"),
        (["run", "small.toml", "--set", "method=fedavgg"], "did you mean 'fedavg'"),
        (["run", "small.toml", "--seeds", "0,x"], "--seeds 0,x"),
        (["run", "small.toml", "--seeds", "1,2,1"], "seed 1 is given twice"),
        (["run", "small.toml", "--set", "arms.ring.rounds=3"], "for one, edit the file"),
        (["run", "small.toml", "--backend", "fast"], "'eager', 'parallel' or 'vmap'"),
        (["resume", "nowhere"], "nowhere is no run folder"),
        (["report", "nowhere"], "nowhere"),
        (["compare", "nowhere"], "nowhere"),
        (["export", "nowhere"], "nowhere"),
        (["list", "method"], "did you mean 'methods'"),
        (["new", "small.toml"], "small.toml exists"),
        (["new", "no/such/folder.toml"], "cannot write"),
        (["validate", "broken.toml", "--json"], "not valid TOML"),
    ],
)
def test_bad_input_is_one_line_and_code_2_and_leaves_nothing(call, words, message):
    write(SMALL)
    write("nodes = [", "broken.toml")
    before = sorted(Path().rglob("*"))
    code, out, err = call(*words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == "" or json.loads(out)["valid"] is False
    assert sorted(Path().rglob("*")) == before


# ---- files ---------------------------------------------------------------------------------------------------


def test_new_writes_every_key_with_its_default(call):
    code, _, _ = call("new", "fresh.toml")
    assert code == 0
    text = Path("fresh.toml").read_text(encoding="utf-8")
    assert Experiment.from_toml(text) == Experiment(name="fresh")
    for key in Experiment.model_fields:
        assert re.search(rf"^(# )?{key} =|^\[{key}\]", text, flags=re.MULTILINE), key
    for family in ("methods", "topologies", "partitions"):
        assert set(discover(families()[family])) <= set(re.findall(r"\w+", text)), family
    assert max(map(len, text.splitlines())) <= 140
    assert call("new", "fresh.toml")[0] == 2
    assert Path("fresh.toml").read_text(encoding="utf-8") == text


def test_validate_tells_the_arms_and_the_grid(call):
    write(ARMS + '[sweep]\n"learner.lr" = [0.1, 0.01]\n')
    code, out, _ = call("validate", "small.toml")
    assert code == 0
    assert "2 arms (server, ring), 4 points to sweep; data was not looked at" in out
    told = json.loads(call("validate", "small.toml", "--json")[1])
    assert Experiment.from_dict(told["arms"]["ring"]) == gossamer.load_arms("small.toml")["ring"]


def test_plan_says_who_hears_whom(call):
    code, out, _ = call("plan", write(ARMS), "--json")
    assert code == 0
    planned = json.loads(out)["arms"]
    assert planned["ring"]["hears"] == [[1, 3], [0, 2], [1, 3], [0, 2]]
    assert planned["server"]["hears"] == []
    text = call("plan", "small.toml")[1]
    assert "2 hears 1, 3" in text
    assert "sgd, lr 0.1, batches of 32, 2 steps a round" in text
    assert "aggregator" not in text
    assert f"{planned['ring']['bytes_total']:,} bytes" in text


def test_plan_of_many_nodes_is_short_and_tells_what_is_not_the_default(call):
    words = [
        "nodes=20",
        "partition=iid",
        "validation=0",
        "aggregator=median",
        'transforms=[{kind="cast",to="float16"}]',
    ]
    words += ["learner={kind='adam', epochs=3, batch_size=8}"]
    code, out, _ = call("plan", write(ARMS), *(word for one in words for word in ("--set", one)))
    assert code == 0
    ring = out[out.index("graph ") :]
    assert re.findall(r"(\d+) hears", ring) == ["0", "1", "2", "3"]
    assert "... and 16 more" in ring
    for line in ("aggregator +median", "transforms +cast", "adam, lr 0.001, batches of 8, 3 epochs a round"):
        assert re.search(line, out), line


HOSTILE = """
hostile = { count = 2 }
attack = { kind = "ipm", scale = 0.5 }
aggregator = { kind = "krum", before = ["nnm"] }
"""


def test_plan_says_who_is_hostile_and_what_the_rule_withstands(call):
    write(SMALL.replace("nodes = 4", "nodes = 12") + HOSTILE + ARMS.removeprefix(SMALL))
    told = json.loads(call("plan", "small.toml", "--json")[1])["arms"]
    hostile = told["server"]["hostile"]
    assert len(hostile) == 2
    text = " ".join(call("plan", "small.toml")[1].split())
    server, _, _ = text.partition("who hears whom 0 hears")
    for part in ("krum after nnm", f"2 of 12 nodes ({hostile[0]}, {hostile[1]})", "krum withstands 3 of 12 updates",
                 "ipm (scale 0.5), which knows every honest message of the round"):  # fmt: skip
        assert part in server, part
    honest = [hears for node, hears in enumerate(told["ring"]["hears"]) if node not in hostile]
    most = max(len({*hears} & {*hostile}) for hears in honest)
    assert f"hostile nodes heard: at most {most}, by node" in text
    assert "krum withstands 0 of 3 updates (the own one is one of them)" in text
    text = " ".join(call("plan", "small.toml", "--set", "aggregator=mean")[1].split())
    assert "mean withstands none of 12 updates" in text
    assert "hostile" not in call("plan", write(SMALL, "honest.toml"))[1]


def test_plan_tells_the_identities_of_sybils(call):
    sybils = {"hostile": '{kind="sybils", per_sybil=4}', "attack": "label_flip", "aggregator": "median",
              "method": "dsgd", "topology": "complete", "nodes": "12"}  # fmt: skip
    words = [word for key, value in sybils.items() for word in ("--set", f"{key}={value}")]
    text = " ".join(call("plan", write(SMALL), *words)[1].split())
    assert "3 identities of one attacker beside 12 nodes, with 12 attack edges (12, 13, 14)" in text
    assert "median withstands 6 of 13 updates" in text
    assert "hostile nodes heard: at most 1, by node 0" in text
    server = ["--set", 'hostile={kind="sybils", identities=10}', "--set", "attack=label_flip"]
    text = " ".join(call("plan", "small.toml", *server, "--set", "aggregator=median")[1].split())
    assert "10 identities of one attacker beside 4 nodes (4, 5, 6, 7, 8, 9, 10, 11, ...)" in text
    assert "median withstands 6 of 14 updates" in text


@pytest.mark.parametrize(("nodes", "told"), [(2, "719 training items each"), (4, "359 to 360 training items")])
def test_plan_tells_the_items_of_the_nodes(call, nodes, told):
    text = call("plan", write(SMALL), "--set", f"nodes={nodes}", "--set", "partition=iid", "--set", "validation=0")[1]
    assert told in text


def test_a_narrow_terminal_loses_columns_but_never_digits(monkeypatch):
    from rich.console import Console

    from gossamer.cli import output

    columns = ["arm", "test accuracy", "sent", "time"]
    line = ["a-long-name", "0.723 ± 0.938", "465 kB", "0.06 s"]
    for width, kept in ((80, 4), (45, 3), (36, 2)):
        narrow = Console(width=width)
        monkeypatch.setattr(output, "console", lambda narrow=narrow: narrow)
        with narrow.capture() as captured:
            narrow.print(output.table(columns, [line], spare=["time", "sent"]))
        text = captured.get()
        assert [cell in text for cell in line] == [True] * kept + [False] * (4 - kept)


# ---- the machine ---------------------------------------------------------------------------------------------


def test_list_tells_every_plug(call):
    told = json.loads(call("list", "--json")[1])
    assert told.keys() == families().keys()
    for family, base in families().items():
        assert [plug["kind"] for plug in told[family]] == list(discover(base))
        assert all(plug["description"] for plug in told[family])


def test_doctor_finds_the_data_sets_and_a_wrong_folder(call, tmp_path, monkeypatch):
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path / "data"))
    told = {check["what"]: check for check in json.loads(call("doctor", "--json")[1])}
    assert told["data folder"]["ok"] is True
    assert told["data folder"]["found"].endswith(": mnist")
    assert told["torch runs"]["ok"] is True
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path / "gone"))
    code, out, _ = call("doctor", "--json")
    assert code == 1
    assert {check["what"]: check["ok"] for check in json.loads(out)}["data folder"] is False


# ---- progress ------------------------------------------------------------------------------------------------


def events(rounds):
    from gossamer.rounds import Event

    started = {"nodes": 4, "parameters": 10, "backend": "eager", "reason": "as asked", "workers": 1, "folder": "runs/x"}
    yield Event("start", 0, rounds, started)
    for r in range(1, rounds + 1):
        left = float(rounds - r)
        yield Event("round", r, rounds, {"seconds": 1.0, "bytes": 1000 * r, "loss": 1 / r, "seconds_left": left})
        yield Event("evaluation", r, rounds, {"accuracy": r / 10, "worst": None})
    yield Event("end", rounds, rounds, {"status": "finished"})


def test_a_log_has_a_line_every_two_seconds_and_the_last_round(capsys):
    now = [0.0]
    hear = LogProgress(1, clock=lambda: now[0]).listen("arm")
    for event in events(9):
        now[0] += 0.5 if event.kind == "round" else 0.0
        hear(event)
    lines = capsys.readouterr().err.splitlines()
    rounds = [int(found[1]) for line in lines if (found := re.search(r"round (\d+)/9", line))]
    assert rounds == [3, 7, 9]
    assert "round 3/9  loss 0.3333  accuracy 0.300  3.00 kB  6.0 s left" in "\n".join(lines), "its own accuracy"
    assert all(line.startswith("[1/1] arm: ") for line in lines)


def test_live_lines_end_at_the_last_state(capsys):
    with LiveProgress(1) as shown:
        hear = shown.listen("arm")
        for event in events(3):
            hear(event)
    err = capsys.readouterr().err
    assert "✓ arm" in err
    assert "3/3" in err
    assert "accuracy 0.300" in err
    assert "3.00 kB" in err


def test_a_closed_pipe_is_no_traceback(tmp_path):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = f'{sys.executable} -c \'from gossamer.cli import main; main(["list", "--json"])\' | head -c 10'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr
