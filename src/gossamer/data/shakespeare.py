"""Shakespeare: the next character of a speech."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.data import Data, Dataset, Split
from gossamer.data.formats import DataFile, Origin
from gossamer.errors import ExperimentError

Array = np.ndarray[Any, Any]

ORIGIN = Origin(
    "shakespeare",
    "github.com/karpathy/char-rnn (data/tinyshakespeare/input.txt)",
    {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
)
TRAIN_SHARE = 0.8


class Shakespeare(Data):
    """Next character in tiny-shakespeare, 65 characters; natural groups: the speakers (95 with 2,000 characters).

    The utterances of a speaker, in order: those that begin in the first 80 % of the speaker's characters are the
    training part, the rest is the test part. Each part is joined by line feeds and cut into windows of `length` + 1
    characters that overlap in one; inputs [M, length] are a window without its last character, labels [M, length] the
    window without its first. What is left at the end of a part is not used.
    """

    source: ClassVar[str] = "Karpathy 2015 (char-rnn); by speaker: McMahan et al. 2017, Caldas et al. 2018 (LEAF)"

    kind: Literal["shakespeare"] = "shakespeare"
    length: int = Field(default=80, ge=1, description="characters of an item")
    min_characters: int = Field(default=2000, ge=1, description="speakers with fewer characters are left out")
    verify: bool = Field(default=True, description="check the SHA-256 of the text")

    def load(self, folder: Path | None) -> Dataset:
        file = ORIGIN.read(folder, "input.txt", verify=self.verify)
        characters = sorted(set(file.text()))
        names: list[str] = []
        train: list[Array] = []
        test: list[Array] = []
        for speaker, utterances in sorted(by_speaker(file).items()):
            parts = [windows(part, characters, self.length) for part in early_and_late(utterances)]
            if sum(map(len, utterances)) >= self.min_characters and all(map(len, parts)):
                names.append(speaker)
                train.append(parts[0])
                test.append(parts[1])
        if not names:
            raise ExperimentError(
                f"data: no speaker has {self.min_characters} characters and a window of {self.length} in both parts; "
                f"lower data.min_characters or data.length"
            )
        return Dataset(
            name="shakespeare",
            train=sequences(train),
            test=sequences(test),
            classes=tuple(characters),
            group_names=tuple(names),
            licence="text in the public domain",
        )


def by_speaker(file: DataFile) -> dict[str, list[str]]:
    """The utterances of each speaker in order: blocks between blank lines that begin with a line 'Speaker:'."""
    found: dict[str, list[str]] = {}
    for block in file.text().split("\n\n"):
        head, _, speech = block.strip("\n").partition("\n")
        if speech and not head.endswith(":"):
            raise file.fault(f"is damaged: a speech begins with '{head[:40]}' instead of 'Speaker:'")
        if speech:
            found.setdefault(head[:-1], []).append(speech)
    return found


def early_and_late(utterances: Sequence[str]) -> tuple[str, str]:
    """The utterances that begin in the first 80 % of the characters, and the rest, each joined by line feeds."""
    lengths = np.array([len(utterance) for utterance in utterances])
    early = int(np.count_nonzero(np.cumsum(lengths) - lengths < TRAIN_SHARE * lengths.sum()))
    return "\n".join(utterances[:early]), "\n".join(utterances[early:])


def windows(text: str, characters: Sequence[str], length: int) -> Array:
    """[M, length + 1] int64: the text as positions in `characters`, cut every `length` characters."""
    index = {character: position for position, character in enumerate(characters)}
    tokens = np.array([index[character] for character in text], dtype=np.int64)
    count = max(0, (len(tokens) - 1) // length)
    return np.asarray(tokens[np.arange(count)[:, None] * length + np.arange(length + 1)])


def sequences(windows_by_group: Sequence[Array]) -> Split:
    """Inputs, labels (each one character later) and groups of the windows of all groups."""
    joined = np.concatenate(windows_by_group)
    groups = np.repeat(np.arange(len(windows_by_group)), [len(part) for part in windows_by_group])
    return Split(np.ascontiguousarray(joined[:, :-1]), np.ascontiguousarray(joined[:, 1:]), groups.astype(np.int64))
