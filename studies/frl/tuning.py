"""How the settings of the study of Federated Rank Learning were chosen: on a seed that it does not report.

    python studies/frl/tuning.py rates        learning rates, without an attack
    python studies/frl/tuning.py means        attacks on FedAvg, trimmed mean and Multi-Krum, 20 rounds

print the tables of tuning.md, in about 2 and 6 minutes on one core.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import gossamer
from gossamer.errors import NodeError
from gossamer.studies.contents import contents

SEED = 100
SHARES = (0.2, 0.4)
RULES: dict[str, Any] = {"mean": "mean", "trimmed": {"kind": "trimmed_mean"}, "multi-krum": {"kind": "multi_krum"}}
ATTACKS: dict[str, Any] = {
    "reversed x100": {"kind": "sign_flip", "scale": 100.0},
    "reversed": "sign_flip",
    "alie": {"kind": "alie", "z": 1.5},
    "opt-alie": "opt_alie",
    "opt-ipm": "opt_ipm",
    "min-max": "min_max",
    "min-sum": "min_sum",
}


def accuracy(experiment: gossamer.Experiment) -> float:
    """Mean test accuracy of the last ten rounds; 0.1, which is chance, where the run ends in NaN."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = gossamer.run(experiment, Path(folder) / "run")
        except NodeError:
            return 0.1
        values = run.curve("test_accuracy")[1]
    return sum(values[-10:]) / len(values[-10:])


def attacked(experiment: gossamer.Experiment, rule: Any, attack: Any, share: float) -> gossamer.Experiment:
    """The experiment with a share of its nodes hostile, and a rule that is told how many they are."""
    assert experiment.nodes is not None
    count = round(share * experiment.nodes)
    told = {**rule, "f": count} if isinstance(rule, dict) else rule
    return experiment.replace(hostile={"count": count}, attack=attack, aggregator=told)


def rates() -> None:
    """Learning rates, without an attack."""
    arms = contents(Path(__file__).with_name("study.toml"), "frl").experiments
    for name, tried in (("borda--none", (0.2, 0.4, 0.8, 1.6)), ("fedavg", (0.02, 0.05, 0.1))):
        for rate in tried:
            arm = arms[name]
            found = accuracy(arm.replace(learner=arm.learner.model_copy(update={"lr": rate}), seed=SEED))
            print(f"| {name} | lr {rate:g} | {found:.3f} |", flush=True)


def attacks() -> None:
    """Every attack on every rule."""
    arm = contents(Path(__file__).with_name("study.toml"), "frl").experiments["fedavg"].replace(seed=SEED, rounds=20)
    print("| rule | hostile | " + " | ".join(ATTACKS) + " |", flush=True)
    for kind, rule in RULES.items():
        for share in SHARES:
            found = [accuracy(attacked(arm, rule, way, share)) for way in ATTACKS.values()]
            print(f"| {kind} | {share:.0%} | " + " | ".join(f"{value:.3f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["rates"]:
            rates()
        case ["means"]:
            attacks()
        case _:
            sys.exit(__doc__)
