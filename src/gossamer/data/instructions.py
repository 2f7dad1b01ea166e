"""Instructions with their answers, for language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gossamer.data import IGNORED, Dataset, Split
from gossamer.data.formats import DataFile, Origin, read_file, user_path
from gossamer.data.tabular import indices, ordered
from gossamer.data.texts import Array, Length, TextData, cell
from gossamer.errors import ExperimentError
from gossamer.tokenising import end_id, padding_id, surroundings, token_ids, tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ORIGIN = Origin(
    "dolly15k",
    "huggingface.co/datasets/databricks/databricks-dolly-15k (as two JSON lines files)",
    {
        "train.jsonl": "844828ba81e9cab237b920bbd02e7421ab797d3b5ff8a4ecd7f09be2b7b3ea77",
        "test.jsonl": "903f07dd63314de558eee8fca086ed814c254cf823d6a436cf66fc03dde64bae",
    },
)
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_WITH_CONTEXT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{context}\n\n### Response:\n"
)


class Instructions(TextData):
    """Next token of the answer to an instruction: databricks-dolly-15k, or your own JSON lines; groups: a field.

    An item is the prompt, the response and a token that ends it, cut at `length`. The labels of the prompt and of
    padding are -100, which do not count. Records whose prompt alone fills `length` are left out.
    """

    source: ClassVar[str] = "Conover et al. 2023 (databricks-dolly-15k); template: Taori et al. 2023 (Alpaca)"

    kind: Literal["instructions"] = "instructions"
    length: Length = 256
    train: str = Field(
        default="",
        description="JSON lines file to train on: below the data folder, or any path; empty: databricks-dolly-15k",
    )
    test: str = Field(default="", description="JSON lines file to test on")
    instruction: str = Field(default="instruction", description="field that holds the instruction")
    context: str = Field(
        default="context", description="field that holds what the instruction is about; it may be empty or not there"
    )
    response: str = Field(default="response", description="field that holds the answer")
    group: str = Field(default="category", description="field that names the natural group of a record; empty: none")
    template: Literal["alpaca", "none"] = Field(
        default="alpaca", description="what is put around the instruction; none: the context follows it after a line"
    )
    verify: bool = Field(default=True, description="check the SHA-256 of databricks-dolly-15k")

    @model_validator(mode="after")
    def _both(self) -> Instructions:
        if bool(self.train) != bool(self.test):
            raise ValueError("train and test: name both files, or none for databricks-dolly-15k")
        return self

    def load(self, folder: Path | None) -> Dataset:
        files = [self._file(folder, field, name) for field, name in (("train", self.train), ("test", self.test))]
        pairs = [self._pairs(file) for file in files]
        tokenizer = self.tokenizer_for(folder, [text for pair in pairs[0] for text in pair], "<bos>")
        (inputs, labels, kept), (test_inputs, test_labels, _) = (
            self._items(tokenizer, found, file) for found, file in zip(pairs, files, strict=True)
        )
        names: tuple[str, ...] = ()
        groups = None
        if self.group:
            named = [cell(record, self.group, n, files[0]) for n, record in enumerate(files[0].json_lines(), 1)]
            names = ordered(named)
            groups = indices(named, names)[kept]
        return Dataset(
            name=Path(self.train).name.split(".")[0] or "dolly15k",
            train=Split(inputs, labels, groups),
            test=Split(test_inputs, test_labels),
            classes=tokens(tokenizer),
            group_names=names,
            licence="" if self.train else "CC BY-SA 3.0",
            tokenizer=tokenizer.to_str(),
        )

    def _file(self, folder: Path | None, field: str, name: str) -> DataFile:
        if not name:
            return ORIGIN.read(folder, f"{field}.jsonl", verify=self.verify)
        remedy = (
            f"data.{field} = '{name}' must name a good copy of it, below the data folder or as a path, and "
            "data.instruction, data.response and data.group what is in it (group = '': nothing)"
        )
        return read_file(user_path(folder, name), remedy)

    def _pairs(self, file: DataFile) -> list[tuple[str, str]]:
        """The prompt and the response of each record. Raises DataError."""
        found = []
        for number, record in enumerate(file.json_lines(), start=1):
            instruction, response = (cell(record, key, number, file) for key in (self.instruction, self.response))
            has_context = self.context and record.get(self.context) not in (None, "")
            context = cell(record, self.context, number, file) if has_context else ""
            found.append((self.prompt(instruction, context), response))
        if not found:
            raise file.fault("holds no records")
        return found

    def prompt(self, instruction: str, context: str = "") -> str:
        """What comes before the response."""
        if self.template == "alpaca":
            template = ALPACA_WITH_CONTEXT if context else ALPACA
            return template.format(instruction=instruction, context=context)
        return f"{instruction}\n{context}\n" if context else f"{instruction}\n"

    def _items(
        self, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], file: DataFile
    ) -> tuple[Array, Array, Array]:
        """Inputs and labels [M, L] of the records that fit, and which those are."""
        before, _ = surroundings(tokenizer)
        end = [] if (number := end_id(tokenizer)) is None else [number]
        prompts, responses = (token_ids(tokenizer, texts) for texts in zip(*pairs, strict=True))
        # What padding is, nobody sees: it comes after all that counts.
        inputs_ML = np.full((len(pairs), self.length), padding_id(tokenizer) or 0, np.int64)
        labels_ML = np.full((len(pairs), self.length), IGNORED, np.int64)
        shortest = None
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            prompt_masked([*before, *prompt], [*response, *end], inputs_ML[row], labels_ML[row])
            shortest = min(shortest or len(prompt), len(prompt))
        kept = np.flatnonzero((labels_ML != IGNORED).any(axis=1))
        if len(kept) == 0:
            raise ExperimentError(
                f"data.length = {self.length}: the prompt alone fills it in all {len(pairs)} records of "
                f"'{file.path.name}' (the shortest prompt has {shortest} tokens); raise data.length above that"
            )
        return inputs_ML[kept], labels_ML[kept], kept


def prompt_masked(prompt: Sequence[int], response: Sequence[int], inputs_L: Array, labels_L: Array) -> None:
    """Write an item: its tokens into `inputs_L`, and into `labels_L` the token that follows each, from the response on.

    What does not fit is left out; places after the end are left as they are.
    """
    tokens = np.array([*prompt, *response], dtype=np.int64)[: len(inputs_L) + 1]
    count, first = max(0, len(tokens) - 1), max(0, len(prompt) - 1)
    inputs_L[:count] = tokens[:-1]
    labels_L[first:count] = tokens[first + 1 :]
