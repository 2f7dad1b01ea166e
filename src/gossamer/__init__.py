"""Gossamer: many nodes, each keeping its own data, learn one model together.

    import gossamer
    run = gossamer.run(gossamer.Experiment(nodes=20, rounds=20))
    run.metrics          # a table for every node and round
    run.model()          # the trained torch.nn.Module
    run.plot()           # curves

Importing the package loads neither torch nor scikit-learn.
"""

from __future__ import annotations

__version__ = "0.1.0"
