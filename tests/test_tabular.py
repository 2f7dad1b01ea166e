"""Tables as arrays: encoding, missing values, targets, groups; CSV and JSON lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from gossamer.data.csv import CSV
from gossamer.data.formats import Table
from gossamer.data.json_lines import JSONLines
from gossamer.data.tabular import MISSING, encode, ordered
from gossamer.errors import DataError, ExperimentError

TRAIN: Table = {"age": ["1", None, "4.5", "1"], "city": ["b", "a", None, "b"], "flag": ["0", "1", "1", "0"]}
TEST: Table = {"age": [None, "2e1"], "city": ["c", None], "flag": ["1", None]}


def test_encoding_by_hand() -> None:
    """Mean age (1 + 4.5 + 1) / 3; city c is unknown; the missing flag of the test has no indicator, train has none."""
    features = encode(TRAIN, TEST)
    mean = 6.5 / 3
    assert features.names == ("age", "age=missing", "city=a", "city=b", "city=missing", "flag")
    assert features.numeric == (True, False, False, False, False, True)
    np.testing.assert_array_equal(
        features.train, [[1, 0, 0, 1, 0, 0], [mean, 1, 1, 0, 0, 1], [4.5, 0, 0, 0, 1, 1], [1, 0, 0, 1, 0, 0]]
    )
    np.testing.assert_array_equal(features.test, [[mean, 1, 0, 0, 0, 1], [20, 0, 0, 0, 1, 0.5]])
    assert features.train.dtype == features.test.dtype == np.float64
    assert encode(TRAIN, TEST, missing="mean").names == ("age", "city=a", "city=b", "city=missing", "flag")
    by_choice = encode(TRAIN, TEST, categorical=("flag",))
    assert by_choice.names[-2:] == ("flag=0", "flag=1")


numbers = st.lists(st.none() | st.integers(-50, 50).map(lambda n: str(n / 4)), min_size=6, max_size=6)
words = st.lists(st.none() | st.sampled_from("abcd"), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(age=numbers, city=words, test_age=numbers, test_city=words)
def test_encoding_agrees_with_scikit_learn(
    age: list[str | None], city: list[str | None], test_age: list[str | None], test_city: list[str | None]
) -> None:
    age[0], city[0] = "1.5", "a"
    features = encode({"age": age, "city": city}, {"age": test_age, "city": test_city})

    def column(cells: list[str | None], kind: Any) -> Any:
        values = [np.nan if cell is None else float(cell) for cell in cells] if kind is float else cells
        return np.array([[MISSING if v is None else v] for v in values], dtype=kind)

    imputer = SimpleImputer(add_indicator=True).fit(column(age, float))
    # "~" sorts behind the letters, as the missing category does.
    named = [np.where(column(part, object) == MISSING, "~", column(part, object)) for part in (city, test_city)]
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit(named[0])
    for part, numbers_M, words_M in ((features.train, age, named[0]), (features.test, test_age, named[1])):
        expected = np.hstack([imputer.transform(column(numbers_M, float)), encoder.transform(words_M)])
        np.testing.assert_allclose(part, expected, rtol=1e-15)


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(4)))
def test_the_order_of_the_rows_does_not_matter(order: list[int]) -> None:
    shuffled = {column: [cells[row] for row in order] for column, cells in TRAIN.items()}
    one, other = encode(TRAIN, TEST), encode(shuffled, TEST)
    assert one.names == other.names
    np.testing.assert_array_equal(one.train[order], other.train)
    np.testing.assert_array_equal(one.test, other.test)


@pytest.mark.parametrize("odd", ["1_000", "inf", "1,5", "2020-01-01", "0x10"])
def test_what_only_resembles_a_number_is_a_category(odd: str) -> None:
    features = encode({"x": ["1", "2", odd]}, {"x": ["1"]})
    assert features.numeric == (False, False, False)
    assert f"x={odd}" in features.names


def test_a_column_without_any_value_is_one_constant_category() -> None:
    features = encode({"x": [None, None]}, {"x": ["3", None]})
    assert features.names == ("x=missing",)
    np.testing.assert_array_equal(features.test, [[0], [1]])


def test_values_that_cannot_be_encoded_are_named() -> None:
    with pytest.raises(DataError, match="column 'x' is numeric in the training rows"):
        encode({"x": ["1", "2"]}, {"x": ["many"]})
    with pytest.raises(ExperimentError, match=r"column 'x' has 1001 different values.*data\.drop"):
        encode({"x": [f"text {i}" for i in range(1001)]}, {"x": ["text 1"]})


def test_classes_are_ordered_by_number_or_by_name() -> None:
    assert ordered(["10", "9", "9", None]) == ("9", "10")
    assert ordered(["10", "9", "b"]) == ("10", "9", "b")


# ---- whole data sets -----------------------------------------------------------------------------------------------

ROWS = [
    {"id": 1, "age": 31, "paid": 1.5, "city": "b", "site": "north", "ill": "yes"},
    {"id": 2, "age": 45, "paid": None, "city": "a", "site": "south", "ill": "no"},
    {"id": 3, "age": 27, "paid": 2.5, "city": None, "site": None, "ill": "no"},
]
FIELDS: dict[str, Any] = {"target": "ill", "group": "site", "drop": ("id",)}


def written(folder: Path, rows: list[dict[str, Any]], name: str) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
    (folder / f"{name}.csv.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


def test_csv_and_json_lines_hold_the_same_table(tmp_path: Path) -> None:
    written(tmp_path, ROWS, "train")
    written(tmp_path, ROWS[1:], "test")
    one = CSV(train="train.csv.gz", test="test.csv.gz", **FIELDS).load(tmp_path)
    other = JSONLines(train="train.jsonl", test="test.jsonl", **FIELDS).load(tmp_path)
    for split in ("train", "test"):
        a, b = getattr(one, split), getattr(other, split)
        np.testing.assert_array_equal(a.inputs, b.inputs)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.groups, b.groups)
    assert one.feature_names == other.feature_names
    assert one.feature_names == ("age", "paid", "paid=missing", "city=a", "city=b", "city=missing")
    assert one.classes == other.classes == ("no", "yes")
    assert one.train.labels.tolist() == [1, 0, 0]
    assert one.group_names == ("missing", "north", "south")
    assert one.train.groups is not None
    assert one.train.groups.tolist() == [1, 2, 0]
    assert one.numeric == (True, True, False, False, False, False)


def test_json_lines_take_absent_fields_nan_and_truth_values(tmp_path: Path) -> None:
    records = ['{"x": 1, "ok": true, "y": "a"}', '{"ok": false, "y": "b", "late": 2}', '{"x": NaN, "y": "a"}']
    (tmp_path / "t.jsonl").write_text("\n".join(records))
    data = JSONLines(train="t.jsonl", test="t.jsonl", target="y").load(tmp_path)
    assert data.feature_names == ("x", "x=missing", "ok=false", "ok=true", "ok=missing", "late", "late=missing")
    np.testing.assert_array_equal(
        data.train.inputs, [[1, 0, 0, 1, 0, 2, 1], [1, 1, 1, 0, 0, 2, 0], [1, 1, 0, 0, 1, 2, 1]]
    )


def test_nested_json_is_refused_until_dropped(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"x": 1, "y": "a", "captions": ["b"]}\n{"x": 2, "y": "b", "captions": []}\n')
    with pytest.raises(DataError, match=r"a list in field 'captions' of record 1: name it in data\.drop"):
        JSONLines(train="t.jsonl", test="t.jsonl", target="y").load(tmp_path)
    data = JSONLines(train="t.jsonl", test="t.jsonl", target="y", drop=("captions",)).load(tmp_path)
    assert data.feature_names == ("x",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "il"}, "data.target = 'il': there is no such column; did you mean 'ill'.* columns: id, age"),
        ({"group": "sites"}, "data.group = 'sites'.*did you mean 'site'"),
        ({"drop": ("nr",)}, "data.drop = 'nr'"),
        ({"categorical": ("agee",)}, "data.categorical = 'agee'.*did you mean 'age'"),
        ({"drop": ("id", "age", "paid", "city")}, "no columns are left"),
        ({"train": "absent.csv"}, "absent.csv' is missing; data.train = 'absent.csv' must name"),
        ({"train_sha256": "0" * 64}, "expected 0000"),
        ({"test": "short.csv"}, "the test table has no column 'paid'"),
        ({"test": "unlabelled.csv"}, "test row 2 has no valid 'ill'; classes: no, yes"),
    ],
)
def test_wrong_descriptions_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    written(tmp_path, ROWS, "train")
    (tmp_path / "short.csv").write_text("id,age,city,site,ill\n1,2,a,b,no\n")
    (tmp_path / "unlabelled.csv").write_text("id,age,paid,city,site,ill\n1,2,3,a,b,no\n1,2,3,a,b,\n")
    fields = {"train": "train.csv.gz", "test": "train.csv.gz", **FIELDS, **change}
    with pytest.raises((DataError, ExperimentError), match=message) as error:
        CSV(**fields).load(tmp_path)
    assert "\n" not in str(error.value)
