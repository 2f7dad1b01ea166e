"""Texts as data: the published sets, one's own files, language modelling, and that token ids stay token ids."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import Experiment
from gossamer.data import IGNORED, Dataset, Normalise, Split
from gossamer.data.agnews import AGNews
from gossamer.data.banking77 import Banking77
from gossamer.data.clinc150 import CLINC150
from gossamer.data.formats import DataFile
from gossamer.data.instructions import Instructions, prompt_masked
from gossamer.data.plain_text import PlainText
from gossamer.data.sst2 import SST2
from gossamer.data.text import Text
from gossamer.data.texts import TextData, distinct, file_names, windows
from gossamer.data.wikitext import WikiText, articles
from gossamer.errors import DataError, ExperimentError
from gossamer.experiment import Preprocess
from gossamer.partitions.dirichlet import Dirichlet
from gossamer.partitions.natural import Natural
from gossamer.preprocessing import shard
from gossamer.selection import selected
from gossamer.tokenising import SPECIAL, load, tokens, trained

pytest.importorskip("tokenizers")

PADDING, CLS, BOS, EOS = range(len(SPECIAL))


def real(plug: TextData, data_folder: Path, name: str = "") -> Dataset:
    if not (data_folder / (name or plug.kind)).is_dir():
        pytest.skip(f"GOSSAMER_DATA has no folder {name or plug.kind}")
    return plug.load(data_folder)


def said(dataset: Dataset, ids_L: Any) -> str:
    """The text of an item, without what is around it."""
    text: str = load(dataset.tokenizer).decode([int(number) for number in ids_L])
    return text


# ---- the published ones --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plug", "train", "test", "classes", "fewest", "begins"),
    [
        (AGNews(length=48), 4000, 7600, 4, 968, "Intel Seen Readying New Wi-Fi Chips (Reuters) Reuters - Intel Corp."),
        (SST2(length=32), 6920, 1821, 2, 3310, "a stirring , funny and finally transporting re-imagining of beauty"),
        (Banking77(length=24), 10003, 3080, 77, 35, "I am still waiting on my card?"),
        (CLINC150(length=16), 15000, 4500, 150, 100, "what expression would i use to say i love you if i were an"),
    ],
    ids=lambda value: value.kind if isinstance(value, TextData) else None,
)
def test_the_published_sets_are_whole(
    plug: TextData, train: int, test: int, classes: int, fewest: int, begins: str, data_folder: Path
) -> None:
    data = real(plug, data_folder)
    assert data.train.inputs.shape == (train, plug.length)
    assert data.test.inputs.shape == (test, plug.length)
    assert data.train.inputs.dtype == data.train.labels.dtype == np.int64
    assert len(data.classes) == len(set(data.classes)) == classes
    assert np.bincount(data.train.labels, minlength=classes).min() == fewest
    assert data.licence
    assert said(data, data.train.inputs[0]).startswith(begins)
    assert (data.train.inputs[:, 0] == CLS).all()
    assert data.train.inputs.max() < len(tokens(load(data.tokenizer))) == plug.vocabulary
    padded = data.train.inputs == PADDING
    assert (np.diff(padded.astype(int), axis=1) >= 0).all(), "padding is at the end"
    assert 0 < padded[:, -1].sum() < train


def test_a_wrong_class_or_a_damaged_file_is_seen(data_folder: Path, tmp_path: Path) -> None:
    if not (data_folder / "sst2").is_dir():
        pytest.skip("GOSSAMER_DATA has no folder sst2")
    lines = gzip.decompress((data_folder / "sst2" / "test.jsonl.gz").read_bytes())
    (tmp_path / "sst2").mkdir()
    for part in ("train", "test"):
        (tmp_path / "sst2" / f"{part}.jsonl").write_bytes(lines)
    with pytest.raises(DataError, match=r"train\.jsonl' is damaged or another version"):
        SST2().load(tmp_path)
    assert len(SST2(verify=False).load(tmp_path).train) == 1821
    (tmp_path / "sst2" / "train.jsonl").write_bytes(lines.replace(b'"label": 1', b'"label": 2'))
    with pytest.raises(ExperimentError, match=r"train labels must lie in 0\.\.1"):
        SST2(verify=False).load(tmp_path)
    with pytest.raises(DataError, match=r"agnews/train4k.jsonl.gz' is missing; get it from"):
        AGNews().load(tmp_path)


def test_banking77_numbers_its_classes_as_others_do(data_folder: Path) -> None:
    classes = real(Banking77(), data_folder).classes
    known = {
        0: "activate_my_card",
        11: "card_arrival",
        51: "Refund_not_showing_up",
        76: "wrong_exchange_rate_for_cash_withdrawal",
    }
    assert {number: classes[number] for number in known} == known


def test_the_domains_of_clinc150_are_its_groups(data_folder: Path) -> None:
    data = real(CLINC150(), data_folder)
    for split in (data.train, data.test):
        assert split.groups is not None
        pairs = set(zip(split.labels.tolist(), split.groups.tolist(), strict=True))
        assert len(pairs) == 150, "an intent is of one domain"
    assert np.bincount(data.train.groups).tolist() == [1500] * 10
    assert (np.diff([domain for _, domain in sorted(pairs)]) >= 0).all()
    parts = Natural().deal(data.train.labels, data.train.groups, None, np.random.default_rng(0))
    assert all(len(np.unique(data.train.labels[items])) == 15 for items in parts.items)


def test_requests_out_of_scope_and_some_domains_of_clinc150(data_folder: Path) -> None:
    data = real(CLINC150(out_of_scope=True, domains=("travel", "banking")), data_folder)
    assert data.group_names == ("banking", "oos", "travel")
    assert np.bincount(data.train.groups).tolist() == [1500, 100, 1500]
    assert np.bincount(data.test.groups).tolist() == [450, 1000, 450]
    assert data.classes[15] == "oos"
    assert len(data.classes) == 31
    with pytest.raises(ExperimentError, match=r"data\.domains = 'traval': did you mean 'travel'\? domains: auto_and"):
        CLINC150(domains=("banking", "traval")).load(data_folder)


# ---- one's own files -----------------------------------------------------------------------------------------------

RECORDS = [
    {"text": 'a "good", long day', "label": "good", "site": "north"},
    {"text": "a bad one,\nwith two lines", "label": "bad", "site": "south"},
    {"text": "", "label": "good", "site": "north"},
    {"text": "é", "label": "bad", "site": "east"},
]


def written(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def of(*labels: object) -> list[dict[str, Any]]:
    return [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]


def test_csv_and_json_lines_are_the_same_data(tmp_path: Path) -> None:
    lines = written(tmp_path / "a.jsonl", RECORDS)
    no_site = written(tmp_path / "c.jsonl", [{**record, "site": None} for record in RECORDS])
    quoted = ['"{}","{}","{}"'.format(*(str(v).replace('"', '""') for v in record.values())) for record in RECORDS]
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress("\n".join(["text,label,site", *quoted, ""]).encode()))
    first = Text(train=lines, test=no_site, group="site", length=9).load(tmp_path)
    second = Text(train="b.csv.gz", test=("b.csv.gz",), group="site", length=9).load(tmp_path)
    for split, other in ((first.train, second.train), (first.test, second.test)):
        np.testing.assert_array_equal(split.inputs, other.inputs)
        np.testing.assert_array_equal(split.labels, other.labels)
    np.testing.assert_array_equal(first.train.groups, second.train.groups)
    assert first.tokenizer == second.tokenizer
    assert (first.classes, first.train.labels.tolist()) == (("bad", "good"), [1, 0, 1, 0])
    assert (first.group_names, first.train.groups.tolist()) == (("east", "north", "south"), [1, 2, 1, 0])
    assert (first.name, second.name) == ("a", "b")
    assert first.train.inputs[2].tolist() == [CLS] + [PADDING] * 8
    assert [said(first, row) for row in Text(train=lines, test=lines).load(None).train.inputs] == [
        str(record["text"]) for record in RECORDS
    ]


def test_several_files_are_as_many_sites(tmp_path: Path) -> None:
    for site in ("south", "north"):
        (tmp_path / site).mkdir()
    files = tuple(
        written(tmp_path / name, of(*labels))
        for name, labels in (("south/x.jsonl", "aab"), ("north/x.jsonl", "ba"), ("y.jsonl", "ab"))
    )
    data = Text(train=files, test=files[2]).load(None)
    assert data.group_names == files
    assert data.train.groups is not None
    assert data.train.groups.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert data.train.labels.tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert data.test.groups is None
    assert Text(train=files[1:], test=files[2]).load(None).group_names == ("x", "y")
    assert Text(train=files[1], test=files[2]).load(None).train.groups is None


def test_different_label_spaces_are_refused_until_one_is_given(tmp_path: Path) -> None:
    a, b = (written(tmp_path / f"{name}.jsonl", of(*labels)) for name, labels in (("a", "xyx"), ("b", "xzz")))
    with pytest.raises(
        ExperimentError,
        match=r"data\.train: '.*b\.jsonl' has the labels x, z, but '.*a\.jsonl' has x, y; .*data\.labels",
    ):
        Text(train=(a, b), test=a).load(None)
    data = Text(train=(a, b), test=a, labels=("z", "y", "x")).load(None)
    assert data.classes == ("z", "y", "x")
    assert data.train.labels.tolist() == [2, 1, 2, 2, 0, 0]
    with pytest.raises(
        ExperimentError, match=r"data\.train: '.*b\.jsonl' has the label 'z' in record 2, .* data\.labels"
    ):
        Text(train=(a, b), test=a, labels=("x", "y")).load(None)
    with pytest.raises(ExperimentError, match=r"data\.test: '.*b\.jsonl' has the label 'z' in record 2.* the training"):
        Text(train=a, test=b).load(None)
    with pytest.raises(ExperimentError, match=r"data\.labels.*each label must be there once"):
        Experiment(data={"kind": "text", "train": a, "test": a, "labels": ["x", "x"]})


def test_labels_are_sorted_as_numbers_where_they_are(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", of(10, 9, 2))
    assert Text(train=file, test=file).load(None).classes == ("2", "9", "10")


@pytest.mark.parametrize(
    ("name", "content", "fields", "fault"),
    [
        ("a.jsonl", '{"text": "a"}', {}, r"has no 'label' in record 1 \(its fields: text\); .*data\.label_column"),
        ("a.jsonl", '{"text": ["a"], "label": 1}', {}, r"has a list in field 'text' of record 1, not a text"),
        ("a.jsonl", '{"text": "\\ud83d", "label": 1}', {}, r"half a character .* 'text' of record 1"),
        ("a.jsonl", '{"text": "a", "label": ""}', {}, r"has an empty 'label' in record 1"),
        ("a.jsonl", '{"text": "a", "label": 1}', {"group": "site"}, r"has no 'site' in record 1"),
        ("a.jsonl", "", {}, "holds no records"),
        ("a.csv", "text,label\na,1\n", {"text_column": "body"}, r"has no column 'body' \(its columns: text, label\)"),
        ("a.txt", "a", {}, r"data\.train = 'a\.txt' must end with one of \.csv, \.jsonl"),
        ("b.csv", None, {}, r"b\.csv' is missing; data\.train = 'b\.csv' must name a good copy"),
    ],
)
def test_bad_files_are_one_line(
    tmp_path: Path, name: str, content: str | None, fields: dict[str, str], fault: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((DataError, ExperimentError), match=fault) as caught:
        Text(train=name, test=name, **fields).load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_tokenizer_of_a_base_is_used_instead(tmp_path: Path) -> None:
    lines = written(tmp_path / "a.jsonl", RECORDS)
    (tmp_path / "base").mkdir()
    base = trained(["some other words for the other model"], 280, "<bos>")
    base.save(str(tmp_path / "base" / "tokenizer.json"))
    for named in ("base", "base/tokenizer.json", str(tmp_path / "base")):
        data = Text(train=lines, test=lines, tokenizer=named).load(tmp_path)
        assert data.tokenizer == base.to_str()
        assert (data.train.inputs[:, 0] == BOS).all(), "items begin as those that the base was trained on"
    with pytest.raises(ExperimentError, match=r"data\.tokenizer = 'gone'"):
        Text(train=lines, test=lines, tokenizer="gone").load(None)


# ---- running text --------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(count=st.integers(0, 40), length=st.integers(1, 12), before=st.sampled_from([[], [900], [901, 900]]))
def test_windows_are_pieces_with_the_token_that_follows(count: int, length: int, before: list[int]) -> None:
    inputs, labels = windows(range(count), before, length)
    inputs_by_hand, labels_by_hand = [], []
    start = 0 if before else 1
    while start + length <= count:
        labels_by_hand.append([start + t for t in range(length)])
        first = 900 if before else start - 1
        inputs_by_hand.append([first, *range(start, start + length - 1)])
        start += length
    assert (inputs.tolist(), labels.tolist()) == (inputs_by_hand, labels_by_hand)
    assert inputs.shape == labels.shape == (len(inputs_by_hand), length)


def test_wikitext_is_sixty_articles(data_folder: Path) -> None:
    data = real(WikiText(length=64), data_folder, "wikitext2_small")
    assert len(data.group_names) == len(set(data.group_names)) == 60
    assert data.group_names[0] == "Homarus gammarus"
    assert data.train.groups is not None
    assert len(np.unique(data.train.groups)) == 60
    np.testing.assert_array_equal(data.train.inputs[:, 1:], data.train.labels[:, :-1])
    assert (data.train.inputs[:, 0] == BOS).all()
    assert data.classes[BOS] == "<bos>"
    assert len(data.classes) == 4096
    file = DataFile(Path("x"), gzip.decompress((data_folder / "wikitext2_small" / "valid.txt.gz").read_bytes()), "")
    found = articles(file)
    assert "".join(text for _, text in found) == file.text()
    for number in (0, 59):
        text = said(data, data.train.labels[data.train.groups == number].ravel())
        whole = unicodedata.normalize("NFC", found[number][1])
        assert whole.startswith(text)
        assert len(text) > 0.95 * len(whole)
    shards = shard(data, Natural(), None, Preprocess(), 0.1, 0, "float32")
    assert shards.names == data.group_names


def test_headings_between_blank_lines_begin_articles_and_nothing_else_does() -> None:
    text = (
        " \n = A = \n \n first \n = = Section = = \n \n = 1 x and = \n = y = \n more \n \n = B ( c ) = \n \n second \n"
    )
    found = articles(DataFile(Path("x"), text.encode(), ""))
    assert [title for title, _ in found] == ["A", "B ( c )"]
    assert "".join(part for _, part in found) == text
    with pytest.raises(DataError, match="has no article"):
        articles(DataFile(Path("x"), b"no heading", ""))


def test_plain_files_are_texts_and_groups(tmp_path: Path) -> None:
    contents = {"a.txt": "to be or not to be " * 30, "b.txt": "that is the question " * 20, "c.txt": "x"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    data = PlainText(train=tuple(contents), test="a.txt", length=8, vocabulary=300).load(tmp_path)
    assert data.group_names == ("a", "b", "c")
    for number, name in enumerate(("a.txt", "b.txt")):
        labels = data.train.labels[data.train.groups == number].ravel()
        assert contents[name].startswith(said(data, labels))
        assert len(contents[name]) - len(said(data, labels)) < 8 * 21
    assert set(data.train.groups.tolist()) == {0, 1}, "the third is too short for a window"
    alone = PlainText(train="a.txt", test="a.txt", length=8).load(tmp_path)
    assert (alone.name, alone.train.groups, alone.group_names) == ("a", None, ())
    with pytest.raises(
        ExperimentError, match=r"data\.length = 5000: no text of data\.train has so many tokens \(the l"
    ):
        PlainText(train="a.txt", test="c.txt", length=5000).load(tmp_path)
    with pytest.raises(ExperimentError, match=r"data\.length = 8: no text of data\.test .* has 1\)"):
        PlainText(train="a.txt", test="c.txt", length=8).load(tmp_path)
    with pytest.raises(DataError, match=r"gone\.txt' is missing; data\.test must name"):
        PlainText(train="a.txt", test="gone.txt").load(tmp_path)


def test_names_are_short_and_distinct() -> None:
    assert distinct(["a", "b", "a", "a"]) == ("a", "b", "a (2)", "a (3)")
    assert file_names(["x/a.txt", "y/b.jsonl.gz"]) == ("a", "b")
    assert file_names(["x/a.txt", "y/a.txt"]) == ("x/a.txt", "y/a.txt")


# ---- instructions --------------------------------------------------------------------------------------------------

numbers = st.lists(st.integers(5, 99), max_size=8)


@settings(max_examples=200, deadline=None)
@given(prompt=numbers, response=numbers, length=st.integers(1, 12))
def test_only_what_follows_the_prompt_has_labels(prompt: list[int], response: list[int], length: int) -> None:
    inputs, labels = np.full(length, 0), np.full(length, IGNORED)
    prompt_masked(prompt, response, inputs, labels)
    item = prompt + response
    for t in range(length):
        follows = t + 1 < len(item)
        assert inputs[t] == (item[t] if follows else 0)
        assert labels[t] == (item[t + 1] if follows and t + 1 >= len(prompt) else IGNORED)


def instructions(tmp_path: Path, records: list[dict[str, Any]], **fields: Any) -> Dataset:
    file = written(tmp_path / "tasks.jsonl", records)
    return Instructions(train=file, test=file, **fields).load(None)


TASKS = [
    {"instruction": "Name a fruit.", "context": "", "response": "Pear", "category": "food"},
    {"instruction": "Name " + "very " * 200, "context": "", "response": "Long", "category": "food"},
    {"instruction": "Name {one} of these.", "context": "Rome and {Oslo}", "response": "Rome", "category": "places"},
]


def test_an_item_is_the_prompt_the_response_and_its_end(tmp_path: Path) -> None:
    data = instructions(tmp_path, TASKS, length=200)
    assert len(data.train) == len(data.test) == 2, "the second has no place for its response"
    assert data.group_names == ("food", "places")
    assert data.train.groups is not None
    assert data.train.groups.tolist() == [0, 1]
    for inputs, labels, task in zip(data.train.inputs, data.train.labels, TASKS[::2], strict=True):
        assert inputs[0] == BOS
        counted = labels != IGNORED
        assert said(data, labels[counted]) == task["response"]
        assert labels[counted][-1] == EOS
        end = int(np.flatnonzero(counted)[-1])
        np.testing.assert_array_equal(inputs[1 : end + 1][counted[:end]], labels[counted][:-1])
        whole = said(data, inputs)
        assert whole.startswith("Below is an instruction that describes a task")
        assert ("### Input:\n" + task["context"] in whole) == bool(task["context"])
        assert whole.endswith("### Response:\n" + task["response"])
        assert (inputs[end + 1 :] == PADDING).all()


def test_own_names_of_fields_and_no_template(tmp_path: Path) -> None:
    records = [{"prompt": "2 + 2 = ", "completion": "4", "task": n} for n in (2, 10)]
    fields = {"instruction": "prompt", "response": "completion", "template": "none", "length": 12}
    data = instructions(tmp_path, records, group="task", **fields)
    assert said(data, data.train.inputs[0]) == "2 + 2 = \n4"
    assert data.group_names == ("2", "10")
    assert instructions(tmp_path, records, group="", **fields).train.groups is None
    with pytest.raises(DataError, match=r"has no 'category' in record 1 .*data\.group"):
        instructions(tmp_path, records, **fields)
    with pytest.raises(DataError, match=r"has no 'instruction' in record 1 \(its fields: prompt, completion, task\)"):
        instructions(tmp_path, records)


def test_prompts_that_fill_every_item_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"data\.length = 10: .* in all 3 records of 'tasks\.jsonl' \(the short"):
        instructions(tmp_path, TASKS, length=10)
    with pytest.raises(ExperimentError, match="name both files"):
        Experiment(data={"kind": "instructions", "train": "a.jsonl"})


@pytest.mark.slow
def test_dolly_has_eight_categories(data_folder: Path) -> None:
    data = real(Instructions(length=192), data_folder, "dolly15k")
    assert len(data.group_names) == 8
    assert 10_000 < len(data.train) < 14_931
    assert 40 < len(data.test) <= 80
    assert ((data.train.labels != IGNORED).sum(axis=1) >= 1).all()


# ---- what is left of them later ------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", get_args(Normalise))
def test_token_ids_are_dealt_by_label_and_never_normalised(tmp_path: Path, normalise: str) -> None:
    file = written(tmp_path / "a.jsonl", of(*"abc" * 60))
    data = Text(train=file, test=file, length=8).load(None)
    shards = shard(data, Dirichlet(alpha=0.3, min_size=5), 4, Preprocess(normalise=normalise), 0.1, 0, "float32")
    assert shards.inputs.dtype == shards.test_inputs.dtype == np.int64
    np.testing.assert_array_equal(shards.inputs, data.train.inputs)
    np.testing.assert_array_equal(shards.test_inputs, data.test.inputs)
    dealt = np.concatenate([*shards.train, *shards.validation])
    assert sorted(dealt.tolist()) == list(range(180))
    assert np.ptp(shards.histogram_NC[:, 0]) > 5


def test_selected_texts_keep_their_tokens(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", of(*"abc" * 5))
    data = Text(train=file, test=file, length=8).load(None)
    part = selected(data, ("c", "a"), 2, 0)
    assert part.tokenizer == data.tokenizer
    assert (part.classes, len(part.train), len(part.test)) == (("a", "c"), 4, 10)


def test_labels_that_do_not_count_are_for_sequences_and_not_all(tmp_path: Path) -> None:
    ids = np.zeros((2, 3), np.int64)

    def made(labels: list[Any]) -> Callable[[], Dataset]:
        split = Split(ids, np.array(labels))
        return lambda: Dataset("d", split, split, ("a", "b"))

    assert made([[IGNORED, 1, 0], [0, IGNORED, IGNORED]])().train.labels.min() == IGNORED
    with pytest.raises(ExperimentError, match=r"train item 1 has no label that counts \(all are -100\)"):
        made([[IGNORED, 1, 0], [IGNORED] * 3])()
    for wrong in ([[0, 1, 2], [0, 0, 0]], [[0, 1, -1], [0, 0, IGNORED]], [0, IGNORED]):
        with pytest.raises(ExperimentError, match=r"labels must lie in 0\.\.1"):
            made(wrong)()
