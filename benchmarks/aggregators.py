"""Gossamer's robust rules beside ByzFL's on the same updates.

    python -m venv peer
    peer/bin/python -m pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1   # the build of torch that Gossamer has
    peer/bin/python -m pip install --no-deps byzfl==0.0.11
    python benchmarks/aggregators.py --peer peer/bin/python

One process of each takes turns with the other on one core, with one thread, on float32 tensors drawn from the same
seed. Prints a table for each number n of updates and d of coordinates, f = 3: medians in milliseconds, after one call
that does not count, peak memory, and the largest difference between the results as a share of their largest number.

ratio      ByzFL / Gossamer; bars: geometric mean 5, none below 0.9. With 'more work' Gossamer computes what the rule's
           name says and ByzFL three steps towards it, or one; these are not in the mean
memory     peak of the resident set of a fresh process while the rule runs, less that before, in MB; `process` is the
           peak of the whole process. Bar: not above ByzFL's
agreement  '-' where the two compute something different: buckets are dealt by dice, and see tests/test_golden.py. For
           NNM at (16, 1e6) it is 4e-2: distances that torch.cdist sums in float32 are off by 5e-4 of their squares
           there, and one update gets another neighbour than in float64, where Gossamer's are off by 1e-8

ByzFL counts one neighbour more in Krum, so Krum and Multi-Krum are given f - 1 here, which is the same rule. Clipping
and ARC write into their input in ByzFL: both get a copy, made before the clock starts.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = ((16, 1_000_000), (50, 1_000_000), (100, 100_000))
F = 3
OVERWRITING = {"clipping, trimmed mean", "arc, trimmed mean"}
DIFFERENT = {"bucketing, trimmed mean", "geometric median", "caf"}
MORE_WORK = {"geometric median", "caf"}

Rule = Callable[[Any], Any]


def ours(n: int) -> dict[str, Rule]:
    """Gossamer's rules, by the names of the table."""
    import gossamer.aggregators as rules

    def trimmed(step: dict[str, Any]) -> Rule:
        return rules.TrimmedMean(f=F, before=[step])

    return {
        "average": rules.Mean(),
        "median": rules.Median(),
        "trimmed mean": rules.TrimmedMean(f=F),
        "krum": rules.Krum(f=F - 1),
        "multi-krum": rules.MultiKrum(f=F - 1, m=n - F),
        "meamed": rules.MeaMed(f=F),
        "monna": rules.MoNNA(f=F),
        "centered clipping": rules.CenteredClipping(tau=100.0, iterations=1),
        "nnm, trimmed mean": trimmed({"kind": "nnm"}),
        "clipping, trimmed mean": trimmed({"kind": "clipping", "c": 100.0}),
        "arc, trimmed mean": trimmed({"kind": "arc"}),
        "bucketing, trimmed mean": trimmed({"kind": "bucketing", "s": 2}),
        "geometric median": rules.GeometricMedian(),
        "caf": rules.CAF(f=F),
    }


def theirs(n: int) -> dict[str, Rule]:
    """ByzFL's rules, by the same names."""
    from byzfl_golden import peer

    agg, _ = peer()

    def trimmed(step: Rule) -> Rule:
        return lambda rows: agg.TrMean(F)(step(rows))

    return {
        "average": agg.Average(),
        "median": agg.Median(),
        "trimmed mean": agg.TrMean(F),
        "krum": agg.Krum(F),
        "multi-krum": agg.MultiKrum(F),
        "meamed": agg.Meamed(F),
        "monna": agg.MoNNA(F, 0),
        # A new one for each call: it goes on from where its last call ended.
        "centered clipping": lambda rows: agg.CenteredClipping(L=1, tau=100.0)(rows),
        "nnm, trimmed mean": trimmed(agg.NNM(F)),
        "clipping, trimmed mean": trimmed(agg.Clipping(100.0)),
        "arc, trimmed mean": trimmed(agg.ARC(F)),
        "bucketing, trimmed mean": trimmed(agg.Bucketing(2)),
        "geometric median": agg.GeometricMedian(),
        "caf": agg.CAF(F),
    }


def resident() -> dict[str, float]:
    """Resident set of this process, now and at its peak, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"now": int(kilobytes["VmRSS"]) / 1024, "peak": int(kilobytes["VmHWM"]) / 1024}


def serve(side: str) -> None:
    """In a process of its own: answer lines of JSON, {n, d} with new updates, {rule, ...} with what it took."""
    import torch

    torch.set_num_threads(1)
    rows_ND, rules = torch.empty(0), dict[str, Rule]()
    for line in sys.stdin:
        told = json.loads(line)
        if "n" in told:
            rows_ND = torch.randn(told["n"], told["d"], generator=torch.Generator().manual_seed(0))
            rules = (ours if side == "ours" else theirs)(told["n"])
            print("{}", flush=True)
            continue
        rule = rules[told["rule"]]
        rule(rows_ND[:, :64].clone())
        given_ND = rows_ND.clone() if told["rule"] in OVERWRITING else rows_ND
        before = resident()["now"]
        Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        began = time.perf_counter()
        result_D = rule(given_ND)
        found = {"seconds": time.perf_counter() - began}
        peak = resident()["peak"]
        if told["save"]:
            np.save(told["save"], result_D.numpy())
        print(json.dumps({**found, "memory": peak - before, "process": peak}), flush=True)


class Side:
    """One of the two programs, in a process that answers questions."""

    def __init__(self, side: str, python: str) -> None:
        command = [python, "-E", str(Path(__file__).absolute()), "--serve", side]
        there = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=there)

    def ask(self, **what: Any) -> dict[str, float]:
        """The answer to one question. Raises RuntimeError where the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process ended with status {self.process.wait()} when asked for {what}")
        return dict(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measured(pythons: dict[str, str], n: int, d: int, names: list[str], repeats: int) -> list[dict[str, Any]]:
    """A row of the table for each rule."""
    table = []
    sides = {side: Side(side, python) for side, python in pythons.items()}
    for process in sides.values():
        process.ask(n=n, d=d)
    for name in names:
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        with tempfile.TemporaryDirectory() as folder:
            for side, process in sides.items():
                process.ask(rule=name, save=f"{folder}/{side}.npy")
            for _ in range(repeats):
                for side, process in sides.items():
                    seconds[side].append(process.ask(rule=name, save="")["seconds"])
            results = {side: np.load(f"{folder}/{side}.npy") for side in sides}
        difference = float(np.abs(results["ours"] - results["theirs"]).max() / np.abs(results["theirs"]).max())
        median = {side: 1e3 * statistics.median(times) for side, times in seconds.items()}
        spread = {side: (max(times) - min(times)) / statistics.median(times) for side, times in seconds.items()}
        ratio = median["theirs"] / median["ours"]
        agreement = None if name in DIFFERENT else difference
        table.append({"rule": name, "median": median, "spread": spread, "ratio": ratio, "agreement": agreement})
    for process in sides.values():
        process.close()
    for row in table:
        row["memory"] = {side: memory(side, python, n, d, row["rule"]) for side, python in pythons.items()}
    return table


def memory(side: str, python: str, n: int, d: int, name: str) -> dict[str, float]:
    """Peaks of the first call in a fresh process, in MB: `memory` of the rule, `process` with all that was there."""
    process = Side(side, python)
    process.ask(n=n, d=d)
    answer = process.ask(rule=name, save="")
    process.close()
    return answer


def show(n: int, d: int, table: list[dict[str, Any]]) -> None:
    """Print the rows for one shape."""
    print(f"\nn = {n}, d = {d:,}, f = {F}")
    head = ("Gossamer", "ByzFL", "ratio", "spread", "MB", "MB", "process", "process", "agreement")
    print(f"{'':26}" + "".join(f"{word:>11}" for word in head))
    for row in table:
        found = [
            f"{row['median']['ours']:.1f}",
            f"{row['median']['theirs']:.1f}",
            f"{row['ratio']:.2f}",
            f"{max(row['spread'].values()):.0%}",
            *(f"{row['memory'][side]['memory']:.0f}" for side in ("ours", "theirs")),
            *(f"{row['memory'][side]['process']:.0f}" for side in ("ours", "theirs")),
            "-" if row["agreement"] is None else f"{row['agreement']:.0e}",
        ]
        name = row["rule"] + (" (more work)" if row["rule"] in MORE_WORK else "")
        print(f"{name:26}" + "".join(f"{word:>11}" for word in found), flush=True)


def hardware() -> str:
    """The processor, the number of cores, and how busy they are."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the Python of an environment with ByzFL")
    parser.add_argument("--repeats", type=int, default=5, help="calls of each rule")
    parser.add_argument("--shapes", nargs="+", default=[f"{n}x{d}" for n, d in SHAPES], help="such as 16x1000000")
    parser.add_argument("--rules", nargs="+", help="only these rows of the table, such as 'median' 'multi-krum'")
    parser.add_argument("--serve", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    if asked.peer is None:
        parser.error("--peer PATH/bin/python is needed")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    # Not resolved: the link itself tells Python which environment it is in.
    pythons = {"ours": sys.executable, "theirs": str(asked.peer.absolute())}
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("gossamer", "torch", "numpy")]
    about = subprocess.run(
        [pythons["theirs"], "-E", "-m", "pip", "list", "--format=json"], stdout=subprocess.PIPE, text=True, check=True
    )
    peer = {package["name"]: package["version"] for package in json.loads(about.stdout)}
    versions += [f"{name} {peer[name]} (peer)" for name in ("byzfl", "torch", "numpy", "scipy")]
    print(hardware(), ", ".join([f"Python {platform.python_version()}", *versions]), sep="\n")
    ratios, heavier = [], []
    for shape in asked.shapes:
        n, d = map(int, shape.split("x"))
        table = measured(pythons, n, d, asked.rules or list(ours(n)), asked.repeats)
        show(n, d, table)
        for row in table:
            if row["rule"] not in MORE_WORK:
                ratios.append((row["ratio"], f"{row['rule']} at {shape}"))
            if row["memory"]["ours"]["process"] > row["memory"]["theirs"]["process"]:
                heavier.append(f"{row['rule']} at {shape}")
    mean = math.exp(statistics.fmean(math.log(ratio) for ratio, _ in ratios))
    smallest = min(ratios)
    print(f"\ngeometric mean of {len(ratios)} ratios {mean:.2f}, smallest {smallest[0]:.2f} ({smallest[1]})")
    print(f"peak memory above ByzFL's: {', '.join(heavier) or 'nowhere'}")


if __name__ == "__main__":
    main()
