"""Verdicts: what the values of a claim over seeds allow to be said of a bar."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gossamer.compare import estimate

Verdict = Literal["holds", "does not hold", "not decided at this budget"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "not decided at this budget"

ROUNDING = 1e-12
"""A value this close to a bar is at the bar: differences of accuracies carry rounding errors of about 1e-16."""
UNDEFINED = "neither was reached, or a division by zero"
"""Why a claim may have no value in a seed of which all runs are there."""
UNPAID = "nothing was measured within the bytes, neither was reached, or a division by zero"
"""The same of a claim about what a run reaches within so many bytes."""


@dataclass(frozen=True)
class Bar:
    """What a value must be: within [low, high], on average over seeds; with `every_seed`, for each seed too."""

    low: float = -math.inf
    high: float = math.inf
    every_seed: bool = False

    def met_by(self, value: float) -> bool:
        """Whether a value is on the right side; never for NaN."""
        return self.low - ROUNDING <= value <= self.high + ROUNDING

    def missed_by(self, low: float, high: float) -> bool:
        """Whether a whole interval is on the wrong side."""
        return high < self.low - ROUNDING or low > self.high + ROUNDING

    def to_dict(self) -> dict[str, object]:
        """As it is written in a study: {"at_least": 0.15}."""
        every: dict[str, object] = {"every_seed": True} if self.every_seed else {}
        if self.low == -math.inf:
            return {"at_most": self.high, **every}
        return {"at_least": self.low, **every} if self.high == math.inf else {"between": [self.low, self.high], **every}

    def __str__(self) -> str:
        every = ", in every seed" if self.every_seed else ""
        if self.low == -math.inf:
            return f"at most {self.high:g}{every}"
        return (f"at least {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}") + every


@dataclass(frozen=True)
class Judgement:
    """A verdict with what it rests on: the middle of the values and its 95 % interval (None where there is none)."""

    verdict: Verdict
    value: float | None
    interval: tuple[float, float] | None
    note: str = ""


def judge(bar: Bar, values: Sequence[float | None], why_undefined: str = UNDEFINED) -> Judgement:
    """The verdict over one value for each seed; None where a run is missing, NaN where a value is undefined.

    - *holds*: the whole 95 % interval is on the right side of the bar, and with `every_seed` each seed is.
    - *does not hold*: the whole interval is on the wrong side; or `every_seed` is asked for and one seed fails, which
      no further seed can mend (so this may be said of a single seed).
    - *not decided at this budget*: otherwise; always with a single seed, which says nothing of the spread, and where a
      run is missing or a value undefined, since what is left may be a choice of the lucky ones.
    """
    there = [value for value in values if value is not None and not math.isnan(value)]
    value, interval = middle(there)
    notes = []
    if failing := [number for number in there if not bar.met_by(number)]:
        notes = [f"{len(failing)} of {len(there)} seeds on the wrong side"]
    if absent := sum(number is None for number in values):
        notes.append(f"{absent} of {len(values)} seeds missing")
    if undefined := len(values) - absent - len(there):
        notes.append(f"no value in {undefined} of {len(values)} seeds ({why_undefined})")
    if unreached := sum(map(math.isinf, there)):
        notes.append(f"a target never reached in {unreached} of {len(there)} seeds")
    if there and interval is None:
        notes.append("one seed has no interval" if len(there) == 1 else "an interval then needs 6 seeds")
    verdict = OPEN
    if bar.every_seed and failing:
        verdict = FAILS
    elif interval is not None and not absent and not undefined:
        if bar.missed_by(*interval):
            verdict = FAILS
        elif bar.met_by(interval[0]) and bar.met_by(interval[1]):
            verdict = HOLDS
    return Judgement(verdict, value, interval, "; ".join(notes))


def middle(values: Sequence[float]) -> tuple[float | None, tuple[float, float] | None]:
    """The middle of values over seeds with a two-sided 95 % interval: mean and Student's t.

    Where a value is infinite (a target was never reached) there is no mean: then the median, and the interval between
    order statistics that holds for any distribution, which takes six values; or, if all are the same, that value.
    """
    if not values:
        return None, None
    if all(map(math.isfinite, values)):
        found = estimate(values)
        assert found is not None
        half = found.half_width
        return found.mean, None if half is None else (found.mean - half, found.mean + half)
    ordered = sorted(values)
    median = statistics.median(ordered)
    if len(values) > 1 and ordered[0] == ordered[-1]:
        return median, (ordered[0], ordered[-1])
    from scipy.stats import binom

    # The smallest k with P(fewer than k of n seeds lie below the median) > 2.5 % is one too many.
    outer = int(binom.ppf(0.025, len(values), 0.5))
    interval = (ordered[outer - 1], ordered[-outer]) if outer else None
    return None if math.isnan(median) else median, interval
