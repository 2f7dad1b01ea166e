"""What the tests of the command line share: a fixture that runs one line, and small experiment files."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossamer.cli import main

SMALL = """
name = "small"
nodes = 4
rounds = 2
backend = "eager"
partition = { kind = "dirichlet", alpha = 1.0 }
learner = { kind = "sgd", lr = 0.1, steps = 2 }
evaluate = { items = 60 }
"""
ARMS = f"""{SMALL}
[arms.server]
[arms.ring]
method = "dsgd"
topology = "ring"
"""


@pytest.fixture(name="call")
def command_line(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GOSSAMER_DATA", raising=False)

    def call(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


def write(text, name="small.toml"):
    Path(name).write_text(text, encoding="utf-8")
    return name
