"""Tokenizers: texts come back from their ids, the same texts give the same ids, other tokenizers keep their ways."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import DataError, ExperimentError
from gossamer.tokenising import (
    END,
    FEWEST,
    SPECIAL,
    THREADS,
    encoded,
    end_id,
    fingerprint,
    load,
    padding_id,
    surroundings,
    token_ids,
    tokens,
    trained,
)

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [f"the {colour} cat sat on the {colour} mat number {n}" for n in range(40) for colour in ("red", "green")]


@functools.cache
def small() -> Any:
    return trained(TEXTS, 320)


@functools.cache
def wordpiece() -> Any:
    """A tokenizer as BERT's: other special tokens, at both ends."""
    own = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    own.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    own.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]"], show_progress=False
    )
    own.train_from_iterator(TEXTS, trainer)
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return own


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return next(token_ids(tokenizer, [text]))


# Codes that are assigned: two libraries may know of different versions of Unicode.
texts = st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=60)


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_any_text_comes_back_in_its_normal_form(text: str) -> None:
    ids = ids_of(small(), text)
    assert small().decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)
    assert all(len(SPECIAL) <= number < 320 for number in ids)


@given(text=st.sampled_from(SPECIAL), before=st.text("ab ", max_size=3))
def test_what_looks_like_a_special_token_is_text(text: str, before: str) -> None:
    ids = ids_of(small(), before + text)
    assert min(ids) >= len(SPECIAL)
    assert small().decode(ids, skip_special_tokens=True) == before + text


@settings(max_examples=50, deadline=None)
@given(found=st.lists(texts, min_size=1, max_size=4), length=st.integers(2, 40))
def test_items_begin_alike_are_cut_at_the_end_and_padded(found: list[str], length: int) -> None:
    ids_ML = encoded(small(), found, length)
    assert ids_ML.dtype == np.int64
    assert ids_ML.shape == (len(found), length)
    for row, text in zip(ids_ML.tolist(), found, strict=True):
        whole = [SPECIAL.index("<cls>"), *ids_of(small(), text)]
        assert row == (whole + [0] * length)[:length]


@settings(max_examples=50, deadline=None)
@given(found=st.lists(st.text("teacrd 12", max_size=30), min_size=1, max_size=4), length=st.integers(3, 30))
def test_another_tokenizer_does_as_its_library_does(found: list[str], length: int) -> None:
    """Cut and padded by the library itself, with what it puts at both ends."""
    reference = load(wordpiece().to_str())
    reference.enable_truncation(length)
    reference.enable_padding(length=length, pad_id=3, pad_token="[PAD]")
    expected = [encoding.ids for encoding in reference.encode_batch(found)]
    assert encoded(wordpiece(), found, length).tolist() == expected
    # How it was set to cut and pad is no matter.
    assert encoded(reference, found, length + 9).tolist() == encoded(wordpiece(), found, length + 9).tolist()


def test_the_first_token_is_of_ones_own_choice() -> None:
    assert surroundings(small()) == ([1], [])
    assert surroundings(trained(TEXTS, 300, "<bos>")) == ([2], [])
    assert surroundings(wordpiece()) == ([1], [2])


def test_the_vocabulary_is_no_larger_than_asked_for() -> None:
    assert tokens(small())[: len(SPECIAL)] == SPECIAL
    assert len(tokens(small())) == small().get_vocab_size() == 320
    assert len(tokens(trained(TEXTS, FEWEST))) == FEWEST
    assert FEWEST < len(tokens(trained(["to be or not to be"], 4096))) < 300, "there is no more in so little text"
    assert [small().token_to_id(token) for token in tokens(small())] == list(range(320))


def test_an_id_that_is_not_used_has_a_name_too() -> None:
    vocabulary = {"a": 0, "b": 3}
    assert tokens(tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))) == (
        *("a", "<1>", "<2>"),
        "b",
    )


SCRIPT = """
import random, sys
from gossamer.tokenising import encoded, trained
texts = [f"word{i * i % 97} and {i % 13} more, {'ab' * (i % 7)}" for i in range(3000)]
random.Random(int(sys.argv[1])).shuffle(texts)
tokenizer = trained(texts, 600)
print(tokenizer.to_str(), encoded(tokenizer, sorted(texts), 12).tolist())
"""


def test_the_same_texts_give_the_same_tokenizer_in_any_process_order_and_number_of_threads() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, order],
            env={**os.environ, **threads},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for order, threads in (("0", {}), ("1", {THREADS: "true"}), ("2", {THREADS: "false"}))
    ]
    assert len(said[0]) > 10_000
    assert said[0] == said[1] == said[2]


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "false", "off"):
        if value is None:
            monkeypatch.delenv(THREADS, raising=False)
        else:
            monkeypatch.setenv(THREADS, value)
        before = dict(os.environ)
        next(token_ids(small(), ["a"]))
        trained(["a b", "c d"], 300)
        assert dict(os.environ) == before


def test_fingerprints_tell_tokenizers_apart_and_nothing_else(tmp_path: Path) -> None:
    small().save(str(tmp_path / "tokenizer.json"), pretty=True)
    kept = load(tmp_path)
    assert fingerprint(kept) == fingerprint(load(tmp_path / "tokenizer.json")) == fingerprint(small())
    kept.enable_truncation(7)
    kept.no_padding()
    assert fingerprint(kept) == fingerprint(small())
    others = [trained(TEXTS, 321), trained(TEXTS, 320, "<bos>"), trained(TEXTS[1:], 320), wordpiece()]
    assert len({fingerprint(other) for other in [small(), *others]}) == 5


@pytest.mark.parametrize("named", ["!", {"content": "!", "special": True}])
def test_a_tokenizer_without_padding_is_refused_unless_its_config_names_some(tmp_path: Path, named: object) -> None:
    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1, "!": 2}, unk_token="?"))
    bare.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    bare.save(str(tmp_path / "tokenizer.json"))
    assert padding_id(load(tmp_path)) is None
    with pytest.raises(ExperimentError, match=r"data\.tokenizer: it has no padding token .*tokenizer_config\.json"):
        encoded(load(tmp_path), ["a"], 3)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": None}))
    assert padding_id(load(tmp_path)) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": named}))
    assert encoded(load(tmp_path), ["a b"], 3).tolist() == [[1, 0, 2]]
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json' is damaged"):
        load(tmp_path)


def test_the_end_of_a_text_has_several_names() -> None:
    assert end_id(small()) == SPECIAL.index("<eos>")
    assert end_id(wordpiece()) is None
    for name in END:
        assert end_id(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, name: 1}, unk_token="a"))) == 1


def test_what_is_no_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"data\.tokenizer = '.*': there is no such file"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(DataError, match=r"tokenizer\.json' is no tokenizer: .*get a good copy") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ExperimentError, match=r"data\.length = 2: .* puts 2 tokens around a text; use at least 3"):
        encoded(wordpiece(), ["a"], 2)
