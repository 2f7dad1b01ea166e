"""Intensities written down."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from gossamer.schedules import Schedule, Share, as_intensity


class Listed(Schedule):
    """An explicit list: from which round on, which share of the links or 'all' (all-reduces).

    `pieces = [[1, 0.2], [91, "all"], [92, 0]]` is a share of .2 in rounds 1 to 90, an all-reduce after round 91,
    nothing from 92 on. Rounds count from 1; before the first piece nothing is sent.
    """

    kind: Literal["listed"] = "listed"
    pieces: tuple[tuple[int, Share | Literal["all"]], ...] = Field(
        default=((1, 1.0),), min_length=1, description="pairs of (first round, share of the links from 0 to 1 or 'all')"
    )

    @field_validator("pieces")
    @classmethod
    def _in_order(cls, pieces: tuple[tuple[int, float | str], ...]) -> tuple[tuple[int, float | str], ...]:
        for round, _ in pieces:
            if round < 1:
                raise ValueError(f"rounds count from 1, found {round}")
        for (before, _), (after, _) in pairwise(pieces):
            if after <= before:
                raise ValueError(f"rounds must ascend, found {before} and then {after}")
        return pieces

    def intensity(self, round: int, rounds: int) -> float:
        begun = [intensity for first, intensity in self.pieces if first <= round + 1]
        return as_intensity(begun[-1]) if begun else 0.0
