"""Dealing, holding out, augmenting: from a data set to what the nodes train on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sharding import IMAGES, LISTS, TABLE, TOKENS, cut

from gossamer.data import Dataset
from gossamer.errors import ExperimentError
from gossamer.partitions import Partition
from gossamer.partitions.dirichlet import Dirichlet
from gossamer.partitions.dirichlet_pool import DirichletPool
from gossamer.partitions.function import FunctionPartition
from gossamer.partitions.iid import IID
from gossamer.partitions.natural import Natural
from gossamer.partitions.quantity import Quantity
from gossamer.preprocessing import augment

# ---- who holds what ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(nodes=st.integers(1, 30), validation=st.floats(0, 0.99), seed=st.integers(0, 2**40))
def test_every_dealt_item_is_trained_on_or_held_out(nodes: int, validation: float, seed: int) -> None:
    for plug in (IID(), Quantity(min_size=1)):
        shards = cut(partition=plug, nodes=nodes, validation=validation, seed=seed, normalise="none")
        everything = np.concatenate([*shards.train, *shards.validation])
        np.testing.assert_array_equal(np.sort(everything), np.arange(300))
        for train, held_out in zip(shards.train, shards.validation, strict=True):
            together = len(train) + len(held_out)
            assert len(train) >= 1
            assert len(held_out) == min(round(validation * together), together - 1)
        assert shards.sizes == tuple(len(train) for train in shards.train)


def test_the_seed_alone_decides_and_validation_does_not_change_the_deal() -> None:
    one, again, other, none = cut(), cut(), cut(seed=1), cut(validation=0.0)
    assert all(np.array_equal(a, b) for a, b in zip(one.train, again.train, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one.train, other.train, strict=True))
    assert all(len(part) == 0 for part in none.validation)
    for train, held_out, dealt in zip(one.train, one.validation, none.train, strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), dealt)


def test_histogram_counts_training_labels() -> None:
    shards = cut(partition=Dirichlet(alpha=0.3, min_size=5))
    for node, train in enumerate(shards.train):
        for label in range(5):
            assert shards.histogram_NC[node, label] == np.count_nonzero(shards.labels[train] == label)
    tokens = cut(TOKENS, nodes=4)
    assert tokens.histogram_NC.sum() == 8 * sum(tokens.sizes)


def test_pooling_keeps_each_part_what_it_was() -> None:
    """Centralised training sees the nodes' training items, and is validated on their validation items."""
    for plug in (IID(), Natural(), LISTS, DirichletPool(resample=False)):
        nodes = 3 if plug is LISTS else 5
        apart, pooled = cut(partition=plug, nodes=nodes), cut(partition=plug, nodes=nodes, pool=True)
        np.testing.assert_array_equal(pooled.train[0], np.concatenate(apart.train))
        np.testing.assert_array_equal(pooled.validation[0], np.concatenate(apart.validation))
        assert len(pooled.train) == len(pooled.validation) == 1
        assert pooled.names == ()
        np.testing.assert_array_equal(pooled.inputs, apart.inputs)


@pytest.mark.parametrize("plug", [LISTS, DirichletPool(resample=False), DirichletPool()])
def test_no_validation_item_is_anybodys_training_item(plug: Partition) -> None:
    shards = cut(partition=plug, nodes=3)
    held_out = np.concatenate(shards.validation)
    assert len(held_out) > 0
    assert not np.isin(held_out, np.concatenate(shards.train)).any()
    assert all(len(train) >= 1 for train in shards.train)


def test_a_shared_pool_is_validated_with_each_nodes_own_probabilities() -> None:
    shards = cut(partition=DirichletPool(alpha=0.3, size=20_000), nodes=4)
    assert shards.draw_NC is not None
    assert shards.sizes == (20_000,) * 4
    assert all(train is shards.train[0] for train in shards.train)
    assert np.bincount(shards.labels[shards.train[0]]).tolist() == [48] * 5, "a fifth of each class is kept aside"
    for node in range(4):
        drawn = np.bincount(shards.labels[shards.validation[node]], minlength=5) / 4000
        np.testing.assert_allclose(drawn, shards.draw_NC[node], atol=0.03)
    np.testing.assert_allclose(shards.histogram_NC, shards.draw_NC * 20_000, atol=0.5)
    pooled = cut(partition=DirichletPool(alpha=0.3), nodes=4, pool=True)
    assert pooled.draw_NC is None
    assert pooled.sizes == (240,)


def test_every_class_of_a_pool_can_still_be_drawn() -> None:
    rare = dataclasses.replace(IMAGES.train, labels=np.where(np.arange(300) == 7, 4, np.arange(300) % 4))
    shards = cut(dataclasses.replace(IMAGES, train=rare), DirichletPool(), validation=0.9)
    assert set(shards.labels[shards.train[0]]) == {0, 1, 2, 3, 4}


def test_nodes_are_known_by_their_groups() -> None:
    named = dataclasses.replace(IMAGES, group_names=tuple("ABCDEFG"))
    shards = cut(named, Natural(), nodes=None)
    assert shards.names == tuple("ABCDEFG")
    few = cut(named, Natural(), nodes=2)
    assert IMAGES.train.groups is not None
    for name, train in zip(few.names, few.train, strict=True):
        assert set(IMAGES.train.groups[train]) == {"ABCDEFG".index(name)}
    assert cut(named, IID()).names == ()


def test_a_node_without_items_is_named() -> None:
    with pytest.raises(ExperimentError, match="node 1 no items"):
        cut(partition=FunctionPartition(value=[np.arange(3), np.arange(0)]), nodes=2)


# ---- augmentation --------------------------------------------------------------------------------------------------


def test_augment_is_one_of_the_crops_of_the_padded_image() -> None:
    images = torch.arange(4 * 2 * 3 * 5, dtype=torch.float64).reshape(4, 2, 3, 5) + 1
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    seen = set()
    for seed in range(60):
        moved = augment(images, 1, True, np.random.default_rng(seed))
        for index in range(4):
            candidates = {
                (top, left, flip): padded[index, :, top : top + 3, left : left + 5].flip(-1) if flip
                else padded[index, :, top : top + 3, left : left + 5]
                for top in range(3) for left in range(3) for flip in (False, True)
            }  # fmt: skip
            found = [key for key, candidate in candidates.items() if torch.equal(candidate, moved[index])]
            assert len(found) == 1
            seen.add(found[0])
    assert len(seen) == 18, "every shift, mirrored and not, occurs"


def test_augment_in_closed_form() -> None:
    """The draws are two rows of offsets, then the mirrors: replayed here from the same generator."""
    images = torch.randn(16, 3, 8, 7, generator=torch.Generator().manual_seed(0))
    replay = np.random.default_rng(9)
    top, left = replay.integers(0, 5, size=(2, 16))
    mirrored = replay.random(16) < 0.5
    moved = augment(images, 2, True, np.random.default_rng(9))
    assert 0 < mirrored.sum() < 16
    for b in range(16):
        expected = torch.zeros(3, 8, 7)
        for y in range(8):
            for x in range(7):
                at_y, at_x = y + top[b] - 2, (6 - x if mirrored[b] else x) + left[b] - 2
                if 0 <= at_y < 8 and 0 <= at_x < 7:
                    expected[:, y, x] = images[b, :, at_y, at_x]
        assert torch.equal(moved[b], expected)


def test_augment_draws_from_nothing_but_its_generator() -> None:
    images = torch.randn(8, 1, 6, 6)
    before = torch.get_rng_state()
    first, second = (augment(images, 2, True, np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(augment(images, 0, False, np.random.default_rng(4)), images)


@pytest.mark.parametrize(
    ("dataset", "preprocess", "message"),
    [
        (TABLE, {"crop": 2}, "preprocess.crop = 2 needs images"),
        (TOKENS, {"flip": True}, "preprocess.flip = true needs images"),
        (IMAGES, {"crop": 5}, "preprocess.crop = 5 must be less than the images' 5 pixels"),
    ],
)
def test_augmentation_that_does_not_fit_is_refused(dataset: Dataset, preprocess: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        cut(dataset, nodes=4, **preprocess)
