"""Local work and evaluation, node after node, on one resident model.

Shapes: D columns of a row, T of them trainable (first), B items of a batch, C classes, L positions of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.counts import Counts
from gossamer.errors import ExperimentError, GossamerError, NodeError
from gossamer.example_gradients import PrivateSteps
from gossamer.methods import Result, Task, Terms
from gossamer.preprocessing import augment
from gossamer.privacy import Mechanism
from gossamer.randomness import generator, torch_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gossamer.experiment import Experiment
    from gossamer.learners import Learner
    from gossamer.preprocessing import Shards
    from gossamer.resident import Resident

Array = np.ndarray[Any, Any]

EVALUATION_ITEMS, EVALUATION_NUMBERS, EVALUATION_LOGITS = 512, 400_000, 8_000_000
"""Items, input numbers and logits of a batch at most when models are measured: 510 images of 28x28, 130 of 3x32x32, 30
sequences of 64 tokens of 4,096."""


def evaluation_batch(shape: tuple[int, ...], logits: int = 1) -> int:
    """Items of a batch when models are measured, from the shape of one and its number of logits: bounded, so that
    memory is."""
    most = min(EVALUATION_NUMBERS // max(1, math.prod(shape)), EVALUATION_LOGITS // logits)
    return min(EVALUATION_ITEMS, max(16, most))


def batches(seed: int, node: int, round: int, items: int, learner: Learner, steps: int | None = None) -> list[Array]:
    """The batches of one node and round: index arrays (int64) into the node's `items` training items.

    By epochs: each epoch is a fresh permutation cut into batches, the last possibly smaller. By steps: permutations
    follow one another and every batch is full (or holds all items, if there are fewer than a batch).
    """
    order, sizes = _order(generator(seed, "batches", node, round), items, learner, steps)
    return np.split(order, np.cumsum(sizes)[:-1]) if sizes else []


def _order(rng: np.random.Generator, items: int, learner: Learner, steps: int | None) -> tuple[Array, list[int]]:
    """All indices of the round in one array, and the sizes of the batches that they come in."""
    size = min(learner.batch_size, items)
    if steps is None and learner.steps is None:
        passes = 1 if learner.epochs is None else learner.epochs
        rest = items % size
        sizes = ([size] * (items // size) + ([rest] if rest else [])) * passes
    else:
        count = learner.steps_for(items) if steps is None else steps
        passes, sizes = math.ceil(count * size / items), [size] * count
    order = rng.permutation(items) if passes == 1 else _permutations(rng, items, passes)
    return order[: sum(sizes)], sizes


def _permutations(rng: np.random.Generator, items: int, passes: int) -> Array:
    return np.concatenate([rng.permutation(items) for _ in range(passes)]) if passes else np.empty(0, np.int64)


def descend(
    rows: Sequence[Tensor],
    grads: Sequence[Tensor],
    slots: Sequence[dict[str, Tensor]],
    terms: Sequence[Terms],
    learner: Learner,
    lr: float,
    moves: Sequence[Tensor] | None = None,
) -> None:
    """One step in place: clip the gradient, add the method's terms, let the learner move the row.

    A row comes in parts [..., t] that together are its trainable columns, each with its gradient, slots and terms; the
    leading dimension, if any, is the node. Gradients are not written: two of them may be the same tensor. Columns that
    `moves` leaves out have no gradient, count in no norm, and stay as they are.
    """
    if moves is not None:
        grads = [grad * moving for grad, moving in zip(grads, moves, strict=True)]
        before = [row.clone() for row in rows]
    if learner.clip_value is not None:
        grads = [grad.clamp(-learner.clip_value, learner.clip_value) for grad in grads]
    if learner.clip_norm is not None:
        squares = [grad.square().sum(-1, keepdim=True) for grad in grads]
        scale = (learner.clip_norm / (sum(squares[1:], squares[0]).sqrt() + 1e-6)).clamp(max=1.0)
        grads = [grad * scale for grad in grads]
    if "count" in slots[0]:
        slots[0]["count"].add_(1)
    for row, grad, slot, term in zip(rows, grads, slots, terms, strict=True):
        if term.proximal and term.anchor is not None:
            grad = (row - term.anchor).mul_(term.proximal).add_(grad)
        if term.drift is not None:
            grad = grad + term.drift
        learner.update(row, grad, slot, lr)
    if moves is not None:
        # Momentum of earlier rounds and weight decay do not move them either.
        for row, start, moving in zip(rows, before, moves, strict=True):
            row.copy_(start.where(~moving, row))


@dataclass(frozen=True)
class NodeItems:
    """The data as tensors, shared by all nodes of a process, and which items are whose."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    shards: Shards

    @classmethod
    def of(cls, shards: Shards) -> NodeItems:
        """Zero-copy tensors of the arrays."""
        import torch

        return cls(
            torch.from_numpy(shards.inputs),
            torch.from_numpy(shards.labels),
            torch.from_numpy(shards.test_inputs),
            torch.from_numpy(shards.test_labels),
            shards,
        )

    @cached_property
    def _ahead(self) -> dict[tuple[int, int], list[tuple[Tensor, Tensor]]]:
        """Inputs and labels of the batches of (node, round), gathered beforehand."""
        return {}

    def look_ahead(self, nodes: Array, experiment: Experiment, round: int) -> None:
        """Gather the batches of some nodes in one go, if they are small: one node after the other would do it with the
        code and the data of all the rest of its work in between, and be slower for it."""
        import torch

        self._ahead.clear()
        if experiment.privacy.guards == "gradients":
            return  # They are drawn step by step.
        numbers, learner = math.prod(self.inputs.shape[1:]), experiment.learner
        items = sum(learner.steps_for(self.shards.sizes[int(node)]) for node in nodes) * learner.batch_size
        if items * numbers > EVALUATION_NUMBERS:
            return
        drawn = [self.round_batches(experiment.seed, int(node), round, learner, None) for node in nodes]
        flat = [index for batches in drawn for index in batches]
        if not flat:
            return
        every, sizes = torch.cat(flat), [len(index) for index in flat]
        inputs = iter(torch.split(self.inputs.index_select(0, every), sizes))
        labels = iter(torch.split(self.labels.index_select(0, every), sizes))
        for node, batches in zip(nodes.tolist(), drawn, strict=True):
            self._ahead[node, round] = [(next(inputs), next(labels)) for _ in batches]

    def gathered(
        self, seed: int, node: int, round: int, learner: Learner, steps: int | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of each step of this node and round."""
        ahead = self._ahead.pop((node, round), None) if steps is None else None
        if ahead is not None:
            yield from ahead
            return
        for index in self.round_batches(seed, node, round, learner, steps):
            yield self.inputs.index_select(0, index), self.labels.index_select(0, index)

    def round_batches(self, seed: int, node: int, round: int, learner: Learner, steps: int | None) -> Sequence[Tensor]:
        """Index tensors into `inputs`, one for each step of this node and round."""
        import torch

        if self.shards.draw_NC is not None and node >= 0:
            return torch.from_numpy(self._draw(seed, node, round, learner, steps)).unbind(0)
        items = self.shards.items_of(node)
        order, sizes = _order(generator(seed, "batches", node, round), len(items), learner, steps)
        mine = torch.from_numpy(items[order])
        return [mine] if len(sizes) == 1 else torch.split(mine, sizes) if sizes else []

    @cached_property
    def _pool(self) -> tuple[Array, Array]:
        """The shared pool sorted by label, and where each label starts."""
        pool = self.shards.train[0]
        by_label = pool[np.argsort(self.shards.labels[pool], kind="stable")]
        return by_label, np.searchsorted(self.shards.labels[by_label], np.arange(len(self.shards.classes) + 1))

    def _draw(self, seed: int, node: int, round: int, learner: Learner, steps: int | None) -> Array:
        """[steps, B] items: labels from the node's own distribution, then uniform items of that label."""
        assert self.shards.draw_NC is not None
        rng = generator(seed, "batches", node, round)
        count = learner.steps_for(self.shards.sizes[node]) if steps is None else steps
        classes = self.shards.draw_NC.shape[1]
        by_label, starts = self._pool
        drawn = rng.choice(classes, size=(count, learner.batch_size), p=self.shards.draw_NC[node])
        low, high = starts[drawn], starts[drawn + 1]
        return np.asarray(by_label[low + (rng.random(drawn.shape) * (high - low)).astype(np.int64)])


@dataclass
class Tally:
    """What happened in the steps of one task."""

    steps: int = 0
    seen: int = 0
    """Labels."""
    right: float = 0
    """NaN where the model has a loss of its own, and nothing is right or wrong."""
    loss: float = 0.0
    """Sum over the labels."""


class Trainer:
    """Runs tasks and measures rows, one after the other, on one resident model."""

    def __init__(self, experiment: Experiment, resident: Resident, items: NodeItems, noise: float = 0.0) -> None:
        """`noise`: the noise multiplier z, where the experiment's privacy guards the gradient of every example."""
        import torch
        from torch.nn.functional import cross_entropy

        self.experiment, self.resident, self.items = experiment, resident, items
        self._loss, self._dice = cross_entropy, torch.default_generator
        self._own_loss = getattr(resident.module, "loss", None)
        """`loss(inputs, labels)` of a module that learns something else than its labels."""
        self._sequences = items.labels.dim() > 1
        """Whether an item has many labels, of which those below zero do not count."""
        self._trainable = resident.row[: resident.layout.trainable]
        self._slots = self.slots = experiment.learner.fresh(self._trainable)
        split = {name: resident.split(slot) for name, slot in self._slots.items() if name != "count"}
        counted = {"count": self._slots["count"]} if "count" in self._slots else {}
        self._no_terms = [Terms()] * len(resident.parts)
        self._slot_parts: list[dict[str, Tensor]] = [
            {name: parts[i] for name, parts in split.items()} | counted for i in range(len(resident.parts))
        ]
        privacy = experiment.privacy
        self._private: PrivateSteps | None = None
        if isinstance(privacy, Mechanism) and privacy.guards == "gradients":
            self._private = PrivateSteps(experiment, privacy, resident, items, noise)

    def _terms(self, terms: Terms) -> list[Terms]:
        """The terms of a task, one for each part of the row."""
        if terms.anchor is None and terms.drift is None:
            return self._no_terms
        count = len(self.resident.parts)
        anchors = [None] * count if terms.anchor is None else self.resident.split(terms.anchor)
        drifts = [None] * count if terms.drift is None else self.resident.split(terms.drift)
        return [Terms(terms.proximal, anchor, drift) for anchor, drift in zip(anchors, drifts, strict=True)]

    def train(self, task: Task, node: int, round: int, played: int | None = None) -> Result:
        """Local work of one node in one round. The result's tensors are valid until the next call.

        `round` keys the dice; the learning rate is that of `played`, the round of the run, where the two differ (by the
        clock every node counts its own).

        Raises NodeError where the loss is not finite; an exception of the user's module passes through.
        """
        experiment, resident, learner = self.experiment, self.resident, self.experiment.learner
        resident.load(task.row)
        for name, slot in self._slots.items():
            slot.zero_() if task.slots is None else slot.copy_(task.slots[name])
        lr = learner.rate(round if played is None else played, experiment.rounds)
        terms = self._terms(task.terms)
        if not resident.module.training:
            resident.module.train()
        self._dice.manual_seed(torch_seed(experiment.seed, "modules", node, round))
        steps = self._by_batches if self._private is None else self._by_examples
        moves = None if task.moves_T is None else resident.split(task.moves_T)
        tally = steps(task.steps, terms, node, round, lr, moves)
        resident.store_buffers()
        if tally.steps and not math.isfinite(self._trainable.sum().item()):
            raise NodeError(
                node, round + 1, "train", "its model holds NaN or infinity; lower learner.lr or clip gradients"
            )
        return Result(
            row=resident.row,
            slots=self._slots,
            steps=tally.steps,
            lr=lr,
            loss=tally.loss / tally.seen if tally.seen else math.nan,
            accuracy=tally.right / tally.seen if tally.seen else math.nan,
        )

    def _by_batches(
        self, steps: int | None, terms: list[Terms], node: int, round: int, lr: float, moves: Sequence[Tensor] | None
    ) -> Tally:
        """Steps along the mean gradient of a batch."""
        experiment, resident, learner = self.experiment, self.resident, self.experiment.learner
        loss_sum, correct, seen, step = 0.0, 0, 0, -1
        module = resident.module
        batches = self.items.gathered(experiment.seed, node, round, learner, steps)
        for step, (inputs, labels) in enumerate(batches):
            labels = labels.flatten()
            if experiment.preprocess.crop or experiment.preprocess.flip:
                rng = generator(experiment.seed, "augment", node, round, step)
                inputs = augment(inputs, experiment.preprocess.crop, experiment.preprocess.flip, rng)
            if self._own_loss is None:
                logits = module(inputs).flatten(0, -2)
                loss = self._loss(logits, labels, label_smoothing=learner.label_smoothing)
            else:
                logits, loss = None, self._own_loss(inputs, labels)
            grads = resident.gradients(loss)
            descend(resident.parts, grads, self._slot_parts, terms, learner, lr, moves)
            value, counted = loss.item(), len(labels)
            if self._sequences:
                counted = int(np.count_nonzero(labels.numpy() >= 0))
            if logits is not None:
                correct += int(np.count_nonzero(logits.detach().argmax(-1).numpy() == labels.numpy()))
            del grads  # The next step's can then use the same memory, which is still in cache.
            if not math.isfinite(value):
                raise NodeError(
                    node,
                    round + 1,
                    "train",
                    f"the loss is {value} at local step {step}; lower learner.lr or clip gradients",
                )
            loss_sum += value * counted
            seen += counted
        return Tally(step + 1, seen, correct if self._own_loss is None else math.nan, loss_sum)

    def _by_examples(
        self, steps: int | None, terms: list[Terms], node: int, round: int, lr: float, moves: Sequence[Tensor] | None
    ) -> Tally:
        """Private steps."""
        assert self._private is not None
        learner, items = self.experiment.learner, len(self.items.shards.items_of(node))
        tally = Tally(learner.steps_for(items) if steps is None else steps)
        rests = () if moves is None else tuple(not bool(moving.any()) for moving in moves)
        for number in range(tally.steps):
            step = self._private.step(node, round, number, rests)
            descend(self.resident.parts, step.grads, self._slot_parts, terms, learner, lr, moves)
            tally.seen += step.seen
            tally.right += step.right
            tally.loss += step.loss
        return tally

    def measure(self, inputs: Tensor, labels: Tensor, classes: int) -> Counts:
        """Counts of the model in the resident module on these items, without changing it (evaluation mode)."""
        import torch
        from torch.nn.functional import cross_entropy

        module = self.resident.module.eval()
        counts = Counts.none(classes)
        chunk = evaluation_batch(tuple(inputs.shape[1:]), math.prod(labels.shape[1:]) * classes)
        with torch.inference_mode():
            for start in range(0, len(labels), chunk):
                target = labels[start : start + chunk].flatten()
                if self._own_loss is not None:
                    loss = self._own_loss(inputs[start : start + chunk], labels[start : start + chunk])
                    counts = counts + Counts.of_loss(float(loss) * len(target), len(target), classes)
                    continue
                logits = module(inputs[start : start + chunk]).flatten(0, -2)
                if self._sequences:
                    logits, target = logits[target >= 0], target[target >= 0]
                said = logits.argmax(-1)
                binary = classes == 2
                counts = counts + Counts(
                    float(cross_entropy(logits, target, reduction="sum")),
                    torch.bincount(target[said == target], minlength=classes).numpy(),
                    torch.bincount(target, minlength=classes).numpy(),
                    torch.bincount(said, minlength=classes).numpy(),
                    (logits[:, 1] - logits[:, 0]).double().numpy() if binary else np.empty(0),
                    target.numpy() if binary else np.empty(0, np.int64),
                )
        return counts


def check_output(resident: Resident, items: NodeItems, classes: int) -> None:
    """Raise ExperimentError where the model cannot take the inputs or its output does not fit the labels."""
    import torch

    module = resident.module.eval()
    try:
        with torch.no_grad():
            logits = module(items.test_inputs[:2])
    except GossamerError:
        raise
    except Exception as error:
        raise ExperimentError(
            f"model: it cannot take inputs of shape {tuple(items.test_inputs.shape[1:])} "
            f"({items.test_inputs.dtype}): {type(error).__name__}: {error}".replace("\n", " ")
        ) from error
    if not hasattr(module, "loss"):
        check_logits(logits, tuple(items.test_labels[:2].shape), classes)


def check_logits(logits: object, labels: tuple[int, ...], classes: int) -> None:
    """Raise ExperimentError where a model's output cannot be compared with labels of a shape."""
    import torch

    if not isinstance(logits, torch.Tensor):
        raise ExperimentError(f"model: its output is a {type(logits).__name__}; it must be one tensor of logits")
    if tuple(logits.shape) != (*labels, classes):
        raise ExperimentError(
            f"model: its output has shape {list(logits.shape)} for a batch of {labels[0]}, "
            f"but the labels need {[*labels, classes]} ({classes} classes)"
        )


def check_batches(module: nn.Module, learner: Learner, sizes: tuple[int, ...], draws: bool) -> None:
    """Raise ExperimentError where a node would train on a batch of one item and the model has BatchNorm."""
    if not any(type(part).__name__.startswith(("BatchNorm", "SyncBatchNorm")) for part in module.modules()):
        return
    for node, items in enumerate(sizes):
        size = learner.batch_size if draws else min(learner.batch_size, items)
        last = items % size if learner.steps is None and not draws else 0
        if (size == 1 or last == 1) and learner.steps != 0:
            raise ExperimentError(
                f"learner.batch_size = {learner.batch_size}: node {node} with {items} items would train on a batch of "
                "one, which BatchNorm cannot; use another batch size, learner.steps, or GroupNorm"
            )
