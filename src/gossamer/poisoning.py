"""What hostile nodes train on: their items as the attack makes them, and the items of one host under many names.

Poisoned items are copies at the end of the arrays: nobody honest ever holds one. M items, N nodes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Attack
    from gossamer.experiment import Experiment
    from gossamer.placement import Placement
    from gossamer.preprocessing import Shards
    from gossamer.topologies import Array
    from gossamer.training import NodeItems


def poisoned(shards: Shards, attack: Attack, placement: Placement, seed: int) -> Shards:
    """The shards of all names, with what hostile ones train on in place of what they were dealt.

    Raises ExperimentError where the attack is not for such data, or where nodes draw from one pool.
    """
    if attack.poisons:
        shards = _poisoned(shards, attack, placement, seed)
    return shards if placement.host < 0 else _named(shards, placement)


def _poisoned(shards: Shards, attack: Attack, placement: Placement, seed: int) -> Shards:
    if shards.draw_NC is not None:
        raise ExperimentError(
            f"attack.kind = '{attack.kind}' changes a node's own items, but with this partition nodes draw from one "
            "pool; use another, such as 'dirichlet'"
        )
    if shards.labels.ndim > 1:
        raise ExperimentError(f"attack.kind = '{attack.kind}' needs one label an item, not sequences of them")
    train, sizes, histogram_NC = list(shards.train), list(shards.sizes), shards.histogram_NC.copy()
    inputs, labels, total = [shards.inputs], [shards.labels], len(shards.labels)
    hosts = placement.hostile if placement.host < 0 else placement.hostile[:1]
    for node in hosts.tolist():
        held = np.concatenate([train[node], attack.recruits(shards.labels)])
        mine, theirs = attack.poison(
            shards.inputs[held], shards.labels[held], len(shards.classes), generator(seed, "poison", node)
        )
        if len(mine) == 0 or len(mine) != len(theirs):
            raise ExperimentError(f"attack.kind = '{attack.kind}' leaves node {node} no items to train on")
        inputs.append(np.asarray(mine, shards.inputs.dtype))
        labels.append(np.asarray(theirs, np.int64))
        train[node] = np.arange(total, total + len(mine))
        total, sizes[node] = total + len(mine), len(mine)
        histogram_NC[node] = np.bincount(labels[-1], minlength=len(shards.classes))
    return dataclasses.replace(
        shards,
        inputs=np.concatenate(inputs),
        labels=np.concatenate(labels),
        train=train,
        sizes=tuple(sizes),
        histogram_NC=histogram_NC,
    )


def _named(shards: Shards, placement: Placement) -> Shards:
    """The host's shard under each of its names."""
    index = np.concatenate([np.arange(len(shards.train)), np.full(len(placement.copies), placement.host)])
    affine = shards.node_affine
    return dataclasses.replace(
        shards,
        train=[shards.train[i] for i in index],
        validation=[shards.validation[i] for i in index],
        sizes=tuple(shards.sizes[i] for i in index),
        names=tuple(shards.names[i] for i in index) if shards.names else (),
        draw_NC=None if shards.draw_NC is None else shards.draw_NC[index],
        node_affine=None if affine is None else (affine[0][index], affine[1][index]),
        histogram_NC=shards.histogram_NC[index],
    )


def goals_of(experiment: Experiment, items: NodeItems, test_items: Array, classes: int) -> tuple[Tensor, Tensor] | None:
    """Test inputs as the attack shows them, and the classes that it wants them to be taken for; None: it has no aim."""
    import torch

    if experiment.hostile.kind == "nobody":
        return None
    chosen = torch.from_numpy(test_items)
    inputs, labels = items.test_inputs[chosen].numpy(), items.test_labels[chosen].numpy()
    found = experiment.attack.succeeded(inputs, labels, classes) if labels.ndim == 1 else None
    if found is None or not len(found[0]):
        return None
    return torch.from_numpy(np.ascontiguousarray(found[0])), torch.from_numpy(np.asarray(found[2], np.int64))
