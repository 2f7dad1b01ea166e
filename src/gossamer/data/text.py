"""Your own texts, to be classified."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from gossamer.data import Dataset
from gossamer.data.formats import read_file, user_path
from gossamer.data.tabular import indices, ordered
from gossamer.data.texts import Array, Files, TextData, Texts, columns, file_names, table_columns
from gossamer.errors import ExperimentError

MOST_SHOWN = 12
"""Labels that an error names."""
SUFFIXES = {".csv": table_columns, ".jsonl": columns, ".json": columns, ".ndjson": columns}


@dataclass(frozen=True)
class Part:
    """What one file holds: texts, their labels, and their groups, if those are a column."""

    file: str
    texts: list[str]
    labels: list[str]
    groups: list[str] | None


class Text(TextData):
    """Your own texts with labels, in CSV or JSON lines files; natural groups: a column, or the files if several."""

    kind: Literal["text"] = "text"
    train: Files = Field(
        min_length=1,
        description="file or files to train on (.csv with a header line, .jsonl; .gz may follow): below the data "
        "folder, or any path; of several files each is a natural group",
    )
    test: Files = Field(min_length=1, description="file or files to test on")
    text_column: str = Field(default="text", description="column or field that holds the text")
    label_column: str = Field(default="label", description="column or field that holds the label")
    group: str = Field(default="", description="column or field that names the natural group of an item")
    labels: tuple[str, ...] = Field(
        default=(), description="all labels there are, in order; default: those of the training files, sorted"
    )

    @field_validator("labels")
    @classmethod
    def _once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("each label must be there once")
        return labels

    def load(self, folder: Path | None) -> Dataset:
        train = [self._read(folder, "train", name) for name in self.train]
        test = [self._read(folder, "test", name) for name in self.test]
        classes = self.labels or one_label_space(train)
        for field, parts in (("train", train), ("test", test)):
            for part in parts:
                check_labels(field, part, classes, given=bool(self.labels))
        by_file = file_names(self.train)
        names: tuple[str, ...] = ()
        groups: Array | None = None
        if self.group:
            found = [group for part in train for group in part.groups or ()]
            names = ordered(found)
            groups = indices(found, names)
        elif len(train) > 1:
            names = by_file
            groups = indices([name for name, part in zip(names, train, strict=True) for _ in part.texts], names)
        return self.classified(
            folder,
            by_file[0],
            Texts(*joined(train, classes), groups),
            Texts(*joined(test, classes)),
            classes,
            names,
        )

    def _read(self, folder: Path | None, field: str, name: str) -> Part:
        suffix = Path(name.removesuffix(".gz")).suffix.lower()
        if suffix not in SUFFIXES:
            raise ExperimentError(
                f"data.{field} = '{name}' must end with one of {', '.join(SUFFIXES)} (.gz may follow)"
            )
        remedy = (
            f"data.{field} = '{name}' must name a good copy of it, below the data folder or as a path, and "
            "data.text_column, data.label_column and data.group what is in it"
        )
        file = read_file(user_path(folder, name), remedy)
        keys = (self.text_column, self.label_column, *([self.group] if self.group and field == "train" else []))
        texts, labels, *groups = SUFFIXES[suffix](file, *keys)
        if "" in labels:
            raise file.fault(f"has an empty '{self.label_column}' in record {labels.index('') + 1}")
        return Part(name, texts, labels, groups[0] if groups else None)


def one_label_space(parts: Sequence[Part]) -> tuple[str, ...]:
    """The labels of all files, sorted. Raises ExperimentError where they are not the same in each."""
    first, *others = parts
    for other in others:
        here, there = (ordered(part.labels) for part in (other, first))
        if here != there:
            raise ExperimentError(
                f"data.train: '{other.file}' has the labels {shown(here)}, but '{first.file}' has {shown(there)}; one "
                "model needs one label space: if both are parts of one, list all of it in data.labels, else mend the "
                "files"
            )
    return ordered(first.labels)


def check_labels(field: str, part: Part, classes: Sequence[str], given: bool) -> None:
    """Raise ExperimentError where a file has a label that is none of the classes."""
    known = set(classes)
    for number, label in enumerate(part.labels, start=1):
        if label not in known:
            where = "data.labels" if given else "the training files"
            near = difflib.get_close_matches(label, classes, n=1)
            hint = f" (nearest: '{near[0]}')" if near else ""
            raise ExperimentError(
                f"data.{field}: '{part.file}' has the label '{label}' in record {number}, which is not in "
                f"{where}{hint}: {shown(classes)}; list it in data.labels, or mend the file"
            )


def joined(parts: Sequence[Part], classes: Sequence[str]) -> tuple[list[str], Array]:
    """The texts of all files, one file after the other, and the numbers of their labels."""
    texts = [text for part in parts for text in part.texts]
    return texts, indices([label for part in parts for label in part.labels], classes)


def shown(labels: Sequence[str]) -> str:
    """The labels in one line, the first of many."""
    return ", ".join(labels) if len(labels) <= MOST_SHOWN else f"{', '.join(labels[:MOST_SHOWN])}, ..."
