"""Is the memory that `gossamer plan` predicts the memory that the run takes?

    python benchmarks/memory.py [NAME ...]

Each case is planned and run in fresh processes. Measured is the largest sum, over all processes of the run, of the
proportional set size (interpreter, libraries, data and workers), sampled every 50 ms. Bar: within 15 % of the plan.
Cases on real data need GOSSAMER_DATA and are left out without it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gossamer
from gossamer.memory import family_pss

SHORT: dict[str, Any] = {"rounds": 3, "evaluate": {"every": 1, "nodes": 10}}
LEARNER = {"kind": "sgd", "lr": 0.05, "batch_size": 20, "steps": 5}
CASES: dict[str, dict[str, Any]] = {
    "digits, mlp, 20 nodes, server": {**SHORT, "backend": "parallel"},
    "digits, mlp, 20 nodes, ring, eager": {**SHORT, "method": "dsgd", "topology": "ring", "backend": "eager"},
    "fashion, lenet5, 100 nodes, server": {
        **SHORT, "nodes": 100, "data": "fashion_mnist", "model": "lenet5", "learner": LEARNER, "backend": "parallel",
    },
    "fashion, lenet5, 1000 nodes, 4-regular": {
        **SHORT, "nodes": 1000, "data": "fashion_mnist", "model": "lenet5", "partition": "iid", "method": "dsgd",
        "topology": {"kind": "random_regular", "degree": 4}, "learner": LEARNER, "backend": "parallel",
    },
    "fashion, lenet5, 1024 nodes, a new 4-regular graph every round": {
        **SHORT, "nodes": 1024, "data": "fashion_mnist", "model": "lenet5", "partition": "iid", "method": "dsgd",
        "topology": {"kind": "random_regular", "degree": 4, "redraw": True}, "learner": {**LEARNER, "momentum": 0.9},
        "backend": "parallel",
    },
    "fashion, lenet5, 256 nodes, asynchronous gossip": {
        **SHORT, "nodes": 256, "data": "fashion_mnist", "model": "lenet5", "partition": "iid", "method": "dsgd",
        "topology": {"kind": "random_regular", "degree": 4, "redraw": True}, "learner": LEARNER,
        "clock": {"kind": "events", "merge": "arrival", "speeds": "lognormal", "latency": 0.02}, "backend": "parallel",
    },
    "cifar10, resnet8, 10 nodes, server, eager": {
        **SHORT, "nodes": 10, "data": "cifar10", "model": "resnet8", "learner": LEARNER, "backend": "eager",
    },
    "fashion, fedavg_cnn, 16 nodes, ring": {
        **SHORT, "nodes": 16, "data": "fashion_mnist", "model": "fedavg_cnn", "method": "dsgd", "topology": "ring",
        "learner": {**LEARNER, "momentum": 0.9}, "backend": "parallel",
    },
    **{
        f"fashion, softmax, 1000 nodes of which 100 hostile, {kind}": {
            **SHORT, "rounds": 10, "nodes": 1000, "data": "fashion_mnist", "model": "softmax_regression",
            "method": "dsgd", "learner": LEARNER, "backend": "parallel",
            "partition": {"kind": "dirichlet", "alpha": 1.0, "min_size": 1},
            "topology": {"kind": "random_regular", "degree": 8}, "hostile": {"count": 100}, "attack": "sign_flip",
            "aggregator": kind,
        }
        for kind in ("krum", "clipped_gossip", "sybilwall")
    },
}  # fmt: skip


def planned(experiment: gossamer.Experiment) -> dict[str, int]:
    """Memory by part, as planned in a fresh process."""
    code = "import sys, json, gossamer; e = gossamer.Experiment.from_toml(sys.stdin.read()); "
    code += "print(json.dumps(gossamer.plan(e).memory_bytes))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=experiment.to_toml(), capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def measured(experiment: gossamer.Experiment) -> int:
    """Largest PSS of the run and its workers."""
    code = "import sys, gossamer; gossamer.run(gossamer.Experiment.load(sys.argv[1]), sys.argv[2])"
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "e.toml"
        file.write_text(experiment.to_toml())
        process = subprocess.Popen([sys.executable, "-c", code, str(file), str(Path(place) / "run")])
        peak = 0
        while process.poll() is None:
            peak = max(peak, family_pss(process.pid))
            time.sleep(0.05)
        if process.returncode:
            raise SystemExit(f"the run failed with exit code {process.returncode}")
    return peak


def main() -> None:
    """Measure and print one JSON object."""
    rows = {}
    for name, values in CASES.items():
        if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
            continue
        if not name.startswith("digits") and not os.environ.get("GOSSAMER_DATA"):
            continue
        experiment = gossamer.Experiment(**values)
        plan, began = planned(experiment), time.perf_counter()
        peak = measured(experiment)
        rows[name] = {
            "planned_mb": round(plan["total"] / 1e6),
            "measured_mb": round(peak / 1e6),
            "ratio": round(plan["total"] / peak, 3),
            "seconds": round(time.perf_counter() - began, 1),
            "parts_mb": {part: round(value / 1e6) for part, value in plan.items() if part != "total"},
        }
        print(f"{name}: {rows[name]}", file=sys.stderr)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
