"""The data sets: counts, constants and groups of the published ones, and what damaged copies get."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from gossamer.data import Data, Dataset
from gossamer.data.adult import COLUMNS, Adult
from gossamer.data.cifar10 import CIFAR10, RECORD
from gossamer.data.digits import Digits
from gossamer.data.fashion_mnist import FashionMNIST
from gossamer.data.heart_disease import HeartDisease
from gossamer.data.mnist import MNIST
from gossamer.data.shakespeare import Shakespeare
from gossamer.errors import DataError, ExperimentError
from gossamer.plugs import discover


def linked(data_folder: Path, folder: Path, name: str) -> Path:
    """A folder with links to the files of a data set, so that single ones can be replaced. Returns its place."""
    if not (data_folder / name).is_dir():
        pytest.skip(f"GOSSAMER_DATA has no folder {name}")
    (folder / name).mkdir(parents=True)
    for file in (data_folder / name).iterdir():
        (folder / name / file.name).symlink_to(file)
    return folder / name


@functools.cache
def load(plug: Data, data_folder: Path) -> Dataset:
    if not (data_folder / plug.kind).is_dir():
        pytest.skip(f"GOSSAMER_DATA has no folder {plug.kind}")
    return plug.load(data_folder)


def replaced(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_every_data_set_describes_itself() -> None:
    assert {
        *("digits", "mnist", "fashion_mnist", "cifar10", "image_folder", "csv", "json_lines"),
        *("adult", "heart_disease", "shakespeare", "object"),
    } <= set(discover(Data))
    for kind, plug in discover(Data).items():
        assert 20 < len(plug.summary()) < 120, kind


def test_digits_are_split_by_class_and_complete() -> None:
    data = Digits().load(None)
    assert len(data.train) + len(data.test) == 1797
    per_class = np.bincount(np.concatenate([data.train.labels, data.test.labels]))
    np.testing.assert_array_equal(np.bincount(data.test.labels), np.round(0.2 * per_class))
    assert data.train.inputs.shape[1:] == (1, 8, 8)
    np.testing.assert_array_equal(Digits().load(None).train.inputs, data.train.inputs)


@pytest.mark.parametrize("plug", [Digits(), MNIST(), FashionMNIST(), CIFAR10()], ids=lambda plug: plug.kind)
def test_the_constants_of_fixed_normalisation_are_right(plug: Data, request: pytest.FixtureRequest) -> None:
    data = plug.load(None) if plug.kind == "digits" else load(plug, request.getfixturevalue("data_folder"))
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        counts = np.bincount(data.train.inputs[:, channel].ravel(), minlength=256)
        levels = np.arange(256) / 255
        exact = counts @ levels / counts.sum()
        assert mean == pytest.approx(exact, abs=6e-5)
        assert std == pytest.approx(np.sqrt(counts @ (levels - exact) ** 2 / counts.sum()), abs=6e-5)
    assert len(data.mean) == data.train.inputs.shape[1]


def test_mnist_is_the_published_one_with_its_writers(data_folder: Path) -> None:
    data = load(MNIST(), data_folder)
    # The MD5 of the decompressed file, as its authors published it.
    header = struct.pack(">4I", 0x803, 60_000, 28, 28)
    assert hashlib.md5(header + data.train.inputs.tobytes()).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert np.bincount(data.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train.groups is not None
    assert data.test.groups is not None
    sizes = np.unique(data.train.groups, return_counts=True)[1]
    assert (len(sizes), sizes.min(), sizes.max(), np.median(sizes)) == (539, 19, 131, 116)
    assert len(np.unique(data.test.groups)) == 297
    assert not np.isin(data.test.groups, data.train.groups).any()
    assert len(data.group_names) == 539 + 297


def test_mnist_without_writers_has_no_groups_and_damaged_writers_are_named(data_folder: Path, tmp_path: Path) -> None:
    place = linked(data_folder, tmp_path, "mnist")
    content = (place / "writers.npz").read_bytes()
    replaced(place / "writers.npz", content[:-1000])
    with pytest.raises(DataError, match=r"writers\.npz' is damaged"):
        MNIST().load(tmp_path)
    (place / "writers.npz").unlink()
    np.savez(place / "writers.npz", train_writer=np.arange(5), test_writer=np.arange(5))
    with pytest.raises(DataError, match="names 5 \\+ 5 writers for 60000 \\+ 10000 images"):
        MNIST().load(tmp_path)
    (place / "writers.npz").unlink()
    data = MNIST().load(tmp_path)
    assert data.train.groups is None
    assert data.group_names == ()


def test_damaged_mnist_is_refused_by_checksum(data_folder: Path, tmp_path: Path) -> None:
    place = linked(data_folder, tmp_path, "mnist")
    path = place / "t10k-labels-idx1-ubyte.gz"
    labels = bytearray(gzip.decompress(path.read_bytes()))
    labels[100] ^= 1
    replaced(path, gzip.compress(bytes(labels)))
    with pytest.raises(DataError, match=r"t10k-labels.* is damaged or another version .* get it from yann\.lecun\.com"):
        MNIST().load(tmp_path)
    assert MNIST(verify=False).load(tmp_path).test.labels[92] == labels[100]


def test_fashion_mnist_is_the_published_one_and_balanced(data_folder: Path) -> None:
    data = load(FashionMNIST(), data_folder)
    header = struct.pack(">4I", 0x803, 60_000, 28, 28)
    assert hashlib.md5(header + data.train.inputs.tobytes()).hexdigest() == "f4a8712d7a061bf5bd6d2ca38dc4d50a"
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10


def test_cifar10_in_any_order_but_not_damaged(data_folder: Path, tmp_path: Path) -> None:
    place = linked(data_folder, tmp_path, "cifar10/cifar-10-batches-bin")
    data = CIFAR10().load(tmp_path)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    first = (place / "data_batch_1.bin").read_bytes()
    assert data.train.inputs[1, 2, 3, 4] == first[RECORD + 1 + 2 * 1024 + 3 * 32 + 4]
    turned = np.frombuffer(first, np.uint8).reshape(-1, RECORD)[::-1].tobytes()
    replaced(place / "data_batch_1.bin", turned)
    np.testing.assert_array_equal(CIFAR10().load(tmp_path).train.labels[:10_000], data.train.labels[9_999::-1])
    replaced(place / "data_batch_1.bin", turned[:-1] + bytes([turned[-1] ^ 1]))
    with pytest.raises(DataError, match="SHA-256 of the sorted records"):
        CIFAR10().load(tmp_path)
    replaced(place / "data_batch_1.bin", turned[:-1])
    with pytest.raises(DataError, match=r"data_batch_1\.bin' is truncated: 30729999 bytes, .*cs\.toronto\.edu"):
        CIFAR10().load(tmp_path)
    replaced(place / "data_batch_1.bin", b"\x0a" + turned[1:])
    with pytest.raises(DataError, match="has a label 10"):
        CIFAR10(verify=False).load(tmp_path)


def test_adult_counts_and_groups(data_folder: Path) -> None:
    data = load(Adult(), data_folder)
    assert (len(data.train), len(data.test)) == (32_561, 16_281)
    assert data.classes == ("<=50K", ">50K")
    assert round(100 * data.train.labels.mean(), 1) == 24.1
    assert round(100 * data.test.labels.mean(), 1) == 23.6
    names = np.array(data.feature_names)
    for split, rows in ((data.train, 2399), (data.test, 1221)):
        unknown = split.inputs[:, [name.endswith("=missing") for name in names]].any(axis=1)
        assert np.count_nonzero(unknown) == rows
    assert names[np.array(data.numeric)].tolist() == [
        *("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"),
    ]
    grouped = Adult(group="occupation").load(data_folder)
    assert len(grouped.group_names) == 15
    assert not any(name.startswith("occupation") for name in grouped.feature_names)
    with pytest.raises(ExperimentError, match=r"data\.group = 'ocupation'.*did you mean 'occupation'"):
        Adult(group="ocupation").load(data_folder)


def test_adult_as_the_archive_has_it(data_folder: Path, tmp_path: Path) -> None:
    """adult.data and adult.test: no header, blanks behind the commas, a comment and full stops in the test file."""
    place = linked(data_folder, tmp_path, "adult")
    for name, original in (("train", "adult.data"), ("test", "adult.test")):
        rows = gzip.decompress((place / f"{name}.csv.gz").read_bytes()).decode().splitlines()[1:]
        end = ".\n" if name == "test" else "\n"
        head = "|1x3 Cross validator\n" if name == "test" else ""
        text = head + "".join(", ".join(row.split(",")) + end for row in rows) + "\n"
        (place / original).write_text(text)
        (place / f"{name}.csv.gz").unlink()
    ours, theirs = load(Adult(), data_folder), Adult().load(tmp_path)
    np.testing.assert_array_equal(ours.train.inputs, theirs.train.inputs)
    np.testing.assert_array_equal(ours.test.labels, theirs.test.labels)
    (place / "adult.data").write_text(",".join(COLUMNS) + "\n" + "".join(text.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match=r"adult\.data' is damaged or another version"):
        Adult().load(tmp_path)


def test_heart_disease_has_four_hospitals(data_folder: Path) -> None:
    data = load(HeartDisease(), data_folder)
    assert data.group_names == ("cleveland", "hungarian", "switzerland", "va")
    assert data.classes == ("no disease", "disease")
    labels = np.concatenate([data.train.labels, data.test.labels])
    assert data.train.groups is not None
    assert data.test.groups is not None
    groups = np.concatenate([data.train.groups, data.test.groups])
    assert np.bincount(groups).tolist() == [303, 294, 123, 200]
    assert np.bincount(data.test.groups).tolist() == [101, 98, 41, 67]
    positive = [round(100 * labels[groups == hospital].mean(), 1) for hospital in range(4)]
    assert positive == [45.9, 36.1, 93.5, 74.5]
    unknown = data.train.inputs[:, data.feature_names.index("chol=missing")]
    assert unknown[data.train.groups == 2].all(), "chol is unknown in all Swiss rows"
    assert [n for n in data.feature_names if n.startswith("sex")] == ["sex=0", "sex=1"], "1.0 and 1 are one category"


def test_heart_disease_as_the_archive_has_it(data_folder: Path, tmp_path: Path) -> None:
    place = linked(data_folder, tmp_path, "heart_disease")
    for file in list(place.glob("*.csv")):
        (place / f"processed.{file.stem}.data").write_text(file.read_text().split("\n", 1)[1])
        file.unlink()
    np.testing.assert_array_equal(
        HeartDisease().load(data_folder).train.inputs, HeartDisease().load(tmp_path).train.inputs
    )
    (place / "test_rows.json").unlink()
    with pytest.raises(DataError, match=r"test_rows\.json' is missing; .*data\.test_rows = ''"):
        HeartDisease().load(tmp_path)
    every_third = HeartDisease(test_rows="").load(tmp_path)
    assert abs(len(every_third.test) - 920 / 3) < 8
    for content, message in (('{"va": [1]}', "must name the hospitals"), ("[1]", "no table of row numbers")):
        (place / "test_rows.json").write_text(content)
        with pytest.raises(DataError, match=message):
            HeartDisease().load(tmp_path)
    rows = json.loads((data_folder / "heart_disease/test_rows.json").read_text())
    (place / "test_rows.json").write_text(json.dumps({**rows, "va": [200]}))
    with pytest.raises(DataError, match=r"va has rows 0\.\.199, not 200"):
        HeartDisease().load(tmp_path)


def test_shakespeare_agrees_with_an_independent_split(data_folder: Path) -> None:
    """`utterances.jsonl` was made from the same text by other hands: speaker, part and text of 7,097 utterances."""
    data = load(Shakespeare(), data_folder)
    path = data_folder / "shakespeare" / "utterances.jsonl.gz"
    if not path.exists():
        pytest.skip("GOSSAMER_DATA has no shakespeare/utterances.jsonl.gz")
    parts: dict[str, dict[str, list[str]]] = {}
    for line in gzip.decompress(path.read_bytes()).splitlines():
        row = json.loads(line)
        parts.setdefault(row["speaker"], {"train": [], "test": []})[row["split"]].append(row["text"])
    characters = {name: sum(len(t) for texts in part.values() for t in texts) for name, part in parts.items()}
    expected = sorted(n for n, part in parts.items() if characters[n] >= 2000 and part["train"] and part["test"])
    assert len(expected) == 95
    assert data.group_names == tuple(expected)
    assert len(data.classes) == 65
    for split, key in ((data.train, "train"), (data.test, "test")):
        assert split.groups is not None
        for group, name in enumerate(data.group_names):
            text = "\n".join(parts[name][key])
            inputs, labels = split.inputs[split.groups == group], split.labels[split.groups == group]
            count = (len(text) - 1) // 80
            assert "".join(data.classes[token] for token in inputs.ravel()) == text[: 80 * count]
            assert "".join(data.classes[token] for token in labels.ravel()) == text[1 : 80 * count + 1]
    assert data.train.inputs.dtype == data.train.labels.dtype == np.int64


def test_shakespeare_fields_and_damage(data_folder: Path, tmp_path: Path) -> None:
    assert load(Shakespeare(length=20), data_folder).train.inputs.shape[1] == 20
    with pytest.raises(ExperimentError, match=r"lower data\.min_characters or data\.length"):
        Shakespeare(min_characters=10**6).load(data_folder)
    (tmp_path / "shakespeare").mkdir()
    text = gzip.decompress((data_folder / "shakespeare/input.txt.gz").read_bytes())
    (tmp_path / "shakespeare/input.txt").write_bytes(text[:-100])
    with pytest.raises(DataError, match=r"input\.txt' is damaged or another version.*karpathy"):
        Shakespeare().load(tmp_path)
    assert Shakespeare(verify=False).load(tmp_path).train.inputs.shape[1] == 80
    (tmp_path / "shakespeare/input.txt").write_text("no speaker here\nbut text\n")
    with pytest.raises(DataError, match="instead of 'Speaker:'"):
        Shakespeare(verify=False).load(tmp_path)
