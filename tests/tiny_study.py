"""A study that runs in a second, for the tests of studies."""

from __future__ import annotations

from pathlib import Path

from command_line import write

import gossamer

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
    """The metrics of all runs below a folder, by study and run."""
    return {place.parts[-2:]: gossamer.open_run(place).metrics for place in sorted(Path(runs).glob("*/*"))}


def changed(old, new):
    assert old in TINY
    return TINY.replace(old, new)
