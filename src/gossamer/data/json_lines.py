"""Any classification table in JSON lines files."""

from __future__ import annotations

from typing import Any, Literal

from gossamer.data.formats import DataFile, Table
from gossamer.data.tabular import TableData


class JSONLines(TableData):
    """Your own table in JSON lines files, one flat object a line: training file, test file, target, natural groups.

    Fields of numbers stay numbers, texts and true/false become one 0/1 feature for each category. null, NaN and a field
    that an object lacks are missing values.
    """

    kind: Literal["json_lines"] = "json_lines"

    def table(self, file: DataFile) -> Table:
        table: Table = {}
        count = 0
        for count, record in enumerate(file.json_lines(), start=1):
            for key in record:
                table.setdefault(key, [None] * (count - 1))
            for key, column in table.items():
                column.append(None if key in self.drop else self._cell(record.get(key), key, count, file))
        if not table:
            raise file.fault("holds no records")
        return table

    def _cell(self, value: Any, key: str, number: int, file: DataFile) -> str | None:
        if value is None or value != value:
            return None
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, (int, float, str)):
            return str(value)
        raise file.fault(f"has a {type(value).__name__} in field '{key}' of record {number}: name it in data.drop")
