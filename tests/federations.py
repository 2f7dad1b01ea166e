"""Small experiments that several tests run, and what must be equal between two runs."""

from __future__ import annotations

from typing import Any

import torch

from gossamer.checkpoint import latest_checkpoint
from gossamer.experiment import Experiment
from gossamer.runs import Run

SECONDS = ("seconds_train", "seconds_exchange", "seconds_merge", "seconds_evaluate", "seconds_checkpoint")

WORLDS: dict[str, dict[str, Any]] = {
    "server": {"method": "fedavg", "schedule": {"kind": "every", "participation": 0.6}},
    "scaffold": {"method": "scaffold"},
    "median": {"method": "fedavg", "aggregator": "median"},
    "graph": {
        "method": "dsgd",
        "topology": {"kind": "random_regular", "degree": 3},
        "learner": {"kind": "sgd", "lr": 0.05, "steps": 4, "momentum": 0.9},
        "schedule": {"kind": "every", "k": 2},
    },
    "graph with cast and absent nodes": {
        "method": "dsgd",
        "topology": "ring",
        "transforms": [{"kind": "cast", "to": "bfloat16"}],
        "schedule": {"kind": "every", "participation": 0.7},
    },
    "alone": {"method": "local"},
    "personal": {"method": "fedper"},
}


def small(**changes: Any) -> Experiment:
    """Ten nodes, five rounds, handwritten digits."""
    base: dict[str, Any] = {
        "nodes": 10,
        "rounds": 5,
        "partition": {"kind": "dirichlet", "alpha": 0.5},
        "learner": {"kind": "sgd", "lr": 0.1, "batch_size": 16, "steps": 3},
        "model": {"kind": "mlp", "hidden": [16]},
        "backend": "eager",
    }
    return Experiment(**{**base, **changes})


def state_of(run: Run) -> dict[str, torch.Tensor]:
    """All arrays of the population at the end of a run."""
    found = latest_checkpoint(run.folder)
    assert found is not None
    return found[1]


def assert_same(a: Run, b: Run) -> None:
    """Parameters and all metrics but seconds are bitwise equal."""
    first, second = state_of(a), state_of(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert a.metrics.equals(b.metrics)
    assert a.rounds.drop_columns(list(SECONDS)).equals(b.rounds.drop_columns(list(SECONDS)))
