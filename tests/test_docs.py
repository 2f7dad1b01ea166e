"""The documentation is executed: what a reader copies works, in the order of the page, in an empty folder.

Fenced blocks: `python` is run in one namespace for each page, unless its first line is a comment that names a file;
then it is written there, as is `text` (CSV, a trace). Where it begins with `>>> `, what it shows is compared. `toml` is
checked as an experiment file (as a study if it is called study.toml), and written where a comment names a file. In
`console`, lines that begin with `$ gossamer` are run; where the page shows `error: ...` below, the command must fail
with that line.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from aggregator_table import LINES, STEPS
from tiny_study import TINY, study

from gossamer.arms import expand, load_arms, load_sweep
from gossamer.cli import main
from gossamer.experiment import Experiment
from gossamer.federation import Federation
from gossamer.plugs import discover, families
from gossamer.studies.study import read_study

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The file that the first line names in a comment; empty for none."""
        found = re.match(r"# ([\w/]+\.(?:py|toml|csv|txt))\n", self.text)
        return found[1] if found else ""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(text)]


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a console block, each with what the page shows below it."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def play(page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do all that a page says, in the current folder."""
    module = types.ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        if block.file:
            Path(block.file).parent.mkdir(exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        if block.language == "toml":
            check_experiment(block)
        elif block.text.startswith(">>> "):
            check_session(block, page, module)
        elif block.language == "python" and not block.file:
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(code, module.__dict__)
        elif block.language == "console":
            for command, shown in commands(block):
                if command.startswith("gossamer "):
                    call(command, shown, f"{page.name}:{block.line}", capsys)


def check_session(block: Block, page: Path, module: types.ModuleType) -> None:
    """What the block shows after each `>>> ` is what it prints."""
    test = doctest.DocTestParser().get_doctest(block.text, module.__dict__, page.name, str(page), block.line)
    told: list[str] = []
    assert doctest.DocTestRunner().run(test, out=told.append, clear_globs=False).failed == 0, "".join(told)
    module.__dict__.update(test.globs)


def check_experiment(block: Block) -> None:
    """The block is a valid experiment file, or a valid study."""
    path = Path(block.file or "block.toml")
    path.write_text(block.text, encoding="utf-8")
    if path.name == "study.toml":
        assert read_study(path.parent).claims
    else:
        assert expand(load_arms(path), load_sweep(path))


def call(command: str, shown: str, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(shlex.split(command, comments=True)[1:])
    told = capsys.readouterr().err
    expected = [line for line in shown.splitlines() if line.startswith("error: ")]
    if expected:
        assert left.value.code not in (0, None), f"{where}: {command} did not fail"
        assert expected[0] in told, f"{where}: {command}"
    else:
        assert left.value.code == 0, f"{where}: {command}\n{told}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("GOSSAMER_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_page_can_be_followed(page, folder, capsys, monkeypatch):
    stops: list[object] = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: stops.append(None))
    play(page, capsys, monkeypatch)
    assert bool(stops) == ("breakpoint()" in page.read_text(encoding="utf-8"))


def test_readme_can_be_followed(folder, capsys, monkeypatch):
    """With the examples beside it, cut down to two rounds and the first to six nodes, and a tiny study."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    first = folder / "examples" / "first.toml"
    text = first.read_text(encoding="utf-8")
    small = text.replace("nodes = 20", 'nodes = 6\nbackend = "eager"').replace("rounds = 30", "rounds = 2")
    small = small.replace("[0.2, 0.1, 0.05]", "[0.1]")
    assert len(set(text.splitlines()) - set(small.splitlines())) == 3
    first.write_text(small, encoding="utf-8")
    grid = folder / "examples" / "hostile.toml"
    text = grid.read_text(encoding="utf-8")
    small = text.replace("rounds = 20", "rounds = 2").replace("seed = [0, 1]", "seed = [0]")
    assert len(set(text.splitlines()) - set(small.splitlines())) == 2
    grid.write_text(small, encoding="utf-8")
    study(TINY, "single-merge")
    play(ROOT / "README.md", capsys, monkeypatch)


def test_readme_names_every_command_and_every_kind():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = ["run", "sweep", "resume", "runs", "compare", "report", "export", "new", "validate", "plan", "list"]
    for command in [*commands, "study", "worst"]:
        assert f"$ gossamer {command} " in text, command
    for family, base in families().items():
        row = re.search(rf"^\| {family} \| (.*) \|$", text, re.MULTILINE)
        assert row is not None, family
        assert set(row[1].replace("`", "").split(", ")) == discover(base).keys(), family


@pytest.mark.parametrize("family", ["aggregators", "attacks", "hostile", "preaggregators"])
def test_robust_page_has_a_line_for_every_kind(family):
    told = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "robust.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert discover(families()[family]).keys() <= told


def test_privacy_page_has_a_line_for_every_mechanism():
    told = re.findall(r"^\| `(\w+)` \|", (DOCS / "privacy.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(told) == discover(families()["privacy"]).keys() - {"none"}


def test_robust_page_says_of_every_attack_what_it_knows():
    text = (DOCS / "robust.md").read_text(encoding="utf-8")
    for kind, attack in discover(families()["attacks"]).items():
        row = re.search(rf"^\| `{kind}` \| ([\w, ]+) \| (\w+)", text, re.MULTILINE)
        assert row is not None, kind
        assert row[2] == attack.knows, kind
        sends = attack.forges or attack.mangle is not families()["attacks"].mangle
        assert ("data" in row[1], "message" in row[1]) == (attack.poisons, sends), kind


def test_robust_page_says_what_the_contract_tests_hold_of_shifts():
    text = (DOCS / "robust.md").read_text(encoding="utf-8")
    for kind, line in [*LINES.items(), *STEPS.items()]:
        row = re.search(rf"^\| `{kind}` \| .* \| (yes|no) \| [^|]*\|$", text, re.MULTILINE)
        assert row is not None, kind
        assert (row[1] == "yes") == ("shift" in line.holds.split()), kind


LORA = ("flexlora", "flora", "fedex_lora", "rolora")


def fitting(kind: str) -> Experiment:
    """An experiment of four nodes that the method works in."""
    world = discover(families()["methods"])[kind].world
    topology = {"kind": "ring", "all_to_all": True} if world == "graph" else {"kind": "server"}
    if kind == "push_sum":
        topology["weights"] = "out_degree"
    clock = "events" if kind in ("fedasync", "fedbuff") else "rounds"
    final = "merge" if world == "graph" else "none"
    part = "supermask" if kind.startswith("frl") else "lora" if kind in LORA else "identity"
    settings = {"topology": topology, "clock": clock, "schedule": {"final": final}, "parametrisation": part}
    return Experiment(nodes=4, method=kind, **settings)


def test_fields_of_messages_are_those_of_the_wire_page():
    """The table of docs/wire.md for every method."""
    text = (DOCS / "wire.md").read_text(encoding="utf-8").partition("## What codecs make")[0]
    cells = [row.split(" | ") for row in re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)]
    told = {kind: cell[1:] for cell in cells for kind in re.findall(r"`(\w+)`", cell[0])}
    assert told.keys() == discover(families()["methods"]).keys()
    for kind, (up, down) in told.items():
        federation = Federation(fitting(kind))
        task, view = federation.prepare(0, 0, np.arange(4))
        heard = federation.down(0, view)
        result = federation.trainer.train(task, 0, 0)
        outbox, _ = federation.method.finish(task, result, federation.population.own_of(0), view)
        assert set(re.findall(r"`(\w+)`", up)) == outbox.common.keys(), kind
        assert set(re.findall(r"`(\w+)`", down)) == (heard.keys() if federation.has_server else set()), kind


def test_examples_are_those_of_the_pages():
    """A file that a page writes out and `examples` has is the same in both."""
    compared = set()
    for page in PAGES:
        for block in blocks(page):
            example = ROOT / "examples" / Path(block.file).name if block.file else None
            if example and example.is_file():
                assert example.read_text(encoding="utf-8") == block.text, f"{page.name}:{block.line}"
                compared.add(example.name)
    own = {"own_aggregator.py", "own_attack.py", "own_method.py", "own_model.py", "own_schedule.py"}
    assert own <= compared


def test_reference_is_what_the_script_prints():
    printed = subprocess.run(
        [sys.executable, DOCS / "make_reference.py"], capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    committed = (DOCS / "experiment.md").read_text(encoding="utf-8")
    assert committed == printed, "run: python docs/make_reference.py > docs/experiment.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_exists(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for path in re.findall(r"\b(?:benchmarks|docs|examples|studies|src|tests)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    rules = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for block in blocks(page):
        for command, _ in commands(block) if block.language == "console" else ():
            if command.startswith("make "):
                assert command.split()[1] in rules, f"{page.name}:{block.line} says {command}"
