"""Any classification table in CSV files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gossamer.data.formats import MISSING_VALUES, DataFile, Table
from gossamer.data.tabular import TableData


class CSV(TableData):
    """Your own table in CSV files with a header line: training file, test file, target column, natural groups.

    Numeric columns stay numbers, all others become one 0/1 feature for each category.
    """

    kind: Literal["csv"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="character between two cells")
    missing_values: tuple[str, ...] = Field(default=MISSING_VALUES, description="cells that mean: no value")

    def table(self, file: DataFile) -> Table:
        return file.csv(self.delimiter, missing=self.missing_values)
