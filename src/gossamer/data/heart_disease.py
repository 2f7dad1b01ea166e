"""Heart disease: patients of four hospitals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.data import Data, Dataset
from gossamer.data.formats import DataFile, Origin, Table, read_file
from gossamer.data.tabular import Missing, dataset_of_tables
from gossamer.errors import DataError

ORIGIN = Origin(
    "heart_disease",
    "archive.ics.uci.edu/dataset/45/heart+disease (processed.*.data will do)",
    {"cleveland.csv": "", "hungarian.csv": "", "switzerland.csv": "", "va.csv": ""},
)
DIGESTS = {
    "cleveland": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "hungarian": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "switzerland": "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    "va": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
}
"""SHA-256 of the rows of each hospital, without a header line."""
COLUMNS = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal"),
    "num",
)
CATEGORICAL = ("sex", "cp", "fbs", "restecg", "exang", "slope", "thal")
ZERO_IS_UNKNOWN = ("trestbps", "chol")


class HeartDisease(Data):
    """Heart disease at four hospitals: 13 features of a patient, 2 classes, 920 rows; natural groups: the hospitals.

    The class is `num > 0`. A blood pressure or cholesterol of 0 means that it was not measured and counts as missing.
    A third of each hospital is the test part: the rows that `test_rows.json` lists ({hospital: [row from 0]}), or with
    `test_rows = ""` every third row of each class.
    """

    source: ClassVar[str] = "Janosi, Steinbrunn, Pfisterer and Detrano 1988, UCI Machine Learning Repository"

    kind: Literal["heart_disease"] = "heart_disease"
    test_rows: str = Field(
        default="test_rows.json", description="file that lists the test rows; empty: every third row"
    )
    missing: Missing = Field(
        default="indicator", description="missing numbers: the mean and an indicator feature, or the mean alone"
    )
    verify: bool = Field(default=True, description="check the SHA-256 of the rows")

    def load(self, folder: Path | None) -> Dataset:
        hospitals = {name: self._hospital(folder, name) for name in DIGESTS}
        listed = self._listed(folder)
        train: Table = {column: [] for column in (*COLUMNS, "hospital")}
        test: Table = {column: [] for column in train}
        for name, table in hospitals.items():
            chosen = every_third(table["num"]) if listed is None else set(listed[name])
            if not chosen <= set(range(len(table["num"]))):
                raise DataError(f"{self.test_rows}: {name} has rows 0..{len(table['num']) - 1}, not {max(chosen)}")
            for row, cells in enumerate(zip(*table.values(), strict=True)):
                for column, cell in zip(train, (*cells, name), strict=True):
                    (test if row in chosen else train)[column].append(cell)
        return dataset_of_tables(
            "heart_disease",
            train,
            test,
            target="num",
            group="hospital",
            categorical=CATEGORICAL,
            missing=self.missing,
            classes=("no disease", "disease"),
            licence="CC BY 4.0 (UCI Machine Learning Repository; name its authors in publications)",
        )

    def _hospital(self, folder: Path | None, name: str) -> Table:
        file = ORIGIN.read(folder, f"{name}.csv", f"processed.{name}.data").without_header(COLUMNS)
        table = file.verified(DIGESTS[name] if self.verify else "").csv(columns=COLUMNS)
        return {column: [plain(column, cell, file) for cell in cells] for column, cells in table.items()}

    def _listed(self, folder: Path | None) -> dict[str, list[int]] | None:
        if not self.test_rows:
            return None
        remedy = "put it there, or set data.test_rows = '' for every third row of each class"
        file = read_file(ORIGIN.place(folder) / self.test_rows, remedy)
        try:
            listed = {str(name): [int(row) for row in rows] for name, rows in json.loads(file.text()).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise file.fault(f"is no table of row numbers by hospital ({error})") from None
        if set(listed) != set(DIGESTS):
            raise file.fault(f"must name the hospitals {', '.join(DIGESTS)}, not {', '.join(listed)}")
        return listed


def plain(column: str, cell: str | None, file: DataFile) -> str | None:
    """A cell in one way of writing at all hospitals ('1.0' and '1' are '1'), or the class for the column `num`."""
    if cell is None:
        return None
    try:
        value = float(cell)
    except ValueError:
        raise file.fault(f"is damaged: column '{column}' holds '{cell}'") from None
    if column == "num":
        return "disease" if value > 0 else "no disease"
    return None if value == 0 and column in ZERO_IS_UNKNOWN else f"{value:g}"


def every_third(labels: list[str | None]) -> set[int]:
    """The third, sixth, ... row of each class."""
    rows: dict[str | None, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return {row for members in rows.values() for row in members[2::3]}
