"""AG News: what is a news item about?"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.data import Dataset
from gossamer.data.formats import DataFile, Origin
from gossamer.data.tabular import indices
from gossamer.data.texts import Length, TextData, Texts, columns

ORIGIN = Origin(
    "agnews",
    "github.com/mhjabreel/CharCnn_Keras (data/ag_news_csv, as JSON lines of label from 0, title and text)",
    {
        "train4k.jsonl": "bb743ad3efd4afdd7bf3a9487700e2f1d170d36aa46d7c0575baa966a09e679b",
        "test.jsonl": "85c7156fae1bd080331862111be926b0b3969bfa93593488782c3db381b4e7be",
    },
)
CLASSES = ("World", "Sports", "Business", "Sci/Tech")


class AGNews(TextData):
    """News by topic, 4 classes: World, Sports, Business, Sci/Tech; 4,000 of the 120,000 training items, 7,600 test.

    An item is its title and its text, with a blank between them and in place of the backslashes of the original.
    """

    source: ClassVar[str] = "Zhang, Zhao and LeCun 2015, of the AG corpus of Gulli 2005"

    kind: Literal["agnews"] = "agnews"
    length: Length = 96
    verify: bool = Field(default=True, description="check the SHA-256 of the files")

    def load(self, folder: Path | None) -> Dataset:
        train, test = (ORIGIN.read(folder, name, verify=self.verify) for name in ORIGIN.files)
        return self.classified(
            folder,
            "agnews",
            items(train),
            items(test),
            classes=CLASSES,
            licence="research and other non-commercial use (AG corpus)",
        )


def items(file: DataFile) -> Texts:
    """Titles and texts in one, and the labels. Raises DataError."""
    labels, titles, texts = columns(file, "label", "title", "text")
    both = [f"{title} {text}".replace("\\", " ") for title, text in zip(titles, texts, strict=True)]
    return Texts(both, indices(labels, map(str, range(len(CLASSES)))))
