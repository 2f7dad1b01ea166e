"""From a data set to what the nodes train on: dealt out, validation parts kept aside, normalised.

M items, N nodes, C classes, L labels of a sequence; F channels (dimension 1 of images [M, F, H, W]) or features (of
tables [M, F]), each with a mean and a standard deviation of its own.

A node's validation part measures how well its model generalises to its own distribution. The statistics of `shared`
and `per_node` normalisation come from training items alone, never from validation or test items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.data import Dataset
    from gossamer.experiment import Preprocess
    from gossamer.partitions import Partition, Parts

Array = np.ndarray[Any, Any]

CHUNK = 1 << 22
"""Numbers converted at a time: no float64 copy of a whole data set is ever made."""


@dataclass(frozen=True)
class Shards:
    """The items of an experiment and who holds which of them.

    `train[i]` and `validation[i]` are the indices (int64) of node i's items; with `draw_NC` every node draws its
    batches from `train[i]`, the same for all, with the class probabilities of row i, and `sizes[i]` is what it would
    draw in an epoch. `validation[i]` may be empty.
    """

    classes: tuple[str, ...]
    inputs: Array
    """[M, ...]: in the run's dtype, normalised; or int64 token ids."""
    labels: Array
    """[M] or [M, L] int64."""
    test_inputs: Array
    """As `inputs`, normalised with pooled statistics where nodes have their own."""
    test_labels: Array
    train: list[Array]
    validation: list[Array]
    draw_NC: Array | None
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    """Names of the natural groups that the nodes are; empty without such."""
    node_affine: tuple[Array, Array] | None
    """(scale [N, F], offset [N, F]) of 'per_node' normalisation: x * scale + offset along dimension 1 turns an input
    normalised with pooled statistics into node i's own view of it."""
    histogram_NC: Array
    """Labels among each node's training items, int64 (of an epoch, expected and rounded, where nodes draw)."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each of F channels or features, float64."""

    mean_F: Array
    std_F: Array


def shard(
    dataset: Dataset,
    partition: Partition,
    nodes: int | None,
    preprocess: Preprocess,
    validation: float,
    seed: int,
    dtype: str,
    pool: bool = False,
) -> Shards:
    """Deal a data set to the nodes, keep a fraction `validation` of each node's items aside, and normalise.

    With `pool` all nodes' items are then put into one node (centralised training). Raises ExperimentError where the
    partition or the preprocessing does not fit the data.
    """
    check_augmentation(dataset, preprocess)
    labels = dataset.train.labels
    parts = partition.deal(labels, dataset.train.groups, nodes, generator(seed, "partition"))
    train, held_out = hold_out_from_pool(parts, labels, validation, seed) or hold_out(parts, validation, seed)
    draw_NC, names = parts.draw_NC, group_names(parts, dataset)
    if pool:
        train, held_out = [np.concatenate(train if draw_NC is None else train[:1])], [np.concatenate(held_out)]
        draw_NC, names = None, ()
    sizes = tuple(len(items) for items in train) if draw_NC is None else parts.sizes
    inputs, test_inputs, node_affine = normalised(dataset, preprocess, train, held_out, draw_NC, np.dtype(dtype))
    return Shards(
        classes=dataset.classes,
        inputs=inputs,
        labels=np.ascontiguousarray(labels, dtype=np.int64),
        test_inputs=test_inputs,
        test_labels=np.ascontiguousarray(dataset.test.labels, dtype=np.int64),
        train=train,
        validation=held_out,
        draw_NC=draw_NC,
        sizes=sizes,
        names=names,
        node_affine=node_affine,
        histogram_NC=histogram(labels, len(dataset.classes), train, draw_NC, sizes),
    )


def check_augmentation(dataset: Dataset, preprocess: Preprocess) -> None:
    """Raise ExperimentError where images are to be cropped or flipped and there are none, or too small ones."""
    shape = dataset.train.inputs.shape[1:]
    if (preprocess.crop or preprocess.flip) and len(shape) != 3:
        what = f"preprocess.crop = {preprocess.crop}" if preprocess.crop else "preprocess.flip = true"
        raise ExperimentError(f"{what} needs images [channels, height, width], but inputs have shape {list(shape)}")
    if preprocess.crop and preprocess.crop >= min(shape[1:]):
        raise ExperimentError(
            f"preprocess.crop = {preprocess.crop} must be less than the images' {min(shape[1:])} pixels"
        )


def group_names(parts: Parts, dataset: Dataset) -> tuple[str, ...]:
    """The nodes' names: a partition by natural groups knows their numbers, the data set their names."""
    by_number = {str(number): name for number, name in enumerate(dataset.group_names)}
    return tuple(by_number.get(name, name) for name in parts.names)


# ---- validation parts ----------------------------------------------------------------------------------------------


def hold_out(parts: Parts, validation: float, seed: int) -> tuple[list[Array], list[Array]]:
    """Training and validation items of each node: a random fraction kept aside, one training item at the least.

    All copies of an item that a node holds more than once go to the same part.
    """
    train, held_out = [], []
    for node, items in enumerate(parts.items):
        distinct = np.unique(items)
        count = min(round(validation * len(distinct)), len(distinct) - 1)
        chosen = generator(seed, "validation", node).choice(distinct, size=count, replace=False)
        kept_aside = np.isin(items, chosen)
        train.append(np.ascontiguousarray(items[~kept_aside], dtype=np.int64))
        held_out.append(np.ascontiguousarray(items[kept_aside], dtype=np.int64))
    return train, held_out


def hold_out_from_pool(
    parts: Parts, labels_M: Array, validation: float, seed: int
) -> tuple[list[Array], list[Array]] | None:
    """The same where nodes draw from a shared pool (None where they do not).

    A fraction of each class is kept aside for all nodes together, so that no node trains on another's validation
    items; of these every node draws a validation part with its own class probabilities.
    """
    if parts.draw_NC is None:
        return None
    pool = parts.items[0]
    shuffled = generator(seed, "validation").permutation(pool)
    aside_by_class = {}
    for label in np.unique(labels_M[pool]):
        of_class = shuffled[labels_M[shuffled] == label]
        aside_by_class[label] = of_class[: min(round(validation * len(of_class)), len(of_class) - 1)]
    aside = np.concatenate(list(aside_by_class.values()))
    train = np.setdiff1d(pool, aside)
    labels = labels_M[aside]
    held_out = []
    for node, probabilities_C in enumerate(parts.draw_NC):
        # Uniform within a class, a class as often as the node draws it.
        weights = probabilities_C[labels] / np.bincount(labels, minlength=len(probabilities_C))[labels]
        count = min(round(validation * parts.sizes[node]), np.count_nonzero(weights))
        rng = generator(seed, "validation", node)
        drawn = rng.choice(aside, size=count, p=weights / weights.sum()) if count else aside[:0]
        held_out.append(np.sort(drawn))
    return [train] * len(parts.items), held_out


def histogram(
    labels: Array, classes: int, train: Sequence[Array], draw_NC: Array | None, sizes: Sequence[int]
) -> Array:
    """[N, C] int64: how often each label occurs among each node's training items (or, if drawn, would in an epoch)."""
    if draw_NC is None:
        return np.stack([np.bincount(labels[items].ravel(), minlength=classes) for items in train])
    expected_NC = np.zeros((len(draw_NC), classes), np.int64)
    expected_NC[:, : draw_NC.shape[1]] = np.rint(draw_NC * np.asarray(sizes)[:, None])
    return expected_NC


# ---- normalisation -------------------------------------------------------------------------------------------------


def normalised(
    dataset: Dataset,
    preprocess: Preprocess,
    train: Sequence[Array],
    held_out: Sequence[Array],
    draw_NC: Array | None,
    dtype: np.dtype[Any],
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Training inputs, test inputs and `Shards.node_affine`."""
    raw, raw_test = dataset.train.inputs, dataset.test.inputs
    if raw.dtype.kind in "iu" and raw.dtype != np.uint8:
        return raw.astype(np.int64), raw_test.astype(np.int64), None
    pooled = pooled_moments(dataset, preprocess, train, draw_NC)
    inputs, test_inputs = standardised(raw, pooled, dtype), standardised(raw_test, pooled, dtype)
    if preprocess.normalise != "per_node" or len(train) == 1:
        return inputs, test_inputs, None
    held = np.concatenate([*train, *held_out])
    if draw_NC is not None or len(np.unique(held)) < len(held):
        raise ExperimentError(
            "preprocess.normalise = 'per_node' needs a partition that gives each item to one node, "
            "but here nodes share items: use 'shared' or 'fixed'"
        )
    own = [masked(moments(raw, items), dataset) for items in train]
    for node_moments, items in zip(own, map(np.concatenate, zip(train, held_out, strict=True)), strict=True):
        inputs[items] = standardised(raw[items], node_moments, dtype)
    means_NF, stds_NF = np.stack([m.mean_F for m in own]), np.stack([m.std_F for m in own])
    return inputs, test_inputs, (pooled.std_F / stds_NF, (pooled.mean_F - means_NF) / stds_NF)


def pooled_moments(dataset: Dataset, preprocess: Preprocess, train: Sequence[Array], draw_NC: Array | None) -> Moments:
    """Whose statistics `preprocess.normalise` asks for; with 'per_node' those of all nodes together."""
    features = dataset.train.inputs.shape[1] if dataset.train.inputs.ndim > 1 else 1
    if preprocess.normalise == "none":
        return Moments(np.zeros(features), np.ones(features))
    if preprocess.normalise == "fixed":
        if len(dataset.mean) != features or len(dataset.std) != features:
            raise ExperimentError(
                f"preprocess.normalise = 'fixed' needs published constants, but data '{dataset.name}' has "
                f"{len(dataset.mean)} means and {len(dataset.std)} deviations for {features} channels or features: "
                f"use 'shared'"
            )
        return Moments(np.array(dataset.mean), np.array(dataset.std))
    items = train[0] if draw_NC is not None else np.concatenate(train)
    # Sorted, so that the sums do not depend on which node is called the first.
    return masked(moments(dataset.train.inputs, np.sort(items)), dataset)


def masked(found: Moments, dataset: Dataset) -> Moments:
    """The moments of the numeric features of a table; its indicators keep their 0 and 1."""
    if not dataset.numeric:
        return found
    numeric_F = np.array(dataset.numeric)
    return Moments(np.where(numeric_F, found.mean_F, 0.0), np.where(numeric_F, found.std_F, 1.0))


def moments(inputs: Array, items: Array) -> Moments:
    """Mean and population standard deviation (0 becomes 1) of each channel or feature over some items, in float64.

    uint8 inputs are counted, then taken as fractions of 255: exact. Others take two passes over chunks.
    """
    values = by_feature(inputs)
    features, each = values.shape[1:]
    step = max(1, CHUNK // (features * each))
    chunks = [items[start : start + step] for start in range(0, len(items), step)]
    if inputs.dtype == np.uint8:
        levels = np.arange(256) / 255
        count_F256 = np.zeros((features, 256), np.int64)
        for chunk in chunks:
            part = values[chunk]
            for feature in range(features):
                count_F256[feature] += np.bincount(part[:, feature].ravel(), minlength=256)
        mean_F = count_F256 @ levels / (len(items) * each)
        variance_F = (count_F256 * (levels - mean_F[:, None]) ** 2).sum(axis=1) / (len(items) * each)
        constant_F = (count_F256 > 0).sum(axis=1) == 1
    else:
        # Shifted by the first value: a feature that never changes then has a deviation of exactly 0.
        shift_F = values[items[0], :, 0].astype(np.float64)
        total_F, squares_F = np.zeros(features), np.zeros(features)
        for chunk in chunks:
            total_F += (values[chunk] - shift_F[:, None]).sum(axis=(0, 2))
        mean_F = shift_F + total_F / (len(items) * each)
        for chunk in chunks:
            squares_F += ((values[chunk] - mean_F[:, None]) ** 2).sum(axis=(0, 2))
        variance_F = squares_F / (len(items) * each)
        constant_F = variance_F == 0
    return Moments(mean_F, np.where(constant_F, 1.0, np.sqrt(variance_F)))


def standardised(inputs: Array, by: Moments, dtype: np.dtype[Any]) -> Array:
    """(x - mean) / std of each channel or feature, in `dtype`; uint8 inputs are divided by 255 first."""
    values = by_feature(inputs)
    out = np.empty(inputs.shape, dtype)
    target = by_feature(out)
    if inputs.dtype == np.uint8:
        table_F256 = ((np.arange(256) / 255 - by.mean_F[:, None]) / by.std_F[:, None]).astype(dtype)
        for feature, table in enumerate(table_F256):
            target[:, feature] = table[values[:, feature]]
        return out
    step = max(1, CHUNK // (values.shape[1] * values.shape[2]))
    for start in range(0, len(values), step):
        chunk = slice(start, start + step)
        target[chunk] = (values[chunk] - by.mean_F[:, None]) / by.std_F[:, None]
    return out


def by_feature(inputs: Array) -> Array:
    """A view [M, F, values of one channel or feature in an item]."""
    return inputs.reshape(len(inputs), inputs.shape[1] if inputs.ndim > 1 else 1, -1)


# ---- augmentation --------------------------------------------------------------------------------------------------


def augment(inputs_B: Tensor, crop: int, flip: bool, rng: np.random.Generator) -> Tensor:
    """Images [B, C, H, W] moved at random by up to `crop` pixels (zeros come in) and, with `flip`, half of them
    mirrored left to right. All randomness comes from `rng`: same generator, same images.

    Zero is the mean colour of normalised images. He et al. 2016, Section 4.2, with crop = 4.
    """
    import torch
    from torch.nn.functional import pad

    count, channels, height, width = inputs_B.shape
    top, left = rng.integers(0, 2 * crop + 1, size=(2, count)) if crop else np.zeros((2, count), np.int64)
    rows_BH = top[:, None] + np.arange(height)
    columns_BW = left[:, None] + np.arange(width)
    if flip:
        mirrored_B = rng.random(count) < 0.5
        columns_BW[mirrored_B] = columns_BW[mirrored_B, ::-1]
    index = [np.arange(count)[:, None, None, None], np.arange(channels)[:, None, None]]
    index += [rows_BH[:, None, :, None], columns_BW[:, None, None, :]]
    return pad(inputs_B, (crop,) * 4)[tuple(torch.from_numpy(i).to(inputs_B.device) for i in index)]
