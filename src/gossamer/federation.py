"""A federation: an experiment made ready to run. What every back end works on.

Everything here is built once, before worker processes are forked, and is the same in all of them: data, the resident
module, the population in shared memory. `local_work` and `evaluate_node` then depend on node and round only.
"""

from __future__ import annotations

import math
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gossamer import wire
from gossamer.counts import Counts
from gossamer.errors import ExperimentError, GossamerError, NodeError
from gossamer.methods import Context, Inbox, Result, Task, View
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.population import Population, as_dtype, folded_mean, shared
from gossamer.preprocessing import shard
from gossamer.randomness import generator, torch_seeded
from gossamer.resident import Resident
from gossamer.training import NodeItems, Trainer, check_batches, check_output

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from torch import Tensor, nn

    from gossamer.data import Dataset
    from gossamer.experiment import Experiment
    from gossamer.layout import Layout
    from gossamer.preprocessing import Shards
    from gossamer.topologies import Array
    from gossamer.wire import Message


@dataclass(frozen=True)
class Outcome:
    """What is recorded of one node's local work, and the weight of its message."""

    node: int
    weight: float
    loss: float
    accuracy: float


def load_dataset(experiment: Experiment) -> Dataset:
    """The data set of an experiment, from its folder or that of GOSSAMER_DATA."""
    folder = experiment.data_folder or os.environ.get("GOSSAMER_DATA", "")
    return experiment.data.load(Path(folder).expanduser() if folder else None)


def deal(experiment: Experiment, dataset: Dataset) -> Shards:
    """Who holds what, preprocessed."""
    return shard(
        dataset,
        experiment.partition,
        experiment.nodes,
        experiment.preprocess,
        experiment.validation,
        experiment.seed,
        experiment.dtype,
        pool=experiment.method.pools_data,
    )


def initial_module(experiment: Experiment, shape: tuple[int, ...], classes: int, node: int = -1) -> nn.Module:
    """A fresh module with the initial values of `init`, drawn for a node or (node = -1) for all."""
    from torch.nn.parameter import is_lazy

    with torch_seeded(experiment.seed, "init", node):
        try:
            module = experiment.model.build(shape, classes)
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
    return module


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


class Federation:
    """An experiment with its data dealt, its model bound to a row and its population allocated."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.method = experiment, experiment.method
        dtype = as_dtype(experiment.dtype)
        dataset = load_dataset(experiment)
        self.shards, self.licence = deal(experiment, dataset), dataset.licence
        del dataset  # The raw items, which are as large as the dealt ones.
        self.nodes = len(self.shards.train)
        self.has_server = self.method.world == "server"
        items = NodeItems.of(self.shards)
        shape = tuple(int(n) for n in self.shards.inputs.shape[1:])
        module = initial_module(experiment, shape, len(self.shards.classes))
        self.layout = experiment.parametrisation.layout(module)
        self.resident = Resident(module, self.layout, dtype)
        check_output(self.resident, items, len(self.shards.classes))
        check_batches(module, experiment.learner, self.shards.sizes, self.shards.draw_NC is not None)
        self.items, self.trainer = items, Trainer(experiment, self.resident, items)
        self.context = Context(self.nodes, experiment.rounds, self.layout, experiment.learner, self.shards.sizes)
        shared_row = self.resident.row.clone()
        distinct = not experiment.init.shared and not self.has_server

        def start(node: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            if not distinct:
                return self.method.init(self.context, shared_row)
            own = Resident(initial_module(experiment, shape, len(self.shards.classes), node), self.layout, dtype)
            if own.row.equal(shared_row):
                raise ExperimentError(
                    "init.shared = false: the model starts with the same numbers every time; pass a function or class "
                    "that builds it, not a module that is built, and no init.kind = 'zeros'"
                )
            return self.method.init(self.context, own.row)

        receivers = 1 if self.has_server else self.nodes
        self.population = Population.start(start, receivers, self.nodes)
        self._edges: Array | None = None
        self._cohort: tuple[int, Array] = (-1, np.empty(0, np.int64))
        self.setup_bytes = 0 if self.method.world == "alone" else frozen_bytes(module, self.layout)
        """Bytes of handing the frozen part to one node, before the first round."""
        self.stages, down = first_messages(experiment, self.context, shared_row)
        self.up_bytes, self.down_bytes = wire.size(self.stages[-1]), wire.size(down)
        self.received_like = self._decoded(self.stages[-1])
        """A message as its receiver sees it: names, shapes and types."""
        self.sent: dict[str, Tensor] = {}
        self.exact: dict[str, Tensor] = {}
        if not self.folds:
            self.sent = {name: shared(self.nodes, value) for name, value in self.received_like.items()}
            if experiment.transforms and not self.has_server:
                self.exact = {name: shared(self.nodes, value) for name, value in self.received_like.items()}
        self.merged = shared(1, self.resident.row)[0]
        evaluated = experiment.evaluate.nodes
        self.evaluated = np.arange(self.nodes)
        if evaluated != "all" and int(evaluated) < self.nodes:
            rng = generator(experiment.seed, "evaluated nodes")
            self.evaluated = np.sort(rng.choice(self.nodes, size=int(evaluated), replace=False))
        self.test_items = np.arange(len(self.shards.test_labels))
        count = experiment.evaluate.items
        if count != "all" and int(count) < len(self.test_items):
            rng = generator(experiment.seed, "test items")
            self.test_items = np.sort(rng.choice(len(self.test_items), size=int(count), replace=False))

    @property
    def folds(self) -> bool:
        """Whether messages are folded into one running mean as they arrive (a server with a linear aggregator)."""
        return self.has_server and self.experiment.aggregator.linear

    @property
    def merges(self) -> bool:
        """Whether there is one model for all to measure: the server's, or the mean of what neighbours agree on."""
        return self.method.world != "alone" and self.method.one_model

    # ---- who and when ------------------------------------------------------------------------------------------

    def participants(self, round: int) -> Array:
        """The nodes that take part in a round."""
        if self._cohort[0] != round:
            rng = generator(self.experiment.seed, "participants", round=round)
            self._cohort = (round, self.experiment.schedule.participants(self.nodes, round, rng))
        return self._cohort[1]

    def communicates(self, round: int) -> bool:
        """Whether messages are exchanged at the end of a round."""
        return self.method.world != "alone" and self.experiment.schedule.communicates(round, self.experiment.rounds)

    def edges(self, round: int) -> Array:
        """Directed edges (sender, receiver) of a round, before absent nodes are left out."""
        if self.method.world != "graph":
            return np.empty((0, 2), np.int64)
        varies = self.experiment.topology.varies
        if self._edges is None or varies:
            self._edges = edges_of(self.experiment.topology, self.nodes, self.experiment.seed, round)
        return self._edges

    def mixing(self, round: int, participants: Array) -> csr_array:
        """The mixing matrix of a communicating round; absent nodes keep their own row."""
        present = None if len(participants) == self.nodes else participants
        return mixing_matrix(self.edges(round), self.nodes, self.experiment.topology.weights, present)

    def view(self, node: int, round: int, participants: Array) -> View:
        """What the method may know at a node, or at the server (node = -1)."""
        sizes = self.shards.sizes
        samples = sizes[node] if node >= 0 else sum(sizes[int(k)] for k in participants)
        return View(node, round, self.context, samples, len(participants))

    # ---- local work --------------------------------------------------------------------------------------------

    def down(self, node: int, view: View) -> Message:
        """What a node hears before it trains: the server's message, or what it published to itself."""
        return self.method.publish(self.population.state_of(0 if self.has_server else node), view)

    def prepare(self, node: int, round: int, participants: Array) -> tuple[Task, View, Message]:
        """The task of one node, and what its receiver published."""
        view = self.view(node, round, participants)
        own, down = self.population.own_of(node), self.down(node, view)
        return self.method.prepare(own, down, view), view, down

    def finish(self, task: Task, result: Result, view: View, into: Message | None) -> tuple[Outcome, Message]:
        """Turn a result into the message sent (decoded, as its receiver sees it) and write what the node keeps.

        With `into` (views of shared arrays) the message is written there.
        """
        node = view.node
        outbox, changed = self.method.finish(task, result, self.population.own_of(node), view)
        self.population.write_own(node, changed)
        for name, rows in self.exact.items():
            rows[node].copy_(outbox.common[name])
        message = self._decoded(encoded(self.experiment, outbox.common))
        if into is not None:
            for name, value in message.items():
                into[name].copy_(value)
        return Outcome(node, outbox.weight, result.loss, result.accuracy), message

    def local_work(
        self, node: int, round: int, participants: Array, into: Message | None = None
    ) -> tuple[Outcome, Message]:
        """Prepare, train, finish at one node. Raises NodeError with the traceback of whatever went wrong there."""
        stage = "prepare"
        try:
            task, view, _ = self.prepare(node, round, participants)
            stage = "train"
            result = self.trainer.train(task, node, round)
            stage = "finish"
            return self.finish(task, result, view, into)
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, node, round + 1, stage) from error

    def _decoded(self, message: Message) -> Message:
        """A message as its receiver sees it; numbers that are no floats become those of the run, to be averaged."""
        for transform, like in zip(reversed(self.experiment.transforms), reversed(self.stages[:-1]), strict=True):
            message = transform.reverse(message, like)
        dtype = self.resident.row.dtype
        return {name: v if v.is_floating_point() else v.to(dtype) for name, v in message.items()}

    # ---- merging -----------------------------------------------------------------------------------------------

    def merge(self, receiver: int, inbox: Inbox, view: View) -> None:
        """Give one receiver what it heard and keep its new state."""
        index = max(receiver, 0)
        try:
            changed = self.method.merge(self.population.state_of(index), inbox, view)
            self.population.write_state(index, changed)
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, receiver, view.round + 1, "merge") from error
        for name, value in changed.items():
            if not math.isfinite(float(value.sum())):
                reason = f"its '{name}' holds NaN or infinity after aggregator '{self.experiment.aggregator.kind}'"
                raise NodeError(receiver, view.round + 1, "merge", reason)

    # ---- models and how good they are --------------------------------------------------------------------------

    def model_task(self, node: int, round: int) -> Task:
        """The task whose resulting row is a node's model after `round` rounds are done."""
        view = self.view(node, round, np.arange(self.nodes))
        return self.method.model(self.population.own_of(node), self.down(node, view), view)

    def merge_models(self, round: int) -> None:
        """Write the server's row, or without a server the mean of the nodes' rows, into `merged` [D]."""
        if self.has_server:
            self.merged.copy_(self.population.state["row"][0])
        else:
            self.merged.copy_(folded_mean(self.model_task(node, round).row for node in range(self.nodes)))

    def consensus_distance(self, round: int) -> float:
        """(1/N) sum_i ||x_i - merged||^2 over the nodes' rows (Kong et al. 2021), in float64."""
        total = 0.0
        for node in range(self.nodes):
            total += float((self.model_task(node, round).row - self.merged).double().square().sum())
        return total / self.nodes

    def evaluate_node(self, node: int, round: int, test: bool) -> tuple[Counts, Counts]:
        """(validation, test) counts of one node's own model, on the node's view of the inputs."""
        try:
            task = self.model_task(node, round)
            if task.steps == 0:
                self.resident.load(task.row)
            else:
                self.trainer.train(task, node, round)
            classes = len(self.shards.classes)
            own = self.shards.validation[node]
            validation = self.trainer.measure(self.items.inputs[own], self.items.labels[own], classes)
            if not test:
                return validation, Counts.none(classes)
            inputs, labels = self.test_part(0, len(self.test_items))
            return validation, self.trainer.measure(self.at_node(inputs, node), labels, classes)
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, node, round, "evaluate") from error

    def evaluate_merged(self, round: int, start: int, stop: int) -> Counts:
        """Counts of the merged row on a range of the test items (with pooled normalisation)."""
        try:
            self.resident.load(self.merged)
            return self.trainer.measure(*self.test_part(start, stop), len(self.shards.classes))
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, -1, round, "evaluate") from error

    def test_part(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """A range of the test items."""
        if len(self.test_items) == len(self.shards.test_labels):
            return self.items.test_inputs[start:stop], self.items.test_labels[start:stop]
        chosen = self.test_items[start:stop]
        return self.items.test_inputs[chosen], self.items.test_labels[chosen]

    def at_node(self, inputs: Tensor, node: int) -> Tensor:
        """Inputs that were normalised with pooled statistics, as this node would normalise them itself."""
        if self.shards.node_affine is None:
            return inputs
        import torch

        scale, offset = (torch.from_numpy(a[node]).to(inputs.dtype) for a in self.shards.node_affine)
        shape = (1, -1, *[1] * (inputs.dim() - 2))
        return inputs * scale.view(shape) + offset.view(shape)

    def check_finite(self, round: int) -> None:
        """Raise NodeError where a row holds NaN or infinity, so that no such state is ever saved."""
        import torch

        for name, values in self.population.tensors().items():
            # Row by row, and by the sum, which is finite only if all are: no copy of the population is made.
            sums = (float(row.sum(dtype=torch.float64)) for row in values)
            bad = next((index for index, total in enumerate(sums) if not math.isfinite(total)), None)
            if bad is None:
                continue
            node = -1 if name.startswith("state.") and self.has_server else bad
            where = "the server's state" if node < 0 else "its state"
            raise NodeError(
                node, round, "merge", f"{where} '{name}' holds NaN or infinity; lower learner.lr or clip gradients"
            )


def encoded(experiment: Experiment, message: Message) -> Message:
    """A message as it goes on the wire."""
    for transform in experiment.transforms:
        message = transform.forward(message)
    return message


def frozen_bytes(module: nn.Module, layout: Layout) -> int:
    """Bytes of the message that holds the frozen part."""
    parameters = dict(module.named_parameters())
    return wire.size({name: parameters[name].data for name in layout.frozen})


def first_messages(experiment: Experiment, context: Context, row_D: Tensor) -> tuple[list[Message], Message]:
    """Node 0's message before and after each transform, and the server's message, found by finishing work never done.

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
    stages = [{name: value.clone() for name, value in outbox.common.items()}]
    for transform in experiment.transforms:
        stages.append(transform.forward(stages[-1]))
    return stages, down if method.world == "server" else {}


def node_error(error: Exception, node: int, round: int, stage: str) -> NodeError:
    """A node's exception with its own traceback."""
    return NodeError(node, round, stage, f"{type(error).__name__}: {error}", traceback.format_exc())
