"""The worst case: runs as a table of two settings, for each row the worst over its columns, and the best of these.

    rows      what is compared, such as the rule
    columns   what it must withstand, such as the attack
    over      what each cell is a worst case of already (nothing, if left out)

An axis is one key of an experiment or several ("attack", "partition.alpha"). Runs that share a cell and a seed differ
in settings that a defender may choose: of these each row keeps the one whose worst case is best. The worst
case is that of each seed, over which mean and interval are then taken, so it can lie below every cell of its row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gossamer.axes import Table, axis_labels, check_keys, differing, flat, in_order, listed, named
from gossamer.compare import Estimate, distinct, estimate
from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from gossamer.runs import Run

Seeds = Mapping[int, float]
"""A value for each seed."""
METRICS = {
    "test_accuracy": "test accuracy",
    "worst_node": "worst node's accuracy",
    "merged_accuracy": "accuracy of the merged model",
    "validation_accuracy": "accuracy on the nodes' own validation items",
    "attack_success": "attack success",
}
"""What can be looked at: figures of `Run.summary`."""


@dataclass(frozen=True)
class Line:
    """A row of the table: a value for each column and seed, and the worst over the columns for each seed.

    `worst` is empty where a column was not run. `setting` is what was chosen of `tried` settings.
    """

    row: str
    setting: str
    tried: int
    cells: tuple[Seeds, ...]
    worst: Seeds


@dataclass(frozen=True)
class WorstCases:
    """The table. `unmeasured` columns have no value in any run; `seeds` are those that are reported."""

    metric: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    unmeasured: tuple[str, ...]
    seeds: tuple[int, ...]
    tune_seeds: tuple[int, ...]

    @property
    def best(self) -> tuple[Line, ...]:
        """The row with the best worst case, and those that the seeds do not tell apart from it; empty if none has one.

        Rows are told apart by the 95 % interval of the difference of their worst cases, seed by seed; with a single
        seed only by the values.
        """
        sign = 1 if lowest(self.metric) else -1
        ranked = sorted((line for line in self.lines if line.worst), key=lambda line: -sign * _mean(line.worst))
        return tuple(line for line in ranked if not told_apart(line.worst, ranked[0].worst))

    def worst_columns(self, line: Line) -> tuple[str, ...]:
        """The columns whose mean is the worst of a row: more than one where they are equal."""
        means = {name: _mean(cell) for name, cell in zip(self.columns, line.cells, strict=True) if cell}
        last = _extreme(self.metric, means.values()) if means else math.nan
        return tuple(name for name, mean in means.items() if mean == last)


def lowest(metric: str) -> bool:
    """Whether the lowest value is the worst; of the success of attacks the highest is."""
    return metric != "attack_success"


def worst_of(cells: Sequence[Seeds], low: bool = True) -> dict[int, float]:
    """The lowest (or the highest) of several values for each seed that has them all."""
    shared = set.intersection(*(set(cell) for cell in cells)) if cells else set()
    choose = min if low else max
    return {seed: choose(cell[seed] for cell in cells) for seed in sorted(shared)}


def told_apart(a: Seeds, b: Seeds) -> bool:
    """Whether the seeds that two rows share tell them apart: the interval of the mean difference excludes zero."""
    middle = estimate(a[seed] - b[seed] for seed in a.keys() & b.keys())
    return middle is not None and abs(middle.mean) > (middle.half_width or 0.0)


def over_seeds(values: Seeds) -> Estimate | None:
    """Mean and 95 % interval; None where there is no value."""
    return estimate(values.values())


def _mean(values: Seeds) -> float:
    return math.fsum(values.values()) / len(values)


def _extreme(metric: str, values: Iterable[float]) -> float:
    return min(values) if lowest(metric) else max(values)


def worst_cases(
    runs: Sequence[Run],
    rows: Sequence[str] = ("aggregator",),
    columns: Sequence[str] = ("attack",),
    over: Sequence[str] = (),
    metric: str = "test_accuracy",
    tune_seeds: Sequence[int] = (),
) -> WorstCases:
    """The table of these runs. Settings are chosen on `tune_seeds` and reported on the others, if there are such;
    otherwise on the same seeds.

    Raises ExperimentError for a key that no run has, for one in two axes, for runs that differ in what is neither an
    axis nor a defender's choice, and where no seed is left to report.
    """
    runs = distinct(runs)
    tables = [flat(run.record["experiment"]) for run in runs]
    axes = (rows, columns, over)
    keys = [key for axis in axes for key in axis]
    check_keys(keys, tables)
    placed = [axis_labels(tables, axis) for axis in axes]
    others = differing(tables, keys)
    values: dict[tuple[str, str], dict[tuple[str, str], dict[int, float]]] = {}
    settings: dict[str, dict[str, Table]] = {}
    for run, table, row, column, under in zip(runs, tables, *placed, strict=True):
        setting = {key: table.get(key) for key in others}
        settings.setdefault(row, {})[repr(setting)] = setting
        value = run.summary().get(metric)
        if value is not None and not math.isnan(value):
            values.setdefault((row, repr(setting)), {}).setdefault((column, under), {})[run.seed] = float(value)
    measured = {place for cells in values.values() for place in cells}
    told = [name for name in in_order(placed[1]) if any(column == name for column, _ in measured)]
    if not told:
        raise ExperimentError(f"none of these runs has measured '{metric}'; there may be: {', '.join(METRICS)}")
    seeds = _reported({run.seed for run in runs}, tune_seeds)
    lines = []
    for row in in_order(placed[0]):
        found = {name: values.get((row, name), {}) for name in settings[row]}
        name = _choose(found, measured, list(tune_seeds) or seeds, metric)
        cells = []
        for column in told:
            parts = [_at(found[name].get(place, {}), seeds) for place in sorted(measured) if place[0] == column]
            cells.append(worst_of(parts, lowest(metric)))
        changed = [key for key in others if len({repr(one[key]) for one in settings[row].values()}) > 1]
        chosen = named({key: settings[row][name][key] for key in changed}, others)
        lines.append(Line(row, chosen, len(found), tuple(cells), worst_of(cells, lowest(metric))))
    unmeasured = tuple(name for name in in_order(placed[1]) if name not in told)
    return WorstCases(metric, tuple(told), tuple(lines), unmeasured, tuple(seeds), tuple(tune_seeds))


def _reported(every: set[int], tune_seeds: Sequence[int]) -> list[int]:
    """The seeds that settings are not chosen on, if they are chosen on some."""
    if missing := sorted(set(tune_seeds) - every):
        raise ExperimentError(f"--tune-seeds {missing[0]}: no run has this seed; there are {listed(sorted(every))}")
    if every == set(tune_seeds):
        raise ExperimentError(f"--tune-seeds {listed(sorted(every))}: no seed is left to report; name fewer")
    return sorted(every - set(tune_seeds))


def _choose(
    found: Mapping[str, Mapping[tuple[str, str], Seeds]],
    places: Iterable[tuple[str, str]],
    seeds: Sequence[int],
    metric: str,
) -> str:
    """The setting with the best worst case over all places; one that lacks runs of others is not chosen."""
    sign = 1 if lowest(metric) else -1

    def rank(name: str) -> tuple[int, float]:
        worst = worst_of([_at(found[name].get(place, {}), seeds) for place in places], lowest(metric))
        return len(worst), sign * _mean(worst) if worst else 0.0

    places = list(places)
    return max(found, key=rank)


def _at(values: Seeds, seeds: Sequence[int]) -> Seeds:
    return {seed: values[seed] for seed in seeds if seed in values}
