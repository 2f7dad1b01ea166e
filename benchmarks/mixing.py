"""One exchange against the memory traffic it needs at least: `python benchmarks/mixing.py`.

Mixes N rows of D float32 numbers on a random regular graph, and copies (degree + 2) x N x D numbers (a receiver reads
its neighbours' rows and its own and writes one). One thread; medians of five runs that take turns; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from gossamer.mixing import edges_of, mix, mixing_matrix
from gossamer.topologies.random_regular import RandomRegular


def seconds(work: Callable[[], None]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--degree", type=int, default=4)
    parser.add_argument("--columns", type=int, default=61_706, help="default: the parameters of LeNet-5")
    sizes = parser.parse_args()

    torch.set_num_threads(1)
    edges_E2 = edges_of(RandomRegular(degree=sizes.degree), sizes.nodes, seed=0)
    W_NN = mixing_matrix(edges_E2, sizes.nodes, "metropolis")
    rows_ND = torch.randn(sizes.nodes, sizes.columns, generator=torch.Generator().manual_seed(0))
    out_ND = torch.zeros_like(rows_ND)

    def copy() -> None:
        for _ in range(sizes.degree + 2):
            out_ND.copy_(rows_ND)

    times = [(seconds(copy), seconds(lambda: mix(W_NN, rows_ND, out_ND))) for _ in range(5)]
    copy_seconds, mix_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        json.dumps(
            {
                "copy_seconds": round(copy_seconds, 4),
                "mix_seconds": round(mix_seconds, 4),
                "ratio": round(mix_seconds / copy_seconds, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
