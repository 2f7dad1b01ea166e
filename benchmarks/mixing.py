"""One exchange against the memory traffic it needs at least: `python benchmarks/mixing.py`.

Mixes N rows of D float32 numbers on a random regular graph, and copies (degree + 2) x N x D numbers (a receiver reads
its neighbours' rows and its own and writes one). `mix_seconds` is the kernel alone, `engine_seconds` a whole exchange
and merge of D-SGD by the engine. One thread; medians of five runs that take turns; prints JSON. Bar: ratios of at
most 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import gossamer
from gossamer.backends.eager import Eager
from gossamer.engines.local import Local
from gossamer.federation import Federation
from gossamer.mixing import edges_of, mix, mixing_matrix
from gossamer.topologies.random_regular import RandomRegular


def seconds(work: Callable[[], None]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def population(nodes: int, degree: int) -> Federation:
    """D-SGD with LeNet-5 on random images, without local steps: only the exchange is left."""
    images = np.random.default_rng(0).integers(0, 256, (nodes, 1, 28, 28)).astype(np.uint8)
    labels = np.arange(nodes) % 10
    return Federation(
        gossamer.Experiment(
            nodes=nodes,
            data=gossamer.Dataset.of(images, labels, images[:10], labels[:10], classes=tuple("0123456789")),
            partition=list(np.arange(nodes).reshape(nodes, 1)),
            validation=0.0,
            model="lenet5",
            learner={"kind": "sgd", "steps": 0},
            method="dsgd",
            topology={"kind": "random_regular", "degree": degree},
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--degree", type=int, default=4)
    sizes = parser.parse_args()

    torch.set_num_threads(1)
    edges_E2 = edges_of(RandomRegular(degree=sizes.degree), sizes.nodes, seed=0)
    W_NN = mixing_matrix(edges_E2, sizes.nodes, "metropolis")
    rows_ND = torch.randn(sizes.nodes, 61_706, generator=torch.Generator().manual_seed(0))
    out_ND = torch.zeros_like(rows_ND)

    def copy() -> None:
        for _ in range(sizes.degree + 2):
            out_ND.copy_(rows_ND)

    federation = population(sizes.nodes, sizes.degree)
    engine = Local(federation, Eager(federation))
    engine.exchange(engine.train(0))
    times = []
    for number in range(1, 6):
        played = engine.train(number)
        engine.exchange(played)
        spent = played.seconds["exchange"] + played.seconds["merge"]
        times.append((seconds(copy), seconds(lambda: mix(W_NN, rows_ND, out_ND)), spent))
    copy_seconds, mix_seconds, engine_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        json.dumps(
            {
                "copy_seconds": round(copy_seconds, 4),
                "mix_seconds": round(mix_seconds, 4),
                "engine_seconds": round(engine_seconds, 4),
                "mix_ratio": round(mix_seconds / copy_seconds, 3),
                "engine_ratio": round(engine_seconds / copy_seconds, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
