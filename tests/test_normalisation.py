"""Normalisation: whose mean and deviation, and that nothing else happens to the inputs.

F channels or features, each with a mean and a deviation of its own.
"""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from sharding import IMAGES, LISTS, TABLE, TOKENS, cut

from gossamer.data import Dataset, Split
from gossamer.errors import ExperimentError
from gossamer.partitions import Array, Partition
from gossamer.partitions.dirichlet_pool import DirichletPool
from gossamer.partitions.function import FunctionPartition


def transcribed(dataset: Dataset, items: Array) -> tuple[Array, Array]:
    """Mean and deviation of each channel or feature, the plain way."""
    values = dataset.train.inputs[items].astype(np.float64)
    values = values / 255 if dataset.train.inputs.dtype == np.uint8 else values
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    return values.mean(axis=axes), values.std(axis=axes)


def view(values_F: Array, inputs: Array) -> Array:
    return values_F.reshape(1, -1, *[1] * (inputs.ndim - 2))


def raw(split: Split) -> Array:
    return split.inputs / 255 if split.inputs.dtype == np.uint8 else split.inputs


@pytest.mark.parametrize("dataset", [IMAGES, TABLE], ids=["images", "table"])
def test_shared_uses_the_training_items_of_all_nodes(dataset: Dataset) -> None:
    shards = cut(dataset, normalise="shared")
    mean, std = transcribed(dataset, np.concatenate(shards.train))
    for split, inputs in ((dataset.train, shards.inputs), (dataset.test, shards.test_inputs)):
        expected = (raw(split) - view(mean, inputs)) / view(std, inputs)
        np.testing.assert_allclose(inputs, expected, rtol=0, atol=1e-12)
    assert shards.node_affine is None


def test_shared_does_not_depend_on_the_order_of_the_nodes() -> None:
    for dataset in (IMAGES, TABLE):
        parts = np.array_split(np.random.default_rng(0).permutation(300), 4)
        one = cut(dataset, FunctionPartition.wrap(parts), 4, 0.0, normalise="shared")
        turned = cut(dataset, FunctionPartition.wrap(parts[::-1]), 4, 0.0, normalise="shared")
        np.testing.assert_array_equal(one.inputs, turned.inputs)


@pytest.mark.parametrize("dataset", [IMAGES, TABLE], ids=["images", "table"])
def test_per_node_normalises_each_node_by_itself_and_its_view_of_the_test(dataset: Dataset) -> None:
    shards = cut(dataset, normalise="per_node")
    assert shards.node_affine is not None
    for node, (train, held_out) in enumerate(zip(shards.train, shards.validation, strict=True)):
        mean, std = transcribed(dataset, train)
        axes = tuple(axis for axis in range(shards.inputs.ndim) if axis != 1)
        np.testing.assert_allclose(shards.inputs[train].mean(axis=axes), 0, atol=1e-12)
        np.testing.assert_allclose(shards.inputs[train].std(axis=axes), 1, atol=1e-12)
        own = (raw(dataset.train)[held_out] - view(mean, shards.inputs)) / view(std, shards.inputs)
        np.testing.assert_allclose(shards.inputs[held_out], own, atol=1e-12)
        scale_F, offset_F = (part[node] for part in shards.node_affine)
        seen = shards.test_inputs * view(scale_F, shards.inputs) + view(offset_F, shards.inputs)
        expected = (raw(dataset.test) - view(mean, shards.inputs)) / view(std, shards.inputs)
        np.testing.assert_allclose(seen, expected, atol=1e-10)


def test_one_node_of_its_own_is_the_shared_normalisation() -> None:
    own, shared = cut(nodes=1, normalise="per_node"), cut(nodes=1, normalise="shared")
    np.testing.assert_array_equal(own.inputs, shared.inputs)
    np.testing.assert_array_equal(own.test_inputs, shared.test_inputs)


@pytest.mark.parametrize("plug", [LISTS, DirichletPool(), DirichletPool(resample=False)])
def test_per_node_refuses_shared_items(plug: Partition) -> None:
    with pytest.raises(ExperimentError, match="per_node"):
        cut(partition=plug, nodes=3, normalise="per_node")


def test_none_and_fixed() -> None:
    np.testing.assert_allclose(cut(normalise="none").inputs, IMAGES.train.inputs / 255, atol=1e-15)
    np.testing.assert_array_equal(cut(TABLE, normalise="none").inputs, TABLE.train.inputs)
    constants = dataclasses.replace(IMAGES, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (raw(IMAGES.test) - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 0.6, 0.7])[:, None, None]
    np.testing.assert_allclose(cut(constants, normalise="fixed").test_inputs, expected, atol=1e-14)
    with pytest.raises(ExperimentError, match="'fixed' needs published constants"):
        cut(normalise="fixed")


def test_what_never_changes_becomes_zero_not_nan() -> None:
    pixels = np.array(IMAGES.train.inputs)
    pixels[:, 1] = 77
    flat = dataclasses.replace(IMAGES, train=dataclasses.replace(IMAGES.train, inputs=pixels))
    assert np.abs(cut(flat).inputs[:, 1]).max() < 1e-12
    columns = np.array(TABLE.train.inputs)
    columns[:, 2] = 0.1
    constant = dataclasses.replace(TABLE, train=dataclasses.replace(TABLE.train, inputs=columns))
    assert (cut(constant).inputs[:, 2] == 0).all()


def test_indicators_of_a_table_stay_as_they_are() -> None:
    mixed = dataclasses.replace(TABLE, numeric=(True, False, True, False))
    for normalise in ("shared", "per_node"):
        shards = cut(mixed, normalise=normalise)
        np.testing.assert_array_equal(shards.inputs[:, 1::2], TABLE.train.inputs[:, 1::2])
        np.testing.assert_array_equal(shards.test_inputs[:, 1::2], TABLE.test.inputs[:, 1::2])
        assert not np.allclose(shards.inputs[:, ::2], TABLE.train.inputs[:, ::2])


@pytest.mark.parametrize("normalise", ["none", "fixed", "shared", "per_node"])
def test_tokens_are_never_touched(normalise: str) -> None:
    shards = cut(TOKENS, normalise=normalise)
    assert shards.inputs.dtype == np.int64
    np.testing.assert_array_equal(shards.inputs, TOKENS.train.inputs)
    assert shards.node_affine is None


def test_dtype_is_the_runs_and_float32_is_the_rounded_float64() -> None:
    for dataset in (IMAGES, TABLE):
        single, double = cut(dataset, dtype="float32"), cut(dataset, dtype="float64")
        assert single.inputs.dtype == single.test_inputs.dtype == np.float32
        np.testing.assert_array_equal(single.inputs, double.inputs.astype(np.float32))


def test_no_float64_copy_of_the_images_is_made() -> None:
    """32 MB of bytes become 128 MB of float32; a float64 copy would be 256 MB more, chunks are 4 million numbers."""
    pixels = np.zeros((32_000, 1, 32, 32), np.uint8)
    data = Dataset.of(pixels, np.tile([0, 1], 16_000), pixels[:2], np.array([0, 1]))
    tracemalloc.start()
    shards = cut(data, dtype="float32", nodes=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < shards.inputs.nbytes + 80e6
