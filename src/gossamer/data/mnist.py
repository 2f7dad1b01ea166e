"""MNIST: handwritten digits, with their writers."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.data import Data, Dataset, Split
from gossamer.data.formats import Origin, idx_images, read_file

Array = np.ndarray[Any, Any]

ORIGIN = Origin(
    "mnist",
    "yann.lecun.com/exdb/mnist",
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
WRITERS = "make it anew from the extended labels of QMNIST (github.com/facebookresearch/qmnist), or remove it"


class MNIST(Data):
    """Handwritten digits, 28x28 grey, 10 classes, 60,000 + 10,000 items; natural groups: the 539 writers.

    The writers are read from `writers.npz` beside the images: int64 arrays `train_writer` and `test_writer`, the NIST
    writer of every image (QMNIST's extended labels). Without that file there are no natural groups.
    """

    source: ClassVar[str] = "LeCun et al. 1998; writers: Yadav and Bottou 2019 (QMNIST)"

    kind: Literal["mnist"] = "mnist"
    verify: bool = Field(default=True, description="check the SHA-256 of what the files hold")

    def load(self, folder: Path | None) -> Dataset:
        images, labels = idx_images(ORIGIN, folder, "train", self.verify)
        test_images, test_labels = idx_images(ORIGIN, folder, "t10k", self.verify)
        groups, test_groups = None, None
        names: tuple[str, ...] = ()
        path = ORIGIN.place(folder) / "writers.npz"
        if path.exists():
            groups, test_groups, names = read_writers(path, len(labels), len(test_labels))
        return Dataset(
            name="mnist",
            train=Split(images, labels, groups),
            test=Split(test_images, test_labels, test_groups),
            classes=tuple("0123456789"),
            group_names=names,
            mean=(0.1307,),
            std=(0.3081,),
            licence="CC BY-SA 3.0 (usual reading)",
        )


def read_writers(path: Path, train: int, test: int) -> tuple[Array, Array, tuple[str, ...]]:
    """Group of every train and test image, and the writers' numbers as names. Raises DataError."""
    file = read_file(path, WRITERS)
    try:
        with np.load(io.BytesIO(file.content), allow_pickle=False) as arrays:
            writers, test_writers = arrays["train_writer"], arrays["test_writer"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise file.fault(f"is damaged: {error}") from None
    if len(writers) != train or len(test_writers) != test:
        raise file.fault(f"names {len(writers)} + {len(test_writers)} writers for {train} + {test} images")
    known, index = np.unique(np.concatenate([writers, test_writers]), return_inverse=True)
    groups = index.astype(np.int64)
    return groups[:train], groups[train:], tuple(str(writer) for writer in known)
