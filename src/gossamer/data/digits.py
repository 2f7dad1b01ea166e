"""Handwritten digits of scikit-learn: 1,797 images of 8x8, shipped with the library, so nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.data import Data, Dataset, Split


class Digits(Data):
    """Handwritten digits, 8x8 grey, 10 classes, 1,797 items (embedded in scikit-learn); a fixed stratified split."""

    source: ClassVar[str] = "Alpaydin and Kaynak 1998, UCI optical recognition of handwritten digits (test part)"

    kind: Literal["digits"] = "digits"
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="items of each class kept for the test")

    def load(self, folder: Path | None) -> Dataset:
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        images = (bunch.images[:, None] * (255 / 16)).round().astype(np.uint8)
        labels = bunch.target.astype(np.int64)
        test = np.zeros(len(labels), dtype=bool)
        for label in range(10):
            members = np.flatnonzero(labels == label)
            # Every k-th item of a class: scikit-learn's order mixes the writers.
            count = round(self.test_fraction * len(members))
            test[members[np.linspace(0, len(members) - 1, count).round().astype(int)]] = True
        return Dataset(
            name="digits",
            train=Split(images[~test], labels[~test]),
            test=Split(images[test], labels[test]),
            classes=tuple("0123456789"),
            mean=(0.3053,),  # of the training items at the default test_fraction
            std=(0.3759,),
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
        )
