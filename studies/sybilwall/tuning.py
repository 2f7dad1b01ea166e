"""How the settings of this study were chosen: accuracy and attack score of many ideas, on seeds of their own.

    python studies/sybilwall/tuning.py [SEED ...]

One attack edge for each node, label flip. Prints a Markdown table of means over the seeds (default: 100; 15 s
for each idea and seed). Needs GOSSAMER_DATA.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import gossamer

TWINS = {"kind": "twin_filter", "versions": 25}
WALL = {"kind": "sybilwall", "versions": 25}
IDEAS: dict[str, tuple[Any, dict[str, float]]] = {
    "plain mean": ("mean", {}),
    "SybilWall": (WALL, {}),
    "SybilWall, median of the better half": ({**WALL, "merging": "median"}, {}),
    "SybilWall, weighted median": ({**WALL, "merging": "weighted_median"}, {}),
    "SybilWall, Krum filter": ({**WALL, "merging": "krum_filter"}, {}),
    "SybilWall on updates": ({**WALL, "remember": "updates"}, {}),
    "twins within 0.1": ({**TWINS, "threshold": 0.1}, {}),
    "twins within 0.2": ({**TWINS, "threshold": 0.2}, {}),
    "twins within 0.5": ({**TWINS, "threshold": 0.5}, {}),
    "twins within 0.2, noise 0.1": ({**TWINS, "threshold": 0.2}, {"noise": 0.1}),
    "twins on updates within 0.2, noise 0.3": ({**TWINS, "threshold": 0.2, "remember": "updates"}, {"noise": 0.3}),
    "twins on updates within 0.35, noise 0.3": ({**TWINS, "threshold": 0.35, "remember": "updates"}, {"noise": 0.3}),
    "clipped gossip, f = 0.15": ({"kind": "clipped_gossip", "f": 0.15}, {}),
    "nearest neighbours (NNA), f = 0.15": ({"kind": "nna", "f": 0.15}, {}),
}


def play(base: dict[str, Any], rule: Any, disguise: dict[str, float], seed: int) -> tuple[float, float]:
    """Accuracy of the honest nodes' models, and attack score."""
    changes = {"aggregator": rule, "hostile": {**base["hostile"], **disguise}, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        summary = gossamer.run(gossamer.Experiment(**{**base, **changes}), f"{folder}/run").summary()
    return summary["test_accuracy"], summary["attack_success"]


def main() -> None:
    """Print the table."""
    seeds = [int(word) for word in sys.argv[1:]] or [100]
    table = tomllib.loads(Path(__file__).with_name("study.toml").read_text(encoding="utf-8"))
    base = {key: value for key, value in table.items() if key in gossamer.Experiment.model_fields}
    print("| idea | accuracy | attack |\n|---|---|---|")
    for name, (rule, disguise) in IDEAS.items():
        played = [play(base, rule, disguise, seed) for seed in seeds]
        accuracy, attack = (statistics.mean(column) for column in zip(*played, strict=True))
        print(f"| {name} | {accuracy:.3f} | {attack:.3f} |", flush=True)


if __name__ == "__main__":
    main()
