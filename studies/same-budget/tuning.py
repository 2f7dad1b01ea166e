"""How the settings of this study were chosen: merged test accuracy by schedule and adjustment, on seeds of their own.

    python studies/same-budget/tuning.py [SEED ...]

Every schedule is played up to the last merge; the merged model is then measured with each strength of the adjustment.
Prints a Markdown table of means over the seeds (default: 100 to 105; about 15 s for each schedule and seed). Needs
GOSSAMER_DATA.
"""

from __future__ import annotations

import statistics
import sys
import tomllib
from pathlib import Path

import numpy as np
import torch

from gossamer import Experiment
from gossamer.backends.eager import Eager
from gossamer.engines.local import Local
from gossamer.evaluation import evaluate_merged
from gossamer.federation import Federation
from gossamer.methods.balanced_merge import output_bias, shares

ADJUST = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
SCHEDULES = {
    "single": {"kind": "every", "share": 0.2, "final": "merge"},
    "even": {"kind": "late", "merges": 11, "power": 1.0},
    "later": {"kind": "late", "merges": 11, "power": 2.0},
    "mixed": {"kind": "late", "merges": 6, "power": 2.0, "between": 0.1},
    "allreduce": {"kind": "every", "all_reduce": True},
}


def accuracies(experiment: Experiment) -> list[float]:
    """Test accuracy of the mean of the models before the last merge, for each strength of the adjustment."""
    torch.set_num_threads(1)
    federation = Federation(experiment)
    engine = Local(federation, Eager(federation))
    for round in range(experiment.rounds):
        result = engine.train(round)
        if round + 1 < experiment.rounds:
            engine.exchange(result)
    merged_D, bias = federation.sent["row"].mean(0), output_bias(federation.context)
    shares_NC = shares(federation.context)
    log_C = torch.from_numpy(np.log(np.maximum(0.01, shares_NC.shape[1] * shares_NC.mean(0)))).float()
    found = []
    for adjust in ADJUST:
        federation.merged.copy_(merged_D)
        federation.merged[bias] -= adjust * log_C
        counts = evaluate_merged(federation, experiment.rounds, 0, len(federation.test_items))
        found.append(float(counts.metrics()["accuracy"] or 0.0))
    return found


def main() -> None:
    """Print the table."""
    seeds = [int(word) for word in sys.argv[1:]] or list(range(100, 106))
    table = tomllib.loads(Path(__file__).with_name("study.toml").read_text(encoding="utf-8"))
    base = {key: value for key, value in table.items() if key in Experiment.model_fields}
    print("| schedule | " + " | ".join(f"adjust {adjust:g}" for adjust in ADJUST) + " |")
    print("|---" * (len(ADJUST) + 1) + "|")
    for name, schedule in SCHEDULES.items():
        rows = [accuracies(Experiment(**{**base, "schedule": schedule, "seed": seed})) for seed in seeds]
        means = [statistics.mean(column) for column in zip(*rows, strict=True)]
        print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |", flush=True)


if __name__ == "__main__":
    main()
