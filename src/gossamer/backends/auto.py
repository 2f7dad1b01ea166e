"""Which back end: forced by the experiment, or chosen by measurement."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING

import numpy as np

from gossamer.backends.eager import Eager
from gossamer.backends.parallel import Parallel, cores
from gossamer.backends.vmap import Vmap
from gossamer.errors import GossamerError, node_error
from gossamer.methods import Task

if TYPE_CHECKING:
    from gossamer.backends import Backend
    from gossamer.federation import Federation

WORTH_FORKING = 0.01
"""Seconds of local work in a round above which worker processes pay."""


def choose(federation: Federation, name: str, workers: int | None) -> tuple[Backend, str]:
    """The back end of that name, or for 'auto' the faster of eager and parallel, with the reason in one line.

    The two are bitwise equal, so the measurement never changes a result. vmap rounds differently and must be asked for.
    """
    if name == "eager":
        return Eager(federation), "as asked"
    if name == "vmap":
        return Vmap(federation), "as asked; its first gradients agree with eager"
    if name == "parallel":
        backend = Parallel(federation, workers)
        return backend, f"as asked, on {backend.workers} workers"
    count = workers or cores()
    if count == 1 or "fork" not in multiprocessing.get_all_start_methods():
        return Eager(federation), "one core, or no fork: one process"
    step, steps = _seconds_per_step(federation), _steps_per_round(federation)
    told = f"a local step takes {step * 1e3:.2f} ms, a round {step * steps:.2f} s"
    if step * steps < WORTH_FORKING:
        return Eager(federation), f"{told}: too little to share among processes"
    return Parallel(federation, workers), f"{told}: shared among {count} worker processes"


def _seconds_per_step(federation: Federation) -> float:
    """Median time of one local step at node 0, measured on scratch state."""
    task, _ = federation.prepare(0, 0, np.arange(federation.nodes))
    probe = Task(task.row, task.terms, task.slots, steps=1)
    times = []
    for _ in range(4):
        clock = time.perf_counter()
        try:
            federation.trainer.train(probe, 0, 0)
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, 0, 1, "train") from error
        times.append(time.perf_counter() - clock)
    return sorted(times[1:])[1]


def _steps_per_round(federation: Federation) -> int:
    learner, sizes = federation.experiment.learner, federation.shards.sizes
    return sum(learner.steps_for(sizes[int(node)]) for node in federation.participants(0))
