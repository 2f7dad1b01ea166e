"""From a data set to what the nodes train on: dealt out, validation parts kept aside, normalised.

M items, N nodes, C classes, L labels of a sequence, F channels (dimension 1 of images [M, F, H, W]) or features (of
tables [M, F]). A node's validation part measures how well its model generalises to its own distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.normalisation import normalised, overlapping
from gossamer.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.data import Dataset
    from gossamer.experiment import Preprocess
    from gossamer.partitions import Partition, Parts

Array = np.ndarray[Any, Any]


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
    tokenizer: str = ""
    """What made token ids of texts, as JSON; empty: the inputs are no texts."""
    root: Array = field(default_factory=lambda: np.empty(0, np.int64))
    """Items that the server holds itself."""

    def items_of(self, node: int) -> Array:
        """The training items of a node, or (node = -1) of the server."""
        return self.train[node] if node >= 0 else self.root


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
    empty = [node for node, items in enumerate(parts.items) if len(items) == 0]
    if empty:
        raise ExperimentError(f"partition = '{partition.kind}' gave node {empty[0]} no items: use fewer nodes")
    train, held_out = hold_out(parts, labels, validation, seed)
    draw_NC, names = parts.draw_NC, group_names(parts, dataset)
    if pool:
        train, held_out = [np.concatenate(train if draw_NC is None else train[:1])], [np.concatenate(held_out)]
        draw_NC, names = None, ()
    sizes = tuple(len(items) for items in train) if draw_NC is None else parts.sizes
    inputs, test_inputs, node_affine = normalised(
        dataset, preprocess.normalise, train, held_out, draw_NC, np.dtype(dtype)
    )
    return Shards(
        classes=dataset.classes,
        inputs=inputs,
        labels=np.array(labels, dtype=np.int64),
        test_inputs=test_inputs,
        test_labels=np.array(dataset.test.labels, dtype=np.int64),
        train=train,
        validation=held_out,
        draw_NC=draw_NC,
        sizes=sizes,
        names=names,
        node_affine=node_affine,
        histogram_NC=histogram(labels, len(dataset.classes), train, draw_NC, sizes),
        tokenizer=dataset.tokenizer,
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


def hold_out(parts: Parts, labels_M: Array, validation: float, seed: int) -> tuple[list[Array], list[Array]]:
    """Training and validation items of each node: a random fraction kept aside, one training item at the least.

    No node's validation item is a training item of any node, also where nodes share items.
    """
    if parts.draw_NC is not None:
        return hold_out_of_pool(parts, parts.draw_NC, labels_M, validation, seed)
    if overlapping(parts.items):
        items = np.unique(np.concatenate(parts.items))
        # The first item of each node stays a training item.
        free = np.setdiff1d(items, [own[0] for own in parts.items])
        count = min(round(validation * len(items)), len(free))
        aside = generator(seed, "validation").choice(free, size=count, replace=False)
        chosen = [np.isin(own, aside) for own in parts.items]
    else:
        chosen = []
        for node, own in enumerate(parts.items):
            count = min(round(validation * len(own)), len(own) - 1)
            mask = np.arange(len(own)) < count
            chosen.append(generator(seed, "validation", node).permutation(mask))
    train = [np.asarray(own[~mask], dtype=np.int64) for own, mask in zip(parts.items, chosen, strict=True)]
    held_out = [np.asarray(own[mask], dtype=np.int64) for own, mask in zip(parts.items, chosen, strict=True)]
    return train, held_out


def hold_out_of_pool(
    parts: Parts, draw_NC: Array, labels_M: Array, validation: float, seed: int
) -> tuple[list[Array], list[Array]]:
    """`hold_out` where nodes draw from one pool: a fraction of each class is kept aside for all nodes together, and of
    these every node draws a validation part, with replacement, with its own class probabilities."""
    pool = generator(seed, "validation").permutation(parts.items[0])
    aside_by_class = []
    for label in np.unique(labels_M[pool]):
        of_class = pool[labels_M[pool] == label]
        aside_by_class.append(of_class[: min(round(validation * len(of_class)), len(of_class) - 1)])
    aside = np.concatenate(aside_by_class)
    train = np.setdiff1d(pool, aside)
    labels = labels_M[aside]
    held_out = []
    for node, draw_C in enumerate(draw_NC):
        weights = draw_C[labels] / np.bincount(labels, minlength=len(draw_C))[labels]
        count = round(validation * parts.sizes[node]) if weights.any() else 0
        rng = generator(seed, "validation", node)
        drawn = rng.choice(aside, size=count, p=weights / weights.sum()) if count else aside[:0]
        held_out.append(np.sort(drawn))
    return [train] * len(parts.items), held_out


def histogram(
    labels: Array, classes: int, train: Sequence[Array], draw_NC: Array | None, sizes: Sequence[int]
) -> Array:
    """[N, C] int64: how often each label occurs among each node's training items (or, if drawn, would in an epoch)."""
    if draw_NC is None:
        counted = (labels[items].ravel() for items in train)
        return np.stack([np.bincount(found[found >= 0], minlength=classes) for found in counted])
    expected_NC = np.zeros((len(draw_NC), classes), np.int64)
    expected_NC[:, : draw_NC.shape[1]] = np.rint(draw_NC * np.asarray(sizes)[:, None])
    return expected_NC


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
    rows, columns = (torch.from_numpy(index).to(inputs_B.device) for index in (rows_BH, columns_BW))
    images = torch.arange(count, device=inputs_B.device)[:, None, None, None]
    colours = torch.arange(channels, device=inputs_B.device)[:, None, None]
    return pad(inputs_B, (crop,) * 4)[images, colours, rows[:, None, :, None], columns[:, None, None, :]]
