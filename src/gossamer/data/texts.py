"""Texts as arrays of token ids: what the data sets of texts have in common.

M items, L tokens of an item. A text to be classified is one item; for language modelling running text is cut into
windows of L tokens, and the label of a position is the token that follows it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from gossamer.data import Data, Dataset, Split
from gossamer.data.formats import DataFile, user_path
from gossamer.errors import ExperimentError
from gossamer.tokenising import FEWEST, encoded, load, surroundings, token_ids, tokens, trained

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = np.ndarray[Any, Any]

Length = Annotated[
    int, Field(ge=2, description="tokens of an item: longer texts are cut at the end, shorter ones padded")
]
Files = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Names of files; one may be given as it is."""


@dataclass(frozen=True)
class Texts:
    """Texts to be classified: labels [M] int64 and natural groups [M] int64, or None."""

    texts: Sequence[str]
    labels: Array
    groups: Array | None = None


class TextData(Data):
    """Base of the data sets of texts."""

    length: Length = 64
    vocabulary: int = Field(
        default=4096,
        ge=FEWEST,
        description="tokens of the tokenizer that is trained on the training texts (byte-level BPE); few texts give "
        "fewer",
    )
    tokenizer: str = Field(
        default="",
        description="a tokenizer.json, or a folder that has one (that of a base model), to use instead: below the "
        "data folder, or any path",
    )

    def tokenizer_for(self, folder: Path | None, texts: Sequence[str], first: str) -> Tokenizer:
        """The tokenizer that is named, or one that is trained on texts and begins each with the token `first`."""
        if self.tokenizer:
            return load(user_path(folder, self.tokenizer))
        return trained(texts, self.vocabulary, first)

    def classified(
        self,
        folder: Path | None,
        name: str,
        train: Texts,
        test: Texts,
        classes: Sequence[str],
        group_names: Sequence[str] = (),
        licence: str = "",
    ) -> Dataset:
        """Texts with labels as a data set: inputs [M, L] token ids, labels [M]."""
        tokenizer = self.tokenizer_for(folder, train.texts, "<cls>")
        inputs, test_inputs = (encoded(tokenizer, part.texts, self.length) for part in (train, test))
        return Dataset(
            name,
            Split(inputs, train.labels, train.groups),
            Split(test_inputs, test.labels, test.groups),
            tuple(classes),
            tuple(group_names),
            licence=licence,
            tokenizer=tokenizer.to_str(),
        )

    def continued(
        self,
        folder: Path | None,
        name: str,
        train: Sequence[tuple[str, str]],
        test: Sequence[tuple[str, str]],
        licence: str = "",
    ) -> Dataset:
        """Running texts, each with its name, as a data set: windows [M, L] and the token after each position.

        Of several training texts each is a natural group, if it is long enough for a window. Raises ExperimentError
        where none is.
        """
        tokenizer = self.tokenizer_for(folder, [text for _, text in train], "<bos>")
        before, _ = surroundings(tokenizer)
        parts = []
        for field, documents in (("train", train), ("test", test)):
            ids = list(token_ids(tokenizer, [text for _, text in documents]))
            found = [windows(document, before, self.length) for document in ids]
            if not any(len(inputs) for inputs, _ in found):
                raise ExperimentError(
                    f"data.length = {self.length}: no text of data.{field} has so many tokens (the longest has "
                    f"{max(map(len, ids), default=0)}); lower data.length"
                )
            parts.append(found)
        groups = np.repeat(np.arange(len(train)), [len(inputs) for inputs, _ in parts[0]]) if len(train) > 1 else None
        splits = [Split(*(np.concatenate(arrays) for arrays in zip(*found, strict=True))) for found in parts]
        return Dataset(
            name,
            Split(splits[0].inputs, splits[0].labels, groups),
            splits[1],
            tokens(tokenizer),
            () if groups is None else distinct([title for title, _ in train]),
            licence=licence,
            tokenizer=tokenizer.to_str(),
        )


def windows(ids: Sequence[int], before: Sequence[int], length: int) -> tuple[Array, Array]:
    """Inputs and labels [M, L] int64 of a running text; what is left at its end is not used.

    With a token that comes `before` a text, a window begins with it, and every token of the text is the label of one
    position. Without, windows overlap in one token, and the first is nobody's label.
    """
    stream = np.array([*before[-1:], *ids], dtype=np.int64)
    count = max(0, (len(stream) - 1) // length)
    pieces = stream[np.arange(count)[:, None] * length + np.arange(length + 1)]
    inputs, labels = pieces[:, :-1].copy(), pieces[:, 1:].copy()
    if before:
        inputs[:, 0] = before[-1]
    return inputs, labels


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, those that come again with a number."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)


def file_names(files: Sequence[str]) -> tuple[str, ...]:
    """What each file is called: its name without the endings, or where two are alike, all of it."""
    short = tuple(Path(file).name.split(".")[0] for file in files)
    return short if len(set(short)) == len(files) else distinct(files)


def columns(file: DataFile, *keys: str) -> list[list[str]]:
    """The named fields of a JSON lines file as texts, a list for each. Raises DataError where a record lacks one."""
    rows = [[cell(record, key, number, file) for key in keys] for number, record in enumerate(file.json_lines(), 1)]
    if not rows:
        raise file.fault("holds no records")
    return [list(column) for column in zip(*rows, strict=True)]


def table_columns(file: DataFile, *keys: str) -> list[list[str]]:
    """The named columns of a CSV file as texts, a list for each. Raises DataError where one is not there."""
    table = file.csv(missing=())
    for key in keys:
        if key not in table:
            raise file.fault(f"has no column '{key}' (its columns: {', '.join(table)})")
    return [[str(cell) for cell in table[key]] for key in keys]


def cell(record: Mapping[str, Any], key: str, number: int, file: DataFile) -> str:
    """A field of a record as text. Raises DataError where there is none, or it is a list, an object or no Unicode."""
    value = record.get(key)
    if value is None:
        raise file.fault(f"has no '{key}' in record {number} (its fields: {', '.join(record)})")
    if isinstance(value, (list, dict)):
        raise file.fault(f"has a {type(value).__name__} in field '{key}' of record {number}, not a text")
    text = value if isinstance(value, str) else json.dumps(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise file.fault(f"has half a character (a lone surrogate) in field '{key}' of record {number}")
    return text
