"""Data sets: what the nodes learn from, read from standard formats.

A data plug is one file with a `load(folder)` that returns a `Dataset` of numpy arrays: raw (images uint8), checked by
checksum where the published one is known. Normalising, augmenting and splitting happen later and are part of the
experiment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.plugs import Plug

IGNORED = -100
"""The label of a position of a sequence that does not count: of a prompt, of padding."""


@dataclass(frozen=True)
class Split:
    """Items in order: `inputs` [M, ...], `labels` [M] int64 (or [M, L] for sequences), `groups` [M] int64 or None.

    A position of a sequence whose label is IGNORED does not count; every item has one that does.
    """

    inputs: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    groups: np.ndarray[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Train and test items with what is needed to learn from them.

    `classes` names the labels 0..C-1. `group_names` names the natural groups (hospital, speaker, writer) that
    `Split.groups` indexes. `mean` and `std` are the published constants of 'fixed' normalisation, one number for each
    channel (images [M, channels, height, width]) or feature, on the scale of inputs/255 for uint8 inputs. Inputs of an
    integer type other than uint8 are token ids and are never normalised.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    group_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    licence: str = ""
    feature_names: tuple[str, ...] = ()
    numeric: tuple[bool, ...] = field(default=(), repr=False)
    """For tables: which features are numbers (to be standardised) rather than 0/1 indicators; empty means all."""
    tokenizer: str = field(default="", repr=False)
    """For texts: what made their token ids, as the JSON of the tokenizers library."""

    def __post_init__(self) -> None:
        for split_name, split in (("train", self.train), ("test", self.test)):
            if len(split.inputs) != len(split.labels):
                raise ExperimentError(
                    f"data '{self.name}': {split_name} has {len(split.inputs)} inputs but {len(split.labels)} labels"
                )
            if len(split) == 0:
                raise ExperimentError(f"data '{self.name}': {split_name} is empty")
            counted = split.labels
            if counted.ndim == 2:
                empty = (counted == IGNORED).all(axis=1)
                if empty.any():
                    raise ExperimentError(
                        f"data '{self.name}': {split_name} item {int(empty.argmax())} has no label that counts "
                        f"(all are {IGNORED}); leave it out"
                    )
                counted = counted[counted != IGNORED]
            if counted.min() < 0 or counted.max() >= len(self.classes):
                raise ExperimentError(
                    f"data '{self.name}': {split_name} labels must lie in 0..{len(self.classes) - 1}, "
                    f"found {counted.min()}..{counted.max()}"
                )
            if split.inputs.dtype != self.train.inputs.dtype or split.inputs.shape[1:] != self.train.inputs.shape[1:]:
                raise ExperimentError(
                    f"data '{self.name}': test inputs are {split.inputs.dtype} {list(split.inputs.shape[1:])}, "
                    f"but train inputs are {self.train.inputs.dtype} {list(self.train.inputs.shape[1:])}"
                )
            if split.inputs.dtype.kind == "f" and not np.isfinite(split.inputs).all():
                raise ExperimentError(f"data '{self.name}': {split_name} inputs contain NaN or infinity")

    @classmethod
    def of(
        cls,
        inputs: np.ndarray[Any, Any],
        labels: np.ndarray[Any, Any],
        test_inputs: np.ndarray[Any, Any],
        test_labels: np.ndarray[Any, Any],
        *,
        name: str = "own",
        classes: tuple[str, ...] | None = None,
        groups: np.ndarray[Any, Any] | None = None,
    ) -> Dataset:
        """Your own arrays (numpy, or anything `numpy.asarray` takes, torch tensors too) as a data set."""
        train = Split(np.asarray(inputs), _whole(labels, name), _as_groups(groups))
        test = Split(np.asarray(test_inputs), _whole(test_labels, name))
        if classes is None:
            classes = tuple(str(c) for c in range(int(max(train.labels.max(), test.labels.max())) + 1))
        names = () if train.groups is None else tuple(str(g) for g in range(int(train.groups.max()) + 1))
        return cls(name, train, test, classes, names)


def _whole(labels: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Labels as int64. Raises ExperimentError where they are not whole numbers."""
    given = np.asarray(labels)
    if given.dtype.kind not in "iubf":
        raise ExperimentError(
            f"data '{name}': labels must be whole numbers from 0, found {given.dtype} values; number the classes, "
            "e.g. numpy.unique(labels, return_inverse=True)"
        )
    whole = given.astype(np.int64)
    if not np.array_equal(whole, given):
        raise ExperimentError(f"data '{name}': labels must be whole numbers, found {given.dtype} values")
    return whole


def _as_groups(groups: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any] | None:
    return None if groups is None else np.asarray(groups, dtype=np.int64)


class Data(Plug):
    """Base of the data sets: `load` reads them. One file each in this folder."""

    only: tuple[str, ...] = Field(
        default=(),
        description="names (or numbers, as text) of the classes that are used; items of others are left out, and "
        "the classes numbered anew in the data set's own order; default: all",
    )
    per_class: int | None = Field(
        default=None, ge=1, description="training items kept of each class, drawn once from the seed; default: all"
    )

    def load(self, folder: Path | None) -> Dataset:
        """Read the data set; `folder` is the data folder of the experiment or of GOSSAMER_DATA, or None.

        Raises DataError where a file is missing or damaged, with the place to get it.
        """
        raise NotImplementedError

    @classmethod
    def adopt(cls, value: object) -> Plug | None:
        from gossamer.data.object import ObjectData

        return ObjectData(value=value) if isinstance(value, Dataset) else None


Normalise = Literal["none", "fixed", "shared", "per_node"]
