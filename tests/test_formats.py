"""The readers of file formats: what was written is read, and whatever is wrong is one line with a remedy."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossamer.data.fashion_mnist import FashionMNIST
from gossamer.data.formats import DataFile, Origin, idx_images, read_file, user_path
from gossamer.data.mnist import MNIST
from gossamer.errors import DataError

CODES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}
ORIGIN = Origin("photos", "example.org/photos", {"a-images-idx3-ubyte": "", "a-labels-idx1-ubyte": ""})


def as_file(content: bytes) -> DataFile:
    return DataFile(Path("x"), content, "get it from example.org")


def idx_bytes(array: np.ndarray) -> bytes:
    """An IDX file written from the published description."""
    code = CODES[array.dtype.str.lstrip("|")]
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


arrays = st.sampled_from(list(CODES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
)


@given(array=arrays)
def test_idx_round_trip(array: np.ndarray) -> None:
    found = as_file(idx_bytes(array)).idx()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(array=arrays, data=st.data())
def test_idx_of_any_other_length_is_refused(array: np.ndarray, data: st.DataObject) -> None:
    content = idx_bytes(array)
    with pytest.raises(DataError, match=r"truncated|not an IDX file"):
        as_file(content[: data.draw(st.integers(0, len(content) - 1))]).idx()
    with pytest.raises(DataError, match="damaged"):
        as_file(content + b"\0").idx()


@settings(max_examples=30)
@given(content=st.binary(min_size=1, max_size=2000), data=st.data())
def test_gzip_is_recognised_by_content_and_a_cut_one_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("gzip") / "file.gz"
    packed = gzip.compress(content)
    path.write_bytes(packed)
    assert read_file(path, "").content == content
    path.write_bytes(packed[: data.draw(st.integers(2, len(packed) - 1))])
    with pytest.raises(DataError, match=r"file\.gz' is truncated"):
        read_file(path, "")
    if content[:2] != b"\x1f\x8b":
        # What a browser that decompresses leaves behind.
        path.write_bytes(content)
        assert read_file(path, "").content == content


def test_a_flipped_bit_in_gzip_is_found(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(bytes(range(256)) * 40))
    packed[-6] ^= 1
    (tmp_path / "file.gz").write_bytes(packed)
    with pytest.raises(DataError, match="is damaged: CRC check failed"):
        read_file(tmp_path / "file.gz", "get it again")


def test_checksums_are_of_the_decoded_content(tmp_path: Path) -> None:
    """Two packings of one content differ in bytes and pass both; another content fails."""
    content = b"0123456789" * 100
    origin = Origin("d", "example.org", {"f": hashlib.sha256(content).hexdigest()})
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "f.gz"
    for level in (1, 9):
        path.write_bytes(gzip.compress(content, level))
        assert origin.read(tmp_path, "f").content == content
    path.write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(DataError, match=r"another version \(decoded SHA-256 is [0-9a-f]{64}, expected") as error:
        origin.read(tmp_path, "f")
    assert str(error.value).endswith("get it from example.org and put it into the folder d of the data folder")
    assert origin.read(tmp_path, "f", verify=False).content == content[:-1]


@pytest.mark.parametrize("plug", [MNIST(), FashionMNIST()])
def test_missing_files_say_what_to_get_from_where(plug: MNIST | FashionMNIST, tmp_path: Path) -> None:
    with pytest.raises(DataError) as unset:
        plug.load(None)
    for part in ("GOSSAMER_DATA", "data_folder", "train-images-idx3-ubyte", plug.kind):
        assert part in str(unset.value)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz' is missing; get it from") as missing:
        plug.load(tmp_path)
    assert "\n" not in str(unset.value) + str(missing.value)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"<!DOCTYPE html>", idx_bytes(np.zeros(3, np.uint8)), "images-idx3-ubyte' is not an IDX file"),
        (idx_bytes(np.zeros((3, 4, 4), ">i2")), idx_bytes(np.zeros(3, np.uint8)), "not grey images of uint8"),
        (idx_bytes(np.zeros((3, 4, 4), np.uint8)), idx_bytes(np.zeros(2, np.uint8)), "labels of shape .2,. for 3"),
    ],
)
def test_a_pair_of_idx_files_must_fit(images: bytes, labels: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "photos" / "a-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(DataError, match=message):
        idx_images(ORIGIN, tmp_path, "a", verify=True)


def test_csv_cells_quotes_delimiters_and_missing_values() -> None:
    text = '\ufeffname, size\r\n"a, b",1\r\n\r\n?, 2\r\nc,\r\n'
    assert as_file(text.encode()).csv() == {"name": ["a, b", None, "c"], "size": ["1", "2", None]}
    assert as_file(b"x;y\n1;?\n").csv(";", missing=()) == {"x": ["1"], "y": ["?"]}
    assert as_file(b"1,2\n").csv(columns=("x", "y")) == {"x": ["1"], "y": ["2"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no data rows"),
        (b"x,y\n", "no data rows"),
        (b"x,y\n1,2\n3\n", "data row 2 has 1 cells, expected 2"),
        (b"x,x\n1,2\n", "two columns of one name"),
        (b'x,y\n1,"2\n', "not valid CSV"),
        (b"x,y\n1,\xff\n", "not UTF-8"),
    ],
)
def test_damaged_csv_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"data file 'x' .*{message}.*; get it from example.org"):
        as_file(content).csv()


@settings(max_examples=30, deadline=None)
@given(
    records=st.lists(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5)), max_size=5)
)
def test_json_lines_round_trip(records: list[dict[str, object]]) -> None:
    content = "".join(json.dumps(record) + "\n" for record in records)
    assert list(as_file(content.encode()).json_lines()) == records


@pytest.mark.parametrize(("content", "line"), [(b'{"a": 1}\n{"a": ', 2), (b"[1]\n", 1), (b'{"a": 1}\n\n7\n', 3)])
def test_damaged_json_lines_are_named(content: bytes, line: int) -> None:
    with pytest.raises(DataError, match=f"line {line} is"):
        list(as_file(content).json_lines())


def test_a_path_is_looked_for_below_the_data_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "both.csv").touch()
    (tmp_path / "both.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert user_path(tmp_path / "data", "both.csv") == tmp_path / "data" / "both.csv"
    assert user_path(tmp_path / "data", "here.csv") == Path("here.csv")
    assert user_path(None, "both.csv") == Path("both.csv")
    assert user_path(tmp_path / "data", str(tmp_path / "both.csv")) == tmp_path / "both.csv"
