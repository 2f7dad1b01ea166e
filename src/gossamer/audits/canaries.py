"""Canaries: examples or nodes planted in an experiment, each in or out by a fair coin.

M training items, K canaries, Q items that are scored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.groundwork import load_dataset
from gossamer.preprocessing import hold_out
from gossamer.randomness import generator

if TYPE_CHECKING:
    from gossamer.data import Dataset
    from gossamer.experiment import Experiment

Array = np.ndarray[Any, Any]
Unit = Literal["example", "node"]

FEWEST = 20
"""Canaries at the least: of fewer nothing can be said."""


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
    """The node of the run that has, or would have, each scored item; -1 where it is out with its node."""


def plant(experiment: Experiment, canaries: int, unit: Unit) -> Planted:
    """Plant so many canaries in the training data of an experiment.

    Items are dealt, and validation parts kept aside, as the experiment says, before any label is changed. Then labels
    of canaries are replaced by wrong ones: of an example by any other with equal chance; of all items of a node by a
    relabelling drawn for that node, which leaves no class as it was. Canaries whose coin says so are taken out, and
    nobody else's items change. The run has no validation parts, since a canary that is in has to be trained on.
    Raises ExperimentError where this cannot be done.
    """
    if unit not in ("example", "node"):
        raise ExperimentError(f"unit = '{unit}': the canaries are of unit 'example' or 'node'")
    if canaries < FEWEST:
        raise ExperimentError(f"canaries = {canaries}: so few show nothing; use {FEWEST} or more")
    if experiment.hostile.kind != "nobody":
        raise ExperimentError(
            f"hostile.kind = '{experiment.hostile.kind}': an audit asks what honest training gives away; set it to 'nobody'"
        )
    dataset = load_dataset(experiment)
    held = _held(experiment, dataset)
    labels_M = np.array(dataset.train.labels, dtype=np.int64)
    candidates = np.unique(np.concatenate(held)) if unit == "example" else np.arange(len(held))
    if canaries > len(candidates):
        what = "training items" if unit == "example" else "nodes"
        raise ExperimentError(f"canaries = {canaries}: there are {len(candidates)} {what}; use at most so many")
    rng, classes = generator(experiment.seed, "canaries"), len(dataset.classes)
    chosen_K = np.sort(rng.choice(candidates, size=canaries, replace=False))
    inside_K = rng.random(canaries) < 0.5
    if inside_K.all() or not inside_K.any():
        raise ExperimentError(f"seed = {experiment.seed}: all {canaries} coins fell the same way; use another seed")
    if unit == "example":
        labels_M[chosen_K] = (labels_M[chosen_K] + rng.integers(1, classes, size=canaries)) % classes
        out = chosen_K[~inside_K]
        kept = [np.setdiff1d(own, out, assume_unique=True) for own in held]
        items_Q, canary_Q = chosen_K, np.arange(canaries)
        node_Q = np.full(canaries, -1)
        for node in reversed(range(len(held))):
            node_Q[np.isin(chosen_K, held[node])] = node
    else:
        _require_apart(experiment, held)
        for node in chosen_K:
            labels_M[held[node]] = relabelling(classes, rng)[labels_M[held[node]]]
        left = np.setdiff1d(np.arange(len(held)), chosen_K[~inside_K])
        kept = [held[node] for node in left]
        items_Q, canary_Q = np.concatenate([held[node] for node in chosen_K]), np.repeat(np.arange(canaries), [len(held[node]) for node in chosen_K])
        node_Q = np.full(len(items_Q), -1)
    if empty := [node for node, own in enumerate(kept) if len(own) == 0]:
        raise ExperimentError(f"canaries = {canaries}: all items of node {empty[0]} would be left out; use fewer")
    trained = np.unique(np.concatenate(kept))
    train = dataclasses.replace(dataset.train, inputs=dataset.train.inputs[trained], labels=labels_M[trained], groups=None)
    given = dataclasses.replace(dataset, train=train, group_names=())
    scored = dataclasses.replace(dataset.train, inputs=dataset.train.inputs[items_Q], labels=labels_M[items_Q], groups=None)
    planted = experiment.replace(
        name=f"{experiment.name}-canaries",
        data=given,
        partition=[np.searchsorted(trained, own) for own in kept],
        nodes=len(kept),
        validation=0.0,
    )
    return Planted(
        planted,
        planted.replace(data=dataclasses.replace(given, test=scored)),
        inside_K,
        canary_Q,
        node_Q,
    )
