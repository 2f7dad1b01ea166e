"""The figures of this folder's README, from finished runs.

    python studies/fashion-mnist/figures.py RUNS_FOLDER [RUNS_FOLDER ...]

Prints, over the seeds of each arm: the mean and the half width of the 95 % interval (Student's t) of the test accuracy
(with a server: mean of the last five rounds), of the worst node, and of the spread over nodes; and what share of the
time went into checkpoints.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import gossamer
from gossamer.compare import estimate


def figures(run: gossamer.Run) -> dict[str, float]:
    """The numbers of one run."""
    last = run.metrics.to_pylist()
    last = [line for line in last if line["round"] == last[-1]["round"] and line["node"] >= 0]
    rounds = run.rounds.to_pydict()
    seconds = {name: sum(v or 0.0 for v in rounds[name]) for name in rounds if name.startswith("seconds_")}
    found = {"checkpoint share": seconds["seconds_checkpoint"] / sum(seconds.values())}
    if run.own_models:
        own = [line["test_accuracy"] for line in last if line["test_accuracy"] is not None]
        found |= {
            "test accuracy": statistics.mean(own),
            "worst node": min(own),
            "spread over nodes": statistics.pstdev(own),
        }
        found["averaged model"] = run.summary()["merged_accuracy"]
    else:
        own = [line["validation_accuracy"] for line in last if line["validation_accuracy"] is not None]
        found["test accuracy"] = statistics.mean(run.curve("test_accuracy")[1][-5:])
        found |= {"worst node (validation)": min(own), "spread over nodes (validation)": statistics.pstdev(own)}
    return found


def main() -> None:
    """Print the table."""
    arms: dict[str, list[dict[str, float]]] = {}
    for folder in sys.argv[1:]:
        for place in sorted(Path(folder).iterdir()):
            if (place / "record.json").is_file():
                run = gossamer.open_run(place)
                arms.setdefault(run.experiment.name, []).append(figures(run))
    for arm, seeds in arms.items():
        print(f"{arm} ({len(seeds)} seeds)")
        for name in sorted(seeds[0], reverse=True):
            values = [seed[name] for seed in seeds]
            found = estimate(values)
            shown = ", ".join(f"{value:.4f}" for value in values)
            if found is not None:
                print(f"  {name:32} {found.mean:.4f} ± {found.half_width or 0:.4f}   ({shown})")


if __name__ == "__main__":
    main()
