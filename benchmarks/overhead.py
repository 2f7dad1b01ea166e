"""What the engine costs on top of the arithmetic.

    python benchmarks/overhead.py

One process, one thread, recording on, checkpoints off. Prints one JSON object; every time is a median of five,
interleaved.

bare_seconds          100 nodes, one SGD step each of a linear model 100 -> 1000 (101,000 parameters, batch 10): a plain
                      PyTorch loop that copies the global row in, steps, and folds the result
gossamer_seconds      the same by the engine (one round; bar: at most 1.4 times the bare loop)
empty_round_seconds   a round of 100 nodes without local steps (bar: 0.05 s)
server_memory         peak PSS in bytes while 10 and while 1000 of 1000 nodes take part, and their ratio (bar: 1.10)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gossamer
from gossamer.backends.eager import Eager
from gossamer.engines.local import Local
from gossamer.federation import Federation
from gossamer.memory import proportional_set_size

REPEATS, ROUNDS = 5, 10


def data(items: int) -> gossamer.Dataset:
    """Random inputs of 100 numbers with random labels of 1000 classes."""
    dice = np.random.default_rng(0)
    inputs, labels = dice.standard_normal((items, 100), dtype=np.float32), dice.integers(1000, size=items)
    labels[:1000] = np.arange(1000)
    return gossamer.Dataset.of(inputs, labels, inputs[:10], labels[:10], classes=tuple(map(str, range(1000))))


def experiment(nodes: int, steps: int, rounds: int) -> gossamer.Experiment:
    """`nodes` nodes of ten items each."""
    return gossamer.Experiment(
        nodes=nodes,
        rounds=rounds,
        data=data(max(1000, 10 * nodes)),
        preprocess={"normalise": "none"},
        partition=lambda labels, nodes, rng: list(np.arange(10 * nodes).reshape(nodes, 10)),
        validation=0.0,
        model={"kind": "softmax_regression"},
        learner={"kind": "sgd", "lr": 0.1, "batch_size": 10, "steps": steps},
        evaluate={"every": 0, "nodes": 0, "items": 10},
        checkpoint={"every": 0},
        backend="eager",
    )


def bare_rounds(inputs: torch.Tensor, labels: torch.Tensor, rounds: int) -> None:
    """The plain loop: nn.Linear, torch.optim.SGD, one copy in and one fold for each node."""
    model = nn.Linear(100, 1000)
    row = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(rounds):
        total = torch.zeros_like(row)
        for node in range(100):
            with torch.no_grad():
                nn.utils.vector_to_parameters(row, model.parameters())
                for p in model.parameters():
                    p.data = p.data.clone()  # vector_to_parameters only makes views: copy the row in
            optimiser.zero_grad()
            span = slice(10 * node, 10 * node + 10)
            cross_entropy(model(inputs[span]), labels[span]).backward()
            optimiser.step()
            start = 0
            with torch.no_grad():
                for p in model.parameters():
                    total[start : start + p.numel()].add_(p.reshape(-1), alpha=0.01)
                    start += p.numel()
        row = total


def engine_seconds(nodes: int, steps: int) -> float:
    """Seconds of a round, recording on, from the run's own table (all phases)."""
    with tempfile.TemporaryDirectory() as place:
        clock = {}
        gossamer.run(
            experiment(nodes, steps, ROUNDS),
            Path(place) / "run",
            lambda event: clock.setdefault(event.kind + str(event.round), time.perf_counter()),
        )
        # From the end of the first round to the end of the last but one: neither start-up nor the final evaluation.
        return (clock[f"round{ROUNDS - 1}"] - clock["round1"]) / (ROUNDS - 2)


def round_memory(cohort_size: int) -> int:
    """Largest PSS while the engine plays two rounds in which this many of 1000 nodes take part."""
    everyone = experiment(1000, 1, 10)
    federation = Federation(everyone.replace(schedule={"kind": "every", "participation": cohort_size / 1000}))
    backend = Eager(federation)
    peak = 0
    train = backend.train

    def watched(round: int, cohort: np.ndarray) -> Any:
        nonlocal peak
        for place, item in enumerate(train(round, cohort)):
            if place % 50 == 0 or place == len(cohort) - 1:
                peak = max(peak, proportional_set_size())
            yield item

    backend.train = watched  # type: ignore[method-assign]
    engine = Local(federation, backend)
    for number in range(2):
        engine.exchange(engine.train(number))
    return peak


def in_fresh_process(cohort_size: int) -> int:
    """`round_memory` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, str(cohort_size)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    if sys.argv[1:]:
        print(round_memory(int(sys.argv[1])))
        return
    items = data(1000)
    inputs, labels = torch.from_numpy(items.train.inputs), torch.from_numpy(items.train.labels)
    bare, ours, empty = [], [], []
    for _ in range(REPEATS):
        clock = time.perf_counter()
        bare_rounds(inputs, labels, ROUNDS)
        bare.append((time.perf_counter() - clock) / ROUNDS)
        ours.append(engine_seconds(100, 1))
        empty.append(engine_seconds(100, 0))
    memory = {size: in_fresh_process(size) for size in (10, 1000)}
    result = {
        "bare_seconds": statistics.median(bare),
        "gossamer_seconds": statistics.median(ours),
        "ratio": statistics.median(ours) / statistics.median(bare),
        "empty_round_seconds": statistics.median(empty),
        "server_memory": memory,
        "server_memory_growth": memory[1000] / memory[10],
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
