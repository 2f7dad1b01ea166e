"""What several runs say together: means and intervals over seeds, and the price of reaching a target.

Pure functions over runs: an *arm* is a list of runs that differ in the seed only. Shapes: R evaluated rounds, S seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gossamer.experiment import WITHOUT_EFFECT

if TYPE_CHECKING:
    from gossamer.runs import Run

Array = np.ndarray[Any, Any]
Over = Literal["rounds", "bytes", "seconds", "transfers", "simulated"]
ASIDE = frozenset({"seed", *WITHOUT_EFFECT})
"""Keys of an experiment in which the runs of one arm may differ: the seed, and what changes no result."""
PHASES = ("train", "exchange", "merge", "evaluate", "checkpoint")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with half the width of its confidence interval (None with fewer than two seeds)."""

    mean: float
    half_width: float | None
    seeds: int


def estimate(values: Iterable[float], level: float = 0.95) -> Estimate | None:
    """Mean and Student-t interval: mean ± t(level, S - 1) * s / sqrt(S). None where nothing was measured.

    Values that are NaN are left out and do not count as seeds.
    """
    values_S = np.array([value for value in values if value is not None and not math.isnan(value)], dtype=float)
    seeds = len(values_S)
    if seeds == 0:
        return None
    if seeds == 1:
        return Estimate(float(values_S[0]), None, 1)
    from scipy.stats import t

    quantile = float(t.ppf((1 + level) / 2, seeds - 1))
    return Estimate(float(values_S.mean()), quantile * float(values_S.std(ddof=1)) / math.sqrt(seeds), seeds)


@dataclass(frozen=True)
class Curve:
    """A metric over the evaluated rounds of one run, with what had been spent by then (all [R])."""

    rounds: Array
    bytes: Array
    seconds: Array
    transfers: Array
    """Models sent."""
    simulated: Array
    """Simulated seconds."""
    values: Array

    def over(self, over: Over) -> Array:
        """What the curve is drawn over."""
        return np.asarray(getattr(self, over))


def curve(run: Run, metric: str = "test_accuracy") -> Curve:
    """A metric of a run over its rounds: that of the global model with a server, else the mean over the nodes' models.

    Columns of `run.rounds`, such as consensus_distance, are taken as they are; merged_accuracy is that of the mean of
    the nodes' models. At round x, x rounds are over.
    """
    if metric in run.rounds.column_names:
        rounds_R, values_R = column(run.rounds, "round"), column(run.rounds, metric)
        rounds_R, values_R = rounds_R[~np.isnan(values_R)], values_R[~np.isnan(values_R)]
    else:
        merged = metric == "merged_accuracy"
        found = run.curve("test_accuracy", node=-1) if merged else run.curve(metric)
        rounds_R, values_R = (np.asarray(part, dtype=float) for part in found)
    return Curve(rounds_R.astype(int), *_spent(run, rounds_R), values_R)


def _spent(run: Run, rounds_R: Array) -> tuple[Array, Array, Array, Array]:
    """Bytes, seconds, models and simulated seconds spent up to the end of each of the rounds.

    Evaluation and checkpoints count as time, not as simulated time.
    """
    order = np.argsort(column(run.rounds, "round"))
    done = column(run.rounds, "round")[order]
    bytes_ = np.concatenate([[0.0], np.cumsum(np.nan_to_num(column(run.rounds, "bytes"))[order])])
    per_round = sum(np.nan_to_num(column(run.rounds, f"seconds_{phase}")) for phase in PHASES)
    seconds = np.concatenate([[0.0], np.cumsum(np.asarray(per_round)[order])])
    transfers = np.concatenate([[0.0], np.cumsum(np.nan_to_num(column(run.rounds, "transfers"))[order])])
    simulated = np.concatenate([[0.0], np.nan_to_num(column(run.rounds, "simulated_seconds"))[order]])
    at = np.searchsorted(done, rounds_R, side="right")
    return bytes_[at], seconds[at], transfers[at], simulated[at]


def column(table: Any, name: str) -> Array:
    """A column of an Arrow table as float64, nulls as NaN."""
    return np.asarray(table[name].to_numpy(), dtype=float)


def node_values(run: Run, metric: str = "test_accuracy") -> Array:
    """The metric of every node at the last round where nodes were measured, in node order; empty where none was."""
    rounds_K, nodes_K, values_K = (column(run.metrics, name) for name in ("round", "node", metric))
    kept_K = ~np.isnan(values_K) & (nodes_K >= 0)
    if not kept_K.any():
        return np.empty(0)
    kept_K &= rounds_K == rounds_K[kept_K].max()
    return np.asarray(values_K[kept_K][np.argsort(nodes_K[kept_K])])


@dataclass(frozen=True)
class Band:
    """The curves of one arm together: mean over seeds, lowest and highest seed (all [R]), over x [R]."""

    x: Array
    mean: Array
    low: Array
    high: Array
    seeds: int


def band(runs: Sequence[Run], metric: str = "test_accuracy", over: Over = "rounds") -> Band:
    """Mean and range over seeds at the rounds that all runs evaluated; x is the mean over seeds too."""
    runs = distinct(runs)
    curves = [curve(run, metric) for run in runs]
    common = curves[0].rounds
    for one in curves[1:]:
        common = np.intersect1d(common, one.rounds)
    at = [np.searchsorted(one.rounds, common) for one in curves]
    values_SR = np.stack([one.values[i] for one, i in zip(curves, at, strict=True)])
    x_SR = np.stack([one.over(over)[i] for one, i in zip(curves, at, strict=True)])
    return Band(x_SR.mean(0), values_SR.mean(0), values_SR.min(0), values_SR.max(0), len(runs))


@dataclass(frozen=True)
class Reach:
    """What it took to reach a target, over the seeds that did (`reached` of `seeds`); None where none did."""

    reached: int
    seeds: int
    rounds: Estimate | None
    bytes: Estimate | None
    seconds: Estimate | None

    def seeds_in_words(self) -> str:
        """' (2 of 3 seeds)' where not all of them reached the target, else nothing."""
        return "" if self.reached == self.seeds else f" ({self.reached} of {self.seeds} seeds)"

    def rounds_in_words(self) -> str:
        """'12 rounds', with one decimal where the mean over seeds is no whole number; 'not reached'."""
        if self.rounds is None:
            return "not reached"
        count = f"{self.rounds.mean:,.1f}".removesuffix(".0")
        return f"{count} round{'' if count == '1' else 's'}"


def reach(runs: Sequence[Run], target: float, metric: str = "test_accuracy") -> Reach:
    """Rounds, bytes and seconds until the metric is first measured at `target` or better."""
    spent, runs = [], distinct(runs)
    for one in (curve(run, metric) for run in runs):
        hits = np.flatnonzero(one.values >= target)
        if len(hits):
            first = hits[0]
            spent.append((float(one.rounds[first]), float(one.bytes[first]), float(one.seconds[first])))
    rounds, bytes_, seconds = (estimate(column) for column in zip(*spent, strict=True)) if spent else (None, None, None)
    return Reach(len(spent), len(runs), rounds, bytes_, seconds)


@dataclass(frozen=True)
class Row:
    """One arm of a comparison. `merged` is the global or averaged model, `validation` the nodes' own items, `attack`
    the success of an attack that has an aim, `epsilon` what was spent of a privacy budget.

    `reach` is None without a target.
    """

    arm: str
    seeds: int
    accuracy: Estimate | None
    worst: Estimate | None
    merged: Estimate | None
    validation: Estimate | None
    attack: Estimate | None
    epsilon: Estimate | None
    bytes: Estimate | None
    seconds: Estimate | None
    rounds: int
    reach: Reach | None


def rows(arms: Mapping[str, Sequence[Run]], target: float | None = None) -> list[Row]:
    """One row for each arm, in the order given; a run that repeats a seed does not count."""
    return [_row(arm, distinct(runs), target) for arm, runs in arms.items()]


def _row(arm: str, runs: Sequence[Run], target: float | None) -> Row:
    summaries = [run.summary() for run in runs]

    def over_seeds(key: str) -> Estimate | None:
        return estimate(_number(summary.get(key)) for summary in summaries)

    return Row(
        arm=arm,
        seeds=len(runs),
        accuracy=over_seeds("test_accuracy"),
        worst=over_seeds("worst_node"),
        merged=over_seeds("merged_accuracy"),
        validation=over_seeds("validation_accuracy"),
        attack=over_seeds("attack_success"),
        epsilon=over_seeds("epsilon"),
        bytes=over_seeds("bytes"),
        seconds=over_seeds("seconds"),
        rounds=max(int(summary["rounds"]) for summary in summaries),
        reach=None if target is None else reach(runs, target),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def group(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs as arms: those whose experiments differ in the seed only (and in ASIDE) belong together.

    An arm is named after its experiment, without the part that all names share up to a hyphen; a number tells apart
    different experiments of one name.
    """
    arms: dict[str, list[Run]] = {}
    for run in runs:
        table = {key: value for key, value in run.record["experiment"].items() if key not in ASIDE}
        arms.setdefault(json.dumps([run.name, table], sort_keys=True), []).append(run)
    names = _shortened([members[0].name for members in arms.values()])
    grouped: dict[str, list[Run]] = {}
    for name, members in zip(names, arms.values(), strict=True):
        label, number = name, 2
        while label in grouped:
            label, number = f"{name} ({number})", number + 1
        grouped[label] = sorted(members, key=lambda run: run.seed)
    return grouped


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs without those that repeat another's experiment and seed, which says nothing new."""
    repeats = [run for run, _ in repeated(runs)]
    return [run for run in runs if run not in repeats]


def repeated(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """(run, what it repeats) for each run with the experiment and seed of another: the first, or the first finished."""
    first: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.record["status"] != "finished"):
        first.setdefault(_identity(run), run)
    return [(run, first[_identity(run)]) for run in runs if run is not first[_identity(run)]]


def _identity(run: Run) -> str:
    """What was run: the experiment with its seed, and the data, graph and model that it names."""
    return str(run.record["digest"]) + json.dumps(run.record.get("fingerprints", {}), sort_keys=True)


def _shortened(names: list[str]) -> list[str]:
    """Names without the longest common beginning that ends in a hyphen, as long as something is left of each."""
    while len(set(names)) > 1:
        heads = {name.partition("-")[0] for name in names}
        if len(heads) > 1 or not all(name.partition("-")[2] for name in names):
            break
        names = [name.partition("-")[2] for name in names]
    return names
