"""How fast transforms encode and decode, on one core, and how many bits they take.

    python benchmarks/transforms.py [--save FILE.json] [--only int8 qsgd]
    python benchmarks/transforms.py --vote [--save FILE.json]

Each transform alone, on one message {'row': 4,999,995 float32 numbers} of a multilayer perceptron with five matrices.
MB/s are megabytes of this float32 input by seconds of processor time of one thread, so that other programs count for
little; medians of five runs that take turns, after one that does not count. `both` is encoding and decoding together
(aims: cast and int8 1,000, top_k 300). `bits` is the length of the frame by the number of parameters, `formula` what
it should be, '-' where nothing is to be done or known beforehand. What is remembered of a message afterwards does not
count. Where bitsandbytes is installed, its kernels for the processor stand beside.

With --vote: the Borda vote of 25 rankings of Conv8's 5,275,840 edges (aim: 1.5 s), and their wire forms.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gossamer import rankings, wire
from gossamer.layout import Entry, Layout
from gossamer.passages import Passage
from gossamer.plugs import discover
from gossamer.randomness import generator
from gossamer.transforms import Transform

WIDTHS = (1000, 1000, 1000, 1000, 1000, 995)
CHANNELS = (3, 64, 64, 128, 128, 256, 256, 512, 512)
CONV8 = [*((out, into, 3, 3) for into, out in pairwise(CHANNELS)), (256, 2048), (256, 256), (10, 256)]
"""Convolutions of 3 x 3 and three matrices: the edges of a supermask, without biases."""

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "cast": [{}, {"to": "bfloat16"}],
    "int8": [{}, {"block": 64}],
    "qsgd": [{}, {"bits": 1}, {"bits": 2}, {"bits": 3}, {"bits": 8}, {"norm": "euclidean"}, {"bucket": 64}],
    "sign": [{}, {"block": 1024}],
    "top_k": [{}, {"share": 0.1}],
    "random_k": [{}, {"share": 0.1}],
    "power_sgd": [{}, {"rank": 8}],
    "zstd": [{}, {"level": 1, "shuffle": False}],
}
"""Beside the defaults of any other kind."""

Coder = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def laid_out(shapes: list[tuple[int, ...]]) -> Layout:
    """The layout of trainable tensors of these shapes, one after the other."""
    entries: list[Entry] = []
    for shape in shapes:
        entries.append(Entry(f"tensor{len(entries)}", shape, entries[-1].stop if entries else 0, True))
    return Layout(tuple(entries))


def formula(step: Any, layout: Layout) -> float | None:
    """Bits a parameter by what is said of each kind; None where that depends on the numbers, or nothing is known."""
    n = layout.size
    if step.kind == "cast":
        return 8.0 * torch.empty(0, dtype=getattr(torch, step.to)).element_size()
    if step.kind in ("int8", "nf4"):
        return (8 if step.kind == "int8" else 4) + 32 / step.block
    if step.kind == "qsgd":
        return step.bits + 32 / step.bucket
    if step.kind == "sign":
        return 1 + 32 / (step.block or n)
    if step.kind in ("top_k", "random_k"):
        index = math.ceil(math.log2(n)) if step.kind == "top_k" else 0
        return math.ceil((step.share or 0.01) * n) * (32 + index) / n
    if step.kind == "power_sgd":
        sizes = [entry.shape for entry in layout.entries]
        return 32 * sum(step.rank * sum(shape) if len(shape) == 2 else shape[0] for shape in sizes) / n
    return 32.0 if step.kind in ("clip", "choco", "error_feedback") else None


def arms(layout: Layout, only: list[str] | None) -> dict[str, tuple[Coder, float | None]]:
    """Every transform that there is, with a few settings: how to encode and decode a row, and its formula."""
    found: dict[str, tuple[Coder, float | None]] = {}
    outline = {"row": torch.empty(layout.size, device="meta")}
    for kind, plug in discover(Transform).items():
        for fields in SETTINGS.get(kind, [{}]) if not only or kind in only else []:
            step = plug(**fields)
            memory = step.memory({"row": torch.zeros(layout.size)}, layout)
            passage = Passage(layout, lambda: generator(0, "transforms", 0, 1), memory)
            coder = (
                lambda row, step=step, passage=passage: step.forward({"row": row}, passage),
                lambda sent, step=step, passage=passage: step.reverse(sent, outline, passage),
            )
            found[", ".join([kind, *(f"{k} = {v}" for k, v in fields.items())])] = (coder, formula(step, layout))
    return found


def peers() -> dict[str, tuple[Coder, float | None]]:
    """Kernels of bitsandbytes for the processor, where it is installed."""
    if not importlib.util.find_spec("bitsandbytes"):
        return {}
    import bitsandbytes.functional as peer

    def int8(row: Any) -> Any:
        return peer.quantize_blockwise(row, blocksize=256)

    def nf4(row: Any) -> Any:
        return peer.quantize_4bit(row, blocksize=64, quant_type="nf4")

    return {
        "bitsandbytes int8": ((int8, lambda sent: peer.dequantize_blockwise(*sent)), None),
        "bitsandbytes nf4": ((nf4, lambda sent: peer.dequantize_4bit(*sent)), None),
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time of one call, and what it gave."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def measured(layout: Layout, only: list[str] | None, repeats: int) -> list[dict[str, Any]]:
    """A row of the table for each transform and setting."""
    row = torch.randn(layout.size, generator=torch.Generator().manual_seed(0))
    coders = arms(layout, only) | peers()
    megabytes = row.numel() * row.element_size() / 1e6
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in coders}
    sizes: dict[str, int] = {}
    for turn in range(repeats + 1):
        for name, ((encode, decode), _) in coders.items():
            there, sent = timed(lambda encode=encode: encode(row))
            back, _ = timed(lambda decode=decode, sent=sent: decode(sent))
            if turn:
                seconds[name].append((there, back))
            elif isinstance(sent, dict):
                sizes[name] = wire.size(sent)
    table = []
    for name, (_, bits) in coders.items():
        steps = zip(*((there, back, there + back) for there, back in seconds[name]), strict=True)
        rates = [megabytes / statistics.median(times) for times in steps]
        # Some do nothing on one side.
        found = {
            part: rate if rate < 1e5 else None for part, rate in zip(("encode", "decode", "both"), rates, strict=True)
        }
        size = 8 * sizes[name] / layout.size if name in sizes else None
        table.append({"name": name, **found, "bits": size, "formula": bits})
    return table


def vote(voters: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds for the vote on random rankings, and for each wire form of one ranking with its bits an edge."""
    layout = laid_out(CONV8)
    rng = np.random.default_rng(0)
    ranks_UT = torch.empty(voters, layout.size, dtype=torch.int32)
    for entry in layout.entries:
        for ranks_T in ranks_UT:
            order = rng.permutation(entry.stop - entry.start).astype(np.int32)
            ranks_T[entry.start : entry.stop] = torch.from_numpy(order)
    rankings.borda(ranks_UT, layout)
    times = [timed(lambda: rankings.borda(ranks_UT, layout))[0] for _ in range(repeats)]
    table = [{"name": f"vote of {voters} x {layout.size:,}", "seconds": statistics.median(times), "bits": None}]
    passage, ranks = Passage(layout, lambda: generator(0, "transforms")), {rankings.FIELD: ranks_UT[0]}
    for coder in ("packed", "optimal"):
        step = rankings.Packed(coder)
        sent = step.forward(ranks, passage)
        there = [timed(lambda step=step: step.forward(ranks, passage))[0] for _ in range(repeats)]
        back = [timed(lambda step=step, sent=sent: step.reverse(sent, ranks, passage))[0] for _ in range(repeats)]
        bits = 8 * wire.size(sent) / layout.size
        table.append({"name": f"encode one, {coder}", "seconds": statistics.median(there), "bits": bits})
        table.append({"name": f"decode one, {coder}", "seconds": statistics.median(back), "bits": bits})
    return table


def show(table: list[dict[str, Any]]) -> None:
    """Print a table; numbers of three digits or more without decimals."""
    columns = list(table[0])
    print(f"{columns[0]:34}" + "".join(f"{name:>10}" for name in columns[1:]))
    for row in table:
        cells = ["-" if row[c] is None else f"{row[c]:.0f}" if row[c] >= 100 else f"{row[c]:.3f}" for c in columns[1:]]
        print(f"{row['name']:34}" + "".join(f"{cell:>10}" for cell in cells))


def main() -> None:
    """Measure and print."""
    from aggregators import hardware

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vote", action="store_true", help="the vote on rankings instead of the transforms")
    parser.add_argument("--voters", type=int, default=25, help="rankings that vote")
    parser.add_argument("--only", nargs="+", help="only transforms of these kinds, such as int8 qsgd")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each")
    parser.add_argument("--save", type=Path, help="write what was found as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    packages = [name for name in ("gossamer", "torch", "numpy", "bitsandbytes") if importlib.util.find_spec(name)]
    about = {"hardware": hardware(), "versions": {name: importlib.metadata.version(name) for name in packages}}
    print(about["hardware"], *(f"{name} {version}" for name, version in about["versions"].items()), sep=", ")
    if asked.vote:
        table = vote(asked.voters, asked.repeats)
    else:
        layout = laid_out([shape for n, m in pairwise(WIDTHS) for shape in ((m, n), (m,))])
        table = measured(layout, asked.only, asked.repeats)
        if "bitsandbytes" not in packages:
            print("bitsandbytes is not installed: no peer")
    show(table)
    if asked.save:
        asked.save.write_text(json.dumps({**about, "table": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
