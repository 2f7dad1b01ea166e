"""What partitions require of a request before they deal, each with its one-line error."""

from __future__ import annotations

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.partitions import Array


def required_nodes(kind: str, nodes: int | None, items: int, each: int = 1) -> int:
    """The number of nodes asked for. Raises ExperimentError where it is not given, or the items do not go round."""
    if nodes is None:
        raise ExperimentError(f"nodes is not given, but partition = '{kind}' needs a number: set nodes = 20, say")
    if nodes * each > items:
        what = "each needs one" if each == 1 else f"each needs at least {each}"
        raise ExperimentError(
            f"nodes = {nodes} is too many for partition = '{kind}': there are {items} training items and {what}; "
            f"use {items // each} nodes or fewer"
        )
    return nodes


def required_labels(kind: str, labels_M: Array) -> Array:
    """The labels, one for each item. Raises ExperimentError where an item has a sequence of labels."""
    if labels_M.ndim != 1:
        raise ExperimentError(
            f"partition.kind = '{kind}' goes by the class of an item, but these items have a sequence of labels: "
            f"use 'natural', 'iid' or 'quantity'"
        )
    return labels_M


def members_by_class(labels_M: Array, rng: np.random.Generator) -> list[Array]:
    """The items of each class that occurs, by ascending label, each class in random order."""
    order = rng.permutation(len(labels_M))
    return [order[labels_M[order] == label] for label in np.unique(labels_M)]
