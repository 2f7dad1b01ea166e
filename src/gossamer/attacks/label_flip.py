"""Label flipping."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from gossamer.attacks import Array, Attack
from gossamer.errors import ExperimentError


class LabelFlip(Attack):
    """Hostile nodes train on wrong labels: all of them mirrored, one class called another, or two exchanged.

    all: y -> classes - 1 - y; targeted: `first` -> `second`; swap: `first` <-> `second`. Success is the share of test
    items of the classes concerned for which a model says what the attacker teaches.
    """

    source: ClassVar[str] = (
        "Tolpegin, Truex, Gursoy and Liu 2020 (targeted); Fang, Cao, Jia and Gong 2020 (all); "
        "Werthenbach and Pouwelse 2023 (swap, extra)"
    )

    kind: Literal["label_flip"] = "label_flip"
    mode: Literal["all", "targeted", "swap"] = Field(default="all", description="which labels become which")
    first: int = Field(default=0, ge=0, description="for 'targeted' the class that is flipped, for 'swap' one of two")
    second: int = Field(default=1, ge=0, description="for 'targeted' what it is called, for 'swap' the other")
    extra: bool = Field(
        default=False, description="the attacker also holds every training item whose label it flips, of all nodes"
    )

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.mode != "all" and self.first == self.second:
            raise ValueError(f"first and second are both {self.first}: give two classes")
        return self

    def poison(self, inputs_M: Array, labels_M: Array, classes: int, rng: np.random.Generator) -> tuple[Array, Array]:
        if labels_M.ndim != 1:
            raise ExperimentError("attack.kind = 'label_flip' is for items with one label each, not for sequences")
        if self.mode != "all" and max(self.first, self.second) >= classes:
            raise ExperimentError(
                f"attack.first = {self.first} and attack.second = {self.second}, but there are {classes} classes: use "
                f"0 to {classes - 1}"
            )
        return inputs_M, self._flipped(labels_M, classes)

    def recruits(self, labels_M: Array) -> Array:
        """Places, ascending, of all training items whose label the attack changes; none unless `extra`.

        SybilWall's attacker holds them besides its own, whichever these are; `poison` sees both.
        """
        if not self.extra:
            return np.empty(0, np.int64)
        return np.flatnonzero(self._concerned(labels_M))

    def succeeded(self, inputs_M: Array, labels_M: Array, classes: int) -> tuple[Array, Array, Array] | None:
        """The test items of the classes concerned and what they are to be taken for; for 'all' those whose label
        changes, with as many classes as the highest label says. None for sequences.
        """
        if labels_M.ndim != 1:
            return None
        goals_M = self._flipped(labels_M, classes)
        taught_K = np.flatnonzero(goals_M != labels_M)
        return inputs_M[taught_K], labels_M[taught_K], goals_M[taught_K]

    def _concerned(self, labels_M: Array) -> Array:
        if self.mode == "all":
            return np.ones(len(labels_M), bool)
        if self.mode == "targeted":
            return np.asarray(labels_M == self.first)
        return np.asarray((labels_M == self.first) | (labels_M == self.second))

    def _flipped(self, labels_M: Array, classes: int) -> Array:
        if self.mode == "all":
            return classes - 1 - labels_M
        other_M = self.second if self.mode == "targeted" else self.first + self.second - labels_M
        return np.where(self._concerned(labels_M), other_M, labels_M).astype(labels_M.dtype)
