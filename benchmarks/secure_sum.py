"""What a secure sum costs: each node at every step, and the server with and without nodes that drop out.

    python benchmarks/secure_sum.py [--nodes 100 --length 1000000 --drop 0.33]
    python benchmarks/secure_sum.py --save benchmarks/results/secure_sum.json

A whole sum in one process, twice: nobody drops, and a share `drop` of the nodes does after sharing, before its vector
arrives. The latter is the dear case: for each node that dropped the server makes its masks with all others once more.
Both sums are compared with the plain sum of the same integers, number by number. Two thirds of the nodes have to stay
(the threshold).

Seconds are of processor time of one thread, so that other programs count for little. A node's are the median over all
nodes, as each does the same; its keys count to `advertise`. The server's of the last step, and the plain sum's, are
medians of five; of its other steps there is one run, over all nodes. Bytes are wire frames of one node, if nobody
drops. The server's `mask` is adding up vectors as they arrive, which is all that the plain sum does.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.secure.messages import STEPS, Advertise, Delivery, Masked, Reveal, Roster, Shares, Survivors
from gossamer.secure.protocol import Coordinator, Participant
from gossamer.secure.sizes import sizes

Vector = np.ndarray[Any, np.dtype[np.uint32]]
FRAMES: dict[str, tuple[type, type | None]] = {
    "advertise": (Advertise, Roster),
    "share": (Shares, Delivery),
    "mask": (Masked, Survivors),
    "reveal": (Reveal, None),
}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time of one call, and what it gave."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def vector_of(node: int, length: int) -> Vector:
    """What a node has to sum: integers from the whole range."""
    return np.random.default_rng(node).integers(0, 2**32, length, dtype=np.uint32)


def plain(nodes: Iterable[int], length: int) -> tuple[float, Vector]:
    """Seconds to add up the vectors of nodes, and the sum."""
    seconds, total_L = 0.0, np.zeros(length, np.uint32)
    for node in nodes:
        vector_L = vector_of(node, length)
        seconds += timed(lambda vector_L=vector_L: np.add(total_L, vector_L, out=total_L))[0]
    return seconds, total_L


def asked(side: Participant, step: str, told: Any) -> Callable[[], Any]:
    """A step of a node as a call, its vector made beforehand; `told` is what the server closed the last one with."""
    if step == "advertise":
        return lambda: Participant(side.node, side.sum_id, side.threshold, side.length).advertise()
    if step == "mask":
        return functools.partial(side.mask, vector_of(side.node, side.length), told[side.node])
    return functools.partial(getattr(side, step), told)


def measured(nodes: int, length: int, threshold: int, dropped: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of a node and of the server at every step, of one sum that `dropped` nodes leave before their vector."""
    server = Coordinator(0, range(nodes), threshold, length)
    # From the first to the last, so that some of their masks are to be added and some taken away.
    gone = {int(place) for place in np.linspace(0, nodes - 1, dropped)}
    sides = {node: Participant(node, 0, threshold, length) for node in range(nodes)}
    told: Any = None
    found: dict[str, dict[str, float]] = {"node": {}, "server": {}}
    for step in STEPS:
        if step == "mask":
            sides = {node: side for node, side in sides.items() if node not in gone}
        each, received = [], 0.0
        for side in sides.values():
            seconds, message = timed(asked(side, step, told))
            if step == "advertise":
                # Keys are made with the node, so those of another one were timed.
                message = side.advertise()
            each.append(seconds)
            received += timed(functools.partial(server.accept, message))[0]
        found["node"][step] = statistics.median(each)
        if step == "reveal":
            runs = [timed(copy.deepcopy(server).total) for _ in range(repeats)]
            closing, told = statistics.median(seconds for seconds, _ in runs), runs[-1][1]
        else:
            close = {"advertise": server.roster, "share": server.deliveries, "mask": server.survivors}[step]
            closing, told = timed(close)
        found["server"][step] = received + closing
    if not np.array_equal(told, plain(sides, length)[1]):
        raise SystemExit("the secure sum is not the plain sum")
    return found


def table_of(nodes: int, length: int, threshold: int, drop: float, repeats: int) -> list[dict[str, Any]]:
    """A row for each step, their sums, and the plain sum beside them."""
    dropped = min(round(nodes * drop), nodes - threshold)
    full, short = measured(nodes, length, threshold, 0, repeats), measured(nodes, length, threshold, dropped, repeats)
    size = sizes(length, nodes, nodes, nodes)
    table = []
    for step in STEPS:
        up, down = FRAMES[step]
        about = {"step": step, "node seconds": full["node"][step], "up": size[up], "down": size[down] if down else 0}
        seconds = {"server seconds": full["server"][step], f"server, {dropped} dropped": short["server"][step]}
        table.append({**about, **seconds})
    summed = {key: sum(row[key] for row in table) for key in table[0] if key != "step"}
    alone = dict.fromkeys(summed, 0) | {"up": size[Masked], "node seconds": 0.0}
    for key, some in zip(list(summed)[-2:], (nodes, nodes - dropped), strict=True):
        alone[key] = statistics.median(plain(range(some), length)[0] for _ in range(repeats))
    return [*table, {"step": "all", **summed}, {"step": "plain sum", **alone}]


def show(table: list[dict[str, Any]]) -> None:
    """Print the table; seconds with four decimals."""
    print(f"{'':10}" + "".join(f"{name:>20}" for name in list(table[0])[1:]))
    for row in table:
        cells = [f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for value in list(row.values())[1:]]
        print(f"{row['step']:10}" + "".join(f"{cell:>20}" for cell in cells))


def main() -> None:
    """Measure, check and print."""
    from aggregators import hardware

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100, help="nodes of the cohort")
    parser.add_argument("--length", type=int, default=1_000_000, help="numbers of a vector")
    parser.add_argument("--drop", type=float, default=1 / 3, help="share of the nodes that drops")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the server's last step")
    parser.add_argument("--save", type=Path, help="write what was found as JSON")
    given = parser.parse_args()
    threshold = max(given.nodes // 2 + 1, -(-2 * given.nodes // 3))
    about: dict[str, Any] = {"hardware": hardware()}
    about["versions"] = {name: importlib.metadata.version(name) for name in ("gossamer", "cryptography", "numpy")}
    print(about["hardware"], *(f"{name} {version}" for name, version in about["versions"].items()), sep=", ")
    print(f"{given.nodes} nodes, {given.length:,} numbers each, threshold {threshold}; equal to the plain sum:")
    table = table_of(given.nodes, given.length, threshold, given.drop, given.repeats)
    show(table)
    if given.save:
        about |= {"nodes": given.nodes, "length": given.length, "threshold": threshold, "table": table}
        given.save.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
