"""Any image classification data set laid out as a folder of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.data import Data, Dataset, Split
from gossamer.data.formats import read_file, user_path
from gossamer.data.tabular import MISSING, indices, ordered
from gossamer.errors import DataError, ExperimentError

Array = np.ndarray[Any, Any]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


@dataclass(frozen=True)
class Listing:
    """What a split consists of before the images are read."""

    files: list[Path]
    labels: list[str]
    groups: list[str] | None


class ImageFolder(Data):
    """Your own images: a folder with train/ and test/, each CLASS/*.png or images with a metadata.jsonl.

    A line of `metadata.jsonl` is an object with `file_name` and `label` (other fields are ignored, but for `group`).
    Needs pillow.
    """

    source: ClassVar[str] = "layout of torchvision's ImageFolder and of the Hugging Face imagefolder"

    kind: Literal["image_folder"] = "image_folder"
    folder: str = Field(description="folder that holds train/ and test/: below the data folder, or any path")
    size: int | None = Field(default=None, ge=1, description="resize to size x size pixels; default: as they are")
    colour: Literal["rgb", "grey"] = Field(default="rgb", description="channels: 3 or 1")
    group: str = Field(default="", description="field of metadata.jsonl that names the natural group of an image")
    sha256: str = Field(default="", description="SHA-256 the decoded images and labels must have; empty: any")

    def load(self, folder: Path | None) -> Dataset:
        train, test = (self._list(user_path(folder, self.folder) / part) for part in ("train", "test"))
        classes = ordered([*train.labels, *test.labels])
        names = () if train.groups is None else ordered([*train.groups, *(test.groups or ())])
        images = self._read([*train.files, *test.files])
        labels = indices([*train.labels, *test.labels], classes)
        if self.sha256:
            found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
            if found != self.sha256.lower():
                raise DataError(
                    f"data folder '{self.folder}' is damaged or another version (SHA-256 of its images is {found}, "
                    f"expected {self.sha256}); lay it out anew, or correct data.sha256"
                )
        count = len(train.files)
        return Dataset(
            name=Path(self.folder).name,
            train=Split(images[:count], labels[:count], None if train.groups is None else indices(train.groups, names)),
            test=Split(images[count:], labels[count:], None if test.groups is None else indices(test.groups, names)),
            classes=classes,
            group_names=names,
        )

    def _list(self, place: Path) -> Listing:
        remedy = f"data.folder = '{self.folder}' must hold train/ and test/ with CLASS/*.png, or metadata.jsonl"
        if not place.is_dir():
            raise DataError(f"folder '{place}' is missing; {remedy}")
        if (place / "metadata.jsonl").exists():
            return self._described(place, remedy)
        if self.group:
            raise ExperimentError(f"data.group = '{self.group}' needs a metadata.jsonl in '{place}'")
        files = sorted(file for file in place.glob("*/*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"folder '{place}' holds no images; {remedy}")
        return Listing(files, [file.parent.name for file in files], None)

    def _described(self, place: Path, remedy: str) -> Listing:
        table = read_file(place / "metadata.jsonl", remedy)
        files, labels, groups = [], [], []
        for number, record in enumerate(table.json_lines(), start=1):
            for key in ("file_name", "label", *([self.group] if self.group else [])):
                if key not in record:
                    raise table.fault(f"has no '{key}' in record {number}")
            files.append(place / str(record["file_name"]))
            labels.append(str(record["label"]))
            groups.append(MISSING if record.get(self.group) is None else str(record[self.group]))
        if not files:
            raise table.fault("holds no records")
        return Listing(files, labels, groups if self.group else None)

    def _read(self, files: Sequence[Path]) -> Array:
        """Images uint8 [M, channels, height, width] of one size."""
        try:
            from PIL import Image
        except ImportError:
            raise ExperimentError("data.kind = 'image_folder' needs pillow: pip install 'gossamer[images]'") from None
        images: Array | None = None
        for number, file in enumerate(files):
            try:
                with Image.open(file) as opened:
                    image = opened.convert("RGB" if self.colour == "rgb" else "L")
            except FileNotFoundError:
                raise DataError(f"image '{file}' is missing; put it there, or remove it from metadata.jsonl") from None
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"image '{file}' is truncated or damaged: {error}; replace or remove it") from None
            if self.size is not None:
                image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
            pixels = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]
            if images is None:
                images = np.empty((len(files), *pixels.shape), np.uint8)
            if pixels.shape != images.shape[1:]:
                raise DataError(
                    f"image '{file}' is {image.width}x{image.height} pixels, but '{files[0].name}' is "
                    f"{images.shape[3]}x{images.shape[2]}; set data.size to resize all of them"
                )
            images[number] = pixels
        assert images is not None
        return images
