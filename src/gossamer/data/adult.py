"""Adult: does a person of the 1994 US census earn more than 50,000 dollars a year?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.data import Data, Dataset
from gossamer.data.formats import Origin, Table
from gossamer.data.tabular import Missing, dataset_of_tables

ORIGIN = Origin(
    "adult",
    "archive.ics.uci.edu/dataset/2/adult (adult.data and adult.test will do)",
    {"train.csv": "", "test.csv": ""},
)
DIGESTS = {
    "train.csv": "f0d0c191f02659cf884c3fa4a5abcb3e08180adab0f2708a07f12699e8bb9b9e",
    "test.csv": "137fbccdc879d3f2cc50199fead0bab4a14a3e042b3088d3611b6f7daa6e5f9f",
}
"""SHA-256 of the rows without header, blanks around cells, and full stops and comments (the original test file)."""
COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)


class Adult(Data):
    """Census income: 14 features of a person, 2 classes (24 % earn more than 50K), 32,561 + 16,281 rows.

    `group` makes a feature-skewed federation, for example by occupation. Read from `train.csv` and `test.csv` with a
    header line, or from the original `adult.data` and `adult.test`.
    """

    source: ClassVar[str] = "Becker and Kohavi 1996, UCI Machine Learning Repository"

    kind: Literal["adult"] = "adult"
    group: str = Field(default="", description="column that names the natural group of a row; it is not a feature")
    missing: Missing = Field(
        default="indicator", description="missing numbers: the mean and an indicator feature, or the mean alone"
    )
    verify: bool = Field(default=True, description="check the SHA-256 of the rows")

    def load(self, folder: Path | None) -> Dataset:
        return dataset_of_tables(
            "adult",
            self._rows(folder, "train.csv", "adult.data"),
            self._rows(folder, "test.csv", "adult.test"),
            target="income",
            group=self.group,
            missing=self.missing,
            classes=("<=50K", ">50K"),
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
        )

    def _rows(self, folder: Path | None, name: str, original: str) -> Table:
        file = ORIGIN.read(folder, name, original)
        plain = re.sub(r"^\|.*$|\.\s*$", "", file.text(), flags=re.MULTILINE)
        rows = replace(file, content=plain.encode()).without_header(COLUMNS)
        return rows.verified(DIGESTS[name] if self.verify else "").csv(columns=COLUMNS)
