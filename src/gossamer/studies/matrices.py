"""Crossed arms as matrices: rows are the levels of the first factor, columns those of the second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gossamer import units
from gossamer.compare import Estimate
from gossamer.studies.outcomes import METRICS
from gossamer.worst_case import Seeds, over_seeds, worst_of

if TYPE_CHECKING:
    from gossamer.studies.findings import Findings

WORST = "worst"
"""Heading of the last column: the worst over the others for each seed, then the mean over seeds."""


@dataclass(frozen=True)
class Matrix:
    """A metric of crossed arms: an estimate for each row and column, and of the worst over the columns of each row.

    None where there is no run, or not one for each column.
    """

    metric: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Estimate | None, ...], ...]
    worst: tuple[Estimate | None, ...]


def matrix(found: Findings, metric: str) -> Matrix | None:
    """A metric of all crossed arms that have runs; columns in which it was not measured are left out.

    None where it was measured in no run of crossed arms.
    """
    cross = found.study.cross
    if cross is None:
        return None
    values: dict[str, Seeds] = {}
    for arm in cross.arms:
        measured = zip(found.seeds, found.outcomes.get(arm, {}).get(metric, ()), strict=False)
        values[arm] = {seed: value for seed, value in measured if value is not None}
    rows = tuple(row for row in cross.rows if any(values[arm] for arm in cross.across(row)))
    columns = tuple(column for column in cross.columns if any(values[arm] for arm in cross.across(column)))
    if not rows:
        return None
    of_rows = [[values[cross.arm(row, column)] for column in columns] for row in rows]
    low = not METRICS[metric].low_is_good
    return Matrix(
        metric=metric,
        rows=rows,
        columns=columns,
        cells=tuple(tuple(over_seeds(cell) for cell in cells) for cells in of_rows),
        worst=tuple(over_seeds(worst_of(cells, low)) for cells in of_rows),
    )


def metrics_shown(found: Findings) -> list[str]:
    """The metrics that get a matrix: those of heat maps and of claims about crossed arms; without such, the accuracy
    and the success of attacks."""
    crossed = set(found.study.cross.arms if found.study.cross else ())
    asked = {plot.metric for plot in found.study.plots if plot.kind in ("heatmap", "lines")}
    for one in found.claims:
        asked |= {term.metric for term in one.claim.expression.terms if crossed & {*found.study.arms_of(term)}}
    if not asked:
        asked = {"merged", "attack"} if matrix(found, "merged") else {"local", "attack"}
    return [name for name in METRICS if name in asked and matrix(found, name)]


def matrix_cells(one: Matrix, spread: bool = False) -> tuple[list[str], list[list[str]]]:
    """A matrix as text, its columns and its lines: means, or (`spread`) half of the 95 % intervals."""
    metric = METRICS[one.metric]

    def text(estimate: Estimate | None) -> str:
        if estimate is None or (spread and estimate.half_width is None):
            return units.NONE
        return metric.shown(estimate.half_width if spread else estimate.mean)

    lines = [
        [row, *map(text, cells), text(worst)] for row, cells, worst in zip(one.rows, one.cells, one.worst, strict=True)
    ]
    return ["", *one.columns, WORST], lines


def spreads(one: Matrix) -> bool:
    """Whether any value is of more than one seed."""
    return any(cell is not None and cell.half_width is not None for cells in one.cells for cell in cells)
