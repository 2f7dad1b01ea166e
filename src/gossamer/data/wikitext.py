"""WikiText-2: the next token of an article of Wikipedia."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.data import Dataset
from gossamer.data.formats import DataFile, Origin
from gossamer.data.texts import Length, TextData

ORIGIN = Origin(
    "wikitext2_small",
    "github.com/pytorch/examples (word_language_model/data/wikitext-2)",
    {
        "valid.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "test.txt": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    },
)
TITLE = re.compile(r"^ \n = ([^=\n]|[^=\n][^\n]*[^=\n]) = \n \n", re.MULTILINE)
"""A heading of the first level between blank lines; without these there are formulas that look alike."""


class WikiText(TextData):
    """Next token in articles of Wikipedia; natural groups: the articles (60 train, 60 others test).

    The validation part of WikiText-2 is what is trained on (1.1 million characters), its test part is the test part.
    Articles are cut into windows of `length` tokens.
    """

    source: ClassVar[str] = "Merity et al. 2017 (WikiText-2)"

    kind: Literal["wikitext"] = "wikitext"
    length: Length = 128
    verify: bool = Field(default=True, description="check the SHA-256 of the files")

    def load(self, folder: Path | None) -> Dataset:
        train, test = (articles(ORIGIN.read(folder, name, verify=self.verify)) for name in ORIGIN.files)
        return self.continued(folder, "wikitext", train, test, licence="CC BY-SA 3.0 (Wikipedia)")


def articles(file: DataFile) -> list[tuple[str, str]]:
    """The title and the text (with its heading) of each article. Raises DataError where there is none."""
    text = file.text()
    headings = list(TITLE.finditer(text))
    if not headings:
        raise file.fault("has no article (a line ' = Title = ' between blank lines)")
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return [(heading[1], text[heading.start() : end]) for heading, end in zip(headings, ends, strict=True)]
