"""Selection: some classes of a data set, and few training items of each."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gossamer.data import Dataset, Split
from gossamer.errors import ExperimentError
from gossamer.randomness import generator

Array = np.ndarray[Any, Any]


def selected(dataset: Dataset, only: Sequence[str], per_class: int | None, seed: int) -> Dataset:
    """The items of the classes `only` (all, if empty), and of the training items `per_class` of each (all, if None).

    Classes are numbered anew in the data set's own order, and items stay in theirs; test items are not drawn from.
    Which items of a class are drawn depends on the seed and that class alone, and fewer are some of the more. Raises
    ExperimentError for a class that there is not, fewer than two classes, or fewer items than asked for.
    """
    if not only and per_class is None:
        return dataset
    if dataset.train.labels.ndim != 1:
        field = f"only = {list(only)}" if only else f"per_class = {per_class}"
        raise ExperimentError(
            f"data.{field}: an item of data '{dataset.name}' has a sequence of labels, not one class; leave it away"
        )
    used = sorted({class_number(name, dataset) for name in only}) or range(len(dataset.classes))
    if len(used) < 2:
        raise ExperimentError(f"data.only = {list(only)}: one class is nothing to tell apart; name at least two")
    anew_C = np.full(len(dataset.classes), -1)
    anew_C[used] = np.arange(len(used))
    items = np.flatnonzero(anew_C[dataset.train.labels] >= 0)
    if per_class is not None:
        items = drawn(dataset, used, per_class, seed)
    test_items = np.flatnonzero(anew_C[dataset.test.labels] >= 0)
    return dataclasses.replace(
        dataset,
        train=_part(dataset.train, items, anew_C),
        test=_part(dataset.test, test_items, anew_C),
        classes=tuple(dataset.classes[number] for number in used),
    )


def class_number(name: str, dataset: Dataset) -> int:
    """The number of a class by its name, or else by its number. Raises ExperimentError with the nearest names."""
    classes = dataset.classes
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    near = difflib.get_close_matches(name, classes, n=3) or classes[:3]
    raise ExperimentError(
        f"data.only = '{name}': data '{dataset.name}' has no such class; nearest: {', '.join(near)} (or a number from "
        f"0 to {len(classes) - 1})"
    )


def drawn(dataset: Dataset, classes: Sequence[int], per_class: int, seed: int) -> Array:
    """`per_class` training items (ascending, int64) of each class. Raises ExperimentError where one has fewer."""
    labels = dataset.train.labels
    counts_C = np.bincount(labels, minlength=len(dataset.classes))
    scarce = min(classes, key=lambda number: counts_C[number])
    if counts_C[scarce] < per_class:
        raise ExperimentError(
            f"data.per_class = {per_class}: class '{dataset.classes[scarce]}' of data '{dataset.name}' has "
            f"{counts_C[scarce]} training items; use at most that many, or leave the class out with data.only"
        )
    draws = (
        generator(seed, "few-shot", step=number).permutation(np.flatnonzero(labels == number))[:per_class]
        for number in classes
    )
    return np.sort(np.concatenate(list(draws)))


def _part(split: Split, items: Array, anew_C: Array) -> Split:
    groups = None if split.groups is None else split.groups[items]
    return Split(split.inputs[items], anew_C[split.labels[items]], groups)
