"""Crossed arms: every level of one factor with every level of another, each pair an arm.

    [cross.rule.mean]                        # exactly two factors, in the order of the file
    [cross.rule.krum]
    aggregator = { kind = "krum", f = 3 }

    [cross.attack.ipm]
    attack = "ipm"

makes the arms mean--ipm and krum--ipm, whose differences from the base are those of the first level, then those of the
second. Levels of the first factor are the rows of tables and heat maps, those of the second the columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gossamer.arms import NAME, experiments_of, merge
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment, with_default_kinds

Table = dict[str, Any]
BETWEEN = "--"
"""Stands between the two levels in the name of an arm."""


@dataclass(frozen=True)
class Cross:
    """Two factors with their levels; no level of one is called as one of the other."""

    factors: tuple[str, str]
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """All pairs, row by row."""
        return tuple(self.arm(row, column) for row in self.rows for column in self.columns)

    def arm(self, row: str, column: str) -> str:
        """The name of a pair."""
        return f"{row}{BETWEEN}{column}"

    def across(self, level: str) -> tuple[str, ...]:
        """The arms of a level, one for each level of the other factor; none for what is no level."""
        if level in self.columns:
            return tuple(self.arm(row, level) for row in self.rows)
        return tuple(self.arm(level, column) for column in self.columns if level in self.rows)

    def of(self, arms: Collection[str]) -> Cross:
        """The levels that some of these arms have."""
        rows = tuple(row for row in self.rows if any(arm in arms for arm in self.across(row)))
        columns = tuple(column for column in self.columns if any(arm in arms for arm in self.across(column)))
        return Cross(self.factors, rows, columns)


def read_cross(tables: Any, arms: Collection[str]) -> tuple[Cross, dict[str, Table]] | None:
    """The factors and the differences of each level; None where nothing is crossed. `arms` are those that are not.

    Raises ExperimentError for anything but two factors of tables, for a name that two of them share, and for one that
    could be mistaken.
    """
    if tables == {}:
        return None
    if not isinstance(tables, dict) or len(tables) != 2 or not all(isinstance(t, dict) and t for t in tables.values()):
        raise ExperimentError("cross: write two factors of one table for each level, e.g. [cross.rule.krum]")
    differences: dict[str, Table] = {}
    for factor, levels in tables.items():
        for level, table in levels.items():
            where = f"cross.{factor}.{level}"
            if not isinstance(table, dict):
                raise ExperimentError(f"{where}: write a table of differences, e.g. [{where}]")
            if not NAME.fullmatch(level) or BETWEEN in level:
                raise ExperimentError(f"{where}: a name holds letters, digits, '.', '_' and '-' only, and no '--'")
            if level in differences:
                raise ExperimentError(f"{where}: both factors have a level of this name; give each its own")
            differences[level] = table
    rows, columns = (tuple(levels) for levels in tables.values())
    first, second = tables
    cross = Cross((first, second), rows, columns)
    for name in (*cross.arms, *differences):
        if name in arms:
            raise ExperimentError(f"arms.{name}: crossed arms, or a level of them, have this name; choose another")
    return cross, differences


def kept_pairs(cross: Cross | None, some: Mapping[str, Sequence[str]]) -> set[str]:
    """The arms of these levels of each factor; of a factor that is not named, of all its levels."""
    factors = dict(zip(cross.factors, (cross.rows, cross.columns), strict=True)) if cross else {}
    for factor, levels in some.items():
        if factor not in factors:
            raise ExperimentError(f"quick.cross: no factor '{factor}'; factors: {', '.join(factors) or 'none'}")
        if unknown := [level for level in levels if level not in factors[factor]]:
            known = ", ".join(factors[factor])
            raise ExperimentError(f"quick.cross.{factor}: no level '{unknown[0]}'; levels: {known}")
    if cross is None:
        return set()
    rows, columns = (some.get(factor, levels) for factor, levels in factors.items())
    return {cross.arm(row, column) for row in rows for column in columns}


def crossed_experiments(
    base: Table, cross: Cross, differences: Mapping[str, Table], kept: Collection[str], overrides: Table | None = None
) -> dict[str, Experiment]:
    """The experiments of the pairs in `kept`; names, `overrides` and errors are as for `experiments_of`."""
    base = with_default_kinds(base)
    found: dict[str, Experiment] = {}
    for row in cross.rows:
        for column in cross.columns:
            if (arm := cross.arm(row, column)) in kept:
                half = merge(base, differences[row], arm)
                found |= experiments_of(half, {arm: differences[column]}, overrides)
    return found
