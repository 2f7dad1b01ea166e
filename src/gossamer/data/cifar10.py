"""CIFAR-10: small colour photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.data import Data, Dataset, Split
from gossamer.data.formats import Origin

Array = np.ndarray[Any, Any]

TRAIN = tuple(f"data_batch_{batch}.bin" for batch in range(1, 6))
TEST = ("test_batch.bin",)
ORIGIN = Origin(
    "cifar10/cifar-10-batches-bin",
    "www.cs.toronto.edu/~kriz/cifar.html (binary version)",
    dict.fromkeys((*TRAIN, *TEST), ""),
)
TRAIN_DIGEST = "55a61f79a40ece2ceda9fb5f9f7078f6ea2fc4952489cef56682bcf92cfcc260"
TEST_DIGEST = "325704b01eb92e1e2a6215ae6a916bb7db7de054af0c496be1c7be2e0fcfbf5f"
RECORD = 1 + 3 * 32 * 32
"""Bytes of an item: its label, then its red, green and blue plane."""
RECORDS = 10_000
"""Items of a file."""


class CIFAR10(Data):
    """Photographs of 10 kinds of animals and vehicles, 32x32 colour, balanced, 50,000 + 10,000 items.

    Read from the binary version (`cifar-10-batches-bin`). The checksums are of the *set* of records, so a copy whose
    batches were put into another order passes as well.
    """

    source: ClassVar[str] = "Krizhevsky 2009"

    kind: Literal["cifar10"] = "cifar10"
    verify: bool = Field(default=True, description="check the SHA-256 of the sorted SHA-256 of all records")

    def load(self, folder: Path | None) -> Dataset:
        return Dataset(
            name="cifar10",
            train=read_records(folder, TRAIN, TRAIN_DIGEST if self.verify else ""),
            test=read_records(folder, TEST, TEST_DIGEST if self.verify else ""),
            classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            licence="none stated by its authors; free use with citation is the common practice",
        )


def read_records(folder: Path | None, files: Sequence[str], digest: str) -> Split:
    """Images uint8 [M, 3, 32, 32] and labels int64 [M] of some batch files. Raises DataError."""
    images = np.empty((RECORDS * len(files), 3, 32, 32), np.uint8)
    labels = np.empty(len(images), np.int64)
    digests: list[bytes] = []
    for number, name in enumerate(files):
        file = ORIGIN.read(folder, name)
        if len(file.content) != RECORDS * RECORD:
            how = "truncated" if len(file.content) < RECORDS * RECORD else "damaged"
            raise file.fault(f"is {how}: {len(file.content)} bytes, expected {RECORDS * RECORD}")
        records = np.frombuffer(file.content, np.uint8).reshape(RECORDS, RECORD)
        if records[:, 0].max() > 9:
            raise file.fault(f"is damaged: it has a label {records[:, 0].max()}, but labels are 0..9")
        part = slice(number * RECORDS, (number + 1) * RECORDS)
        labels[part] = records[:, 0]
        images[part] = records[:, 1:].reshape(-1, 3, 32, 32)
        if digest:
            digests.extend(hashlib.sha256(record.tobytes()).digest() for record in records)
    found = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    if digest and found != digest:
        which = "" if len(files) == 1 else f"or one of the {len(files) - 1} before it "
        raise file.fault(f"{which}is damaged (SHA-256 of the sorted records is {found}, expected {digest})")
    return Split(images, labels)
