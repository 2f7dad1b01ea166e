"""A federation: an experiment made ready to run. What every back end works on.

Everything here is built once, before worker processes are forked, and is the same in all of them: data, the resident
module, the population in shared memory. `local_work` then depends on node and round only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gossamer import wire
from gossamer.adversary import Adversary
from gossamer.bounding import BELOW
from gossamer.coding import averaged
from gossamer.errors import ExperimentError, GossamerError, NodeError, node_error
from gossamer.example_gradients import check_examples
from gossamer.exchanges import Exchanges
from gossamer.features import featured, keeps_features
from gossamer.groundwork import (
    chains,
    context_of,
    corrects,
    deal,
    first_messages,
    follows,
    initial_module,
    load_dataset,
    setup_bytes,
    travelling,
)
from gossamer.guarding import Guard, first_level
from gossamer.histories import histories_of
from gossamer.lengths import Lengths
from gossamer.methods import Inbox, Result, Task, View
from gossamer.operations import survey
from gossamer.placement import besieged, require_enough
from gossamer.poisoning import goals_of
from gossamer.population import Population, as_dtype, shared
from gossamer.randomness import generator
from gossamer.resident import Resident
from gossamer.sealing import seal
from gossamer.tokens import check_tokens
from gossamer.traffic import trace
from gossamer.training import NodeItems, Trainer, check_batches, check_output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from gossamer.experiment import Experiment
    from gossamer.operations import Operation
    from gossamer.topologies import Array
    from gossamer.wire import Message


TRIAL_ITEMS = 512
"""Items at most on which an attacker tries what it could send."""


@dataclass(frozen=True)
class Work:
    """By the clock: local work of a node that has begun."""

    node: int
    tick: int
    """How many the node has done before."""
    round: int
    """Round of the run in which it began."""
    snapshot: int
    """Slot of the state it began from."""
    result: int
    """Mail slot of what comes out."""


@dataclass(frozen=True)
class Outcome:
    """What is recorded of one node's local work, and the weight of its message."""

    node: int
    weight: float
    loss: float
    accuracy: float
    cut: int = 0
    """Numbers too large for a secure sum, which were cut off."""


class Federation:
    """An experiment with its data dealt, its model bound to a row and its population allocated."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.method = experiment, experiment.method
        dtype = as_dtype(experiment.dtype)
        dataset = load_dataset(experiment)
        (self.shards, self.placement), self.licence = deal(experiment, dataset), dataset.licence
        del dataset  # The raw items, which are as large as the dealt ones.
        self.nodes = len(self.shards.train)
        self.has_server = self.method.world == "server"
        items = NodeItems.of(self.shards)
        self.shape = shape = tuple(int(n) for n in self.shards.inputs.shape[1:])
        """Of an item as the model takes it."""
        module = initial_module(experiment, shape, len(self.shards.classes))
        self.layout = experiment.parametrisation.layout(module)
        self.resident = Resident(module, self.layout, dtype)
        self.whole = module
        """The model with all its parts; the resident module may be no more than what comes after the frozen ones."""
        check_output(self.resident, items, len(self.shards.classes))
        check_tokens(module, self.shards, experiment)
        if keeps_features(experiment, module, self.shards):
            self.shards, module = featured(module, self.shards, dtype)
            self.resident, items = Resident(module, self.layout, dtype), NodeItems.of(self.shards)
        check_batches(module, experiment.learner, self.shards.sizes, self.shards.draw_NC is not None)
        if experiment.privacy.guards == "gradients":
            check_examples(module)
        self.items = items
        shared_row = self.resident.row.clone()
        into_base = self.method.merges_into_base
        shared_S = self.resident.shared(dtype) if into_base else None
        self.context = context_of(experiment, self.shards, self.layout, shared_row, shared_S)
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
        if into_base:
            self.resident.share(self.population.state["shared"][0])
        self.steps_N = np.array([experiment.learner.steps_for(size) for size in self.shards.sizes])
        """Local steps of each node's work."""
        self._cohort: tuple[int, Array] = (-1, np.empty(0, np.int64))
        self.setup_bytes = setup_bytes(experiment, self.whole, self.context)
        """Bytes that one node gets before the first round: the frozen part, and what the others tell it."""
        message, down = first_messages(experiment, self.context, shared_row)
        level = first_level(experiment, shared_row)
        self.up, self.downlink = chains(experiment, self.layout, message, down, level)
        sent = sum(value.numel() for value in self.up.sent.values())
        self.guard = Guard(experiment, self.shards.sizes, sent, level)
        self.trainer = Trainer(experiment, self.resident, items, noise=self.guard.noise)
        self.seal = seal(experiment, self.up.sent, self.shards.sizes, self.guard.noise)
        """How messages become integers that are summed in secret."""
        self.up.remember(self.nodes, {k: v.new_zeros(v.shape) for k, v in message.items()} if distinct else message)
        on_wire = self.up.sent if self.seal is None else self.seal.outline()
        self.up_bytes, self.down_bytes = (
            wire.size(travelling(experiment, on_wire, message)),
            wire.size(self.downlink.sent),
        )
        self.lengths = Lengths(experiment, self.context, self.up, self.downlink, self.up_bytes, self.down_bytes)
        self.sent_bytes = shared(self.nodes, shared_row.new_empty((), dtype=as_dtype("int64")))
        """Of each node's last message."""
        self.sent_bytes.numpy()[:] = self.lengths.up
        self.context = replace(self.context, shared_S=None)  # It is part of the population now.
        self._told: tuple[int, Message, int] = (-1, {}, 0)
        self.exchanges = Exchanges(experiment, self.nodes, self.up_bytes, besieged(experiment.topology, self.placement))
        self.exchanges.check()
        require_enough(experiment.aggregator, self._heard())
        self.received_like = self.up.received() if self.seal is None else self.seal.outline()
        """A message as its receiver sees it: names, shapes and types."""
        on_graph = self.method.world == "graph"
        self.adversary = Adversary(
            experiment, self.placement, self.population, self.up, self.layout, self.sent_bytes, on_graph
        )
        rule = experiment.aggregator
        asked = self.has_server and len(message) == 1 and experiment.clock.kind == "rounds"
        if asked and not (rule.trusts or rule.history or self.method.gathers):
            self.adversary.trial = self._trial
        self.histories = histories_of(experiment, self.nodes, self.received_like)
        self.sent: dict[str, Tensor] = {}
        self.exact: dict[str, Tensor] = {}
        if not self.folds and experiment.clock.kind != "events":
            self.sent = {name: shared(self.nodes, value) for name, value in self.received_like.items()}
            if self.up.steps and not self.has_server:
                self.exact = {name: shared(self.nodes, value) for name, value in self.received_like.items()}
        self.corrects = corrects(experiment, shared_row, self.layout)
        """Whether the aggregator is linear with a second half."""
        self.snapshots: dict[str, Tensor] = {}
        """By the clock: states as they were when local work began, in slots."""
        self.mail: dict[str, Tensor] = {}
        """By the clock: messages on their way and results not yet applied, in slots."""
        self.pending = shared_row.new_empty((0, 4))
        """By the clock: node, weight, loss and accuracy of the results in the slots."""
        if experiment.clock.kind == "events":
            needs = survey(self.operations())
            self.snapshots = {n: shared(needs.snapshots, v[0]) for n, v in self.population.state.items()}
            self.mail = {name: shared(needs.mail, value) for name, value in self.received_like.items()}
            self.pending = shared(needs.mail, shared_row.new_empty(4, dtype=as_dtype("float64")))
        self.merged = shared(1, self.resident.row)[0]
        evaluated = experiment.evaluate.nodes
        self.evaluated = self.placement.honest
        """Nodes that are measured; what hostile ones make of what they hear is nobody's concern."""
        if evaluated != "all" and int(evaluated) < len(self.evaluated):
            rng = generator(experiment.seed, "evaluated nodes")
            self.evaluated = np.sort(rng.choice(self.evaluated, size=int(evaluated), replace=False))
        self.trusted: dict[str, Tensor] = {}
        """What the server's own items make of its model in the round."""
        if experiment.root and self.population.own:
            raise ExperimentError(
                f"root = {experiment.root}: method.kind = '{self.method.kind}' keeps a state at every node, which the "
                "server's own items have none of; use a method without, such as 'fedavg'"
            )
        self.test_items = np.arange(len(self.shards.test_labels))
        count = experiment.evaluate.items
        if count != "all" and int(count) < len(self.test_items):
            rng = generator(experiment.seed, "test items")
            self.test_items = np.sort(rng.choice(len(self.test_items), size=int(count), replace=False))
        self.goals = goals_of(experiment, self.items, self.test_items, len(self.shards.classes))
        """What the success of the attack is measured on: inputs and the classes it wants them to be taken for."""

    @property
    def folds(self) -> bool:
        """Whether messages are folded into one running mean as they arrive (a server with a linear aggregator)."""
        linear = self.experiment.aggregator.linear and not self.method.gathers
        return self.has_server and linear and not self.adversary.active

    @property
    def merges(self) -> bool:
        """Whether there is one model for all to measure: the server's, or the mean of what neighbours agree on."""
        return self.method.world != "alone" and self.method.one_model

    # ---- who and when ------------------------------------------------------------------------------------------

    def participants(self, round: int) -> Array:
        """The nodes that take part in a round."""
        if self._cohort[0] != round:
            self._cohort = (round, self._drawn(round))
        return self._cohort[1]

    def _drawn(self, round: int) -> Array:
        rng = generator(self.experiment.seed, "participants", round=round)
        return self.experiment.schedule.participants(self.nodes, round, rng)

    def _heard(self) -> dict[int, int]:
        """Updates that each honest receiver hears in the first round, where that is so in all of them."""
        if self.has_server:
            return {-1: len(self.participants(0))} if self.experiment.clock.kind != "events" else {}
        if self.method.world != "graph" or self.exchanges.topology.varies or self.experiment.clock.kind == "events":
            return {}
        counts_N = np.bincount(self.exchanges.links(0)[:, 1], minlength=self.nodes) + 1
        return {node: int(counts_N[node]) for node in self.placement.honest.tolist()}

    def operations(self) -> Iterator[Operation]:
        """By the clock: what happens when."""
        return trace(self.experiment, self.nodes, self.steps_N, self.up_bytes, self.down_bytes)

    def tensors(self) -> dict[str, Tensor]:
        """The complete state of a run: the population, and by the clock all that is on its way."""
        lasting = {
            **self.population.tensors(),
            **{f"attack.{name}": rows for name, rows in self.adversary.memory.items()},
            **{f"transform.{name}": rows for name, rows in self.up.memory.items()},
            **(self.histories.tensors() if self.histories else {}),
            **({"privacy.level": self.guard.level} if follows(self.experiment) else {}),
        }
        if self.experiment.clock.kind != "events":
            return lasting
        return {
            **lasting,
            **{f"snapshot.{name}": slots for name, slots in self.snapshots.items()},
            **{f"mail.{name}": slots for name, slots in self.mail.items()},
            "pending": self.pending,
        }

    def view(self, node: int, round: int, participants: Array) -> View:
        """What the method may know at a node, or at the server (node = -1)."""
        sizes = self.shards.sizes
        samples = sizes[node] if node >= 0 else sum(sizes[int(k)] for k in participants)
        return View(node, round, self.context, samples, len(participants))

    # ---- local work --------------------------------------------------------------------------------------------

    def down(self, node: int, view: View, state: dict[str, Tensor] | None = None) -> Message:
        """What a node hears before it trains: the server's message, or its own, of now or of when it was in `state`."""
        now = self.population.state_of(0 if self.has_server else node) if state is None else state
        published = self.method.publish(now, view)
        if follows(self.experiment):
            published = {**published, "clip": self.guard.level}
        if not self.downlink.steps:
            return published
        if state is not None:
            return self.downlink.travel(published, -1, view.round)[1]
        if self._told[0] != view.round:
            sent, heard = self.downlink.travel(published, -1, view.round)
            self._told = (view.round, heard, wire.size(sent))
        return self._told[1]

    def told_bytes(self, round: int) -> Array:
        """[N] bytes of the server's message of a round to each node."""
        if not self.downlink.fixed:
            self.down(-1, self.view(-1, round, self.participants(round)))
            return np.full(self.nodes, self._told[2])
        return self.lengths.down(round, self._drawn)

    def prepare(
        self, node: int, round: int, participants: Array, state: dict[str, Tensor] | None = None
    ) -> tuple[Task, View]:
        """The task of one node, from what its receiver publishes now (or did when it was in `state`)."""
        view = self.view(node, round, participants)
        task = self.method.prepare(self.population.own_of(node), self.down(node, view, state), view)
        return self.lengths.within(task, node), view

    def model(self, node: int, view: View, state: dict[str, Tensor] | None = None) -> Task:
        """The task whose resulting row is the node's model, from what its receiver publishes (or did in `state`)."""
        task = self.method.model(self.population.own_of(node), self.down(node, view, state), view)
        return self.lengths.within(task, node)

    def finish(
        self, task: Task, result: Result, view: View, into: Message | None, exactly: bool = False
    ) -> tuple[Outcome, Message]:
        """Turn a result into the message sent (decoded, as its receiver sees it) and write what the node keeps.

        With `into` (views of shared arrays) the message is written there. `exactly`: as it is before the transforms.
        """
        node = view.node
        if self.guard.guards_changes:
            known_D = self.guard.changed(result.row - task.row, node, self.nodes, view.round, self.exchanges.links)
            result = replace(result, row=task.row + known_D)
        outbox, changed = self.method.finish(task, result, self.population.own_of(node), view)
        self.population.write_own(node, changed)
        for name, rows in self.exact.items():
            rows[node].copy_(outbox.common[name])
        # What hostile nodes make, the adversary puts on the wire.
        exactly = exactly or not self.exchanges.ends(view.round) or self._forged(node)
        self.guard.require(outbox.weight, task.steps, int(self.steps_N[node]))
        if follows(self.experiment):
            outbox = replace(outbox, common={**outbox.common, BELOW: result.row.new_zeros(1)})
        message = averaged(outbox.common) if exactly else self.travelled(outbox.common, node, view.round)
        cut = 0
        if self.seal is not None:
            cohort = len(self.participants(view.round))
            message, cut = self.seal.integers(message, outbox.weight, cohort, node, view.round)
        if into is not None:
            for name, value in message.items():
                into[name].copy_(value)
        return Outcome(node, outbox.weight, result.loss, result.accuracy, cut), message

    def local_work(
        self, node: int, round: int, participants: Array, into: Message | None = None
    ) -> tuple[Outcome, Message]:
        """Prepare, train, finish at one node. Raises NodeError with the traceback of whatever went wrong there."""
        return self._work(node, round, round, participants, into)

    def begun_work(self, work: Work) -> Outcome:
        """By the clock: prepare, train, finish from a snapshot; the result goes into its mail slot.

        On a graph it is the exact result, which the node applies itself; at a server it is what travels.
        """
        state = {name: slots[work.snapshot] for name, slots in self.snapshots.items()}
        into = {name: slots[work.result] for name, slots in self.mail.items()}
        everybody = np.arange(self.nodes)
        return self._work(work.node, work.tick, work.round, everybody, into, state, not self.has_server)[0]

    def _work(
        self,
        node: int,
        tick: int,
        round: int,
        participants: Array,
        into: Message | None,
        state: dict[str, Tensor] | None = None,
        exactly: bool = False,
    ) -> tuple[Outcome, Message]:
        """Local work whose dice are those of `tick`, in a round of the run."""
        stage = "prepare"
        try:
            task, view = self.prepare(node, tick, participants, state)
            stage = "train"
            try:
                result = self.trainer.train(task, node, tick, round)
            except NodeError as error:
                if not self.placement.is_hostile[node]:
                    raise self._under_attack(error) from None
                # A hostile node cannot end the run by what it trains on: it sends what it began from.
                result = Result(task.row, self.trainer.slots, 0, 0.0, math.nan, math.nan)
            stage = "finish"
            return self.finish(task, result, view, into, exactly)
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, node, round + 1, stage) from error

    def _under_attack(self, error: NodeError) -> NodeError:
        """An error of an honest node's training, which under attack may be the attack's doing."""
        attack, rule = self.experiment.attack.kind, self.experiment.aggregator.kind
        if not len(self.placement.hostile) or attack == "honest":
            return error
        reason = f"{error.reason}; attack.kind = '{attack}' may have done it: choose another aggregator than '{rule}'"
        return NodeError(error.node, error.round, error.stage, reason, error.traceback)

    def travelled(self, message: Message, node: int, round: int) -> Message:
        """A node's message as its receiver sees it; `round` keys its dice."""
        sent, received = self.up.travel(message, node, round)
        if not self.up.fixed:
            self.sent_bytes[node] = wire.size(travelling(self.experiment, sent, message))
        return received if self.seal is None else sent

    def send_again(self, fields: dict[str, Tensor], participants: Array, round: int) -> None:
        """Make other messages [N, ...] what the participants send."""
        for node in participants.tolist():
            message = {name: values[node] for name, values in fields.items()}
            if self.lengths.varies and "row" in message:
                message["row"] = self.lengths.cut(message["row"], node)
            for name, rows in self.exact.items():
                rows[node].copy_(message[name])
            exactly = self._forged(node)
            for name, value in (message if exactly else self.travelled(message, node, round)).items():
                self.sent[name][node].copy_(value)

    def _forged(self, node: int) -> bool:
        return self.adversary.active and bool(self.placement.is_hostile[node])

    def finished(self, mixed_D: Tensor, stats_NS: Tensor, weights: list[float], own: int | None) -> Tensor:
        """A weighted mean of models put through the second half of a linear aggregator."""
        import torch

        weights_N = torch.tensor(weights, dtype=torch.float64)
        return self.experiment.aggregator.finish(mixed_D, stats_NS, weights_N, own, self.layout)

    def train_root(self, round: int) -> None:
        """What the server's own items make of its model, as a node would send it."""
        view = View(-1, round, self.context, len(self.shards.root), 1)
        task = self.method.prepare({}, self.down(-1, view), view)
        outbox, _ = self.method.finish(task, self.trainer.train(task, -1, round), {}, view)
        self.trusted = {name: value.clone() for name, value in averaged(outbox.common).items()}

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
        hostile = receiver >= 0 and bool(self.placement.is_hostile[receiver])
        for name, value in changed.items():
            if not math.isfinite(float(value.sum())) and not hostile:
                reason = f"its '{name}' holds NaN or infinity after aggregator '{self.experiment.aggregator.kind}'"
                raise NodeError(receiver, view.round + 1, "merge", reason)

    def _trial(self, name: str, updates_ND: Tensor, round: int) -> float:
        """The accuracy, on what hostile nodes train on, of the model that the server would make of updates."""
        rule = self.experiment.aggregator.at(round, self.experiment.rounds)
        weights_N = updates_ND.new_ones(len(updates_ND), dtype=as_dtype("float64"))
        merged = rule.aggregate(updates_ND, weights_N, None, self.layout).view(self.received_like[name].shape)
        view = self.view(-1, round, self.participants(round))
        inbox = Inbox({name: merged}, len(updates_ND), float(len(updates_ND)))
        self.resident.load(self.method.merge(self.population.state_of(0), inbox, view)["row"])
        mine = np.concatenate([self.shards.items_of(node) for node in self.placement.hostile.tolist()])[:TRIAL_ITEMS]
        counts = self.trainer.measure(self.items.inputs[mine], self.items.labels[mine], len(self.shards.classes))
        return float(counts.hits_C.sum() / max(1, counts.true_C.sum()))

    def check_finite(self, round: int) -> None:
        """Raise NodeError where a row holds NaN or infinity, so that no such state is ever saved."""
        import torch

        for name, values in self.population.tensors().items():
            # Row by row, and by the sum, which is finite only if all are: no copy of the population is made.
            # What hostile nodes make of their own models is their affair.
            per_node = not (name.startswith("state.") and self.has_server)
            spared = self.placement.is_hostile if per_node else np.zeros(len(values), bool)
            sums = (
                0.0 if bad else float(row.sum(dtype=torch.float64)) for row, bad in zip(values, spared, strict=True)
            )
            bad = next((index for index, total in enumerate(sums) if not math.isfinite(total)), None)
            if bad is None:
                continue
            node = -1 if name.startswith("state.") and self.has_server else bad
            where = "the server's state" if node < 0 else "its state"
            raise NodeError(
                node, round, "merge", f"{where} '{name}' holds NaN or infinity; lower learner.lr or clip gradients"
            )
