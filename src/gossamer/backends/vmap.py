"""vmap: many nodes' steps as one batched kernel (`torch.func`), over one shared frozen part.

Pays on GPUs; on CPUs one resident model that stays in cache is usually as fast. Rounding differs from eager. Modules
that draw (dropout) or update buffers in training (BatchNorm) are refused, as is any module whose batched gradient does
not agree with eager on the first batch.

Shapes: n nodes of a chunk, S steps, B items of a batch, T trainable columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gossamer.backends import Job
from gossamer.backends.eager import measure, mix_rows
from gossamer.errors import ExperimentError, GossamerError, NodeError, node_error
from gossamer.evaluation import model_task
from gossamer.methods import Result, Task, Terms
from gossamer.preprocessing import augment
from gossamer.randomness import generator
from gossamer.training import descend

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_array
    from torch import Tensor

    from gossamer.counts import Counts
    from gossamer.federation import Federation, Outcome, Work
    from gossamer.topologies import Array
    from gossamer.wire import Message

CHUNK = 16
"""Nodes trained as one batch."""


class Vmap:
    """Trains chunks of nodes as one batch; evaluates one by one."""

    name = "vmap"
    workers = 1

    def __init__(self, federation: Federation) -> None:
        import torch

        self.federation = federation
        resident = federation.resident
        if federation.experiment.privacy.guards == "gradients":
            raise ExperimentError(
                "backend = 'vmap': per-example privacy works in 'eager' and 'parallel'; use one of these"
            )
        if any(not entry.trainable for entry in federation.layout.entries):
            raise ExperimentError(
                "backend = 'vmap': the model has buffers that change in training (BatchNorm?); use 'eager'"
            )
        if hasattr(resident.module, "loss"):
            raise ExperimentError("backend = 'vmap': the model has a loss of its own; use 'eager' or 'parallel'")
        drawing = [
            type(m).__name__
            for m in resident.module.modules()
            if "dropout" in type(m).__name__.lower() and getattr(m, "p", 1) != 0
        ]
        if drawing:
            raise ExperimentError(f"backend = 'vmap': {drawing[0]} draws random numbers; use 'eager' or 'parallel'")
        self._gradient = torch.func.vmap(torch.func.grad_and_value(self._loss, has_aux=True))
        self._agree()
        self._waiting: list[Work] = []
        self._done: dict[Work, Outcome] = {}

    def _loss(self, row_T: Tensor, inputs_B: Tensor, labels_B: Tensor, mask_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of one node over the items that count, and how many it got right."""
        import torch
        from torch.nn.functional import cross_entropy

        named = {e.name: view for e, view in self.federation.layout.views(row_T)}
        logits = torch.func.functional_call(self.federation.resident.module, named, (inputs_B,))
        each = cross_entropy(
            logits.flatten(0, -2),
            labels_B.flatten(),
            label_smoothing=self.federation.experiment.learner.label_smoothing,
            reduction="none",
        )
        counts = mask_B.unsqueeze(-1).expand(labels_B.reshape(len(mask_B), -1).shape).reshape(-1).to(each.dtype)
        counts = counts * (labels_B.flatten() >= 0)
        right = ((logits.flatten(0, -2).argmax(-1) == labels_B.flatten()) * counts).sum()
        return (each * counts).sum() / counts.sum(), right.detach()

    def first_gradients(self) -> tuple[Tensor, Tensor]:
        """(batched, eager) gradients [n, T] of the first batch of the first nodes, at the initial rows."""
        import torch
        from torch.nn.functional import cross_entropy

        federation = self.federation
        nodes = list(range(min(2, federation.nodes)))
        learner, resident, items = federation.experiment.learner, federation.resident, federation.items
        batch = [next(iter(items.round_batches(federation.experiment.seed, k, 0, learner, 1))) for k in nodes]
        width = min(len(index) for index in batch)
        index_nB = torch.stack([index[:width] for index in batch])
        rows_nT = torch.stack([model_task(federation, k, 0).row[: federation.layout.trainable] for k in nodes])
        resident.module.train()
        # Padded by one item that does not count, as short batches are: items must not see one another.
        padded = torch.cat([index_nB, index_nB[:, :1]], dim=1)
        mask = torch.arange(width + 1).expand(len(nodes), -1) < width
        batched, _ = self._gradient(rows_nT, items.inputs[padded], items.labels[padded], mask)
        eager = torch.empty_like(rows_nT)
        for i in range(len(nodes)):
            resident.row[: federation.layout.trainable].copy_(rows_nT[i])
            logits = resident.module(items.inputs[index_nB[i]]).flatten(0, -2)
            labels = items.labels[index_nB[i]].flatten()
            loss = cross_entropy(logits, labels, label_smoothing=learner.label_smoothing)
            eager[i].copy_(torch.cat(resident.gradients(loss)))
        return batched, eager

    def _agree(self) -> None:
        """Raise ExperimentError unless the batched gradient equals the eager one on the first batch."""
        import torch

        try:
            batched, eager = self.first_gradients()
        except GossamerError:
            raise
        except Exception as error:
            raise ExperimentError(
                f"backend = 'vmap': the model cannot be batched ({type(error).__name__}: {error}); use 'eager'".replace(
                    "\n", " "
                )
            ) from error
        tolerance = 1e-6 if eager.dtype == torch.float32 else 1e-12
        apart = float((batched - eager).abs().max())
        if not apart <= tolerance * max(1.0, float(eager.abs().max())):
            raise ExperimentError(
                f"backend = 'vmap': its gradient differs from eager by {apart:.1e} on the first batch; use 'eager'"
            )

    def train(self, round: int, participants: Array) -> Iterator[tuple[Outcome, Message]]:
        """Chunks of participants, each as one batch."""
        nodes = participants.tolist()
        for start in range(0, len(nodes), CHUNK):
            yield from self._chunk(nodes[start : start + CHUNK], round, participants)

    def _chunk(self, nodes: list[int], round: int, participants: Array) -> Iterator[tuple[Outcome, Message]]:
        federation = self.federation
        try:
            prepared = [federation.prepare(node, round, participants) for node in nodes]
            results = self._run([task for task, _ in prepared], nodes, round, round)
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, nodes[0], round + 1, "train") from error
        for node, (task, view), result in zip(nodes, prepared, results, strict=True):
            into = {name: rows[node] for name, rows in federation.sent.items()}
            try:
                yield federation.finish(task, result, view, into or None)
            except GossamerError:
                raise
            except Exception as error:
                raise node_error(error, node, round + 1, "finish") from error

    def mix(self, W_NN: csr_array) -> None:
        """All receivers at once."""
        mix_rows(self.federation, W_NN, 0)

    def submit(self, work: Work) -> None:
        """It waits for others, to be trained with them."""
        self._waiting.append(work)

    def collect(self, work: Work) -> Outcome:
        """Train what waits, works with the same dice and learning rate together, as many as make a batch."""
        if work not in self._done:
            alike = [w for w in self._waiting if (w.tick, w.round) == (work.tick, work.round)]
            place = alike.index(work)
            batch = alike[place - place % CHUNK :][:CHUNK]
            self._waiting = [w for w in self._waiting if w not in batch]
            self._begun(batch)
        return self._done.pop(work)

    def _begun(self, works: list[Work]) -> None:
        federation, first = self.federation, works[0]
        nodes, everybody = [work.node for work in works], np.arange(self.federation.nodes)
        try:
            prepared = []
            for work in works:
                state = {name: slots[work.snapshot] for name, slots in federation.snapshots.items()}
                prepared.append(federation.prepare(work.node, work.tick, everybody, state))
            results = self._run([task for task, _ in prepared], nodes, first.tick, first.round)
            for work, (task, view), result in zip(works, prepared, results, strict=True):
                into = {name: slots[work.result] for name, slots in federation.mail.items()}
                outcome, _ = federation.finish(task, result, view, into, exactly=not federation.has_server)
                self._done[work] = outcome
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, first.node, first.round + 1, "train") from error

    def _run(self, tasks: list[Task], nodes: list[int], round: int, played: int) -> list[Result]:
        import torch

        experiment, learner = self.federation.experiment, self.federation.experiment.learner
        T = self.federation.layout.trainable
        plans = [
            list(self.federation.items.round_batches(experiment.seed, node, round, learner, task.steps))
            for node, task in zip(nodes, tasks, strict=True)
        ]
        # Nodes with more steps first: those still working are always a prefix.
        order = sorted(range(len(tasks)), key=lambda i: -len(plans[i]))
        rows_nT = torch.stack([tasks[i].row[:T] for i in order])
        slots = learner.fresh(rows_nT)
        for place, i in enumerate(order):
            given = tasks[i].slots
            if given is not None:
                for name, slot in slots.items():
                    slot[place].copy_(given[name])
        terms = _stacked([tasks[i].terms for i in order])
        moving = [tasks[i].moves_T for i in order]
        moves_nT = torch.stack([m for m in moving if m is not None]) if moving[0] is not None else None
        lr = learner.rate(played, experiment.rounds)
        loss, right, seen = np.zeros(len(tasks)), np.zeros(len(tasks)), np.zeros(len(tasks))
        for step in range(max(map(len, plans), default=0)):
            active = [i for i in order if len(plans[i]) > step]
            a = len(active)
            inputs, labels, mask_nB = self._gather(
                [plans[i][step] for i in active], [nodes[i] for i in active], round, step
            )
            grads, (values, hits) = self._gradient(rows_nT[:a], inputs, labels, mask_nB)
            with torch.no_grad():
                part = {name: slot[:a] for name, slot in slots.items()}
                moves = None if moves_nT is None else [moves_nT[:a]]
                descend([rows_nT[:a]], [grads], [part], [_prefix(terms, a)], learner, lr, moves)
            _require_finite(values, active, nodes, round, f"the loss is {{}} at local step {step}")
            counted_nB = (labels.flatten(2) >= 0).sum(2) if labels.dim() > 2 else torch.ones_like(labels)
            items = (mask_nB * counted_nB).sum(1).numpy()
            loss[:a] += values.double().numpy() * items
            right[:a] += hits.double().numpy()
            seen[:a] += items
        _require_finite(rows_nT.sum(1), order, nodes, round, "the sum of its model is {}")
        results: dict[int, Result] = {}
        for place, i in enumerate(order):
            count = seen[place] or np.nan
            results[i] = Result(
                row=rows_nT[place],
                slots={name: slot[place] for name, slot in slots.items()},
                steps=len(plans[i]),
                lr=lr,
                loss=float(loss[place] / count),
                accuracy=float(right[place] / count),
            )
        return [results[i] for i in range(len(tasks))]

    def _gather(self, batch: list[Tensor], nodes: list[int], round: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and mask [n, B] of one step; short batches are padded with their first item, masked out."""
        import torch

        experiment, items = self.federation.experiment, self.federation.items
        width = max(len(index) for index in batch)
        index_nB = torch.stack([torch.cat([i, i[:1].expand(width - len(i))]) for i in batch])
        mask_nB = torch.stack([torch.arange(width) < len(i) for i in batch])
        inputs = items.inputs[index_nB]
        crop, flip = experiment.preprocess.crop, experiment.preprocess.flip
        if crop or flip:
            for place, (node, index) in enumerate(zip(nodes, batch, strict=True)):
                rng = generator(experiment.seed, "augment", node, round, step)
                inputs[place, : len(index)] = augment(inputs[place, : len(index)], crop, flip, rng)
        return inputs, items.labels[index_nB], mask_nB

    def evaluate(self, jobs: list[Job]) -> Iterator[tuple[Counts, Counts]]:
        """One job after the other."""
        for job in jobs:
            yield measure(self.federation, job)

    def close(self) -> None:
        """Nothing to release."""


def _require_finite(values: torch.Tensor, active: list[int], nodes: list[int], round: int, text: str) -> None:
    """Raise NodeError that names the node of the first value that is NaN or infinite."""
    for place, value in enumerate(values.tolist()):
        if not np.isfinite(value):
            reason = f"{text.format(value)}; lower learner.lr or clip gradients"
            raise NodeError(nodes[active[place]], round + 1, "train", reason)


def _stacked(terms: list[Terms]) -> Terms:
    """Terms of several nodes as one, with the node first; a method gives all its nodes the same kinds of terms."""
    import torch

    anchors = [t.anchor for t in terms if t.anchor is not None]
    drifts = [t.drift for t in terms if t.drift is not None]
    return Terms(
        terms[0].proximal,
        torch.stack(anchors) if anchors else None,
        torch.stack(drifts) if drifts else None,
    )


def _prefix(terms: Terms, count: int) -> Terms:
    return Terms(
        terms.proximal,
        None if terms.anchor is None else terms.anchor[:count],
        None if terms.drift is None else terms.drift[:count],
    )
