"""Your own texts, for language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from gossamer.data import Dataset
from gossamer.data.formats import read_file, user_path
from gossamer.data.texts import Files, Length, TextData, file_names


class PlainText(TextData):
    """Next token in your own plain text files (UTF-8); natural groups: the training files, where there are several.

    Files are cut into windows of `length` tokens; what is left at the end of a file is not used.
    """

    kind: Literal["plain_text"] = "plain_text"
    length: Length = 128
    train: Files = Field(
        min_length=1, description="file or files to train on: below the data folder, or any path; .gz is read too"
    )
    test: Files = Field(min_length=1, description="file or files to test on")

    def load(self, folder: Path | None) -> Dataset:
        train, test = (
            self._read(folder, field, names) for field, names in (("train", self.train), ("test", self.test))
        )
        return self.continued(folder, file_names(self.train)[0], train, test)

    def _read(self, folder: Path | None, field: str, names: Sequence[str]) -> list[tuple[str, str]]:
        """The name and the text of each file. Raises DataError."""
        remedy = f"data.{field} must name good copies of UTF-8 texts, below the data folder or as paths"
        texts = [read_file(user_path(folder, name), remedy).text() for name in names]
        return list(zip(file_names(names), texts, strict=True))
