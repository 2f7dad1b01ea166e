"""Banking77: what does a customer of a bank want?"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.data import Dataset
from gossamer.data.formats import Origin
from gossamer.data.tabular import indices
from gossamer.data.texts import Length, TextData, Texts, table_columns

ORIGIN = Origin(
    "banking77",
    "github.com/PolyAI-LDN/task-specific-datasets (banking_data)",
    {
        "train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
        "test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
    },
)


class Banking77(TextData):
    """Questions to a bank by intent, 77 classes, in alphabetical order; 10,003 + 3,080 items."""

    source: ClassVar[str] = "Casanueva et al. 2020"

    kind: Literal["banking77"] = "banking77"
    length: Length = 48
    verify: bool = Field(default=True, description="check the SHA-256 of the files")

    def load(self, folder: Path | None) -> Dataset:
        files = (ORIGIN.read(folder, name, verify=self.verify) for name in ORIGIN.files)
        (texts, intents), (test_texts, test_intents) = (table_columns(file, "text", "category") for file in files)
        classes = sorted(set(intents), key=str.lower)
        return self.classified(
            folder,
            "banking77",
            Texts(texts, indices(intents, classes)),
            Texts(test_texts, indices(test_intents, classes)),
            classes,
            licence="CC BY 4.0",
        )
