"""Gossamer: many nodes, each keeping its own data, learn one model together.

    import gossamer
    run = gossamer.run(gossamer.Experiment(nodes=20, rounds=20))
    run.metrics          # a table for every node and round
    run.model()          # the trained torch.nn.Module
    run.plot()           # curves

Importing the package loads neither torch nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gossamer.aggregators import Aggregator
    from gossamer.arms import load_arms
    from gossamer.data import Dataset
    from gossamer.errors import ExperimentError, GossamerError, NodeError
    from gossamer.experiment import Experiment
    from gossamer.planning import plan
    from gossamer.pretraining import pretrain
    from gossamer.rounds import Event, resume, run
    from gossamer.runs import Run, open_run

_HOMES = {
    "Aggregator": "aggregators",
    "Dataset": "data",
    "Event": "rounds",
    "Experiment": "experiment",
    "ExperimentError": "errors",
    "GossamerError": "errors",
    "NodeError": "errors",
    "Run": "runs",
    "load_arms": "arms",
    "open_run": "runs",
    "plan": "planning",
    "pretrain": "pretraining",
    "resume": "rounds",
    "run": "rounds",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gossamer' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"gossamer.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


__all__ = [
    "Aggregator",
    "Dataset",
    "Event",
    "Experiment",
    "ExperimentError",
    "GossamerError",
    "NodeError",
    "Run",
    "load_arms",
    "open_run",
    "plan",
    "pretrain",
    "resume",
    "run",
]
