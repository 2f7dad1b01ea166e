"""Some classes, few items of each: what is kept, in which order, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.data import Dataset, Split
from gossamer.data.digits import Digits
from gossamer.errors import ExperimentError
from gossamer.selection import selected

CLASSES = ("ant", "bee", "cat", "dog", "2")


def dataset(seed: int = 0, items: int = 60) -> Dataset:
    """Items whose only input is their own number; at least five of each class."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(5), 5), rng.integers(0, 5, items - 25)])
    train = Split(np.arange(items)[:, None], rng.permutation(labels), rng.integers(0, 3, items))
    return Dataset("zoo", train, Split(np.arange(10)[:, None], np.arange(10) % 5), CLASSES, ("north", "south", "sea"))


classes = st.sets(st.sampled_from(CLASSES), min_size=2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 5), only=classes)
def test_only_the_named_classes_are_left_and_nothing_else_changes(seed: int, only: set[str]) -> None:
    whole = dataset(seed)
    part = selected(whole, sorted(only, reverse=True), None, 0)
    assert part.classes == tuple(name for name in CLASSES if name in only)
    for before, after in ((whole.train, part.train), (whole.test, part.test)):
        kept = [i for i in range(len(before)) if CLASSES[before.labels[i]] in only]
        assert after.inputs[:, 0].tolist() == kept
        assert [part.classes[c] for c in after.labels] == [CLASSES[before.labels[i]] for i in kept]
        assert after.labels.dtype == np.int64
    assert whole.train.groups is not None
    assert part.train.groups is not None
    np.testing.assert_array_equal(part.train.groups, whole.train.groups[part.train.inputs[:, 0]])
    assert part.group_names == whole.group_names


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 50), few=st.integers(1, 4), only=classes)
def test_few_of_each_class_are_drawn_once(seed: int, few: int, only: set[str]) -> None:
    whole = dataset()
    part = selected(whole, tuple(only), few, seed)
    assert np.bincount(part.train.labels).tolist() == [few] * len(only)
    items = part.train.inputs[:, 0]
    assert (np.diff(items) > 0).all()
    np.testing.assert_array_equal(whole.train.inputs[items], part.train.inputs)
    assert len(part.test) == 2 * len(only)
    again, more = selected(whole, tuple(only), few, seed), selected(whole, (), few + 1, seed)
    np.testing.assert_array_equal(again.train.inputs, part.train.inputs)
    assert set(items) <= set(more.train.inputs[:, 0]), "fewer are some of the more, whatever classes there are besides"


def test_the_draw_depends_on_the_seed_and_is_fair() -> None:
    whole = dataset()
    times = np.zeros(len(whole.train))
    for seed in range(400):
        times[selected(whole, (), 2, seed).train.inputs[:, 0]] += 1
    size = np.bincount(whole.train.labels)[whole.train.labels]
    expected = 400 * 2 / size
    assert np.abs(times - expected).max() < 5 * np.sqrt(400 * (2 / size) * (1 - 2 / size)).max()


def test_classes_are_drawn_from_independently() -> None:
    labels = np.repeat([0, 1], 30)
    items = Split(np.tile(np.arange(30), 2)[:, None], labels)
    drawn = [selected(Dataset("two", items, items, ("a", "b")), (), 3, seed).train.inputs[:, 0] for seed in range(5)]
    assert all(set(places[:3]) != set(places[3:]) for places in drawn)


def test_nothing_asked_is_nothing_done() -> None:
    whole = dataset()
    assert selected(whole, (), None, 3) is whole
    everything = selected(whole, CLASSES, None, 3)
    np.testing.assert_array_equal(everything.train.inputs, whole.train.inputs)
    np.testing.assert_array_equal(everything.train.labels, whole.train.labels)


def test_a_class_can_be_named_by_its_number_but_names_come_first() -> None:
    assert selected(dataset(), ("0", "1"), None, 0).classes == ("ant", "bee")
    assert selected(dataset(), ("2", "ant"), None, 0).classes == ("ant", "2")
    assert selected(Digits().load(None), ("9", "3"), 5, 0).classes == ("3", "9")


@pytest.mark.parametrize(
    ("only", "per_class", "said"),
    [
        (("bea", "ant"), None, r"data\.only = 'bea'.*nearest: bee"),
        (("5", "ant"), None, r"data\.only = '5'.*a number from 0 to 4"),
        (("-1", "ant"), None, r"data\.only = '-1'"),
        (("ant",), None, "name at least two"),
        (("ant", "0"), None, "name at least two"),
        ((), 1000, r"data\.per_class = 1000: class '.+' of data 'zoo' has \d+ training items"),
    ],
)
def test_what_cannot_be_is_one_line(only: tuple[str, ...], per_class: int | None, said: str) -> None:
    with pytest.raises(ExperimentError, match=said) as caught:
        selected(dataset(), only, per_class, 0)
    assert "\n" not in str(caught.value)


def test_the_scarcest_class_is_the_one_that_is_named() -> None:
    whole = dataset()
    counts = np.bincount(whole.train.labels)
    least = int(counts.argmin())
    with pytest.raises(ExperimentError, match=rf"class '{CLASSES[least]}' .* has {counts[least]} training"):
        selected(whole, (), int(counts.max()) + 1, 0)
    selected(whole, (), int(counts.min()), 0)


@pytest.mark.parametrize(("only", "per_class"), [(("a", "b"), None), ((), 1)])
def test_sequences_have_no_classes_to_choose_from(only: tuple[str, ...], per_class: int | None) -> None:
    windows = Split(np.zeros((2, 3), np.int64), np.ones((2, 3), np.int64))
    field = "only" if only else "per_class"
    with pytest.raises(ExperimentError, match=rf"data\.{field} = .*sequence of labels"):
        selected(Dataset("words", windows, windows, ("a", "b")), only, per_class, 0)
