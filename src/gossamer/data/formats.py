"""Reading the standard file formats: gzip, IDX, CSV, JSON lines. Whatever is wrong with a file becomes one DataError.

Checksums are SHA-256 of the *decoded* content: the .gz bytes of two good copies may differ, what they hold may not.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.errors import DataError

Array = np.ndarray[Any, Any]
Table = dict[str, list[str | None]]
"""Columns of text cells by name; None is a missing value."""

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MISSING_VALUES = ("", "?", "NA", "NaN", "nan", "null")


@dataclass(frozen=True)
class DataFile:
    """The decoded content of one file, and what to tell a person when it is not what it should be."""

    path: Path
    content: bytes = field(repr=False)
    remedy: str

    def fault(self, what: str) -> DataError:
        """The error that says what is wrong with this file and what to do."""
        return DataError(f"data file '{self.path}' {what}; {self.remedy}")

    def verified(self, sha256: str) -> DataFile:
        """This file, if its content has that SHA-256 (or none is given). Raises DataError."""
        found = hashlib.sha256(self.content).hexdigest() if sha256 else ""
        if found != sha256.lower():
            raise self.fault(f"is damaged or another version (decoded SHA-256 is {found}, expected {sha256})")
        return self

    def idx(self) -> Array:
        """The array of an IDX file: two zero bytes, type, number of dimensions, dimensions (big-endian), values."""
        content = self.content
        if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
            raise self.fault(f"is not an IDX file (it starts with {content[:4]!r})")
        dtype, dimensions = np.dtype(IDX_TYPES[content[2]]), content[3]
        start = 4 + 4 * dimensions
        if len(content) < start:
            raise self.fault("is truncated: its IDX header is incomplete")
        shape = struct.unpack(f">{dimensions}I", content[4:start])
        expected = start + math.prod(shape) * dtype.itemsize
        if len(content) != expected:
            how = "truncated" if len(content) < expected else "damaged"
            raise self.fault(f"is {how}: {len(content)} bytes, but its header {shape} promises {expected}")
        return np.frombuffer(content, dtype, offset=start).reshape(shape)

    def text(self) -> str:
        """The content as UTF-8 text with a possible byte order mark and carriage returns removed."""
        try:
            return self.content.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise self.fault(f"is not UTF-8 text (byte {error.start})") from None

    def without_header(self, columns: Sequence[str]) -> DataFile:
        """The same comma-separated file less its header line (if it has one), blank lines and blanks around cells."""
        lines = (",".join(cell.strip() for cell in line.split(",")) for line in self.text().split("\n"))
        kept = [line for line in lines if line and line != ",".join(columns)]
        return replace(self, content="".join(line + "\n" for line in kept).encode())

    def csv(self, delimiter: str = ",", columns: Sequence[str] = (), missing: Sequence[str] = MISSING_VALUES) -> Table:
        """The columns of a CSV file with a header line (or of that file without one, if `columns` are given)."""
        try:
            rows = list(csv.reader(io.StringIO(self.text(), newline=""), delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise self.fault(f"is not valid CSV: {error}") from None
        header = list(columns) or [cell.strip() for cell in (rows.pop(0) if rows else [])]
        if len(set(header)) != len(header):
            raise self.fault(f"has two columns of one name in its header: {', '.join(header)}")
        for number, row in enumerate(rows, start=1):
            if row and len(row) != len(header):
                raise self.fault(f"is damaged: data row {number} has {len(row)} cells, expected {len(header)}")
        absent = set(missing)
        cells = ([cell.strip() for cell in row] for row in rows if row)
        by_column = zip(*([None if cell in absent else cell for cell in row] for row in cells), strict=True)
        table = dict(zip(header, map(list, by_column), strict=False))
        if not table:
            raise self.fault("holds no data rows")
        return table

    def json_lines(self) -> Iterator[dict[str, Any]]:
        """The objects of a JSON lines file, one a line; blank lines are skipped."""
        for number, line in enumerate(self.text().split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise self.fault(f"is truncated or damaged: line {number} is not JSON ({error.msg})") from None
            if not isinstance(record, dict):
                raise self.fault(f"is damaged: line {number} is no JSON object")
            yield record


@dataclass(frozen=True)
class Origin:
    """Where the files of a data set lie below the data folder, what they must hold, and where to get them."""

    folder: str
    address: str
    files: Mapping[str, str]
    """Name of each file (a `.gz` may follow it) and the SHA-256 of its decoded content, or ''."""

    @property
    def remedy(self) -> str:
        """What to do about a missing or damaged file."""
        return f"get it from {self.address} and put it into the folder {self.folder} of the data folder"

    def place(self, data_folder: Path | None) -> Path:
        """The folder of this data set. Raises DataError where no data folder is set."""
        if data_folder is None:
            raise DataError(
                f"data '{self.folder}' needs files, but no data folder is set: set GOSSAMER_DATA or data_folder to a "
                f"folder that holds {self.folder}/ with {', '.join(self.files)} from {self.address}"
            )
        return data_folder / self.folder

    def read(self, data_folder: Path | None, file: str, *aliases: str, verify: bool = True) -> DataFile:
        """Read one file (or the first alias there is), decompress it if need be, and verify it. Raises DataError."""
        place = self.place(data_folder)
        candidates = [place / f"{name}{suffix}" for name in (file, *aliases) for suffix in ("", ".gz")]
        path = next((path for path in candidates if path.is_file()), candidates[1])
        return read_file(path, self.remedy).verified(self.files.get(file, "") if verify else "")


def read_file(path: Path, remedy: str) -> DataFile:
    """The content of a file, decompressed where it is gzip. Raises DataError where it is missing or damaged."""
    if not path.exists():
        raise DataError(f"data file '{path}' is missing; {remedy}")
    try:
        content = path.read_bytes()
        # By its first bytes, not by its name: browsers decompress some downloads and leave the name as it was.
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except EOFError:
        raise DataError(f"data file '{path}' is truncated: its gzip stream ends early; {remedy}") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"data file '{path}' is damaged: {error}; {remedy}") from None
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read: {error.strerror or error}; {remedy}") from None
    return DataFile(path, content, remedy)


def user_path(data_folder: Path | None, name: str) -> Path:
    """A path given in an experiment: absolute, or below the data folder, or else below the working directory."""
    below = None if data_folder is None else data_folder / Path(name).expanduser()
    return below if below is not None and below.exists() else Path(name).expanduser()


def idx_images(origin: Origin, data_folder: Path | None, prefix: str, verify: bool) -> tuple[Array, Array]:
    """Images uint8 [M, 1, height, width] and labels int64 [M] of a pair of IDX files named as MNIST's are."""
    images = origin.read(data_folder, f"{prefix}-images-idx3-ubyte", verify=verify)
    labels = origin.read(data_folder, f"{prefix}-labels-idx1-ubyte", verify=verify)
    images_MHW, labels_M = images.idx(), labels.idx()
    if images_MHW.ndim != 3 or images_MHW.dtype != np.uint8:
        raise images.fault(f"holds {images_MHW.dtype} of shape {images_MHW.shape}, not grey images of uint8")
    if labels_M.shape != images_MHW.shape[:1]:
        raise labels.fault(f"holds labels of shape {labels_M.shape} for {len(images_MHW)} images")
    return images_MHW[:, None], labels_M.astype(np.int64)
