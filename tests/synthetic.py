"""Runs made of numbers that were written down, not trained: what comparisons, plots and reports are tested against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from gossamer.experiment import Experiment
from gossamer.record import METRICS, ROUNDS, schema
from gossamer.runs import Run

SHARES = {"train": 0.6, "exchange": 0.1, "merge": 0.1, "evaluate": 0.15, "checkpoint": 0.05}


def synthetic_run(
    folder: Path,
    accuracy_RN: list[list[float]],
    merged_R: list[float] | None = None,
    *,
    bytes_per_round: int = 1000,
    seconds_per_round: float = 2.0,
    world: str = "graph",
    edges: list[list[int]] | None = None,
    histogram: list[list[int]] | None = None,
    warnings: tuple[str, ...] = (),
    **experiment: Any,
) -> Run:
    """A run whose node n has test accuracy accuracy_RN[r - 1][n] after round r, and whose merged model has merged_R."""
    rounds = len(accuracy_RN) or len(merged_R or [])
    nodes = len(accuracy_RN[0]) if accuracy_RN else 4
    metrics: list[dict[str, Any]] = []
    for r in range(rounds):
        values = dict(enumerate(accuracy_RN[r])) if accuracy_RN else {}
        if merged_R is not None:
            values[-1] = merged_R[r]
        for node, value in values.items():
            metrics.append({"round": r + 1, "node": node, "test_accuracy": value, "train_loss": 2.3 * (1 - value) ** 2})
    of_rounds = [
        {
            "round": r + 1,
            "communicated": True,
            "bytes": bytes_per_round,
            "consensus_distance": 1.5 * 0.8**r if world == "graph" else None,
            **{f"seconds_{phase}": share * seconds_per_round for phase, share in SHARES.items()},
        }
        for r in range(rounds)
    ]
    choices: dict[str, Any] = {"graph": {"method": "dsgd", "topology": "ring"}}.get(world, {})
    record = {
        "nodes": nodes,
        "parameters": 4810,
        "samples": [sum(row) for row in histogram] if histogram else [10] * nodes,
        "histogram": histogram,
        "classes": [str(c) for c in range(len(histogram[0]))] if histogram else [],
        "names": [],
        "edges": edges or [],
        "message_bytes": {"up": 19240, "down": 19240},
        "backend": "eager",
        "backend_reason": "asked for",
        "workers": 1,
        "versions": {"python": "3.11", "torch": "2.13"},
        "hardware": {"cpu": "a processor", "cores": 2},
        "status": "finished",
        "world": world,
        "seconds": seconds_per_round * rounds,
    }
    folder.mkdir(parents=True)
    lines = [json.dumps({"event": "warning", "text": text}) for text in warnings]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    asked = Experiment(**{"nodes": nodes, "rounds": rounds, **choices, **experiment})
    record |= {"experiment": asked.to_dict(), "digest": asked.digest()}
    record["own_models"] = world != "server" or asked.method.personal
    run = Run(folder, record, asked)
    run.__dict__["metrics"] = pa.Table.from_pylist(metrics, schema=schema(METRICS))
    run.__dict__["rounds"] = pa.Table.from_pylist(of_rounds, schema=schema(ROUNDS))
    return run
