"""How the settings of the study of Federated Rank Learning were chosen: on a seed that it does not report.

    python studies/frl/tuning.py rates        learning rates, without an attack
    python studies/frl/tuning.py attacks      every attack against every rule, a fifth of the nodes hostile

prints the tables of tuning.md, about 5 and 30 minutes on one core. `attacks 0/2` and `attacks 1/2` do half of it each.
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
ROUNDS = 16
F = {"f": 0.2}
VOTES: dict[str, Any] = {
    "frl": "mean",
    "frl-median": "median",
    "frl-trimmed": {"kind": "trimmed_mean", **F},
    "frl-margin-cap": "margin_cap",
    "frl-approval": "approval",
    "frl-filtered": {"kind": "approval_filtered", **F},
    "frl-agreement": {"kind": "rank_agreement", **F},
    "frl-multi-krum": {"kind": "multi_krum", **F},
    "frl-nnm-trimmed": {"kind": "trimmed_mean", **F, "before": ["nnm"]},
}
MEANS: dict[str, Any] = {
    "fedavg": "mean",
    "fedavg-trimmed": {"kind": "trimmed_mean", **F},
    "fedavg-multi-krum": {"kind": "multi_krum", **F},
}
ON_VOTES: dict[str, Any] = {
    "none": None,
    "reversal": "rank_reversal",
    "vulnerable": "vulnerable_edges",
    "vulnerable-all": {"kind": "vulnerable_edges", "swaps": "all"},
    "optimal": "opt_vulnerable_edges",
    "control": {"kind": "edge_control", "target": 0.1},
    "min-max": "min_max",
}
ON_MEANS: dict[str, Any] = {
    "none": None,
    "replaced": {"kind": "sign_flip", "scale": 100.0},
    "reversed": "sign_flip",
    "alie": {"kind": "alie", "z": 1.5},
    "opt-alie": "opt_alie",
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


def attacked(experiment: gossamer.Experiment, attack: Any, share: float = 0.2) -> gossamer.Experiment:
    """The experiment with a share of its nodes hostile."""
    if attack is None:
        return experiment
    assert experiment.nodes is not None
    return experiment.replace(hostile={"count": round(share * experiment.nodes)}, attack=attack)


def main(part: str, of: str = "0/1") -> None:
    """Print a table."""
    place, parts = map(int, of.split("/"))
    arms = contents(Path(__file__).with_name("study.toml"), "frl").experiments
    frl = arms["frl"].replace(seed=SEED, rounds=ROUNDS)
    fedavg = arms["fedavg"].replace(seed=SEED, rounds=ROUNDS)
    if part == "rates":
        for name, arm, rates in (("frl", frl, (0.1, 0.2, 0.4, 0.8)), ("fedavg", fedavg, (0.02, 0.05, 0.1))):
            for rate in rates:
                found = accuracy(arm.replace(learner=arm.learner.model_copy(update={"lr": rate})))
                print(f"| {name} | lr {rate:g} | {found:.3f} |", flush=True)
        return
    for base, rules, attacks in ((frl, VOTES, ON_VOTES), (fedavg, MEANS, ON_MEANS)):
        print("| rule | " + " | ".join(attacks) + " |", flush=True)
        for name, rule in list(rules.items())[place::parts]:
            arm = base.replace(aggregator=rule)
            found = [accuracy(attacked(arm, attack)) for attack in attacks.values()]
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
