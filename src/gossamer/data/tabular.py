"""Tables as arrays: encoding of numbers and categories, missing values, labels and natural groups.

The encoding is fitted on the training rows alone. A *numeric* column is one whose every present value reads as a
finite number; it becomes one float64 feature, its missing values filled with the mean of the present ones, and with
`missing = "indicator"` a second feature that is 1 where the value was missing (if any was). Any other column becomes
one 0/1 feature for each category, a missing value being a category of its own; a category that only test rows have
is all zeros. Nothing is standardised here: that is the experiment's preprocessing, and `Dataset.numeric` says of what.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from gossamer.data import Data, Dataset, Split
from gossamer.data.formats import DataFile, Table, read_file, user_path
from gossamer.errors import DataError, ExperimentError

Array = np.ndarray[Any, Any]
Missing = Literal["indicator", "mean"]

MISSING = "missing"
MOST_CATEGORIES = 1000
"""A column with more categories than this is taken for free text or an identifier and refused."""


@dataclass(frozen=True)
class Features:
    """Encoded rows [M, F] float64, and of each feature its name and whether it is a number to be standardised."""

    train: Array
    test: Array
    names: tuple[str, ...]
    numeric: tuple[bool, ...]


class TableData(Data):
    """Base of the data sets that a person describes by a training and a test table of their own."""

    train: str = Field(description="file of the training rows: below the data folder, or any path; .gz is read too")
    test: str = Field(description="file of the test rows, with the same columns")
    target: str = Field(description="column that holds the class")
    group: str = Field(default="", description="column that names the natural group of a row; it is not a feature")
    drop: tuple[str, ...] = Field(default=(), description="columns that are not used, such as identifiers")
    categorical: tuple[str, ...] = Field(default=(), description="columns of categories that look like numbers")
    missing: Missing = Field(
        default="indicator", description="missing numbers: the mean and an indicator feature, or the mean alone"
    )
    train_sha256: str = Field(default="", description="SHA-256 the decoded training file must have; empty: any")
    test_sha256: str = Field(default="", description="SHA-256 the decoded test file must have; empty: any")

    def table(self, file: DataFile) -> Table:
        """The columns of a file. Raises DataError."""
        raise NotImplementedError

    def load(self, folder: Path | None) -> Dataset:
        tables = []
        for key, name, sha256 in (("train", self.train, self.train_sha256), ("test", self.test, self.test_sha256)):
            remedy = f"data.{key} = '{name}' must name a good copy of it, below the data folder or as a path"
            tables.append(self.table(read_file(user_path(folder, name), remedy).verified(sha256)))
        return dataset_of_tables(
            Path(self.train).name.split(".")[0],
            *tables,
            target=self.target,
            group=self.group,
            drop=self.drop,
            categorical=self.categorical,
            missing=self.missing,
        )


def dataset_of_tables(
    name: str,
    train: Table,
    test: Table,
    *,
    target: str,
    group: str = "",
    drop: Collection[str] = (),
    categorical: Collection[str] = (),
    missing: Missing = "indicator",
    classes: tuple[str, ...] = (),
    licence: str = "",
) -> Dataset:
    """Two tables as a data set: `target` gives the labels, `group` the natural groups, the rest the features.

    `classes` are the values of the target in the order of the labels; by default all that occur, sorted.
    Raises ExperimentError for a column that is not there, DataError for values that cannot be used.
    """
    for key, columns in (("target", [target]), ("group", [group] if group else []), ("drop", drop)):
        for column in columns:
            check_column(f"data.{key}", column, train)
    for column in categorical:
        check_column("data.categorical", column, train)
    for column in train:
        if column not in test and column not in drop:
            raise DataError(f"data '{name}': the test table has no column '{column}', the training table has one")
    used = [column for column in train if column not in {target, group, *drop}]
    if not used:
        raise ExperimentError(f"data '{name}': no columns are left as features; shorten data.drop")
    features = encode({c: train[c] for c in used}, {c: test[c] for c in used}, missing, categorical)
    classes = classes or ordered([*train[target], *test[target]])
    groups, test_groups = None, None
    group_names: tuple[str, ...] = ()
    if group:
        group_names = ordered(cell or MISSING for cell in (*train[group], *test[group]))
        groups, test_groups = (indices([cell or MISSING for cell in t[group]], group_names) for t in (train, test))
    labels, test_labels = (indices(table[target], classes) for table in (train, test))
    for part, found in (("training", labels), ("test", test_labels)):
        if (found < 0).any():
            row = int(np.argmax(found < 0)) + 1
            raise DataError(f"data '{name}': {part} row {row} has no valid '{target}'; classes: {', '.join(classes)}")
    return Dataset(
        name=name,
        train=Split(features.train, labels, groups),
        test=Split(features.test, test_labels, test_groups),
        classes=classes,
        group_names=group_names,
        licence=licence,
        feature_names=features.names,
        numeric=features.numeric,
    )


def check_column(field: str, column: str, table: Table) -> None:
    """Raise ExperimentError, with the nearest name, where the table has no such column."""
    if column not in table:
        near = difflib.get_close_matches(column, table, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ExperimentError(f"{field} = '{column}': there is no such column; {hint}columns: {', '.join(table)}")


def encode(train: Table, test: Table, missing: Missing = "indicator", categorical: Collection[str] = ()) -> Features:
    """The features of two tables with the same columns, as the head of this module says."""
    parts = []
    for column, cells in train.items():
        values = None if column in categorical else as_numbers(cells)
        if values is None or np.isnan(values).all():
            parts.append(category_features(column, cells, test[column]))
        else:
            parts.append(number_features(column, values, test[column], missing))
    return Features(
        np.concatenate([part.train for part in parts], axis=1),
        np.concatenate([part.test for part in parts], axis=1),
        tuple(name for part in parts for name in part.names),
        tuple(numeric for part in parts for numeric in part.numeric),
    )


def number_features(column: str, values_M: Array, test_cells: Sequence[str | None], missing: Missing) -> Features:
    """A numeric column: its values with the mean where missing, and an indicator of that where asked and needed."""
    test_values_M = as_numbers(test_cells)
    if test_values_M is None:
        raise DataError(
            f"data: column '{column}' is numeric in the training rows, but a test row holds a value that is not; "
            f"name the column in data.categorical, or mend the file"
        )
    absent_M, test_absent_M = np.isnan(values_M), np.isnan(test_values_M)
    # An exactly rounded sum: the fill does not depend on the order of the rows.
    mean = math.fsum(values_M[~absent_M]) / np.count_nonzero(~absent_M)
    train, test = np.where(absent_M, mean, values_M), np.where(test_absent_M, mean, test_values_M)
    if missing == "mean" or not absent_M.any():
        return Features(train[:, None], test[:, None], (column,), (True,))
    return Features(
        np.column_stack([train, absent_M]),
        np.column_stack([test, test_absent_M]),
        (column, f"{column}={MISSING}"),
        (True, False),
    )


def category_features(column: str, cells: Sequence[str | None], test_cells: Sequence[str | None]) -> Features:
    """A column of categories: one 0/1 feature for each that the training rows have, a missing value being one."""
    present = sorted({cell for cell in cells if cell is not None})
    if len(present) > MOST_CATEGORIES:
        raise ExperimentError(
            f"data: column '{column}' has {len(present)} different values, more than {MOST_CATEGORIES}: "
            f"if it is free text or an identifier, name it in data.drop"
        )
    categories = [*present, None] if None in cells else present
    train, test = (
        (indices(part, categories)[:, None] == np.arange(len(categories))).astype(np.float64)
        for part in (cells, test_cells)
    )
    names = tuple(f"{column}={MISSING if category is None else category}" for category in categories)
    return Features(train, test, names, (False,) * len(names))


def as_numbers(cells: Sequence[str | None]) -> Array | None:
    """The cells as float64, NaN where missing; None where a present one is not a finite number."""
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        try:
            # float() takes 1_000 for a number; no data file means that.
            value = math.nan if "_" in cell else float(cell)
        except ValueError:
            return None
        if not math.isfinite(value):
            return None
        values[row] = value
    return values


def indices(cells: Iterable[str | None], values: Iterable[str | None]) -> Array:
    """Position (int64) of each cell among the values, -1 where it is none of them."""
    position = {value: index for index, value in enumerate(values)}
    return np.array([position.get(cell, -1) for cell in cells], dtype=np.int64)


def ordered(cells: Iterable[str | None]) -> tuple[str, ...]:
    """The different present values: by number where all are numbers, else by name."""
    values = sorted({cell for cell in cells if cell is not None})
    numbers = as_numbers(values)
    return tuple(values if numbers is None else [values[i] for i in np.argsort(numbers, kind="stable")])
