"""Normalisation: whose mean and standard deviation, computed and applied without a float64 copy of the data.

M items, N nodes; F channels (dimension 1 of images [M, F, H, W]) or features (of tables [M, F]), each with a mean and
a standard deviation of its own. The statistics of 'shared' and 'per_node' come from training items alone, never from
validation or test items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from gossamer.data import Dataset, Normalise

Array = np.ndarray[Any, Any]

CHUNK = 1 << 22
"""Numbers converted at a time."""
LEVELS = np.arange(256) / 255
"""What a byte stands for."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each of F channels or features, float64."""

    mean_F: Array
    std_F: Array


def normalised(
    dataset: Dataset,
    normalise: Normalise,
    train: Sequence[Array],
    held_out: Sequence[Array],
    draw_NC: Array | None,
    dtype: np.dtype[Any],
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Training inputs, test inputs and `Shards.node_affine`. A single node (all data pooled) has the pooled statistics.

    Raises ExperimentError where the data has no constants for 'fixed', or nodes share items under 'per_node'.
    """
    raw, raw_test = dataset.train.inputs, dataset.test.inputs
    if raw.dtype.kind in "iu" and raw.dtype != np.uint8:
        return raw.astype(np.int64), raw_test.astype(np.int64), None
    own_statistics = normalise == "per_node" and len(train) > 1
    if own_statistics and (draw_NC is not None or overlapping([*train, *held_out])):
        raise ExperimentError(
            "preprocess.normalise = 'per_node' needs a partition that gives each item to one node, "
            "but here nodes share items: use 'shared' or 'fixed'"
        )
    pooled = pooled_moments(dataset, normalise, train, draw_NC)
    inputs, test_inputs = standardised(raw, pooled, dtype), standardised(raw_test, pooled, dtype)
    if not own_statistics:
        return inputs, test_inputs, None
    own = [masked(moments(raw, items), dataset) for items in train]
    for node_moments, items in zip(own, map(np.concatenate, zip(train, held_out, strict=True)), strict=True):
        inputs[items] = standardised(raw[items], node_moments, dtype)
    means_NF, stds_NF = np.stack([m.mean_F for m in own]), np.stack([m.std_F for m in own])
    return inputs, test_inputs, (pooled.std_F / stds_NF, (pooled.mean_F - means_NF) / stds_NF)


def overlapping(parts: Sequence[Array]) -> bool:
    """Whether an item is in two of the parts, or twice in one."""
    items = np.concatenate(parts)
    return len(np.unique(items)) < len(items)


def pooled_moments(dataset: Dataset, normalise: Normalise, train: Sequence[Array], draw_NC: Array | None) -> Moments:
    """The statistics that `normalise` asks for; with 'per_node' those of all nodes together."""
    features = dataset.train.inputs.shape[1] if dataset.train.inputs.ndim > 1 else 1
    if normalise == "none":
        return Moments(np.zeros(features), np.ones(features))
    if normalise == "fixed":
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
    if inputs.dtype == np.uint8:
        count_F256 = np.zeros((features, 256), np.int64)
        for chunk in chunks(items, values):
            for feature in range(features):
                count_F256[feature] += np.bincount(values[chunk, feature].ravel(), minlength=256)
        mean_F = count_F256 @ LEVELS / (len(items) * each)
        squares_F = (count_F256 * (LEVELS - mean_F[:, None]) ** 2).sum(axis=1)
        squares_F[np.count_nonzero(count_F256, axis=1) == 1] = 0
    else:
        # Shifted by the first item: a feature that never changes then has a deviation of exactly 0.
        shift_F = values[items[0], :, 0].astype(np.float64)
        total_F, squares_F = np.zeros(features), np.zeros(features)
        for chunk in chunks(items, values):
            total_F += (values[chunk] - shift_F[:, None]).sum(axis=(0, 2))
        mean_F = shift_F + total_F / (len(items) * each)
        for chunk in chunks(items, values):
            squares_F += ((values[chunk] - mean_F[:, None]) ** 2).sum(axis=(0, 2))
    std_F = np.sqrt(squares_F / (len(items) * each))
    return Moments(mean_F, np.where(std_F == 0, 1.0, std_F))


def standardised(inputs: Array, by: Moments, dtype: np.dtype[Any]) -> Array:
    """(x - mean) / std of each channel or feature, in `dtype`; uint8 inputs are divided by 255 first."""
    values = by_feature(inputs)
    out = np.empty(inputs.shape, dtype)
    target = by_feature(out)
    table_F256 = ((LEVELS - by.mean_F[:, None]) / by.std_F[:, None]).astype(dtype)
    for chunk in chunks(np.arange(len(values)), values):
        if inputs.dtype == np.uint8:
            for feature, table in enumerate(table_F256):
                target[chunk, feature] = table[values[chunk, feature]]
        else:
            target[chunk] = (values[chunk] - by.mean_F[:, None]) / by.std_F[:, None]
    return out


def chunks(items: Array, values: Array) -> list[Array]:
    """The items in pieces, so that one piece of `values` has about CHUNK numbers."""
    step = max(1, CHUNK // max(1, values.shape[1] * values.shape[2]))
    return [items[start : start + step] for start in range(0, len(items), step)]


def by_feature(inputs: Array) -> Array:
    """A view [M, F, values of one channel or feature in an item]."""
    return inputs.reshape(len(inputs), inputs.shape[1] if inputs.ndim > 1 else 1, -1)
