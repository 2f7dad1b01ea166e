"""How the settings of the study of privacy were chosen: on a seed that it does not report.

    python studies/privacy/tuning.py

prints the table of tuning.md, in about twelve minutes on one core; with the names of arms, their part of it. Needs
GOSSAMER_DATA, as the study does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import gossamer
from gossamer.arms import merge
from gossamer.studies.contents import contents

SEED = 100
FEDAVG = {"kind": "fedavg", "weighting": "uniform"}
PLAIN = {"batch_size": 20, "steps": 4}
LARGE = {"learner": {"lr": 4.0}, "privacy": {"clip": 1.0}}
TRIED: dict[str, list[dict[str, Any]]] = {
    "central--1": [{"privacy": {"clip": clip}} for clip in (0.5, 0.7, 1.0)],
    "central--8": [{"privacy": {"clip": clip}} for clip in (0.5, 0.7, 1.0)],
    "best-8": [{}, {"method": FEDAVG}, {"model": {"hidden": [24]}}],
    "per-example--1": [
        {},
        {"learner": {"lr": 4.0}},
        {"privacy": {"clip": 1.0}},
        LARGE,
        {"learner": {"lr": 0.5, **PLAIN}},
    ],
    "per-example--8": [
        {},
        {"learner": {"lr": 4.0}},
        {"privacy": {"clip": 1.0}},
        LARGE,
        {"learner": {"lr": 0.5, **PLAIN}},
    ],
    "local--8": [{}, {"rounds": 2}, {"rounds": 20}, {"privacy": {"clip": 0.3}}],
    "adult-central-1": [
        {},
        {"privacy": {"clip": 1.0}},
        {"method": {"kind": "fedavgm", "beta": 0.8, "weighting": "uniform"}},
    ],
    "adult-per-example-1": [{}, {"learner": {"lr": 2.0}}],
    "heart-1": [{}, {"learner": {"lr": 0.5}}, {"learner": {"lr": 0.2, "batch_size": 32, "steps": 4}}],
    "gossip-correlated": [{}, {"privacy": {"pair_ratio": 1.0}}],
    "complete-correlated": [{}, {"privacy": {"pair_ratio": 1.0}}],
}
"""Arms, and what was changed in them; the first line of most is as the study has it."""


def accuracy(experiment: gossamer.Experiment) -> float:
    """Test accuracy of the server's model, or of the mean of the nodes' models, at the end."""
    with tempfile.TemporaryDirectory() as folder:
        return float(gossamer.run(experiment, Path(folder) / "run").summary()["merged_accuracy"])


def flat(changes: dict[str, Any]) -> str:
    """'privacy.clip = 0.5, rounds = 2'."""
    parts = []
    for key, value in changes.items():
        one = {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
        parts += [f"{name} = {part}" for name, part in one.items()]
    return ", ".join(parts) or "as in the study"


def main(names: list[str]) -> None:
    """A line for each setting tried."""
    arms = contents(Path(__file__).with_name("study.toml"), "privacy").experiments
    print("| arm | setting | accuracy |\n|---|---|---|", flush=True)
    for arm in names or TRIED:
        for changes in TRIED[arm]:
            table = merge(arms[arm].to_dict(), {**changes, "seed": SEED}, arm)
            print(f"| {arm} | {flat(changes)} | {accuracy(gossamer.Experiment.from_dict(table)):.3f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
