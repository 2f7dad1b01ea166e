"""What an experiment is made of before the first round: its data dealt, its model, its first messages.

A federation is built from these, and so is a plan, which needs no weights: all of it works on meta tensors too.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gossamer import wire
from gossamer.aggregators import Gossiping, Remembering
from gossamer.bases import with_base, with_tokenizer
from gossamer.bounding import BELOW, Bound
from gossamer.coding import Chain
from gossamer.errors import ExperimentError, GossamerError
from gossamer.methods import Context, Result, View
from gossamer.placement import place
from gossamer.poisoning import poisoned
from gossamer.preprocessing import shard
from gossamer.privacy import Mechanism
from gossamer.privacy.central import Central
from gossamer.randomness import generator, torch_seeded
from gossamer.selection import selected
from gossamer.transforms import numbers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gossamer.data import Dataset
    from gossamer.experiment import Experiment
    from gossamer.layout import Layout
    from gossamer.passages import Step
    from gossamer.placement import Placement
    from gossamer.preprocessing import Shards
    from gossamer.wire import Message


def load_dataset(experiment: Experiment) -> Dataset:
    """The data set of an experiment, from its folder or that of GOSSAMER_DATA."""
    folder = experiment.data_folder or os.environ.get("GOSSAMER_DATA", "")
    dataset = with_tokenizer(experiment.data, experiment.model).load(Path(folder).expanduser() if folder else None)
    return selected(dataset, experiment.data.only, experiment.data.per_class, experiment.seed)


def deal(experiment: Experiment, dataset: Dataset) -> tuple[Shards, Placement]:
    """Who holds what, preprocessed, and who is hostile; the host of Sybils holds a share as every node does."""
    nodes, sybils = experiment.nodes, experiment.hostile.many_names
    shards = shard(
        dataset,
        experiment.partition,
        nodes + 1 if nodes is not None and sybils else nodes,
        experiment.preprocess,
        experiment.validation,
        experiment.seed,
        experiment.dtype,
        pool=experiment.method.pools_data,
    )
    placement = place(experiment, len(shards.train) - sybils)
    if experiment.root:
        pool = np.setdiff1d(np.arange(len(shards.labels)), np.concatenate(shards.validation))
        if experiment.root > len(pool):
            raise ExperimentError(f"root = {experiment.root}: there are only {len(pool)} training items")
        root = generator(experiment.seed, "root").choice(pool, size=experiment.root, replace=False)
        shards = dataclasses.replace(shards, root=np.sort(root))
    return poisoned(shards, experiment.attack, placement, experiment.seed), placement


def initial_module(experiment: Experiment, shape: tuple[int, ...], classes: int, node: int = -1) -> nn.Module:
    """A fresh module with the initial values of `init`, drawn for a node or (node = -1) for all."""
    from torch.nn.parameter import is_lazy

    with torch_seeded(experiment.seed, "init", node):
        try:
            module = with_base(experiment.model).build(shape, classes)
        except GossamerError:
            raise
        except Exception as error:
            name = getattr(experiment.model, "name", "") or experiment.model.kind
            raise ExperimentError(f"model '{name}' could not be built: {type(error).__name__}: {error}") from error
        for name, parameter in module.named_parameters():
            if is_lazy(parameter):
                raise ExperimentError(
                    f"model: parameter '{name}' has no shape yet; give the sizes that a lazy layer infers"
                )
        if experiment.init.kind != "default":
            _initialise(module, experiment.init.kind)
        return experiment.parametrisation.applied(module)


def _initialise(module: nn.Module, kind: str) -> None:
    from torch import nn

    for name, parameter in module.named_parameters():
        if parameter.dim() < 2:
            if name.endswith("bias") or kind == "zeros":
                nn.init.zeros_(parameter)
        elif kind == "kaiming":
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif kind == "xavier":
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)


def context_of(
    experiment: Experiment, shards: Shards, layout: Layout, row_D: Tensor, shared_S: Tensor | None = None
) -> Context:
    """What a method knows before the first round; `row_D` is the row that is drawn for all nodes, `shared_S` the frozen
    weights that a method may merge into."""
    nodes = len(shards.train)
    labels_NC = shards.histogram_NC if shards.draw_NC is None else shards.draw_NC
    return Context(
        nodes,
        experiment.rounds,
        layout,
        experiment.learner,
        shards.sizes,
        labels_NC if shards.labels.ndim == 1 else None,
        row_D if experiment.init.shared else None,
        experiment.seed,
        experiment.parametrisation.ranks(nodes),
        shared_S,
    )


def setup_bytes(experiment: Experiment, module: nn.Module, context: Context) -> int:
    """Bytes that one node gets before the first round."""
    if experiment.method.world == "alone":
        return 0
    told = experiment.method.setup(context)
    frozen = 0 if experiment.parametrisation.drawn else frozen_bytes(module, context.layout)
    return frozen + ((context.nodes - 1) * wire.size(told) if told else 0)


def frozen_bytes(module: nn.Module, layout: Layout) -> int:
    """Bytes of the message that holds the frozen part."""
    parameters = dict(module.named_parameters())
    return wire.size({name: parameters[name].data for name in layout.frozen})


def first_messages(experiment: Experiment, context: Context, row_D: Tensor) -> tuple[Message, Message]:
    """Node 0's message and the server's, as the method makes them, found by finishing work never done.

    Methods are pure, so this changes nothing; it works on meta tensors too.
    """
    method, trainable = experiment.method, context.layout.trainable
    state, own = method.init(context, row_D)
    view = View(0, 0, context, context.samples[0], context.nodes)
    down = method.publish(state, view)
    task = method.prepare(own, down, view)
    rate = experiment.learner.rate(0, experiment.rounds)
    slots = experiment.learner.fresh(row_D[:trainable])
    result = Result(row_D, slots, steps=1, lr=rate, loss=0.0, accuracy=0.0)
    outbox, _ = method.finish(task, result, own, view)
    missing = corrects(experiment, row_D, context.layout) and "row" not in outbox.common
    if missing or (experiment.aggregator.whole and set(outbox.common) != {"row"}):
        raise ExperimentError(
            f"aggregator.kind = '{experiment.aggregator.kind}' works on models, but method.kind = '{method.kind}' "
            f"sends {', '.join(outbox.common)}; use a method that sends its row, such as 'dsgd'"
        )
    message = {name: value.clone() for name, value in outbox.common.items()}
    privacy = experiment.privacy
    if privacy.guards in ("messages", "sums") and not method.pools_data:
        for name, value in message.items():
            if not numbers(value):
                raise ExperimentError(
                    f"privacy.kind = '{privacy.kind}': '{name}', which method.kind = '{method.kind}' sends besides, is "
                    "not bounded by clip; use another method, such as 'fedavg', or privacy.kind = 'local'"
                )
    if isinstance(privacy, Mechanism) and any(not entry.trainable for entry in context.layout.entries):
        raise ExperimentError(
            f"privacy.kind = '{privacy.kind}': the model has buffers that change in training (BatchNorm's running "
            "statistics), which noise spoils and examples share; use nn.GroupNorm instead, such as "
            "nn.GroupNorm(4, channels)"
        )
    if follows(experiment):
        message[BELOW], down = row_D.new_zeros(1), {**down, "clip": row_D.new_zeros(1).double()}
    return message, down if method.world == "server" else {}


def follows(experiment: Experiment) -> bool:
    """Whether the bound on messages follows their norms: then nodes say whether theirs was shorter, and are told."""
    return isinstance(experiment.privacy, Central) and experiment.privacy.quantile is not None


def chains(
    experiment: Experiment, layout: Layout, message: Message, down: Message, level: Tensor | None = None
) -> tuple[Chain, Chain]:
    """The ways of the messages of nodes and of a server, from the first of each; `level` [1] holds the bound on
    messages where privacy has one."""
    method, seed = experiment.method, experiment.seed
    bounds: tuple[Step, ...] = ()
    if experiment.privacy.guards == "messages":
        bounds = (Bound(message[next(iter(message))].new_ones(1) if level is None else level),)
    up = Chain((*bounds, *method.packing(down=False), *experiment.transforms), message, layout, seed, "transform")
    steps = (*method.packing(down=True), *experiment.downlink) if down else ()
    return up, Chain(steps, down, layout, seed, "downlink")


def travelling(experiment: Experiment, message: Message, made: Message) -> Message:
    """An encoded message with what a rule that remembers has nodes send besides; `made` is it as the method made it.

    Where it compares what local work changed, a node's own sum of that, which receivers cannot know otherwise; where
    records are passed on, one of them. The record has its place in every message, whether or not there is one to send:
    who is told nothing shows.
    """
    import torch

    rule = experiment.aggregator
    if not isinstance(rule, Remembering) or experiment.method.world != "graph":
        return message
    history, sums = max(made.values(), key=lambda value: value.numel()), rule.remember == "updates"
    more = {"history": history} if sums else {}
    if isinstance(rule, Gossiping):
        record = {"record.history": history} if sums else {f"record.{name}": value for name, value in message.items()}
        more |= {**record, "record.about": torch.zeros(3, dtype=torch.int64, device=history.device)}
    return {**message, **more}


def corrects(experiment: Experiment, row_D: Tensor, layout: Layout) -> bool:
    """Whether the aggregator is linear with a second half."""
    rule = experiment.aggregator
    return rule.linear and rule.statistics(row_D, layout) is not None
