"""What claims, tables and plots of a study ask of a run, by name: its last merged accuracy, what it sent, and so on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gossamer import units
from gossamer.compare import column
from gossamer.record import ROUNDS

if TYPE_CHECKING:
    from gossamer.runs import Run

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Metric:
    """A number of a run: what it is called, and how it comes from the values after each round.

    `source` is a column of the table of rounds, or whose test accuracy it is: merged (node -1), local (the mean over
    the nodes), worst (the lowest of them); or attack: how far an attack with an aim gets, with the nodes' own models or
    the server's. `fold` is what becomes of the rounds: the last value that was measured, the mean of the last ten (or
    of all where there are fewer), the largest, or the sum of all.
    """

    words: str
    source: str
    fold: Literal["last", "late", "best", "total"]
    unit: Literal["accuracy", "share", "number", "count", "bytes", "seconds"]

    @property
    def by_round(self) -> bool:
        """Whether it has a value after each round, so that it can be drawn as a curve."""
        return self.fold == "last"

    @property
    def recorded(self) -> bool:
        """Whether runs have the column that it comes from."""
        return self.source in (*WHOSE, "attack") or self.source in ROUNDS

    @property
    def low_is_good(self) -> bool:
        """Whether less is better; of accuracies more is."""
        return self.unit != "accuracy"

    def shown(self, mean: float | None, half_width: float | None = None) -> str:
        """A mean over seeds with half of its interval, in the metric's unit: '0.733 ± 0.012', '3.21 MB'."""
        if mean is None or math.isnan(mean):
            return units.NONE
        text = self._text(mean)
        same = half_width is None or half_width <= SAME * abs(mean)
        return text if half_width is None or same else f"{text} ± {self._text(half_width)}"

    def _text(self, value: float) -> str:
        texts: dict[str, Callable[[float], str]] = {
            "accuracy": units.fraction,
            "share": units.fraction,
            "number": lambda number: f"{number:.3g}",
            "count": units.count,
            "bytes": units.size,
            "seconds": units.duration,
        }
        return texts[self.unit](value)


WHOSE: dict[str, Callable[[Array], float]] = {"merged": np.mean, "local": np.mean, "worst": np.min}
"""Whose test accuracy, and what is made of those of several nodes."""

METRICS = {
    "merged": Metric("merged accuracy", "merged", "last", "accuracy"),
    "local": Metric("local accuracy", "local", "last", "accuracy"),
    "worst": Metric("worst node's accuracy", "worst", "last", "accuracy"),
    "best_merged": Metric("best merged accuracy", "merged", "best", "accuracy"),
    "best_local": Metric("best local accuracy", "local", "best", "accuracy"),
    "late_merged": Metric("merged accuracy, last ten rounds", "merged", "late", "accuracy"),
    "late_local": Metric("local accuracy, last ten rounds", "local", "late", "accuracy"),
    "attack": Metric("share of what the attack aims at", "attack", "last", "share"),
    "late_attack": Metric("share of what the attack aims at, last ten rounds", "attack", "late", "share"),
    "hostile_weight": Metric("weight given to hostile nodes", "hostile_weight", "last", "share"),
    "kappa": Metric("robustness ratio kappa", "kappa", "last", "number"),
    "mergeability_gap": Metric("mergeability gap", "mergeability_gap", "last", "number"),
    "epsilon": Metric("epsilon spent", "epsilon", "last", "number"),
    "consensus_distance": Metric("consensus distance", "consensus_distance", "last", "number"),
    "transfers": Metric("model transfers", "transfers", "total", "count"),
    "bytes": Metric("sent", "bytes", "total", "bytes"),
    "simulated_seconds": Metric("simulated time", "simulated_seconds", "last", "seconds"),
}
"""All metrics by name. Accuracies are on the test items."""
SAME = 1e-6
"""Values whose interval is narrower than this, relatively, are the same but for rounding."""
LATE = 10
"""How many measured rounds a late metric is the mean of."""


def series(run: Run, metric: Metric) -> tuple[Array, Array]:
    """(rounds, values) after each round in which what the metric comes from was measured; both empty if in none."""
    if metric.source == "attack":
        rounds, values = run.curve("attack_success")
        return np.array(rounds, dtype=int), np.array(values)
    if metric.source not in WHOSE:
        rounds_R, values_R = column(run.rounds, "round"), column(run.rounds, metric.source)
        kept_R = ~np.isnan(values_R)
        return rounds_R[kept_R].astype(int), values_R[kept_R]
    rounds_K, nodes_K, values_K = (column(run.metrics, name) for name in ("round", "node", "test_accuracy"))
    kept_K = ~np.isnan(values_K) & ((nodes_K == -1) if metric.source == "merged" else (nodes_K >= 0))
    rounds_R = np.unique(rounds_K[kept_K])
    summed = WHOSE[metric.source]
    return rounds_R.astype(int), np.array([summed(values_K[kept_K & (rounds_K == round)]) for round in rounds_R])


def outcome(run: Run, name: str) -> float | None:
    """The metric of that name of a run; None where the run has not measured it."""
    metric = METRICS[name]
    if not metric.recorded:
        return None
    values_R = series(run, metric)[1]
    if not len(values_R):
        return None
    folded = {
        "last": values_R[-1],
        "late": values_R[-LATE:].mean(),
        "best": values_R.max(),
        "total": values_R.sum(),
    }
    return float(folded[metric.fold])


def reaches(run: Run, name: str, target: float) -> float | None:
    """Rounds until the metric is first measured at `target` or higher; infinity if it never is within the run.

    None where the run has not measured it.
    """
    rounds_R, values_R = series(run, METRICS[name])
    if not len(values_R):
        return None
    hits = np.flatnonzero(values_R >= target)
    return float(rounds_R[hits[0]]) if len(hits) else math.inf


def sent(run: Run, rounds_R: Array) -> Array:
    """Bytes that all nodes of a run together had sent by the end of each of these rounds [R]."""
    order = np.argsort(column(run.rounds, "round"))
    done, bytes_ = column(run.rounds, "round")[order], np.nan_to_num(column(run.rounds, "bytes"))[order]
    total = np.concatenate([[0.0], np.cumsum(bytes_)])
    return np.asarray(total[np.searchsorted(done, rounds_R, side="right")])


def within(run: Run, name: str, budget: float) -> float | None:
    """The metric as it was last measured before the run had sent more than `budget` bytes; NaN where it was measured
    only later.

    None where the run has not measured it.
    """
    rounds_R, values_R = series(run, METRICS[name])
    if not len(values_R):
        return None
    paid = np.flatnonzero(sent(run, rounds_R) <= budget)
    return float(values_R[paid[-1]]) if len(paid) else math.nan
