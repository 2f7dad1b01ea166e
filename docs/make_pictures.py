"""Draw every partition for the documentation.

    python docs/make_pictures.py        writes docs/images/partition-KIND.png

Label partitions deal scikit-learn's digits to 16 nodes; natural groups are the hospitals of heart_disease and need
GOSSAMER_DATA (left as they are without it).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gossamer
from gossamer.groundwork import deal, load_dataset
from gossamer.pictures import partition

IMAGES = Path(__file__).parent / "images"
SETTINGS: dict[str, dict[str, Any]] = {
    "iid": {},
    "dirichlet": {"alpha": 0.3},
    "dirichlet_pool": {"alpha": 0.3, "size": 80},
    "shards": {"per_node": 2},
    "label_count": {"classes": 3},
    "quantity": {"alpha": 0.5},
    "natural": {},
}


def main() -> None:
    """Draw and save."""
    for kind, fields in SETTINGS.items():
        natural = kind == "natural"
        if natural and not os.environ.get("GOSSAMER_DATA"):
            continue
        experiment = gossamer.Experiment(
            data="heart_disease" if natural else "digits",
            nodes=None if natural else 16,
            partition={"kind": kind, **fields},
        )
        shards, _ = deal(experiment, load_dataset(experiment))
        figure = partition(shards.histogram_NC, shards.classes, shards.names)
        figure.savefig(IMAGES / f"partition-{kind}.png", dpi=80, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
