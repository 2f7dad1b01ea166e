"""How the settings of the study of bytes were chosen: on a seed that it does not report.

python studies/bytes/tuning.py            prints the tables of tuning.md; about 10 minutes on one core
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gossamer
from gossamer.errors import NodeError
from gossamer.studies.contents import contents

SEED = 100
RATES = (0.05, 0.1, 0.2)
STEPS = (0.1, 0.2, 0.4, 0.6, 0.8)
ROUNDS = 120


def accuracy(experiment: gossamer.Experiment) -> float:
    """Mean test accuracy at the end of a run: the server's model, or the evaluated nodes' own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = gossamer.run(experiment.replace(seed=SEED, rounds=ROUNDS), Path(folder) / "run")
        except NodeError:
            return float("nan")
        found = run.summary()["test_accuracy"]
    return float(found)


def main() -> None:
    """Print both tables."""
    arms = contents(Path(__file__).with_name("study.toml"), "bytes").experiments
    print("| arm | " + " | ".join(f"lr {rate:g}" for rate in RATES) + " |")
    for name in ("none", "gossip-none"):
        arm = arms[name]
        found = [accuracy(arm.replace(learner=arm.learner.model_copy(update={"lr": rate}))) for rate in RATES]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in found) + " |", flush=True)
    print("\n| arm | " + " | ".join(f"step {step:g}" for step in STEPS) + " |")
    for name, arm in arms.items():
        if not name.startswith("choco"):
            continue
        chains: list[Any] = [(arm.transforms[0].model_copy(update={"step": s}), *arm.transforms[1:]) for s in STEPS]
        found = [accuracy(arm.replace(transforms=chain)) for chain in chains]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main()
