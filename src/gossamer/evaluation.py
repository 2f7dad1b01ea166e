"""How good the models of a federation are: every node's own, and the one for all.

On a graph the one for all is the mean of the nodes' models, whether or not they ever merge: nothing of it enters the
training.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gossamer.counts import Counts
from gossamer.errors import GossamerError, node_error
from gossamer.population import folded_mean
from gossamer.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.federation import Federation
    from gossamer.methods import Task


def model_task(federation: Federation, node: int, round: int, before: bool = False) -> Task:
    """The task whose resulting row is a node's model after `round` rounds are done.

    `before`: as its local work left it, before the exchange of the round.
    """
    view = federation.view(node, round, np.arange(federation.nodes))
    state = None if federation.has_server else federation.population.state_of(node)
    if state is not None and before and node in federation.participants(round - 1):
        source = federation.exact or federation.sent
        state = {**state, **{name: source[name][node] for name in state.keys() & source.keys()}}
    return federation.model(node, view, state)


def merge_models(federation: Federation, round: int, before: bool = False) -> None:
    """Write the server's row, or without a server the mean of the honest nodes' rows (what the rule makes of them,
    where rows have no mean), into `federation.merged` [D]."""
    if federation.has_server:
        federation.merged.copy_(federation.population.state["row"][0])
    else:
        rows = (model_task(federation, node, round, before).row for node in federation.placement.honest.tolist())
        rule = federation.experiment.aggregator
        if rule.whole:
            import torch

            rows_ND = torch.stack(list(rows))
            merged_D = rule.aggregate(rows_ND, rows_ND.new_ones(len(rows_ND)), None, federation.layout)
        else:
            merged_D = folded_mean(rows)
        federation.merged.copy_(merged_D)


def reestimate(federation: Federation, round: int) -> None:
    """Replace the BatchNorm statistics of the merged row by those of its own activations, if the plan asks for it.

    They are the plain average over `evaluate.batch_norm_batches` batches drawn from all nodes' training items, dropout
    off. That looks at data no single place has: it belongs to an evaluation, not to the method.
    """
    import torch

    batches = federation.experiment.evaluate.batch_norm_batches
    if not batches:
        return
    resident, items = federation.resident, federation.items
    norms = [m for m in resident.module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    resident.load(federation.merged)
    resident.module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    pool = np.concatenate(federation.shards.train)
    rng = generator(federation.experiment.seed, "batch statistics", round=round)
    size = min(len(pool), max(2, federation.experiment.learner.batch_size))
    with torch.no_grad():
        for _ in range(batches):
            resident.module(items.inputs[torch.from_numpy(rng.choice(pool, size=size, replace=False))])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    resident.store_buffers()
    federation.merged.copy_(resident.row)


def disagreement(federation: Federation, round: int, before: bool = False) -> list[float]:
    """||x_i - merged||^2 of every honest node over the trained columns, in float64.

    Their mean is the consensus distance (Kong et al. 2021).
    """
    trained = slice(0, federation.layout.trainable)
    found = []
    for node in federation.placement.honest.tolist():
        apart_T = model_task(federation, node, round, before).row[trained] - federation.merged[trained]
        found.append(float(apart_T.double().square().sum()))
    return found


def layers(federation: Federation, round: int, before: bool = False) -> list[dict[str, object]]:
    """Of every trained tensor: the mean variance of its numbers at the nodes, that at the merged model, and the mean
    squared distance between them."""
    import torch

    rows = [model_task(federation, node, round, before).row for node in federation.placement.honest.tolist()]
    found: list[dict[str, object]] = []
    for entry in federation.layout.entries:
        if not entry.trainable:
            continue
        part = slice(entry.start, entry.stop)
        merged = federation.merged[part].double()
        own = [row[part].double() for row in rows]
        found.append(
            {
                "round": round,
                "layer": entry.name,
                "variance": float(torch.stack([x.var(correction=0) for x in own]).mean()),
                "variance_merged": float(merged.var(correction=0)),
                "distance": float(torch.stack([(x - merged).square().sum() for x in own]).mean()),
            }
        )
    return found


def evaluate_node(
    federation: Federation, node: int, round: int, test: bool, before: bool = False
) -> tuple[Counts, Counts]:
    """(validation, test) counts of one node's own model, on the node's view of the inputs."""
    trainer, items, shards = federation.trainer, federation.items, federation.shards
    try:
        task = model_task(federation, node, round, before)
        if task.steps == 0:
            federation.resident.load(task.row)
        else:
            trainer.train(task, node, round)
        classes = len(shards.classes)
        own = shards.validation[node]
        validation = trainer.measure(items.inputs[own], items.labels[own], classes)
        if not test:
            return validation, Counts.none(classes)
        inputs, labels = test_part(federation, 0, len(federation.test_items))
        found = trainer.measure(at_node(federation, inputs, node), labels, classes)
        return validation, found + attacked(federation, node)
    except GossamerError:
        raise
    except Exception as error:
        raise node_error(error, node, round, "evaluate") from error


def evaluate_merged(federation: Federation, round: int, start: int, stop: int) -> Counts:
    """Counts of the merged row on a range of the test items (with pooled normalisation)."""
    try:
        federation.resident.load(federation.merged)
        inputs, labels = test_part(federation, start, stop)
        found = federation.trainer.measure(inputs, labels, len(federation.shards.classes))
        return found + attacked(federation, -1) if start == 0 else found
    except GossamerError:
        raise
    except Exception as error:
        raise node_error(error, -1, round, "evaluate") from error


def attacked(federation: Federation, node: int) -> Counts:
    """How often the model in the resident module says what the attack wants it to."""
    none = Counts.none(len(federation.shards.classes))
    if federation.goals is None:
        return none
    inputs, goals = federation.goals
    if node >= 0:
        inputs = at_node(federation, inputs, node)
    found = federation.trainer.measure(inputs, goals, len(federation.shards.classes))
    return dataclasses.replace(none, aimed=int(found.true_C.sum()), hit=int(found.hits_C.sum()))


def test_part(federation: Federation, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """A range of the test items."""
    items, chosen = federation.items, federation.test_items
    if len(chosen) == len(federation.shards.test_labels):
        return items.test_inputs[start:stop], items.test_labels[start:stop]
    return items.test_inputs[chosen[start:stop]], items.test_labels[chosen[start:stop]]


def at_node(federation: Federation, inputs: Tensor, node: int) -> Tensor:
    """Inputs that were normalised with pooled statistics, as this node would normalise them itself."""
    affine = federation.shards.node_affine
    if affine is None:
        return inputs
    import torch

    scale, offset = (torch.from_numpy(a[node]).to(inputs.dtype) for a in affine)
    shape = (1, -1, *[1] * (inputs.dim() - 2))
    return inputs * scale.view(shape) + offset.view(shape)
