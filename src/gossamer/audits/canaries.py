"""Canaries: examples or nodes planted in an experiment, each in or out by a fair coin.

M training items, K canaries, Q items that are scored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.groundwork import load_dataset
from gossamer.normalisation import overlapping
from gossamer.preprocessing import hold_out
from gossamer.randomness import generator

if TYPE_CHECKING:
    from gossamer.data import Dataset
    from gossamer.experiment import Experiment

Array = np.ndarray[Any, Any]
Unit = Literal["example", "node"]

FEWEST = 20
"""Canaries at the least: fewer show nothing."""


@dataclass(frozen=True)
class Planted:
    """An experiment with canaries."""

    experiment: Experiment
    """What is run: with the canaries that are in, without those that are out."""
    scored: Experiment
    """The same with the items of all canaries, in and out, as its test items."""
    inside_K: Array
    """Whether a canary is in."""
    canary_Q: Array
    """Whose each scored item is."""
    node_Q: Array
    """The node of the run that has, or would have, each scored item; all -1 where nodes are the canaries."""


class _Sown(NamedTuple):
    """The labels of all items, what is left to each node, and the items that are scored."""

    labels_M: Array
    kept: list[Array]
    items_Q: Array
    canary_Q: Array
    node_Q: Array


def plant(experiment: Experiment, canaries: int, unit: Unit) -> Planted:
    """Plant so many canaries in the training data of an experiment.

    Items are dealt, and validation parts kept aside, as the experiment says, before any label is changed. Then labels
    of canaries are replaced by wrong ones: of an example by any other, with equal chance; of all items of a node by a
    relabelling drawn for that node. Canaries whose coin says so are taken out; nobody else's items change. The run has
    no validation parts, since a canary that is in has to be trained on. Raises ExperimentError where this cannot be.
    """
    dataset = load_dataset(experiment)
    held = _held(experiment, dataset, canaries, unit)
    rng = generator(experiment.seed, "canaries")
    inside_K = rng.random(canaries) < 0.5
    if inside_K.all() or not inside_K.any():
        raise ExperimentError(f"seed = {experiment.seed}: all {canaries} coins fell on the same side; use another")
    labels_M, classes = np.array(dataset.train.labels, dtype=np.int64), len(dataset.classes)
    sow = _sow_examples if unit == "example" else _sow_nodes
    sown = sow(labels_M, held, inside_K, classes, rng)
    if empty := [node for node, own in enumerate(sown.kept) if len(own) == 0]:
        raise ExperimentError(f"canaries = {canaries}: node {empty[0]} would be left without an item; use fewer")
    trained = np.unique(np.concatenate(sown.kept))
    raw = dataset.train.inputs
    train = dataclasses.replace(dataset.train, inputs=raw[trained], labels=sown.labels_M[trained], groups=None)
    items = dataclasses.replace(train, inputs=raw[sown.items_Q], labels=sown.labels_M[sown.items_Q])
    given = dataclasses.replace(dataset, train=train, group_names=())
    planted = experiment.replace(
        name=f"{experiment.name}-canaries",
        data=given,
        partition=[np.searchsorted(trained, own) for own in sown.kept],
        nodes=len(sown.kept),
        validation=0.0,
    )
    scored = planted.replace(data=dataclasses.replace(given, test=items))
    return Planted(planted, scored, inside_K, sown.canary_Q, sown.node_Q)


def _held(experiment: Experiment, dataset: Dataset, canaries: int, unit: Unit) -> list[Array]:
    """The training items of each node, as the experiment deals them. Raises ExperimentError where there is no audit."""
    if unit not in ("example", "node"):
        raise ExperimentError(f"unit = '{unit}': canaries are of unit 'example' or 'node'")
    if canaries < FEWEST:
        raise ExperimentError(f"canaries = {canaries}: so few show nothing; use {FEWEST} or more")
    if experiment.hostile.kind != "nobody":
        kind = experiment.hostile.kind
        raise ExperimentError(f"hostile.kind = '{kind}': an audit is of honest training; set it to 'nobody'")
    labels = dataset.train.labels
    if labels.ndim != 1 or len(dataset.classes) < 2:
        raise ExperimentError(
            f"data '{dataset.name}': canaries need one label for each item, of two classes or more, found "
            f"{len(dataset.classes)} classes and labels of shape {list(labels.shape)}"
        )
    parts = experiment.partition.deal(
        labels, dataset.train.groups, experiment.nodes, generator(experiment.seed, "partition")
    )
    if parts.draw_NC is not None:
        raise ExperimentError(
            f"partition.kind = '{experiment.partition.kind}': nodes draw from one pool, so that nothing of theirs can "
            "be left out; use another, such as 'dirichlet'"
        )
    held, _ = hold_out(parts, labels, experiment.validation, experiment.seed)
    if unit == "node" and overlapping(held):
        raise ExperimentError("unit = 'node': nodes share items, so a node cannot be left out; use unit 'example'")
    there = len(held) if unit == "node" else len(np.unique(np.concatenate(held)))
    if canaries > there:
        what = "nodes" if unit == "node" else "training items"
        raise ExperimentError(f"canaries = {canaries}: there are only {there} {what}; use at most so many")
    return held


def _sow_examples(labels_M: Array, held: list[Array], inside_K: Array, classes: int, rng: np.random.Generator) -> _Sown:
    """Wrong labels for some items, drawn from all that are held."""
    chosen_K = np.sort(rng.choice(np.unique(np.concatenate(held)), size=len(inside_K), replace=False))
    labels_M[chosen_K] = (labels_M[chosen_K] + rng.integers(1, classes, size=len(inside_K))) % classes
    kept = [np.setdiff1d(own, chosen_K[~inside_K]) for own in held]
    node_M = np.full(len(labels_M), -1)
    for node, own in enumerate(held):
        node_M[own] = node
    return _Sown(labels_M, kept, chosen_K, np.arange(len(inside_K)), node_M[chosen_K])


def _sow_nodes(labels_M: Array, held: list[Array], inside_K: Array, classes: int, rng: np.random.Generator) -> _Sown:
    """A relabelling for each of some nodes."""
    chosen_K = np.sort(rng.choice(len(held), size=len(inside_K), replace=False))
    for node in chosen_K:
        labels_M[held[node]] = relabelling(classes, rng)[labels_M[held[node]]]
    out = set(chosen_K[~inside_K].tolist())
    kept = [own for node, own in enumerate(held) if node not in out]
    items_Q = np.concatenate([held[node] for node in chosen_K])
    canary_Q = np.repeat(np.arange(len(chosen_K)), [len(held[node]) for node in chosen_K])
    return _Sown(labels_M, kept, items_Q, canary_Q, np.full(len(items_Q), -1))


def relabelling(classes: int, rng: np.random.Generator) -> Array:
    """A permutation of the classes that leaves none as it was, all of them with equal chance."""
    while True:
        drawn_C = rng.permutation(classes)
        if (drawn_C != np.arange(classes)).all():
            return drawn_C
